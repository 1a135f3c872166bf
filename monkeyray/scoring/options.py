"""The options of score, rescore and evaluate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from monkeyray.errors import ConfigError
from monkeyray.images.views import COUNTS
from monkeyray.labels.options import LABEL_FIELDS, LabelOptions
from monkeyray.options import (
    SELDOM,
    Count,
    Engine,
    JobConfig,
    OneOf,
    Place,
    Precision,
    Range,
    Share,
    check_outside,
    flag,
    require,
)

#: The default of --box-padding. Detectors' boxes fit the animal tightly. With a tenth more on each
#: side it fills 0.83 of the crop, about as much as objects do in the images of ImageNet.
PADDING = 0.1


@dataclass(frozen=True, kw_only=True)
class BoxConfig(JobConfig):
    """The options about MegaDetector's boxes."""

    detections: Place | None = None
    """MegaDetector results (JSON) for these images. Scores the crop of each animal's box, one row
    per box; people, vehicles and blanks get a row without a label."""

    detection_threshold: Share | None = None
    """Lowest confidence of boxes to use. Default: the file's typical_detection_threshold, or
    0.2."""

    box_padding: Annotated[float, Range(0, 10)] = PADDING
    """Margin to add on each side of a box, as a share of its longer side."""

    @property
    def has_boxes(self) -> bool:
        """Whether the crops of boxes are used instead of whole images."""
        return self.detections is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold = self.detection_threshold
        useless = {
            "detection-threshold": self.detections is None and threshold is not None,
            "box-padding": not self.has_boxes and self.box_padding != PADDING,
        }
        for option in filter(useless.get, useless):
            raise ConfigError(f"--{option} is about boxes: give --detections too, or drop it")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(LabelOptions):
    """The options about labelled images."""

    drop_contradictions: Annotated[str, OneOf(("none", "identical", "all"))] = "none"
    """Leave out files of one picture under several labels, which cannot all be right: none,
    identical (files with the same bytes), or all (near-duplicates too; frames of a fixed camera can
    be such)."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(JobConfig):
    """The options about running a network over images."""

    views: Annotated[int, OneOf(COUNTS)] | None = None
    """Number of views of each image to average over. Default: as in training. Fewer are faster."""

    workers: Count | None = None
    """Workers that decode and predict. Default: one per CPU core. With --gpu one per GPU, with as
    many decode processes as its node has cores for each GPU."""

    gpu: bool = False
    """Predict on GPUs."""

    engine: Engine = "auto"
    """Runtime of the network: tensorflow, openvino (the fastest on CPUs), onnxruntime (for
    backbones from ONNX files only), or auto: openvino if it is installed and no GPU is used,
    otherwise tensorflow, or onnxruntime for ONNX files."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(JobConfig):
    """The options about the labels of a row."""

    model_id: str | None = None
    """Refuse a model with any other id; the first 8 digits are enough."""

    top_k: str = "5"
    """Number of labels, with their scores, to list in each row, or all."""

    threshold: Share | None = None
    """Lowest score of a prediction that is `accepted`; others are `below_threshold`. Default: the
    model's own thresholds, from training with --target-precision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_top_k(self.top_k, 1)


@dataclass(frozen=True, kw_only=True)
class AllowedConfig(JobConfig):
    """The options about labels that can occur at a site."""

    allowed: Place | None = None
    """Table (CSV or Parquet) of the labels that can occur, in a column label; optional columns site
    (or location), camera and deployment limit a row to one place. Other labels get no probability.
    Blank images, people and vehicles are always allowed."""

    site_pattern: str | None = None
    """With --allowed: where the path of an image below the images' folder names its site, camera or
    deployment, such as {site}/{camera}/*. Default: the columns of these names in the manifest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site_pattern is None:
            return
        if self.allowed is None:
            raise ConfigError("--site-pattern finds images in --allowed: give --allowed too")
        from monkeyray.images.site_pattern import SitePattern

        SitePattern(self.site_pattern)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(BoxConfig, PredictConfig, LabelConfig, AllowedConfig):
    """Score every image of a collection with a model bundle, and write predictions to Parquet."""

    GROUPS: ClassVar = {
        "Places": ("images", "model", "predictions", "include", "exclude", "limit"),
        "Boxes": ("detections", "detection_threshold", "box_padding"),
        "Predictions": ("top_k", "threshold", "views", "embeddings"),
        "Sites": ("allowed", "site_pattern"),
        "Resuming and starting over": ("update", "retry_failed", "overwrite", "dry_run"),
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
    """Folder or prefix for the Parquet files. Run the same command again to resume."""

    include: tuple[str, ...] = ()
    """Score only images that match one of these globs, such as *.jpg or site-1/*: paths below
    --images, or whole URIs of a manifest. * matches / too."""

    exclude: tuple[str, ...] = ()
    """Skip images that match one of these globs."""

    embeddings: bool = False
    """Also write the backbone's features of each image, a list of float32."""

    batch_size: Count = 32
    """Images per batch; up to 8 batches are predicted at once on a GPU."""

    precision: Precision = "float32"
    """float32; mixed: float16 on GPUs and bfloat16 on CPUs, faster on hardware that supports it,
    with scores that differ in the third digit; or int8: the fastest on CPUs, with OpenVINO, for
    models trained with --int8, whose report shows the effect on labels."""

    rows_per_file: Count = 4096
    """Maximum number of images per Parquet file. A killed run loses only unfinished files."""

    max_bytes: Count = 256 * 2**20
    """Larger files are not read; their rows have the status `too_large`."""

    max_pixels: Count = 150_000_000
    """Images with more pixels (width x height) are not decoded; their rows have the status
    `too_large`."""

    decode_seconds: Annotated[float, Range(0, above=True)] = 60.0
    """Time limit for decoding an image; rows of slower ones have the status `timeout`."""

    max_refused: Count = 1000
    """Stop after this many consecutive missing or forbidden images; the path or the credentials are
    probably wrong."""

    limit: Count | None = None
    """Score at most this many images, the first of the list."""

    update: bool = False
    """List the images again, and score those that are new or have changed since an earlier run.
    Images that have disappeared keep their rows and are reported."""

    retry_failed: bool = False
    """Score images again that were missing, forbidden, archived, crashed or timeout."""

    overwrite: bool = False
    """Delete what is in --predictions and start over."""

    dry_run: bool = False
    """Count the images, score a few, estimate the time, and stop without writing results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "model", "detections"):
            check_outside(self, name, "predictions")
        for name in ("update", "retry_failed"):
            if getattr(self, name) and self.overwrite:
                raise ConfigError(
                    f"--{flag(name)} keeps existing rows and --overwrite deletes them: give one"
                )


@dataclass(frozen=True, kw_only=True)
class RescoreConfig(LabelConfig, AllowedConfig):
    """Score predictions that were written with --embeddings again, with another head, temperature
    or threshold on the same backbone, without opening an image."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "model", "output", "overwrite"),
        "Predictions": ("top_k", "threshold"),
        "Sites": ("allowed", "site_pattern"),
        "Machines": ("workers",),
        SELDOM: ("model_id",),
    }

    predictions: Place
    """The finished predictions to score again; they are only read."""

    model: Place
    """The model bundle to score with: the one that made them, or one with the same backbone, --crop
    and --views."""

    output: Place
    """Folder or prefix for the new Parquet files, one for each old one. Run the same command again
    to resume."""

    workers: Count | None = None
    """Processes, each working on one file at a time. Default: one per CPU core."""

    overwrite: bool = False
    """Delete what is in --output and start over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("predictions", "model"):
            check_outside(self, name, "output")
        check_outside(self, "output", "predictions")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelledConfig, PredictConfig, AllowedConfig):
    """Evaluate a model on labelled images that it has not seen, such as those of another site:
    either --model on --images, or finished --predictions against a table of --labels."""

    GROUPS: ClassVar = {
        "Places": ("output", "images", "model", "predictions", "labels", "features"),
        "Labels": LABEL_FIELDS,
        "Sites": ("allowed", "site_pattern"),
        "Machines": ("views", "workers", "gpu", "engine"),
        SELDOM: ("drop_contradictions",),
    }

    output: Place
    """Folder or prefix for metrics.json; an older one is replaced."""

    images: Place | None = None
    """Labelled images for --model, in the same forms as in `train`: a folder or prefix whose
    sub-folders are the labels, a manifest with the columns uri and label, or a format of the
    field."""

    model: Place | None = None
    """The model bundle to evaluate. Optional with --predictions, to report labels that the model
    knows and never predicted."""

    predictions: Place | None = None
    """Finished predictions to compare with --labels. No image is opened."""

    labels: Place | None = None
    """Table with the columns uri and label, or a format of the field, for --predictions."""

    features: Place | None = None
    """Where to keep the backbone's features, so that a second call opens no image. Default:
    features/ below --output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {
            name
            for name in ("images", "model", "predictions", "labels")
            if getattr(self, name) is not None
        }
        if given not in (
            {"images", "model"}, {"predictions", "labels"}, {"predictions", "labels", "model"},
        ):  # fmt: skip
            raise ConfigError(
                "evaluate needs --model and --images, or --predictions and --labels; given: "
                + (" and ".join(f"--{name}" for name in sorted(given)) or "none of them")
            )
        if self.predictions is None:
            return
        if any(x is not None for x in (self.features, self.views, self.allowed)):
            raise ConfigError(
                "--features, --views and --allowed require --images; --predictions are evaluated "
                "as they are"
            )
        check_outside(self, "output", "predictions")


def parse_top_k(top_k: str, labels: int) -> int:
    """The number of a model's `labels` to list in each row.

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
