"""The training job: labelled images in, a model bundle out."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

import monkeyray
from monkeyray.arrays import Array
from monkeyray.console import Reporter
from monkeyray.errors import InputError
from monkeyray.images.boxes import has_boxes
from monkeyray.images.decode import Limits
from monkeyray.images.views import choose_views
from monkeyray.model.backbones import BACKBONES, load_weights, weights_hash
from monkeyray.model.bundle import Bundle, describe, save_bundle
from monkeyray.model.engine import Network
from monkeyray.model.engines import EngineChoice, choose_engine
from monkeyray.model.head import HeadLearner, scale_logits
from monkeyray.model.known_images import KnownImages, remember
from monkeyray.model.quantise import IMAGES, Quantised, check_installed, compare, quantise
from monkeyray.options import takes_options, write_options
from monkeyray.pages.report import render_report
from monkeyray.runs.cluster import (
    WorkerCount,
    check_relative,
    choose_workers,
    connected,
    run_in_fresh_process,
)
from monkeyray.runs.lease import Lease, hold
from monkeyray.runs.workers import Pool, RayPool
from monkeyray.scoring.features import FeatureCache, Features, unusable
from monkeyray.statistics.fingerprints import grey_thumbnails
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage
from monkeyray.training.assess import Assessment, assess, judge_on_validation
from monkeyray.training.dataset import Dataset, choose_images, list_dataset
from monkeyray.training.display_names import display_names
from monkeyray.training.distributed import TRAINING, Outcome, Task, below, run_training
from monkeyray.training.findings import find, to_json, with_pictures
from monkeyray.training.finetune import FineTuneLearner, check_fine_tune
from monkeyray.training.labelled_boxes import NO_BOX, NOT_LISTED
from monkeyray.training.loop import CachedSource, FitConfig
from monkeyray.training.on_the_fly import PixelSource
from monkeyray.training.options import TrainConfig, parse_head
from monkeyray.training.tracking import Tracking
from monkeyray.training.trained import Trained

#: Chooses how the head is trained by the images, and says what it did, for the bundle's metrics.
Search = Callable[[Dataset], tuple[TrainConfig, dict[str, Any]]]


@dataclass(frozen=True)
class _Job:
    """What all steps need. `uri`: the model's place; `workers`: how many that train; `embedders`:
    those of the pool that run the frozen backbone."""

    config: TrainConfig
    storage: Storage
    reporter: Reporter
    tracking: Tracking
    uri: str
    workers: int
    pool: Pool
    embedders: WorkerCount


@takes_options(TrainConfig)
def train(config: TrainConfig) -> Trained:
    """Train a new head on a frozen backbone and publish the bundle."""
    return train_with(config)


def train_with(config: TrainConfig, search: Search | None = None) -> Trained:
    """Train a new head on a frozen backbone, fine-tune it where that is asked for, and publish the
    bundle.

    `search`: called once the features are there, for the options to train the head with.

    Raises a MonkeyRayError that says what to change, before heavy work where that can be known.
    """
    reporter = config.store.reporter()
    storage = config.store.storage()
    if config.int8:
        check_installed()
    uri = normalise(config.model)
    options = ("images", "model", "test", "features", "label_names", "weights", "detections")
    for option in options:
        if option != "weights" or config.weights not in ("imagenet", "none"):
            check_relative(option.replace("_", "-"), getattr(config, option))
            if getattr(config, option) is not None:
                storage.check_reachable(normalise(getattr(config, option)))
    for given in config.corrections:
        check_relative("corrections", given)
        storage.check_reachable(normalise(given))
    images, names, skipped = list_dataset(config, storage)
    for place in (uri, *filter(None, [config.features])):
        storage.check_writable(normalise(place))
    tracking = Tracking(config, storage, reporter.say)
    backbone = load_weights(config.backbone, config.weights, storage, config.seed)
    network = Network(config.backbone, backbone, choose_views(config.crop, config.views))
    if config.fine_tune is not None:
        check_fine_tune(network, config.fine_tune)
    reporter.say(f"{images.num_rows} images of {len(set(images['label'].to_pylist()))} labels")
    for why in (NO_BOX, NOT_LISTED):
        if skipped[why]:
            reporter.say(f"{skipped[why]} images {why} are left out")
    # One training at a time goes on from the checkpoints below a model's place, and publishes.
    with hold(uri, storage, reporter.say) as lease, tracking:
        start = time.monotonic()
        with connected(config.store.ray_address, config.store.debug):
            seconds = {"ray": time.monotonic() - start}
            pool = RayPool()
            workers = choose_workers("workers", config.workers, config.gpu)
            embedders = pool.count("embed-workers", config.embed_workers, config.gpu)
            job = _Job(config, storage, reporter, tracking, uri, workers, pool, embedders)
            data = _read(job, network, images, skipped, seconds)
            searched = None
            if search is not None:
                start = time.monotonic()
                chosen, searched = search(data)
                job = replace(job, config=chosen)
                seconds["search"] = time.monotonic() - start
            tracking.begin(_identity(job, network, data), _recorded(job.config))
            network, found, figures = _learn(job, network, data, seconds)
            figures["search"] = searched
        trained = _publish(job, lease, network, data, found, figures, names, seconds)
        write_options(uri, config, storage)
        return trained


def _read(
    job: _Job,
    network: Network,
    images: pa.Table,
    skipped: Counter[str],
    seconds: dict[str, float],
) -> Dataset:
    start = time.monotonic()
    place = join(job.uri, "features")
    if job.config.features is not None:
        place = normalise(job.config.features)
    features = _embed(job, network, images, place)
    seconds["features"] = time.monotonic() - start
    return choose_images(job.config, images, features, skipped)


def _embed(
    job: _Job,
    network: Network,
    images: pa.Table,
    place: str,
    engine: EngineChoice | None = None,
) -> Features:
    gpu = job.embedders.gpu if engine is None else 0.0
    engine = engine or choose_engine(job.config.engine, "float32", gpu > 0)
    padding = job.config.box_padding if job.config.detections else None
    cache = FeatureCache(place, job.storage, network, engine, padding)
    with job.reporter.bar("embedding images") as bar:
        return cache.get(
            images,
            limits=Limits(),
            pool=job.pool,
            workers=replace(job.embedders, gpu=gpu),
            say=job.reporter.say,
            progress=bar,
        )


def _learn(
    job: _Job, network: Network, data: Dataset, seconds: dict[str, float]
) -> tuple[Network, Assessment, dict[str, Any]]:
    """The network with its head, perhaps tuned, its assessment, and the figures of its epochs."""
    start = time.monotonic()
    config = job.config
    head = _train_head(job, network, data)
    seconds["head"] = head.seconds
    network = replace(
        network,
        head_weights=head.weights,
        head_widths=parse_head(config.head),
        labels=len(data.labels),
    )
    figures = head.figures | {"fine_tuning": None}
    vectors = data.vectors
    if config.fine_tune is not None:
        network, vectors, figures["fine_tuning"], tuning_seconds = _fine_tune(
            job, network, data, vectors, config.fine_tune
        )
        seconds["head"] += tuning_seconds
    assert network.head_weights is not None
    found = assess(data, vectors, network.head_weights, head.folds, config.target_precision)
    seconds["training"] = time.monotonic() - start
    figures["int8"] = None
    if config.int8:
        start = time.monotonic()
        network, figures["int8"] = _quantise(job, network, data, vectors, found)
        seconds["int8"] = time.monotonic() - start
    return network, found, figures


def _train_head(job: _Job, network: Network, data: Dataset) -> Outcome:
    config = job.config
    source = CachedSource(data.vectors.mean(axis=1))
    fit_config, make_learner = head_training(config, len(data.labels))
    task = Task(
        fit_config, data.splits, make_learner, source, data.folds, job.tracking.stage("head")
    )
    return _run(job, task, _identity(job, network, data) | {"head": parse_head(config.head)})


def head_training(config: TrainConfig, labels: int) -> tuple[FitConfig, Callable[[], HeadLearner]]:
    """How the head of so many labels is trained, and what makes it."""
    head = parse_head(config.head)
    seed = config.seed if config.head_seed is None else config.head_seed
    fit_config = FitConfig(
        epochs=config.epochs,
        patience=config.patience or (5 if head else 10),
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or (3e-4 if head else 3e-3),
        l2=(0.0 if head else 1e-3) if config.l2 is None else config.l2,
        seed=seed,
        checkpoint_seconds=config.checkpoint_seconds,
    )
    width = BACKBONES[config.backbone].width
    return fit_config, functools.partial(HeadLearner, width, head, labels, seed)


def _embed_all(
    job: _Job, network: Network, images: pa.Table, engine: EngineChoice | None = None
) -> Array:
    """Features of images by a network that has none kept, for as long as the training lasts."""
    features = _embed(job, network, images, join(job.uri, TRAINING, "features"), engine)
    if bad := unusable(features):
        raise InputError(
            f"{bad.total()} images could be read before and cannot be now ({', '.join(bad)}): "
            "run the same command again"
        )
    return features.vectors


def _fine_tune(
    job: _Job, network: Network, data: Dataset, vectors: Array, layers: str
) -> tuple[Network, Array, dict[str, Any], float]:
    """The network tuned and its features, or as it was where that is no better; the figures of the
    tuning, and its seconds."""
    job.reporter.say(f"fine-tuning: {layers} of {network.backbone}")
    assert network.head_weights is not None
    before = judge_on_validation(data, vectors, network.head_weights)
    # From calibrated logits, so that an epoch cannot be better by being surer alone.
    start = scale_logits(network.head_weights, 1 / before["temperature"])
    tuned = _run_fine_tuning(job, replace(network, head_weights=start), data, layers)
    figures = tuned.figures | {
        "layers": layers,
        "diverged": tuned.state.diverged,
        "before": before,
        "after": None,
        "kept": False,
    }
    if tuned.state.best_epoch:
        backbone, head = (below(tuned.weights, split) for split in ("backbone", "head"))
        other = replace(network, backbone_weights=backbone, head_weights=head)
        its_vectors = _embed_all(job, other, data.images)
        after = judge_on_validation(data, its_vectors, head)
        better = after["loss"] < before["loss"] and after["accuracy"] >= before["accuracy"]
        figures |= {"after": after, "kept": better}
        if better:
            return other, its_vectors, figures, tuned.seconds
    return network, vectors, figures, tuned.seconds


def _run_fine_tuning(job: _Job, network: Network, data: Dataset, layers: str) -> Outcome:
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
        _pixels(job, network, data),
        tracked=job.tracking.stage("fine_tuning"),
        name="fine-tuning",
    )
    assert network.head_weights is not None
    start = {"head": weights_hash(network.head_weights), "layers": layers}
    return _run(job, task, _identity(job, network, data) | start)


def _quantise(
    job: _Job, network: Network, data: Dataset, vectors: Array, found: Assessment
) -> tuple[Network, dict[str, Any]]:
    """The network with its backbone in int8 too, and what that does to the test images."""
    count = max(1, IMAGES // len(network.views))
    some = np.random.default_rng(job.config.seed).permutation(data.splits.train)[:count]
    job.reporter.say(f"quantising {network.backbone} to int8 on {len(some)} training images")
    made: Quantised = run_in_fresh_process(
        job.reporter.say, quantise, network, _pixels(job, network, data).reader(np.sort(some))
    )
    network = replace(network, int8=made.arrays)
    test = data.splits.test
    its = vectors[test]
    if len(test):
        images = data.images.take(pa.array(test))
        its = _embed_all(job, network, images, EngineChoice("openvino", "int8"))
    assert network.head_weights is not None
    temperature = found.calibration[str(len(network.views))]["temperature"]
    figures = compare(
        network.head_weights, temperature, vectors[test], its, data.splits.truth[test]
    )
    return network, figures | made.to_json() | {"calibrated_on": len(some)}


def _pixels(job: _Job, network: Network, data: Dataset) -> PixelSource:
    seed = job.config.seed if job.config.augment else None
    boxes = None
    if has_boxes(data.images.column_names):
        boxes = np.array(data.images["detection_bbox"].to_pylist(), np.float32)
    return PixelSource(
        data.uris, network.size, network.views, job.storage, seed, boxes, job.config.box_padding
    )


def _identity(job: _Job, network: Network, data: Dataset) -> dict[str, Any]:
    """What decides the weights beside the settings of the loop."""
    config = job.config
    return {
        "data": data.data["fingerprint"],
        # Which image is drawn and how it is changed goes by its place in the list.
        "order": fingerprint(data.table["sha256"].to_pylist()),
        "seed": config.seed,
        "backbone": weights_hash(network.backbone_weights),
        "views": list(network.views),
        "class_weights": config.class_weights,
        "augment": config.augment,
        "folds": config.folds,
        **({"boxes": data.data["boxes"]} if config.detections else {}),
    }


def _run(job: _Job, task: Task, identity: dict[str, Any]) -> Outcome:
    return run_training(
        task, identity, job.uri, job.storage, job.workers, job.config.gpu, job.reporter
    )


def _publish(
    job: _Job,
    lease: Lease,
    network: Network,
    data: Dataset,
    found: Assessment,
    figures: dict[str, Any],
    names: dict[str, str],
    seconds: dict[str, float],
) -> Trained:
    config = job.config
    outliers = found.outliers.to_arrays()
    model = describe(
        network,
        labels=[
            {"index": i, "label": label, "name": names.get(label)}
            for i, label in enumerate(data.labels)
        ],
        outliers=outliers,
        calibration=found.calibration,
        rest={
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_source": _source_name(config.weights),
            "training": _recorded(config),
            "data": data.data,
            "metrics": figures | found.metrics,
            "packages": _packages(),
        },
    )
    test = None if config.test is None else normalise(config.test)
    called = display_names(data.uris.tolist(), normalise(config.images), test)
    findings = find(data, found, called)
    places = dict(zip(called, data.uris.tolist(), strict=True))
    page = render_report(model, with_pictures(findings, places, job.storage))
    assert network.head_weights is not None
    bundle = Bundle(model, network.backbone_weights, network.head_weights, outliers, network.int8)
    lease.check()
    figures_json = to_json(model, findings)
    save_bundle(job.uri, job.storage, bundle, page, figures_json, _remember(data))
    # Those of other options too: under the lease nobody is at work there.
    job.storage.delete_tree(join(job.uri, TRAINING))
    job.tracking.finish(model, {"report.html": page, "metrics.json": figures_json})
    return Trained(job.uri, model, data.data["opened"], seconds)


def _remember(data: Dataset) -> KnownImages:
    rows = data.table.filter(pa.array(data.names != "test"))
    return remember(rows["sha256"].to_pylist(), grey_thumbnails(rows["thumbnail"]))


# -- what the bundle says ----------------------------------------------------------------------


def _source_name(weights: str) -> str:
    # A path of the machine that trained says nothing to others; the file's name may.
    return weights if weights in ("imagenet", "none") else weights.rsplit("/", 1)[-1]


def _recorded(config: TrainConfig) -> dict[str, Any]:
    """The options that made the model, without places and how it was printed."""
    places = (
        "images", "model", "test", "corrections", "detections", "label_names", "features",
        "weights", "store",
    )  # fmt: skip
    tracking = ("tensorboard", "mlflow", "mlflow_experiment")
    return {key: value for key, value in asdict(config).items() if key not in (*places, *tracking)}


def _packages() -> dict[str, str]:
    names = ("keras", "numpy", "pillow", "pyarrow", "ray", "tensorflow")
    found = {name: _version(name) for name in names}
    return {
        "monkeyray": monkeyray.__version__,
        "python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
