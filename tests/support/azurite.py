"""Azurite, Microsoft's emulator of Azure Blob Storage, on loopback."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient

from tests.support.required import skip_or_fail
from tests.support.weed import free_port

#: The account that Azurite has, at a port that is chosen before Ray's workers start.
ENVIRONMENT = {
    "AZURE_STORAGE_ACCOUNT": "devstoreaccount1",
    "AZURE_STORAGE_ACCOUNT_KEY": (
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    ),
    "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{free_port()}/devstoreaccount1",
}


@contextlib.contextmanager
def start_azurite(folder: Path) -> Iterator[None]:
    """Start a server with the container `photos` and the public one `public`. If Azurite is not
    installed, the test is skipped, or fails in CI."""
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        skip_or_fail("install Azurite, for tests of Azure Blob Storage: npm install -g azurite")
    url = ENVIRONMENT["AZURE_STORAGE_ENDPOINT"]
    command = [
        azurite, "--location", str(folder), "--blobHost", "127.0.0.1",
        "--blobPort", url.rpartition(":")[2].partition("/")[0],
        "--silent", "--skipApiVersionCheck", "--disableTelemetry",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        client = BlobServiceClient(
            url, ENVIRONMENT["AZURE_STORAGE_ACCOUNT_KEY"], retry_total=0, connection_timeout=5
        )
        for _ in range(120):
            with contextlib.suppress(AzureError):
                client.create_container("photos")
                client.create_container("public", public_access="container")
                break
            time.sleep(0.5)
        else:
            raise AssertionError(f"Azurite did not start: {(folder / 'log').read_text()[-2000:]}")
        yield
    finally:
        server.kill()
        server.wait(20)
