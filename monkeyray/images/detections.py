"""MegaDetector's results, read and checked.

Batch results (format 1.x of megadetector-output-format.md in agentmorris/MegaDetector) and the
predictions of SpeciesNet, whose detections have the same form. Each image's JSON object is freed as
it is parsed: some 200 bytes per file and 30 per box stay. Python's parser needs the whole text, so
reading a file of 1 GB takes some 3 GB.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.errors import InputError, ObjectError
from monkeyray.images.boxes import ANIMAL, PERSON, ROUNDING, VEHICLE, is_number
from monkeyray.redact import masked
from monkeyray.storage.keys import find, first_of_each, sha256, string_keys, utf8_name
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: The usual confidence threshold of MegaDetector 5 and later, for files without their own.
THRESHOLD = 0.2

#: The categories of boxes, by their number in `Detections.kinds`.
KINDS = (ANIMAL, PERSON, VEHICLE)
#: By the names that detectors write.
_KINDS = {"animal": ANIMAL, "person": PERSON, "human": PERSON, "vehicle": VEHICLE}
_SPECIESNET = {"1": "animal", "2": "human", "3": "vehicle"}

_WAY_OUT = (
    "give MegaDetector's batch results, as written by its run_detector_batch, AddaxAI, or "
    "PyTorch-Wildlife's save_detection_timelapse_json"
)


@dataclass(frozen=True)
class Detections:
    """A detector's results by file.

    `files`: their names as written, with slashes. The boxes of file i are those from `starts[i]` to
    before `starts[i + 1]`. By box: `kinds`, indices into KINDS, int8, -1 for others; `confs`,
    float32, -1 to 1, see boxes.ELIMINATED; `boxes`, float32 (n, 4), see boxes.BOX_FIELDS.
    `failed`: whether the detector could not read a file. `threshold`: the file's own, else
    THRESHOLD. `repeated`: how many entries repeated a file with equal boxes.
    """

    uri: str
    files: list[str]
    starts: Array
    kinds: Array
    confs: Array
    boxes: Array
    failed: Array
    threshold: float
    repeated: int


def read_detections(uri: str | Location, storage: Storage) -> tuple[bytes, str]:
    """The bytes of a file of detections, and their SHA-256, which is part of a run's identity.

    Raises InputError if it cannot be read.
    """
    place = Location.parse(uri)
    try:
        data = storage.read(place).data
    except ObjectError as error:
        raise InputError(f"--detections {place} cannot be read: {error}") from error
    return data, sha256(data)


def parse_detections(uri: str | Location, data: bytes) -> Detections:
    """Detections out of the bytes of their file.

    Raises InputError for another format, a malformed box or one outside of its image, a category
    without a name, and a file that is listed twice with different boxes.
    """
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise InputError(
            f"--detections {uri} is a list, as newer tools write it with the corners of boxes in "
            f"pixels: {_WAY_OUT}"
        )
    reader = _Reader(str(uri))
    try:
        root = json.loads(data, object_hook=reader)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--detections {uri} is not JSON: {error}") from error
    return reader.finish(root)


class _Reader:
    """Collects images while the JSON is parsed."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._files: list[str] = []
        self._starts = array("q", [0])
        self._codes = array("h")
        self._confs = array("f")
        self._boxes = array("f")
        self._failed = array("b")
        self._categories: dict[str, int] = {}

    def __call__(self, found: dict[str, Any]) -> Any:
        """The parser's hook: None for an image, which is collected; other objects unchanged."""
        name = found.get("file", found.get("filepath"))
        if not isinstance(name, str) or not found.keys() & {"detections", "failure", "failures"}:
            return found
        detections = found.get("detections")
        failed = detections is None or found.get("failure") is not None
        if not failed:
            if not isinstance(detections, list):
                raise self._wrong(name, f"detections that are not a list: {detections!r:.80}")
            for detection in detections:
                self._add(name, detection)
        self._files.append(utf8_name(name).replace("\\", "/").removeprefix("./"))
        self._starts.append(len(self._codes))
        self._failed.append(failed)
        return None

    def _add(self, name: str, detection: Any) -> None:
        if not isinstance(detection, dict) or "bbox" not in detection:
            raise self._wrong(name, f"a detection without a bbox: {detection!r:.80}")
        bbox, conf = detection["bbox"], detection.get("conf")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
            raise self._wrong(name, f"the bbox {bbox!r:.80}, which is not four numbers")
        # Negative confidences are valid: repeat-detection elimination writes them.
        if not is_number(conf) or not -1 <= conf <= 1:
            raise self._wrong(name, f"a detection whose conf is {conf!r:.80}, not from -1 to 1")
        left, top, width, height = bbox
        ends = (left, top, left + width, top + height)
        if min(width, height) < 0 or min(ends) < -ROUNDING or max(ends) > 1 + ROUNDING:
            where = "in pixels" if max(bbox) > 2 else "not in the image"
            raise self._wrong(
                name,
                f"the bbox {bbox}, which is {where}: left, top, width and height are shares of the "
                "image, from 0 to 1",
            )
        category = str(detection.get("category"))
        self._codes.append(self._categories.setdefault(category, len(self._categories)))
        self._confs.append(conf)
        self._boxes.extend(bbox)

    def _wrong(self, name: str, what: str) -> InputError:
        return InputError(
            f"--detections {self._uri} has for {masked(name)} {what}; {_WAY_OUT}, or remove this "
            "image"
        )

    def finish(self, root: Any) -> Detections:
        named = root.get("detection_categories") if isinstance(root, dict) else None
        if isinstance(root, dict) and "predictions" in root:
            named = named or _SPECIESNET
        if not isinstance(root, dict) or not {"images", "predictions"} & root.keys():
            keys = ", ".join(root)[:80] if isinstance(root, dict) else type(root).__name__
            pixels = ", with boxes in pixels" if "annotations" in keys else ""
            raise InputError(
                f"--detections {self._uri} is JSON in another format{pixels} (it has {keys}): "
                f"{_WAY_OUT}"
            )
        if "annotations" in root:
            raise InputError(
                f"--detections {self._uri} is in COCO's format, with boxes in pixels: {_WAY_OUT}"
            )
        if not self._files:
            raise InputError(
                f"--detections {self._uri} has no images with file and detections: {_WAY_OUT}"
            )
        kinds = self._kinds(named)
        info = root.get("info")
        meta = info.get("detector_metadata") if isinstance(info, dict) else None
        own: Any = meta.get("typical_detection_threshold") if isinstance(meta, dict) else None
        found = Detections(
            self._uri,
            self._files,
            np.array(self._starts),
            kinds[np.array(self._codes, np.int64)],
            np.array(self._confs),
            np.array(self._boxes).reshape(-1, 4),
            np.array(self._failed, bool),
            float(own) if is_number(own) and 0 <= own <= 1 else THRESHOLD,
            0,
        )
        return _deduplicated(found)

    def _kinds(self, named: Any) -> Array:
        if not isinstance(named, dict) or not named:
            raise InputError(
                f"--detections {self._uri} has no detection_categories, which give the meaning of "
                f"the category numbers: {_WAY_OUT}"
            )
        if "animal" not in [str(kind).lower() for kind in named.values()]:
            raise InputError(
                f"--detections {self._uri} has no category animal, only "
                f"{', '.join(map(str, named.values()))[:200]}: call what is to be scored animal in "
                "its detection_categories"
            )
        unknown = sorted(self._categories.keys() - named.keys())
        if unknown:
            raise InputError(
                f"--detections {self._uri} has boxes of the category {unknown[0]!r}, which is not "
                f"in its detection_categories ({', '.join(named)})"
            )
        kinds = (_KINDS.get(str(named[category]).lower()) for category in self._categories)
        return np.array([KINDS.index(kind) if kind else -1 for kind in kinds], np.int8)


def _deduplicated(found: Detections) -> Detections:
    """Each file once. Raises InputError if two entries of a file differ."""
    names = pa.chunked_array([pa.array(found.files, pa.string())])
    keys = string_keys(names)
    first = first_of_each(keys)
    if first.all():
        return found
    kept = np.flatnonzero(first)
    original = kept[find(keys[~first], keys[first])]
    for again, before in zip(np.flatnonzero(~first).tolist(), original.tolist(), strict=True):
        if _results(found, again) != _results(found, before):
            raise InputError(
                f"--detections {found.uri} lists {masked(found.files[again])} twice, with "
                "different boxes: leave one of them out"
            )
    counts = np.diff(found.starts)
    boxes = np.repeat(first, counts)
    return Detections(
        found.uri,
        [found.files[i] for i in kept.tolist()],
        np.concatenate([[0], np.cumsum(counts[first])]),
        found.kinds[boxes],
        found.confs[boxes],
        found.boxes[boxes],
        found.failed[first],
        found.threshold,
        int((~first).sum()),
    )


def _results(found: Detections, file: int) -> tuple[Any, ...]:
    its = slice(found.starts[file], found.starts[file + 1])
    return (
        bool(found.failed[file]),
        found.kinds[its].tolist(),
        found.confs[its].tolist(),
        found.boxes[its].tolist(),
    )
