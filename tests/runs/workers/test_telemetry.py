"""The metrics, as Prometheus reads them from a node of a real Ray."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from monkeyray.runs.workers.telemetry import Meter, Total


def scrape(until: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Our metrics on this node: name and tags to value. Ray exports them every ten seconds."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    deadline = time.monotonic() + 30
    while not until(found):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
        with urllib.request.urlopen(url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        for line in lines:
            if match := re.fullmatch(r"(ray_monkeyray_\w+)\{(.*)\} (\S+)", line):
                tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                ours = (tags[key] for key in ("task", "run", "status", "step") if key in tags)
                found[" ".join([match[1], *ours])] = float(match[3])
    return found


def test_prometheus_sees_what_was_done(embedded: Path, on_ray: Path) -> None:
    scoring = f"scoring {on_ray}"
    images = "ray_monkeyray_images_total"
    rate = "ray_monkeyray_images_per_second scoring /\\\\xe9"
    # A job that is at work now, in a place whose name Ray would not take.
    meter = Meter("scoring", "/é", 10)

    def until(found: dict[str, float]) -> bool:
        meter.images({"ok": 5}, 100)
        return rate in found and "ray_monkeyray_images_planned scoring /\\\\xe9" in found

    found = scrape(until)
    assert 0 < found[rate] <= 5 / 0.01
    assert found["ray_monkeyray_images_planned scoring /\\\\xe9"] == 10
    # And what has been done before in this process.
    assert found[f"{images} {scoring} ok"] == 42
    assert found[f"{images} {scoring} empty"] == 1
    assert found[f"{images} {scoring} unsupported"] == 1
    files = [path for path in (embedded.parent / "images").rglob("*") if path.is_file()]
    assert found[f"ray_monkeyray_bytes_total {scoring}"] == sum(map(os.path.getsize, files))
    for step in ("fetch", "decode", "compute", "write"):
        assert 0 < found[f"ray_monkeyray_worker_seconds_total {scoring} {step}"] < 600


def test_a_count_that_begins_anew_goes_on() -> None:
    told: list[tuple[float, dict[str, str] | None]] = []

    class Kept:
        def inc(self, value: float, tags: dict[str, str] | None) -> None:
            told.append((value, tags))

    count = Total(Kept(), "status")
    for totals in ({"ok": 3, "empty": 0}, {"ok": 3}, {"ok": 5, "empty": 1}, {"ok": 2}):
        count.reach(totals)
    tags = [(value, each and each["status"]) for value, each in told]
    assert tags == [(3, "ok"), (2, "ok"), (1, "empty"), (2, "ok")]
