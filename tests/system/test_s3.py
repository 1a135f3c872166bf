"""A real S3 server: storage, and both jobs with everything in buckets."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import MissingError, StorageError
from monkeyray.options import StoreConfig
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train
from tests.support.faulty import FaultyProxy
from tests.support.files import upload
from tests.support.weed import start_weed

NAMES = ["a b.jpg", "100%.jpg", "x#1?.jpg", "plus+.jpg", "日本.jpg", "deep/er/'q\".jpg"]


def test_awkward_keys_round_trip(s3: Storage) -> None:
    for name in NAMES:
        s3.write(f"s3://photos/odd/{name}", name.encode())
    listed = {entry.uri: entry for entry in s3.list("s3://photos/odd")}
    assert set(listed) == {f"s3://photos/odd/{name}" for name in NAMES}
    for uri, entry in listed.items():
        blob = s3.read(uri)
        assert blob.data.decode() == uri.removeprefix("s3://photos/odd/")
        assert blob.version == entry.version
        assert entry.size_bytes == len(blob.data)
        assert s3.stat(uri) == entry
    s3.delete_tree("s3://photos/odd")
    assert list(s3.list("s3://photos/odd")) == []


@pytest.mark.parametrize("data", [b"", b"x" * 100_000])
def test_a_single_object_is_listed_without_its_bytes(s3: Storage, data: bytes) -> None:
    assert s3.s3_endpoint
    s3.write("s3://photos/single/a", data)
    with FaultyProxy(s3.s3_endpoint) as proxy:
        through = Storage(s3_endpoint=proxy.url)
        assert list(through.list("s3://photos/single/a")) == [s3.stat("s3://photos/single/a")]
        assert proxy.requests <= 2
    assert s3.exists("s3://photos/single/a")


def test_errors_say_what_is_wrong(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError):
        s3.read("s3://photos/nothing.jpg")
    with pytest.raises(StorageError, match="bucket 'nowhere-at-all' does not exist") as missing:
        s3.read("s3://nowhere-at-all/x.jpg")
    assert not isinstance(missing.value, MissingError)
    with pytest.raises(StorageError, match=r"cannot reach http://127\.0\.0\.1:1"):
        Storage(s3_endpoint="http://127.0.0.1:1", patience_seconds=3).read("s3://photos/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-planted-wrong-secret")
    with pytest.raises(StorageError, match="credentials") as wrong:
        Storage(s3_endpoint=s3.s3_endpoint).read("s3://photos/x")
    assert "a-planted-wrong-secret" not in str(wrong.value)


def test_one_server_is_read_and_another_written(
    s3: Storage, few: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(s3, few / "n0", "s3://photos/one")
    keys = tmp_path / "credentials"
    keys.write_text(
        "[reader]\naws_access_key_id=admin\naws_secret_access_key=secret-of-tests\n"
        "[writer]\naws_access_key_id=other\naws_secret_access_key=another-secret\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with start_weed(tmp_path / "weed", "results", "other", "another-secret") as (second, _):
        command = [
            sys.executable, "-m", "monkeyray", "score", "--images", "s3://photos/one",
            "--model", trained.uri, "--predictions", "s3://results/out", "--rows-per-file", "4",
            "--s3-endpoint", str(s3.s3_endpoint), f"results={second.s3_endpoint}",
            "--profile", "reader", "results=writer",
        ]  # fmt: skip
        # In a process of its own: the session's Ray does not know these accounts.
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        out = Storage(s3_endpoint=second.s3_endpoint, profile="writer")
        parts = [e.uri for e in out.list("s3://results/out") if e.uri.endswith(".parquet")]
        tables = [pq.read_table(io.BytesIO(out.read(uri).data)) for uri in parts]
        assert pa.concat_tables(tables)["status"].to_pylist() == ["ok"] * 14
        with pytest.raises(StorageError, match="credentials are wrong"):
            Storage(s3_endpoint=second.s3_endpoint, profile="reader").read("s3://results/out/x")


def test_both_jobs_in_buckets_agree_with_local_disk(
    s3: Storage, few: Path, trained: Trained, embedded: Path
) -> None:
    upload(s3, few, "s3://photos/few")
    store = StoreConfig(s3_endpoint=s3.s3_endpoint, quiet=True)
    model, predictions = "s3://photos/models/first", "s3://photos/out/remote"
    done = train(TrainConfig(images="s3://photos/few", model=model, store=store))
    assert done.opened == 42
    assert done.model["model_id"] == trained.model["model_id"]
    assert not [e for e in s3.list(model) if "/.training/" in e.uri]
    summary = score(
        ScoreConfig(images="s3://photos/few", model=model, predictions=predictions, store=store)
    )
    assert isinstance(summary, Summary)
    assert summary.statuses == Counter(ok=42)

    def rows(table: pa.Table) -> dict[str, tuple[str, float]]:
        table = table.filter(pc.equal(table["status"], "ok"))
        names = ["/".join(uri.split("/")[-2:]) for uri in table["uri"].to_pylist()]
        values = zip(table["label"].to_pylist(), table["score"].to_pylist(), strict=True)
        return dict(zip(names, values, strict=True))

    parts = [e.uri for e in s3.list(predictions) if e.uri.endswith(".parquet")]
    tables = [pq.read_table(io.BytesIO(s3.read(uri).data)) for uri in parts]
    remote, local = rows(pa.concat_tables(tables)), rows(pq.read_table(embedded))
    assert set(remote) == set(local)
    for name, (label, value) in remote.items():
        assert local[name][0] == label
        assert local[name][1] == pytest.approx(value, abs=1e-5)
