"""Predictions as a Camtrap DP 1.0.2, the exchange format of the camera-trap community.

    place/datapackage.json    the project, and what the tables cover; written last
    place/deployments.csv     all of the deployments table
    place/media.csv           the images that could be dated
    place/observations.csv    one for each of them, or of its boxes, of the medium, by a machine
    place/left-out.csv        the images that are not in it, each with why (no part of the standard)

See https://camtrap-dp.tdwg.org and the schemas named below.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv

from monkeyray.errors import InputError
from monkeyray.exports.camtrap_deployments import deployments_csv
from monkeyray.exports.camtrap_names import BBOX, MEDIA, OBSERVATIONS, file_path, mediatype
from monkeyray.exports.deployments import REASONS, Deployment, Deployments
from monkeyray.exports.export_rollup import roll_up_rows, taxon_of
from monkeyray.exports.project_file import Project
from monkeyray.exports.rollup import Group
from monkeyray.exports.rows import Predictions, relative, tidy_box
from monkeyray.exports.taxonomy import RANKS, Taxa, Taxon
from monkeyray.exports.times import stamp
from monkeyray.images.boxes import OBSERVED, PASSED
from monkeyray.progress import Advance
from monkeyray.statistics.thresholds import BELOW
from monkeyray.storage.location import is_local, join
from monkeyray.storage.store import Storage

VERSION = "1.0.2"
FILES = ("datapackage.json", "deployments.csv", "media.csv", "observations.csv", "left-out.csv")

_SCHEMAS = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{VERSION}"
_COLUMNS = [
    "uri", "status", "error", "label", "score", "decision", "captured_at", "model_id",
    "predicted_at",
]  # fmt: skip
_NO_PATH = "no_path"
_LEFT_OUT = pa.schema(
    [(name, pa.string()) for name in ("uri", "captured_at", "deploymentID", "reason", "why")]
)
#: Why an image is left out, in words.
WHY = {
    **REASONS,
    _NO_PATH: "not below --relative-to, or with a name that the standard cannot hold",
}


@dataclass
class Counts:
    """Media by observationType, images left out by reason, and what people should look at."""

    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    contradicted: int = 0
    unnamed: set[str] = field(default_factory=set)
    names: dict[str, Taxon] = field(default_factory=dict)


@dataclass(frozen=True)
class Camtrap:
    """What a package is made with.

    `root`: the place below which site patterns look. `paths`: the place that file paths are
    relative to, where they are below it; others have URLs, if they are in a store. `rollup`: the
    score from which a taxon is sure enough, None for no roll-up.
    """

    project: Project
    deployments: Deployments
    taxa: Taxa
    root: str
    paths: str | None
    rollup: float | None = None


def export_camtrap(
    predictions: Predictions, uri: str, storage: Storage, *, camtrap: Camtrap, advance: Advance
) -> Counts:
    """Write a package, its tables first and each of them whole.

    Raises InputError for a deployment without what the standard requires, and where no image at all
    could be dated.
    """
    places = deployments_csv(camtrap.deployments.rows)
    counts = Counts()
    with contextlib.ExitStack() as stack:
        media, observations, left_out = (
            _Sink(stack.enter_context(storage.writing(join(uri, name))), schema)
            for name, schema in (
                ("media.csv", MEDIA),
                ("observations.csv", OBSERVATIONS),
                ("left-out.csv", _LEFT_OUT),
            )
        )
        columns = [*_COLUMNS, *predictions.box_columns]
        before, number = None, 0
        for table in predictions.tables([*columns, "top_k"], advance):
            rows = table.select(columns).to_pylist()
            rolled = roll_up_rows(table, camtrap.taxa, camtrap.rollup)
            for row, found in zip(rows, rolled, strict=True):
                # The boxes of an image follow each other.
                number = number + 1 if row["uri"] == before else 1
                before = row["uri"]
                _add(row, number, found, camtrap, counts, media, observations, left_out)
            for sink in (media, observations, left_out):
                sink.flush()
        if not counts.kinds:
            reasons = "; ".join(f"{n} {WHY[reason]}" for reason, n in counts.left_out.most_common())
            raise InputError(f"no image can be put into a Camtrap DP: {reasons}")
        for sink in (media, observations, left_out):
            sink.close()
        # An older package must not describe these tables.
        storage.delete(join(uri, "datapackage.json"))
    storage.write(join(uri, "deployments.csv"), places)
    package = _package(camtrap, counts)
    text = json.dumps(package, indent=2, ensure_ascii=False, allow_nan=False)
    storage.write(join(uri, "datapackage.json"), (text + "\n").encode())
    return counts


class _Sink:
    """Rows into a CSV, a table at a time."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pyarrow.csv.CSVWriter(file, schema)
        self._schema = schema
        self._rows: list[Mapping[str, Any]] = []

    def add(self, **row: Any) -> None:
        self._rows.append(row)

    def flush(self) -> None:
        columns = [[row.get(name) for row in self._rows] for name in self._schema.names]
        arrays = [pa.array(c, t) for c, t in zip(columns, self._schema.types, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        self._writer.close()


def _add(
    row: dict[str, Any],
    number: int,
    rolled: tuple[Group, float] | None,
    camtrap: Camtrap,
    counts: Counts,
    media: _Sink,
    observations: _Sink,
    left_out: _Sink,
) -> None:
    uri: str = row["uri"]
    dated = camtrap.deployments.date(relative(uri, camtrap.root) or "", row["captured_at"])
    path = file_path(uri, camtrap.paths)
    reason = dated.reason or (None if path else _NO_PATH)
    if reason is not None or dated.time is None or dated.deployment is None or path is None:
        if number > 1:
            return
        reason = str(reason)
        counts.left_out[reason] += 1
        left_out.add(
            uri=uri,
            captured_at=row["captured_at"],
            deploymentID=dated.deployment.id if dated.deployment else None,
            reason=reason,
            why=WHY[reason],
        )
        return
    if number == 1:
        counts.contradicted += dated.contradicted
    # An image has the same name in every export.
    media_id = hashlib.sha256(uri.encode()).hexdigest()[:32]
    time = stamp(dated.time)
    if row["label"] is not None:
        observed = _classification(row, rolled, camtrap, counts)
    elif row["status"] in PASSED:
        observed = _passed(row, counts)
    elif number == 1:
        observed = _unclassified(counts)
    else:
        return
    if row.get("detection_bbox") is not None:
        x, y, width, height = tidy_box(row["detection_bbox"])
        # The standard has no box without a width.
        sides = (x, y, max(width, 1e-6), max(height, 1e-6))
        observed |= dict(zip(BBOX, sides, strict=True))
    if number == 1:
        media.add(
            mediaID=media_id,
            deploymentID=dated.deployment.id,
            captureMethod=camtrap.project.method,
            timestamp=time,
            filePath=path,
            filePublic=camtrap.project.public,
            fileName=path.rpartition("/")[2],
            fileMediatype=mediatype(uri),
            mediaComments=None
            if row["status"] in ("ok", *PASSED)
            else f"{row['status']}: {row['error'] or ''}",
        )
    observations.add(
        observationID=f"{media_id}-{number}",
        deploymentID=dated.deployment.id,
        mediaID=media_id,
        eventStart=time,
        eventEnd=time,
        observationLevel="media",
        **observed,
    )


def _unclassified(counts: Counts) -> dict[str, Any]:
    """An image that could be dated but not scored."""
    counts.kinds["unclassified"] += 1
    return {"observationType": "unclassified"}


def _passed(row: dict[str, Any], counts: Counts) -> dict[str, Any]:
    """What the detector says of a person, a vehicle, or an image without any box."""
    kind = OBSERVED[row["status"]]
    counts.kinds[kind] += 1
    conf = row["detection_conf"]
    return {
        "observationType": kind,
        "classificationMethod": "machine",
        "classifiedBy": "the detector whose boxes MonkeyRay was given",
        "classificationProbability": None if conf is None else min(round(conf, 6), 1.0),
    }


def _classification(
    row: dict[str, Any], rolled: tuple[Group, float] | None, camtrap: Camtrap, counts: Counts
) -> dict[str, Any]:
    """What the machine says. Below its threshold, the standard calls that unknown."""
    label, decision, score = row["label"], row["decision"], row["score"]
    taxon, sure = camtrap.taxa.of(label), decision != BELOW
    if camtrap.rollup is not None:
        sure = rolled is not None
        if rolled is not None:
            taxon, score = taxon_of(rolled[0], camtrap.taxa), rolled[1]
    kind = taxon.kind if sure else "unknown"
    counts.kinds[kind] += 1
    name = taxon.scientific_name if sure else None
    if name is not None:
        counts.names.setdefault(name, taxon)
    elif kind == "animal":
        counts.unnamed.add(taxon.label)
    # A pipe divides tags.
    tags = [
        f"label:{label.replace('|', '/')}",
        *([f"decision:{decision}"] if decision else []),
    ]
    return {
        "observationType": kind,
        "scientificName": name,
        "classificationMethod": "machine",
        "classifiedBy": f"MonkeyRay model {row['model_id']}",
        "classificationTimestamp": row["predicted_at"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        # A softmax may give a hair above 1.
        "classificationProbability": min(round(score, 6), 1.0),
        "observationTags": " | ".join(tags),
    }


def _package(camtrap: Camtrap, counts: Counts) -> dict[str, Any]:
    from importlib.metadata import version

    given = dict(camtrap.project.package)
    known = {
        taxon.get("scientificName"): taxon
        for taxon in given.pop("taxonomic", [])
        if isinstance(taxon, dict)
    }
    sources = [*given.pop("sources", []), {"title": "MonkeyRay", "version": version("monkeyray")}]
    resources = [
        {
            "name": name,
            "path": f"{name}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": f"{_SCHEMAS}/{name}-table-schema.json",
        }
        for name in ("deployments", "media", "observations")
    ]
    return {
        "resources": resources,
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sources": sources,
        # What the project file says of these is better known than computed.
        "spatial": _spatial(camtrap.deployments.rows),
        "temporal": _temporal(camtrap.deployments.rows),
        **given,
        "taxonomic": [
            known.get(name) or {"scientificName": name, **_as_the_standard_has(taxon)}
            for name, taxon in sorted(counts.names.items())
        ],
    }


def _as_the_standard_has(taxon: Taxon) -> dict[str, Any]:
    """What is known of a taxon, without a rank that the standard has not, as a tribe."""
    rest = dict(taxon.rest)
    rank = str(rest.pop("taxonRank", "")).lower()
    return rest | ({"taxonRank": rank} if rank in (*RANKS, "species", "subspecies") else {})


def _spatial(rows: list[Deployment]) -> dict[str, Any]:
    """GeoJSON: the rectangle around the deployments, or the point where they all are."""
    longitudes = [row.longitude for row in rows if row.longitude is not None]
    latitudes = [row.latitude for row in rows if row.latitude is not None]
    west, east, south, north = min(longitudes), max(longitudes), min(latitudes), max(latitudes)
    if (west, south) == (east, north):
        return {"type": "Point", "coordinates": [west, south]}
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def _temporal(rows: list[Deployment]) -> dict[str, str]:
    """The first and last day, each where the camera was."""
    starts = [row.start.date() for row in rows if row.start is not None]
    ends = [row.end.date() for row in rows if row.end is not None]
    return {"start": min(starts).isoformat(), "end": max(ends).isoformat()}


def default_paths(predictions: Predictions, uri: str) -> str | None:
    """What file paths are relative to where nobody says.

    A package that is above its images is relative to itself, so that its paths lead to them. Other
    images have URLs, or if they are on a disk paths relative to the images' folder.
    """
    root = predictions.root
    if root is not None and join(root, "").startswith(join(uri, "")):
        return uri
    return root if root is not None and is_local(root) else None
