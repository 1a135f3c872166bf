"""The options of training, and of searching for what to train."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

from monkeyray.errors import ConfigError
from monkeyray.images.views import COUNTS, CROPS
from monkeyray.options import (
    PADDING,
    SELDOM,
    IsPlace,
    Place,
    StoreConfig,
    check_detections,
    check_engine,
    check_seed,
    flag,
    require,
)
from monkeyray.storage.location import normalise


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a new head on a frozen, ImageNet-pretrained backbone, and write a model bundle."""

    GROUPS: ClassVar = {
        "Images and model": (
            "images", "model", "test", "corrections", "detections", "label_names", "features",
            "limit",
        ),
        "Network": ("backbone", "crop", "views", "head"),
        "Training": ("epochs", "learning_rate", "class_weights", "seed", "augment"),
        "Fine-tuning": ("fine_tune", "fine_tune_rate", "fine_tune_epochs"),
        "How sure it is": ("target_precision", "folds"),
        "Machines": ("workers", "embed_workers", "gpu", "int8"),
        "Watching": ("tensorboard", "mlflow"),
        SELDOM: (
            "detection_threshold", "box_padding", "weights", "l2", "batch_size", "patience",
            "validation_share", "test_share", "head_seed", "engine", "checkpoint_seconds",
            "mlflow_experiment",
        ),
    }  # fmt: skip

    images: Place
    """Folder or prefix whose sub-folders are the labels, or a CSV or Parquet manifest with the
    columns uri and label, and if you like split (train, validation or test) and group."""

    model: Place
    """Where the model bundle is written: a folder or prefix. A bundle there is replaced whole."""

    test: Place | None = None
    """Labelled images to report the result on, in the form of --images, else a share of those."""

    corrections: tuple[Place, ...] = ()
    """Labelled images in the form of --images, as review exports them: their labels count before
    those of --images and --test, the last one's before all, and further images are added."""

    detections: Place | None = None
    """MegaDetector's results (JSON) for these images, to train on crops as `score --detections`
    scores them: of each image that of its surest animal. Images without one are left out."""

    detection_threshold: float | None = None
    """Confidence from which a box of --detections counts, 0 to 1. Default: what the file gives as
    typical_detection_threshold, else 0.2."""

    box_padding: float = PADDING
    """What is seen around a box, on each side, as a share of its longer side."""

    label_names: Place | None = None
    """Table (CSV or Parquet) with the names of the labels, shown beside them. Its columns are label
    (else the first) and name or common name (else the second)."""

    features: Place | None = None
    """Where the features of the frozen backbone are kept. Default: features/ below --model."""

    backbone: str = "mobilenet"
    """The frozen network: mobilenet, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large,
    efficientnet_v2_b0, resnet50_v2 (all 224 px) or inception_v3 (299 px)."""

    weights: Annotated[str, IsPlace(("imagenet", "none"))] = "imagenet"
    """Weights of the backbone: imagenet (downloaded once by Keras; those of mobilenet come with the
    package), none (random, for tests), or the URI of a Keras file without its top, such as
    ….weights.h5, …_notop.h5 or …_no_top.h5."""

    crop: str = "middle"
    """What is seen of an image: middle (its long side shortened half-way to a square), whole, or
    square (the central square). All are squeezed into the network's square."""

    views: int = 1
    """Over how many views of an image its features are averaged, in training and in scoring: 1, or
    2 with its mirror image, 4 and 6 with other crops too. More cost as many times the time."""

    head: str = "linear"
    """The new head before its softmax: linear, or widths of Dense relu layers, as 1024,1024,512."""

    epochs: int = 200
    """Passes over the training images at most; training stops early."""

    patience: int | None = None
    """Epochs without a better validation loss after which training stops. The best one is kept.
    Default: 10 for the linear head, 5 for one with Dense layers and for fine-tuning."""

    batch_size: int = 64
    """Images in a step, over all workers."""

    learning_rate: float | None = None
    """Step size of Adam. Default: 0.003 for the linear head, 0.0003 for one with Dense layers."""

    l2: float | None = None
    """L2 penalty on the kernels of the new head. Default: 0.001 for the linear head, else 0."""

    class_weights: str = "none"
    """How much the images of a label count: none (all alike), balanced (each label in all the
    same), or sqrt (half-way between the two, which is kinder to labels of a few images)."""

    target_precision: float | None = None
    """Find the thresholds from which at least this share of the accepted images is right, with 95%
    confidence; label by label where there are enough images, pooled where not. 0 to 1."""

    folds: int = 0
    """Train on this many folds too, each without a part of the images, so that all of them are
    predicted by a model that has not seen them: for the mean accuracy with its interval, the
    temperature, the thresholds and the list of likely label errors. 0 for none, else 2 or more."""

    fine_tune: str | None = None
    """After the head, train the last layers of the backbone too: a number of layers with weights,
    such as 20, or of blocks, such as 2-blocks. Kept only if it improves validation."""

    fine_tune_rate: float = 1e-5
    """Step size of Adam in fine-tuning."""

    fine_tune_epochs: int = 20
    """Passes over the training images in fine-tuning at most."""

    augment: bool = True
    """In fine-tuning: mirror, rotate, crop and relight each training image anew in every epoch, and
    remove the colour of some, as on infrared night images."""

    validation_share: float = 0.15
    """Share of each label's images that early stopping and every other choice looks at, 0 to 1."""

    test_share: float = 0.15
    """Share of each label's images that the result is reported on once, 0 to 1."""

    seed: int = 0
    """Seed of the split, of the first weights and of the order of images."""

    head_seed: int | None = None
    """Seed of the new head alone: of its first weights and its order of images. Default: --seed."""

    workers: int = 1
    """Data-parallel Ray Train workers. The head is small: one is enough below some 100,000 images.
    In fine-tuning they run the backbone too, so give each a GPU or a CPU core."""

    embed_workers: int | None = None
    """Processes that run the backbone over the images. Default: one per CPU core. With --gpu they
    share the GPUs, up to 8 on each, as far as there are cores."""

    gpu: bool = False
    """Run the backbone and the training on GPUs, one for each of --workers."""

    engine: str = "auto"
    """What runs the frozen backbone over the images: tensorflow, openvino (the fastest on CPUs), or
    auto: openvino if it is installed and no GPU is used, else tensorflow. Training itself always
    runs on TensorFlow."""

    int8: bool = False
    """Add the backbone in int8 to the model, quantised on some of the training images, for `score
    --precision int8`. The report says what it does to the test images. Needs pip install
    'monkeyray[int8]'."""

    limit: int | None = None
    """Use this many images at most, spread evenly over the labels."""

    checkpoint_seconds: float = 10.0
    """Seconds between two checkpoints at least; they are written at the end of an epoch."""

    tensorboard: Annotated[str, IsPlace(("model",))] | None = None
    """Where TensorBoard's event files are written, a folder for each run: a folder or prefix, or
    model for tensorboard/ below --model. Needs pip install 'monkeyray[tensorboard]'."""

    mlflow: Annotated[str, IsPlace(("local", "databricks", "databricks-uc", "uc"))] | None = None
    """MLflow to log parameters, epochs, results and the report to: the URI of a tracking server, a
    folder, or local for mlruns/ here. Needs pip install 'monkeyray[mlflow]'."""

    mlflow_experiment: str = "monkeyray"
    """The experiment of MLflow that the run is added to; it is made where there is none."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        from monkeyray.model.backbones import BACKBONES

        if self.backbone not in BACKBONES:
            raise ConfigError(
                f"unknown backbone {self.backbone!r}: choose one of {', '.join(BACKBONES)}"
            )
        parse_head(self.head)
        check_detections(self.detections, self.detection_threshold, self.box_padding)
        check_engine(self.engine)
        require(self.crop in CROPS, "crop", repr(self.crop), f"one of {', '.join(CROPS)}")
        require(self.views in COUNTS, "views", self.views, f"one of {', '.join(map(str, COUNTS))}")
        for name in ("images", "model", "test", "label_names", "features"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        for uri in self.corrections:
            normalise(uri)
        for name in ("epochs", "batch_size", "workers"):
            require(getattr(self, name) >= 1, flag(name), getattr(self, name), "1 or more")
        for name in ("embed_workers", "limit", "patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, flag(name), value, "1 or more")
        rate = self.learning_rate
        require(rate is None or 0 < rate < math.inf, "learning-rate", rate, "above 0 and finite")
        l2 = self.l2
        require(l2 is None or 0 <= l2 < math.inf, "l2", l2, "0 or more and finite")
        check_seed(self.seed)
        if self.head_seed is not None:
            check_seed(self.head_seed, "head-seed")
        self._check_choices()
        require(
            self.checkpoint_seconds >= 0, "checkpoint-seconds", self.checkpoint_seconds, "0 or more"
        )
        for name in ("validation_share", "test_share"):
            require(0 < getattr(self, name) < 1, flag(name), getattr(self, name), "between 0 and 1")
        require(
            self.validation_share + self.test_share < 0.9,
            "validation-share and --test-share",
            f"{self.validation_share} and {self.test_share}",
            "below 0.9 together, so that something is left to train on",
        )
        require(
            self.batch_size >= self.workers,
            "batch-size", self.batch_size, f"at least the number of workers, {self.workers}",
        )  # fmt: skip

    def _check_choices(self) -> None:
        kinds = ("none", "balanced", "sqrt")
        require(
            self.class_weights in kinds, "class-weights", repr(self.class_weights),
            f"one of {', '.join(kinds)}",
        )  # fmt: skip
        target = self.target_precision
        require(target is None or 0 < target < 1, "target-precision", target, "between 0 and 1")
        require(
            self.folds == 0 or 2 <= self.folds <= 100, "folds", self.folds, "0, or from 2 to 100"
        )
        if self.folds and self.fine_tune is not None:
            raise ConfigError(
                "--folds evaluates the head on the frozen backbone, and --fine-tune changes the "
                "backbone: train twice, once with each"
            )
        if self.fine_tune is not None:
            from monkeyray.model.backbones import parse_fine_tune

            parse_fine_tune(self.fine_tune)
        self._check_heeded()
        rate = self.fine_tune_rate
        require(0 < rate < math.inf, "fine-tune-rate", rate, "above 0 and finite")
        require(self.fine_tune_epochs >= 1, "fine-tune-epochs", self.fine_tune_epochs, "1 or more")
        if self.tensorboard not in (None, "model"):
            normalise(str(self.tensorboard))
        if self.mlflow is not None:
            from monkeyray.training.mlflow import tracking_uri

            tracking_uri(self.mlflow)
        experiment = self.mlflow_experiment
        require(bool(experiment.strip()), "mlflow-experiment", repr(experiment), "a name")

    def _check_heeded(self) -> None:
        """Refuse options that would change nothing as the others are."""
        needs = {
            "fine_tune_rate": ("fine-tune", self.fine_tune is not None),
            "fine_tune_epochs": ("fine-tune", self.fine_tune is not None),
            "augment": ("fine-tune", self.fine_tune is not None),
            "mlflow_experiment": ("mlflow", self.mlflow is not None),
        }
        defaults = {each.name: each.default for each in fields(TrainConfig)}
        for name, (other, given) in needs.items():
            if not given and getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"--{'no-' if name == 'augment' else ''}{flag(name)} changes nothing without "
                    f"--{other}: give that too, or drop it"
                )
        if self.test is not None and self.test_share != defaults["test_share"]:
            raise ConfigError(
                "--test-share is not used where --test gives the test split: drop one"
            )


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Search for the best new head: layers, learning rate, L2 penalty. The best on validation is
    written as a model bundle, as by `train`."""

    GROUPS: ClassVar = {
        "Search": ("trials", "heads", "learning_rate_range", "l2_range"),
        **TrainConfig.GROUPS,
    }

    trials: int = 30
    """Heads to try; the first one is the default of `train`."""

    heads: tuple[str, ...] = ("linear", "256", "512", "1024,512")
    """The heads to try in turn, each as --head of `train` has it."""

    learning_rate_range: tuple[float, float] = (1e-4, 2e-2)
    """Smallest and largest step size of Adam to try, evenly by their logarithm."""

    l2_range: tuple[float, float] = (1e-6, 1e-2)
    """Smallest and largest L2 penalty to try, evenly by their logarithm. 0 0 tries none."""

    # Not options here, since the search sets them.
    head: str = field(default="linear", init=False)
    learning_rate: float | None = field(default=None, init=False)
    l2: float | None = field(default=None, init=False)
    head_seed: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.trials >= 1, "trials", self.trials, "1 or more")
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

    def choose(
        self, head: str, learning_rate: float | None, l2: float | None, head_seed: int
    ) -> TrainConfig:
        """The training of one of the heads."""
        shared = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        chosen = {"head": head, "learning_rate": learning_rate, "l2": l2, "head_seed": head_seed}
        return TrainConfig(**(shared | chosen))


def parse_head(head: str) -> tuple[int, ...]:
    """The Dense widths before the softmax that `--head` names.

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
