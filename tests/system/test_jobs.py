"""The two jobs end to end, on real photographs, with the real backbone and a real Ray."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from monkeyray.cli.main import main
from monkeyray.errors import (
    BundleError,
    ClusterError,
    ConfigError,
    InputError,
    LeaseError,
    RunError,
)
from monkeyray.images.decode import decode
from monkeyray.model.backbones import BACKBONES, build_backbone
from monkeyray.model.bundle import load_bundle
from monkeyray.model.head import build_head
from monkeyray.options import StoreConfig
from monkeyray.runs.lease import hold
from monkeyray.runs.workers.worker import SPENT
from monkeyray.scoring.dry_run import Estimate
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.statistics.metrics import softmax
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.fitting.distributed import training_error
from monkeyray.training.listing import list_dataset
from monkeyray.training.options import TrainConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train
from tests.support.processes import processes_below

QUIET = StoreConfig(quiet=True)
EPOCHS = 30


@pytest.fixture
def collection(few: Path, tmp_path: Path) -> Path:
    """Photographs with broken files in the middle, and what is no image."""
    folder = tmp_path / "card"
    shutil.copytree(few, folder)
    good = next((few / "n0").iterdir()).read_bytes()
    (folder / "n0" / "a broken #1 50%.jpg").write_bytes(good[: len(good) // 3])
    (folder / "n5" / "empty.jpg").write_bytes(b"")
    (folder / "n5" / "page.jpg").write_bytes(b"<!doctype html><p>404")
    (folder / "n9" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "labels.csv").write_text("label\n")
    (folder / ".hidden.jpg").write_bytes(good)
    return folder


def head_of(trained: Trained) -> dict[str, Any]:
    return dict(load_bundle(trained.uri, Storage()).head_weights)


def scored(summary: Summary | Estimate) -> Summary:
    assert isinstance(summary, Summary)
    return summary


def test_training_learns_and_reports(trained: Trained, few: Path) -> None:
    model = trained.model
    assert trained.opened == 42
    assert trained.accuracy >= 0.8
    assert model["metrics"]["estimate"]["images"] == model["data"]["splits"]["train"] >= 40
    assert sum(model["data"]["splits"].values()) == model["data"]["used"] == 42
    names = {path.name for path in Path(trained.uri).iterdir()}
    assert {"model.json", "report.html", "metrics.json", "config.toml", "features"} <= names
    arrays = {name.partition("-")[0] for name in names if name.endswith(".safetensors")}
    assert arrays - {"int8"} == {"backbone", "head", "outliers", "known_images"}
    assert len(names) == 5 + len(arrays)
    assert str(few) not in (Path(trained.uri) / "model.json").read_text()


def another_head(
    few: Path, features: Path, model: Path, *, workers: int = 2, checkpoint_seconds: float = 60
) -> TrainConfig:
    return TrainConfig(
        images=str(few),
        model=str(model),
        features=str(features),
        head="64,32",
        workers=workers,
        batch_size=9,  # does not divide evenly
        # Ray goes on for a moment without its driver: enough, that it does not come to the end.
        epochs=EPOCHS,
        patience=EPOCHS,
        checkpoint_seconds=checkpoint_seconds,
        store=QUIET,
    )


@pytest.fixture(scope="module")
def other_heads(
    trained: Trained, few: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> dict[int, Trained]:
    """Models with another head on the features of the first model, by the number of workers; that
    of two is also what a killed training is compared with."""
    folder, features = tmp_path_factory.mktemp("other heads"), Path(trained.uri) / "features"
    return {
        workers: train(another_head(few, features, folder / str(workers), workers=workers))
        for workers in (1, 2)
    }


def test_another_head_opens_no_image(trained: Trained, other_heads: dict[int, Trained]) -> None:
    for other in other_heads.values():
        assert other.opened == 0
        assert other.model["head"] == [64, 32]
        assert other.model["model_id"] != trained.model["model_id"]
        assert not (Path(other.uri) / "features").exists()


def test_only_new_and_changed_images_are_embedded(
    trained: Trained, few: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(few, images)
    # The features of the first model, as if it had seen the copies, which are as old.
    features = tmp_path / "features"
    shutil.copytree(Path(trained.uri) / "features", features)
    for path in features.rglob("*.parquet"):
        table = pq.read_table(path)
        uris = pc.replace_substring(table["uri"], str(few), str(images))
        pq.write_table(table.set_column(table.column_names.index("uri"), "uri", uris), path)
    paths = sorted((images / "n0").iterdir())
    paths[0].write_bytes(paths[1].read_bytes())
    shutil.copy(paths[2], images / "n0" / "new.jpg")
    second = train(
        TrainConfig(
            images=str(images),
            model=str(tmp_path / "m"),
            features=str(features),
            epochs=2,
            store=QUIET,
        )
    )
    assert second.opened == 2
    assert second.model["data"]["used"] == 43


def test_any_number_of_workers_gives_the_same_dense_layers(other_heads: dict[int, Trained]) -> None:
    one, two = head_of(other_heads[1]), head_of(other_heads[2])
    for key in one:
        np.testing.assert_allclose(one[key], two[key], atol=1e-5, rtol=0)


def checkpointed(model: Path) -> bool:
    """Whether Ray Train has written down a checkpoint, so that what follows is a resume."""
    for path in model.glob(".training/*/checkpoint_manager_snapshot.json"):
        # It is being replaced now and then.
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["latest_checkpoint_result"] is not None:
                return True
    return False


def assert_resumed(disturbed: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """It went on from a checkpoint, once, and nothing else differs."""
    metrics, others = dict(disturbed["metrics"]), dict(undisturbed["metrics"])
    (resumed_from,) = metrics.pop("resumed_from")
    assert 0 < resumed_from < metrics["epochs_run"]
    assert others.pop("resumed_from") == []
    assert metrics == others
    # The hashes of the weights and all else that decides a score.
    assert disturbed["model_id"] == undisturbed["model_id"]


def test_a_killed_worker_changes_nothing(
    trained: Trained, other_heads: dict[int, Trained], few: Path, tmp_path: Path
) -> None:
    model, undisturbed = tmp_path / "disturbed", other_heads[2]
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            if checkpointed(model):
                for pid in processes_below(b"RayTrainWorker")[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    features = Path(trained.uri) / "features"
    disturbed = train(another_head(few, features, model, checkpoint_seconds=0.0))
    thread.join()
    assert killed
    assert_resumed(disturbed.model, undisturbed.model)
    for key, array in head_of(undisturbed).items():
        np.testing.assert_array_equal(head_of(disturbed)[key], array)
    assert not {path.name for path in model.iterdir()} & {".training", "_lease.json"}


def test_a_killed_driver_goes_on(
    trained: Trained, other_heads: dict[int, Trained], few: Path, tmp_path: Path
) -> None:
    model, features = tmp_path / "disturbed", Path(trained.uri) / "features"
    command = [
        sys.executable, "-m", "monkeyray", "train", "--images", str(few), "--model", str(model),
        "--features", str(features), "--head", "64,32", "--workers", "2", "--batch-size", "9",
        "--epochs", str(EPOCHS), "--patience", str(EPOCHS), "--checkpoint-seconds", "0",
        "--ray-address", "local",
    ]  # fmt: skip
    # A Ray of its own, not the session's, so that it ends with its driver.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not checkpointed(model):
        assert process.poll() is None, "ended before a checkpoint was there"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (model / "model.json").exists()
    time.sleep(2)  # its workers may be at their last checkpoint
    # The same options again, a zero as the command line reads it, in the session's Ray.
    disturbed = train(another_head(few, features, model, checkpoint_seconds=0.0))
    assert_resumed(disturbed.model, other_heads[2].model)
    assert not {path.name for path in model.iterdir()} & {".training", "_lease.json"}


def test_diverging_training_is_not_retried(trained: Trained, few: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        images=str(few),
        model=str(tmp_path / "m"),
        features=str(Path(trained.uri) / "features"),
        head="8",
        learning_rate=1e200,
        workers=2,
        store=QUIET,
    )
    with pytest.raises(ConfigError, match=r"diverged in epoch 1: lower --learning-rate") as caught:
        train(config)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "m").rglob("*.json"))


def test_repeated_training_failure_is_one_line() -> None:
    from ray.train import WorkerGroupError

    bug = WorkerGroupError("Traceback\n  …\n", {1: ValueError("shapes differ\nand more")})
    told = training_error(bug, "/models/m/.training/0123")
    assert isinstance(told, ClusterError)
    assert str(told) == (
        "the training failed 4 times, last with ValueError: shapes differ; rerun the command to "
        "continue from the checkpoint in /models/m/.training/0123, or add --debug to see more"
    )
    known = WorkerGroupError("", {0: ValueError("collective aborted"), 1: InputError("a.jpg")})
    assert isinstance(training_error(known, ""), InputError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 3}, r"no label has two different pictures .* \(with --limit 3\)"),
        ({"test": "{tmp}/test"}, "label 'other' has no image to train on"),
        ({"images": "{tmp}/list.csv"}, "no label has two different pictures"),
    ],
)
def test_errors_in_the_listing_are_reported_at_once(
    options: dict[str, Any], words: str, few: Path, tmp_path: Path
) -> None:
    photos = sorted(few.rglob("*.jpg"))
    (tmp_path / "test" / "other").mkdir(parents=True)
    shutil.copy(photos[0], tmp_path / "test" / "other")
    rows = ["uri,label,group"]
    rows += [f"{path},n0,a" for path in photos[:4]]
    rows += [f"{path},n9,b" for path in photos[-4:]]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    filled: dict[str, Any] = {"images": str(few), "model": str(tmp_path / "m")}
    for key, value in options.items():
        filled[key] = value.format(tmp=tmp_path) if isinstance(value, str) else value
    with pytest.raises(InputError, match=words):
        list_dataset(TrainConfig(**filled), Storage())


def test_a_label_without_a_readable_image_is_named(few: Path, tmp_path: Path) -> None:
    shutil.copytree(few, tmp_path / "images")
    for i in range(3):
        (tmp_path / "images" / "b").mkdir(exist_ok=True)
        (tmp_path / "images" / "b" / f"{i}.jpg").write_bytes(b"" if i else b"no image")
    config = TrainConfig(images=str(tmp_path / "images"), model=str(tmp_path / "m"), store=QUIET)
    words = r"none of the 3 images of label 'b' can be used \(2 empty, 1 unsupported\): replace"
    with pytest.raises(InputError, match=words):
        train(config)


def test_another_network_with_weights_from_a_file(few: Path, tmp_path: Path) -> None:
    network = build_backbone("inception_v3", seed=3)
    network.save_weights(tmp_path / "inception.weights.h5")
    trained = train(
        TrainConfig(
            images=str(few),
            model=str(tmp_path / "m"),
            backbone="inception_v3",
            weights=str(tmp_path / "inception.weights.h5"),
            limit=12,
            epochs=2,
            workers=1,
            embed_workers=1,
            store=QUIET,
        )
    )
    bundle = load_bundle(trained.uri, Storage())
    assert bundle.model["input_size"] == 299
    assert bundle.model["feature_width"] == 2048
    for key, variable in zip(sorted(bundle.backbone_weights), network.weights, strict=True):
        np.testing.assert_array_equal(bundle.backbone_weights[key], variable.numpy(), err_msg=key)
    summary = scored(
        score(
            ScoreConfig(
                images=str(few / "n0"),
                model=trained.uri,
                predictions=str(tmp_path / "out"),
                limit=4,
                workers=1,
                store=QUIET,
            )
        )
    )
    assert summary.statuses == {"ok": 4}


def test_two_trainings_into_one_place(trained: Trained, few: Path, tmp_path: Path) -> None:
    with (
        hold(Location.of(str(tmp_path / "m")), Storage(), print),
        pytest.raises(LeaseError, match="wait for"),
    ):
        train(TrainConfig(images=str(few), model=str(tmp_path / "m"), store=QUIET))


def test_scoring_gives_one_row_for_every_file(
    trained: Trained, collection: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = ScoreConfig(
        images=str(collection),
        model=trained.uri,
        predictions=str(out),
        embeddings=True,
        threshold=0.5,
        top_k="all",
        store=QUIET,
    )
    summary = scored(score(config))
    table = pq.read_table(out)
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == summary.images == 46
    expected = {"ok": 42, "unreadable": 1, "empty": 1, "unsupported": 1, "missing": 1}
    assert summary.statuses == Counter(expected)
    assert rows[str(collection / "n0" / "a broken #1 50%.jpg")]["status"] == "unreadable"
    assert summary.notes["files skipped, side-cars by name"] == 1
    assert all(summary.spent[name] > 0 for name in SPENT)
    assert re.search(r"\d+% waiting for images, \d+% decoding, \d+% in the network", str(summary))
    assert summary.notes["files skipped, hidden"] == 1
    assert summary.notes["videos by name, which are not scored"] == 0
    assert json.loads((out / "_SUCCESS").read_text())["status"] == expected
    schemas = {pq.read_schema(path).remove_metadata() for path in out.glob("*.parquet")}
    assert len(schemas) == 1

    # The scores are the Keras model's own on the same pixels.
    bundle = load_bundle(trained.uri, Storage())
    spec = BACKBONES["mobilenet"]
    backbone = build_backbone("mobilenet", bundle.backbone_weights)
    head = build_head(spec.width, bundle.head_widths, len(bundle.labels), bundle.head_weights)
    good = [row for row in rows.values() if row["status"] == "ok"]
    pixels = np.stack(
        [decode(Path(row["uri"]).read_bytes(), 224, views=("middle",)).pixels[0] for row in good]
    )
    features = backbone.predict(pixels * spec.scale + spec.offset, verbose=0)
    temperature = bundle.model["calibration"]["1"]["temperature"]
    probabilities = softmax(head.predict(features, verbose=0) / temperature)
    for row, expected_scores, vector in zip(good, probabilities, features, strict=True):
        scores = {item["label"]: item["score"] for item in row["top_k"]}
        np.testing.assert_allclose([scores[x] for x in bundle.labels], expected_scores, atol=1e-5)
        np.testing.assert_allclose(row["embedding"], vector, atol=1e-4)
        assert row["label"] == bundle.labels[int(expected_scores.argmax())]
        assert row["decision"] == ("accepted" if row["score"] >= 0.5 else "below_threshold")
    accuracy = np.mean([row["label"] == Path(row["uri"]).parent.name for row in good])
    assert accuracy >= 0.9


def test_the_same_command_goes_on(trained: Trained, collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(**options: Any) -> Summary:
        return scored(
            score(
                ScoreConfig(
                    images=str(collection),
                    model=trained.uri,
                    predictions=str(out),
                    rows_per_file=10,
                    store=QUIET,
                    **options,
                )
            )
        )

    first = run()
    files = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert len(files) == 5
    next(out.glob("part-00001-*.parquet")).unlink()
    (out / "_SUCCESS").unlink()
    second = run()
    assert (second.scored, second.already) == (10, 36)
    assert second.statuses == first.statuses
    for path in out.glob("*.parquet"):
        if not path.name.startswith("part-00001-"):
            assert path.read_bytes() == files[path.name]
    assert run().scored == 0
    with pytest.raises(RunError, match=r"threshold is 0\.9, was None"):
        run(threshold=0.9)
    assert run(threshold=0.9, overwrite=True).scored == 46


def test_an_update_scores_what_is_new_and_changed(
    trained: Trained, collection: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def run(**options: Any) -> Summary:
        config = ScoreConfig(
            images=str(collection),
            model=trained.uri,
            predictions=str(out),
            rows_per_file=10,
            store=QUIET,
            **options,
        )
        return scored(score(config))

    def rows() -> dict[str, dict[str, Any]]:
        table = pq.read_table(out)
        assert len(set(table["uri"].to_pylist())) == table.num_rows
        return {Path(row["uri"]).name: row for row in table.to_pylist()}

    run()
    before, files = rows(), {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert run(update=True).scored == 0
    good = sorted((collection / "n9").glob("*"))
    shutil.copy(good[2], collection / "n0" / "a broken #1 50%.jpg")
    shutil.copy(good[2], collection / "n5" / "later.jpg")
    shutil.copy(good[2], tmp_path / "here.jpg")
    vanished = sorted((collection / "n5").glob("n5*"))[0]
    vanished.unlink()
    summary = run(update=True)
    assert (summary.scored, summary.images) == (2, 47)
    assert summary.notes["images that are new"] == 1
    assert summary.notes["images that have changed"] == 1
    assert summary.notes["images that are gone, their rows are kept"] == 1
    after = rows()
    assert after["a broken #1 50%.jpg"]["status"] == after["later.jpg"]["status"] == "ok"
    assert after["a broken #1 50%.jpg"]["sha256"] == after[good[2].name]["sha256"]
    for name, row in before.items():
        if name != "a broken #1 50%.jpg":
            assert after[name] == row
    kept = [name for name in files if (out / name).exists()]
    assert len(kept) == len(files) - 1
    assert all((out / name).read_bytes() == files[name] for name in kept)
    # What was missing is there by now, and is tried again only when that is asked for.
    (collection / "n9" / "gone.jpg").unlink()
    shutil.copy(good[2], collection / "n9" / "gone.jpg")
    assert run().scored == 0
    summary = run(retry_failed=True)
    assert (summary.scored, summary.statuses["missing"]) == (1, 0)
    assert rows()["gone.jpg"]["status"] == "ok"
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == 47


def test_manifests_carry_their_columns(trained: Trained, few: Path, tmp_path: Path) -> None:
    images = sorted(few.rglob("*.jpg"))[:5]
    manifest = tmp_path / "list.csv"
    lines = [f"{path},{i},{path.parent.name}" for i, path in enumerate(images)]
    manifest.write_text("\n".join(["uri,camera,label", *lines, lines[0]]) + "\n")
    out = tmp_path / "out"
    summary = scored(
        score(
            ScoreConfig(images=str(manifest), model=trained.uri, predictions=str(out), store=QUIET)
        )
    )
    assert summary.images == 5
    assert summary.notes["rows with a URI that was listed before"] == 1
    rows = {row["uri"]: row for row in pq.read_table(out).to_pylist()}
    for i, path in enumerate(images):
        assert rows[str(path)]["camera"] == str(i)
        assert rows[str(path)]["input_label"] == path.parent.name


def test_a_dry_run_keeps_nothing(trained: Trained, collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    estimate = score(
        ScoreConfig(
            images=str(collection),
            model=trained.uri,
            predictions=str(out),
            dry_run=True,
            store=QUIET,
        )
    )
    assert isinstance(estimate, Estimate)
    assert estimate.images == 46
    assert estimate.tried.total() == 46
    assert estimate.rate is not None
    assert list(out.iterdir()) == []


def test_damage_is_found(trained: Trained, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(trained.uri, tmp_path / name)
        return tmp_path / name

    storage = Storage()
    broken = copy("broken")
    weights = next(broken.glob("backbone-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=weights.name):
        load_bundle(str(broken), storage)
    newer = copy("newer")
    model = json.loads((newer / "model.json").read_text())
    (newer / "model.json").write_text(json.dumps({**model, "format_version": 99}))
    with pytest.raises(BundleError, match="newer MonkeyRay"):
        load_bundle(str(newer), storage)
    (newer / "model.json").write_text(json.dumps({**model, "labels": model["labels"][::-1]}))
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(str(newer), storage)
    with pytest.raises(BundleError, match="--model-id"):
        load_bundle(trained.uri, storage, "0" * 12)
    assert load_bundle(trained.uri, storage, str(trained.model["model_id"])[:12]).labels == [
        "n0",
        "n5",
        "n9",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--images", "{empty}", "--model", "{out}"], "no images"),
        (["train", "--images", "{tmp}/none", "--model", "{out}"], "no such folder"),
        (["train", "--images", "{one}", "--model", "{out}"], "two or more"),
        (["train", "--images", "{thin}", "--model", "{out}"], "no label has two"),
        (["train", "--images", "{few}", "--model", "{out}", "--backbone", "x"], "unknown backbone"),
        (["train", "--images", "s3:/bucket", "--model", "{out}"], "malformed URI"),
        (["train", "--images", "{few}", "--model", "/proc/no"], "/proc/no"),
        (["train", "--images", "{few}", "--model", "{out}", "--workers", "999"],
         "999 CPUs"),
        (["score", "--images", "a", "--model", "{empty}", "--predictions", "{out}"], "no model"),
        (["score", "--images", "a", "--model", "x", "--predictions", "y", "--top-k", "0"], "top-k"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: list[str],
    words: str,
    few: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ray_session: None,
) -> None:
    for name in ("empty", "one/a", "thin/a", "thin/b"):
        (tmp_path / name).mkdir(parents=True)
    for i, path in enumerate(sorted((few / "n0").iterdir())[:2]):
        shutil.copy(path, tmp_path / "one" / "a")
        shutil.copy(path, tmp_path / "thin" / "ab"[i])
    places = {name: str(tmp_path / name) for name in ("empty", "one", "thin", "out")}
    filled = [a.format(few=few, tmp=tmp_path, **places) for a in arguments]
    with pytest.raises(SystemExit) as exit_:
        main(filled)
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert words in lines[0]
