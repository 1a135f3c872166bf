"""Buckets with settings of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from monkeyray.errors import ConfigError
from monkeyray.options import StoreConfig
from monkeyray.storage.backends.s3 import S3Access, S3Store
from monkeyray.storage.store import Storage


@pytest.fixture(scope="module")
def accounts() -> Iterator[tuple[str, str]]:
    """Two servers, whose objects are the name of the server and of who asks."""
    servers = []
    for name in ("first", "second"):

        class Handler(BaseHTTPRequestHandler):
            server_name = name

            def do_GET(self) -> None:
                given = self.headers.get("authorization", "Credential=nobody/")
                who = given.partition("Credential=")[2].partition("/")[0]
                body = f"{self.server_name} {who}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"x"')
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    first, second = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    yield first, second
    for server in servers:
        server.shutdown()


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's configuration files with the accounts `one` and `two`."""
    account = "[{0}]\naws_access_key_id={0}\naws_secret_access_key=x\n"
    (tmp_path / "credentials").write_text(account.format("one") + account.format("two"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("profiles")
def test_places_have_settings_of_their_own(accounts: tuple[str, str]) -> None:
    first, second = accounts
    storage = StoreConfig(
        s3_endpoint=(first, "b.c=" + second),
        profile=("a=one", "b.c=two"),
        anonymous=("s3://a/public", "s3://d/"),
    ).storage()
    assert {
        uri: storage.read(f"s3://{uri}").data.decode()
        for uri in (
            "a/x",
            "a/public/x",
            "a/publicity",
            "b.c/x",
            "d/x",
            "e/x",
        )
    } == {
        "a/x": "first one",
        "a/public/x": "first nobody",
        "a/publicity": "first one",
        "b.c/x": "second two",
        "d/x": "first nobody",
        "e/x": "first admin",
    }


@pytest.mark.usefixtures("profiles")
def test_a_missing_profile_is_named() -> None:
    storage = Storage(s3_endpoint="http://127.0.0.1:1", profile="three")
    with pytest.raises(ConfigError, match=r"\(three\) could not be found: add it to .*--profile"):
        storage.read("s3://a/x")


def test_the_region_is_that_of_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[default]\nregion=eu-west-1\n[profile p]\nregion=eu-west-2")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    def region(profile: str | None) -> str:
        return str(S3Store(S3Access(profile=profile), 1)._client.meta.region_name)

    assert (region(None), region("p")) == ("eu-west-1", "eu-west-2")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert (region(None), region("p")) == ("eu-west-3", "eu-west-2")
