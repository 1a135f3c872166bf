"""Deployments: where and when cameras took images, from a table and the images' paths.

    deployment_id, site, camera, latitude, longitude, start, end, time_zone, clock_offset, failures

An image belongs to the deployment that its path names (`SitePattern`) and that was active when it
was taken. Columns may also have the names of Camtrap DP, and all other columns of Camtrap DP's
deployments are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from monkeyray.errors import ConfigError, InputError
from monkeyray.exports.times import localise, parse_bound, parse_clock_offset, parse_zone
from monkeyray.images.site_pattern import SitePattern
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import read_rows

#: Why images have no time or no deployment.
REASONS = {
    "no_deployment": "no deployment matches the site and camera in their path",
    "no_time": "no time in their EXIF: give a table of --times",
    "no_time_zone": "neither their deployment nor their EXIF has a time zone",
    "ambiguous_time": "the end of daylight saving time repeats their hour: give a fixed UTC offset",
    "nonexistent_time": "daylight saving time skips their hour: correct the time zone or offset",
    "outside_deployment": "taken before the start or after the end of their camera's deployments",
    "several_deployments": "taken during several deployments of their camera",
}

#: The columns, each with its possible names (see `tables.key`).
_NAMES = {
    "deployment": ("deploymentid", "deployment"),
    "site": ("site", "siteid", "locationid", "locationname"),
    "camera": ("camera", "cameraid"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "start": ("deploymentstart", "start"),
    "end": ("deploymentend", "end"),
    "time_zone": ("timezone", "tz"),
    "clock_offset": ("clockoffset",),
    "failures": ("failures", "failure"),
}
#: Camtrap DP's missing values, which cannot be names of deployments.
NOTHING = ("NA", "NaN", "nan")

#: What separates periods in the column failures.
_BETWEEN = re.compile(r"\s*[;|]\s*")

_EXIF_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([+\-]\d\d:\d\d)?")


@dataclass(frozen=True)
class Deployment:
    """A camera at a location for a period.

    `latitude`, `longitude`: WGS84 degrees. `zone`: of the camera's clock. `clock_offset`: what to
    add to the camera's time to correct it. `start`, `end`: instants, inclusive. `columns`: its
    whole row, by column in the form of `tables.key`. `failures`: periods in which the camera was
    down, inclusive.
    """

    id: str
    site: str
    camera: str
    latitude: float | None
    longitude: float | None
    start: datetime | None
    end: datetime | None
    zone: tzinfo | None
    clock_offset: timedelta
    columns: dict[str, str]
    failures: tuple[tuple[datetime, datetime], ...] = ()


@dataclass(frozen=True)
class Dated:
    """An image's deployment and time with UTC offset, or the key in REASONS that explains why not.

    `contradicted`: the offset in its EXIF differs from that of its deployment, which is used.
    """

    deployment: Deployment | None = None
    time: datetime | None = None
    reason: str | None = None
    contradicted: bool = False


class Deployments:
    """The deployments of a project, looked up by the path of an image.

    Without a pattern there must be a single deployment, which all images belong to. Raises
    ConfigError if there are more, or if a deployment lacks a value for a name in the pattern.
    """

    def __init__(self, rows: list[Deployment], pattern: SitePattern | None) -> None:
        self.rows = rows
        #: A description of the first image that had no deployment.
        self.unknown: str | None = None
        self._pattern = pattern
        self._found: dict[tuple[str, ...], list[Deployment]] = {}
        if pattern is None:
            if len(rows) != 1:
                raise ConfigError(
                    f"--deployments has {len(rows)} rows: give --site-pattern to match them to "
                    "images, such as {site}/{camera}/* for the paths below the images' folder"
                )
            self._found[()] = rows
            return
        for row in rows:
            values = {"site": row.site, "camera": row.camera, "deployment": row.id}
            found = tuple(values[name] for name in pattern.fields)
            if not all(found):
                empty = pattern.fields[found.index("")]
                raise ConfigError(
                    f"--site-pattern {pattern.text} has a {empty}, but the deployment {row.id} "
                    f"has none: fill in the column {empty} of --deployments"
                )
            self._found.setdefault(found, []).append(row)

    def date(self, path: str, captured_at: str | None) -> Dated:
        """The deployment and the time of an image.

        `path`: below the images' folder. `captured_at`: EXIF's local time in ISO 8601, with or
        without an offset.
        """
        rows = self._rows_of(path)
        if not rows:
            if self.unknown is None:
                self.unknown = self._describe(path)
            return Dated(reason="no_deployment")
        match = _EXIF_TIME.fullmatch(captured_at or "")
        try:
            wall = datetime.fromisoformat(match[1]) if match else None
        except ValueError:
            wall = None
        if match is None or wall is None:
            only = rows[0] if len(rows) == 1 else None
            return Dated(only, reason="no_time")
        dated = [_date(row, wall, match[2]) for row in rows]
        inside = [found for found in dated if found.time is not None]
        if len(inside) > 1:
            return Dated(reason="several_deployments")
        if inside:
            return inside[0]
        if len(dated) == 1:
            return dated[0]
        # Any other reason is more specific than an inactive deployment.
        reasons = {found.reason for found in dated} - {"outside_deployment"}
        return Dated(reason=min((str(reason) for reason in reasons), default="outside_deployment"))

    def _describe(self, path: str) -> str:
        assert self._pattern is not None
        found = self._pattern.match(path)
        if found is None:
            return f"{path} does not match --site-pattern {self._pattern.text}"
        its = ", ".join(f"{name} {found[name]!r}" for name in self._pattern.fields)
        first = ", ".join(map(repr, next(iter(self._found), ())))
        return f"{path} has {its}, but the first row of --deployments has {first}"

    def _rows_of(self, path: str) -> list[Deployment]:
        if self._pattern is None:
            return self._found[()]
        found = self._pattern.match(path)
        if found is None:
            return []
        return self._found.get(tuple(found[name] for name in self._pattern.fields), [])


def _date(row: Deployment, wall: datetime, offset: str | None) -> Dated:
    zone, contradicted = row.zone, False
    if zone is None and offset is None:
        return Dated(row, reason="no_time_zone")
    try:
        right = wall + row.clock_offset
        time = localise(right, zone or parse_zone(str(offset)))
        if not isinstance(time, datetime):
            return Dated(row, reason=time)
        if zone is not None and offset is not None:
            contradicted = time.utcoffset() != parse_zone(offset).utcoffset(None)
        before = row.start is not None and time < row.start
        after = row.end is not None and time > row.end
    except (OverflowError, InputError):  # the year 1 or 9999, an offset of 25 hours
        return Dated(row, reason="no_time")
    if before or after:
        return Dated(row, reason="outside_deployment")
    return Dated(row, time, contradicted=contradicted)


def read_deployments(uri: str, storage: Storage, pattern: SitePattern | None) -> Deployments:
    """Read a table of deployments (CSV or Parquet). Raises InputError with the row and value."""
    place = Location.parse(uri)
    rows = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_rows(place, storage, "deployments"), 1):
        try:
            row = _deployment(line)
        except InputError as error:
            raise InputError(f"--deployments {place}, row {number}: {error}") from error
        if row.id in seen:
            raise InputError(
                f"--deployments {place} has the deployment {row.id!r} in rows "
                f"{seen[row.id]} and {number}: give each a deployment_id of its own"
            )
        seen[row.id] = number
        rows.append(row)
    return Deployments(rows, pattern)


def _deployment(line: dict[str, str]) -> Deployment:
    values = {
        ours: next((line[name] for name in names if line.get(name)), "")
        for ours, names in _NAMES.items()
    }
    zone = parse_zone(values["time_zone"]) if values["time_zone"] else None
    bounds: dict[str, datetime | None] = {"start": None, "end": None}
    for name in bounds:
        if values[name]:
            bounds[name] = parse_bound(values[name], zone, end=name == "end")
    start, end = bounds["start"], bounds["end"]
    if start is not None and end is not None and end < start:
        raise InputError(f"it ends ({values['end']}) before it starts ({values['start']})")
    parts = (values["site"], values["camera"], values["start"][:10])
    made = "-".join(part for part in parts if part)
    identifier = values["deployment"] or made
    if not identifier or identifier in NOTHING:
        raise InputError(
            f"{identifier!r} cannot be a deployment's name: fill in the column deployment_id"
        )
    offset = values["clock_offset"]
    return Deployment(
        id=identifier,
        site=values["site"],
        camera=values["camera"],
        latitude=_degrees(values["latitude"], "latitude", 90),
        longitude=_degrees(values["longitude"], "longitude", 180),
        start=start,
        end=end,
        zone=zone,
        clock_offset=parse_clock_offset(offset) if offset else timedelta(0),
        columns=line,
        failures=tuple(_failure(text, zone) for text in _BETWEEN.split(values["failures"]) if text),
    )


def _failure(text: str, zone: tzinfo | None) -> tuple[datetime, datetime]:
    first, slash, last = text.partition("/")
    if not slash:
        raise InputError(
            f"the failure {text!r} is not a period: write its first and last day or time with a "
            "slash, such as 2021-05-03/2021-05-09, and a semicolon between periods"
        )
    start, end = parse_bound(first, zone, end=False), parse_bound(last, zone, end=True)
    if end < start:
        raise InputError(f"the failure {text!r} ends before it starts")
    return start, end


def _degrees(text: str, name: str, limit: int) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -limit <= value <= limit:
        raise InputError(
            f"invalid {name} {text!r}: give decimal degrees from {-limit} to {limit}, with a "
            "decimal point"
        )
    return value


_NO_OFFSET = timedelta(0)


@dataclass(frozen=True)
class Origin:
    """An image's deployment, or else the site and camera in its path, or neither. `time`: when it
    was taken, an instant within its deployment, if that is known. `outside`: it was taken when none
    of its camera's deployments was active."""

    deployment: Deployment | None = None
    found: dict[str, str] | None = None
    time: datetime | None = None
    outside: bool = False

    @property
    def clock_offset(self) -> timedelta:
        """What to add to the camera's time to correct it."""
        return _NO_OFFSET if self.deployment is None else self.deployment.clock_offset

    @property
    def camera(self) -> tuple[str, ...]:
        """A key that the images of one camera share, empty if the camera is unknown."""
        if self.deployment is not None:
            return ("deployment", self.deployment.id)
        return () if self.found is None else ("camera", *self.found.values())

    @property
    def site(self) -> str | None:
        """The name of the site, otherwise of the deployment or camera."""
        if self.deployment is not None:
            return self.deployment.site or self.deployment.id
        found = self.found or {}
        return next(
            (found[name] for name in ("site", "deployment", "camera") if name in found), None
        )


def origin(
    path: str,
    captured_at: str | None,
    pattern: SitePattern | None,
    deployments: Deployments | None,
) -> Origin:
    """The origin of an image, from its path below the images' folder and EXIF's local time.

    An image without a single matching deployment belongs to the camera that the pattern finds.
    """
    outside = False
    if deployments is not None:
        dated = deployments.date(path, captured_at)
        outside = dated.reason == "outside_deployment"
        if dated.deployment is not None:
            return Origin(dated.deployment, time=dated.time, outside=outside)
    return Origin(found=pattern.match(path) if pattern is not None else None, outside=outside)
