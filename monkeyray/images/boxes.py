"""Detectors' boxes: the columns that describe them, and the crop that is classified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import pyarrow as pa

from monkeyray.images.views import Box

#: The columns of a run with detections. `detection`: the box's index among the image's detections,
#: from 0, null for an image without a box. `detection_category`: animal, person or vehicle; blank
#: without a box; failure if the detector could not read the image; null if the detections do not
#: list it. `detection_bbox`: left, top, width and height as shares of the upright image. A
#: manifest's columns of these names are renamed.
BOX_FIELDS = [
    ("detection", pa.int32()),
    ("detection_category", pa.string()),
    ("detection_conf", pa.float32()),
    ("detection_bbox", pa.list_(pa.float32(), 4)),
]
BOX_COLUMNS = tuple(name for name, _ in BOX_FIELDS)

ANIMAL, PERSON, VEHICLE, BLANK, FAILURE = "animal", "person", "vehicle", "blank", "failure"

#: The category of a box with a negative confidence, whatever the detector's category.
#: MegaDetector's repeat-detection elimination negates the confidence of boxes that recur in the
#: same place.
ELIMINATED = "eliminated"
#: Categories that become the status of a row, which is not scored.
PASSED = (BLANK, PERSON, VEHICLE, ELIMINATED)
#: The observations in exports.
OBSERVED = {BLANK: "blank", PERSON: "human", VEHICLE: "vehicle"}
#: The status of readable images without a detector result.
UNDETECTED = "undetected"

#: How far rounding may put a box outside of its image, as a share of its side.
ROUNDING = 0.01


def has_boxes(names: Sequence[str]) -> bool:
    """Whether the columns of a plan or table are those of a run with detections."""
    return "detection" in names


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def pass_through(category: str | None) -> tuple[str, str | None]:
    """The status and error of a row that is not scored because of its detection category.

    >>> pass_through("person"), pass_through(None)
    (('person', None), ('undetected', 'not listed in the detections'))
    """
    if category in PASSED:
        return category, None
    if category == FAILURE:
        return UNDETECTED, "the detector could not read it"
    return UNDETECTED, "not listed in the detections"


def crop_of(bbox: Sequence[float], padding: float, width: int, height: int) -> Box:
    """The crop around a box in an image of that size.

    It is a square, so that nothing is squeezed: as wide as the box's longer side plus `padding`
    times that on each side, centred on the box and moved into the image. Where the image is too
    small, the crop has its full width or height.

    >>> crop_of((0.25, 0.5, 0.25, 0.25), 0.1, 400, 200)
    (90.0, 65.0, 210.0, 185.0)
    """
    left, top = (min(max(share, 0.0), 1.0) for share in bbox[:2])
    right, bottom = (min(max(bbox[i] + bbox[i + 2], 0.0), 1.0) for i in (0, 1))
    # A box that rounding left without a width still shows a pixel.
    longer = max((right - left) * width, (bottom - top) * height, 1.0)
    side = longer * (1 + 2 * padding)
    found = []
    for low, high, room in ((left, right, width), (top, bottom, height)):
        length = min(side, float(room))
        start = (low + high) / 2 * room - length / 2
        start = min(max(start, 0.0), room - length)
        found.append((start, start + length))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def tidy_box(bbox: Sequence[float]) -> list[float]:
    """Left, top, width and height of a box, rounded to float32's digits and clipped to 0 to 1.

    >>> tidy_box([0.20000000298, -0.001, 0.5, 1.002])
    [0.2, 0.0, 0.5, 1.0]
    """
    starts = [min(max(round(share, 6), 0.0), 1.0) for share in bbox[:2]]
    ends = [min(max(bbox[i] + bbox[i + 2], 0.0), 1.0) for i in (0, 1)]
    sides = (end - start for start, end in zip(starts, ends, strict=True))
    return starts + [max(round(side, 6), 0.0) for side in sides]
