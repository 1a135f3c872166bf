"""The training job: labelled images to a model bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from monkeyray.console import Reporter, counted
from monkeyray.options import takes_options
from monkeyray.options_file import write_options
from monkeyray.runs.indexing import indexed_on_cluster
from monkeyray.runs.lease import hold
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.dataset import Dataset, choose_images, identify
from monkeyray.training.fitting.distributed import MachineTrainer
from monkeyray.training.fitting.network import load_network, train_network
from monkeyray.training.job import Job, open_job, start_process
from monkeyray.training.listing import check_places, list_dataset, say_skipped
from monkeyray.training.options import TrainConfig
from monkeyray.training.publish import publish, recorded
from monkeyray.training.summary import Trained
from monkeyray.training.tracking.driver import Tracking

#: Chooses from the images how the head is trained, and returns what it did for the metrics.
Search = Callable[[Job, Dataset], tuple[TrainConfig, dict[str, Any]]]


@takes_options(TrainConfig)
def train(config: TrainConfig) -> Trained:
    """Train a new head on a frozen backbone and publish the bundle."""
    return train_with(config)


def train_with(config: TrainConfig, search: Search | None = None) -> Trained:
    """Train a head on a frozen backbone, fine-tune if asked to, and publish the bundle.

    `search`: called with the features, for the options of the head. Raises a MonkeyRayError that
    says what to change, before heavy work if that can be known.
    """
    storage, reporter = config.store.storage(), config.store.reporter()
    check_places(config, storage)
    with (
        start_process(config) as machine,
        indexed_on_cluster(
            config.store, storage, reporter.say, config.workers, config.gpu
        ) as storage,
    ):
        return _train(config, search, storage, reporter, machine)


def _train(
    config: TrainConfig,
    search: Search | None,
    storage: Storage,
    reporter: Reporter,
    machine: MachineTrainer | None,
) -> Trained:
    images, names, skipped = list_dataset(config, storage)
    tracking = Tracking(config, storage, reporter.say)
    network = load_network(config, storage)
    reporter.say(
        f"{counted(images.num_rows, 'image')} of {len(set(images['label'].to_pylist()))} labels"
    )
    say_skipped(skipped, reporter.say)
    # One training at a time continues the checkpoints below a model's place, and publishes.
    with hold(Location.parse(config.model), storage, reporter.say) as lease, tracking:
        with open_job(config, storage, reporter, tracking, machine) as job:
            with job.timed("features"):
                features = job.cached_features(network, images)
            data = choose_images(config, images, features, skipped)
            searched = None
            if search is not None:
                with job.timed("search"):
                    chosen, searched = search(job, data)
                job = replace(job, config=chosen)
            tracking.begin(identify(job.config, network, data), recorded(job.config))
            trained = train_network(job, network, data)
            trained.figures["search"] = searched
        published = publish(job, lease, data, trained, names)
        write_options(published.uri, config, storage)
        return published
