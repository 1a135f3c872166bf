"""Stores and networks on a bad day: both jobs and their storage behind a faulty proxy."""

from __future__ import annotations

import functools
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.cli.main import main
from monkeyray.errors import ConflictError, FaultError, MissingError, StorageError
from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.options import StoreConfig
from monkeyray.runs import lease as leases
from monkeyray.runs.run import read_parquet
from monkeyray.runs.workers.batches import batches
from monkeyray.runs.workers.fetch import Fetched, Refusals
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.storage.retries import START_PATIENCE_SECONDS
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train
from tests.support.faulty import KINDS, FaultyProxy, Kind
from tests.support.files import upload

CARD = "s3://photos/faulty/card"
UNIT = "s3://photos/faulty/unit"
IMAGES = 126


@pytest.fixture(scope="module")
def card(s3: Storage, few: Path) -> str:
    """Every photograph three times, in S3."""
    for copy in "abc":
        upload(s3, few, f"{CARD}/{copy}")
    return CARD


@pytest.fixture(scope="module")
def trained(s3: Storage, card: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of which every third request for images was disturbed."""
    assert s3.s3_endpoint
    model = tmp_path_factory.mktemp("model") / "first"
    with FaultyProxy(s3.s3_endpoint, rate=0.3) as proxy:
        store = StoreConfig(s3_endpoint=proxy.url, quiet=True)
        done = train(TrainConfig(images=f"{card}/a", model=str(model), store=store))
        assert proxy.disturbed.total() >= 0.15 * proxy.requests
        assert set(proxy.disturbed) == set(KINDS)
    return done


@pytest.fixture
def proxy(s3: Storage) -> Iterator[FaultyProxy]:
    assert s3.s3_endpoint
    with FaultyProxy(s3.s3_endpoint) as faulty:
        yield faulty


@pytest.fixture(scope="module")
def undisturbed(s3: Storage, card: str, trained: Trained) -> dict[str, Any]:
    """The rows of the card when nothing happens."""
    assert s3.s3_endpoint
    with FaultyProxy(s3.s3_endpoint) as healthy:
        summary = scored(healthy, trained, "undisturbed", embeddings=True)
        assert summary.statuses == Counter(ok=IMAGES)
        assert healthy.requests > IMAGES
        assert not healthy.disturbed
    return rows(s3, "undisturbed")


def scored(
    proxy: FaultyProxy, trained: Trained, name: str, images: str = CARD, **options: Any
) -> Summary:
    summary = score(
        ScoreConfig(
            images=images,
            model=trained.uri,
            predictions=place(name),
            rows_per_file=16,
            store=StoreConfig(s3_endpoint=proxy.url, quiet=True),
            **options,
        )
    )
    assert isinstance(summary, Summary)
    return summary


def place(name: str) -> str:
    return f"s3://photos/faulty/out/{name}"


def rows(storage: Storage, name: str) -> dict[str, Any]:
    """All rows that are published, by URI."""
    found: dict[str, Any] = {}
    for entry in storage.list(place(name)):
        if entry.uri.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(storage.read(entry.uri).data))
            for row in table.to_pylist():
                assert row["uri"] not in found
                found[row["uri"]] = row
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for uri, row in expected.items():
        for name in ("status", "error", "label", "sha256", "etag_or_mtime", "size_bytes"):
            assert found[uri][name] == row[name], (uri, name)
        scores, others = (
            {item["label"]: item["score"] for item in side[uri]["top_k"]}
            for side in (expected, found)
        )
        assert others == pytest.approx(scores, abs=1e-6)


# -- whole jobs --------------------------------------------------------------------------------


def test_faults_change_no_row(
    s3: Storage, proxy: FaultyProxy, trained: Trained, undisturbed: dict[str, Any]
) -> None:
    proxy.disturb(0.3)
    assert scored(proxy, trained, "faults").statuses == Counter(ok=IMAGES)
    assert proxy.disturbed.total() >= 0.15 * proxy.requests
    assert set(proxy.disturbed) == set(KINDS)
    assert_same(rows(s3, "faults"), undisturbed)


def test_training_through_faults_misses_nothing(
    trained: Trained, undisturbed: dict[str, Any]
) -> None:
    assert trained.opened == trained.model["data"]["used"] == 42
    assert trained.accuracy >= 0.8
    features = pq.read_table(sorted(Path(trained.uri).glob("features/*/*/*.parquet"))).to_pylist()
    assert len(features) == 42
    for row in features:
        expected = undisturbed[row["uri"]]
        assert row["sha256"] == expected["sha256"]
        np.testing.assert_allclose(row["embedding"], expected["embedding"], atol=1e-4)


def test_credentials_that_end_in_mid_run_become_no_rows(
    s3: Storage, proxy: FaultyProxy, trained: Trained, undisturbed: dict[str, Any]
) -> None:
    published: dict[str, Any] = {}
    for code, status in (("ExpiredToken", 400), ("AccessDenied", 403)):
        proxy.heal()
        end = functools.partial(proxy.answer_all, code, status)
        proxy.after_gets(45, "/card/", end)
        with pytest.raises(StorageError) as error:
            scored(proxy, trained, "ended")
        assert not isinstance(error.value, FaultError)
        assert len(str(error.value).splitlines()) == 1
        assert proxy.disturbed[code]
        assert set(published) <= set(rows(s3, "ended"))
        published = rows(s3, "ended")
        assert len(published) < IMAGES
        assert all(row["status"] == "ok" for row in published.values())
        assert not s3.exists(f"{place('ended')}/_SUCCESS")
        # It could not be given back, and its owner, this very process, lives on.
        s3.delete(f"{place('ended')}/_lease.json")
    proxy.heal()
    summary = scored(proxy, trained, "ended")
    assert summary.statuses == Counter(ok=IMAGES)
    assert summary.already == len(published)
    assert_same(rows(s3, "ended"), undisturbed)


def test_forbidden_and_missing_images_are_error_rows(
    s3: Storage, proxy: FaultyProxy, trained: Trained, undisturbed: dict[str, Any]
) -> None:
    uris = sorted(undisturbed)
    forbidden, missing = uris[70], f"{CARD}/b/gone.jpg"
    lines = ["uri", *uris[:40], missing, *uris[40:]]
    s3.write(f"{CARD}.csv", "\n".join(lines).encode())
    proxy.answer_all("AccessDenied", 403, objects=forbidden.removeprefix("s3:/") + "$")
    summary = scored(proxy, trained, "refused", images=f"{CARD}.csv")
    assert summary.statuses == Counter(ok=IMAGES - 1, forbidden=1, missing=1)
    found = rows(s3, "refused")
    assert found.pop(missing)["status"] == "missing"
    assert found.pop(forbidden)["status"] == "forbidden"
    assert_same(found, {uri: undisturbed[uri] for uri in found})


def test_temporary_outage_changes_no_row(
    s3: Storage,
    proxy: FaultyProxy,
    trained: Trained,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Gone for longer than a renewal of the lease is tried, so that one is left out.
    monkeypatch.setattr(leases, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(leases, "_PATIENCE_SECONDS", 2.0)
    gone: list[float] = []

    def go() -> None:
        gone.append(time.monotonic())
        proxy.pause()
        threading.Timer(4, proxy.resume).start()

    proxy.after_gets(50, "/card/", go)
    assert scored(proxy, trained, "gone").statuses == Counter(ok=IMAGES)
    assert time.monotonic() - gone[0] > 4
    assert_same(rows(s3, "gone"), undisturbed)


def test_permanent_outage_stops_the_job_and_it_resumes_later(
    s3: Storage,
    proxy: FaultyProxy,
    trained: Trained,
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "_PATIENCE_SECONDS", 1.0)
    proxy.after_gets(50, "/card/", proxy.pause)
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                "score", "--images", CARD, "--model", trained.uri,
                "--predictions", place("for-good"), "--rows-per-file", "16",
                "--s3-endpoint", proxy.url, "--store-patience-seconds", "3",
            ]
        )  # fmt: skip
    assert exit_.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    lines = [line for line in printed if not line.startswith("scoring:")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: cannot reach {proxy.url}")
    assert 0 < len(rows(s3, "for-good")) < IMAGES
    # It could not be given back, and its owner, this very process, lives on.
    s3.delete(f"{place('for-good')}/_lease.json")
    proxy.resume()
    assert scored(proxy, trained, "for-good").already > 0
    assert_same(rows(s3, "for-good"), undisturbed)


@pytest.mark.parametrize("command", ["score", "train"])
def test_an_endpoint_that_is_not_there_is_one_line_within_seconds(
    command: str,
    proxy: FaultyProxy,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert START_PATIENCE_SECONDS <= 10
    monkeypatch.setattr("monkeyray.storage.store.START_PATIENCE_SECONDS", 2.0)
    proxy.pause()
    arguments = {
        "score": ["--model", trained.uri, "--predictions", str(tmp_path / "out")],
        "train": ["--model", str(tmp_path / "model")],
    }
    start = time.monotonic()
    with pytest.raises(SystemExit) as exit_:
        main([command, "--images", CARD, "--s3-endpoint", proxy.url, *arguments[command]])
    seconds = time.monotonic() - start
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert f"cannot reach {proxy.url}" in lines[0]
    assert seconds < 20


# -- storage -----------------------------------------------------------------------------------


def through(proxy: FaultyProxy, patience_seconds: float = 60) -> Storage:
    return Storage(s3_endpoint=proxy.url, patience_seconds=patience_seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_is_whole_or_an_error(kind: Kind, s3: Storage, proxy: FaultyProxy) -> None:
    data = np.random.default_rng(0).bytes(300_000)
    uri = f"{UNIT}/read-{kind}"
    s3.write(uri, data)
    # As often as boto3 tries by itself.
    for _ in range(3):
        proxy.disturb_next(kind, f"GET .*{kind}$")
    assert through(proxy).read(uri).data == data
    assert proxy.disturbed.total() == (1 if kind == "delay" else 3)
    proxy.disturb(1, [kind])
    if kind == "delay":
        assert through(proxy).read(uri).data == data
        return
    start = time.monotonic()
    with pytest.raises(FaultError) as error:
        through(proxy, patience_seconds=1).read(uri)
    assert time.monotonic() - start < 15
    assert len(str(error.value).splitlines()) == 1
    assert proxy.url in str(error.value)


def test_all_operations_survive_faults(s3: Storage, proxy: FaultyProxy) -> None:
    folder = f"{UNIT}/all"
    storage = through(proxy)
    proxy.disturb(0.4)
    for number in range(10):
        storage.write(f"{folder}/{number % 3}/{number}", bytes(number))
    assert [e.size_bytes for e in storage.list(folder)] == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    assert storage.exists(f"{folder}/0/0")
    assert not storage.exists(f"{folder}/0/1")
    with pytest.raises(MissingError):
        storage.read(f"{folder}/0/1")
    storage.check_writable(folder)
    storage.delete_tree(folder)
    proxy.heal()
    assert list(storage.list(folder)) == []
    assert proxy.disturbed.total() >= 10


@pytest.mark.parametrize("losses", [1, 3])
def test_create_and_replace_keep_their_promise_when_answers_are_lost(
    losses: int, s3: Storage, proxy: FaultyProxy
) -> None:
    storage, uri = through(proxy), f"{UNIT}/promise-{losses}"

    def lose() -> None:
        # Just the first one, or as often as boto3 tries by itself.
        for _ in range(losses):
            proxy.disturb_next("lose", "PUT .*promise")

    lose()
    first = storage.create(uri, b"first")
    assert proxy.disturbed == Counter(lose=losses)
    assert (s3.read(uri).data, s3.read(uri).version) == (b"first", first)
    lose()
    with pytest.raises(ConflictError):
        storage.create(uri, b"another")
    lose()
    second = storage.replace(uri, b"second", first)
    assert (s3.read(uri).data, s3.read(uri).version) == (b"second", second)
    lose()
    with pytest.raises(ConflictError):
        storage.replace(uri, b"third", first)
    assert s3.read(uri).data == b"second"
    assert proxy.disturbed == Counter(lose=4 * losses)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("if-none-match", "its store created a file that existed"),
        ("if-match", "its store replaced an old version"),
    ],
)
def test_a_store_that_ignores_conditions_is_refused(
    header: str, words: str, s3: Storage, proxy: FaultyProxy
) -> None:
    folder = f"{UNIT}/{header}"
    storage = through(proxy)
    storage.check_conditions(folder)
    proxy.ignore(header)
    with pytest.raises(StorageError, match=f"cannot write to {folder}: {words}"):
        storage.check_conditions(folder)
    storage.check_writable(folder)
    assert not [*s3.list(folder)]


def test_a_store_is_proven_through_lost_answers_and_conflicts(
    s3: Storage, proxy: FaultyProxy
) -> None:
    for _ in range(4):
        proxy.disturb_next("lose", r"PUT .*\.tmp")
    through(proxy).check_conditions(f"{UNIT}/proof")
    assert proxy.disturbed == Counter(lose=4)
    proxy.answer_all("ConditionalRequestConflict", 409)
    with pytest.raises(StorageError, match="another program writes there at the same time"):
        through(proxy, patience_seconds=2).check_conditions(f"{UNIT}/proof")
    threading.Timer(3, proxy.heal).start()
    through(proxy).check_conditions(f"{UNIT}/proof")


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_job_refuses_a_store_that_ignores_conditions(
    header: str,
    s3: Storage,
    proxy: FaultyProxy,
    trained: Trained,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy.ignore(header)
    arguments = ["score", "--images", CARD, "--model", trained.uri, "--s3-endpoint", proxy.url]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--predictions", place("ignored")])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "conditional writes cannot keep two runs apart: write to another store" in line
    assert not [*s3.list(place("ignored"))]


def test_replacing_a_missing_file_fails(s3: Storage, proxy: FaultyProxy) -> None:
    with pytest.raises(ConflictError):
        through(proxy).replace(f"{UNIT}/none", b"x", "0" * 32)
    # What AWS answers to that.
    proxy.answer_all("NoSuchKey", 404)
    with pytest.raises(ConflictError):
        through(proxy).replace(f"{UNIT}/none", b"x", "0" * 32)
    assert not s3.exists(f"{UNIT}/none")


def test_permanent_outage_is_an_error_within_the_patience(proxy: FaultyProxy) -> None:
    storage = through(proxy, patience_seconds=3)
    proxy.pause()
    start = time.monotonic()
    with pytest.raises(FaultError, match=f"cannot reach {proxy.url}"):
        storage.read(f"{UNIT}/x")
    assert 3 <= time.monotonic() - start < 20
    with pytest.raises(FaultError, match=f"cannot reach {proxy.url}"):
        list(through(proxy, patience_seconds=0).list(UNIT))


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("ExpiredToken", 400, "credentials have expired"),
        ("InvalidAccessKeyId", 403, "credentials are wrong"),
        ("SomethingNew", 400, "SomethingNew"),
    ],
)
def test_permanent_errors_are_not_retried(
    code: str, status: int, words: str, proxy: FaultyProxy
) -> None:
    proxy.answer_all(code, status)
    for call in ("read", "exists", "delete", "check_writable", "check_reachable"):
        with pytest.raises(StorageError, match=words) as error:
            getattr(through(proxy), call)(f"{UNIT}/x")
        assert not isinstance(error.value, FaultError)
    # A read that failed is asked once more through boto3, which tells why.
    assert proxy.requests == 5 + 1


def test_threads_share_a_client(s3: Storage) -> None:
    storage = Storage(s3_endpoint=s3.s3_endpoint)
    ready = threading.Barrier(16)

    def client(_: int) -> int:
        ready.wait()
        return id(storage._at("s3://photos")[0])

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(client, range(16)))) == 1


def test_a_wrong_secret_is_reported_but_not_shown(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-secret")
    with pytest.raises(StorageError, match="credentials are wrong") as error:
        through(proxy).read(f"{UNIT}/x")
    assert not isinstance(error.value, FaultError)
    assert "planted" not in str(error.value)
    assert proxy.requests == 2  # once plain, once through boto3, which tells why


def test_open_reads_ranges_of_a_file_through_faults(s3: Storage, proxy: FaultyProxy) -> None:
    uri = f"{UNIT}/table.parquet"
    values = np.random.default_rng(0).random((2, 50_000))
    table = pa.table({"a": values[0], "b": values[1]})
    pq.write_table(table, sink := io.BytesIO())
    s3.write(uri, sink.getvalue())
    proxy.disturb(0.4)
    with through(proxy).open(uri) as file:
        assert pq.read_table(file, columns=["a"]).equals(table.select(["a"]))
        file.seek(-10, io.SEEK_END)
        assert file.read() == sink.getvalue()[-10:]
        assert file.read() == b""
        file.seek(100)
        proxy.heal()
        s3.write(uri, b"another version")
        with pytest.raises(ConflictError):
            file.read(100)
    s3.write(f"{UNIT}/empty", b"")
    assert through(proxy).open(f"{UNIT}/empty").read() == b""
    with pytest.raises(MissingError):
        through(proxy).open(f"{UNIT}/none")


@pytest.mark.parametrize(("kind", "times"), [("cut", 2), ("drop", 7)])
def test_columns_and_manifests_are_read_with_the_same_patience(
    kind: Kind, times: int, s3: Storage, proxy: FaultyProxy
) -> None:
    uri = f"{UNIT}/manifest.parquet"
    table = pa.table({"uri": [f"s3://photos/{number}" for number in range(100)]})
    pq.write_table(table, sink := io.BytesIO())
    s3.write(uri, sink.getvalue())
    for _ in range(times):
        proxy.disturb_next(kind, "GET .*manifest")
    assert read_parquet(through(proxy), uri, ["uri"]).equals(table)
    for _ in range(times):
        proxy.disturb_next(kind, "GET .*manifest")
    (listed,) = list_images(uri, through(proxy), Counter())
    assert listed["uri"].equals(table["uri"])
    proxy.answer_all("ExpiredToken", 400)
    with pytest.raises(StorageError, match="expired"):
        read_parquet(through(proxy), uri, ["uri"])


# -- images that are refused -------------------------------------------------------------------

GOOD = Fetched(b"data", None)
REFUSED = Fetched(None, None, "forbidden", "no")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary.jpg"
    path.write_bytes(b"data")
    return path


def test_as_many_refusals_as_the_limit_end_the_job() -> None:
    refusals = Refusals(Storage(), 20)
    for number in range(19):
        refusals.see(f"/{number}", REFUSED)
    refusals.prove()  # of nothing is known that it could be read
    with pytest.raises(StorageError, match="20 consecutive images are forbidden, the last is /x"):
        refusals.see("/x", REFUSED)


@pytest.mark.parametrize("between", [GOOD, Fetched(None, None, "too_large", "large")])
def test_only_consecutive_refusals_count(between: Fetched, canary: Path) -> None:
    refusals = Refusals(Storage(), 20)
    for _ in range(5):
        for _ in range(19):
            refusals.see("/x", REFUSED)
        refusals.see(str(canary), between)


def test_an_image_that_could_be_read_is_asked_for_as_a_sequence_grows(canary: Path) -> None:
    refusals = Refusals(Storage(), 1000)
    refusals.see(str(canary), GOOD)
    for _ in range(8):
        refusals.see("/x", REFUSED)
    canary.unlink()
    for _ in range(7):
        refusals.see("/x", REFUSED)
    with pytest.raises(StorageError, match=r"canary\.jpg, which could be read before, is missing"):
        refusals.see("/x", REFUSED)


def test_refusals_are_proven_once_and_at_the_end(canary: Path) -> None:
    refusals = Refusals(Storage(), 1000)
    refusals.see("/x", REFUSED)
    refusals.see(str(canary), GOOD)
    refusals.prove()
    canary.unlink()
    refusals.prove()  # nothing was refused since
    refusals.see("/x", REFUSED)
    with pytest.raises(StorageError, match="could be read before"):
        refusals.prove()


def test_a_good_image_behind_a_refused_one_proves_nothing(canary: Path) -> None:
    # It may have been fetched before the other one.
    refusals = Refusals(Storage(), 1000)
    refusals.see("/x", REFUSED)
    refusals.see(str(canary), GOOD)
    canary.unlink()
    with pytest.raises(StorageError, match="could be read before"):
        refusals.prove()


@pytest.mark.parametrize("before", [1, 20])
def test_refusals_of_everything_leave_no_batch(
    before: int, card: str, s3: Storage, proxy: FaultyProxy
) -> None:
    uris = [entry.uri for entry in s3.list(f"{card}/a")]
    nulls = pa.nulls(len(uris))
    plan = pa.table({"uri": uris, "size_bytes": nulls, "version": nulls})

    def run(refusals: Refusals) -> list[str]:
        storage = through(proxy)
        made = batches(plan, storage, Limits(), batch_size=64, threads=16, refusals=refusals)
        return [item.status for batch in made for item in batch.fetched]

    refusals = Refusals(through(proxy), 1000)
    assert run(refusals) == ["ok"] * 42
    proxy.after_gets(before, "/card/a/", lambda: proxy.answer_all("AccessDenied", 403))
    with pytest.raises(StorageError, match="which could be read before, is forbidden now"):
        run(refusals)
