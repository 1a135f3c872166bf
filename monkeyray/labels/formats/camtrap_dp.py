"""Camtrap DP packages: folder, datapackage.json or zip; tables in CSV, gzip or Parquet."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.images.boxes import ROUNDING
from monkeyray.labels.options import LabelOptions
from monkeyray.labels.schema import (
    BOX,
    IMAGE,
    NOTE,
    SEQUENCE,
    has_column,
    labels_table,
    leave_out,
    texts,
    times,
)
from monkeyray.labels.source import Format, Source

_NEEDED = {
    "media": ("mediaID", "deploymentID", "filePath", "timestamp"),
    "observations": ("mediaID", "deploymentID", "observationLevel", "observationType"),
}
_BBOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
#: How MonkeyRay's own packages give the label of an animal without a scientific name.
_TAG = r"(?:^|\| )label:(?P<label>[^|]*[^| ])"
_TIME = (
    r"^(?P<wall>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?"
    r"(?:Z|(?P<sign>[+\-])(?P<hours>\d\d):?(?P<minutes>\d\d))?$"
)


def _read(source: Source, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    media, seen = (_resource(source, name, needed) for name, needed in _NEEDED.items())
    setup = pc.is_valid(texts(seen, "cameraSetupType"))
    seen = leave_out(seen, setup, notes, "of cameras being set up or calibrated, left out")
    pairs = _pairs(source, media, seen, notes)
    media, seen = media.take(pairs["media"]), seen.take(pairs["observation"])
    kind, name = texts(seen, "observationType"), texts(seen, "scientificName")
    tags = pc.extract_regex(texts(seen, "observationTags"), _TAG)
    has_column(options.label_column, seen, notes)
    called = texts(seen, options.label_column)
    called = pc.coalesce(called, name, pc.struct_field(tags, "label"))
    known = pc.if_else(pc.is_in(kind, pa.array(["human", "vehicle", "blank"])), kind, None)
    box, of_event = _boxes(seen), pc.is_null(texts(seen, "mediaID"))
    level = pc.if_else(pc.is_valid(box), BOX, IMAGE)
    deployment = texts(media, "deploymentID")
    table = labels_table(
        seen.num_rows,
        path=_paths(media, options),
        label=pc.if_else(pc.equal(kind, "animal"), called, known),
        group=pc.coalesce(texts(seen, options.group_column), texts(media, options.group_column)),
        box=pc.if_else(of_event, None, box),
        location=_locations(source, deployment),
        deployment=deployment,
        sequence=texts(seen, "eventID"),
        time=times(texts(media, "timestamp")),
        level=pc.if_else(of_event, SEQUENCE, level),
        by=texts(seen, "classificationMethod"),
        **_taxa(source, name),
    )
    video = pc.starts_with(texts(media, "fileMediatype"), "video")
    return leave_out(table, video, notes, "of videos, left out")


def _resource(source: Source, name: str, needed: tuple[str, ...] = ()) -> pa.Table:
    """A table of the package, whose rows may be in several files."""
    resources = source.content.get("resources")
    found = [
        each for each in resources or () if isinstance(each, dict) and each.get("name") == name
    ]
    paths: Any = found[0].get("path") if found else None
    paths = [paths] if isinstance(paths, str) else paths or []
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise InputError(f"{source.place} has {name} in {path}: it must be in the package")
    tables = [source.table(path) for path in paths]
    if found and "data" in found[0]:
        tables.append(pa.Table.from_pylist(found[0]["data"]))
    table = pa.concat_tables([pa.table({}), *tables], promote_options="default")
    if missing := [each for each in needed if each not in table.column_names]:
        raise InputError(
            f"{source.place} looks like a Camtrap DP package, but its {name} "
            f"{'lack ' + ', '.join(missing) if found else 'are missing'}: see "
            "https://camtrap-dp.tdwg.org/data"
        )
    return table


def _pairs(source: Source, media: pa.Table, seen: pa.Table, notes: Counter[str]) -> pa.Table:
    """The rows of media and observations that belong together, int64.

    An observation of an event is of all media of its deployment in its time, and of those that a
    table of events names, which some programs add.
    """
    import duckdb

    images = pa.table(
        {
            "number": pa.array(range(media.num_rows), pa.int64()),
            "id": texts(media, "mediaID"),
            "deployment": texts(media, "deploymentID"),
            "time": _utc(texts(media, "timestamp")),
        }
    )
    observations = pa.table(
        {
            "number": pa.array(range(seen.num_rows), pa.int64()),
            "media": texts(seen, "mediaID"),
            "deployment": texts(seen, "deploymentID"),
            "event": texts(seen, "eventID"),
            "first": _utc(texts(seen, "eventStart")),
            "last": _utc(texts(seen, "eventEnd")),
        }
    )
    table = _resource(source, "events")
    if not table.num_rows and source.has("events.csv"):
        table = source.table("events.csv")
    events = pa.table({"event": texts(table, "eventID"), "media": texts(table, "mediaID")})
    with duckdb.connect() as query:
        for name, each in (("i", images), ("o", observations), ("e", events)):
            query.register(name, each)
        pairs = query.sql(
            """
            SELECT i.number AS media, o.number AS observation FROM o JOIN i ON i.id = o.media
            UNION
            SELECT i.number, o.number FROM o JOIN i ON i.deployment = o.deployment
                AND i.time BETWEEN o.first AND o.last WHERE o.media IS NULL
            UNION
            SELECT i.number, o.number FROM o JOIN e ON e.event = o.event
                JOIN i ON i.id = e.media WHERE o.media IS NULL
            ORDER BY media, observation
            """
        ).to_arrow_table()
    lost = seen.num_rows - len(pc.unique(pairs["observation"]))
    if lost:
        notes[NOTE + "observations without media in the package, left out"] += lost
    return pairs


def _utc(column: Any) -> Any:
    """Seconds since 1970 (int64) of times in ISO 8601, in UTC if they have no offset."""
    parts = pc.extract_regex(column, _TIME)

    def number(name: str) -> Any:
        digits = pc.struct_field(parts, name)
        return pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64())

    wall = pc.strptime(pc.struct_field(parts, "wall"), format="%Y-%m-%dT%H:%M:%S", unit="s")
    offset = pc.add(pc.multiply(number("hours"), 3600), pc.multiply(number("minutes"), 60))
    east = pc.not_equal(pc.struct_field(parts, "sign"), "-")
    return pc.subtract(wall.cast(pa.int64()), pc.if_else(east, offset, pc.negate(offset)))


def _paths(media: pa.Table, options: LabelOptions) -> Any:
    """A web address without an ending, as of Agouti, is of no use for files that were copied."""
    path = texts(
        media, options.uri_column if options.uri_column in media.column_names else "filePath"
    )
    if options.images_root is None:
        return path
    bare = pc.match_substring_regex(path, r"^https?://.*/[^/.]*$")
    return pc.if_else(bare, pc.coalesce(texts(media, "fileName"), path), path)


def _boxes(seen: pa.Table) -> pa.Array:
    """Boxes inside their images (list of 4 float32), null for others; decimals may have commas."""
    sides = []
    for name in _BBOX:
        text = pc.replace_substring(texts(seen, name), ",", ".")
        number = pc.match_substring_regex(text, r"^[0-9]*\.?[0-9]+([eE]-?[0-9]+)?$")
        sides.append(np.asarray(pc.if_else(number, text, None).cast(pa.float32()), np.float32))
    box = np.stack(sides, axis=1)  # a missing number is NaN
    inside = (box[:, 2:] > 0).all(axis=1) & (box[:, :2] + box[:, 2:] < 1 + ROUNDING).all(axis=1)
    return pa.FixedSizeListArray.from_arrays(box.ravel(), 4, mask=pa.array(~inside))


def _locations(source: Source, deployment: Any) -> Any:
    """The place of each deployment, null if it has none."""
    table = _resource(source, "deployments")
    places = pc.coalesce(texts(table, "locationID"), texts(table, "locationName"))
    return places.take(pc.index_in(deployment, value_set=_whole(texts(table, "deploymentID"))))


def _taxa(source: Source, names: Any) -> dict[str, Any]:
    """The species, genus and family of scientific names, by the package's own taxonomy."""
    listed = source.content.get("taxonomic")
    known = {
        taxon.get("scientificName"): taxon for taxon in listed or () if isinstance(taxon, dict)
    }
    unique = pc.unique(names)
    found: dict[str, list[str | None]] = {"species": [], "genus": [], "family": []}
    for name in unique.to_pylist():
        taxon, words = known.get(name, {}), (name or "").split()
        rank = taxon.get("taxonRank") or ("species" if len(words) > 1 else "")
        low = len(words) > 1 and rank in ("species", "subspecies")
        own = {rank: name, "species": " ".join(words[:2]) if low else None}
        own["genus"] = taxon.get("genus") or (words[0] if low else own.get("genus"))
        for each, its in found.items():
            its.append(own.get(each) or taxon.get(each))
    where = pc.index_in(names, value_set=unique)
    return {each: pa.array(its, pa.string()).take(where) for each, its in found.items()}


def _whole(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


_ONE_TABLE = "one table of a Camtrap DP package"
_GIVE_ALL = "give the package's folder, zip or datapackage.json"

FORMATS = (
    Format(
        "a Camtrap DP package", frozenset(["resources", "profile"]), frozenset(["resources"]),
        "see https://camtrap-dp.tdwg.org/metadata", _read,
    ),
    Format(
        _ONE_TABLE, frozenset(["observationid", "deploymentid", "mediaid", "observationlevel"]),
        frozenset(), _GIVE_ALL,
    ),
    Format(
        _ONE_TABLE, frozenset(["mediaid", "deploymentid", "capturemethod", "filepath"]),
        frozenset(), _GIVE_ALL,
    ),
)  # fmt: skip
