"""The cost of a GET of 100 kB: boto3's, and MonkeyRay's through obstore, in one run.

    python -m tests.benchmarks.gets --threads 16 32 --gets 2000 --rounds 3

The object is in a SeaweedFS server on this machine, reached directly and through a proxy that adds
30 ms to each request. `µs of a core` is the CPU time of this process only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monkeyray.storage.backends.s3 import S3Access, S3Store
from monkeyray.storage.location import Location
from tests.benchmarks.speed import served, told

SIZE = 100_000


def main() -> None:
    """Measure, and print a table of medians with the smallest and largest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", nargs="*", type=int, default=[16])
    parser.add_argument("--gets", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "admin",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    figures: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="monkeyray-gets-") as name:
        images, work = Path(name) / "images", Path(name) / "weed"
        images.mkdir()
        (images / "one").write_bytes(os.urandom(SIZE))
        with served(images, work) as (direct, slow, _):
            for _ in range(arguments.rounds):
                for title, url in (("direct", direct), ("+ 30 ms", slow)):
                    store = S3Store(S3Access(url), patience_seconds=10)
                    for threads in arguments.threads:
                        for way in ("boto3", "obstore"):
                            found = figures.setdefault((title, threads, way), [])
                            found.append(measure(store, way, threads, arguments.gets))
    print("| server | in flight | GET | a second | µs of a core |\n|---|---|---|---|---|")
    for (title, threads, way), found in figures.items():
        rates, costs = (told(list(series)) for series in zip(*found, strict=True))
        print(f"| {title} | {threads} | {way} | {rates} | {costs} |")


def measure(store: S3Store, way: str, threads: int, gets: int) -> tuple[float, float]:
    """GETs a second, and microseconds of a core for each."""
    place = Location.of("s3://photos/images/one")

    def get(_: int) -> int:
        return len(store._get(place)[0] if way == "boto3" else store.read(place).data)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(get, range(2 * threads)))  # opens the connections
        began, used = time.monotonic(), time.process_time()
        assert sum(pool.map(get, range(gets))) == gets * SIZE
        seconds, used = time.monotonic() - began, time.process_time() - used
    return gets / seconds, 1e6 * used / gets


if __name__ == "__main__":
    main()
