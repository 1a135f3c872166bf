"""The options of score, rescore and evaluate."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from monkeyray.errors import ConfigError
from monkeyray.images.views import COUNTS
from monkeyray.options import (
    PADDING,
    SELDOM,
    Place,
    StoreConfig,
    check_detections,
    check_engine,
    check_precision,
    flag,
    require,
)
from monkeyray.storage.location import join, normalise


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score all images of a collection with a model bundle; write predictions as Parquet."""

    GROUPS: ClassVar = {
        "Places": ("images", "model", "predictions", "include", "exclude", "limit"),
        "Boxes": ("detections", "detection_threshold", "box_padding"),
        "Rows": ("top_k", "threshold", "views", "embeddings"),
        "Resuming and restarting": ("update", "retry_failed", "overwrite", "dry_run"),
        "Machines": ("workers", "gpu", "engine", "precision", "rows_per_file"),
        SELDOM: (
            "model_id",
            "batch_size",
            "max_bytes",
            "max_pixels",
            "decode_seconds",
            "max_refused",
        ),
    }

    images: Place
    """Folder or prefix with images at any depth, or a CSV or Parquet manifest with a uri column."""

    model: Place
    """The model bundle to score with."""

    predictions: Place
    """Folder or prefix for the Parquet files. Rerun the same command to resume."""

    model_id: str | None = None
    """Refuse any model but the one with this id (or at least its first 8 digits)."""

    include: tuple[str, ...] = ()
    """Score only images that match one of these globs, by their path below --images, such as *.jpg
    or site-1/*; * also matches /. In a manifest, by their URI."""

    exclude: tuple[str, ...] = ()
    """Skip images that match one of these globs."""

    detections: Place | None = None
    """MegaDetector results (JSON) for these images. The crop of each animal is scored, one row per
    box; people, vehicles and blank images get a row without a label."""

    detection_threshold: float | None = None
    """Minimum confidence of boxes in --detections, 0 to 1. Default: typical_detection_threshold in
    the file, or else 0.2."""

    box_padding: float = PADDING
    """Margin around a box on each side, as a share of its longer side."""

    views: int | None = None
    """Number of views of an image to average over. Default: as the model was trained; fewer are
    faster."""

    top_k: str = "5"
    """Number of labels listed in each row with their scores, or all."""

    threshold: float | None = None
    """Minimum score to be `accepted` rather than `below_threshold`, 0 to 1. Default: the model's
    own thresholds, from --target-precision."""

    embeddings: bool = False
    """Also write the backbone's features of each image, as a list of float32."""

    batch_size: int = 32
    """Images per batch of the network."""

    workers: int | None = None
    """Processes that decode and predict. Default: one per CPU core; with --gpu, up to 8 per GPU as
    cores allow."""

    gpu: bool = False
    """Predict on GPUs."""

    engine: str = "auto"
    """Inference engine: tensorflow, openvino (fastest on CPUs), or auto: openvino if it is
    installed and no GPU is used, otherwise tensorflow."""

    precision: str = "float32"
    """float32; mixed (float16 on GPUs, bfloat16 on CPUs: faster on hardware that supports it,
    scores change in the third digit); or int8 (OpenVINO on CPUs, the fastest, for models trained
    with --int8, whose report shows the effect on labels)."""

    rows_per_file: int = 4096
    """Maximum images per Parquet file. A killed run loses at most the files being written."""

    max_bytes: int = 256 * 2**20
    """Larger files are not read; their status is `too_large`."""

    max_pixels: int = 150_000_000
    """Images with more pixels (width x height) are not decoded; their status is `too_large`."""

    decode_seconds: float = 60.0
    """Time limit for decoding an image, in seconds; its status is then `timeout`."""

    max_refused: int = 1000
    """Stop after this many consecutive missing or forbidden images; the path or the credentials are
    probably wrong."""

    limit: int | None = None
    """Score only the first of the images, at most this many."""

    update: bool = False
    """List the images again and score those that are new or changed. Rows of images that are gone
    are kept and counted."""

    retry_failed: bool = False
    """Retry images with status missing, forbidden, crashed or timeout."""

    overwrite: bool = False
    """Delete everything in --predictions and start over."""

    dry_run: bool = False
    """Count the images, score a few, estimate the time and stop. Nothing is kept."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        predictions = normalise(self.predictions)
        for name in ("images", "model", "detections"):
            place = getattr(self, name)
            if place is not None and join(normalise(place), "").startswith(join(predictions, "")):
                raise ConfigError(
                    f"--{name} {getattr(self, name)} is in --predictions {self.predictions}, where "
                    "files are written and deleted: give --predictions a folder of its own"
                )
        check_detections(self.detections, self.detection_threshold, self.box_padding)
        parse_top_k(self.top_k, 1)
        check_engine(self.engine)
        check_precision(self.precision)
        for name in ("batch_size", "rows_per_file", "max_bytes", "max_pixels", "max_refused"):
            require(getattr(self, name) >= 1, flag(name), getattr(self, name), "1 or more")
        for name in ("workers", "limit"):
            value = getattr(self, name)
            require(value is None or value >= 1, flag(name), value, "1 or more")
        require(self.decode_seconds > 0, "decode-seconds", self.decode_seconds, "above 0")
        for name in ("update", "retry_failed"):
            if getattr(self, name) and self.overwrite:
                raise ConfigError(
                    f"--{flag(name)} keeps existing rows and --overwrite deletes them: give one"
                )
        views = self.views
        require(
            views is None or views in COUNTS, "views", views,
            f"one of {', '.join(map(str, COUNTS))}",
        )  # fmt: skip
        threshold = self.threshold
        require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """Score predictions made with --embeddings again, with another head, temperature or threshold
    on the same backbone, without opening an image."""

    predictions: Place
    """The finished predictions to score again; not modified."""

    model: Place
    """The model bundle to score with. It must have the same backbone, --crop and number of --views
    as the original one."""

    output: Place
    """Folder or prefix for the new Parquet files, one for each old one. Rerun the same command to
    resume."""

    model_id: str | None = None
    """Refuse any model but the one with this id (or at least its first 8 digits)."""

    top_k: str = "5"
    """Number of labels listed in each row with their scores, or all."""

    threshold: float | None = None
    """Minimum score to be `accepted` rather than `below_threshold`, 0 to 1. Default: the model's
    own thresholds, from --target-precision."""

    workers: int | None = None
    """Processes, each working on one file at a time. Default: one per CPU core."""

    overwrite: bool = False
    """Delete everything in --output and start over."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        output = join(normalise(self.output), "")
        for name in ("predictions", "model"):
            place = join(normalise(getattr(self, name)), "")
            if place.startswith(output) or (name == "predictions" and output.startswith(place)):
                raise ConfigError(
                    f"one of --{name} {getattr(self, name)} and --output {self.output} is in the "
                    "other, and files are written and deleted in --output: give it a folder of its "
                    "own"
                )
        parse_top_k(self.top_k, 1)
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        threshold = self.threshold
        require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a model on labelled images that it has not seen, such as those of another site:
    either --model on --images, or finished --predictions against a table of --labels."""

    output: Place
    """Folder or prefix for metrics.json, which is overwritten."""

    images: Place | None = None
    """Labelled images for --model: a folder or prefix with one sub-folder per label, or a CSV or
    Parquet manifest with the columns uri and label."""

    model: Place | None = None
    """The model bundle to evaluate. Optional with --predictions, where it tells labels that the
    model never predicted from those it does not know."""

    predictions: Place | None = None
    """Finished predictions to compare with --labels; no image is opened."""

    labels: Place | None = None
    """CSV or Parquet table with the columns uri and label, for --predictions."""

    features: Place | None = None
    """Cache of the backbone's features, so that a second call opens no image. Default: features/ in
    --output."""

    views: int | None = None
    """Number of views of an image to average over. Default: as the model was trained."""

    workers: int | None = None
    """Processes that decode and predict. Default: one per CPU core; with --gpu, up to 8 per GPU as
    cores allow."""

    gpu: bool = False
    """Predict on GPUs."""

    engine: str = "auto"
    """Inference engine: tensorflow, openvino (fastest on CPUs), or auto: openvino if it is
    installed and no GPU is used, otherwise tensorflow."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        check_engine(self.engine)
        given = {
            name
            for name in ("images", "model", "predictions", "labels")
            if getattr(self, name) is not None
        }
        if given - {"model"} not in ({"images"}, {"predictions", "labels"}) or (
            given == {"images"}
        ):
            raise ConfigError(
                "evaluate needs --model and --images, or --predictions and --labels; given: "
                + (" and ".join(f"--{name}" for name in sorted(given)) or "none of them")
            )
        if self.predictions is not None and (self.features is not None or self.views is not None):
            raise ConfigError(
                "--features and --views require --images; --predictions are evaluated as they are"
            )
        for name in ("output", "features", *given):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        if self.predictions is not None:
            place = join(normalise(self.predictions), "")
            if join(normalise(self.output), "").startswith(place):
                raise ConfigError(
                    f"--output {self.output} is in --predictions {self.predictions}, where no "
                    "other files may be: give --output a folder of its own"
                )
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        require(
            self.views is None or self.views in COUNTS, "views", self.views,
            f"one of {', '.join(map(str, COUNTS))}",
        )  # fmt: skip


def parse_top_k(top_k: str, labels: int) -> int:
    """The number of labels to list with --top-k, for a model with `labels` labels.

    >>> parse_top_k("5", 10), parse_top_k("5", 3), parse_top_k("all", 10)
    (5, 3, 10)
    """
    if top_k == "all":
        return labels
    require(
        re.fullmatch("[0-9]{1,9}", top_k) is not None and int(top_k) >= 1,
        "top-k", repr(top_k), "a number from 1, or all",
    )  # fmt: skip
    return min(int(top_k), labels)
