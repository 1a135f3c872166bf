"""The model bundle: everything that scoring needs, in files that hold no code.

    place/backbone-….safetensors      weights of the backbone; or ….onnx, the file it came as
    place/head-….safetensors          weights of the head
    place/outliers-….safetensors      the outlier model: detects images that show none of the labels
    place/known_images-….safetensors  hashes and thumbnails of the images it was trained on
    place/int8-….safetensors          the backbone quantised to int8, if asked for
    place/model.json                  the model, with the SHA-256 of every file and of itself
    place/report.html                 for people
    place/metrics.json                the figures of the report, for programs
    place/config.toml                 the options of the training, for --config

They are written in this order, and the weights' names hold their hash, so at every moment a bundle
that is being replaced is the old one or the new one. The files of the replaced bundle stay until
the next publish, for readers that have read the old model.json. Loading ignores report and metrics,
which a killed training may not have written; their hashes in model.json allow checking them.
Only an evaluation needs the known images, and only `--precision int8` the int8 backbone; neither
changes the model id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monkeyray.errors import BundleError, ConfigError, MissingError, TooLargeError
from monkeyray.images.decode import DECODE_VERSION
from monkeyray.images.views import VIEWS
from monkeyray.model.backbones import BACKBONES, ONNX, Backbone, OnnxBackbone, Weights
from monkeyray.model.bundle_files import file_of, is_ours, pack, read_arrays
from monkeyray.model.bundle_schema import (
    COMPONENTS,
    check_arrays,
    check_model,
    check_types,
    spec_of,
)
from monkeyray.model.engines.int8 import check_arrays as check_int8
from monkeyray.model.known_images import KnownImages
from monkeyray.model.network import Network
from monkeyray.statistics.thresholds import Thresholds
from monkeyray.storage.keys import fingerprint, nfc, sha256
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

FORMAT_VERSION = 5

#: The keys of model.json that decide a score. The model id is their hash.
IDENTITY = (
    "format_version", "labels", "backbone", "input_size", "feature_width", "preprocessing", "head",
    "weights", "calibration",
)  # fmt: skip

#: Optional arrays, loaded on request.
KNOWN_IMAGES, INT8 = "known_images", "int8"
_ALL = (*COMPONENTS, KNOWN_IMAGES, INT8)

#: Maximum size of model.json; the confusion matrices of 2,000 labels take 64 MB.
_MOST_MODEL_BYTES = 2**28

REPORT, METRICS = "report.html", "metrics.json"


@dataclass(frozen=True)
class Calibration:
    """From logits to scores, softmax(logits / temperature), and decisions."""

    temperature: float
    thresholds: Thresholds | None


@dataclass(frozen=True)
class Bundle:
    """A model: the content of model.json, the weights of the backbone and the head, and the arrays
    of the outlier model, by name. `int8`: the quantised backbone, if the bundle has one and it was
    asked for."""

    model: Mapping[str, Any]
    backbone_weights: Weights
    head_weights: Weights
    outliers: Weights
    int8: Weights | None = None

    @property
    def model_id(self) -> str:
        """The hash of everything that decides a score, 64 hexadecimal digits."""
        return str(self.model["model_id"])

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the network's outputs, in NFC."""
        return [nfc(item["label"]) for item in self.model["labels"]]

    @property
    def names(self) -> dict[str, str]:
        """The name of each label; the label itself if it has none."""
        return {
            nfc(item["label"]): item["name"] or nfc(item["label"]) for item in self.model["labels"]
        }

    @property
    def head_widths(self) -> tuple[int, ...]:
        """Widths of the Dense layers before the softmax."""
        return tuple(self.model["head"])

    @property
    def views(self) -> tuple[str, ...]:
        """All views that the model was trained for, in order."""
        return tuple(self.model["preprocessing"]["views"])

    def unlike(self, padding: float | None) -> str | None:
        """A warning if images are scored unlike in training: as crops with a `padding`, or whole if
        it is None. None if they match, or if the training is unknown."""
        data = self.model.get("data")
        boxes = data.get("boxes") if isinstance(data, dict) else None
        trained = boxes.get("padding") if isinstance(boxes, dict) else None
        if trained == padding:
            return None
        if trained is None:
            return "the model was trained on whole images: train it with --detections for crops"
        return (
            f"the model was trained on crops of animals with --box-padding {trained}: give "
            "--detections and the same padding"
        )

    def choose_views(self, count: int | None) -> tuple[str, ...]:
        """The first `count` views, all if None.

        Raises ConfigError for a number that the model was not trained for.
        """
        counts = sorted(map(int, self.model["calibration"]))
        if count is not None and count not in counts:
            raise ConfigError(
                f"--views {count}: this model was made for {' or '.join(map(str, counts))}; train "
                f"it with --views {count}, which computes the features of its images again"
            )
        return self.views[: count or len(self.views)]

    def network(self, views: tuple[str, ...]) -> Network:
        """The network on some of the views."""
        return Network(
            self.model["backbone"], self.backbone_weights, views, self.head_weights,
            self.head_widths, len(self.labels), self.int8, self.onnx,
        )  # fmt: skip

    @property
    def onnx(self) -> OnnxBackbone | None:
        """The properties of a backbone that came as an ONNX file."""
        return OnnxBackbone.of(self.model) if self.model["backbone"] == ONNX else None

    def embedding_identity(self) -> dict[str, Any]:
        """What embeddings depend on, besides the views and the engine, in JSON types."""
        found = {
            "backbone_weights": self.model["weights"]["backbone"],
            "decode_version": self.model["preprocessing"]["decode_version"],
        }
        if self.onnx is not None:
            found["onnx"] = {"input_size": self.onnx.size, **self.onnx.preprocessing()}
        return found

    def calibration(self, views: tuple[str, ...]) -> Calibration:
        """The calibration for the mean of these views."""
        found = self.model["calibration"][str(len(views))]
        thresholds = found["thresholds"]
        return Calibration(
            found["temperature"], None if thresholds is None else Thresholds.from_json(thresholds)
        )


def preprocessing(spec: Backbone | OnnxBackbone, views: Sequence[str]) -> dict[str, Any]:
    """The preprocessing that a bundle records."""
    return {
        "decode_version": DECODE_VERSION,
        "views": list(views),
        "filter": "bilinear",
        **spec.preprocessing(),
    }


def describe(
    network: Network,
    *,
    labels: list[dict[str, Any]],
    outliers: Weights,
    calibration: Mapping[str, Any],
    rest: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of model.json, with its model id; `rest` does not decide a score.

    `calibration`: the `temperature` and the `thresholds` (or None) by the number of views (as
    text), in JSON's types.
    """
    assert network.head_weights is not None
    spec = network.spec
    arrays = (network.backbone_weights, network.head_weights, outliers)
    identity = {
        "format_version": FORMAT_VERSION,
        "labels": labels,
        "backbone": network.backbone,
        "input_size": spec.size,
        "feature_width": spec.width,
        "preprocessing": preprocessing(spec, network.views),
        "head": list(network.head_widths),
        "weights": {
            component: sha256(pack(weights))
            for component, weights in zip(COMPONENTS, arrays, strict=True)
        },
        "calibration": dict(calibration),
    }
    return {**identity, "model_id": fingerprint(identity), **rest}


def save_bundle(
    uri: str | Location,
    storage: Storage,
    bundle: Bundle,
    report: str,
    metrics: str,
    known: KnownImages | None = None,
) -> None:
    """Publish a bundle, whole or not at all, in place of any older one.

    `report`: the page for people; `metrics`: the JSON for programs; `known`: the images that the
    model was trained on, so that an evaluation recognises them.
    """
    place = Location.parse(uri)
    arrays = (bundle.backbone_weights, bundle.head_weights, bundle.outliers)
    components = dict(zip(COMPONENTS, arrays, strict=True))
    if known is not None:
        components[KNOWN_IMAGES] = known.to_arrays()
    if bundle.int8 is not None:
        components[INT8] = bundle.int8
    files = dict(file_of(component, weights) for component, weights in components.items())
    pages = {REPORT: report.encode(), METRICS: metrics.encode()}
    previous, superseded = _old_files(place, storage)
    listed = {
        name: {"sha256": sha256(data), "bytes": len(data)}
        for name, data in {**files, **pages}.items()
    }
    # Hash the JSON round trip, which turns tuples into lists and keys into strings.
    content = {**bundle.model, "files": listed, "previous_files": sorted(previous)}
    model = json.loads(json.dumps(content, allow_nan=False))
    model["content_sha256"] = _content_hash(model)
    # Before model.json, the only list of them; the present bundle needs none of them either.
    for name in superseded - previous - set(files):
        storage.delete(place / name)
    for name, data in files.items():
        storage.write(place / name, data)
    storage.write(place / "model.json", (json.dumps(model, indent=1) + "\n").encode())
    for name, data in pages.items():
        storage.write(place / name, data)


def _old_files(place: Location, storage: Storage) -> tuple[set[str], set[str]]:
    """The files of the present bundle, and those of the one that it replaced."""
    try:
        model = _read_model(place, storage)
        # A name in an untrusted model.json must not delete other files.
        return (
            {name for name in model["files"] if is_ours(name, *_ALL)},
            {name for name in model["previous_files"] if is_ours(name, *_ALL)},
        )
    except (BundleError, KeyError, TypeError):
        return set(), set()


def load_bundle(
    uri: str | Location, storage: Storage, model_id: str | None = None, *, int8: bool = False
) -> Bundle:
    """Read a bundle, and check its hashes (except report and metrics) and that its components fit.

    `model_id`: the expected id, or at least its first 8 digits. `int8`: load the int8 backbone too.
    Raises BundleError if there is no bundle, or if it is damaged (and which file), of another
    format, not the expected one, or without the int8 backbone that was asked for.
    """
    place = Location.parse(uri)
    model = _read_model(place, storage)
    version = model.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{place}/model.json is damaged: it has no format version")
    if version < FORMAT_VERSION:
        raise BundleError(
            f"{place} has the old bundle format {version}: train it again, which reuses the cached "
            "features"
        )
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{place} has the bundle format {version}, but this MonkeyRay reads {FORMAT_VERSION}: "
            "install a newer MonkeyRay"
        )
    try:
        check_types(model, IDENTITY)
    except BundleError as error:
        raise BundleError(f"{place}/model.json is damaged: {error}") from error
    actual = fingerprint({key: model[key] for key in IDENTITY})
    if actual != model["model_id"]:
        raise BundleError(
            f"{place}/model.json is damaged: its content has the id {actual[:12]}, it says "
            f"{model['model_id'][:12]}"
        )
    if _content_hash(model) != model["content_sha256"]:
        raise BundleError(f"{place}/model.json is damaged: its figures have been changed")
    if model_id is not None and (len(model_id) < 8 or not actual.startswith(model_id.lower())):
        raise BundleError(
            f"{place} is the model {actual[:12]}, not {model_id}: correct --model or --model-id"
        )
    if model["backbone"] not in (*BACKBONES, ONNX):
        raise BundleError(
            f"{place} has the backbone {model['backbone']!r}, which this version of MonkeyRay "
            "lacks: "
            "install a newer MonkeyRay"
        )
    views = model["preprocessing"].get("views")
    known = isinstance(views, list) and views and all(view in [*VIEWS] for view in views)
    try:
        spec = spec_of(model)
    except BundleError as error:
        raise BundleError(f"{place}/model.json is damaged: {error}") from error
    if not known or model["preprocessing"] != preprocessing(spec, views):
        raise BundleError(
            f"{place} was trained with different preprocessing than this version of MonkeyRay "
            "uses: train it "
            "again, or score with the version in its model.json"
        )
    if str(len(views)) not in model["calibration"]:
        raise BundleError(f"{place}/model.json is damaged: its views have no calibration")
    try:
        check_model(model)
    except BundleError as error:
        raise BundleError(f"{place}/model.json is damaged: {error}") from error
    backbone, head, outliers = (
        _load_weights(place, storage, model, component) for component in COMPONENTS
    )
    try:
        check_arrays(model, backbone, head, outliers)
    except BundleError as error:
        raise BundleError(f"{place} is damaged: {error}") from error
    quantised = _load_int8(place, storage, model) if int8 else None
    return Bundle(model, backbone, head, outliers, quantised)


def _read_model(place: Location, storage: Storage) -> dict[str, Any]:
    try:
        model = json.loads(storage.read(place / "model.json", _MOST_MODEL_BYTES).data)
    except MissingError as error:
        raise BundleError(f"no model bundle in {place}: it has no model.json") from error
    except TooLargeError as error:
        raise BundleError(f"{place} is damaged: {error}") from error
    except (ValueError, RecursionError):
        raise BundleError(f"{place}/model.json is damaged: it is not JSON") from None
    if not isinstance(model, dict):
        raise BundleError(f"{place}/model.json is damaged: it is not a JSON object")
    return model


def load_known_images(uri: str | Location, storage: Storage, bundle: Bundle) -> KnownImages | None:
    """The training images of a bundle loaded from there; None if it does not list them. Raises
    BundleError if the list is damaged."""
    place = Location.parse(uri)
    name = _file(bundle.model, KNOWN_IMAGES)
    if name is None:
        return None
    expected = bundle.model["files"][name]["sha256"]
    return KnownImages.from_arrays(read_arrays(place, storage, name, expected))


def int8_sha256(bundle: Bundle) -> str:
    """The SHA-256 of the int8 backbone of a bundle that was loaded with it."""
    name = _file(bundle.model, INT8)
    assert name is not None
    return str(bundle.model["files"][name]["sha256"])


def _load_int8(place: Location, storage: Storage, model: Mapping[str, Any]) -> Weights:
    name = _file(model, INT8)
    if name is None:
        raise BundleError(
            f"the model in {place} has no backbone in int8: train it again with --int8, which "
            "reuses the cached features, or drop --precision int8"
        )
    arrays = read_arrays(place, storage, name, model["files"][name]["sha256"])
    try:
        check_int8(arrays)
    except BundleError as error:
        raise BundleError(f"{place} is damaged: {error}") from error
    return arrays


def _file(model: Mapping[str, Any], component: str) -> str | None:
    """The file name of an optional component."""
    return next((name for name in model["files"] if is_ours(name, component)), None)


def _load_weights(
    place: Location, storage: Storage, model: Mapping[str, Any], component: str
) -> Weights:
    names = [x for x in model["files"] if is_ours(x, component)]
    if len(names) != 1:
        raise BundleError(f"{place}/model.json is damaged: it names no file for the {component}")
    return read_arrays(place, storage, names[0], model["weights"][component])


def _content_hash(model: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in model.items() if key != "content_sha256"})
