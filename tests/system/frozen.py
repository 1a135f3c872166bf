"""What the command line does today, recorded as figures and texts, to be compared with tomorrow's.

    python tests/system/frozen.py record OUT.json [--photos DIR] [--package-root DIR]
    python tests/system/frozen.py compare A.json B.json [--tolerance 1e-6]

Only commands are run, and only what they print and write is read: nothing here knows a module of
MonkeyRay, so that modules can be moved. What chance, time or place decide (paths, times, ids,
rates) is put away before it is recorded; hashes of weights are kept under `sha256`, and are shown
by a comparison but never make it fail.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "mobilenet_1_0_224_imagenet_notop.weights.h5"
SITES = "{site}/{camera}/*"

#: Figures that are of the moment or name a version, and ids that follow from the path.
_MOMENTARY = {
    "seconds", "worker_seconds", "images_per_second", "started_at", "finished_at", "created_at",
    "model_id", "fingerprint", "monkeyray", "versions", "run_id", "etag_or_mtime", "predicted_at",
}  # fmt: skip
#: Lines of progress, of rates, and of the libraries below.
_NOISE = re.compile(
    r"images/s|rows/s|left$|the workers' time|^[EWIF]\d{4} |^WARNING: All log|^\s*$|oneDNN|absl"
    r"|^(?!going on)[\w -]+: (epoch \d+ of|the first epoch is not done|\d+ of \d+)|^waiting"
    r"|^\d{4}-\d\d-\d\d [\d:,.]+\s+(INFO|WARNING|ERROR)|^\(\w+ pid=|cuda",
)
_ID = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|(?<![\w.])[0-9a-f]{12,64}\b"
    r"|(?:(?<=[-_/])|^)[0-9a-f]{8}(?=[-_/.]|$)"
)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d| UTC)?)?"
)
_SECONDS = re.compile(r"\b\d+(?:\.\d+)? (?=s\b|ms\b|min\b)")
_CHOICES = re.compile(r"('choices': \[)([^\]]*)\]")
_DECIMAL = re.compile(r"(\d+\.\d+(?:e[+-]?\d+)?)")


class Workspace:
    """A folder that is thrown away, and commands that are run in it."""

    def __init__(self, folder: Path, photos: Path, package_root: Path) -> None:
        self.folder, self.photos = folder.resolve(), photos.resolve()
        self.weights = photos.parent / "weights" / WEIGHTS
        # Exports write the version of the installed package: here it is that of the checkout.
        project = tomllib.loads((package_root / "pyproject.toml").read_text())["project"]
        named = folder / "metadata" / f"{project['name']}-{project['version']}.dist-info"
        named.mkdir(parents=True)
        (named / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "AWS_", "MLFLOW_", "MONKEYRAY_", "PYTEST_"))
        }
        self.environment = kept | {
            "PYTHONPATH": os.pathsep.join([str(package_root.resolve()), str(named.parent)]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "AWS_ACCESS_KEY_ID": "admin",
            "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
            "AWS_EC2_METADATA_DISABLED": "true",
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "TZ": "UTC",
        }
        self._days = {str((datetime.now(UTC) + timedelta(days=d)).date()) for d in (-1, 0, 1)}

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def run(self, *arguments: object) -> dict[str, Any]:
        """Run a command, and give its exit code and what it printed."""
        ran = subprocess.run(
            [sys.executable, "-m", "monkeyray", *map(str, arguments)],
            env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=900,
        )  # fmt: skip
        out, err = self.lines(ran.stdout), self.lines(ran.stderr)
        return {"exit": ran.returncode, "stdout": out, "stderr": err}

    def do(self, *arguments: object) -> dict[str, Any]:
        """Run a command that has to succeed, and give its summary too."""
        summary = self / f"summary-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:9]}.json"
        ran = self.run(*arguments, "--summary-json", summary)
        if ran["exit"]:
            raise RuntimeError(f"{arguments}: {json.dumps(ran, indent=1)}")
        return ran | {"summary": self.clean(json.loads(summary.read_text()))}

    def lines(self, text: str) -> list[str]:
        """What is printed or written, without what is of the moment."""
        lines = re.split(r"[\r\n]+", text)
        return [self.text(line.rstrip()) for line in lines if not _NOISE.search(line)]

    def text(self, text: str) -> str:
        for path, name in ((self.folder, "<tmp>"), (self.photos, "<photos>")):
            text = text.replace(str(path), name)
        text = _ID.sub("<id>", text)
        text = _TIME.sub(lambda m: "<now>" if m[1] in self._days else m[0], text)
        return _SECONDS.sub("<n> ", text)

    def clean(self, value: Any) -> Any:
        """JSON without what is of the moment."""
        if isinstance(value, Mapping):
            kept = {k: v for k, v in value.items() if k not in _MOMENTARY}
            return {self.text(str(k)): self.clean(v) for k, v in kept.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, float):
            return rounded(value, 9)
        return value

    def json(self, path: Path) -> Any:
        return self.clean(json.loads(path.read_text()))

    def table(self, path: Path) -> list[list[Any]]:
        """A CSV's rows, with numbers rounded."""
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [[self._cell(cell) for cell in row] for row in csv.reader(file)]

    def _cell(self, cell: str) -> Any:
        if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell):
            return rounded(float(cell), 6)
        return self.text(cell)

    def names(self, folder: Path, but: Sequence[str] = ()) -> list[str]:
        """The files of a folder, with counts where ids made them alike."""
        found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        counts = Counter(self.text(f"/{name}")[1:] for name in found if name.parts[0] not in but)
        return [f"{name} ({n})" if n > 1 else name for name, n in sorted(counts.items())]


def rounded(value: float, digits: int) -> float | str:
    return round(value, digits) + 0.0 if math.isfinite(value) else str(value)


# What is given to the commands: photographs and what goes wrong with them.


@dataclass
class Given:
    """The manifests and folders that are scored and trained on."""

    photographs: list[Path]
    #: The part that each photograph belongs to, copies to the same.
    split: dict[Path, str] = field(default_factory=dict)
    few: list[Path] = field(default_factory=list)
    shown: list[Path] = field(default_factory=list)


def make(space: Workspace) -> Given:
    """Write all that is given to the commands."""
    labels = sorted(path for path in space.photos.iterdir() if path.is_dir())
    given = Given([path for label in labels for path in sorted(label.iterdir())])
    for path in given.photographs:
        digest = hashlib.sha256(path.read_bytes()).digest()
        share = int.from_bytes(digest[:4], "big") % 20
        given.split[path] = "test" if share < 3 else "validation" if share < 6 else "train"
    for label in labels:
        given.few += [path for path in given.photographs if path.parent == label][:15]
    rows = [[path, path.parent.name, given.split[path]] for path in given.photographs]
    table(space / "all.csv", ["uri", "label", "split"], rows)
    rows = [[path, path.parent.name] for path in given.few]
    table(space / "few.csv", ["uri", "label"], rows)
    _pictures(space, given, labels)
    _tables(space, given, labels)
    _detections(space, given)
    return given


def table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def exif(data: bytes, taken: str | None = None, orientation: int | None = None) -> bytes:
    """A JPEG with EXIF data before all else, and not encoded anew."""
    tags = Image.Exif()
    if taken is not None:
        tags[0x0132] = taken
        tags.get_ifd(0x8769)[0x9003] = taken
    if orientation is not None:
        tags[0x0112] = orientation
    block = tags.tobytes()
    if not block.startswith(b"Exif\0\0"):
        block = b"Exif\0\0" + block
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


def _pictures(space: Workspace, given: Given, labels: Sequence[Path]) -> None:
    """A folder of two sites with two cameras each, with bursts, and all kinds of broken files."""
    folder = space / "season"
    by_label = {label: [p for p in given.photographs if p.parent == label] for label in labels}
    first = datetime(2021, 4, 3, 5, 58)
    for index in range(60):
        label = labels[index % 10]
        path = by_label[label][20 + index // 10]
        camera = folder / f"S{index // 30 + 1}" / f"C{index // 15 % 2 + 1}"
        camera.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        if data[:2] == b"\xff\xd8" and b"Exif" not in data[:4096] and index % 7 != 6:
            # Three frames in a burst, an hour between bursts.
            taken = first + timedelta(hours=index // 3, seconds=2 * (index % 3))
            if index == 20:
                taken = datetime(2021, 3, 28, 2, 30)  # the hour that summer time skips
            if index == 40:
                taken = datetime(2019, 1, 1, 12)  # before its camera hung
            data = exif(data, f"{taken:%Y:%m:%d %H:%M:%S}")
        target = camera / f"{index:02}-{label.name}.jpg"
        target.write_bytes(data)
        given.shown.append(target)
    odd = folder / "S2" / "odd"
    odd.mkdir()
    whole = next(p.read_bytes() for p in by_label[labels[3]] if p.read_bytes()[:2] == b"\xff\xd8")
    (odd / "empty.jpg").write_bytes(b"")
    (odd / "page.jpg").write_bytes(b"<!doctype html><title>404</title><p>Not found")
    (odd / "breaks-off-late.jpg").write_bytes(whole[: len(whole) * 4 // 5])
    (odd / "breaks-off-early.jpg").write_bytes(whole[: len(whole) // 10])
    (odd / "noise.jpg").write_bytes(bytes(range(256)) * 8)
    (odd / "film.jpg").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(64))
    (odd / "notes.txt").write_text("a side-car")
    (odd / "notes.csv").write_text("a,b\n1,2\n")
    (odd / ".hidden.jpg").write_bytes(whole)
    (odd / "turned.jpg").write_bytes(exif(whole, "2021:04:05 10:00:00", orientation=6))
    (odd / "no-suffix").write_bytes(whole)
    image = Image.open(io.BytesIO(whole)).convert("RGB").resize((320, 240))
    image.save(odd / "plain.png")
    image.convert("L").save(odd / "grey.jpg", quality=90)
    image.convert("CMYK").save(odd / "cmyk.jpg", quality=90)
    image.convert("P").save(odd / "palette.gif")
    image.save(odd / "picture.webp", lossless=True)
    image.save(odd / "picture.bmp")
    image.convert("RGBA").save(odd / "clear.png")
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(odd / "deep.png")
    Image.new("RGB", (1, 1), "green").save(odd / "dot.png")
    rows: list[list[object]] = [
        [path.relative_to(space.folder), path.name[3:5], n, "=1+1", n / 4]
        for n, path in enumerate(given.shown[:12])
    ]
    rows += [["season/S1/C1/gone.jpg", "n0", 12, "", 0], rows[0]]
    table(space / "listed.csv", ["uri", "label", "number", "note", "score"], rows)
    grow = space / "grow"
    grow.mkdir()
    for path in given.shown[:6]:
        shutil.copy(path, grow / path.name)


def _tables(space: Workspace, given: Given, labels: Sequence[Path]) -> None:
    latin = [
        ("Alouatta palliata", "Alouatta", "Atelidae"),
        ("Erythrocebus patas", "Erythrocebus", "Cercopithecidae"),
        ("Cacajao calvus", "Cacajao", "Pitheciidae"),
        ("Macaca fuscata", "Macaca", "Cercopithecidae"),
        ("Cebuella pygmea", "Cebuella", "Callitrichidae"),
        ("Cebus capucinus", "Cebus", "Cebidae"),
        ("Mico argentatus", "Mico", "Callitrichidae"),
        ("Saimiri sciureus", "Saimiri", "Cebidae"),
        ("Aotus nigriceps", "Aotus", "Aotidae"),
        ("Trachypithecus johnii", "Trachypithecus", "Cercopithecidae"),
    ]
    rows = [
        [label.name, species, f"monkey {label.name}", "animal", genus, family, "Primates"]
        for label, (species, genus, family) in zip(labels, latin, strict=True)
    ]
    head = ["label", "scientific_name", "common_name", "observation_type", "genus", "family"]
    table(space / "taxa.csv", [*head, "order"], rows)
    table(space / "names.csv", ["label", "name"], [[row[0], row[2]] for row in rows])
    head = ["deployment_id", "site", "camera", "latitude", "longitude", "start", "end"]
    rows = [
        ["D1", "S1", "C1", "51.181", "5.655", "2021-03-01", "2021-06-10", "Europe/Brussels", ""],
        ["D2", "S1", "C2", "51.184", "5.659", "2021-03-01", "2021-06-10", "Europe/Brussels", ""],
        ["D3", "S2", "C1", "51.2", "5.7", "2021-03-01 09:30:00", "2021-06-10", "+01:00", "-1:00"],
        ["D4", "S2", "C2", "51.3", "5.8", "2021-03-01", "2021-06-10", "Africa/Nairobi", "90"],
        ["D5", "S2", "odd", "51.4", "5.9", "2021-03-01", "2021-06-10", "UTC", ""],
    ]
    rows[2][-1] = "-1:00:00"
    table(space / "deployments.csv", [*head, "time_zone", "clock_offset"], rows)
    (space / "project.toml").write_text(
        'name = "season"\ntitle = "Season"\nfilePublic = false\n'
        '[[contributors]]\ntitle = "Ada Example"\nemail = "ada@example.org"\nrole = "contact"\n'
        '[[licenses]]\nname = "CC0-1.0"\nscope = "data"\n'
        '[[licenses]]\npath = "https://creativecommons.org/licenses/by/4.0/"\nscope = "media"\n'
        '[project]\ntitle = "Mammals"\nsamplingDesign = "systematicRandom"\n'
        'captureMethod = ["activityDetection"]\nindividualAnimals = false\n'
    )
    rows = [[str(path), path.name[3:5]] for path in given.shown]
    rows[0][1], rows[1][1] = "n9", "unheard-of"
    table(space / "truth.csv", ["uri", "label"], rows)
    # Half seen in training, half not, and a label that no model knows.
    chosen = [*given.few[::10], *given.photographs[25::27]]
    rows = [[str(path), path.parent.name] for path in chosen]
    rows[-1][1] = "unheard-of"
    table(space / "elsewhere.csv", ["uri", "label"], rows)
    table(space / "corrections.csv", ["uri", "label"], [[given.few[0], "n1"]])


def _detections(space: Workspace, given: Given) -> None:
    """MegaDetector's results for the season and for the few images that are trained on."""
    images: list[dict[str, Any]] = []
    for index, path in enumerate(given.shown[:-2]):
        boxes: list[dict[str, Any]] = [
            {"category": "1", "conf": 0.9 - index / 200, "bbox": [0.1, 0.15, 0.6, 0.7]}
        ]
        if index % 4 == 1:
            boxes.append({"category": "1", "conf": 0.95, "bbox": [0.5, 0.3, 0.45, 0.6]})
        if index % 9 == 2:
            boxes.append({"category": "2", "conf": 0.7, "bbox": [0.0, 0.0, 0.2, 0.9]})
        if index % 11 == 3:
            boxes = [{"category": "3", "conf": 0.8, "bbox": [0.2, 0.2, 0.5, 0.5]}]
        if index % 13 == 4:
            boxes = [{"category": "1", "conf": 0.05, "bbox": [0.2, 0.2, 0.1, 0.1]}]
        if index % 17 == 5:
            boxes = []
        name = str(path.relative_to(space / "season"))
        images.append({"file": name, "detections": boxes})
        if index == 30:
            images[-1] = {"file": name, "detections": None, "failure": "Failure image access"}
    images.append({"file": "S2/odd/empty.jpg", "detections": None, "failure": "Failure image"})
    images.append({"file": "S2/odd/turned.jpg", "detections": images[0]["detections"]})
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    info = {"format_version": "1.4", "detector": "md_v5a.0.0.pt"}
    info |= {"detector_metadata": {"typical_detection_threshold": 0.2}}  # type: ignore[dict-item]
    content = {"images": images, "detection_categories": categories, "info": info}
    (space / "season.json").write_text(json.dumps(content))
    images = [
        {
            "file": f"{path.parent.name}/{path.name}",
            "detections": [] if index % 15 == 14 else [
                {"category": "1", "conf": 0.8, "bbox": [0.1, 0.1, 0.75, 0.8]},
                {"category": "1", "conf": 0.3, "bbox": [0.0, 0.0, 0.2, 0.2]},
            ],
        }
        for index, path in enumerate(given.few)
    ]  # fmt: skip
    (space / "labelled.json").write_text(json.dumps(content | {"images": images}))


# What is recorded of results.


def tensors(path: Path) -> dict[str, Any]:
    """Shapes and some figures of a file of arrays, which are close where the arrays are."""
    found: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    for name, array in sorted(load_file(path).items()):
        flat = np.asarray(array, np.float64).ravel()
        figures = [flat.sum(), np.abs(flat).sum(), flat @ np.cos(np.arange(flat.size))]
        figures += [flat.min(), flat.max(), *flat[:6]] if flat.size else []
        found[name] = {
            "shape": list(array.shape),
            "type": str(array.dtype),
            "figures": [rounded(float(figure), 7) for figure in figures],
        }
    return found


def bundle(space: Workspace, folder: Path) -> dict[str, Any]:
    model, metrics = space.json(folder / "model.json"), space.json(folder / "metrics.json")
    shared = {key for key in metrics if key in model and metrics[key] == model[key]}
    found: dict[str, Any] = {
        "files": space.names(folder),
        "model": model,
        "metrics": {key: value for key, value in metrics.items() if key not in shared},
        "in both": sorted(shared),
        "config": space.lines((folder / "config.toml").read_text()),
    }
    for path in sorted(folder.glob("*.safetensors")):
        # Hashes of images are no figures, and thumbnails are many.
        arrays = tensors(path)
        found[path.name.partition("-")[0]] = arrays
    seen = found.get("seen", {})
    for name in list(seen):
        if name != "sha256":
            seen[name] = {k: v for k, v in seen[name].items() if k != "figures"}
    return found


def predictions(space: Workspace, place: Path, columns: Sequence[str] = ()) -> dict[str, Any]:
    """The rows of a place as lists, or those `columns` of them, and what lies beside them."""
    files = sorted(place.glob("*.parquet"))
    schema = pyarrow.parquet.read_schema(files[0])
    rows = [row for path in files for row in pyarrow.parquet.read_table(path).to_pylist()]
    rows.sort(key=lambda row: (row["uri"], -1 if (n := row.get("detection")) is None else n))
    right = sum(_right(row) for row in rows)
    named = columns or [name for name in schema.names if name not in {*_MOMENTARY, "sha256"}]
    run = space.json(place / "_run.json")
    for key in ("sizes", "ids"):
        run.pop(key, None)
    metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    metadata.pop("monkeyray.shard", None)  # of one file, with the id of its run
    return {
        "files": space.names(place),
        "schema": [f"{column.name}: {column.type}" for column in schema],
        "schema metadata": space.clean(metadata),
        "models": len({row["model_id"] for row in rows}),
        "hashes of files that are right": right,
        "run": run,
        "success": space.json(place / "_SUCCESS"),
        "config": space.lines((place / "_config.toml").read_text()),
        "columns": list(named),
        "rows": [[_value(space, name, row[name]) for name in named] for row in rows],
    }


def _right(row: Mapping[str, Any]) -> bool:
    """Whether hash and size of a row are those of its file."""
    path = Path(row["uri"])
    if not path.is_file() or row["sha256"] is None:
        return False
    data = path.read_bytes()
    return (len(data), hashlib.sha256(data).hexdigest()) == (row["size_bytes"], row["sha256"])


def _value(space: Workspace, name: str, value: Any) -> Any:
    if name == "embedding" and value is not None:
        array = np.asarray(value, np.float64)
        figures = [array.sum(), np.square(array).sum(), array @ np.cos(np.arange(array.size))]
        return [rounded(float(figure), 5) for figure in figures]
    if name == "size_bytes":
        # Pictures that are made here may be encoded otherwise elsewhere.
        return None if value is None else "some" if value else "none"
    if name == "top_k" and value is not None:
        return [[item["label"], rounded(item["score"], 6)] for item in value]
    if isinstance(value, list):
        return [_value(space, "", item) for item in value]
    if isinstance(value, float):
        return rounded(value, 6)
    if value is None or isinstance(value, bool | int):
        return value
    return space.text(str(value))


class Page(HTMLParser):
    """What a reader sees of a page, by its blocks, its tables, and its figures drawn."""

    _BLOCKS = frozenset(
        ("p", "h1", "h2", "h3", "li", "dt", "dd", "div", "section", "table", "caption", "details",
         "summary", "option", "button", "label", "nav", "header", "main", "footer", "figure",
         "figcaption", "ul", "ol", "dl", "form", "select", "datalist", "title", "text")
    )  # fmt: skip

    def __init__(self, space: Workspace, html: str) -> None:
        super().__init__()
        self._space, self._inside = space, Counter[str]()
        self._text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.elements = Counter[str]()
        self.cards: list[list[str | None]] = []
        self.drawn: list[float] = []
        self.feed(html)
        self.close()
        lines = (" ".join(line.split()) for line in "".join(self._text).split("\n"))
        self.lines = [space.text(line) for line in lines if line]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._inside[tag] += 1
        self.elements[tag] += 1
        if tag in self._BLOCKS:
            self._text.append("\n")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self.tables[-1][-1].append("")
        if "data-uri" in attributes:
            names = ("data-uri", "data-label", "data-site", "data-status", "data-sections")
            self.cards.append([self._space.text(attributes.get(name) or "") for name in names])
        if self._inside["svg"]:
            self.drawn += [
                float(number)
                for name, value in attrs
                if name not in ("class", "viewbox", "id")
                for number in re.findall(r"-?\d+(?:\.\d+)?", value or "")
            ]

    def handle_endtag(self, tag: str) -> None:
        self._inside[tag] -= 1
        if tag in self._BLOCKS:
            self._text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._inside["style"] > 0 or self._inside["script"] > 0:
            return
        if self.tables and (self._inside["td"] > 0 or self._inside["th"] > 0):
            self.tables[-1][-1][-1] += data
        else:
            self._text.append(data)

    def recorded(self) -> dict[str, Any]:
        tables = [
            [" | ".join(self._space.text(" ".join(c.split())) for c in row) for row in rows]
            for rows in self.tables
        ]
        found: dict[str, Any] = {
            "lines": self.lines,
            "tables": tables,
            "elements": dict(sorted(self.elements.items())),
            "drawn": {"numbers": len(self.drawn), "sum": rounded(math.fsum(self.drawn), 3)},
        }
        return found | ({"cards": self.cards} if self.cards else {})


def page(space: Workspace, path: Path) -> dict[str, Any]:
    return Page(space, path.read_text()).recorded()


def pages(space: Workspace, folder: Path) -> dict[str, Any]:
    found = {path.name: page(space, path) for path in sorted(folder.glob("*.html"))}
    return {"files": space.names(folder), "pages": found}


def digest(value: Any) -> str:
    """A hash of what is too long to be recorded, and has to be the same."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# The commands, in two rows that run side by side.

Sections = dict[str, Any]


def large(space: Workspace) -> Sections:
    """A model of all photographs, as it comes by default, its predictions for all of them, and a
    model of crops."""
    found: Sections = {}
    trained = space.do(
        "train", "--images", space / "all.csv", "--model", space / "large", "--seed", 3,
        "--ray-address", "local",
    )  # fmt: skip
    found["bundle: all photographs"] = {"command": trained} | bundle(space, space / "large")
    found["report: all photographs"] = page(space, space / "large/report.html")
    scored = space.do(
        "score", "--images", space / "all.csv", "--model", space / "large",
        "--predictions", space / "all", "--threshold", 0.9, "--rows-per-file", 300,
    )  # fmt: skip
    columns = ["uri", "status", "label", "score", "decision", "ood_score"]
    found["predictions: all photographs"] = {"command": scored} | predictions(
        space, space / "all", columns
    )
    exported = space.do(
        "export", "--predictions", space / "all", "--format", "csv",
        "--output", space / "all-out.csv",
    )  # fmt: skip
    rows = space.table(space / "all-out.csv")
    drop = [n for n, name in enumerate(rows[0]) if name in {*_MOMENTARY}]
    rows = [[cell for n, cell in enumerate(row) if n not in drop] for row in rows]
    content = [[cell for cell in row if not isinstance(cell, float)] for row in rows]
    found["export: csv of all photographs"] = {
        "command": exported, "rows": len(rows), "first": rows[:4],
        "digest without decimals": digest(content),
    }  # fmt: skip
    evaluated = space.do(
        "evaluate", "--predictions", space / "all", "--labels", space / "all.csv",
        "--model", space / "large", "--output", space / "evaluated-all",
    )  # fmt: skip
    found["evaluate: predictions of all photographs"] = {
        "command": evaluated, "metrics": space.json(space / "evaluated-all/metrics.json"),
    }  # fmt: skip
    return found | _crops(space)


def _crops(space: Workspace) -> Sections:
    """A model of crops, its predictions for boxes, and what is made of these."""
    found: Sections = {}
    trained = space.do(
        "train", "--images", space / "few.csv", "--detections", space / "labelled.json",
        "--model", space / "crops", "--epochs", 20, "--box-padding", 0.2, "--ray-address", "local",
    )  # fmt: skip
    found["bundle: crops"] = {"command": trained} | bundle(space, space / "crops")
    found["report: crops"] = page(space, space / "crops/report.html")
    scored = space.do(
        "score", "--images", space / "season", "--detections", space / "season.json",
        "--model", space / "crops", "--predictions", space / "boxes", "--threshold", 0.5,
        "--box-padding", 0.2,
    )  # fmt: skip
    found["predictions: boxes"] = {"command": scored} | predictions(space, space / "boxes")
    return found | _box_exports(space)


def small(space: Workspace) -> Sections:
    """A model with many options, and all that is done with its predictions."""
    found: Sections = {}
    weights = ["--weights", space.weights] if space.weights.is_file() else []
    trained = space.do(
        "train", "--images", space / "few.csv", "--model", space / "small", "--seed", 5,
        "--views", 2, "--folds", 3, "--class-weights", "balanced", "--crop", "whole",
        "--target-precision", 0.8, "--head", "48", "--epochs", 40, "--batch-size", 32, "--l2", 1e-5,
        "--validation-share", 0.2, "--test-share", 0.2, "--label-names", space / "names.csv",
        "--corrections", space / "corrections.csv", "--features", space / "features",
        "--ray-address", "local", *weights,
    )  # fmt: skip
    recorded = bundle(space, space / "small")
    # The packaged weights are the same as those of the file, which need not be there.
    recorded["model"].pop("weights_source", None)
    for part in (recorded["config"], trained["stderr"], trained["stdout"]):
        part[:] = [line for line in part if WEIGHTS not in line and "imagenet" not in line]
    found["bundle: options"] = {"command": trained} | recorded
    found["report: options"] = page(space, space / "small/report.html")
    scored = space.do(
        "score", "--images", space / "season", "--model", space / "small",
        "--predictions", space / "season-out", "--embeddings", "--top-k", 3,
    )  # fmt: skip
    found["predictions: season"] = {"command": scored} | predictions(space, space / "season-out")
    found |= _runs_again(space)
    found |= _exports(space)
    found |= _reviews(space)
    found |= _evaluations(space)
    return found


def _runs_again(space: Workspace) -> Sections:
    found: Sections = {}

    def score(section: str, images: str, out: str, *more: object) -> None:
        ran = space.do(
            "score", "--images", space / images, "--model", space / "small",
            "--predictions", space / out, "--views", 1, *more,
        )  # fmt: skip
        found[section] = {"command": ran} | predictions(space, space / out)

    score("predictions: manifest with a missing file", "listed.csv", "listed", "--top-k", "all")
    shutil.copy(space / "season/S1/C1/00-n0.jpg", space / "season/S1/C1/gone.jpg")
    score("score: retry-failed", "listed.csv", "listed", "--top-k", "all", "--retry-failed")
    (space / "season/S1/C1/gone.jpg").unlink()
    score("predictions: before an update", "grow", "grown", "--rows-per-file", 4)
    grown = sorted((space / "grow").iterdir())
    os.utime(shutil.copy(grown[1], grown[0]), (time.time() + 9, time.time() + 9))
    shutil.copy(grown[2], space / "grow" / "new.jpg")
    grown[5].unlink()
    score("score: update", "grow", "grown", "--rows-per-file", 4, "--update")
    score(
        "score: include, exclude, limit", "season", "chosen",
        "--include", "S1/*", "--exclude", "*-n3.jpg", "--limit", 9,
    )  # fmt: skip
    ran = space.do(
        "score", "--images", space / "season", "--model", space / "small",
        "--predictions", space / "season-out", "--embeddings", "--top-k", 3,
    )  # fmt: skip
    found["score: a finished run again"] = {"command": ran}
    ran = space.do(
        "rescore", "--predictions", space / "season-out", "--model", space / "small",
        "--output", space / "rescored", "--threshold", 0.6, "--top-k", "all",
    )  # fmt: skip
    found["rescore"] = {"command": ran} | predictions(space, space / "rescored")
    return found


def _export(space: Workspace, out: str, form: str, target: str, *more: object) -> dict[str, Any]:
    path = space / target
    ran = space.do(
        "export", "--predictions", space / out, "--format", form, "--output", path, *more
    )
    found: dict[str, Any] = {"command": ran}
    if form == "csv":
        rows = space.table(path)
        of_files = {*_MOMENTARY, "sha256", "size_bytes"}
        drop = {n for n, name in enumerate(rows[0]) if name in of_files}
        return found | {
            "columns": rows[0],
            "rows": [[cell for n, cell in enumerate(r) if n not in drop] for r in rows[1:]],
        }
    if form == "megadetector":
        return found | {"content": space.json(path)}
    tables = {p.name: space.table(p) for p in sorted(path.glob("*.csv"))}
    described = space.json(path / "datapackage.json")
    return found | {"files": space.names(path), "datapackage": described, "tables": tables}


def _exports(space: Workspace) -> Sections:
    taxa = ["--taxonomy", space / "taxa.csv", "--rollup-threshold", 0.7]
    sites = ["--site-pattern", SITES, "--deployments", space / "deployments.csv"]
    project = ["--project", space / "project.toml"]
    found = {
        "export: csv": _export(space, "season-out", "csv", "season.out.csv"),
        "export: csv with taxa": _export(space, "rescored", "csv", "taxa.out.csv", *taxa),
        "export: megadetector": _export(
            space, "season-out", "megadetector", "season.out.json", "--taxonomy", space / "taxa.csv"
        ),
        "export: camtrap-dp": _export(
            space, "season-out", "camtrap-dp", "package", *project, *sites, *taxa
        ),
    }
    ran = space.do(
        "bursts", "--predictions", space / "rescored", "--output", space / "bursts.parquet",
        *sites, *taxa, "--burst-gap", "5s",
    )  # fmt: skip
    read = pyarrow.parquet.read_table(space / "bursts.parquet")
    rows = sorted(read.to_pylist(), key=lambda row: str(row["uri"]))
    found["bursts"] = {
        "command": ran,
        "schema": [f"{column.name}: {column.type}" for column in read.schema],
        "rows": [[_value(space, name, row[name]) for name in row] for row in rows],
    }
    return found


def _box_exports(space: Workspace) -> Sections:
    sites = ["--site-pattern", SITES, "--deployments", space / "deployments.csv"]
    found = {
        "export: csv of boxes": _export(space, "boxes", "csv", "boxes.out.csv"),
        "export: megadetector of boxes": _export(space, "boxes", "megadetector", "boxes.out.json"),
        "export: camtrap-dp of boxes": _export(
            space, "boxes", "camtrap-dp", "box-package", "--project", space / "project.toml", *sites
        ),
    }
    ran = space.do("review", "--predictions", space / "boxes", "--output", space / "box-review")
    found["review: boxes"] = {"command": ran} | pages(space, space / "box-review")
    return found


def _reviews(space: Workspace) -> Sections:
    ran = space.do(
        "review", "--predictions", space / "season-out", "--output", space / "review",
        "--label-names", space / "names.csv", "--select", "uncertain", "--count", 12,
        "--labelled", space / "truth.csv", space / "few.csv", "--site-pattern", SITES,
        "--deployments", space / "deployments.csv", "--per-label", 3, "--per-section", 10,
        "--images-per-page", 24, "--thumbnail-pixels", 64,
    )  # fmt: skip
    found = {"review: uncertain": {"command": ran} | pages(space, space / "review")}
    ran = space.do(
        "review", "--predictions", space / "season-out", "--output", space / "diverse.html",
        "--select", "diverse", "--count", 10, "--per-label", 1, "--per-section", 5,
        "--thumbnail-pixels", 64,
    )  # fmt: skip
    found["review: diverse"] = {"command": ran} | page(space, space / "diverse.html")
    return found


def _evaluations(space: Workspace) -> Sections:
    ran = space.do(
        "evaluate", "--model", space / "small", "--images", space / "elsewhere.csv",
        "--output", space / "evaluated", "--ray-address", "local",
    )  # fmt: skip
    found = {
        "evaluate: bundle": {
            "command": ran,
            "files": space.names(space / "evaluated", but=["features"]),
            "metrics": space.json(space / "evaluated/metrics.json"),
        }
    }
    ran = space.do(
        "evaluate", "--predictions", space / "season-out", "--labels", space / "truth.csv",
        "--model", space / "small", "--output", space / "evaluated-season",
    )  # fmt: skip
    found["evaluate: predictions"] = {
        "command": ran, "metrics": space.json(space / "evaluated-season/metrics.json"),
    }  # fmt: skip
    return found


# What a user can get wrong, and what is asked for in words.


def mistakes(space: Workspace) -> Sections:
    """The exit code and the message of every mistake."""
    nothing = space / "nothing"
    nothing.mkdir()
    (nothing / "notes.txt").write_text("no image")
    once = space / "once"
    for label, path in zip("abbb", sorted((space / "season/S1/C1").iterdir()), strict=False):
        (once / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, once / label / path.name)
    table(space / "no-uri.csv", ["path", "label"], [["a.jpg", "x"]])
    table(space / "no-label.csv", ["uri"], [["a.jpg"]])
    table(space / "bad-split.csv", ["uri", "label", "split"], [["a.jpg", "x", "exam"]])
    (space / "broken.toml").write_text("views = = 2\n")
    (space / "unknown.toml").write_text("vews = 2\n")
    (space / "nan.toml").write_text("threshold = nan\n")
    (space / "broken.json").write_text("{not json")
    (space / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    damaged = space / "damaged"
    shutil.copytree(space / "small", damaged)
    for path in damaged.glob("head-*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 0xFF
        path.write_bytes(data)
    cut = space / "cut"
    shutil.copytree(space / "small", cut)
    (cut / "model.json").write_text((cut / "model.json").read_text()[:200])
    images, model = space / "season", space / "small"

    def score(**changed: object) -> list[object]:
        given = {"images": images, "model": model, "predictions": space / "wrong"} | changed
        return ["score", *options(given)]

    def train(**changed: object) -> list[object]:
        given = {"images": space / "few.csv", "model": space / "wrong-model"} | changed
        return ["train", *options(given)]

    def options(given: Mapping[str, object]) -> Iterator[object]:
        for name, value in given.items():
            yield f"--{name.replace('_', '-')}"
            if value is not True:
                yield value

    def export(**changed: object) -> list[object]:
        given = {"predictions": space / "season-out", "format": "csv", "output": space / "x.csv"}
        return ["export", *options(given | changed)]

    patience = {"store_patience_seconds": 1}
    wrong: dict[str, list[object]] = {
        "no command": [],
        "unknown command": ["scor"],
        "unknown command, far off": ["frobnicate"],
        "unknown option": ["score", "--imges", images],
        "no option given": ["score"],
        "option without its value": [*score(), "--top-k"],
        "two words for one": [*score(), "--views", 1, 2],
        "a word too many": [*score(), "more"],
        "wrong type": score(views="two"),
        "out of range": score(threshold=1.5),
        "not a number": score(threshold="nan"),
        "negative": score(limit=-1),
        "unknown choice": export(format="xlsx"),
        "unknown backbone": train(backbone="mobilenet_v9"),
        "unknown head": train(head="12,x"),
        "shares above one": train(validation_share=0.6, test_share=0.6),
        "one fold": train(folds=1),
        "missing folder": score(images=space / "absent"),
        "no images": score(images=nothing),
        "no images to train on": train(images=nothing),
        "output in input": score(predictions=images),
        "a label once": train(images=once),
        "no column uri": score(images=space / "no-uri.csv"),
        "no column label": train(images=space / "no-label.csv"),
        "unknown split": train(images=space / "bad-split.csv"),
        "no bundle": score(model=images),
        "missing bundle": score(model=space / "absent"),
        "damaged bundle": score(model=damaged),
        "damaged model.json": score(model=cut),
        "another model-id": score(model_id="0123456789"),
        "another model's predictions": score(
            predictions=space / "season-out", model=space / "large"
        ),
        "other options' predictions": score(predictions=space / "season-out", top_k=1),
        "missing config": score(config=space / "absent.toml"),
        "broken config": score(config=space / "broken.toml"),
        "unknown key in config": score(config=space / "unknown.toml"),
        "not a number in config": score(config=space / "nan.toml"),
        "summary not json": score(summary_json=space / "summary.txt"),
        "credentials in a URI": score(images="s3://KEY:SECRET@bucket/images/"),
        "unreachable endpoint": score(
            images="s3://bucket/images/", s3_endpoint="http://127.0.0.1:1", **patience
        ),
        "bad endpoint": score(images="s3://bucket/images/", s3_endpoint="minio:9000"),
        "bad bucket": score(images="s3://Bad_Bucket!/images/", s3_endpoint="http://127.0.0.1:1"),
        "unknown scheme": score(images="gopher://host/images/"),
        "detections not json": score(detections=space / "broken.json"),
        "detections of COCO": score(detections=space / "coco.json"),
        "detections missing": score(detections=space / "absent.json"),
        "padding without detections": score(box_padding=0.3),
        "views too many": score(views=4),
        "precision not there": score(precision="int8"),
        "update and overwrite": score(update=True, overwrite=True),
        "export of no run": export(predictions=images),
        "export onto a file": export(output=space / "season.out.csv"),
        "camtrap without a project": export(format="camtrap-dp", output=space / "x"),
        "taxonomy missing": export(taxonomy=space / "absent.csv"),
        "rollup without taxonomy": export(rollup_threshold=0.5),
        "bursts of boxes": [
            "bursts", "--predictions", space / "boxes", "--output", space / "b.parquet",
            "--site-pattern", SITES,
        ],
        "bursts with a bad gap": [
            "bursts", "--predictions", space / "rescored", "--output", space / "b.parquet",
            "--site-pattern", SITES, "--burst-gap", "soon",
        ],
        "bad site pattern": [
            "bursts", "--predictions", space / "rescored", "--output", space / "b.parquet",
            "--site-pattern", "{sit}/*",
        ],
        "rescore without embeddings": [
            "rescore", "--predictions", space / "listed", "--model", model,
            "--output", space / "x",
        ],
        "rescore with another base": [
            "rescore", "--predictions", space / "season-out", "--model", space / "crops",
            "--output", space / "x",
        ],
        "evaluate with a label of nobody": [
            "evaluate", "--predictions", space / "season-out", "--labels", space / "truth.csv",
            "--output", space / "x",
        ],
        "evaluate without anything": ["evaluate", "--output", space / "x"],
        "evaluate predictions without labels": [
            "evaluate", "--predictions", space / "season-out", "--output", space / "x",
        ],
        "review selects without embeddings": [
            "review", "--predictions", space / "listed", "--output", space / "x",
            "--select", "diverse",
        ],
        "demo in a folder of others": ["demo", "--folder", space / "season"],
        "completion of an unknown shell": ["completion", "tcsh"],
        "log as JSON": score(images=space / "absent", log_format="json"),
    }  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        ran = pool.map(lambda arguments: space.run(*arguments), wrong.values())
        return {"mistakes": dict(zip(wrong, ran, strict=True))}


def _in_order(choices: re.Match[str]) -> str:
    return choices[1] + ", ".join(sorted(choices[2].split(", "))) + "]"


def words(space: Workspace) -> Sections:
    """What the commands say of themselves."""
    commands = ["train", "tune", "score", "rescore", "evaluate", "export", "bursts", "review"]
    commands += ["demo", "completion"]
    asked: list[list[str]] = [["--help"], ["--version"], *([c, "--help"] for c in commands)]
    asked += [["completion", shell] for shell in ("bash", "zsh", "fish")]
    with ThreadPoolExecutor(2) as pool:
        ran = list(pool.map(lambda arguments: space.run(*arguments), asked))
    for arguments, printed in zip(asked, ran, strict=True):
        if arguments[0] == "completion" and arguments[1] != "--help":
            script = [_CHOICES.sub(_in_order, line) for line in printed["stdout"]]
            printed |= {"stdout": script[:3], "lines": len(script), "digest": digest(script)}
    return {"words": {" ".join(a): r for a, r in zip(asked, ran, strict=True)}}


# Recording and comparing.


def record(photos: Path, package_root: Path = ROOT) -> dict[str, Any]:
    """Run all commands on photographs (a folder of labels), and give what came of it."""
    with tempfile.TemporaryDirectory(prefix="frozen-") as folder:
        space = Workspace(Path(folder), photos, package_root)
        make(space)
        rows: list[Callable[[Workspace], Sections]] = [large, small]
        with ThreadPoolExecutor(len(rows)) as pool:
            sections = [ran.result() for ran in [pool.submit(row, space) for row in rows]]
        found = sections[0] | sections[1] | mistakes(space) | words(space)
    return dict(sorted(found.items()))


def differences(
    one: Any, other: Any, tolerance: float, path: str = "", hashes: bool = False
) -> Iterator[str]:
    """What differs, path by path: numbers by more than `tolerance`, relative or absolute, the
    decimals in texts likewise, and all else at all. Hashes only with `hashes`.

    >>> list(differences({"a": [1.0, "x 0.50"]}, {"a": [1.0001, "x 0.51"]}, 1e-3))
    ['a[1]: "x 0.50" | "x 0.51"']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            below = f"{path}.{key}" if path else str(key)
            if key == "sha256" and not hashes:
                continue
            if key not in other:
                yield f"{below}: only in the first"
            elif key not in one:
                yield f"{below}: only in the second"
            else:
                yield from differences(one[key], other[key], tolerance, below, hashes)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{path}: {len(one)} items | {len(other)} items"
        for index, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, tolerance, f"{path}[{index}]", hashes)
    elif not _alike(one, other, tolerance):
        shown = (json.dumps(value, ensure_ascii=False)[:300] for value in (one, other))
        yield f"{path}: {' | '.join(shown)}"


def _alike(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        if one == other:
            return True
        parts, others = _DECIMAL.split(one), _DECIMAL.split(other)
        return len(parts) == len(others) and all(
            a == b or (n % 2 == 1 and math.isclose(float(a), float(b), rel_tol=tolerance))
            for n, (a, b) in enumerate(zip(parts, others, strict=True))
        )
    number = {type(one), type(other)} <= {int, float}
    if number and float in (type(one), type(other)):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return type(one) is type(other) and bool(one == other)


def written(value: Any, indent: int = 0) -> str:
    """JSON with a line for each short list, so that a change is a line in a diff."""
    flat = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or (len(flat) < 100 and indent > 1):
        return flat
    if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        deep = any(isinstance(i, list) and any(isinstance(x, list) for x in i) for i in value)
        if not deep and not any(isinstance(item, list | str) for item in value):
            return flat
    pad = "\n" + " " * (indent + 1)
    if isinstance(value, list):
        # A row of a table is a line, however long.
        rows = all(isinstance(item, list) for item in value)
        items = [
            json.dumps(item, ensure_ascii=False) if rows else written(item, indent + 1)
            for item in value
        ]
        return f"[{pad}{f',{pad}'.join(items)}\n{' ' * indent}]"
    items = [
        f"{json.dumps(key, ensure_ascii=False)}: {written(item, indent + 1)}"
        for key, item in value.items()
    ]
    return f"{{{pad}{f',{pad}'.join(items)}\n{' ' * indent}}}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the commands, and write what came of it")
    recording.add_argument("out", type=Path)
    shared = os.environ.get("MONKEYRAY_PHOTOS")
    recording.add_argument(
        "--photos", type=Path, default=Path(shared) / "monkeys10" if shared else None,
        help="folder of labelled photographs; default: monkeys10 in MONKEYRAY_PHOTOS",
    )  # fmt: skip
    recording.add_argument("--package-root", type=Path, default=ROOT, help="checkout to run")
    comparing = commands.add_parser("compare", help="say what differs between two records")
    comparing.add_argument("one", type=Path)
    comparing.add_argument("other", type=Path)
    comparing.add_argument("--tolerance", type=float, default=1e-6)
    given = parser.parse_args()
    if given.command == "record":
        if given.photos is None:
            parser.error("give --photos, or set MONKEYRAY_PHOTOS")
        started = time.monotonic()
        given.out.write_text(written(record(given.photos, given.package_root)) + "\n")
        took = time.monotonic() - started
        print(f"{given.out}: {given.out.stat().st_size:,} bytes, {took:.0f} s")
        return 0
    one, other = (json.loads(path.read_text()) for path in (given.one, given.other))
    found = list(differences(one, other, given.tolerance))
    print(*found, sep="\n", end="\n" if found else "")
    hashes = list(differences(one, other, given.tolerance, hashes=True))
    print(f"{len(found)} differences, {len(hashes) - len(found)} hashes that differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
