"""Time and peak memory of exports, events and reviews, each in a process of its own.

    python -m tests.benchmarks.exports --rows 1000000

The predictions are made up: 150 cameras, 40 labels, five scores a row, EXIF times over ten months.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.exports.events.tables import events
from monkeyray.exports.export import export
from monkeyray.exports.options import EventsConfig, ExportConfig
from monkeyray.options import StoreConfig
from monkeyray.pages.options import ReviewConfig
from monkeyray.pages.review import review
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect
from monkeyray.scoring.schema import prediction_schema
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

LABELS = [f"species_{i}" for i in range(40)]
PART = 4096
PROJECT = {
    "contributors": [{"title": "A Person"}],
    "project": {
        "title": "A project",
        "samplingDesign": "targeted",
        "captureMethod": ["activityDetection"],
        "individualAnimals": False,
    },
}


def make(folder: Path, rows: int) -> None:
    """Write predictions, a project file and a table of deployments."""
    (folder / "project.json").write_text(json.dumps(PROJECT))
    with open(folder / "deployments.csv", "w") as file:
        file.write("deployment_id,site,camera,latitude,longitude,start,end,time_zone\n")
        for i in range(150):
            file.write(f"d{i},site{i % 50},cam{i // 50},51.5,4.7,2021-01-01,2021-12-31,+01:00\n")
    listing = collect(_plan(rows))
    assert listing is not None
    sizes = [min(PART, rows - start) for start in range(0, rows, PART)]
    place, random = str(folder / "predictions"), np.random.default_rng(0)
    with hold(Location.of(place), Storage(), print) as lease:
        run = create_run(Location.of(place), lease, {"images": "/photos"}, listing, sizes)
        for shard in range(len(sizes)):
            plan = run.plan.read(shard)
            run.publish(shard, plan, _rows(plan, random))
        run.finish(lease)


def _plan(rows: int) -> Iterator[pa.Table]:
    for start in range(0, rows, PART):
        numbers = range(start, min(start + PART, rows))
        names = [f"/photos/site{i % 50}/cam{i % 3}/100RECNX/IMG_{i:08}.JPG" for i in numbers]
        sizes = pa.array([10**6] * len(names), pa.int64())
        yield pa.table({"uri": names, "size_bytes": sizes, "version": ["1"] * len(names)})


def _rows(plan: pa.Table, random: np.random.Generator) -> pa.Table:
    count = plan.num_rows
    scores = -np.sort(-random.dirichlet(np.ones(5), count), axis=1)
    first = random.integers(0, len(LABELS), count)
    top_k = [
        [{"label": LABELS[(i + k) % 40], "score": value} for k, value in enumerate(row)]
        for i, row in zip(first, scores, strict=True)
    ]
    seconds = random.integers(0, 300 * 86400, count).tolist()
    columns = {
        "uri": plan["uri"],
        "status": ["ok"] * count,
        "label": [LABELS[i] for i in first],
        "score": scores[:, 0].astype(np.float32),
        "top_k": top_k,
        "captured_at": [(datetime(2021, 1, 1) + timedelta(seconds=s)).isoformat() for s in seconds],
        "sha256": [random.bytes(32).hex() for _ in range(count)],
        "model_id": ["ab" * 32] * count,
        "predicted_at": [datetime.now(UTC)] * count,
    }
    schema = prediction_schema(plan.schema)
    arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def measure(folder: Path, kind: str) -> None:
    """Export, and print the seconds and the peak of this process's resident memory."""
    camtrap = {
        "project": str(folder / "project.json"),
        "deployments": str(folder / "deployments.csv"),
        "site_pattern": "{site}/{camera}/*",
    }
    start = time.monotonic()
    common: dict[str, Any] = {
        "predictions": str(folder / "predictions"),
        "output": str(folder / kind),
        "store": StoreConfig(quiet=True),
    }
    if kind == "events":
        more: dict[str, Any] = {x: camtrap[x] for x in ("deployments", "site_pattern")}
        found = events(EventsConfig(**common, **more))
        rows, what = found.rows, f"events ({found.events})"
    elif kind == "review":
        # There are no images, so that no time goes into their pictures.
        pattern = camtrap["site_pattern"]
        rows, what = review(ReviewConfig(**common, site_pattern=pattern)).images, kind
    else:
        more = camtrap if kind == "camtrap-dp" else {}
        rows, what = export(ExportConfig(**common, format=kind, **more)).kinds.total(), kind  # type: ignore[arg-type]
    seconds = time.monotonic() - start
    # Not ru_maxrss, which a process takes over from the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    print(f"{what}: {rows} rows, {seconds:.1f} s, {int(peak[1]) / 1024:.0f} MiB")


def main() -> None:
    """Make predictions, and measure each job on them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "FORMAT"))
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.rows)
        for kind in ("csv", "megadetector", "camtrap-dp", "events", "review"):
            subprocess.run([sys.executable, __file__, "--measure", folder, kind], check=True)


if __name__ == "__main__":
    main()
