"""The training job: labelled images in, a model bundle out."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import monkeyray
from monkeyray.backbones import BACKBONES, Weights, import_keras, load_weights
from monkeyray.bundle import Bundle, describe, save_bundle
from monkeyray.cluster import (
    check_relative,
    check_shared,
    choose_workers,
    connected,
    quiet_data,
    wait_for_workers,
)
from monkeyray.config import TrainConfig, parse_head
from monkeyray.decode import Limits
from monkeyray.duplicates import group_images
from monkeyray.engine import Network
from monkeyray.errors import ClusterError, ConfigError, InputError, MonkeyRayError
from monkeyray.features import FeatureCache, Features, unusable
from monkeyray.fingerprints import thumbnails
from monkeyray.fit import CachedSource, FitConfig, Parts, State, fit
from monkeyray.images import list_labelled, read_label_names
from monkeyray.lease import Lease, hold
from monkeyray.metrics import evaluate, summarise
from monkeyray.pipeline import cause
from monkeyray.progress import Reporter
from monkeyray.report import render_report
from monkeyray.runs import fingerprint
from monkeyray.splits import PARTS, Split, split_images
from monkeyray.storage import Storage
from monkeyray.uris import is_local, join, normalise

_LIMITS = Limits()


@dataclass(frozen=True)
class Trained:
    """What a training did. `seconds`: by stage. `opened`: images that were decoded for it."""

    uri: str
    model: dict[str, Any]
    opened: int
    seconds: dict[str, float]

    @property
    def test_accuracy(self) -> float:
        """Share of the test images whose label was found."""
        return float(self.model["metrics"]["test"]["accuracy"])

    def __str__(self) -> str:
        data, metrics = self.model["data"], self.model["metrics"]
        lines = [
            f"{data['used']} of {data['images']} images used, {self.opened} opened"
            f" ({data['duplicate_images']} are copies of another)",
            f"trained {metrics['epochs_run']} epochs, kept epoch {metrics['best_epoch']}"
            f" ({self.seconds['head']:.1f} s; features {self.seconds['features']:.1f} s,"
            f" Ray {self.seconds['ray'] + self.seconds['training'] - self.seconds['head']:.1f} s)",
            f"test accuracy {self.test_accuracy:.4f} on {metrics['test']['images']} images,"
            f" validation {metrics['validation']['accuracy']:.4f}",
        ]
        for status, count in data["unusable"].items():
            lines.insert(1, f"{count} images could not be used: {status}")
        if data["leaks"]:
            clean = metrics["test"]["without_leaks"]
            figure = f"without them accuracy is {clean['accuracy']:.4f}" if clean else "all of them"
            lines.append(f"{data['leaks']} test images are also in another part; {figure}")
        return "\n".join(
            [
                *lines,
                f"model  {self.model['model_id'][:12]} in {self.uri}",
                f"report {join(self.uri, 'report.html')}",
            ]
        )


def train(config: TrainConfig) -> Trained:
    """Train a new top on a frozen base and publish the bundle.

    Raises a MonkeyRayError that says what to change, before heavy work where that can be known.
    """
    reporter = Reporter(config.store.quiet)
    storage = config.store.storage()
    uri = normalise(config.model)
    for option in ("images", "model", "test", "features", "label_names", "weights"):
        if option != "weights" or config.weights not in ("imagenet", "none"):
            check_relative(option.replace("_", "-"), getattr(config, option))
            if getattr(config, option) is not None:
                storage.check_reachable(normalise(getattr(config, option)))
    images, names, notes = _list(config, storage)
    for place in (uri, *filter(None, [config.features])):
        storage.check_writable(normalise(place))
    base = load_weights(config.backbone, config.weights, storage, config.seed)
    network = Network(config.backbone, base)
    reporter.say(f"{images.num_rows} images of {len(set(images['label'].to_pylist()))} labels")

    # One training at a time goes on from the checkpoints below a model's place, and publishes.
    with hold(uri, storage, reporter.say) as lease:
        return _train(config, storage, reporter, lease, network, images, names, notes)


def _train(
    config: TrainConfig,
    storage: Storage,
    reporter: Reporter,
    lease: Lease,
    network: Network,
    images: pa.Table,
    names: dict[str, str],
    skipped: Counter[str],
) -> Trained:
    uri = lease.place
    start = time.monotonic()
    with connected(config.store.ray_address, config.store.debug):
        seconds = {"ray": time.monotonic() - start}
        quiet_data()
        workers = choose_workers("workers", config.workers, config.gpu)
        embedders = choose_workers("embed-workers", config.embed_workers, config.gpu)
        check_shared(storage, *_places(config, uri))
        start = time.monotonic()
        features = _features(config, storage, network, images, embedders, reporter)
        seconds["features"] = time.monotonic() - start
        images, features, data = _choose(config, images, features, skipped)
        labels = sorted(set(images["label"].to_pylist()))
        parts = _parts(images, labels)
        start = time.monotonic()
        top, fitted, logits = _fit(
            config, storage, uri, network, images, features, parts, data, workers
        )
        seconds["head"] = fitted["fit_seconds"]
        seconds["training"] = time.monotonic() - start
    metrics = _metrics(fitted, logits, parts, labels, np.array(images["leaked"]))
    model = describe(
        backbone=config.backbone,
        labels=[
            {"index": i, "label": label, "name": names.get(label)} for i, label in enumerate(labels)
        ],
        head=parse_head(config.head),
        base=network.base,
        top=top,
        rest={
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_source": _source_name(config.weights),
            "training": _recorded(config),
            "data": data,
            "metrics": metrics,
            "packages": _packages(),
        },
    )
    lease.check()
    save_bundle(uri, storage, Bundle(model, network.base, top), render_report(model))
    # Those of other options too: under the lease nobody is at work there.
    storage.delete_tree(join(uri, _TRAINING))
    return Trained(uri, model, data["opened"], seconds)


def _list(config: TrainConfig, storage: Storage) -> tuple[pa.Table, dict[str, str], Counter[str]]:
    """All images with `label`, `given` part and `group`, and the labels' names."""
    skipped: Counter[str] = Counter()
    table = _tagged(list_labelled(config.images, storage, skipped), None)
    if config.test is not None:
        test = _tagged(list_labelled(config.test, storage, skipped), "test")
        both = set(table["uri"].to_pylist()) & set(test["uri"].to_pylist())
        if both:
            raise InputError(
                f"--test {config.test} and --images {config.images} have {len(both)} files in "
                f"common, such as {min(both)}: give places that do not overlap"
            )
        table = pa.concat_tables([table, test])
    labels = set(table["label"].to_pylist())
    if len(labels) < 2:
        raise InputError(
            f"{config.images} has the one label {next(iter(labels))!r}: a classifier needs two or "
            "more, each in a sub-folder of its own"
        )
    names = read_label_names(config.label_names, storage) if config.label_names else {}
    if names and not set(names) & labels:
        raise InputError(
            f"--label-names {config.label_names} names none of the labels, such as "
            f"{min(labels)!r}: its column 'label' must hold the labels"
        )
    if config.limit is not None:
        table = _limit(table, config.limit, config.seed)
    _check_split(config, table)
    return table, names, skipped


def _check_split(config: TrainConfig, images: pa.Table) -> None:
    """Refuse before any image is opened what no content of the images could mend."""
    groups = group_images(images["uri"].to_pylist(), None, images["group"].to_pylist())
    try:
        _split(config, images, groups)
    except InputError as error:
        if config.limit is None:
            raise
        raise InputError(f"{error} (with --limit {config.limit})") from error


def _split(config: TrainConfig, images: pa.Table, groups: np.ndarray[Any, Any]) -> Split:
    return split_images(
        images["label"].to_pylist(),
        groups,
        images["given"].to_pylist(),
        config.validation_share,
        config.test_share,
        config.seed,
    )


def _tagged(table: pa.Table, part: str | None) -> pa.Table:
    columns = {name: table[name] for name in ("uri", "size_bytes", "version", "label")}
    empty = pa.nulls(table.num_rows, pa.string())
    if part is not None:
        columns["given"] = pa.array([part] * table.num_rows, pa.string())
    else:
        columns["given"] = table["split"] if "split" in table.column_names else empty
    columns["group"] = table["group"] if "group" in table.column_names else empty
    return pa.table(columns)


def _limit(table: pa.Table, limit: int, seed: int) -> pa.Table:
    """Some images, label by label in turn, so that a short trial has them all."""
    labels = np.array(table["label"].to_pylist(), dtype=object)
    turn = np.empty(len(labels), np.int64)
    for number, label in enumerate(sorted(set(labels))):
        its = np.flatnonzero(labels == label)
        turn[np.random.default_rng([seed, number]).permutation(its)] = np.arange(len(its))
    return table.take(np.sort(np.argsort(turn, kind="stable")[:limit]))


def _places(config: TrainConfig, uri: str) -> tuple[dict[str, str], dict[str, str]]:
    inputs = {
        option: normalise(value)
        for option, value in (("images", config.images), ("test", config.test))
        if value is not None
    }
    outputs = {"model": uri}
    if config.features is not None:
        outputs["features"] = normalise(config.features)
    return inputs, outputs


def _features(
    config: TrainConfig,
    storage: Storage,
    network: Network,
    images: pa.Table,
    workers: int,
    reporter: Reporter,
) -> Features:
    place = join(normalise(config.model), "features")
    if config.features is not None:
        place = normalise(config.features)
    # Live training needs no features, but what is a duplicate must be known to split.
    cache = FeatureCache(place, storage, network, embed=not config.live)
    with reporter.bar("reading images" if config.live else "embedding images") as bar:
        return cache.get(
            images,
            limits=_LIMITS,
            workers=workers,
            gpu=config.gpu and not config.live,
            progress=bar,
            before=functools.partial(wait_for_workers, gpu=config.gpu and not config.live),
        )


def _choose(
    config: TrainConfig, images: pa.Table, features: Features, skipped: Counter[str]
) -> tuple[pa.Table, Features, dict[str, Any]]:
    """The usable images with their `part`, their features, and the counts for the bundle."""
    bad = unusable(features)
    statuses = features.table["status"].to_pylist()
    usable = np.array([status == "ok" for status in statuses])
    if not usable.any():
        raise InputError(f"none of the {images.num_rows} images can be read: {dict(bad)}")
    kept, rows = images.filter(pa.array(usable)), features.table.filter(pa.array(usable))
    by_label: dict[str, Counter[str]] = {}
    for label, status in zip(images["label"].to_pylist(), statuses, strict=True):
        by_label.setdefault(label, Counter())[status] += 1
    for label, its in sorted(by_label.items()):
        if "ok" not in its:
            reasons = ", ".join(f"{count} {status}" for status, count in its.most_common())
            raise InputError(
                f"none of the {its.total()} images of label {label!r} can be read ({reasons}): "
                "replace them or drop it"
            )
    vectors = None if features.vectors is None else features.vectors[usable]
    contents = rows["sha256"].to_pylist()
    groups = group_images(contents, thumbnails(rows["thumbnail"]), kept["group"].to_pylist())
    labels = kept["label"].to_pylist()
    split = _split(config, kept, groups)
    kept = kept.append_column("part", pa.array(split.parts.tolist(), pa.string()))
    kept = kept.append_column("leaked", pa.array(split.leaked))
    counts = Counter(zip(labels, split.parts.tolist(), strict=True))
    sizes = Counter(groups.tolist())
    data = {
        "images": images.num_rows,
        "used": kept.num_rows,
        "opened": images.num_rows - features.found,
        "unusable": dict(bad),
        "skipped_files": {why: number for why, number in skipped.items() if number},
        "parts": {part: int((split.parts == part).sum()) for part in PARTS},
        "by_label": {
            label: {part: counts[label, part] for part in PARTS} for label in sorted(set(labels))
        },
        "duplicate_groups": sum(size > 1 for size in sizes.values()),
        "duplicate_images": sum(size - 1 for size in sizes.values()),
        "leaks": int(split.leaked.sum()),
        "fingerprint": fingerprint(
            sorted(zip(contents, labels, split.parts.tolist(), strict=True))
        ),
    }
    return kept, Features(rows, vectors, features.found), data


def _parts(images: pa.Table, labels: list[str]) -> Parts:
    index = {label: i for i, label in enumerate(labels)}
    truth = np.array([index[label] for label in images["label"].to_pylist()], np.int64)
    part = np.array(images["part"].to_pylist())
    return Parts(truth, *(np.flatnonzero(part == name) for name in PARTS))


# -- Ray Train ---------------------------------------------------------------------------------

_TRAINING = ".training"

#: So often Ray Train starts the workers anew before the job gives up.
_FAILURES = 3


@dataclass(frozen=True)
class Task:
    """What every Ray Train worker gets. Without `vectors` it trains live, from `uris`."""

    fit: FitConfig
    parts: Parts
    vectors: Any
    uris: list[str] | None
    network: Network | None
    storage: Storage


def _fit(
    config: TrainConfig,
    storage: Storage,
    uri: str,
    network: Network,
    images: pa.Table,
    features: Features,
    parts: Parts,
    data: dict[str, Any],
    workers: int,
) -> tuple[Weights, dict[str, Any], dict[str, Any]]:
    """Train with Ray Train; returns the top's weights, the figures of its epochs and its logits."""
    import_keras()  # quietly, before Ray Train loads TensorFlow
    import ray
    import ray.train
    from ray.train.tensorflow import TensorflowTrainer
    from safetensors.numpy import load_file

    wait_for_workers(workers, config.gpu)
    head = parse_head(config.head)
    settings = FitConfig(
        features=BACKBONES[config.backbone].width,
        labels=len(set(images["label"].to_pylist())),
        head=head,
        epochs=config.epochs,
        patience=config.patience,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or (3e-4 if head else 5e-3),
        l2=config.l2,
        seed=config.seed,
        checkpoint_seconds=config.checkpoint_seconds,
    )
    task = Task(
        settings,
        parts,
        features.vectors,
        images["uri"].to_pylist() if config.live else None,
        network if config.live else None,
        storage,
    )
    if is_local(uri):
        filesystem, path = None, join(uri, _TRAINING)
    else:
        filesystem, path = storage.arrow(join(uri, _TRAINING))
    # The same command has the same name, and so goes on from the checkpoint that it finds there.
    name = fingerprint([asdict(settings), data["fingerprint"], config.live, workers])[:16]
    trainer = TensorflowTrainer(
        _worker,
        train_loop_config={"task": ray.put(task)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=config.gpu,
            # Less than a core each, so that Ray Data's tasks always find room.
            resources_per_worker={"CPU": 0.5, **({"GPU": 1} if config.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise _failure(error, join(uri, _TRAINING, name)) from error
    if result.return_value is not None:
        storage.delete_tree(join(uri, _TRAINING, name))  # it would only diverge again
        raise result.return_value
    with result.checkpoint.as_directory() as folder:
        state = State.load(Path(folder))
        arrays = load_file(Path(folder) / "result.safetensors")
    top = {
        key.removeprefix("top/"): array.astype(np.float32)
        for key, array in arrays.items()
        if key.startswith("top/")
    }
    figures = {
        "best_epoch": state.best_epoch,
        "epochs_run": state.epoch,
        "history": state.history,
        "resumed_from": state.resumed_from,
        "fit_seconds": float(arrays["seconds"][0]),
    }
    return top, figures, {name: arrays[name] for name in ("validation", "test")}


def _failure(error: BaseException, place: str) -> BaseException:
    """What to tell of a training that Ray Train gave up: one line."""
    inner = [*getattr(error, "worker_failures", {}).values()]
    inner.append(getattr(error, "controller_failure", error))
    for each in inner:
        if isinstance(found := cause(each), MonkeyRayError):
            return found
    reason = next(iter(str(inner[0]).splitlines()), "")[:200]
    return ClusterError(
        f"the training failed {_FAILURES + 1} times, at last with {type(inner[0]).__name__}: "
        f"{reason.rstrip('.')}; the same command goes on from the checkpoint in {place}, and "
        "--debug shows more"
    )


def _worker(options: dict[str, Any]) -> MonkeyRayError | None:
    """One Ray Train worker: restore, fit, report.

    Returns the error of a training that diverged, on all workers alike: Ray Train would try again
    what it raises.
    """
    import os

    import ray
    import ray.train
    from safetensors.numpy import save_file

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    task: Task = ray.get(options["task"])
    import_keras()
    import tensorflow as tf

    # Workers on one node share its cores instead of fighting for them.
    threads = max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    if task.vectors is not None:
        source: Any = CachedSource(task.vectors)
    else:
        from monkeyray.live import LiveSource

        assert task.uris is not None
        assert task.network is not None
        source = LiveSource(task.uris, task.network, task.storage, _LIMITS)

    def report(state: State, extra: dict[str, Any] | None = None) -> None:
        metrics = dict(state.history[-1])
        if rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            state.save(Path(folder))
            if extra is not None:
                save_file(extra, Path(folder) / "result.safetensors")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    resume = None
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            resume = State.load(Path(folder))
    start = time.monotonic()
    try:
        fitted = fit(
            task.fit,
            task.parts,
            source,
            strategy=strategy,
            rank=rank,
            world=world,
            resume=resume,
            checkpoint=report,
        )
    except ConfigError as error:
        return error
    extra = {
        **{f"top/{key}": np.ascontiguousarray(value) for key, value in fitted.weights.items()},
        "validation": fitted.validation_logits,
        "test": fitted.test_logits,
        "seconds": np.array([time.monotonic() - start]),
    }
    report(fitted.state, extra)
    return None


# -- what the bundle says ----------------------------------------------------------------------


def _metrics(
    figures: dict[str, Any],
    logits: dict[str, Any],
    parts: Parts,
    labels: list[str],
    leaked: np.ndarray[Any, Any],
) -> dict[str, Any]:
    test = evaluate(logits["test"], parts.truth[parts.test], labels)
    clean = ~leaked[parts.test]
    test["without_leaks"] = None
    if not clean.all() and clean.any():
        test["without_leaks"] = summarise(logits["test"][clean], parts.truth[parts.test][clean])
    return {
        "best_epoch": figures["best_epoch"],
        "epochs_run": figures["epochs_run"],
        "history": figures["history"],
        "resumed_from": figures["resumed_from"],
        "validation": summarise(logits["validation"], parts.truth[parts.validation]),
        "test": test,
    }


def _source_name(weights: str) -> str:
    # A path of the machine that trained says nothing to others; the file's name may.
    return weights if weights in ("imagenet", "none") else weights.rsplit("/", 1)[-1]


def _recorded(config: TrainConfig) -> dict[str, Any]:
    """The options that made the model, without places and how it was printed."""
    places = ("images", "model", "test", "label_names", "features", "weights", "store")
    return {key: value for key, value in asdict(config).items() if key not in places}


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
