"""Camtrap DP 1.0.2, the exchange format of the camera-trap community.

    place/datapackage.json    the project, and what the tables cover; written last
    place/deployments.csv     the whole table of deployments
    place/media.csv           the images whose time is known
    place/observations.csv    one per image or box, at media level, by a machine; and on request one
                              per label of an event, with a count, at event level
    place/left-out.csv        the other images, each with a reason (not part of the standard)

See https://camtrap-dp.tdwg.org and the schemas in the folder `schemas`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.csv

from monkeyray.console import counted
from monkeyray.errors import InputError
from monkeyray.exports.camtrap.package import describe_package
from monkeyray.exports.camtrap.profile import deployments_csv, table_fields
from monkeyray.exports.deployments import REASONS, Deployment, Origin
from monkeyray.exports.events.find import ROWS, find_events, group_rows
from monkeyray.exports.job import Export, Job
from monkeyray.exports.options import parse_gap
from monkeyray.exports.row_table import open_database
from monkeyray.exports.taxonomy import Group, RollUp, Taxon, roll_up_rows, taxon_of
from monkeyray.exports.times import stamp
from monkeyray.images.boxes import ELIMINATED, OBSERVED, PASSED, tidy_box
from monkeyray.statistics.thresholds import ACCEPTED, BELOW
from monkeyray.storage.location import Location

_TYPES = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}
MEDIA, OBSERVATIONS = (
    pa.schema(
        [(each["name"], _TYPES.get(each["type"], pa.string())) for each in table_fields(name)]
    )
    for name in ("media", "observations")
)
#: Left, top, width and height.
_BBOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")

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
    _NO_PATH: "not below --relative-to, or the standard does not allow its file name",
}

#: The pattern of media.filePath.
_PATH = re.compile(r"(?![./~])(?!.*\.\.).+")

_MEDIATYPES = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "jpe": "image/jpeg", "jfif": "image/jpeg",
    "mpo": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif",
    "tif": "image/tiff", "tiff": "image/tiff", "bmp": "image/bmp", "avif": "image/avif",
    "heic": "image/heic", "heif": "image/heif", "mp4": "video/mp4", "m4v": "video/mp4",
    "avi": "video/x-msvideo", "mov": "video/quicktime", "mkv": "video/matroska",
    "webm": "video/webm", "mpg": "video/mpeg", "mpeg": "video/mpeg", "wmv": "video/x-ms-wmv",
}  # fmt: skip


@dataclass
class Counts:
    """Media by observationType, images left out by reason, images whose EXIF and deployment have
    different UTC offsets, labels of animals without a scientific name, and observations of
    events."""

    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    contradicted: int = 0
    unnamed: set[str] = field(default_factory=set)
    names: dict[str, Taxon] = field(default_factory=dict)
    of_events: int = 0


def export_camtrap(job: Job) -> Export:
    """Write a package: each table whole, and datapackage.json last.

    Raises InputError for a deployment that lacks a required value, and if no image has a known
    time.
    """
    output, storage = job.output, job.storage
    assert job.source.deployments is not None
    places = deployments_csv(job.source.deployments.rows)
    with contextlib.ExitStack() as stack:
        tables = {
            name: _Table(stack.enter_context(storage.writing(output / name)), schema)
            for name, schema in (
                ("media.csv", MEDIA),
                ("observations.csv", OBSERVATIONS),
                ("left-out.csv", _LEFT_OUT),
            )
        }
        rows = _Rows(job, *tables.values())
        has_events = job.config.observation_level == "event"
        db = stack.enter_context(open_database("256MB" if has_events else "128MB"))
        gaps = (parse_gap("gap", job.config.gap), parse_gap("burst-gap", job.config.burst_gap))
        threshold = job.config.rollup_threshold
        roll_up = None
        if has_events:
            roll_up = find_events(
                db, job.source, job.taxa, *gaps, job.advance,
                rollup_threshold=threshold, keep=rows.keeps,
            ).roll_up  # fmt: skip
        else:
            group_rows(db, job.source, *gaps, job.advance, keep=rows.keeps, labels=False)
        ids = _event_ids(db)
        columns = [*_COLUMNS, *job.predictions.box_columns]
        for table in job.predictions.tables([*columns, "top_k"], job.advance):
            rolled = roll_up_rows(table, job.taxa, threshold)
            for row, found in zip(table.select(columns).to_pylist(), rolled, strict=True):
                rows.add(row, found, next(ids))
            for each in tables.values():
                each.flush()
        if has_events:
            rows.add_events(db, roll_up)
        counts = rows.counts
        left_out = Counter({WHY[reason]: count for reason, count in counts.left_out.items()})
        if not counts.kinds:
            reasons = "; ".join(f"{count} {why}" for why, count in left_out.most_common())
            raise InputError(f"no image fits into a Camtrap DP package: {reasons}")
        for each in tables.values():
            each.close()
        # An older package must not describe these tables.
        storage.delete(output / "datapackage.json")
    storage.write(output / "deployments.csv", places)
    package = describe_package(job, counts.names)
    text = json.dumps(package, indent=2, ensure_ascii=False, allow_nan=False)
    storage.write(output / "datapackage.json", (text + "\n").encode())
    return Export(str(output), counts.kinds, left_out, tuple(_notes(output, counts)))


def _notes(output: Location, counts: Counts) -> Iterator[str]:
    if counts.left_out:
        yield f"images that were left out are listed in {output / 'left-out.csv'}"
    if counts.contradicted:
        yield (
            f"{counted(counts.contradicted, 'image')} with another UTC offset in EXIF than in the "
            "deployment's time zone, which was used"
        )
    if counts.of_events:
        yield f"{counted(counts.of_events, 'observation')} of events"
    if counts.unnamed:
        some = ", ".join(sorted(counts.unnamed)[:5])
        yield (
            f"{counted(len(counts.unnamed), 'label')} of animals without a scientific name "
            f"({some}): add it to --taxonomy"
        )


def _event_ids(db: duckdb.DuckDBPyConnection) -> Iterator[str | None]:
    """The event of each row of the predictions, in order."""
    reading = db.cursor()
    found = reading.sql("""SELECT event_id FROM rows LEFT JOIN grouped USING (number)
        LEFT JOIN events USING (event) ORDER BY number""")
    for batch in found.to_arrow_reader(ROWS):
        yield from batch["event_id"].to_pylist()


_EVENTS = """
SELECT event_id AS "eventID", deployment AS "deploymentID", start_instant AS "eventStart",
    end_instant AS "eventEnd", label, score, count, scored,
    CASE accepted WHEN TRUE THEN $accepted WHEN FALSE THEN $below END AS decision,
    taxon, taxon_score
FROM events JOIN observations USING (event) ORDER BY event, score DESC, label
"""


class _Table:
    """Writes rows to a CSV file in batches."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pyarrow.csv.CSVWriter(file, schema)
        self._schema = schema
        self._rows: list[Mapping[str, Any]] = []

    def add(self, **row: Any) -> None:
        self._rows.append(row)

    def flush_when_full(self) -> None:
        if len(self._rows) >= ROWS:
            self.flush()

    def flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        self._writer.close()


class _Rows:
    """Turns rows of predictions into media, observations and left-out images."""

    def __init__(self, job: Job, media: _Table, observations: _Table, left_out: _Table) -> None:
        assert job.source.deployments is not None
        assert job.project is not None
        self.counts = Counts()
        self._deployments, self._project = job.source.deployments, job.project
        self._taxa, self._rolls_up = job.taxa, job.config.rollup_threshold is not None
        self._root = job.source.required_root()
        given = job.config.relative_to
        self._paths = (
            Location.parse(given) if given else default_paths(job.predictions.root, job.output)
        )
        self._media, self._observations, self._left_out = media, observations, left_out
        #: The model of the last row that was scored, and when.
        self._made: dict[str, Any] = {}
        self._uri: str | None = None
        self._number = 0

    def keeps(self, uri: str, origin: Origin) -> bool:
        """Whether an image is in the package."""
        return origin.time is not None and file_path(uri, self._paths) is not None

    def add(
        self, row: dict[str, Any], rolled: tuple[Group, float] | None, event_id: str | None
    ) -> None:
        """Add a row with its roll-up and event, unless it is an eliminated box. The rows of an
        image's boxes follow each other."""
        if row["status"] == ELIMINATED:
            return
        uri: str = row["uri"]
        self._number = self._number + 1 if uri == self._uri else 1
        self._uri = uri
        first = self._number == 1
        dated = self._deployments.date(self._root.relative(uri) or "", row["captured_at"])
        path = file_path(uri, self._paths)
        if dated.time is None or dated.deployment is None or path is None:
            if first:
                self._leave_out(row, dated.deployment, dated.reason or _NO_PATH)
            return
        observed = self._observe(row, rolled)
        if observed is None and not first:
            return
        observed = observed or {"observationType": "unclassified"}
        self.counts.kinds[observed["observationType"]] += 1
        if row.get("detection_bbox") is not None:
            x, y, width, height = tidy_box(row["detection_bbox"])
            # The standard's boxes have a width and a height.
            sides = (x, y, max(width, 1e-6), max(height, 1e-6))
            observed |= dict(zip(_BBOX, sides, strict=True))
        # An image has the same ID in every export.
        media_id = hashlib.sha256(uri.encode()).hexdigest()[:32]
        time = stamp(dated.time)
        if first:
            self.counts.contradicted += dated.contradicted
            self._media.add(
                mediaID=media_id,
                deploymentID=dated.deployment.id,
                captureMethod=self._project.method,
                timestamp=time,
                filePath=path,
                filePublic=self._project.public,
                fileName=path.rpartition("/")[2],
                fileMediatype=mediatype(uri),
                mediaComments=None
                if row["status"] in ("ok", *PASSED)
                else f"{row['status']}: {row['error'] or ''}",
            )
        self._observations.add(
            observationID=f"{media_id}-{self._number}",
            deploymentID=dated.deployment.id,
            mediaID=media_id,
            eventID=event_id,
            eventStart=time,
            eventEnd=time,
            observationLevel="media",
            **observed,
        )

    def add_events(self, db: duckdb.DuckDBPyConnection, roll_up: RollUp | None) -> None:
        """Add an observation for each label of each event; labels that are rolled up to one taxon,
        or are unknown, are one observation."""
        names = {"accepted": ACCEPTED, "below": BELOW}
        rows = db.sql(_EVENTS, params=names).to_arrow_reader(ROWS)
        lines = (line for batch in rows for line in batch.to_pylist())
        for event_id, its in itertools.groupby(lines, lambda line: line["eventID"]):
            found: dict[tuple[Any, ...], dict[str, Any]] = {}
            for line in its:
                rolled = None
                if roll_up is not None and line["scored"]:
                    taxon, score = line["taxon"], line["taxon_score"]
                    if line["decision"] == ACCEPTED:
                        taxon, score = roll_up.own[line["label"]], line["score"]
                    rolled = None if taxon is None else (roll_up.groups[taxon], score)
                observed = (
                    self._classify({**line, **self._made}, rolled)
                    if line["scored"]
                    else _detected(line["label"], line["score"])
                )
                kind, name = observed["observationType"], observed.get("scientificName")
                same = (kind, name or (line["label"] if kind == "animal" else None))
                kept = found.setdefault(same, {**line, **observed})
                kept["count"] = max(kept["count"], line["count"])
            for number, observation in enumerate(found.values(), 1):
                self.counts.of_events += 1
                if observation["observationType"] == "blank":
                    observation["count"] = None
                self._observations.add(
                    **{name: observation.get(name) for name in OBSERVATIONS.names}
                    | {"observationID": f"{event_id}-{number}", "observationLevel": "event"}
                )
            self._observations.flush_when_full()
        self._observations.flush()

    def _leave_out(self, row: dict[str, Any], deployment: Deployment | None, reason: str) -> None:
        self.counts.left_out[reason] += 1
        self._left_out.add(
            uri=row["uri"],
            captured_at=row["captured_at"],
            deploymentID=deployment.id if deployment else None,
            reason=reason,
            why=WHY[reason],
        )

    def _observe(
        self, row: dict[str, Any], rolled: tuple[Group, float] | None
    ) -> dict[str, Any] | None:
        """The classification by the model, or by the detector for people, vehicles and images
        without boxes; None if the row was not scored."""
        if row["label"] is not None:
            return self._classify(row, rolled)
        if row["status"] not in PASSED:
            return None
        return _detected(OBSERVED[row["status"]], row["detection_conf"])

    def _classify(self, row: dict[str, Any], rolled: tuple[Group, float] | None) -> dict[str, Any]:
        label, decision, score = row["label"], row["decision"], row["score"]
        self._made = {name: row[name] for name in ("model_id", "predicted_at")}
        # Below the threshold, the standard's type is unknown.
        taxon, sure = self._taxa.of(label), decision != BELOW
        if self._rolls_up:
            sure = rolled is not None
            if rolled is not None:
                taxon, score = taxon_of(rolled[0], self._taxa), rolled[1]
        kind = taxon.kind if sure else "unknown"
        name = taxon.scientific_name if sure else None
        if name is not None:
            self.counts.names.setdefault(name, taxon)
        elif kind == "animal":
            self.counts.unnamed.add(taxon.label)
        # A pipe separates tags.
        tags = [f"label:{label.replace('|', '/')}"]
        tags += [f"decision:{decision}"] if decision else []
        return {
            "observationType": kind,
            "scientificName": name,
            "classificationMethod": "machine",
            "classifiedBy": f"MonkeyRay model {row['model_id']}",
            "classificationTimestamp": row["predicted_at"].strftime("%Y-%m-%dT%H:%M:%SZ"),
            # Rounding may take a softmax slightly above 1.
            "classificationProbability": min(round(score, 6), 1.0),
            "observationTags": " | ".join(tags),
        }


def _detected(kind: str, conf: float | None) -> dict[str, Any]:
    return {
        "observationType": kind,
        "classificationMethod": "machine",
        "classifiedBy": "the detector whose boxes MonkeyRay was given",
        "classificationProbability": None if conf is None else min(round(conf, 6), 1.0),
    }


def default_paths(root: Location | None, package: Location) -> Location | None:
    """What file paths are relative to by default.

    Paths are relative to the package if the images are below it. Otherwise images on a disk have
    paths relative to their own folder, and images in a store have URLs (None).
    """
    if root is not None and root.is_within(package):
        return package
    return root if root is not None and root.is_local else None


def mediatype(uri: str) -> str:
    """The IANA media type by the suffix of a file's name; JPEG, the type of nearly all cameras,
    for an unknown suffix.

    >>> mediatype("/a/IMG_1.JPG"), mediatype("/a/n9151jpg"), mediatype("/a/b.png")
    ('image/jpeg', 'image/jpeg', 'image/png')
    """
    return _MEDIATYPES.get(uri.rpartition("/")[2].rpartition(".")[2].lower(), "image/jpeg")


def file_path(uri: str, root: Location | None) -> str | None:
    """`media.filePath`: the path below `root`, else the URL of an image in a store.

    None if the standard does not allow it: an absolute path, or one that begins with `.` or `~`
    or contains `..`.

    >>> file_path("/x/a/b c.jpg", Location.of("/x")), file_path("s3://bucket/a/b c.jpg", None)
    ('a/b c.jpg', 's3://bucket/a/b%20c.jpg')
    """
    path = None if root is None else root.relative(uri)
    if path is None and not Location.of(uri).is_local:
        head, _, rest = uri.partition("://")
        # A URL can encode the dots that the standard does not allow.
        path = f"{head}://{quote(rest, safe='/')}".replace("..", "%2E%2E")
    return path if path is not None and _PATH.fullmatch(path) else None
