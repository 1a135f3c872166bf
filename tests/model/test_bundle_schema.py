"""Bundles that somebody made to do harm: all their hashes fit, and they are refused in words."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.errors import BundleError, MonkeyRayError
from monkeyray.model.bundle import save_bundle
from tests.support.bundles import ARRAYS, BIAS, STORAGE, edit, load, make_bundle


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_bundle(str(tmp_path / "m"), STORAGE, make_bundle(), "", "{}")
    return tmp_path / "m"


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, '{"format_version": ' + "9" * 5000 + "}", "\ud800", "NaN"],
)
def test_json_that_breaks_parsers_is_damage(place: Path, text: str) -> None:
    (place / "model.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError, match=r"model\.json is damaged: it is not (a )?JSON"):
        load(place)
    # Nor does it keep a new one from taking its place.
    save_bundle(str(place), STORAGE, make_bundle(), "", "{}")
    load(place)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["labels"][0].update(label="\ud800"), "'labels' has the wrong type"),
        (lambda m: m["labels"][0].update(name="a\udfff"), "'labels' has the wrong type"),
        (lambda m: m["labels"][0].pop("name"), "'labels' has the wrong type"),
        (lambda m: m["labels"][0].update(label="a\x1b[2J"), "'labels' has the wrong type"),
        (lambda m: m["preprocessing"].update(views=[["middle"]]), "different preprocessing"),
        (lambda m: m["preprocessing"].update(views=[{}]), "different preprocessing"),
        (lambda m: m["head"].append(10**15), "labels require"),
        (lambda m: m["head"].append(True), "'head' has the wrong type"),
        (lambda m: m.update(format_version=True), "the old bundle format"),
        (lambda m: m["calibration"]["1"].update(temperature=float("nan")), "has the wrong type"),
        (lambda m: m["calibration"]["1"].update(temperature=float("inf")), "has the wrong type"),
        (lambda m: m["weights"].update(backbone="../../etc/passwd"), "backbone-.* does not match"),
        (lambda m: m["weights"].pop("head"), "'weights' has the wrong type"),
    ],
)
def test_content_that_would_fail_later(
    place: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    edit(place, change, sign=True)
    with pytest.raises(BundleError, match=words):
        load(place)


def test_weights_beyond_float32_are_refused(tmp_path: Path) -> None:
    head = ARRAYS["head"] | {BIAS: np.array([0, 1e300])}
    save_bundle(str(tmp_path / "m"), STORAGE, make_bundle(changed={"head": head}), "", "{}")
    with pytest.raises(BundleError, match=r"its head has non-finite numbers in "):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**62]}}, b"\0" * 8),
        ({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"x": {"dtype": "object", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({}, b""),
        (None, b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."),
    ],
)
def test_files_that_are_not_weights(
    place: Path, header: dict[str, Any] | None, body: bytes
) -> None:
    data = body
    if header is not None:
        head = json.dumps(header).encode()
        data = struct.pack("<Q", len(head)) + head + body
    path = next(place.glob("head-*"))
    path.write_bytes(data)
    edit(place, lambda m: m["weights"].update(head=sha256(data).hexdigest()), sign=True)
    with pytest.raises(BundleError, match=r"holds no weights|has no arrays"):
        load(place)
    assert not Path("pwned").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["model.json", "backbone-*"])
def test_links_and_pipes_do_not_block(place: Path, tmp_path: Path, name: str) -> None:
    path = next(place.glob(name))
    os.mkfifo(tmp_path / "pipe")
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    for target in (tmp_path / "pipe", Path("/dev/zero"), secret, path):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(MonkeyRayError) as found:
            load(place)
        assert "hunter2" not in str(found.value)


def test_writing_does_not_follow_links(place: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    for path in [*place.iterdir()]:
        path.unlink()
        path.symlink_to(precious)
    save_bundle(str(place), STORAGE, make_bundle(), "", "{}")
    assert precious.read_text() == "mine"
    load(place)
