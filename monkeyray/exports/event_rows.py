"""Events: visits to a camera, found in predictions with DuckDB in limited memory.

Rows of one camera belong to an event if each was taken within a gap after the one before, and
within an event to a burst by a shorter gap. A burst shows one label, that of its mean scores;
unless a frame of it has several boxes, which may be of several species, and then each label of a
box is pooled by itself. An event has an observation for each label of its bursts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.console import Advance
from monkeyray.exports.deployments import Origin
from monkeyray.exports.job import Source
from monkeyray.exports.pooling import pooled_means
from monkeyray.exports.row_table import located_tables
from monkeyray.exports.taxonomy import RollUp, Taxa
from monkeyray.images.boxes import ELIMINATED, OBSERVED
from monkeyray.scoring.schema import listed_labels

#: Rows at a time.
ROWS = 8192

_COLUMNS = ["uri", "status", "label", "decision", "captured_at", "top_k"]

#: `label`: null if the row has no score. `observed`: the label, or what the detector saw. `camera`:
#: null if it is unknown. `instant`: the time with its UTC offset, if that is known.
_TABLE = """
CREATE TABLE rows (
    number BIGINT, uri VARCHAR, status VARCHAR, detection INTEGER, label VARCHAR, observed VARCHAR,
    decision VARCHAR, top_k STRUCT(label VARCHAR, score FLOAT)[], conf FLOAT, taken TIMESTAMP,
    instant VARCHAR, camera VARCHAR, site VARCHAR, deployment VARCHAR)
"""
_SEEN = " ".join(f"WHEN '{status}' THEN '{kind}'" for status, kind in OBSERVED.items())
_INSERT = f"""
    number, uri, status, detection, label, coalesce(label, CASE status {_SEEN} END), decision,
    top_k, detection_conf, taken, instant, camera, site, deployment
"""
_USABLE = "observed IS NOT NULL AND camera IS NOT NULL AND taken IS NOT NULL"
#: `event` and `burst` are numbers in the order of cameras and times.
_GROUPED = f"""
CREATE TABLE grouped AS
SELECT number, uri, label, observed, sum(new_event) OVER whole AS event,
    sum(new_burst) OVER whole AS burst
FROM (
    SELECT *, (coalesce(since > $gap, TRUE))::INT AS new_event,
        (coalesce(since > $burst_gap, TRUE))::INT AS new_burst
    FROM (
        SELECT number, uri, label, observed, camera, taken,
            if(camera = lag(camera) OVER ordered,
                epoch_us(taken) - lag(epoch_us(taken)) OVER ordered, NULL) AS since
        FROM rows WHERE {_USABLE} WINDOW ordered AS (ORDER BY camera, taken, number)))
WINDOW whole AS (ORDER BY camera, taken, number ROWS UNBOUNDED PRECEDING)
"""
#: `own`: the label that a row is pooled with; null if it is pooled with all of its burst.
_UNITS = """
CREATE TABLE units AS
WITH frames AS (
    SELECT burst, uri, count(*) AS boxes FROM grouped WHERE label IS NOT NULL GROUP BY ALL),
herds AS (SELECT burst FROM frames GROUP BY burst HAVING max(boxes) > 1)
SELECT number, event, dense_rank() OVER (ORDER BY burst, own NULLS FIRST) AS unit
FROM (SELECT *, if(label IS NULL OR burst IN (FROM herds), observed, NULL) AS own FROM grouped)
"""
_POOLED = """
CREATE TABLE pooled (unit BIGINT, label VARCHAR, score DOUBLE, rollup_rank VARCHAR,
    rollup_taxon VARCHAR, rollup_score DOUBLE)
"""
#: Each row with the label of its unit; what a detector saw has its confidence.
_NAMED = """
CREATE TABLE named AS
SELECT number, event, coalesce(pooled.label, observed) AS label,
    coalesce(pooled.score, conf)::DOUBLE AS score, rows.label = pooled.label AS agrees,
    rollup_rank, rollup_taxon, rollup_score
FROM units JOIN rows USING (number) LEFT JOIN pooled USING (unit)
"""
#: `accepted`: whether a row with this label was; null without thresholds.
_OBSERVATIONS = """
CREATE TABLE observations AS
WITH frames AS (
    SELECT event, named.label, uri, count(*) AS boxes, sum(score) AS total, min(number) AS first,
        bool_or(agrees AND decision = 'accepted') FILTER (decision IS NOT NULL) AS accepted,
        arg_max({rank: rollup_rank, taxon: rollup_taxon, score: rollup_score},
            {score: score, number: -number}) AS rollup, max(score) AS best
    FROM named JOIN rows USING (number) GROUP BY ALL),
found AS (
    SELECT event, label, kind, scientific_name, max(boxes) AS count, count(*) AS images,
        sum(total) / sum(boxes) AS score, bool_or(accepted) AS accepted,
        arg_max(rollup, {score: best, number: -first}) AS rollup
    FROM frames JOIN labels USING (label) GROUP BY ALL)
SELECT * FROM found
QUALIFY kind <> 'blank' OR NOT bool_or(kind <> 'blank') OVER (PARTITION BY event)
    AND row_number() OVER (PARTITION BY event ORDER BY images DESC, label) = 1
"""
#: The id is a hash of the camera and the first image, and stays when others are added later.
_EVENTS = """
CREATE TABLE events AS
SELECT event, left(sha256(concat_ws(chr(31), first.camera, first.uri)), 16) AS event_id, first.site,
    first.camera, first.deployment, first.taken AS "start", last.taken AS "end",
    first.instant AS start_instant, last.instant AS end_instant, images
FROM (
    SELECT event, arg_min(rows, {taken: taken, number: number}) AS first,
        arg_max(rows, {taken: taken, number: number}) AS last, count(DISTINCT uri) AS images
    FROM units JOIN (
        SELECT number, uri, taken, instant, camera, site, deployment FROM rows) rows USING (number)
    GROUP BY event)
"""

#: Why rows are in no event; the first that applies.
_NOT_SCORED, _NO_CAMERA = "not scored", "no camera in their path"
_NO_TIME = "no time in their EXIF: give a table of --times"


@dataclass(frozen=True)
class Found:
    """What `find_events` found. `residual`: the average probability of labels that rows do not
    list. `apart`: rows in no event, by reason."""

    residual: float
    apart: dict[str, int]


def find_events(
    db: duckdb.DuckDBPyConnection,
    source: Source,
    taxa: Taxa,
    gap: int,
    burst_gap: int,
    advance: Advance,
    *,
    rollup_threshold: float | None = None,
    keep: Callable[[str, Origin], bool] | None = None,
) -> Found:
    """Make the tables `rows`, `named`, `observations` and `events` in a database.

    `gap`, `burst_gap`: in microseconds, inclusive. `keep`: which images, by URI and origin, may be
    in events. Raises InputError for predictions that cannot be read.
    """
    db.execute(_TABLE)
    known: set[str] = set()
    db.begin()
    for table, origins in located_tables(source, _COLUMNS, advance):
        known |= listed_labels(table["top_k"])
        uris = table["uri"].to_pylist()
        kept = [
            each if keep is None or keep(uri, each) else Origin()
            for uri, each in zip(uris, origins, strict=True)
        ]
        made = {
            "camera": ["/".join(each.camera) or None for each in kept],
            "deployment": [each.deployment and each.deployment.id for each in kept],
            "instant": [each.time and each.time.isoformat(timespec="seconds") for each in kept],
        }
        for name, values in made.items():
            table = table.append_column(name, pa.array(values, pa.string()))
        db.from_arrow(table).project(_INSERT).insert_into("rows")
    db.commit()
    labels = sorted(known)
    _register_labels(db, labels, taxa)
    db.execute(_GROUPED, {"gap": gap, "burst_gap": min(gap, burst_gap)})
    db.execute(_UNITS)
    residual = _pool(db, taxa, labels, rollup_threshold)
    for statement in (_NAMED, _OBSERVATIONS, _EVENTS):
        db.execute(statement)
    counts = dict(
        db.execute(f"""
            SELECT CASE WHEN observed IS NULL THEN '{_NOT_SCORED}' WHEN camera IS NULL
                THEN '{_NO_CAMERA}' ELSE '{_NO_TIME}' END AS why, count(*)
            FROM rows WHERE NOT ({_USABLE}) AND status <> '{ELIMINATED}' GROUP BY why
        """).fetchall()
    )
    whys = (_NOT_SCORED, _NO_CAMERA, _NO_TIME)
    return Found(residual, {why: counts.get(why, 0) for why in whys})


def _register_labels(db: duckdb.DuckDBPyConnection, labels: list[str], taxa: Taxa) -> None:
    """A table of what labels stand for, with what a detector may see."""
    found: dict[str, tuple[str, str | None]] = {kind: (kind, None) for kind in OBSERVED.values()}
    found |= {label: (taxa.of(label).kind, taxa.of(label).scientific_name) for label in labels}
    kinds, names = zip(*found.values(), strict=True)
    table = {
        "label": [*found],
        "kind": pa.array(kinds, pa.string()),
        "scientific_name": pa.array(names, pa.string()),
    }
    db.register("labels", pa.table(table))


def _pool(
    db: duckdb.DuckDBPyConnection, taxa: Taxa, labels: list[str], rollup_threshold: float | None
) -> float:
    """Fill the table of pooled units. Returns the average residual of the scored rows."""
    db.execute(_POOLED)
    roll_up = None if rollup_threshold is None else RollUp(taxa, labels, rollup_threshold)
    ranks, taxa_names = [], []
    if roll_up is not None:
        ranks = [group.rank for group in roll_up.groups]
        taxa_names = [group.name for group in roll_up.groups]
    # Of its own connection, since rows are inserted meanwhile.
    reading = db.cursor()
    rows = reading.sql("""
        SELECT unit, top_k FROM units JOIN rows USING (number) WHERE label IS NOT NULL
        ORDER BY unit, number""")
    residual = 0.0
    for units, means, rest in pooled_means(rows.to_arrow_reader(ROWS), labels):
        residual += rest
        best = means.argmax(axis=1) if len(units) else np.empty(0, np.int64)
        which, sums = roll_up(means) if roll_up else (np.full(len(units), -1), np.zeros(len(units)))
        table = {
            "unit": units,
            "label": _named(labels, best),
            "score": means[np.arange(len(best)), best],
            "rollup_rank": _named(ranks, which),
            "rollup_taxon": _named(taxa_names, which),
            "rollup_score": pa.array(sums, mask=which < 0),
        }
        db.from_arrow(pa.table(table)).insert_into("pooled")
    scored: tuple[int] = db.execute("SELECT count(label) FROM grouped").fetchone() or (0,)
    return residual / max(scored[0], 1)


def _named(names: Iterable[str], which: Array) -> pa.Array:
    index = pa.array(which, pa.int32(), mask=which < 0)
    return pa.array(names, pa.string()).take(index)
