"""The options of training and of searching for the best head."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

from monkeyray.errors import ConfigError
from monkeyray.images.views import COUNTS, CROPS
from monkeyray.labels.options import LABEL_FIELDS
from monkeyray.options import (
    SELDOM,
    Count,
    Engine,
    IsPlace,
    OneOf,
    Place,
    Range,
    Seed,
    flag,
    require,
)
from monkeyray.scoring.options import BoxConfig, LabelledConfig

_Rate = Annotated[float, Range(0, above=True, below=True)]
_OpenShare = Annotated[float, Range(0, 1, above=True, below=True)]
_TRACKING = IsPlace(("local", "databricks", "databricks-uc", "uc"), checked=False)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LabelledConfig, BoxConfig):
    """Train a new head on a frozen, ImageNet-pretrained backbone, and write a model bundle."""

    GROUPS: ClassVar = {
        "Images and model": (
            "images", "model", "test", "corrections", "detections", "label_names", "limit",
        ),
        "Network": ("backbone", "crop", "views", "head"),
        "Training": (
            "epochs", "learning_rate", "group_by", "class_weights", "target_precision", "seed",
            "fine_tune",
        ),
        "Machines and tracking": (
            "workers", "embed_workers", "gpu", "int8", "tensorboard", "mlflow",
        ),
        SELDOM: (
            "pixels", "input_size", "pool", "features", "detection_threshold", "box_padding",
            "weights", "l2", "batch_size",
            "patience", "folds", "head_seed", "engine", "fine_tune_rate", "fine_tune_epochs",
            "augment", *LABEL_FIELDS, "crops",
            "drop_contradictions", "checkpoint_seconds", "mlflow_experiment",
        ),
    }  # fmt: skip

    images: Place
    """Folder or prefix whose sub-folders are the labels; a CSV or Parquet manifest with the columns
    uri and label, and optionally split (train, validation or test) and group; or labels as COCO
    Camera Traps, LILA's CSV, Camtrap DP, Wildlife Insights and Timelapse have them."""

    model: Place
    """Folder or prefix for the model bundle. An existing bundle there is replaced."""

    test: Place | None = None
    """Labelled test images, in the same form as --images. They are used neither to train nor to
    choose anything. Without them, all figures come from the folds of --images."""

    corrections: tuple[Place, ...] = ()
    """Labelled images in the same form as --images, as exported from a review. Their labels
    override those of --images and --test, later ones override earlier ones, and images that are new
    are added."""

    detections: Place | None = None
    """MegaDetector results (JSON) for these images, to train on crops as `score --detections`
    scores them: the most confident animal of each image. Images without an animal are left out."""

    crops: bool = False
    """Train on the crops of the boxes that the labels have, in COCO and Camtrap DP: the largest one
    of each label in an image. Images without boxes are left out. Another model is needed for whole
    images."""

    label_names: Place | None = None
    """Table (CSV or Parquet) of names to show beside the labels. Its columns are label (otherwise
    the first) and name or common name (otherwise the second)."""

    features: Place | None = None
    """Where to keep the features of the frozen backbone. Default: features/ below --model."""

    backbone: Annotated[str, IsPlace(ending=".onnx")] = "mobilenet"
    """The frozen network: mobilenet, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large,
    efficientnet_v2_b0, resnet50_v2 (all 224 px) or inception_v3 (299 px), or a place of an ONNX
    file from an image to features, whose name ends in .onnx."""

    pixels: Annotated[str, OneOf(("tf", "imagenet", "clip", "unit", "raw"))] | None = None
    """What the ONNX file takes: tf (-1 to 1), imagenet or clip (their mean and deviation), unit (0
    to 1) or raw (0 to 255). Default: its metadata monkeyray.pixels."""

    input_size: Annotated[int, Range(1, 4096)] | None = None
    """Side in pixels of the square images that the ONNX file takes, if it takes any. Default: its
    metadata monkeyray.input_size."""

    pool: Annotated[str, OneOf(("none", "mean", "cls"))] | None = None
    """From the ONNX file's output to features: none if it is flat, mean (of all tokens, or over the
    picture) or cls (the first token). Default: its metadata monkeyray.pool, or none."""

    weights: Annotated[str, IsPlace(("imagenet", "none"))] = "imagenet"
    """Weights of the backbone: imagenet (downloaded once by Keras; those of mobilenet come with the
    package), none (random, for tests), or the URI of a Keras file without the classification head,
    such as ….weights.h5, …_notop.h5 or …_no_top.h5."""

    crop: Annotated[str, OneOf(tuple(CROPS))] = "middle"
    """Region of the image to use: middle (the long side cropped half-way to a square), whole, or
    square (the central square). All are resized to the network's square input."""

    views: Annotated[int, OneOf(COUNTS)] = 1
    """Number of views of each image whose features are averaged, in training and in scoring: 1; 2
    adds the mirror image; 4 and 6 add other crops. The time grows in proportion."""

    head: str = "linear"
    """The new head before its softmax: linear, or widths of Dense relu layers, such as
    1024,1024,512."""

    epochs: Count = 1000
    """Maximum number of passes over the images; training usually ends earlier."""

    patience: Count | None = None
    """Epochs without a lower loss on held-out images before training stops and keeps the best one:
    for heads with Dense layers and fine-tuning. Default: 5."""

    batch_size: Count = 64
    """Images per step over all workers, for heads with Dense layers and fine-tuning."""

    learning_rate: _Rate | None = None
    """Learning rate of Adam for a head with Dense layers. Default: 0.0003."""

    l2: Annotated[float, Range(0, below=True)] | None = None
    """L2 penalty on the kernels of the new head: l2 / 2 times the sum of their squares is added to
    the sum of the losses of all images. Default: 10 for the linear head, otherwise 0."""

    class_weights: Annotated[str, OneOf(("none", "balanced", "sqrt"))] = "none"
    """Class weighting: none, balanced (inverse frequency) or sqrt (square root of it, gentler on
    labels with few images)."""

    target_precision: _OpenShare | None = None
    """Find score thresholds at which at least this share of the accepted images is right, with 95%
    confidence: by label with enough images, pooled over the others."""

    folds: Annotated[int, Range(2, 100)] = 5
    """Number of folds. For each fold, a head is trained on the others and predicts that fold. These
    predictions give the figures, the temperature, the thresholds and the likely label errors. The
    model's own head is trained on all images."""

    group_by: Annotated[str, OneOf(("location", "deployment", "sequence"))] | None = None
    """What a fold leaves out whole: locations or deployments, so that the figures are those of
    cameras that the head has not seen, or only sequences and copies. Default: location if that
    tests at least half of the images, of two labels or more. Copies, groups and sequences are
    always kept together."""

    fine_tune: str | None = None
    """After the head, also train the last layers of the backbone: a number of layers with weights,
    such as 20, or of blocks, such as 2-blocks. The best epoch is chosen on the validation images of
    --images, or else the first fold, and kept only if it is better on them than the frozen one."""

    fine_tune_rate: _Rate = 1e-5
    """Learning rate of Adam in fine-tuning."""

    fine_tune_epochs: Count = 20
    """Maximum number of passes over the training images in fine-tuning."""

    augment: bool = True
    """In fine-tuning: mirror, rotate, crop and relight each training image differently in every
    epoch, and remove the colour of some, as on infrared night images."""

    seed: Seed = 0
    """Seed of the folds, the initial weights and the order of images."""

    head_seed: Seed | None = None
    """Seed of a head with Dense layers only: its initial weights and order of images. Default:
    --seed."""

    workers: Count = 1
    """Data-parallel Ray Train workers. The head is small: one is enough below about 100,000 images.
    In fine-tuning they run the backbone too, so give each a GPU or a CPU core."""

    embed_workers: Count | None = None
    """Workers that run the backbone over the images. Default: one per CPU core. With --gpu one per
    GPU, with as many decode processes as its node has cores for each GPU."""

    gpu: bool = False
    """Run the backbone and the training on GPUs, one for each of --workers."""

    engine: Engine = "auto"
    """Runtime of the frozen backbone: tensorflow, openvino (the fastest on CPUs), onnxruntime (for
    ONNX files only), or auto: openvino if it is installed and no GPU is used, otherwise tensorflow,
    or onnxruntime for ONNX files. Training itself always uses TensorFlow."""

    int8: bool = False
    """Add an int8 backbone to the model, quantised on some of the training images, for `score
    --precision int8`. The report shows its effect. Needs pip install
    'monkeyray[int8]'."""

    limit: Count | None = None
    """Use at most this many images, spread evenly over the labels."""

    checkpoint_seconds: Annotated[float, Range(0)] = 10.0
    """Minimum time between two checkpoints, which are written at the end of an epoch."""

    tensorboard: Annotated[str, IsPlace(("model",))] | None = None
    """Where TensorBoard's event files are written, a folder for each run: a folder or prefix, or
    model for tensorboard/ below --model. Needs pip install 'monkeyray[tensorboard]'."""

    mlflow: Annotated[str, _TRACKING] | None = None
    """MLflow server for parameters, epochs, results and the report: the URI of a tracking server, a
    folder, or local for mlruns/ here. Needs pip install 'monkeyray[mlflow]'."""

    mlflow_experiment: str = "monkeyray"
    """The MLflow experiment to add the run to, created if missing."""

    def __post_init__(self) -> None:
        from monkeyray.model.backbones import BACKBONES, parse_fine_tune

        super().__post_init__()
        if self.backbone not in BACKBONES and not self.is_onnx:
            raise ConfigError(
                f"unknown backbone {self.backbone!r}: choose one of {', '.join(BACKBONES)}, or an "
                "ONNX file whose name ends in .onnx"
            )
        for name in ("weights", "fine_tune"):
            if self.is_onnx and getattr(self, name) != getattr(TrainConfig, name):
                raise ConfigError(
                    f"--{flag(name)} needs a Keras backbone, and --backbone {self.backbone} is an "
                    "ONNX file: drop one of them"
                )
        parse_head(self.head)
        if self.crops and self.detections is not None:
            raise ConfigError("--crops takes the labels' boxes: drop it, or --detections")
        require(
            self.batch_size >= self.workers or not self._has_steps,
            "batch-size", self.batch_size, f"at least the number of workers, {self.workers}",
        )  # fmt: skip
        if self.fine_tune is not None:
            parse_fine_tune(self.fine_tune)
        self._check_unused()
        if self.mlflow is not None:
            from monkeyray.training.tracking.mlflow import tracking_uri

            tracking_uri(self.mlflow)
        experiment = self.mlflow_experiment
        require(bool(experiment.strip()), "mlflow-experiment", repr(experiment), "a name")

    @property
    def has_boxes(self) -> bool:
        """Whether the crops of boxes are used instead of whole images."""
        return self.detections is not None or self.crops

    @property
    def is_onnx(self) -> bool:
        """Whether the backbone is an ONNX file."""
        return self.backbone.endswith(".onnx")

    @property
    def _has_dense_layers(self) -> bool:
        return self.head != "linear"

    @property
    def _has_steps(self) -> bool:
        """Whether anything is trained in batches."""
        return self._has_dense_layers or self.fine_tune is not None

    def _check_unused(self) -> None:
        """Refuse options that have no effect with the others."""
        dense, steps = self._has_dense_layers, self._has_steps
        needs = {
            "learning_rate": ("head with Dense layers", dense),
            "head_seed": ("head with Dense layers", dense),
            "patience": ("head with Dense layers or --fine-tune", steps),
            "batch_size": ("head with Dense layers or --fine-tune", steps),
            "fine_tune_rate": ("fine-tune", self.fine_tune is not None),
            "fine_tune_epochs": ("fine-tune", self.fine_tune is not None),
            "augment": ("fine-tune", self.fine_tune is not None),
            "mlflow_experiment": ("mlflow", self.mlflow is not None),
            "pixels": ("backbone FILE.onnx", self.is_onnx),
            "input_size": ("backbone FILE.onnx", self.is_onnx),
            "pool": ("backbone FILE.onnx", self.is_onnx),
        }
        defaults = {each.name: each.default for each in fields(TrainConfig)}
        for name, (other, given) in needs.items():
            if not given and getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"--{'no-' if name == 'augment' else ''}{flag(name)} has no effect without "
                    f"--{other}: give that too, or drop it"
                )


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Search for the best new head (layers, learning rate, L2 penalty), and write the one with the
    lowest out-of-fold loss as a model bundle."""

    GROUPS: ClassVar = {
        "Search": ("trials", "heads", "learning_rate_range", "l2_range"),
        **TrainConfig.GROUPS,
    }

    trials: Count = 30
    """Heads to try; the first one is the default of `train`."""

    heads: tuple[str, ...] = ("linear", "256", "512", "1024,512")
    """The heads to try in turn, each as for --head of `train`."""

    learning_rate_range: tuple[float, float] = (1e-4, 2e-2)
    """Lowest and highest learning rate to try, log-uniformly."""

    l2_range: tuple[float, float] = (0.1, 1000.0)
    """Lowest and highest L2 penalty to try, log-uniformly. 0 0 tries none."""

    # Not options here, since the search sets them.
    head: str = field(default="linear", init=False)
    learning_rate: float | None = field(default=None, init=False)
    l2: float | None = field(default=None, init=False)
    head_seed: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.heads) >= 1, "heads", "empty", "one head or more")
        for head in self.heads:
            parse_head(head)
        for name in ("learning_rate_range", "l2_range"):
            low, high = getattr(self, name)
            none = name == "l2_range" and low == high == 0
            require(
                none or 0 < low <= high < math.inf, flag(name), f"{low:g} {high:g}",
                "two numbers above 0 and finite, the smaller one first",
            )  # fmt: skip

    @property
    def _has_dense_layers(self) -> bool:
        return any(head != "linear" for head in self.heads)

    def choose(
        self, head: str, learning_rate: float | None, l2: float | None, head_seed: int | None
    ) -> TrainConfig:
        """The training of one of the heads."""
        shared = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        if head == "linear" and self.fine_tune is None:
            shared |= {"patience": TrainConfig.patience, "batch_size": TrainConfig.batch_size}
        chosen = {"head": head, "learning_rate": learning_rate, "l2": l2, "head_seed": head_seed}
        return TrainConfig(**(shared | chosen))


def parse_head(head: str) -> tuple[int, ...]:
    """The widths of the Dense layers before the softmax in a `--head`.

    >>> parse_head("linear"), parse_head("1024,512")
    ((), (1024, 512))
    """
    if head == "linear":
        return ()
    # int() also takes signs, spaces, underscores and the digits of other scripts.
    parts = head.split(",")
    widths = tuple(int(part) if re.fullmatch("[0-9]{1,5}", part) else 0 for part in parts)
    if not all(1 <= width <= 65536 for width in widths):
        raise ConfigError(f"unknown head {head!r}: write linear, or widths such as 1024,1024,512")
    return widths
