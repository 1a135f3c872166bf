"""The evaluation of a bundle on labelled photographs, and of predictions against a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from monkeyray.cli.parsing import parse
from monkeyray.errors import ConfigError, InputError
from monkeyray.options import StoreConfig
from monkeyray.scoring.evaluation.evaluate import Evaluation, evaluate
from monkeyray.scoring.options import EvaluateConfig
from monkeyray.training.summary import Trained

QUIET = StoreConfig(quiet=True)


@pytest.fixture(scope="module")
def site(photos: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another site: photographs that were not trained on, a species that nobody knows, a wrong
    label and a broken file."""
    folder = tmp_path_factory.mktemp("site")
    for label in ("n0", "n5", "n9", "n3"):
        (folder / label).mkdir()
        for path in sorted((photos / label).iterdir())[20:25]:
            shutil.copy(path, folder / label / path.name)
    shutil.copy(sorted((photos / "n9").iterdir())[26], folder / "n0" / "wrong.jpg")
    (folder / "n5" / "empty.jpg").write_bytes(b"")
    (folder / "n5" / "notes.txt").write_text("sunny")
    return folder


def run(output: Path, **options: Any) -> Evaluation:
    return evaluate(EvaluateConfig(output=str(output), workers=1, store=QUIET, **options))


def test_a_bundle_on_another_site(trained: Trained, site: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "out", model=trained.uri, images=str(site))
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content == found.content
    assert content["model_id"] == trained.model["model_id"]
    assert content["data"] == {
        "labelled": 22,
        "scored": 21,
        "failures": {"empty": 1},
        "opened": 22,
        "skipped_files": {"side-car": 1},
    }
    assert content["unknown_labels"]["labels"] == {"n3": 5}
    assert content["unknown_labels"]["above_1"] >= 0.6
    metrics = content["metrics"]
    assert metrics["images"] == 16 == sum(map(sum, metrics["confusion"]))
    assert 0.75 <= metrics["accuracy"] < 1
    assert metrics["loss"] > 0
    assert metrics["thresholds"] is None
    assert content["seen"]["images"] == 0
    assert content["seen"]["compared"] == 1
    assert content["metrics_without_seen"] is None
    wrong = {row["uri"]: row for row in content["findings"]["label_errors"]}["n0/wrong.jpg"]
    assert (wrong["given"], wrong["suggested"]) == ("n0", "n9")
    told = found.to_json()
    assert (told["labelled"], told["scored"], told["unknown_label"], told["seen"]) == (22, 21, 5, 0)
    assert (told["accuracy"], told["coverage"]) == (metrics["accuracy"], None)
    beside = ["--config", str(tmp_path / "out" / "config.toml")]
    assert parse("evaluate", beside, "monkeyray").config.images == str(site)
    text = str(found)
    assert "n3 (5)" in text
    assert text.endswith(f"all metrics in {tmp_path}/out/metrics.json")
    again = run(tmp_path / "out", model=trained.uri, images=str(site))
    assert again.content["data"].pop("opened") == 0
    for name in ("metrics", "unknown_labels", "findings"):
        assert again.content[name] == content[name]


def test_labels_that_do_not_occur_at_a_site(trained: Trained, site: Path, tmp_path: Path) -> None:
    table = tmp_path / "allowed.csv"
    table.write_text("site,label\nn0,n0\nn5,n5\nn9,n9\nn9,n5\n")
    options = {"allowed": str(table), "site_pattern": "{site}/*"}
    found = run(tmp_path / "out", model=trained.uri, images=str(site), **options)
    without = found.content["data"]["without_allowed"]
    plain = run(
        tmp_path / "plain", model=trained.uri, images=str(site),
        features=str(tmp_path / "out" / "features"),
    )  # fmt: skip
    assert without["metrics"] == plain.content["metrics"]
    assert found.content["metrics"]["accuracy"] > without["metrics"]["accuracy"]
    assert without["changed"] >= 1
    assert without["excluded"] == 0
    assert "without it, accuracy" in str(found)
    table.write_text("label\nn5\n")
    found = run(
        tmp_path / "wrong", model=trained.uri, images=str(site), allowed=str(table),
        features=str(tmp_path / "out" / "features"),
    )  # fmt: skip
    assert found.content["data"]["without_allowed"]["excluded"] == 11
    assert "WARNING: --allowed excludes the given label of 11 images" in str(found)


def test_images_of_the_training_are_named(
    trained: Trained, few: Path, embedded: Path, site: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(site, images)
    splits = trained.model["data"]["splits"]
    for path in few.rglob("*.jpg"):
        shutil.copy(path, images / path.parent.name / f"old-{path.name}")
    copied = sorted((images / "n5").glob("old-*"))
    with Image.open(copied[0]) as image:
        small = image.convert("RGB").resize((240, 180))
    small.save(copied[0], quality=60)
    small.save(images / "n0" / "old-copy.jpg", quality=70)
    content = run(tmp_path / "out", model=trained.uri, images=str(images)).content
    seen, rest = content["seen"], content["metrics_without_seen"]
    found = {each["uri"]: each["how"] for each in seen["uris"]}
    assert 41 <= len(found) == seen["images"] <= splits["train"] + 1 == 43
    assert all(Path(uri).name.startswith("old-") for uri in found)
    assert seen["near"] == list(found.values()).count("near") <= 2
    (clash,) = content["findings"]["contradictions"]
    assert clash["how"] == "near"
    assert {image["label"] for image in clash["images"]} == {"n0", "n5"}
    assert rest["images"] == content["metrics"]["images"] - len(found)
    # Predictions have no pictures, so that the scaled copy is not found there.
    table = tmp_path / "labels.csv"
    lines = [f"{path},{path.parent.name}" for path in (embedded.parent / "images").rglob("n*.jpg")]
    table.write_text("\n".join(["uri,label", *lines]))
    options = {"predictions": str(embedded), "labels": str(table)}
    known = run(tmp_path / "a", model=trained.uri, **options).content
    assert known["seen"]["identical"] == splits["train"]
    assert known["seen"]["near"] is None
    assert known["metrics_without_seen"] is None  # all of them were
    assert run(tmp_path / "b", **options).content["seen"]["images"] is None


def test_predictions_give_the_same_figures(
    trained: Trained, embedded: Path, tmp_path: Path
) -> None:
    images = embedded.parent / "images"
    labelled = [
        path for path in sorted(images.rglob("*.jpg")) if path.name[0] != "n" or len(path.stem) % 2
    ]
    lines = [f"{path},{path.parent.name}" for path in labelled]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["uri,label", *lines, "/nowhere.jpg,n0"]))
    found = run(tmp_path / "a", predictions=str(embedded), labels=str(table)).content
    features = Path(trained.uri) / "features"
    direct = run(
        tmp_path / "b", model=trained.uri, images=str(table), features=str(features)
    ).content
    assert direct["data"]["failures"].pop("missing") == 1
    for name in ("scored", "failures"):
        assert found["data"][name] == direct["data"][name]
    assert found["data"]["labels_without_row"] == 1
    assert found["data"]["rows_without_label"] == 44 - len(labelled)
    metrics, expected = found["metrics"], direct["metrics"]
    assert metrics["images"] == found["data"]["scored"] > 0
    assert metrics["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    for name in ("accuracy", "macro_f1", "confusion", "per_label", "top_k_accuracy"):
        assert metrics[name] == expected[name]
    ece = metrics["calibration"]["ece"]
    assert ece == pytest.approx(expected["calibration"]["ece"], abs=1e-4)
    assert metrics["outliers"]["above_1"] == expected["outliers"]["above_1"]
    assert metrics["thresholds"] is expected["thresholds"] is None
    # The model tells its labels, and that it is the one that made them.
    table.write_text(table.read_text().replace(f"{labelled[-1]},n9", f"{labelled[-1]},zebra"))
    with pytest.raises(InputError, match=r"in no row .* \(zebra\): give --model"):
        run(tmp_path / "a", predictions=str(embedded), labels=str(table))
    known = run(
        tmp_path / "a", model=trained.uri, predictions=str(embedded), labels=str(table)
    ).content
    assert known["unknown_labels"]["labels"] == {"zebra": 1}
    assert known["metrics"]["images"] == metrics["images"] - 1


def test_labels_in_other_words_are_refused(
    trained: Trained, embedded: Path, tmp_path: Path
) -> None:
    paths = sorted((embedded.parent / "images").rglob("n*.jpg"))[:3]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["uri,label", *(f"{path},Alouatta" for path in paths)]))
    words = r"none of the labels of the 3 .* n0, n5, n9, those of the images Alouatta; use"
    with pytest.raises(InputError, match=words):
        run(tmp_path, model=trained.uri, predictions=str(embedded), labels=str(table))
    assert not (tmp_path / "metrics.json").exists()
    bad = sorted((embedded.parent / "images").rglob("a.jpg"))
    table.write_text("\n".join(["uri,label", *(f"{path},n0" for path in bad)]))
    with pytest.raises(InputError, match="none of the 1 labelled images could be scored"):
        run(tmp_path, model=trained.uri, predictions=str(embedded), labels=str(table))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "given: none of them"),
        ({"images": "a"}, "given: --images"),
        ({"model": "m"}, "given: --model"),
        ({"predictions": "p"}, "given: --predictions"),
        ({"model": "m", "images": "a", "labels": "l.csv"}, "--images and --labels and --model"),
        ({"images": "a", "predictions": "p", "labels": "l.csv"}, "--predictions and --labels"),
        (
            {"predictions": "p", "labels": "l.csv", "views": 1},
            "--views and --allowed require --images",
        ),
        ({"predictions": "p", "labels": "l.csv", "output": "p/x"}, "--output p/x is in"),
        ({"model": "m", "images": "a", "views": 3}, "--views is 3"),
        ({"model": "m", "images": "a", "workers": 0}, "--workers is 0"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EvaluateConfig(**{"output": "o", **options})
