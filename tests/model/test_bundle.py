"""The bundle: it comes back as it was, or says which file is damaged."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.errors import BundleError, ConfigError
from monkeyray.model.bundle import (
    FORMAT_VERSION,
    int8_sha256,
    load_bundle,
    load_known_images,
    save_bundle,
)
from monkeyray.model.engines.int8 import to_arrays
from monkeyray.model.known_images import KnownImages
from monkeyray.storage.store import Storage
from tests.support.bundles import ARRAYS, BIAS, KERNEL, STORAGE, WIDTH, edit, load, make_bundle


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_bundle(str(tmp_path / "m"), STORAGE, make_bundle(), "<html>first</html>", "{}")
    return tmp_path / "m"


def test_int8_weights_are_loaded_only_on_request(place: Path) -> None:
    with pytest.raises(BundleError, match="no backbone in int8: train it again with --int8"):
        load_bundle(str(place), STORAGE, int8=True)
    arrays = to_arrays(b"<net/>", b"\0\1")
    save_bundle(str(place), STORAGE, replace(make_bundle(), int8=arrays), "", "{}")
    usual, loaded = load(place), load_bundle(str(place), STORAGE, int8=True)
    assert usual.int8 is usual.network(usual.views).int8 is None
    assert usual.model_id == loaded.model_id == make_bundle().model_id
    network = loaded.network(loaded.views)
    assert network.int8 is not None
    assert {name: array.tobytes() for name, array in network.int8.items()} == {
        "graph": b"<net/>",
        "constants": b"\0\1",
    }
    (file,) = place.glob("int8-*")
    assert int8_sha256(loaded) == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    load(place)
    with pytest.raises(
        BundleError, match=r"int8-\w+.safetensors does not match its hash in model.json"
    ):
        load_bundle(str(place), STORAGE, int8=True)
    floats = {"graph": np.zeros(2, np.float32)}
    save_bundle(str(place), STORAGE, replace(make_bundle(), int8=floats), "", "{}")
    with pytest.raises(BundleError, match="its backbone in int8 has the arrays"):
        load_bundle(str(place), STORAGE, int8=True)
    for _ in range(2):
        save_bundle(str(place), STORAGE, make_bundle(), "", "{}")
    assert not [*place.glob("int8-*")]


def test_round_trip(place: Path) -> None:
    saved, loaded = make_bundle(), load(place)
    assert loaded.model_id == saved.model_id
    assert loaded.labels == ["n0", "n5"]
    assert loaded.names == {"n0": "mantled_howler", "n5": "n5"}
    assert loaded.head_widths == ()
    for name in ("backbone_weights", "head_weights", "outliers"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert before.keys() == after.keys()
        for key, array in before.items():
            np.testing.assert_array_equal(array, after[key], strict=True)
    files = loaded.model["files"]
    assert {path.name for path in place.iterdir()} == {"model.json", *files}
    for name, listed in files.items():
        data = (place / name).read_bytes()
        assert listed == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_id_depends_only_on_what_decides_scores() -> None:
    assert make_bundle(created_at="today").model_id == make_bundle(created_at="tomorrow").model_id
    assert make_bundle(head=0.25).model_id != make_bundle().model_id


def test_a_newer_bundle_replaces_the_old_one_and_keeps_other_files(place: Path) -> None:
    (place / "notes.html").write_text("mine")
    (place / "backbone-mine.safetensors").write_text("mine")
    first = [*load(place).model["files"]]
    # Even where the old model.json claims them.
    edit(place, lambda m: m["files"].update({"notes.html": {}, "../other.html": {}}), sign=False)
    (place.parent / "other.html").write_text("mine")
    save_bundle(str(place), STORAGE, make_bundle(head=0.25), "<html>second</html>", "{}")
    names = {path.name for path in place.iterdir()}
    foreign = {"notes.html", "backbone-mine.safetensors"}
    assert names == {*foreign, "model.json", *first, *load(place).model["files"]}
    # The files of the first one go with the third.
    second = load(place).model["files"]
    save_bundle(str(place), STORAGE, make_bundle(head=0.75), "", "{}")
    names = {path.name for path in place.iterdir()}
    assert names == {*foreign, "model.json", *second, *load(place).model["files"]}
    save_bundle(str(place), STORAGE, make_bundle(head=0.25), "", "{}")
    assert (place.parent / "other.html").exists()
    assert load(place).head_weights["0000/dense_0/kernel"][0, 0] == 0.25


def test_a_reader_of_the_old_model_json_finds_its_weights(place: Path) -> None:
    class Slow(Storage):
        def read(self, uri: Any, *more: Any) -> Any:
            found = super().read(uri, *more)
            if str(uri).endswith("model.json"):
                save_bundle(str(place), STORAGE, make_bundle(head=0.25), "", "{}")
            return found

    assert load_bundle(str(place), Slow()).model_id == make_bundle().model_id
    assert load(place).model_id == make_bundle(head=0.25).model_id


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_killed_publish_leaves_a_bundle_and_nothing_behind(place: Path, moment: int) -> None:
    class Killed(BaseException):
        pass

    class Mortal(Storage):
        def write(self, *arguments: Any) -> Any:
            return self.live(super().write(*arguments))

        def delete(self, *arguments: Any) -> Any:
            return self.live(super().delete(*arguments))

        def live(self, result: Any) -> Any:
            vars(self)["moments"] = vars(self).get("moments", 0) + 1
            if vars(self)["moments"] == moment:
                raise Killed
            return result

    save_bundle(str(place), STORAGE, make_bundle(head=0.25), "", "{}")
    third = make_bundle(head=0.75)
    with pytest.raises(Killed):
        save_bundle(str(place), Mortal(), third, "", "{}")
    assert load(place).model_id in (make_bundle(head=0.25).model_id, third.model_id)
    for bundle in (third, make_bundle(head=0.875)):
        save_bundle(str(place), STORAGE, bundle, "", "{}")
    names = {path.name for path in place.iterdir()}
    model = load(place).model
    assert names == {"model.json", *model["files"], *model["previous_files"]}


@pytest.mark.parametrize("component", ["backbone", "head", "outliers"])
def test_damaged_weights_are_named(place: Path, component: str) -> None:
    path = next(place.glob(f"{component}-*"))
    data = path.read_bytes()
    for damaged in (data[:-1], data[:-1] + b"x", data + b"x", b""):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=path.name):
            load(place)
    path.unlink()
    with pytest.raises(BundleError, match=f"{path.name} is missing"):
        load(place)


def test_any_change_of_model_json_is_found(place: Path) -> None:
    path = place / "model.json"
    text = path.read_text()
    for key in json.loads(text):
        edit(place, operator.methodcaller("pop", key), sign=False)
        with pytest.raises(BundleError, match=r"model\.json is damaged"):
            load(place)
        path.write_text(text)
    for broken in (text.replace("0.3", "0.4"), text.replace("n5", "n6"), text[:-5], "[]", ""):
        assert broken != text
        path.write_text(broken)
        with pytest.raises(BundleError, match=r"model\.json is damaged"):
            load(place)
    path.unlink()
    with pytest.raises(BundleError, match="no model bundle"):
        load(place)


def test_the_report_is_not_needed(place: Path) -> None:
    (place / "report.html").write_text("older")
    load(place)
    (place / "report.html").unlink()
    (place / "metrics.json").unlink()
    assert load(place).model_id == make_bundle().model_id


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", ["backbone"]),
        ("files", {"backbone-0123456789abcdef.safetensors": "x"}),
        ("files", None),
        ("weights", []),
        ("weights", {"backbone": 1, "head": 2}),
        ("labels", "n0"),
        ("labels", ["n0"]),
        ("labels", [{"label": 1, "name": None}]),
        ("labels", [{"label": "n0"}]),
        ("calibration", {"1": {"temperature": 0.0, "thresholds": None}}),
        ("calibration", {"1": {"temperature": "1", "thresholds": None}}),
        ("calibration", {"0": {"temperature": 1.0, "thresholds": None}}),
        ("calibration", {"2": {"temperature": 1.0, "thresholds": [0.5]}}),
        ("preprocessing", "middle"),
        ("head", 32),
        ("head", ["32"]),
        ("backbone", ["mobilenet"]),
    ],
)
def test_wrong_types_are_damage(place: Path, key: str, value: object) -> None:
    edit(place, lambda model: model.update({key: value}), sign=True)
    with pytest.raises(BundleError, match=f"its '{key}' has the wrong type"):
        load(place)


@pytest.mark.parametrize(
    "name",
    ["../backbone-0123456789abcdef.safetensors", "backbone-/../../secret.safetensors",
     "/etc/passwd", "backbone-..\\x.safetensors", "backbone-0123456789abcdef.safetensors/../x"],
)  # fmt: skip
def test_names_of_components_cannot_leave_the_bundle(place: Path, name: str) -> None:
    def change(model: dict[str, Any]) -> None:
        backbone = next(x for x in model["files"] if x.startswith("backbone-"))
        model["files"][name] = model["files"].pop(backbone)

    edit(place, change, sign=True)
    with pytest.raises(BundleError, match="names no file for the backbone"):
        load(place)


def test_versions(place: Path) -> None:
    for version, words in (
        (FORMAT_VERSION + 1, "newer MonkeyRay"),
        (FORMAT_VERSION - 1, "train it again"),
        (0, "no format version"),
        ("1", "no format"),
    ):
        edit(place, operator.methodcaller("update", format_version=version), sign=True)
        with pytest.raises(BundleError, match=words):
            load(place)


def test_another_preprocessing_or_backbone_is_refused(place: Path) -> None:
    edit(place, lambda model: model["preprocessing"].update(decode_version=0), sign=True)
    with pytest.raises(BundleError, match="different preprocessing"):
        load(place)
    for views in (["middle", "upside-down"], [], None, "middle"):
        change = {"views": views}
        edit(place, lambda model: model["preprocessing"].update(change), sign=True)  # noqa: B023
        with pytest.raises(BundleError, match="different preprocessing"):
            load(place)
    edit(place, lambda model: model.update(backbone="resnet"), sign=True)
    with pytest.raises(BundleError, match="'resnet', which this version of MonkeyRay lacks"):
        load(place)


def test_the_id_may_be_pinned(place: Path) -> None:
    whole = make_bundle().model_id
    for pinned in (whole, whole[:8], whole[:12].upper()):
        assert load(place, pinned).model_id == whole
    for pinned in (whole[:7], "0" * 12, whole + "0", ""):
        with pytest.raises(BundleError, match="--model-id"):
            load(place, pinned)


def test_views_have_their_own_calibration(place: Path) -> None:
    bundle = load(place)
    assert bundle.choose_views(None) == ("middle", "middle-mirrored")
    assert bundle.choose_views(1) == ("middle",)
    with pytest.raises(ConfigError, match=r"--views 4: this model was made for 1 or 2; train it"):
        bundle.choose_views(4)
    one, two = (bundle.calibration(bundle.choose_views(count)) for count in (1, 2))
    assert (one.temperature, two.temperature) == (1.5, 2.5)
    assert one.thresholds is None
    assert two.thresholds is not None
    assert two.thresholds.per_label == {"n0": 1.0, "n5": None}
    assert bundle.network(("middle",)).views == ("middle",)


@pytest.mark.parametrize("thresholds", [{}, {"target": 0.9, "pooled": {}, "per_label": 3}])
def test_damaged_thresholds_are_refused(place: Path, thresholds: dict[str, Any]) -> None:
    def change(model: dict[str, Any]) -> None:
        model["calibration"]["2"]["thresholds"] = thresholds

    edit(place, change, sign=True)
    with pytest.raises(BundleError, match="thresholds for 2 views are damaged"):
        load(place)


def _thresholds(model: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = model["calibration"]["2"]["thresholds"]["per_label"]
    return rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["labels"].pop(), "it has 1 labels"),
        (lambda m: m["labels"][1].update(label="n0"), "the label 'n0' more than once"),
        (lambda m: m["labels"].reverse(), "not in the order of their index"),
        (lambda m: _thresholds(m).pop(), "are for the labels n0, but the model's are n0, n5"),
        (lambda m: _thresholds(m).reverse(), "are for the labels n5, n0, but"),
        (lambda m: _thresholds(m).append(_thresholds(m)[0]), "are for the labels n0, n5, n0, but"),
        (lambda m: _thresholds(m)[0].update(label="n7"), "are for the labels n7, n5, but"),
        (lambda m: _thresholds(m)[0].update(threshold=1.5), "a threshold for 2 views is 1.5"),
        (lambda m: _thresholds(m)[0].update(threshold=float("nan")), "is nan, not from"),
        (lambda m: m.update(feature_width=512), "feature_width is 512, but .* 1024"),
        (lambda m: m.update(input_size=32), "input_size is 32, but .* 224"),
        (lambda m: m.update(head=[0]), r"head is \[0\]"),
        (lambda m: m.update(head=[16]), r"shapes \[\(1024, 2\).* require \[\(1024, 16\)"),
        (lambda m: m["calibration"].update({"4": m["calibration"]["1"]}), "4 views, but only 2"),
    ],
)
def test_components_that_contradict_each_other_are_refused(
    place: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    edit(place, change, sign=True)
    with pytest.raises(BundleError, match=words):
        load(place)


@pytest.mark.parametrize(
    ("component", "change", "words"),
    [
        ("head", {KERNEL: np.zeros((WIDTH, 3), np.float32)}, r"\(1024, 3\).* require"),
        ("head", {KERNEL: np.zeros((WIDTH - 1, 2), np.float32)}, r"\(1023, 2\).* require"),
        ("head", {BIAS: np.zeros(3, np.float32)}, r"\(3,\)\]; head and labels require"),
        ("head", {"0002/x": np.zeros(2, np.float32)}, "require"),
        ("head", {BIAS: np.zeros(2, np.int32)}, "its head has int32 in 0001/dense_0/bias"),
        ("head", {BIAS: np.array([0, np.nan], np.float32)}, "its head has non-finite numbers in "),
        ("backbone", {"0000/conv/kernel": np.zeros(3, np.int8)}, "its backbone has int8"),
        (
            "backbone",
            {"0000/conv/kernel": np.array([np.inf])},
            "its backbone has non-finite numbers",
        ),
        ("outliers", {"bank": np.zeros((4, WIDTH), np.int32)}, "finite float32, and is int32"),
        ("outliers", {"means": np.zeros((2, 9), np.float32)}, "shapes .* do not fit"),
        (
            "outliers",
            {
                "bank": ARRAYS["outliers"]["bank"][:, :8],
                "directions": ARRAYS["outliers"]["directions"][:8],
            },
            "features of width 8, but the backbone's have 1024",
        ),
        ("outliers", {"weights-2": None}, "no scale for 2 views"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, component: str, change: dict[str, Any], words: str
) -> None:
    arrays = {
        name: array for name, array in (ARRAYS[component] | change).items() if array is not None
    }
    uri = str(tmp_path / "m")
    save_bundle(uri, STORAGE, make_bundle(changed={component: arrays}), "", "{}")
    with pytest.raises(BundleError, match=words):
        load_bundle(uri, STORAGE)


@pytest.mark.parametrize("component", ["backbone", "head", "outliers"])
def test_components_without_arrays_are_refused(tmp_path: Path, component: str) -> None:
    uri = str(tmp_path / "m")
    save_bundle(uri, STORAGE, make_bundle(changed={component: {}}), "", "{}")
    with pytest.raises(BundleError, match="no array"):
        load_bundle(uri, STORAGE)


@pytest.mark.parametrize("name", ["backbone-*", "model.json"])
def test_what_is_too_large_is_not_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = next(place.glob(name))
    monkeypatch.setattr("monkeyray.model.bundle_files._MOST_BYTES", 100_000)
    monkeypatch.setattr("monkeyray.model.bundle._MOST_MODEL_BYTES", 100_000)
    load(place)
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match=f"{path.name} has {2**40} bytes, the limit is 100000"):
        load(place)


def test_known_images_are_loaded_separately(tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    seen = KnownImages(np.ones((3, 16), np.uint8), np.ones((2, 32, 32), np.uint8))
    for kept in (seen, KnownImages(seen.hashes[:1], seen.thumbnails), seen):
        save_bundle(uri, STORAGE, make_bundle(), "", "{}", kept)
        bundle = load_bundle(uri, STORAGE)
        assert bundle.model_id == make_bundle().model_id
        assert len(list((tmp_path / "m").glob("known_images-*"))) <= 2
        found = load_known_images(uri, STORAGE, bundle)
        assert found is not None
        np.testing.assert_array_equal(found.hashes, kept.hashes, strict=True)
        np.testing.assert_array_equal(found.thumbnails, kept.thumbnails, strict=True)
    (name,) = (name for name in bundle.model["files"] if "known" in name)
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[:-1])
    bundle = load_bundle(uri, STORAGE)  # which scoring needs no more of
    with pytest.raises(BundleError, match=f"{path.name} does not match"):
        load_known_images(uri, STORAGE, bundle)
    for _ in range(2):
        save_bundle(uri, STORAGE, make_bundle(), "", "{}")
    assert not path.exists()
    assert load_known_images(uri, STORAGE, load_bundle(uri, STORAGE)) is None


def test_nan_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_bundle(str(tmp_path / "m"), STORAGE, make_bundle(loss=float("nan")), "", "{}")
    assert not (tmp_path / "m").exists()
