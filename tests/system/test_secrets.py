"""No credential goes into what is printed, raised or written, wherever it was planted."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monkeyray.cli.main import entry, main
from monkeyray.errors import ConfigError, InputError, StorageError
from monkeyray.labels.listing import list_labelled
from monkeyray.redact import has_secret, masked, masked_anywhere
from monkeyray.storage.backends.local import local_errors
from monkeyray.storage.backends.s3 import endpoint_of
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained
from monkeyray.training.tracking.tracker import problem_of

#: Places with a credential, as people copy them from consoles and old scripts.
PLANTED = [
    "s3://AKIA:hunter2@bucket/photos",
    "s3://AKIA:hun/ter/hunter2@bucket/photos",
    "S3://hunter2@bucket",
    "gs://bucket/a?access_token=hunter2",
    "hdfs://me:hunter2@host:8020/a@b",
    "https://host/a.jpg?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=hunter2",
    "https://host/a.jpg?AWSAccessKeyId=AKIA&Signature=hunter2&Expires=1",
    "https://account.blob.core.windows.net/photos?sv=2025&sig=hunter2%3D",
    "abfs://photos:hunter2@account.dfs.core.windows.net/a",
    "abfss://:hunter2@account/photos/a",
    "abfs://photos@account.dfs.core.windows.net/a?client_secret=hunter2",
    "simplecache::s3://AKIA:hunter2@bucket/a",
    "file://me:hunter2@host/a",
    "s3:/AKIA:hunter2@bucket",
]

#: Places that look a little like that and carry nothing.
PLAIN = [
    "s3://bucket/a@b:c@d.jpg",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:photos/a@b.jpg",
    "s3://bucket/site=1/IMG?x=1.jpg",
    "hdfs://host:8020/a@b.jpg",
    "abfs://photos@account.dfs.core.windows.net/a",
    "memory://a/b@c",
    "/data/me:us@home/a.jpg?token=1",
]


@pytest.mark.parametrize("uri", PLANTED)
def test_places_with_credentials_are_refused(uri: str, tmp_path: Path) -> None:
    assert "hunter2" not in masked(uri)
    assert has_secret(uri)
    with pytest.raises(ConfigError, match=r"contains credentials|malformed") as found:
        Location.parse(uri)
    assert "hunter2" not in str(found.value)
    # Among others, in a manifest.
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"uri,label\n{tmp_path}/a.jpg,x\n{uri}/1.jpg,x\ns3://b/a@b.jpg,x\n")
    with pytest.raises(InputError, match="malformed URI") as wrong:
        list_labelled(str(manifest), Storage(), Counter())
    assert "hunter2" not in str(wrong.value)


@pytest.mark.parametrize("uri", PLAIN)
def test_other_places_are_left_as_they_are(uri: str) -> None:
    assert str(Location.parse(uri)) == uri
    assert not has_secret(uri)


WORD = st.text(
    st.characters(codec="ascii", exclude_characters="@", categories=["L", "N", "P"]), min_size=1
)


@given(WORD.filter(lambda word: not set(word) & {"/", ":"}), WORD)
@example("AKIA", "wJalr/XUtn+FEMI/K7MDENG")
@example("AKIA", "123/")
def test_any_password_goes(user: str, password: str) -> None:
    uri = f"s3://{user}:{password}hunter2@bucket/x"
    assert "hunter2" not in masked_anywhere(f"cannot open {uri!r}: or {uri}")


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """What was printed, searched at the end."""
    kept: list[str] = []
    yield kept
    printed = capfd.readouterr()
    kept += [printed.out, printed.err]
    assert kept[1]
    assert not re.search("hunter2", "".join(kept))


@pytest.mark.parametrize(
    "arguments",
    [
        ["s3://me:hunter2@bucket"],
        ["train", "s3://me:hunter2@bucket"],
        ["train", "--imges", "s3://me:hunter2@bucket", "--model", "m"],
        ["train", "--images=s3://me:hunter2@bucket", "--model", "m", "--debug"],
        ["train", "--s3://me:hunter2@bucket"],
        ["train", "--images", "i", "--model", "m", "--seed", "http://me:hunter2@host"],
        ["train", "--images", "i", "--model", "m", "--mlflow", "postgresql://me:hunter2@db/x"],
        ["train", "--images", "i", "--model", "m", "--s3-endpoint", "http://h?token=hunter2"],
        ["export", "--format", "https://host/?sig=hunter2", "--debug"],
        ["score", "--config", "https://account/o.toml?sv=1&sig=hunter2"],
        ["completion", "s3://me:hunter2@bucket"],
    ],
)
def test_the_command_line_repeats_none(arguments: list[str], said: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_a_file_of_options_is_not_repeated(tmp_path: Path, said: list[str]) -> None:
    file = tmp_path / "o.toml"
    file.write_text('images = "https://h/a?X-Amz-Signature=hunter2"\nmodel = "m"\n')
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--config", str(file), "--debug"])
    assert exit_.value.code == 2


def test_tracebacks_of_bugs_are_masked_too(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("GET https://account.blob/photos?sv=1&sig=hunter2 failed")

    monkeypatch.setattr("monkeyray.cli.main._run", broken)
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)
    entry()
    assert left == [1]


def test_other_libraries_words_are_masked() -> None:
    with pytest.raises(StorageError) as found, local_errors("gs://b/k"):
        raise OSError("403: https://storage.googleapis.com/b/k?X-Goog-Signature=hunter2")
    assert "hunter2" not in str(found.value)
    with pytest.raises(StorageError, match="an error"), local_errors("gs://b/k"):
        raise OSError
    error = ConnectionError("https://h/api?access_token=hunter2 is away")
    assert "hunter2" not in problem_of("MLflow", error)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_password_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "http://me:hunter2@127.0.0.1:9000")
    assert endpoint_of("http://other:1") == "http://other:1"
    with pytest.raises(ConfigError, match=f"{name} in the environment") as found:
        Storage(patience_seconds=0).exists("s3://bucket/a")
    assert "hunter2" not in str(found.value)
    monkeypatch.setenv(name, "http://127.0.0.1:9000")
    assert endpoint_of(None) == "http://127.0.0.1:9000"


def test_results_and_logs_hold_no_credential(
    trained: Trained, embedded: Path, on_ray: Path
) -> None:
    import ray

    # conftest has planted it before Ray began.
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret == b"secret-of-tests"
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    folders = [Path(trained.uri), embedded, on_ray, session]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {"model.json", "report.html", "config.toml", "_run.json"} <= {f.name for f in files}
    assert any(path.suffix == ".log" for path in files)

    def leaks(path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):  # Ray tidies up meanwhile
            return secret in path.read_bytes()
        return False

    assert list(filter(leaks, files)) == []
