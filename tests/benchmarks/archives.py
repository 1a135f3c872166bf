"""Photographs as files and in archives, on disk and in a SeaweedFS server: rates and requests.

    python -m tests.benchmarks.archives --photos FOLDER --model BUNDLE --rounds 2

Each round scores every form once, and checks that labels and scores are those of the files. A proxy
without latency counts the requests and bytes, from the listing to the last image. `--only s3` and
`--forms files tar` leave the rest out. With `--index`, tar archives get an index beside them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import monkeyray
from tests.support.faulty import FaultyProxy
from tests.support.files import upload
from tests.support.weed import start_weed

COMPARED = ["sha256", "label", "score", "status"]
SHARD = 1000


def pack(photos: Path, folder: Path) -> None:
    """The photographs as files, in tar shards of 1,000, and in zip archives."""
    paths = sorted(path for path in photos.rglob("*") if path.is_file() and path.suffix != ".csv")
    for form in ("files", "tar", "zip-stored", "zip-deflated"):
        (folder / form).mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, folder / "files" / f"{number:05d}{path.suffix}")
    for start in range(0, len(paths), SHARD):
        shard = f"{start // SHARD:03d}"
        methods = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
        with tarfile.open(folder / "tar" / f"{shard}.tar", "w") as tar:
            for path in paths[start : start + SHARD]:
                tar.add(path, path.name)
        for name, method in methods.items():
            with zipfile.ZipFile(folder / f"zip-{name}" / f"{shard}.zip", "w", method) as archive:
                for path in paths[start : start + SHARD]:
                    archive.write(path, path.name)


def score(
    images: str, model: str, endpoint: str | None = None, index: bool = False
) -> tuple[pa.Table, float]:
    """The predictions, and the seconds that they took."""
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        monkeyray.score(
            images=images, model=model, predictions=f"{out}/predictions",
            store=monkeyray.StoreConfig(quiet=True, s3_endpoint=endpoint, index_archives=index),
        )  # fmt: skip
        seconds = time.monotonic() - began
        return pq.read_table(f"{out}/predictions", columns=COMPARED).sort_by("sha256"), seconds


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["s3"])
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--forms", nargs="+")
    arguments = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secret-of-tests"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    rates: dict[str, list[float]] = defaultdict(list)
    requests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        packed = Path(name)
        pack(arguments.photos, packed)
        with start_weed(packed / "weed") as (storage, _):
            forms = arguments.forms or ["files", "tar", "zip-deflated", "zip-stored"]
            for form in forms:
                upload(storage, packed / form, f"s3://photos/{form}")
            expected: pa.Table | None = None
            for _ in range(arguments.rounds):
                for form in forms:
                    if arguments.only is None:
                        found, seconds = score(str(packed / form), arguments.model)
                        expected = found if expected is None else expected
                        assert found.equals(expected), form
                        rates[f"{form}, disk"].append(found.num_rows / seconds)
                    assert storage.s3_endpoint is not None
                    with FaultyProxy(storage.s3_endpoint) as proxy:
                        place = f"s3://photos/{form}"
                        found, seconds = score(place, arguments.model, proxy.url, arguments.index)
                        size = sum(each.size_bytes or 0 for each in storage.list(place)) / 1e6
                        requests[form] = (
                            f"{proxy.requests} and {proxy.sent_bytes / 1e6:.1f} MB of {size:.1f}"
                        )
                    expected = found if expected is None else expected
                    assert found.equals(expected), form
                    rates[f"{form}, S3"].append(found.num_rows / seconds)
    for title, series in rates.items():
        print(f"{title}: {statistics.median(series):.1f} images/s with start-up")
    print("requests: " + ", ".join(f"{form} {count}" for form, count in requests.items()))


if __name__ == "__main__":
    main()
