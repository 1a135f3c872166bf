"""`deployments.csv` of a Camtrap DP 1.0.2: the table that was given, as the standard takes it."""

from __future__ import annotations

import csv
import io
import math

from monkeyray.errors import InputError
from monkeyray.exports.camtrap_names import DEPLOYMENTS
from monkeyray.exports.deployments import NOTHING, Deployment
from monkeyray.exports.times import stamp
from monkeyray.storage.tables import key

#: By column: whether it is of whole numbers, the smallest, the largest.
_NUMBERS: dict[str, tuple[bool, float, float]] = {
    "coordinateUncertainty": (True, 1, math.inf),
    "cameraDelay": (True, 0, math.inf),
    "cameraHeight": (False, 0, math.inf),
    "cameraDepth": (False, 0, math.inf),
    "cameraTilt": (True, -90, 90),
    "cameraHeading": (True, 0, 360),
    "detectionDistance": (False, 0, math.inf),
}
_YES_OR_NO = ("timestampIssues", "baitUse")
_SAID = {
    **dict.fromkeys(("true", "yes", "y", "1"), "true"),
    **dict.fromkeys(("false", "no", "n", "0"), "false"),
}
_FEATURES = (
    "roadPaved", "roadDirt", "trailHiking", "trailGame", "roadUnderpass", "roadOverpass",
    "roadBridge", "culvert", "burrow", "nestSite", "carcass", "waterSource", "fruitingTree",
)  # fmt: skip


def deployments_csv(rows: list[Deployment]) -> bytes:
    """The table. Raises InputError for a deployment that lacks what the standard requires, or has
    what it does not take."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, DEPLOYMENTS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        needed = {
            "latitude": row.latitude,
            "longitude": row.longitude,
            "start": row.start,
            "end": row.end,
        }
        for name, value in needed.items():
            if value is None:
                raise InputError(
                    f"the deployment {row.id} has no {name}, which Camtrap DP requires: fill the "
                    f"column {name} of --deployments"
                )
        assert row.start is not None
        assert row.end is not None
        columns = {name: _cell(row, name) for name in DEPLOYMENTS}
        columns |= {
            "deploymentID": row.id,
            "locationID": columns["locationID"] or ("" if columns["locationName"] else row.site),
            "latitude": str(row.latitude),
            "longitude": str(row.longitude),
            "deploymentStart": stamp(row.start),
            "deploymentEnd": stamp(row.end),
            "cameraID": row.camera,
        }
        writer.writerow(columns)
    return sink.getvalue().encode()


def _cell(row: Deployment, name: str) -> str:
    text = row.columns.get(key(name), "")
    if text in NOTHING:
        return ""
    found: str | None = text
    what = ""
    if name in _NUMBERS:
        found, what = _number(text, *_NUMBERS[name])
    elif name in _YES_OR_NO:
        found, what = _SAID.get(text.lower()), "true or false"
    elif name == "featureType":
        found = next((each for each in _FEATURES if key(each) == key(text)), None)
        what = f"one of {', '.join(_FEATURES)}"
    if text and found is None:
        raise InputError(
            f"the deployment {row.id} has the {name} {text!r}, and Camtrap DP takes {what}: "
            f"correct the column {name} of --deployments, or leave it empty"
        )
    return found or ""


def _number(text: str, whole: bool, least: float, most: float) -> tuple[str | None, str]:
    """A number as it is written, None for none, and what it has to be."""
    what = f"a {'whole ' if whole else ''}number from {least:g}"
    if most < math.inf:
        what += f" to {most:g}"
    try:
        value = float(text)
    except ValueError:
        return None, what
    if not math.isfinite(value) or not least <= value <= most or (whole and value != int(value)):
        return None, what
    return str(int(value)) if whole else f"{value:.12g}", what
