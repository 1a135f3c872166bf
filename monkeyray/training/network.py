"""From features to a finished network: the head, fine-tuning, the assessment and int8."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.images.views import choose_views
from monkeyray.model.backbones import BACKBONES, load_weights, weights_hash
from monkeyray.model.engines import EngineChoice
from monkeyray.model.head import scale_logits
from monkeyray.model.network import Network
from monkeyray.model.quantise import IMAGES, Quantised, compare, quantise
from monkeyray.runs.cluster import run_in_fresh_process
from monkeyray.storage.store import Storage
from monkeyray.training.assess import Assessment, assess, assess_validation
from monkeyray.training.dataset import Dataset
from monkeyray.training.distributed import Outcome, Task, below
from monkeyray.training.job import Job
from monkeyray.training.head import FineTuneLearner, HeadLearner, check_fine_tune
from monkeyray.training.loop import CachedSource, FitConfig
from monkeyray.training.options import TrainConfig, parse_head


@dataclass(frozen=True)
class Learned:
    """The network with its head, the assessment of it, and `figures`: the metrics of a bundle that
    the assessment does not have."""

    network: Network
    assessment: Assessment
    figures: dict[str, Any]


def load_network(config: TrainConfig, storage: Storage) -> Network:
    """The frozen backbone of a training. Raises ConfigError if the weights or --fine-tune do not
    fit it."""
    weights = load_weights(config.backbone, config.weights, storage, config.seed)
    network = Network(config.backbone, weights, choose_views(config.crop, config.views))
    if config.fine_tune is not None:
        check_fine_tune(network, config.fine_tune)
    return network


def learn(job: Job, network: Network, data: Dataset) -> Learned:
    """Train the head, fine-tune and quantise as the options say, and assess the result."""
    config, vectors = job.config, data.vectors
    with job.timed("training"):
        head = _train_head(job, network, data)
        job.seconds["head"] = head.seconds
        network = replace(
            network,
            head_weights=head.weights,
            head_widths=parse_head(config.head),
            labels=len(data.labels),
        )
        figures = head.figures | {"fine_tuning": None, "int8": None}
        if config.fine_tune is not None:
            network, vectors, figures["fine_tuning"] = _fine_tune(
                job, network, data, config.fine_tune
            )
        assert network.head_weights is not None
        assessment = assess(
            data, vectors, network.head_weights, head.folds, config.target_precision
        )
    if config.int8:
        with job.timed("int8"):
            network, figures["int8"] = _quantise(job, network, data, vectors, assessment)
    return Learned(network, assessment, figures)


def _train_head(job: Job, network: Network, data: Dataset) -> Outcome:
    fit_config, make_learner = head_training(job.config, len(data.labels))
    source, stage = CachedSource(data.vectors.mean(axis=1)), job.tracking.stage("head")
    task = Task(fit_config, data.splits, make_learner, source, data.folds, stage)
    return job.run(task, job.identity(network, data) | {"head": parse_head(job.config.head)})


def head_training(config: TrainConfig, labels: int) -> tuple[FitConfig, Callable[[], HeadLearner]]:
    """How a head for this many labels is trained, and what makes its learner."""
    widths = parse_head(config.head)
    seed = config.seed if config.head_seed is None else config.head_seed
    fit_config = FitConfig(
        epochs=config.epochs,
        patience=config.patience or (5 if widths else 10),
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or (3e-4 if widths else 3e-3),
        l2=(0.0 if widths else 1e-3) if config.l2 is None else config.l2,
        seed=seed,
        checkpoint_seconds=config.checkpoint_seconds,
    )
    width = BACKBONES[config.backbone].width
    return fit_config, functools.partial(HeadLearner, width, widths, labels, seed)


def _fine_tune(
    job: Job, network: Network, data: Dataset, layers: str
) -> tuple[Network, Array, dict[str, Any]]:
    """The fine-tuned network and its features, or the given one if it was no worse; and the
    figures of the fine-tuning."""
    job.reporter.say(f"fine-tuning: {layers} of {network.backbone}")
    assert network.head_weights is not None
    before = assess_validation(data, data.vectors, network.head_weights)
    # From calibrated logits, so that more confidence alone does not make an epoch better.
    start = scale_logits(network.head_weights, 1 / before["temperature"])
    tuned = _run_fine_tuning(job, replace(network, head_weights=start), data, layers)
    job.seconds["head"] += tuned.seconds
    figures = tuned.figures | {
        "layers": layers,
        "diverged": tuned.state.diverged,
        "before": before,
        "after": None,
        "kept": False,
    }
    if tuned.state.best_epoch:
        backbone, head = (below(tuned.weights, name) for name in ("backbone", "head"))
        other = replace(network, backbone_weights=backbone, head_weights=head)
        vectors = job.features(other, data.images)
        after = assess_validation(data, vectors, head)
        better = after["loss"] < before["loss"] and after["accuracy"] >= before["accuracy"]
        figures |= {"after": after, "kept": better}
        if better:
            return other, vectors, figures
    return network, data.vectors, figures


def _run_fine_tuning(job: Job, network: Network, data: Dataset, layers: str) -> Outcome:
    config = job.config
    task = Task(
        FitConfig(
            epochs=config.fine_tune_epochs,
            patience=config.patience or 5,
            batch_size=config.batch_size,
            learning_rate=config.fine_tune_rate,
            l2=0.0,
            seed=config.seed,
            checkpoint_seconds=config.checkpoint_seconds,
            keep_start=True,
        ),
        data.splits,
        functools.partial(FineTuneLearner, network, layers),
        job.pixels(network, data),
        tracked=job.tracking.stage("fine_tuning"),
        name="fine-tuning",
    )
    assert network.head_weights is not None
    start = {"head": weights_hash(network.head_weights), "layers": layers}
    return job.run(task, job.identity(network, data) | start)


def _quantise(
    job: Job, network: Network, data: Dataset, vectors: Array, found: Assessment
) -> tuple[Network, dict[str, Any]]:
    """The network with its int8 backbone, and the effect of int8 on the test images."""
    count = max(1, IMAGES // len(network.views))
    some = np.random.default_rng(job.config.seed).permutation(data.splits.train)[:count]
    job.reporter.say(f"quantising {network.backbone} to int8 on {len(some)} training images")
    source = job.pixels(network, data).reader(np.sort(some))
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
