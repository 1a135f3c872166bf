"""Checks that the components of a bundle fit together, so that an inconsistent one fails on
loading.

Hashes show that a bundle is what a program wrote, not that the program was right.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from monkeyray.console import has_control
from monkeyray.errors import BundleError
from monkeyray.model.backbones import BACKBONES, ONNX, Backbone, OnnxBackbone, Weights
from monkeyray.model.onnx_file import read_onnx
from monkeyray.statistics.outliers import OutlierModel
from monkeyray.statistics.thresholds import Thresholds

#: The arrays that determine a score, one file each.
COMPONENTS = ("backbone", "head", "outliers")


def _is_label(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and _is_text(item.get("label"))
        and not has_control(item["label"])
        and (item.get("name", 0) is None or _is_text(item.get("name")))
    )


def _is_text(value: Any) -> bool:
    # JSON can hold lone surrogates, which tables of predictions cannot.
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_calibration(item: tuple[Any, Any]) -> bool:
    views, value = item
    return (
        isinstance(views, str)
        and re.fullmatch("[1-9]", views) is not None
        and isinstance(value, dict)
        and isinstance(value.get("temperature"), float)
        and 0 < value["temperature"] < math.inf
        and isinstance(value.get("thresholds", 0), dict | None)
    )


#: What the code below and scoring rely on; the hash covers the rest.
_TYPES: dict[str, Callable[[Any], bool]] = {
    "model_id": lambda value: isinstance(value, str),
    "content_sha256": lambda value: isinstance(value, str),
    "backbone": lambda value: isinstance(value, str),
    "labels": lambda value: isinstance(value, list) and all(map(_is_label, value)),
    "head": lambda value: isinstance(value, list) and all(type(x) is int for x in value),
    "weights": lambda value: (
        isinstance(value, dict) and all(isinstance(value.get(x), str) for x in COMPONENTS)
    ),
    "calibration": lambda value: (
        isinstance(value, dict) and all(map(_is_calibration, value.items()))
    ),
    "preprocessing": lambda value: isinstance(value, dict),
    "files": lambda value: (
        isinstance(value, dict)
        and all(isinstance(x, dict) and isinstance(x.get("sha256"), str) for x in value.values())
    ),
}


def check_types(model: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise BundleError for a model.json without one of `keys`, or with a value of a wrong type."""
    for key in (*keys, *_TYPES):
        if key not in model:
            raise BundleError(f"it has no {key!r}")
        if key in _TYPES and not _TYPES[key](model[key]):
            raise BundleError(f"its {key!r} has the wrong type")


def spec_of(model: Mapping[str, Any]) -> Backbone | OnnxBackbone:
    """The properties of a model.json's backbone, whose name is known. Raises BundleError if they
    are damaged."""
    name = model["backbone"]
    return OnnxBackbone.of(model) if name == ONNX else BACKBONES[name]


def check_model(model: Mapping[str, Any]) -> None:
    """Raise BundleError for a model.json of the right types whose values contradict each other."""
    labels = [item["label"] for item in model["labels"]]
    if len(labels) < 2:
        raise BundleError(f"it has {len(labels)} labels, but a classifier needs two or more")
    if len(set(labels)) < len(labels):
        twice = Counter(labels).most_common(1)[0][0]
        raise BundleError(f"it has the label {twice!r} more than once")
    if [item.get("index", place) for place, item in enumerate(model["labels"])] != [
        *range(len(labels))
    ]:
        raise BundleError("its labels are not in the order of their index")
    spec = spec_of(model)
    for key, value in (("input_size", spec.size), ("feature_width", spec.width)):
        if model[key] != value:
            raise BundleError(f"its {key} is {model[key]}, but that of its backbone is {value}")
    if min(model["head"], default=1) < 1:
        raise BundleError(
            f"its head is {model['head']}, but a layer must have a width of 1 or more"
        )
    views = len(model["preprocessing"]["views"])
    for count, found in model["calibration"].items():
        if int(count) > views:
            raise BundleError(f"it has a calibration for {count} views, but only {views} views")
        if found["thresholds"] is not None:
            _check_thresholds(found["thresholds"], labels, count)


def _check_thresholds(value: Mapping[str, Any], labels: list[str], count: str) -> None:
    try:
        thresholds = Thresholds.from_json(value)
    except ValueError as error:
        raise BundleError(f"its thresholds for {count} views are damaged: {error}") from error
    # From the rows: the mapping would merge repeated labels.
    theirs = [str(row["label"]) for row in value["per_label"]]
    if theirs != labels:
        raise BundleError(
            f"its thresholds for {count} views are for the labels {_some(theirs)}, but the model's "
            f"are {_some(labels)}"
        )
    for threshold in (thresholds.pooled, *thresholds.per_label.values()):
        if threshold is not None and not 0 <= threshold <= 1:
            raise BundleError(f"a threshold for {count} views is {threshold}, not from 0 to 1")


def check_arrays(
    model: Mapping[str, Any], backbone: Weights, head: Weights, outliers: Weights
) -> None:
    """Raise BundleError for arrays that do not fit each other or the checked model.

    Whether the weights fit the backbone shows only when Keras builds it.
    """
    components = {"backbone": backbone, "head": head}
    if model["backbone"] == ONNX:
        _check_onnx(components.pop("backbone"), model["input_size"])
    for component, arrays in components.items():
        if not arrays:
            raise BundleError(f"its {component} has no arrays")
        for name, array in arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                raise BundleError(f"its {component} has {array.dtype} in {name}, not floats")
            with np.errstate(over="ignore"):
                # The network computes in float32.
                finite = np.isfinite(array.astype(np.float32, copy=False)).all()
            if not finite:
                raise BundleError(f"its {component} has non-finite numbers in {name}")
    width = model["feature_width"]
    widths = [width, *model["head"], len(model["labels"])]
    wanted = [shape for a, b in itertools.pairwise(widths) for shape in ((a, b), (b,))]
    shapes = [head[name].shape for name in sorted(head)]
    if shapes != wanted:
        raise BundleError(f"its head has the shapes {shapes}; head and labels require {wanted}")
    try:
        found = OutlierModel.from_arrays(outliers)
    except ValueError as error:
        raise BundleError(f"its outlier model is damaged: {error}") from error
    if found.bank.shape[1] != width:
        raise BundleError(
            f"its outlier model is for features of width {found.bank.shape[1]}, but the backbone's "
            f"have {width}"
        )
    lacking = sorted(set(map(int, model["calibration"])) - set(found.weights))
    if lacking:
        raise BundleError(f"its outlier model has no scale for {lacking[0]} views")


def _check_onnx(arrays: Weights, size: int) -> None:
    if {name: (array.dtype.name, array.ndim) for name, array in arrays.items()} != {
        ONNX: ("uint8", 1)
    }:
        raise BundleError("its backbone is not an ONNX file")
    try:
        found = read_onnx(arrays[ONNX].tobytes())
    except ValueError as error:
        raise BundleError(f"its backbone {error}") from None
    if found.size not in (None, size):
        raise BundleError(f"its backbone takes images of {found.size} pixels, not {size}")


def _some(labels: list[str]) -> str:
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
