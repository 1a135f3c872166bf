"""The options of every command, validated when built. The command line is generated from these."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Literal

from monkeyray.errors import ConfigError
from monkeyray.retries import PATIENCE_SECONDS
from monkeyray.storage import Storage
from monkeyray.uris import is_local, join, normalise
from monkeyray.views import COUNTS, CROPS


def _require(condition: bool, option: str, value: object, need: str) -> None:
    if not condition:
        raise ConfigError(f"--{option} is {value}: it must be {need}")


@dataclass(frozen=True)
class StoreConfig:
    """Where the store is and what is printed; the same options for every command."""

    s3_endpoint: str | None = None
    """URL of an S3 server other than AWS, as http://127.0.0.1:9000. Default: AWS_ENDPOINT_URL."""

    s3_anonymous: bool = False
    """Send S3 requests without credentials, for public buckets."""

    store_patience_seconds: float = PATIENCE_SECONDS
    """Seconds for which a store that throttles or does not answer is tried again."""

    ray_address: str | None = None
    """Ray cluster to use, or local for a new one on this machine. Default: RAY_ADDRESS, else what
    `ray start` has started here, else a new local one."""

    quiet: bool = False
    """Print nothing but errors."""

    debug: bool = False
    """Print Ray's own messages, and a traceback with errors."""

    def __post_init__(self) -> None:
        patience = self.store_patience_seconds
        _require(patience >= 0, "store-patience-seconds", patience, "0 or more")
        endpoint = self.s3_endpoint
        if endpoint is None:
            return
        # A password must not be repeated, wherever in a half URL it stands.
        if "@" in endpoint:
            raise ConfigError(
                "--s3-endpoint carries credentials before the @: take them out, and give them "
                "through the environment or a role"
            )
        _require(
            re.fullmatch(r"(?i)https?://[^/\s]+(/\S*)?", endpoint) is not None,
            "s3-endpoint", repr(endpoint), "a URL such as http://127.0.0.1:9000",
        )  # fmt: skip

    def storage(self) -> Storage:
        """The storage that these options describe."""
        return Storage(
            s3_endpoint=self.s3_endpoint,
            s3_anonymous=self.s3_anonymous,
            patience_seconds=self.store_patience_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a new top on a frozen, ImageNet-pretrained base, and write a model bundle."""

    images: str
    """Folder or prefix whose sub-folders are the labels, or a CSV or Parquet manifest with the
    columns uri and label, and if you like split (train, validation or test) and group."""

    model: str
    """Where the model bundle is written: a folder or prefix. A bundle there is replaced whole."""

    test: str | None = None
    """Labelled images to report the result on, in the form of --images, else a share of those."""

    label_names: str | None = None
    """Table (CSV or Parquet) with the names of the labels, shown beside them. Its columns are label
    (else the first) and name or common name (else the second)."""

    features: str | None = None
    """Where the features of the frozen base are kept. Default: features/ below --model."""

    backbone: str = "mobilenet"
    """The frozen network: mobilenet, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large,
    efficientnet_v2_b0, resnet50_v2 (all 224 px) or inception_v3 (299 px)."""

    weights: str = "imagenet"
    """Weights of the base: imagenet (downloaded once by Keras, mobilenet's come with the package),
    none (random, for tests), or the URI of a Keras file without the top, as ….weights.h5,
    …_notop.h5 or …_no_top.h5."""

    crop: str = "middle"
    """What is seen of an image: middle (its long side shortened half-way to a square), whole, or
    square (the central square). All are squeezed into the network's square."""

    views: int = 1
    """Over how many views of an image its features are averaged, in training and in scoring: 1, or
    2 with its mirror image, 4 and 6 with other crops too. More cost as many times the time."""

    head: str = "linear"
    """The new top before its softmax: linear, or widths of Dense relu layers, as 1024,1024,512."""

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
    """L2 penalty on the kernels of the new top. Default: 0.001 for the linear head, else 0."""

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
    """After the new top, train the last layers of the base too: so many layers with weights, as
    20, or so many blocks, as 2-blocks. The result is kept only where it is better on validation."""

    fine_tune_rate: float = 1e-5
    """Step size of Adam in fine-tuning."""

    fine_tune_epochs: int = 20
    """Passes over the training images in fine-tuning at most."""

    augment: bool = True
    """In live training and fine-tuning: mirror, turn, crop and light each training image anew in
    every epoch, and take the colour from some, as at infrared night."""

    validation_share: float = 0.15
    """Share of each label's images that early stopping and every other choice looks at, 0 to 1."""

    test_share: float = 0.15
    """Share of each label's images that the result is reported on once, 0 to 1."""

    seed: int = 0
    """Seed of the split, of the first weights and of the order of images."""

    top_seed: int | None = None
    """Seed of the new top alone: of its first weights and its order of images. Default: --seed."""

    workers: int = 1
    """Data-parallel Ray Train workers for the new top, which is small: one is enough below some
    100,000 images. With --live they run the base too, so give one a GPU or CPU core."""

    embed_workers: int | None = None
    """Processes that run the base over the images. Default: one per CPU core, or per GPU."""

    gpu: bool = False
    """Run the base and the training on GPUs, one per worker."""

    live: bool = False
    """Keep no features: every step decodes its images and runs the base."""

    limit: int | None = None
    """Use this many images at most, spread evenly over the labels."""

    checkpoint_seconds: float = 10.0
    """Seconds between two checkpoints at least; they are written at the end of an epoch."""

    tensorboard: str | None = None
    """Where TensorBoard's event files are written, a folder for each run: a folder or prefix, or
    model for tensorboard/ below --model."""

    mlflow: str | None = None
    """MLflow to log parameters, epochs, results and the report to: the URI of a tracking server, a
    folder, or local for mlruns/ here. Needs pip install 'monkeyray[mlflow]'."""

    mlflow_experiment: str = "monkeyray"
    """The experiment of MLflow that the run is added to; it is made where there is none."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        from monkeyray.backbones import BACKBONES

        if self.backbone not in BACKBONES:
            raise ConfigError(
                f"unknown backbone {self.backbone!r}: choose one of {', '.join(BACKBONES)}"
            )
        parse_head(self.head)
        _require(self.crop in CROPS, "crop", repr(self.crop), f"one of {', '.join(CROPS)}")
        _require(self.views in COUNTS, "views", self.views, f"one of {', '.join(map(str, COUNTS))}")
        for name in ("images", "model", "test", "label_names", "features"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        for name in ("epochs", "batch_size", "workers"):
            _require(getattr(self, name) >= 1, _flag(name), getattr(self, name), "1 or more")
        for name in ("embed_workers", "limit", "patience"):
            value = getattr(self, name)
            _require(value is None or value >= 1, _flag(name), value, "1 or more")
        rate = self.learning_rate
        _require(rate is None or 0 < rate < math.inf, "learning-rate", rate, "above 0 and finite")
        l2 = self.l2
        _require(l2 is None or 0 <= l2 < math.inf, "l2", l2, "0 or more and finite")
        _check_seed(self.seed)
        if self.top_seed is not None:
            _check_seed(self.top_seed, "top-seed")
        self._check_choices()
        _require(
            self.checkpoint_seconds >= 0, "checkpoint-seconds", self.checkpoint_seconds, "0 or more"
        )
        for name in ("validation_share", "test_share"):
            _require(
                0 < getattr(self, name) < 1, _flag(name), getattr(self, name), "between 0 and 1"
            )
        _require(
            self.validation_share + self.test_share < 0.9,
            "validation-share and --test-share",
            f"{self.validation_share} and {self.test_share}",
            "below 0.9 together, so that something is left to train on",
        )
        _require(
            self.batch_size >= self.workers,
            "batch-size", self.batch_size, f"at least the number of workers, {self.workers}",
        )  # fmt: skip

    def _check_choices(self) -> None:
        kinds = ("none", "balanced", "sqrt")
        _require(
            self.class_weights in kinds, "class-weights", repr(self.class_weights),
            f"one of {', '.join(kinds)}",
        )  # fmt: skip
        target = self.target_precision
        _require(target is None or 0 < target < 1, "target-precision", target, "between 0 and 1")
        _require(
            self.folds == 0 or 2 <= self.folds <= 100, "folds", self.folds, "0, or from 2 to 100"
        )
        if self.folds and self.live:
            raise ConfigError(
                "--folds trains on features that are kept, and --live keeps none: give one of them"
            )
        if self.folds and self.fine_tune is not None:
            raise ConfigError(
                "--folds judges the top on the frozen base, and --fine-tune changes the base: "
                "train twice, once with each"
            )
        if self.fine_tune is not None:
            from monkeyray.backbones import parse_fine_tune

            parse_fine_tune(self.fine_tune)
        self._check_heeded()
        rate = self.fine_tune_rate
        _require(0 < rate < math.inf, "fine-tune-rate", rate, "above 0 and finite")
        _require(self.fine_tune_epochs >= 1, "fine-tune-epochs", self.fine_tune_epochs, "1 or more")
        if self.tensorboard not in (None, "model"):
            normalise(str(self.tensorboard))
        if self.mlflow is not None:
            from monkeyray.mlflow_runs import tracking_uri

            tracking_uri(self.mlflow)
        experiment = self.mlflow_experiment
        _require(bool(experiment.strip()), "mlflow-experiment", repr(experiment), "a name")

    def _check_heeded(self) -> None:
        """Refuse options that would change nothing as the others are."""
        needs = {
            "fine_tune_rate": ("fine-tune", self.fine_tune is not None),
            "fine_tune_epochs": ("fine-tune", self.fine_tune is not None),
            "augment": ("live or --fine-tune", self.live or self.fine_tune is not None),
            "mlflow_experiment": ("mlflow", self.mlflow is not None),
        }
        defaults = {each.name: each.default for each in fields(TrainConfig)}
        for name, (other, given) in needs.items():
            if not given and getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"--{'no-' if name == 'augment' else ''}{_flag(name)} changes nothing without "
                    f"--{other}: give that too, or drop it"
                )
        if self.test is not None and self.test_share != defaults["test_share"]:
            raise ConfigError("--test-share is not used where --test gives the test part: drop one")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Search for the best new top: its layers, learning rate, L2 penalty and first weights. The
    best on validation is trained and written as a model bundle, as `train` would."""

    trials: int = 30
    """Tops to try, the first one as `train` makes it by default; most are stopped early."""

    heads: tuple[str, ...] = ("linear", "256", "512", "1024,512")
    """The tops to try in turn, each as --head of `train` has it."""

    learning_rate_range: tuple[float, float] = (1e-4, 2e-2)
    """Smallest and largest step size of Adam to try, evenly by their logarithm."""

    l2_range: tuple[float, float] = (1e-6, 1e-2)
    """Smallest and largest L2 penalty to try, evenly by their logarithm. 0 0 tries none."""

    # No options here: what is searched for, and what would keep no features to search on.
    head: str = field(default="linear", init=False)
    learning_rate: float | None = field(default=None, init=False)
    l2: float | None = field(default=None, init=False)
    top_seed: int | None = field(default=None, init=False)
    live: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.trials >= 1, "trials", self.trials, "1 or more")
        _require(len(self.heads) >= 1, "heads", "empty", "one head or more")
        for head in self.heads:
            parse_head(head)
        for name in ("learning_rate_range", "l2_range"):
            low, high = getattr(self, name)
            none = name == "l2_range" and low == high == 0
            _require(
                none or 0 < low <= high < math.inf, _flag(name), f"{low:g} {high:g}",
                "two numbers above 0 and finite, the smaller one first",
            )  # fmt: skip

    def choose(
        self, head: str, learning_rate: float | None, l2: float | None, top_seed: int
    ) -> TrainConfig:
        """The training of one of the tops."""
        shared = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        chosen = {"head": head, "learning_rate": learning_rate, "l2": l2, "top_seed": top_seed}
        return TrainConfig(**(shared | chosen))


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score every image of a collection with a model bundle, and write predictions to Parquet."""

    images: str
    """Folder or prefix with images at any depth, or a CSV or Parquet manifest with a column uri."""

    model: str
    """The model bundle to score with."""

    predictions: str
    """Folder or prefix for the Parquet files. The same command goes on where it was stopped."""

    model_id: str | None = None
    """Refuse any other model than the one with this id (or its first 8 digits or more)."""

    include: tuple[str, ...] = ()
    """Score only what one of these globs matches: paths below --images, as *.jpg or site-1/*; *
    goes through folders too. Of a manifest, whole URIs."""

    exclude: tuple[str, ...] = ()
    """Leave out what one of these globs matches."""

    views: int | None = None
    """Over how many views of an image scores are averaged. Default: as the model was trained; fewer
    are faster."""

    top_k: str = "5"
    """How many labels with their scores each row lists: a number, or all."""

    threshold: float | None = None
    """Score from which a prediction is `accepted`, else it is `below_threshold`; 0 to 1. Default:
    the thresholds that the model was given by --target-precision."""

    embeddings: bool = False
    """Write the base's features of each image too, as a list of float32."""

    batch_size: int = 32
    """Images that go through the network at a time."""

    workers: int | None = None
    """Processes that decode and predict. Default: one per CPU core, or per GPU."""

    gpu: bool = False
    """Predict on GPUs, one per worker."""

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
        for name in ("images", "model"):
            if join(normalise(getattr(self, name)), "").startswith(join(predictions, "")):
                raise ConfigError(
                    f"--{name} {getattr(self, name)} is in --predictions {self.predictions}, where "
                    "files are written and deleted: give --predictions a place of its own"
                )
        parse_top_k(self.top_k, 1)
        for name in ("batch_size", "rows_per_file", "max_bytes", "max_pixels", "max_refused"):
            _require(getattr(self, name) >= 1, _flag(name), getattr(self, name), "1 or more")
        for name in ("workers", "limit"):
            value = getattr(self, name)
            _require(value is None or value >= 1, _flag(name), value, "1 or more")
        _require(self.decode_seconds > 0, "decode-seconds", self.decode_seconds, "above 0")
        for name in ("update", "retry_failed"):
            if getattr(self, name) and self.overwrite:
                raise ConfigError(
                    f"--{_flag(name)} keeps what is there and --overwrite deletes it: give one"
                )
        views = self.views
        _require(
            views is None or views in COUNTS, "views", views,
            f"one of {', '.join(map(str, COUNTS))}",
        )  # fmt: skip
        threshold = self.threshold
        _require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """Score predictions that were written with --embeddings again, by another top, temperature or
    threshold on the same base, without opening an image."""

    predictions: str
    """The finished predictions to score again; they are only read."""

    model: str
    """The model bundle to score with: the one that made them, or one with the same base, --crop and
    as many --views."""

    output: str
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
        _require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        threshold = self.threshold
        _require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a model on labelled images that it has not seen, as of another site: either --model
    on --images, or finished --predictions against a table of --labels."""

    output: str
    """Folder or prefix for metrics.json, which replaces an older one."""

    images: str | None = None
    """Labelled images for --model: a folder or prefix whose sub-folders are the labels, or a CSV or
    Parquet manifest with the columns uri and label."""

    model: str | None = None
    """The model bundle to measure. With --predictions it may be left out; it tells the labels that
    the model knows and has never found."""

    predictions: str | None = None
    """Finished predictions to compare with --labels. No image is opened."""

    labels: str | None = None
    """CSV or Parquet table with the columns uri and label, for --predictions."""

    features: str | None = None
    """Where the features of the base are kept, so that a second call opens no image. Default:
    features/ below --output."""

    views: int | None = None
    """Over how many views of an image scores are averaged. Default: as the model was trained."""

    workers: int | None = None
    """Processes that decode and predict. Default: one per CPU core, or per GPU."""

    gpu: bool = False
    """Predict on GPUs, one per worker."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
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
        _require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        _require(
            self.views is None or self.views in COUNTS, "views", self.views,
            f"one of {', '.join(map(str, COUNTS))}",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Draw a small camera-trap collection, train on it, score it, and say where the results are."""

    folder: str = "monkeyray-demo"
    """Folder for the drawn images, the model and the predictions. An older demo is replaced."""

    seed: int = 0
    """Seed of the drawing and of the training."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        normalise(self.folder)
        _require(is_local(self.folder), "folder", self.folder, "a folder of this machine")
        _check_seed(self.seed)


class _Kinds:
    """What the options blank, human, vehicle and unknown of a command say together."""

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """By what labels stand for, the labels that the options name."""
        return {name: getattr(self, name) for name in ("blank", "human", "vehicle", "unknown")}

    def _check_kinds(self) -> None:
        kinds = [label.lower() for labels in self.kinds().values() for label in labels]
        for label in kinds:
            _require(kinds.count(label) == 1, "blank, --human, --vehicle or --unknown", label,
                     "given to one of them only")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_Kinds):
    """Write predictions in a format that other programs of the field read."""

    predictions: str
    """The predictions: what was --predictions of score."""

    format: Literal["camtrap-dp", "megadetector", "csv"]
    """camtrap-dp: a data package for sharing and GBIF. megadetector: batch results (JSON) for
    Timelapse and others. csv: one table with the same columns always."""

    output: str
    """Where it is written: a folder or prefix for camtrap-dp, else a file."""

    project: str | None = None
    """For camtrap-dp: a JSON or TOML file with contributors and project, as in datapackage.json."""

    deployments: str | None = None
    """Table (CSV or Parquet) of where and when cameras hung: deployment_id, site, camera, latitude,
    longitude, start, end, time_zone (Africa/Nairobi or +03:00) and clock_offset (seconds or h:mm:ss
    that make the camera's time right when added)."""

    site_pattern: str | None = None
    """Where an image's path below --relative-to has its site, camera or deployment, as
    {site}/{camera}/*. Not needed for a single deployment."""

    taxonomy: str | None = None
    """Table (CSV or Parquet) of what labels are: label, scientific_name, common_name,
    observation_type (animal, human, vehicle, blank or unknown), kingdom to genus."""

    rollup_threshold: float | None = None
    """With --taxonomy: an image that is not accepted and whose label's score is below this gets the
    lowest taxon whose labels reach it together, in camtrap-dp and csv; above 0, up to 1. Default:
    no roll-up."""

    relative_to: str | None = None
    """Folder or prefix that file paths are relative to. Default: that of the images."""

    blank: tuple[str, ...] = ("blank", "empty")
    """Labels of images with nothing on them, where --taxonomy does not say."""

    human: tuple[str, ...] = ("human", "person")
    """Labels of people, where --taxonomy does not say."""

    vehicle: tuple[str, ...] = ("vehicle",)
    """Labels of vehicles, where --taxonomy does not say."""

    unknown: tuple[str, ...] = ("unknown",)
    """Labels that say that nobody knows, where --taxonomy does not say."""

    partial: bool = False
    """Export what is there of a scoring that has not ended."""

    overwrite: bool = False
    """Replace what is there at --output."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        _require(
            self.format in ("camtrap-dp", "megadetector", "csv"),
            "format", repr(self.format), "camtrap-dp, megadetector or csv",
        )  # fmt: skip
        _check_apart(self.output, self.predictions)
        for name in ("project", "deployments", "taxonomy", "relative_to"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        if self.format == "camtrap-dp":
            for name in ("project", "deployments"):
                if getattr(self, name) is None:
                    raise ConfigError(
                        f"--format camtrap-dp needs --{name}, for the standard requires "
                        "contributors and a project, places, and times with an offset"
                    )
        if self.format == "megadetector" and self.deployments is not None:
            raise ConfigError("--format megadetector has no places or times: drop --deployments")
        _check_rollup(self.rollup_threshold, self.taxonomy or self.project)
        if self.format == "megadetector" and self.rollup_threshold is not None:
            raise ConfigError("--format megadetector has no taxa: drop --rollup-threshold")
        if self.site_pattern is not None:
            from monkeyray.sites import SitePattern

            SitePattern(self.site_pattern)
            if self.deployments is None:
                raise ConfigError("--site-pattern finds a deployment: give --deployments too")
        self._check_kinds()


@dataclass(frozen=True, kw_only=True)
class BurstsConfig(_Kinds):
    """Find the bursts in predictions, and write what their images say together."""

    predictions: str
    """The predictions: what was --predictions of score. With --top-k all the result is exact."""

    output: str
    """The Parquet file that is written: one row an image, to be joined on uri."""

    site_pattern: str | None = None
    """Where an image's path below --relative-to has its site, camera or deployment, as
    {site}/{camera}/*: images in which it finds the same are of one camera."""

    deployments: str | None = None
    """Table (CSV or Parquet) of when cameras hung, as for export: images of two deployments are in
    no burst together, and times get its clock_offset. Without --site-pattern, of one deployment."""

    burst_gap: str = "5s"
    """An image that its camera took this long after the one before, or less, is of the same burst:
    a number with ms, s, min or h."""

    taxonomy: str | None = None
    """Table (CSV or Parquet) of what labels are, as for export: where no label is sure enough, the
    lowest taxon that is goes into rollup_rank, rollup_taxon and rollup_score."""

    rollup_threshold: float | None = None
    """With --taxonomy: the score from which a label or taxon is sure enough, above 0, up to 1.
    Default: what was --threshold of score, else 0.5."""

    relative_to: str | None = None
    """Folder or prefix below which --site-pattern looks. Default: that of the images."""

    blank: tuple[str, ...] = ("blank", "empty")
    """Labels of images with nothing on them, where --taxonomy does not say."""

    human: tuple[str, ...] = ("human", "person")
    """Labels of people, where --taxonomy does not say."""

    vehicle: tuple[str, ...] = ("vehicle",)
    """Labels of vehicles, where --taxonomy does not say."""

    unknown: tuple[str, ...] = ("unknown",)
    """Labels that say that nobody knows, where --taxonomy does not say."""

    partial: bool = False
    """Take what is there of a scoring that has not ended."""

    overwrite: bool = False
    """Replace what is there at --output."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        self._check_kinds()
        _check_apart(self.output, self.predictions)
        for name in ("deployments", "taxonomy", "relative_to"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        if self.site_pattern is not None:
            from monkeyray.sites import SitePattern

            SitePattern(self.site_pattern)
        elif self.deployments is None:
            raise ConfigError(
                "which images are of one camera is not known: give --site-pattern, as "
                "{site}/{camera}/* for their paths below the images' folder"
            )
        parse_gap(self.burst_gap)
        _check_rollup(self.rollup_threshold, self.taxonomy)


def _check_apart(output: str, predictions: str) -> None:
    if join(normalise(output), "").startswith(join(normalise(predictions), "")):
        raise ConfigError(
            f"--output {output} is in --predictions {predictions}, which holds nothing but a run: "
            "choose another place"
        )


def _check_rollup(threshold: float | None, taxa: str | None) -> None:
    if threshold is None:
        return
    _require(0 < threshold <= 1, "rollup-threshold", threshold, "above 0, up to 1")
    if taxa is None:
        raise ConfigError("--rollup-threshold needs a table of taxa: give --taxonomy")


def parse_gap(text: str) -> int:
    """The microseconds that `--burst-gap` means.

    >>> parse_gap("5s"), parse_gap("1.5 min")
    (5000000, 90000000)
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(ms|s|min|h)", text)
    if match is None:
        raise ConfigError(
            f"--burst-gap is {text!r}: it must be a number with ms, s, min or h, as 5s"
        )
    return round(float(match[1]) * {"ms": 1e3, "s": 1e6, "min": 6e7, "h": 3.6e9}[match[2]])


def _check_seed(seed: int, option: str = "seed") -> None:
    # NumPy and TensorFlow take no more than 32 bits.
    _require(0 <= seed < 2**32, option, seed, f"from 0 to {2**32 - 1}")


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


def parse_top_k(top_k: str, labels: int) -> int:
    """How many of a model's `labels` each row lists that `--top-k` names.

    >>> parse_top_k("5", 10), parse_top_k("5", 3), parse_top_k("all", 10)
    (5, 3, 10)
    """
    if top_k == "all":
        return labels
    _require(
        re.fullmatch("[0-9]{1,9}", top_k) is not None and int(top_k) >= 1,
        "top-k", repr(top_k), "a number from 1, or all",
    )  # fmt: skip
    return min(int(top_k), labels)


def _flag(name: str) -> str:
    return name.replace("_", "-")
