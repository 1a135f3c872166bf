"""How fast MonkeyRay scores, beside the limit, a hand-tuned loop and other tools, in one run.

    pip install 'monkeyray[openvino]' daft simplejpeg opencv-python-headless
    python -m tests.benchmarks.speed --photos FOLDER --images 5390 --rounds 3 --json speed.json

The contenders take turns, each in a process of its own, on the photographs of FOLDER, repeated up
to the number of --images. The table has the median of the rounds, with the smallest and largest.

Of the loops, `same` decodes as MonkeyRay does, the others have decoders of their own.

- steady: images/s from when 20% of the images are ready until 80% are.
- with start-up: images/s from the start of the process to its end.

`--s3` also scores from a SeaweedFS server on this machine, through a proxy that adds 30 ms to each
request; the CPU seconds of both are printed, because they share the cores. `--int8` (pip install
'monkeyray[int8]') adds OpenVINO in int8, for a --model that was trained with --int8.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
LATENCY_SECONDS = 0.03


def collect(photos: Path, folder: Path, images: int, megapixels: float | None) -> None:
    """Make a folder of that many images from the photographs in turn, unchanged or scaled to
    that many megapixels each."""
    from PIL import Image

    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    first: dict[Path, Path] = {}
    for index in range(images):
        source = sources[index % len(sources)]
        target = folder / f"{index % 10}" / f"{index:06d}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if source in first:
            os.link(first[source], target)
            continue
        if megapixels is None:
            shutil.copy(source, target)
        else:
            target = target.with_suffix(".jpg")
            image = Image.open(source).convert("RGB")
            factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
            size = (round(image.width * factor), round(image.height * factor))
            image.resize(size, Image.Resampling.BICUBIC).save(target, quality=85)
        first[source] = target


def run(contender: str, *options: str) -> tuple[Any, float, float]:
    """One process: what it printed, its seconds from start to end, and when it was started."""
    command = [sys.executable, str(HERE / "contenders.py"), contender, *options]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.time() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]), seconds, began


def steady(done: list[list[float]]) -> float:
    """Images/s from when 20% of the images are ready until 80% are."""
    when = np.array([pair[0] for pair in done])
    count = np.cumsum([pair[1] for pair in done])
    low, high = np.searchsorted(count, [0.2 * count[-1], 0.8 * count[-1]])
    return float((count[high] - count[low]) / (when[high] - when[low]))


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def served(folder: Path, work: Path) -> Iterator[tuple[str, str, dict[str, int]]]:
    """The images in an S3 server: its URL, that of the slow proxy, and their processes."""
    from tests.support.weed import start_weed

    with start_weed(work) as (storage, server):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                storage.write(f"s3://photos/images/{path.relative_to(folder)}", path.read_bytes())
        proxy = subprocess.Popen(
            [sys.executable, str(HERE.parent / "support" / "faulty.py"), str(storage.s3_endpoint),
             str(LATENCY_SECONDS)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert proxy.stdout is not None
        url = proxy.stdout.readline().strip()
        try:
            yield str(storage.s3_endpoint), url, {"server": server, "proxy": proxy.pid}
        finally:
            proxy.kill()


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", required=True, type=Path, help="folder with photographs")
    parser.add_argument("--model", help="a bundle; default: one is trained first")
    parser.add_argument("--images", type=int, default=5390)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megapixels", type=float, help="size of the images; default: as they are")
    parser.add_argument("--only", nargs="*", help="contenders as the table names them")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="monkeyray-speed-") as name:
        work = Path(name)
        folder = work / "images"
        collect(arguments.photos, folder, arguments.images, arguments.megapixels)
        model = arguments.model or str(work / "model")
        if arguments.model is None:
            subprocess.run(
                [sys.executable, str(HERE.parents[1] / "jobs" / "train.py"), "--images",
                 str(arguments.photos), "--model", model, "--quiet",
                 *(["--int8"] if arguments.int8 else [])],
                check=True,
            )  # fmt: skip
        plan: dict[str, tuple[str, list[str]]] = {}
        engines = ["tensorflow-float32", "openvino-float32", "openvino-mixed"]
        for engine in engines + ["openvino-int8"] * arguments.int8:
            plan[f"limit, {engine}"] = ("limit", ["--engine", engine])
            for decoder in ("pillow", "turbo", "same"):
                plan[f"loop, {engine}, {decoder}"] = (
                    "loop", ["--engine", engine, "--decoder", decoder],
                )  # fmt: skip
            plan[f"MonkeyRay, {engine}"] = ("monkeyray", ["--engine", engine])
            plan[f"MonkeyRay on Ray, {engine}"] = ("monkeyray", ["--engine", engine, "--ray"])
        plan |= {
            "Ray's recipe": ("recipe", []),
            "plain Keras": ("keras", []),
            "Daft": ("daft", []),
        }
        with contextlib.ExitStack() as stack:
            processes: dict[str, int] = {}
            if arguments.s3:
                os.environ |= {
                    "AWS_ACCESS_KEY_ID": "admin",
                    "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
                    "AWS_EC2_METADATA_DISABLED": "true",
                }
                endpoint, slow, processes = stack.enter_context(served(folder, work / "weed"))
                for engine in ["tensorflow-float32"] + ["openvino-int8"] * arguments.int8:
                    for title, url in (("S3", endpoint), ("S3 + 30 ms", slow)):
                        plan[f"MonkeyRay, {engine}, {title}"] = (
                            "monkeyray", ["--engine", engine, "--s3-endpoint", url],
                        )  # fmt: skip
            if arguments.only:
                plan = {title: plan[title] for title in arguments.only}
            measure(plan, folder, model, work, arguments, processes)


def measure(
    plan: dict[str, tuple[str, list[str]]],
    folder: Path,
    model: str,
    work: Path,
    arguments: argparse.Namespace,
    processes: dict[str, int],
) -> None:
    """Let the contenders take turns, and print the table."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for round_ in range(arguments.rounds):
        for title, (contender, options) in plan.items():
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            places = ["--images", str(folder), "--model", model, "--out", str(out)]
            if "--s3-endpoint" in options:
                places[1] = "s3://photos/images"
                places += ["--place", f"s3://photos/out/{round_}-{len(options[1])}-{time.time()}"]
            if contender == "monkeyray":
                # A plan of its own place: the folder must be new or hold a run.
                out.rmdir()
            before = {name: cpu_seconds(pid) for name, pid in processes.items()}
            found, seconds, began = run(contender, *places, *options)
            mine = figures[title]
            if contender == "limit":
                for key, value in found.items():
                    mine[key].append(value)
            else:
                images = sum(pair[1] for pair in found)
                mine["images"].append(images)
                mine["steady"].append(steady(found))
                mine["with start-up"].append(images / seconds)
                mine["first after s"].append(found[0][0] - began)
                mine["end after last s"].append(began + seconds - found[-1][0])
                if "--s3-endpoint" in options:
                    for name, pid in processes.items():
                        mine[f"CPU s of {name}"].append(cpu_seconds(pid) - before[name])
            values = {key: round(series[-1], 1) for key, series in mine.items()}
            print(f"round {round_ + 1}, {title}: {values}", file=sys.stderr, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(figures, indent=1))
    print("| contender | " + " | ".join(("steady", "with start-up", "first after s")) + " |")
    print("|---|---|---|---|")
    for title, mine in figures.items():
        if "compute" in mine:
            cells = [f"{key} {told(series)}" for key, series in mine.items()]
            print(f"| {title} | {'; '.join(cells)} | | |")
        else:
            keys = ("steady", "with start-up", "first after s")
            print(f"| {title} | " + " | ".join(told(mine[key]) for key in keys) + " |")


def told(series: list[float]) -> str:
    """A median with its smallest and largest."""
    return f"{statistics.median(series):.1f} ({min(series):.1f}-{max(series):.1f})"


if __name__ == "__main__":
    main()
