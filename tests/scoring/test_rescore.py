"""Rescoring: what it gives is what scoring the images with that model gives, and it goes on."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import monkeyray.scoring.rescore
from monkeyray.cli.parsing import parse
from monkeyray.errors import ConfigError, InputError, RunError
from monkeyray.images.decode import Limits, decode
from monkeyray.model.bundle import Bundle, describe, load_bundle, save_bundle
from monkeyray.model.network import Network
from monkeyray.options import StoreConfig
from monkeyray.runs.reader import open_predictions
from monkeyray.runs.workers.batches import Batch
from monkeyray.runs.workers.fetch import fetch
from monkeyray.runs.workers.pools import MachinePool
from monkeyray.scoring.options import RescoreConfig
from monkeyray.scoring.rescore import rescore
from monkeyray.scoring.rows import OVERFLOW, BatchScorer, PostProcessor, Rescorer, ScoreOptions
from monkeyray.scoring.summary import Summary
from monkeyray.statistics.outliers import fit_outliers
from monkeyray.statistics.thresholds import choose_thresholds
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained
from tests.support.files import upload
from tests.support.predicted import assert_scored_alike

QUIET = StoreConfig(quiet=True)


def run(predictions: Path | str, model: str, output: Path | str, **options: Any) -> Summary:
    return rescore(
        RescoreConfig(
            predictions=str(predictions),
            model=model,
            output=str(output),
            **{"store": QUIET, "workers": 1, **options},
        )
    )


def shards(place: Path) -> dict[str, pa.Table]:
    """Each shard's rows by the beginning of its file's name."""
    return {path.name[:10]: pq.read_table(path) for path in sorted(place.glob("*.parquet"))}


PREDICTED = ("label", "score", "decision", "ood_score", "top_k")


def assert_same_but_predicted(new: dict[str, pa.Table], old: dict[str, pa.Table]) -> None:
    """Same files, rows, order and types; columns that do not depend on a head are unchanged."""
    assert list(new) == list(old)
    for name, table in new.items():
        assert table.schema.equals(old[name].schema)
        version = b"monkeyray.schema_version"
        assert table.schema.metadata[version] == old[name].schema.metadata[version]
        for column in set(table.column_names) - {*PREDICTED, "model_id", "predicted_at"}:
            assert table[column].equals(old[name][column]), column


def assert_predicted_alike(new: dict[str, pa.Table], old: dict[str, pa.Table]) -> None:
    for name, table in new.items():
        for row, was in zip(table.to_pylist(), old[name].to_pylist(), strict=True):
            assert [row["label"], row["decision"]] == [was["label"], was["decision"]]
            assert_scored_alike(row, was)


@pytest.fixture
def images_away(embedded: Path) -> Iterator[None]:
    """Rescoring opens no image, so that they need not be there."""
    images, away = embedded.parent / "images", embedded.parent / "away"
    images.rename(away)
    yield
    away.rename(images)


@pytest.fixture(scope="module")
def second(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another head on the same backbone, made for one view or two, with thresholds."""
    first = load_bundle(trained.uri, Storage())
    features = np.asarray(first.outliers["bank"], np.float64)
    rng = np.random.default_rng(3)
    head = {
        name: rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in (
            ("0000/kernel", (features.shape[1], 16)), ("0001/bias", (16,)),
            ("0002/kernel", (16, 3)), ("0003/bias", (3,)),
        )
    }  # fmt: skip
    truth = np.arange(len(features)) % 3
    outliers = fit_outliers(
        {1: features, 2: features}, truth, np.arange(len(truth)) % 2
    ).to_arrays()
    thresholds = choose_thresholds(
        np.linspace(0.4, 1, 60), truth[:1].repeat(60), truth[:1].repeat(60), first.labels, 0.9
    ).to_json()
    network = Network(
        "mobilenet", first.backbone_weights, ("middle", "middle-mirrored"), head, (16,), 3
    )
    calibration = {
        "1": {"temperature": 2.5, "thresholds": thresholds},
        "2": {"temperature": 1.0, "thresholds": None},
    }
    labels = [dict(label) for label in first.model["labels"]]
    model = describe(network, labels=labels, outliers=outliers, calibration=calibration, rest={})
    uri = str(tmp_path_factory.mktemp("model") / "second")
    save_bundle(uri, Storage(), Bundle(model, first.backbone_weights, head, outliers), "", "")
    return uri


@pytest.mark.usefixtures("images_away")
def test_the_same_model_gives_the_same(trained: Trained, embedded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(embedded, trained.uri, out)
    old, new = shards(embedded), shards(out)
    assert len(old) == 22
    assert_same_but_predicted(new, old)
    assert_predicted_alike(new, old)
    assert (summary.images, summary.scored, summary.already) == (44, 44, 0)
    assert summary.to_json()["statuses"] == {"ok": 42, "empty": 1, "unsupported": 1}
    again = parse("rescore", ["--config", str(out / "_config.toml")], "monkeyray").config
    assert (again.predictions, again.output) == (str(embedded), str(out))
    success = json.loads((out / "_SUCCESS").read_text())
    assert success["status"] == {"ok": 42, "empty": 1, "unsupported": 1}
    for name, table in new.items():
        assert min(table["predicted_at"].to_pylist()) > max(old[name]["predicted_at"].to_pylist())
    # And once more, from what was rescored, with a threshold of its own, in another run's place.
    shutil.copytree(embedded, tmp_path / "again")
    found = [score for table in new.values() for score in table["score"].to_pylist()]
    middle = round(float(np.median([score for score in found if score is not None])), 6)
    with pytest.raises(RunError, match=rf"threshold is {middle}, was None.*--overwrite"):
        run(out, trained.uri, tmp_path / "again", threshold=middle)
    run(out, trained.uri, tmp_path / "again", threshold=middle, top_k="1", overwrite=True)
    assert len(list((tmp_path / "again").glob("*.parquet"))) == 22
    again = pa.concat_tables(shards(tmp_path / "again").values())
    assert_same_but_predicted(shards(tmp_path / "again"), old)
    expected = [
        None if score is None else "accepted" if score >= np.float32(middle) else "below_threshold"
        for score in again["score"].to_pylist()
    ]
    assert again["decision"].to_pylist() == expected
    assert {"accepted", "below_threshold"} <= set(expected)
    assert {len(best) for best in again["top_k"].to_pylist() if best is not None} == {1}


@pytest.mark.usefixtures("images_away")
def test_labels_that_are_not_allowed_at_a_site(
    trained: Trained, embedded: Path, tmp_path: Path
) -> None:
    table, out = tmp_path / "allowed.csv", tmp_path / "out"
    table.write_text("label,site\nn5,n0\nn9,n0\nn0,\nn5,\n")
    given = {"allowed": str(table), "site_pattern": "{site}/*", "threshold": 0.5, "top_k": "all"}
    done = run(embedded, trained.uri, out, **given)
    old, new = (pa.concat_tables(shards(place).values()) for place in (embedded, out))
    both = zip(new.to_pylist(), old.to_pylist(), strict=True)
    rows = [(row, was) for row, was in both if row["status"] == "ok"]
    for row, was in rows:
        # A site with rows of its own has those of all sites too, and others have those alone.
        excluded = {"n9"} if "/n0/" not in row["uri"] else set()
        before = {each["label"]: each["score"] for each in was["top_k"]}
        left = {label: score for label, score in before.items() if label not in excluded}
        assert {each["label"] for each in row["top_k"]} == {"n0", "n5", "n9"} - excluded
        assert row["label"] == max(left, key=left.__getitem__)
        # The others share the probability in proportion, also for the threshold.
        assert row["score"] == pytest.approx(max(left.values()) / sum(left.values()), abs=1e-4)
        assert (row["decision"] == "accepted") == (row["score"] >= np.float32(0.5))
        assert row["excluded_label"] == (was["label"] if was["label"] in excluded else None)
    assert {row["excluded_label"] for row, _ in rows} == {None, "n9"}
    assert new["excluded_label"].null_count >= 28
    changed = len(new) - new["excluded_label"].null_count
    assert done.excluded == {"n9": changed}
    assert f"{changed} with another label because of --allowed" in str(done)
    # The table is part of the run's identity, whatever the order of its rows.
    table.write_text("label,site\nn0,\nn5,\nn9,n0\nn5,n0\n")
    assert run(embedded, trained.uri, out, **given).scored == 0
    table.write_text("label,site\nn0,\nn5,\n")
    with pytest.raises(RunError, match="allowed"):
        run(embedded, trained.uri, out, **given)
    # What is rescored without it has neither its labels nor its column.
    run(out, trained.uri, tmp_path / "again")
    assert_predicted_alike(shards(tmp_path / "again"), shards(embedded))
    assert "excluded_label" not in next(iter(shards(tmp_path / "again").values())).column_names


def test_another_head_gives_what_scoring_with_it_gives(
    second: str, embedded: Path, tmp_path: Path
) -> None:
    run(embedded, second, tmp_path / "out", top_k="all")
    old, new = shards(embedded), shards(tmp_path / "out")
    bundle = load_bundle(second, Storage())
    options = ScoreOptions(("middle",), 3, None, True, Limits())
    scorer = BatchScorer(bundle, options)
    engine = options.engine.build(bundle.network(options.views))
    middle = functools.partial(decode, views=("middle",))
    scored = {}
    for name, table in old.items():
        nothing = pa.nulls(table.num_rows)
        plan = pa.table({"uri": table["uri"], "size_bytes": nothing, "version": nothing})
        fetched = [fetch(Storage(), uri, None, Limits()) for uri in table["uri"].to_pylist()]
        batch = Batch(plan, fetched)
        columns, pixels, good = batch.decode(224, Limits(), middle)
        scored[name] = scorer(batch, columns, good, *engine(pixels))
    assert_predicted_alike(new, scored)
    together, before = pa.concat_tables(new.values()), pa.concat_tables(old.values())
    assert set(together["model_id"].to_pylist()) == {bundle.model_id}
    assert {"accepted", "no_threshold"} <= set(together["decision"].to_pylist())
    differences = pc.abs(pc.subtract(together["score"], before["score"]))
    assert pc.max(differences).as_py() > 0.1


def test_rescoring_resumes(
    trained: Trained, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def half(
        pool: MachinePool, job: Any, shards: list[int], *rest: Any, **options: Any
    ) -> NoReturn:
        whole(pool, job, shards[:9], *rest, **options)
        raise KeyboardInterrupt

    whole = MachinePool.run
    monkeypatch.setattr(MachinePool, "run", half)
    with pytest.raises(KeyboardInterrupt):
        run(embedded, trained.uri, out)
    monkeypatch.setattr(MachinePool, "run", whole)
    assert not (out / "_SUCCESS").exists()
    kept = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert len(kept) == 9
    summary = run(embedded, trained.uri, out)
    assert summary.already == sum(pq.read_metadata(out / name).num_rows for name in kept)
    assert summary.scored == 44 - summary.already > 0
    for name, data in kept.items():
        assert (out / name).read_bytes() == data
    assert_predicted_alike(shards(out), shards(embedded))
    # Nothing is left to do, and workers are not needed to see that.
    monkeypatch.setattr(MachinePool, "run", None)
    assert run(embedded, trained.uri, out).scored == 0


def test_on_s3(trained: Trained, embedded: Path, s3: Storage) -> None:
    upload(s3, embedded, "s3://photos/embedded")
    store = StoreConfig(quiet=True, s3_endpoint=s3.s3_endpoint)
    out = "s3://photos/rescored"
    assert run("s3://photos/embedded", trained.uri, out, store=store).images == 44
    names = [entry.uri for entry in s3.list(out) if entry.uri.endswith(".parquet")]
    assert len(names) == 22
    new = {
        name[len(out) + 1 :][:10]: pq.read_table(pa.BufferReader(s3.read(name).data))
        for name in sorted(names)
    }
    assert_same_but_predicted(new, shards(embedded))
    assert_predicted_alike(new, shards(embedded))


def change(**values: Any) -> Callable[[Path], None]:
    """What gives a run another identity."""

    def apply(place: Path) -> None:
        stored = json.loads((place / "_run.json").read_text())
        stored["identity"] |= values
        (place / "_run.json").write_text(json.dumps(stored))

    return apply


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (change(embeddings=False), r"no embeddings.*`monkeyray score --embeddings`"),
        (
            change(backbone_weights="0" * 64),
            r"a different backbone .* without --fine-tune, or score the images",
        ),
        (change(decode_version=0), "a different backbone"),
        (
            change(views=["whole"]),
            r"the view whole of each image.* the view middle: .* --crop whole --views 1",
        ),
        (change(schema_version=1), "another version of MonkeyRay"),
        (lambda place: (place / "_SUCCESS").unlink(), r"not finished \(.*no _SUCCESS\)"),
        (lambda place: (place / "_run.json").unlink(), "no predictions in"),
        (lambda place: (place / "_run.json").write_text("{"), "damaged.*score the images again"),
    ],
)
def test_invalid_rescorings(
    harm: Callable[[Path], None],
    words: str,
    trained: Trained,
    embedded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened(*arguments: Any) -> None:
        raise AssertionError("a mistake was not found before the workers")

    monkeypatch.setattr(monkeyray.scoring.rescore, "open_pool", opened)
    shutil.copytree(embedded, tmp_path / "in")
    harm(tmp_path / "in")
    with pytest.raises(InputError, match=words):
        run(tmp_path / "in", trained.uri, tmp_path / "out")
    assert not list(tmp_path.glob("out/*.parquet"))


def test_missing_or_changed_file_is_refused(
    trained: Trained, embedded: Path, tmp_path: Path
) -> None:
    shutil.copytree(embedded, tmp_path / "in")
    names = sorted((tmp_path / "in").glob("*.parquet"))
    old = open_predictions(str(tmp_path / "in"), Storage())
    names[3].unlink()
    shutil.copy(names[5], names[4])
    bundle = load_bundle(trained.uri, Storage())
    options = ScoreOptions(("middle",), 3, None, True, Limits())
    rescorer = Rescorer(old, PostProcessor(bundle, options), bundle.head_weights)
    for shard in (3, 4):
        with pytest.raises(InputError, match=f"{names[shard].name} is gone or was changed"):
            list(rescorer(shard, old.run.plan.read(shard)))
    (rows,) = rescorer(5, old.run.plan.read(5))
    assert rows.num_rows == 2
    head = {name: array.copy() for name, array in bundle.head_weights.items()}
    bias = next(name for name, array in head.items() if array.ndim == 1)
    head[bias][0] = np.inf
    (rows,) = replace(rescorer, head_weights=head)(5, old.run.plan.read(5))
    assert rows.select(["status", "error", "label"]).to_pylist() == 2 * [
        {"status": OVERFLOW[0], "error": OVERFLOW[1], "label": None}
    ]


def test_predictions_updated_meanwhile_are_refused(
    trained: Trained, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(embedded, tmp_path / "in")

    def update(*arguments: Any, **options: Any) -> None:
        new = "0123abcd"
        stored = json.loads((tmp_path / "in" / "_run.json").read_text())
        changed = {**stored, "ids": [*stored["ids"], new]}
        (tmp_path / "in" / "_run.json").write_text(json.dumps(changed))
        stored = json.loads((tmp_path / "in" / "_SUCCESS").read_text())
        (tmp_path / "in" / "_SUCCESS").write_text(json.dumps({**stored, "run_id": new}))

    monkeypatch.setattr("monkeyray.runs.workers.pools.MachinePool.run", update)
    with pytest.raises(InputError, match="updated meanwhile"):
        run(tmp_path / "in", trained.uri, tmp_path / "out")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("predictions", "model", "output"),
    [("a", "m", "a"), ("a", "m", "a/b"), ("a/b", "m", "a"), ("a", "b/m", "b")],
)
def test_places_do_not_overlap(predictions: str, model: str, output: str) -> None:
    with pytest.raises(ConfigError, match="which may hold only the files of a run"):
        RescoreConfig(predictions=predictions, model=model, output=output)
