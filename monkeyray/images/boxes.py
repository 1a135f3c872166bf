"""Boxes that a detector has found: what a row says of its box, and the crop that is seen of it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

#: What the rows of a run with detections say of their box. `detection`: its place in the list of
#: the image's detections, from 0, null in the row of an image without a box. `detection_category`:
#: animal, person or vehicle; blank where there is no box; failure where the detector could not read
#: the image; null where the detections do not list it. `detection_bbox`: left, top, width and
#: height as shares of the upright image. A manifest's columns of these names get others.
BOX_FIELDS = [
    ("detection", pa.int32()),
    ("detection_category", pa.string()),
    ("detection_conf", pa.float32()),
    ("detection_bbox", pa.list_(pa.float32(), 4)),
]
BOX_COLUMNS = tuple(name for name, _ in BOX_FIELDS)

ANIMAL, PERSON, VEHICLE, BLANK, FAILURE = "animal", "person", "vehicle", "blank", "failure"

#: Statuses of rows that are what the detector says, and are not scored.
PASSED = (BLANK, PERSON, VEHICLE)
#: What exports call them.
OBSERVED = {BLANK: "blank", PERSON: "human", VEHICLE: "vehicle"}
#: The status of images that can be read and of which the detector says nothing.
UNDETECTED = "undetected"


def has_boxes(names: Sequence[str]) -> bool:
    """Whether a plan's or a table's columns are those of a run with detections."""
    return "detection" in names


def pass_through(category: str | None) -> tuple[str, str | None]:
    """The status and error of a row that is not scored for what the detector says.

    >>> pass_through("person"), pass_through(None)
    (('person', None), ('undetected', 'the detections do not list it'))
    """
    if category in PASSED:
        return category, None
    if category == FAILURE:
        return UNDETECTED, "the detector could not read it"
    return UNDETECTED, "the detections do not list it"


def crop_of(
    bbox: Sequence[float], padding: float, width: int, height: int
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the crop of a box, in pixels of an image of that size.

    The crop is a square, so that nothing is squeezed: the box's longer side and `padding` times it
    on either side, about the box's middle, moved into the image; where the image is too small for
    that, it has all of its width or height.

    >>> crop_of((0.25, 0.5, 0.25, 0.25), 0.1, 400, 200)
    (90.0, 65.0, 210.0, 185.0)
    """
    left, top = (min(max(share, 0.0), 1.0) for share in bbox[:2])
    right, bottom = (min(max(bbox[i] + bbox[i + 2], 0.0), 1.0) for i in (0, 1))
    # A box that rounding has left without a width still shows a pixel.
    longer = max((right - left) * width, (bottom - top) * height, 1.0)
    side = longer * (1 + 2 * padding)
    found = []
    for low, high, room in ((left, right, width), (top, bottom, height)):
        length = min(side, float(room))
        start = (low + high) / 2 * room - length / 2
        start = min(max(start, 0.0), room - length)
        found.append((start, start + length))
    return found[0][0], found[1][0], found[0][1], found[1][1]
