"""The options of scoring, and of what is done with predictions and models then."""

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
    """Score every image of a collection with a model bundle, and write predictions to Parquet."""

    GROUPS: ClassVar = {
        "Places": ("images", "model", "predictions", "include", "exclude", "limit"),
        "Boxes": ("detections", "detection_threshold", "box_padding"),
        "What a row says": ("top_k", "threshold", "views", "embeddings"),
        "Going on and starting anew": ("update", "retry_failed", "overwrite", "dry_run"),
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
    """Folder or prefix with images at any depth, or a CSV or Parquet manifest with a column uri."""

    model: Place
    """The model bundle to score with."""

    predictions: Place
    """Folder or prefix for the Parquet files. The same command goes on where it was stopped."""

    model_id: str | None = None
    """Refuse any other model than the one with this id (or its first 8 digits or more)."""

    include: tuple[str, ...] = ()
    """Score only what one of these globs matches: paths below --images, as *.jpg or site-1/*; *
    goes through folders too. Of a manifest, whole URIs."""

    exclude: tuple[str, ...] = ()
    """Leave out what one of these globs matches."""

    detections: Place | None = None
    """MegaDetector's results (JSON) for these images: the crop of each box of an animal is scored,
    a row a box; people, vehicles and blanks get a row that says so and no label."""

    detection_threshold: float | None = None
    """Confidence from which a box of --detections counts, 0 to 1. Default: what the file gives as
    typical_detection_threshold, else 0.2."""

    box_padding: float = PADDING
    """What is seen around a box, on each side, as a share of its longer side."""

    views: int | None = None
    """Over how many views of an image scores are averaged. Default: as the model was trained; fewer
    are faster."""

    top_k: str = "5"
    """How many labels with their scores each row lists: a number, or all."""

    threshold: float | None = None
    """Score from which a prediction is `accepted`, else it is `below_threshold`; 0 to 1. Default:
    the thresholds that the model was given by --target-precision."""

    embeddings: bool = False
    """Write the backbone's features of each image too, as a list of float32."""

    batch_size: int = 32
    """Images that go through the network at a time."""

    workers: int | None = None
    """Processes that decode and predict. Default: one per CPU core. With --gpu they share the GPUs,
    up to 8 on each, as far as there are cores."""

    gpu: bool = False
    """Predict on GPUs."""

    engine: str = "auto"
    """What runs the network: tensorflow, openvino (on CPUs, the fastest there), or auto: openvino
    where it is installed and no GPU is used, else tensorflow."""

    precision: str = "float32"
    """float32, mixed (float16 on GPUs and bfloat16 on CPUs; faster where the hardware has it, and
    scores change in the third digit), or int8 (by OpenVINO on CPUs, the fastest, for models that
    were trained with --int8, whose report says what it does to the labels)."""

    rows_per_file: int = 4096
    """Images in one Parquet file at most. A killed run loses at most the files being made."""

    max_bytes: int = 256 * 2**20
    """Larger files are not read but get a row `too_large`."""

    max_pixels: int = 150_000_000
    """Images with more pixels (width x height) are not decoded but get a row `too_large`."""

    decode_seconds: float = 60.0
    """Seconds after which an image that is still being decoded gets a row `timeout`."""

    max_refused: int = 1000
    """Stop when this many images in sequence are missing or forbidden: it is rather the
    credentials or the place than the images."""

    limit: int | None = None
    """Score this many images at most, the first of the list."""

    update: bool = False
    """List the images again, and score what is new or has changed since a finished or stopped run.
    Images that have vanished keep their rows and are reported."""

    retry_failed: bool = False
    """Score again what was missing, forbidden, crashed or timeout."""

    overwrite: bool = False
    """Delete what is in --predictions and start anew."""

    dry_run: bool = False
    """Count the images, score a few, estimate the time, and stop. Nothing is kept."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        predictions = normalise(self.predictions)
        for name in ("images", "model", "detections"):
            place = getattr(self, name)
            if place is not None and join(normalise(place), "").startswith(join(predictions, "")):
                raise ConfigError(
                    f"--{name} {getattr(self, name)} is in --predictions {self.predictions}, where "
                    "files are written and deleted: give --predictions a place of its own"
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
                    f"--{flag(name)} keeps what is there and --overwrite deletes it: give one"
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
    """Score predictions that were written with --embeddings again, by another head, temperature or
    threshold on the same backbone, without opening an image."""

    predictions: Place
    """The finished predictions to score again; they are only read."""

    model: Place
    """The model bundle to score with: the original one, or one with the same backbone, --crop and
    as many --views."""

    output: Place
    """Folder or prefix for the new Parquet files, one for each old one. The same command goes on
    where it was stopped."""

    model_id: str | None = None
    """Refuse any other model than the one with this id (or its first 8 digits or more)."""

    top_k: str = "5"
    """How many labels with their scores each row lists: a number, or all."""

    threshold: float | None = None
    """Score from which a prediction is `accepted`, else it is `below_threshold`; 0 to 1. Default:
    the thresholds that the model was given by --target-precision."""

    workers: int | None = None
    """Processes at work, each on a file at a time. Default: one per CPU core."""

    overwrite: bool = False
    """Delete what is in --output and start anew."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        output = join(normalise(self.output), "")
        for name in ("predictions", "model"):
            place = join(normalise(getattr(self, name)), "")
            if place.startswith(output) or (name == "predictions" and output.startswith(place)):
                raise ConfigError(
                    f"--{name} {getattr(self, name)} and --output {self.output} are one in the "
                    "other, and files are written and deleted in --output: give it a place of its "
                    "own"
                )
        parse_top_k(self.top_k, 1)
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        threshold = self.threshold
        require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a model on labelled images that it has not seen, as of another site: either --model
    on --images, or finished --predictions against a table of --labels."""

    output: Place
    """Folder or prefix for metrics.json, which replaces an older one."""

    images: Place | None = None
    """Labelled images for --model: a folder or prefix whose sub-folders are the labels, or a CSV or
    Parquet manifest with the columns uri and label."""

    model: Place | None = None
    """The model bundle to measure. With --predictions it may be left out; it tells the labels that
    the model knows and has never found."""

    predictions: Place | None = None
    """Finished predictions to compare with --labels. No image is opened."""

    labels: Place | None = None
    """CSV or Parquet table with the columns uri and label, for --predictions."""

    features: Place | None = None
    """Where the features of the backbone are kept, so that a second call opens no image. Default:
    features/ below --output."""

    views: int | None = None
    """Over how many views of an image scores are averaged. Default: as the model was trained."""

    workers: int | None = None
    """Processes that decode and predict. Default: one per CPU core. With --gpu they share the GPUs,
    up to 8 on each, as far as there are cores."""

    gpu: bool = False
    """Predict on GPUs."""

    engine: str = "auto"
    """What runs the network: tensorflow, openvino (on CPUs, the fastest there), or auto: openvino
    where it is installed and no GPU is used, else tensorflow."""

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
                "evaluate needs --model and --images, or --predictions and --labels; it was given "
                + (" and ".join(f"--{name}" for name in sorted(given)) or "none of them")
            )
        if self.predictions is not None and (self.features is not None or self.views is not None):
            raise ConfigError(
                "--features and --views are for --images: --predictions are measured as they are"
            )
        for name in ("output", "features", *given):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        if self.predictions is not None:
            place = join(normalise(self.predictions), "")
            if join(normalise(self.output), "").startswith(place):
                raise ConfigError(
                    f"--output {self.output} is in --predictions {self.predictions}, where a "
                    "strange file is in the way: give --output a place of its own"
                )
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        require(
            self.views is None or self.views in COUNTS, "views", self.views,
            f"one of {', '.join(map(str, COUNTS))}",
        )  # fmt: skip


def parse_top_k(top_k: str, labels: int) -> int:
    """How many of a model's `labels` each row lists that `--top-k` names.

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
