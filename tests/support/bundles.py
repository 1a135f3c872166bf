"""Bundles of a tiny model, made without a training."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.model.backbones import Weights
from monkeyray.model.bundle import IDENTITY, Bundle, describe, load_bundle
from monkeyray.model.network import Network
from monkeyray.statistics.outliers import fit_outliers
from monkeyray.statistics.thresholds import choose_thresholds
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.store import Storage

STORAGE = Storage()

#: Of MobileNet's features.
WIDTH = 1024


@functools.cache
def outliers() -> Weights:
    few = np.eye(4, WIDTH, dtype=np.float32)
    return fit_outliers({1: few, 2: few}, np.arange(4) % 2, np.arange(4) // 2).to_arrays()


def make_bundle(head: float = 0.5, changed: Mapping[str, Any] | None = None, **rest: Any) -> Bundle:
    """A bundle; `changed` replaces its `backbone`, `head`, `outliers` or `labels`."""
    backbone = {"0000/conv/kernel": np.arange(12, dtype=np.float32).reshape(3, 4).T}
    weights = {
        "0000/dense_0/kernel": np.full((WIDTH, 2), head, np.float32),
        "0001/dense_0/bias": np.zeros(2, np.float32),
    }
    components: dict[str, Any] = {
        "backbone": backbone,
        "head": weights,
        "outliers": outliers(),
    } | dict(changed or {})
    network = Network(
        "mobilenet",
        components["backbone"],
        ("middle", "middle-mirrored"),
        components["head"],
        (),
        2,
    )
    chosen = choose_thresholds(np.ones(80), np.zeros(80, int), np.zeros(80, int), ["n0", "n5"], 0.9)
    model = describe(
        network,
        labels=[
            {"index": 0, "label": "n0", "name": "mantled_howler"},
            {"index": 1, "label": "n5", "name": None},
        ],
        outliers=components["outliers"],
        calibration={
            "1": {"temperature": 1.5, "thresholds": None},
            "2": {"temperature": 2.5, "thresholds": chosen.to_json()},
        },
        rest={"metrics": {"accuracy": 0.1 + 0.2, "counts": (1, 2), "by": {3: "x"}}, **rest},
    )
    return Bundle(model, components["backbone"], components["head"], components["outliers"])


def load(place: Path, model_id: str | None = None) -> Bundle:
    return load_bundle(str(place), STORAGE, model_id)


def edit(place: Path, change: Callable[[dict[str, Any]], Any], *, sign: bool) -> None:
    """Change model.json; with `sign`, update its hashes to match, as an attacker would."""
    path = place / "model.json"
    model = json.loads(path.read_text())
    change(model)
    if sign:
        identity = {key: model[key] for key in IDENTITY if key in model}
        if "model_id" in model:
            model["model_id"] = fingerprint(identity)
        content = {key: value for key, value in model.items() if key != "content_sha256"}
        model["content_sha256"] = fingerprint(content)
    path.write_text(json.dumps(model))


ARRAYS: dict[str, dict[str, Any]] = dict(
    zip(
        ("backbone", "head", "outliers"),
        map(
            dict,
            (make_bundle().backbone_weights, make_bundle().head_weights, make_bundle().outliers),
        ),
        strict=True,
    )
)
KERNEL, BIAS = sorted(ARRAYS["head"])
