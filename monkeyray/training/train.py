"""The training job: labelled images to a model bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from monkeyray.console import counted
from monkeyray.images.listing import say_notes
from monkeyray.model.quantise import check_installed
from monkeyray.options import takes_options, write_options
from monkeyray.runs.cluster import check_relative
from monkeyray.runs.lease import hold
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.dataset import Dataset, choose_images, list_dataset
from monkeyray.training.job import open_job
from monkeyray.training.listing import NO_BOX, NOT_LISTED
from monkeyray.training.network import learn, load_network
from monkeyray.training.options import TrainConfig
from monkeyray.training.publish import publish, recorded
from monkeyray.training.tracking.driver import Tracking
from monkeyray.training.summary import Trained

#: Chooses from the images how the head is trained, and returns what it did for the metrics.
Search = Callable[[Dataset], tuple[TrainConfig, dict[str, Any]]]


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
    if config.int8:
        check_installed()
    _check_inputs(config, storage)
    images, names, skipped = list_dataset(config, storage)
    for place in (config.model, *filter(None, [config.features])):
        storage.check_writable(Location.parse(place))
    tracking = Tracking(config, storage, reporter.say)
    network = load_network(config, storage)
    reporter.say(
        f"{counted(images.num_rows, 'image')} of {len(set(images['label'].to_pylist()))} labels"
    )
    say_notes(skipped, reporter.say)
    for why in (NO_BOX, NOT_LISTED):
        if skipped[why]:
            reporter.say(f"left out, {why}: {counted(skipped[why], 'image')}")
    # One training at a time continues the checkpoints below a model's place, and publishes.
    with hold(Location.parse(config.model), storage, reporter.say) as lease, tracking:
        with open_job(config, storage, reporter, tracking) as job:
            with job.timed("features"):
                features = job.cached_features(network, images)
            data = choose_images(config, images, features, skipped)
            searched = None
            if search is not None:
                with job.timed("search"):
                    chosen, searched = search(data)
                job = replace(job, config=chosen)
            tracking.begin(job.identity(network, data), recorded(job.config))
            learned = learn(job, network, data)
            learned.figures["search"] = searched
        trained = publish(job, lease, data, learned, names)
        write_options(trained.uri, config, storage)
        return trained


def _check_inputs(config: TrainConfig, storage: Storage) -> None:
    """Raise ConfigError for a place that workers could not reach, before anything is read."""
    places = {
        name: getattr(config, name)
        for name in ("images", "model", "test", "features", "label_names", "detections")
    }
    if config.weights not in ("imagenet", "none"):
        places["weights"] = config.weights
    given = [*places.items(), *(("corrections", each) for each in config.corrections)]
    for option, place in given:
        check_relative(option.replace("_", "-"), place)
        if place is not None:
            storage.check_reachable(Location.parse(place))
