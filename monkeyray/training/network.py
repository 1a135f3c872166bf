"""The network of a training: loaded, given a head, fine-tuned, assessed and quantised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.images.views import choose_views
from monkeyray.model.backbones import load_weights
from monkeyray.model.engines import EngineChoice
from monkeyray.model.network import Network
from monkeyray.model.quantise import IMAGES, Quantised, check_installed, compare, quantise
from monkeyray.runs.cluster import run_in_fresh_process
from monkeyray.storage.store import Storage
from monkeyray.training.assess import Assessment, assess
from monkeyray.training.dataset import Dataset
from monkeyray.training.fine_tuning import check_fine_tune, fine_tune
from monkeyray.training.head import train_head
from monkeyray.training.job import Job
from monkeyray.training.options import TrainConfig, parse_head
from monkeyray.training.pixels import pixel_source


@dataclass(frozen=True)
class TrainedNetwork:
    """The network with its head, the assessment of it, and `figures`: the metrics of a bundle that
    the assessment does not have."""

    network: Network
    assessment: Assessment
    figures: dict[str, Any]


def load_network(config: TrainConfig, storage: Storage) -> Network:
    """The frozen backbone of a training. Raises ConfigError if the weights or --fine-tune do not
    fit it, or if --int8 needs what is not installed."""
    if config.int8:
        check_installed()
    weights = load_weights(config.backbone, config.weights, storage, config.seed)
    network = Network(config.backbone, weights, choose_views(config.crop, config.views))
    if config.fine_tune is not None:
        check_fine_tune(network, config.fine_tune)
    return network


def train_network(job: Job, network: Network, data: Dataset) -> TrainedNetwork:
    """Train the head, fine-tune and quantise as the options say, and assess the result."""
    config, vectors = job.config, data.vectors
    with job.timed("training"):
        head = train_head(job, network, data)
        job.seconds["head"] = head.seconds
        network = replace(
            network,
            head_weights=head.weights,
            head_widths=parse_head(config.head),
            labels=len(data.labels),
        )
        figures = head.figures | {"fine_tuning": None, "int8": None}
        if config.fine_tune is not None:
            network, vectors, figures["fine_tuning"] = fine_tune(
                job, network, data, config.fine_tune
            )
        assert network.head_weights is not None
        assessment = assess(
            data, vectors, network.head_weights, head.folds, config.target_precision
        )
    if config.int8:
        with job.timed("int8"):
            network, figures["int8"] = _quantise(job, network, data, vectors, assessment)
    return TrainedNetwork(network, assessment, figures)


def _quantise(
    job: Job, network: Network, data: Dataset, vectors: Array, found: Assessment
) -> tuple[Network, dict[str, Any]]:
    """The network with its int8 backbone, and the effect of int8 on the test images."""
    count = max(1, IMAGES // len(network.views))
    some = np.random.default_rng(job.config.seed).permutation(data.splits.train)[:count]
    job.reporter.say(f"quantising {network.backbone} to int8 on {len(some)} training images")
    source = pixel_source(job.config, job.storage, network, data).reader(np.sort(some))
    made: Quantised = run_in_fresh_process(job.reporter.say, quantise, network, source)
    network = replace(network, int8=made.arrays)
    test = data.splits.test
    quantised = vectors[test]
    if len(test):
        images = data.images.take(pa.array(test))
        quantised = job.features(network, images, EngineChoice("openvino", "int8"))
    assert network.head_weights is not None
    temperature = found.calibration[str(len(network.views))]["temperature"]
    truth = data.splits.truth[test]
    figures = compare(network.head_weights, temperature, vectors[test], quantised, truth)
    return network, figures | made.to_json() | {"calibrated_on": len(some)}
