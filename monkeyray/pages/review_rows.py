"""The contents of a review: counts over all predictions, and the images to show.

The predictions are read once into a DuckDB table in a temporary folder, one row per image, which
queries then count and sample. Its memory is limited and does not grow with the predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.console import Advance
from monkeyray.exports.job import Source
from monkeyray.exports.row_table import located_tables, open_database
from monkeyray.exports.taxonomy import Taxa
from monkeyray.images.boxes import BLANK, OBSERVED, PASSED
from monkeyray.runs.reader import Predictions
from monkeyray.scoring.schema import SCORED, listed_labels
from monkeyray.statistics.missed import Stratum
from monkeyray.statistics.selection import k_center, squared_distances, unit
from monkeyray.statistics.thresholds import ACCEPTED
from monkeyray.storage.keys import nfc

#: The sections, in the order in which they are shown.
NEXT, UNCERTAIN, OUTLIERS, LABELS, PROBLEMS = "next", "uncertain", "outliers", "labels", "problems"
BLANKS, BELOW = "blanks", "below"

#: Images that diverse ones are chosen from: some 80 MB of features. Of more, a random sample.
CANDIDATES = 20_000

#: Labels listed of an image that is shown.
LISTED = 5

_COLUMNS = [
    "uri", "etag_or_mtime", "status", "error", "label", "decision", "ood_score", "top_k",
    "captured_at", "sha256",
]  # fmt: skip
#: Images of which none is reported as an animal: called blank, or below the thresholds.
_STRATA = {
    BLANKS: f"called_blank AND status IN {(*SCORED, BLANK)}",
    BELOW: f"NOT called_blank AND decision IS NOT NULL AND decision <> '{ACCEPTED}'",
}
#: Which images may be shown, by ReviewConfig.people.
_VISIBLE = {
    "show": "TRUE", "blur": "TRUE", "omit": "people IS NULL AND NOT coalesce(human, FALSE)",
}  # fmt: skip

#: DuckDB's limit on what its aggregate `min` lists.
_MOST = 999_999

#: `number`: the row's place in the predictions. `content`: a hash of the image's bytes. `draw`: the
#: start of their SHA-256, which orders images as if at random.
_TABLE = """
CREATE TABLE predictions (
    number BIGINT, uri VARCHAR, version VARCHAR, status VARCHAR, error VARCHAR, label VARCHAR,
    decision VARCHAR, ood_score FLOAT, listed STRUCT(label VARCHAR, score FLOAT)[],
    taken TIMESTAMP, site VARCHAR, conf FLOAT, bbox FLOAT[], content UBIGINT, draw VARCHAR)
"""
_INSERT = f"""
    number, uri, etag_or_mtime, status, error, label, decision, ood_score, top_k[1:{LISTED}],
    taken, site, detection_conf, detection_bbox, hash(coalesce(sha256, uri)),
    left(coalesce(sha256, sha256(uri)), 12)
"""
#: An image's rows are its boxes, and the most confident scored one stands for it.
_BEST_BOXES = f"""
CREATE TABLE best AS SELECT * FROM predictions QUALIFY row_number() OVER (
    PARTITION BY uri ORDER BY if(status IN {SCORED}, coalesce(conf, 0), -1) DESC, number) = 1
"""
#: Boxes of people, by image.
_PEOPLE = """
CREATE TABLE people AS SELECT uri, list(bbox ORDER BY number) AS people FROM predictions
WHERE status = 'person' AND bbox IS NOT NULL GROUP BY uri
"""
#: `margin`: how far the best label is ahead of the second; without a listed second, the smallest
#: possible difference, which keeps the order of the scores.
_VIEW = """
CREATE VIEW images AS SELECT *,
    coalesce(listed[1].score, 0)::DOUBLE AS first,
    coalesce(listed[2].score, 0)::DOUBLE AS second,
    first - if(second > 0, second, 1 - first) AS margin,
    label IN (SELECT label FROM kinds WHERE kind = 'human') AS human,
    status = '{blank}' OR coalesce(label IN (SELECT label FROM kinds WHERE kind = 'blank'), FALSE)
        AS called_blank
FROM {table} LEFT JOIN people USING (uri)
"""


@dataclass(frozen=True)
class Shown:
    """An image on a page.

    `version`: as it was scored, which says where a member of an archive is. `path`: below the
    images' folder, or the URI if it is not below it. `listed`: the best labels with their scores,
    best first; empty if the image was not scored. `taken`: the camera's local time, corrected by
    its deployment's clock offset. `bbox`: the box that was scored, in runs with detections.
    `people`: the boxes of people to blur. `sections`: its rank in each section that it is in, from
    0.
    """

    uri: str
    path: str
    status: str
    version: str | None = None
    error: str | None = None
    listed: tuple[tuple[str, float | None], ...] = ()
    decision: str | None = None
    ood_score: float | None = None
    site: str | None = None
    taken: datetime | None = None
    bbox: tuple[float, ...] | None = None
    people: tuple[tuple[float, ...], ...] = ()
    sections: dict[str, int] = field(default_factory=dict)


@dataclass
class Figures:
    """Counts of all `images`, by status and by site; of scored images by decision, by label, and by
    label and hour of day (int64 (24,)). `known`: the labels that any row lists. `strata`: what was
    looked at of the images called blank and of those below the thresholds, by section."""

    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    hours: dict[str, Array] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    strata: dict[str, Stratum] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """How many images to show: of each label, and of each other section.

    `select`: how to choose the `count` images to label next, of which none is in `labelled` (URIs).
    `sample`: of the images called blank, and of those below the thresholds. `corrections`: labels
    by URI. `taxa`: what labels stand for. `people`: as in ReviewConfig.
    """

    per_label: int
    per_section: int
    select: Literal["uncertain", "diverse"] | None = None
    count: int = 0
    labelled: Collection[str] = ()
    sample: int = 0
    corrections: Mapping[str, str] = field(default_factory=dict)
    taxa: Taxa = field(default_factory=lambda: Taxa({}, {}))
    people: Literal["show", "blur", "omit"] = "show"


def read_review(
    source: Source, wanted: Wanted, bar: Callable[[str], Any]
) -> tuple[Figures, list[Shown]]:
    """The counts, and the images to show, each once, in the order of the sections.

    `bar` makes a progress bar from its title. Raises InputError for predictions that cannot be
    read.
    """
    with open_database("64MB") as db:
        with bar("reading predictions") as advance:
            known = _load(db, source, wanted.taxa, advance)
        figures = _figures(db, known)
        numbers = _sections(db, source.predictions, wanted, bar)
        if wanted.corrections:
            figures.strata = {each: _stratum(db, wanted, each, numbers) for each in (BLANKS, BELOW)}
        return figures, _shown(db, source, numbers, wanted.people)


def _load(db: duckdb.DuckDBPyConnection, source: Source, taxa: Taxa, advance: Advance) -> set[str]:
    """Fill the table; returns all labels that rows list."""
    db.execute(_TABLE)
    known: set[str] = set()
    db.begin()
    for table, _ in located_tables(source, _COLUMNS, advance):
        known |= listed_labels(table["top_k"])
        # Not a registered view, which would keep the rows in memory until the commit.
        db.from_arrow(table).project(_INSERT).insert_into("predictions")
    db.commit()
    labels = pa.table({
        "label": pa.array(sorted(known), pa.string()),
        "kind": pa.array([taxa.of(label).kind for label in sorted(known)], pa.string()),
    })  # fmt: skip
    db.from_arrow(labels).create("kinds")
    db.execute(_PEOPLE)
    if boxes := source.predictions.box_columns:
        db.execute(_BEST_BOXES)
    db.execute(_VIEW.format(table="best" if boxes else "predictions", blank=BLANK))
    return known


def _figures(db: duckdb.DuckDBPyConnection, known: set[str]) -> Figures:
    def counts(column: str) -> Counter[str]:
        # Equal counts stay in the order of the images.
        rows = db.execute(f"""SELECT {column}, count(*) FROM images WHERE {column} IS NOT NULL
            GROUP BY {column} ORDER BY min(number)""").fetchall()
        return Counter(dict(rows))

    hours: dict[str, Array] = {}
    for label, hour, count in db.execute("""SELECT label, hour(taken), count(*) FROM images
            WHERE label IS NOT NULL AND taken IS NOT NULL GROUP BY ALL ORDER BY ALL""").fetchall():
        hours.setdefault(label, np.zeros(24, np.int64))[hour] = count
    statuses = counts("status")
    return Figures(
        images=statuses.total(),
        statuses=statuses,
        decisions=counts("decision"),
        labels=counts("label"),
        sites=counts("site"),
        hours=hours,
        known=known,
    )


def _sections(
    db: duckdb.DuckDBPyConnection, predictions: Predictions, wanted: Wanted, bar: Any
) -> dict[str, list[int]]:
    """By section, the numbers of its images in order; no section shows the same bytes twice."""
    uris = sorted(map(nfc, wanted.labelled))
    db.register("labelled", pa.table({"uri": pa.array(uris, pa.string())}))
    visible = _VISIBLE[wanted.people]
    unlabelled = f"status = 'ok' AND nfc_normalize(uri) NOT IN (FROM labelled) AND {visible}"
    following: list[int] = []
    if wanted.select == "uncertain":
        following = _least(db, "margin", unlabelled, wanted.count)
    elif wanted.select == "diverse":
        candidates = _least(db, "draw", unlabelled, CANDIDATES)
        following = _diverse(db, predictions, candidates, wanted.count, bar)
    # One of each status, then the second of each. Many broken files are alike: empty.
    problems = db.execute(f"""
        SELECT number FROM images WHERE status NOT IN {(*SCORED, *PASSED)}
        ORDER BY row_number() OVER (PARTITION BY status ORDER BY number), number
        LIMIT {wanted.per_section}""").fetchall()
    scored = f"status IN {SCORED} AND {visible}"
    rated = f"{scored} AND NOT isnan(ood_score)"
    return {
        NEXT: following,
        UNCERTAIN: _least(db, "margin", scored, wanted.per_section),
        OUTLIERS: _least(db, "-ood_score", rated, wanted.per_section),
        BLANKS: _least(db, "draw", f"{_STRATA[BLANKS]} AND {visible}", wanted.sample),
        BELOW: _least(db, "draw", f"{_STRATA[BELOW]} AND {visible}", wanted.sample),
        LABELS: _least(db, "draw", scored, wanted.per_label, by="label"),
        PROBLEMS: [number for (number,) in problems],
    }


def _stratum(
    db: duckdb.DuckDBPyConnection, wanted: Wanted, section: str, numbers: dict[str, list[int]]
) -> Stratum:
    """What the corrections say about the sample of a section."""
    where = f"{_STRATA[section]} AND {_VISIBLE[wanted.people]}"
    images = db.execute(f"SELECT count(DISTINCT content) FROM images WHERE {where}").fetchone()
    uris = db.execute(
        "SELECT uri FROM images WHERE number IN (SELECT unnest(?))", [numbers[section]]
    ).fetchall()
    corrected = [wanted.corrections.get(nfc(uri)) for (uri,) in uris]
    given = [label for label in corrected if label is not None]
    animals = [label for label in given if wanted.taxa.of(label).kind in ("animal", "unknown")]
    assert images is not None
    return Stratum(images[0], len(given), len(animals))


def _least(
    db: duckdb.DuckDBPyConnection, key: str, where: str, limit: int, by: str = "''"
) -> list[int]:
    """The numbers of the images with the smallest keys, in order, the first of each content.

    `by`: an expression; `limit` images for each of its values, in the order of the values.
    """
    found: dict[str, dict[int, int]] = {}
    take, missing = limit, limit > 0
    while missing:
        seen = [(part, content) for part, its in found.items() for content in its]
        parts, contents = zip(*seen, strict=True) if seen else ((), ())
        known = {"part": pa.array(parts, pa.string()), "content": pa.array(contents, pa.uint64())}
        db.register("seen", pa.table(known))
        take = min(2 * take, _MOST)  # copies are few
        rows = db.execute(f"""
            SELECT part, min({{key: key, number: number, content: content}}, {take})
            FROM (SELECT {by} AS part, {key} AS key, number, content FROM images WHERE {where})
            ANTI JOIN seen USING (part, content) WHERE key IS NOT NULL GROUP BY part""").fetchall()
        for part, least in rows:
            for each in least:
                found.setdefault(part, {}).setdefault(each["content"], each["number"])
        # A full list of copies may have hidden others.
        missing = any(len(least) == take and len(found[part]) < limit for part, least in rows)
    return [number for part in sorted(found) for number in [*found[part].values()][:limit]]


def _shown(
    db: duckdb.DuckDBPyConnection, source: Source, numbers: dict[str, list[int]], people: str
) -> list[Shown]:
    sections: dict[int, dict[str, int]] = {}
    for section, members in numbers.items():
        for rank, number in enumerate(members):
            sections.setdefault(number, {})[section] = rank
    names = "uri, status, error, decision, ood_score, site, taken, version"
    rows = db.execute(
        f"""SELECT number, listed, bbox, human, people, {names} FROM images
            WHERE number IN (SELECT unnest(?))""",
        [list(sections)],
    ).fetchall()
    shown = {
        number: Shown(
            path=source.path(values[0]) or values[0],
            listed=_listed(values[1], listed),
            people=_blurred(human, boxes) if people == "blur" else (),
            bbox=None if bbox is None else tuple(bbox),
            sections=sections[number],
            **dict(zip(names.split(", "), values, strict=True)),
        )
        for number, listed, bbox, human, boxes, *values in rows
    }
    return [shown[number] for number in sections]


def _listed(status: str, listed: Any) -> tuple[tuple[str, float | None], ...]:
    """The best labels and their scores; what the detector says if that is that there is nothing."""
    if status == BLANK:
        return ((OBSERVED[BLANK], None),)
    return tuple((each["label"], each["score"]) for each in listed or ())


def _blurred(human: bool | None, boxes: Any) -> tuple[tuple[float, ...], ...]:
    """The boxes to blur; the whole image if that is labelled as a person."""
    return ((0.0, 0.0, 1.0, 1.0),) if human else tuple(map(tuple, boxes or ()))


def _diverse(
    db: duckdb.DuckDBPyConnection,
    predictions: Predictions,
    candidates: list[int],
    count: int,
    bar: Callable[[str], Any],
) -> list[int]:
    """Of the candidates those that are unlike each other and unlike the labelled images, by the
    directions of their embeddings; their numbers in order."""
    if not candidates:
        return []
    with bar("reading embeddings") as advance:
        found = list(_vectors(predictions, candidates, advance))
    vectors = dict(zip(sorted(candidates), np.concatenate(found), strict=True))
    features = unit(np.stack([vectors[number] for number in candidates]))
    nearest = np.full(len(features), np.inf, np.float32)
    labelled = db.execute(
        "SELECT number FROM images WHERE nfc_normalize(uri) IN (FROM labelled)"
    ).fetchall()
    if labelled:
        with bar("comparing with --labelled") as advance:
            for centres in _vectors(predictions, [number for (number,) in labelled], advance):
                nearest = np.minimum(nearest, squared_distances(features, unit(centres)))
    return [candidates[i] for i in k_center(features, count, nearest)]


def _vectors(predictions: Predictions, numbers: list[int], advance: Any) -> Iterator[Array]:
    """The embeddings of rows with these numbers that have one, float32 (n, d), in order."""
    wanted = np.sort(numbers)
    first = 0
    for table in predictions.tables(["embedding"], advance):
        low, high = np.searchsorted(wanted, (first, first + table.num_rows))
        chosen = table["embedding"].take(pa.array(wanted[low:high] - first)).drop_null()
        first += table.num_rows
        if len(chosen):
            yield chosen.combine_chunks().flatten().to_numpy().reshape(len(chosen), -1)
