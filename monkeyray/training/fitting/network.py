"""The network of a training: loaded, given a head, fine-tuned, assessed and quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.errors import ConfigError
from monkeyray.images.views import choose_views
from monkeyray.model.backbones import ONNX, Weights, load_weights
from monkeyray.model.engines.choice import EngineChoice, choose_engine
from monkeyray.model.engines.onnx import load_onnx, takes_batches
from monkeyray.model.engines.quantise import IMAGES, Quantised, check_installed, compare, quantise
from monkeyray.model.network import Network
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.assess import (
    OUT_OF_FOLD,
    VALIDATION,
    Assessment,
    assess,
    learning_curve,
)
from monkeyray.training.dataset import Dataset
from monkeyray.training.fitting.distributed import below
from monkeyray.training.fitting.fine_tuning import check_fine_tune, fine_tune
from monkeyray.training.fitting.head import train_head
from monkeyray.training.fitting.pixels import pixel_source
from monkeyray.training.job import Job
from monkeyray.training.options import TrainConfig, parse_head


@dataclass(frozen=True)
class TrainedNetwork:
    """The network with its head, its assessment, and `figures`: the bundle's metrics that are not
    in the assessment."""

    network: Network
    assessment: Assessment
    figures: dict[str, Any]


def load_network(config: TrainConfig, storage: Storage) -> Network:
    """Load the frozen backbone. Raises ConfigError if the weights or --fine-tune do not fit it, if
    an ONNX file cannot be used, or if a package that --int8 needs is not installed."""
    if config.int8:
        check_installed()
    if config.is_onnx:
        return _load_onnx(config, storage)
    weights = load_weights(config.backbone, config.weights, storage, config.seed)
    network = Network(config.backbone, weights, choose_views(config.crop, config.views))
    if config.fine_tune is not None:
        check_fine_tune(network, config.fine_tune)
    return network


def _load_onnx(config: TrainConfig, storage: Storage) -> Network:
    place = Location.parse(config.backbone)
    choose_engine(config.engine, "float32", config.gpu, onnx=True)
    weights, spec = load_onnx(place, storage, config.input_size, config.pixels, config.pool)
    network = Network(ONNX, weights, choose_views(config.crop, config.views), onnx=spec)
    if config.int8 and not takes_batches(network):
        raise ConfigError(
            f"--int8: {place} takes one image at a time: export it with a dynamic batch, or drop "
            "--int8"
        )
    return network


def train_network(job: Job, network: Network, data: Dataset) -> TrainedNetwork:
    """Train the head, fine-tune and quantise as the options say, and assess the result."""
    config, vectors, source = job.config, data.vectors, OUT_OF_FOLD
    with job.timed("training"):
        trained = train_head(job, network, data)
        job.seconds["head"] = trained.seconds
        figures = trained.figures | {"fine_tuning": None, "int8": None}
        *folds, head = (below(trained.weights, str(x)) for x in range(data.folds.count + 1))
        fold_heads = dict(enumerate(folds))
        figures["learning_curve"] = learning_curve(data, trained.weights, fold_heads)
        network = replace(
            network,
            head_weights=head,
            head_widths=parse_head(config.head),
            labels=len(data.labels),
        )
        if config.fine_tune is not None:
            start = replace(network, head_weights=fold_heads[0])
            tuned, vectors, found = fine_tune(job, start, data, config.fine_tune)
            figures["fine_tuning"] = found
            if found["kept"] and tuned.head_weights is not None:
                network, head, source = tuned, tuned.head_weights, VALIDATION
                fold_heads = {0: head}
        assessment = assess(data, vectors, head, fold_heads, source, config.target_precision)
    if config.int8:
        with job.timed("int8"):
            network, figures["int8"] = _quantise(
                job, network, data, vectors, assessment, fold_heads
            )
    return TrainedNetwork(network, assessment, figures)


def _quantise(
    job: Job,
    network: Network,
    data: Dataset,
    vectors: Array,
    found: Assessment,
    fold_heads: Mapping[int, Weights],
) -> tuple[Network, dict[str, Any]]:
    """The network with its int8 backbone, and the effect of int8 on images that the head was not
    trained on: the test images, or else the first fold with its fold head."""
    count = max(1, IMAGES // len(network.views))
    learned = np.flatnonzero(~data.test)
    some = np.random.default_rng(job.config.seed).permutation(learned)[:count]
    job.reporter.say(f"quantising {network.backbone} to int8 on {len(some)} training images")
    source = pixel_source(job.config, job.storage, network, data).reader(np.sort(some))
    made: Quantised = job.trainer.call(quantise, network, source)
    network = replace(network, int8=made.arrays)
    assert network.head_weights is not None
    tested = data.test.any()
    images = np.flatnonzero(data.test) if tested else data.folds.held_out(1)
    head = network.head_weights if tested else fold_heads[0]
    rows = data.images.take(pa.array(images))
    quantised = job.features(network, rows, EngineChoice("openvino", "int8"))
    temperature = found.calibration[str(len(network.views))]["temperature"]
    figures = compare(head, temperature, vectors[images], quantised, data.folds.truth[images])
    return network, figures | made.to_json() | {"calibrated_on": len(some)}
