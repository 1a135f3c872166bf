"""Events: visits to a camera, found in predictions with DuckDB in limited memory.

Rows of one camera belong to an event if each was taken within a gap after the one before, and
within an event to a burst by a shorter gap. The rows of a burst that are labelled as animals show
one, that of their mean scores; unless a frame of it has several boxes, which may be of several
species, and then each label of a box is pooled by itself, as are blank frames, people and vehicles:
an animal is often in few frames of a burst. An event has an observation for each label of its
bursts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from monkeyray.arrays import Flags
from monkeyray.console import Advance
from monkeyray.exports.deployments import REASONS, Origin
from monkeyray.exports.events.pooling import pooled_means
from monkeyray.exports.job import Source
from monkeyray.exports.row_table import located_tables
from monkeyray.exports.taxonomy import RollUp, Taxa
from monkeyray.images.boxes import ELIMINATED, OBSERVED
from monkeyray.scoring.schema import listed_labels

#: Rows at a time.
ROWS = 8192

#: What rows are grouped by, and what their labels are pooled from.
_PLACE, _LABELS = ["uri", "captured_at"], ["status", "label", "decision", "top_k"]

#: `label`: null if the row has no score. `observed`: the label, or what the detector saw. `camera`:
#: null if it is unknown. `instant`: the time with its UTC offset, if that is known.
_TABLE = """
CREATE TABLE rows (
    number BIGINT, uri VARCHAR, status VARCHAR, detection INTEGER, label VARCHAR, observed VARCHAR,
    decision VARCHAR, top_k STRUCT(label VARCHAR, score FLOAT)[], conf FLOAT, taken TIMESTAMP,
    instant VARCHAR, camera VARCHAR, site VARCHAR, deployment VARCHAR, outside BOOLEAN)
"""
_SEEN = " ".join(f"WHEN '{status}' THEN '{kind}'" for status, kind in OBSERVED.items())
_INSERT = f"""
    number, uri, status, detection, label, coalesce(label, CASE status {_SEEN} END), decision,
    top_k, detection_conf, taken, instant, camera, site, deployment, outside
"""
_USABLE = "camera IS NOT NULL AND taken IS NOT NULL AND NOT outside"
#: `event`, `burst` and `frame` (the rows of one image): numbers in the order of cameras and times.
#: `begins` and `ends`: whether the row is the first or the last of its event.
_GROUPED = f"""
CREATE TABLE grouped AS
SELECT number, label, observed, accepted, conf, new_event AS begins,
    lead(new_event, 1, TRUE) OVER ordered AS ends,
    sum(new_event::INT) OVER whole AS event, sum(new_burst::INT) OVER whole AS burst,
    sum(new_frame::INT) OVER whole AS frame
FROM (
    SELECT *, coalesce(since > $gap, TRUE) AS new_event,
        coalesce(since > $burst_gap, TRUE) AS new_burst
    FROM (
        SELECT number, label, observed, decision = 'accepted' AS accepted, conf, camera, taken,
            if(camera = lag(camera) OVER ordered,
                epoch_us(taken) - lag(epoch_us(taken)) OVER ordered, NULL) AS since,
            uri IS DISTINCT FROM lag(uri) OVER ordered AS new_frame
        FROM rows WHERE {_USABLE} WINDOW ordered AS (ORDER BY camera, taken, number)))
WINDOW ordered AS (ORDER BY camera, taken, number),
    whole AS (ORDER BY camera, taken, number ROWS UNBOUNDED PRECEDING)
"""
#: `own`: the label that a row is pooled with; null if it is pooled with all animals of its burst.
#: The unit's number is then odd.
_UNITS = """
CREATE TABLE units AS
WITH frames AS (
    SELECT burst, frame, count(*) AS boxes FROM grouped WHERE label IS NOT NULL GROUP BY ALL),
herds AS (SELECT burst FROM frames GROUP BY burst HAVING max(boxes) > 1)
SELECT number, label, observed, accepted, conf, event, frame, begins, ends,
    2 * dense_rank() OVER (ORDER BY burst, own NULLS FIRST) + (own IS NULL)::INT AS unit
FROM (
    SELECT grouped.*, if(
        label IS NULL OR burst IN (FROM herds) OR kind IN ('blank', 'human', 'vehicle'),
        observed, NULL) AS own
    FROM grouped LEFT JOIN labels USING (label))
"""
_POOLED = """
CREATE TABLE pooled (unit BIGINT, label VARCHAR, score DOUBLE, taxon INTEGER, taxon_score DOUBLE)
"""
#: Each row with the label of its unit; what a detector saw has its confidence. `taxon`: an index in
#: the groups of the roll-up. `accepted`: null without thresholds.
_NAMED = """
CREATE TABLE named AS
SELECT number, event, frame, if(units.label IS NULL, observed, pooled.label) AS label,
    if(units.label IS NULL, conf, pooled.score)::DOUBLE AS score,
    units.label = pooled.label AS agrees,
    if(accepted IS NULL, NULL, accepted AND agrees) AS accepted, taxon, taxon_score
FROM units LEFT JOIN pooled USING (unit)
"""
#: `accepted`: whether a row with this label was; null without thresholds. `scored`: by the model,
#: not only by a detector.
_OBSERVATIONS = """
CREATE TABLE observations AS
WITH frames AS (
    SELECT event, label, frame, count(*) AS boxes, sum(score) AS total, max(score) AS best,
        bool_or(accepted) AS accepted, bool_or(agrees IS NOT NULL) AS scored,
        arg_max(taxon, score) AS taxon, arg_max(taxon_score, score) AS taxon_score
    FROM named WHERE label IS NOT NULL GROUP BY ALL),
found AS (
    SELECT event, label, max(boxes) AS count, count(*) AS images, sum(total) / sum(boxes) AS score,
        bool_or(accepted) AS accepted, bool_or(scored) AS scored, arg_max(taxon, best) AS taxon,
        arg_max(taxon_score, best) AS taxon_score
    FROM frames GROUP BY ALL)
SELECT * FROM found JOIN labels USING (label)
QUALIFY kind <> 'blank' OR NOT bool_or(kind <> 'blank') OVER (PARTITION BY event)
    AND row_number() OVER (PARTITION BY event ORDER BY images DESC, label) = 1
"""
#: The id is a hash of the camera and the first image, and stays when others are added later.
_EVENTS = """
CREATE TABLE events AS
SELECT event, left(sha256(concat_ws(chr(31), first.camera, first.uri)), 16) AS event_id, first.site,
    first.camera, first.deployment, first.taken AS "start", last.taken AS "end",
    first.instant AS start_instant, last.instant AS end_instant
FROM (
    SELECT event, max(if(begins, number, NULL)) AS begin, max(if(ends, number, NULL)) AS final
    FROM grouped GROUP BY event)
JOIN rows first ON first.number = begin JOIN rows last ON last.number = final
"""

#: Why rows are in no event, by the first reason that applies.
_APART = {
    "camera": "no camera in their path",
    "time": REASONS["no_time"],
    "outside": REASONS["outside_deployment"],
}


@dataclass(frozen=True)
class Found:
    """What `find_events` found. `residual`: the average probability of labels that rows do not
    list. `apart`: rows in no event, by reason. `roll_up`: whose groups `taxon` counts."""

    residual: float
    apart: dict[str, int]
    roll_up: RollUp | None


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
    """Make the tables `rows`, `grouped`, `events`, `named` and `observations` in a database.

    `gap`, `burst_gap`: in microseconds, inclusive. `keep`: which images, by URI and origin, may be
    in events. Raises InputError for predictions that cannot be read.
    """
    labels = sorted(group_rows(db, source, gap, burst_gap, advance, keep=keep))
    _register_labels(db, labels, taxa)
    db.execute(_UNITS)
    roll_up = None if rollup_threshold is None else RollUp(taxa, labels, rollup_threshold)
    animals = [taxa.of(label).kind in ("animal", "unknown") for label in labels]
    residual = _pool(db, labels, np.array(animals, bool), roll_up)
    for statement in (_NAMED, _OBSERVATIONS):
        db.execute(statement)
    rows = db.execute(f"""
        SELECT CASE WHEN outside THEN 'outside' WHEN camera IS NULL THEN 'camera' ELSE 'time' END
            AS why, count(*)
        FROM rows WHERE NOT ({_USABLE}) AND status <> '{ELIMINATED}' GROUP BY why""").fetchall()
    apart = {words: dict(rows).get(why, 0) for why, words in _APART.items()}
    return Found(residual, apart, roll_up)


def group_rows(
    db: duckdb.DuckDBPyConnection,
    source: Source,
    gap: int,
    burst_gap: int,
    advance: Advance,
    *,
    keep: Callable[[str, Origin], bool] | None = None,
    labels: bool = True,
) -> set[str]:
    """Make the tables `rows`, `grouped` and `events`, and return the labels that rows list.

    `labels`: False leaves out all columns that do not decide which rows are of one event.
    """
    db.execute(_TABLE)
    known: set[str] = set()
    wanted = [*_PLACE, *(_LABELS if labels else [])]
    db.begin()
    for table, origins in located_tables(source, wanted, advance):
        if labels:
            known |= listed_labels(table["top_k"])
        uris = table["uri"].to_pylist()
        kept = [
            each if keep is None or keep(uri, each) else Origin()
            for uri, each in zip(uris, origins, strict=True)
        ]
        made: dict[str, Sequence[object]] = {
            "camera": ["/".join(each.camera) or None for each in kept]
        }
        if labels:
            made["deployment"] = [each.deployment and each.deployment.id for each in kept]
            made["instant"] = [
                each.time and each.time.isoformat(timespec="seconds") for each in kept
            ]
        else:
            made |= dict.fromkeys(("deployment", "instant", *_LABELS), [None] * len(kept))
        for name, values in made.items():
            table = table.append_column(name, pa.array(values, pa.string()))
        table = table.append_column("outside", pa.array([each.outside for each in kept]))
        db.from_arrow(table).project(_INSERT).insert_into("rows")
    db.commit()
    db.execute(_GROUPED, {"gap": gap, "burst_gap": min(gap, burst_gap)})
    db.execute(_EVENTS)
    return known


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
    db: duckdb.DuckDBPyConnection, labels: list[str], animals: Flags, roll_up: RollUp | None
) -> float:
    """Fill the table of pooled units. Returns the average residual of the scored rows.

    `animals`: which labels may be those of animals, bool (labels,).
    """
    db.execute(_POOLED)
    # Of its own connection, since rows are inserted meanwhile.
    reading = db.cursor()
    rows = reading.sql("""
        SELECT unit, top_k FROM units JOIN rows USING (number) WHERE units.label IS NOT NULL
        ORDER BY unit, number""")
    residual = 0.0
    for units, means, rest in pooled_means(rows.to_arrow_reader(ROWS), labels):
        residual += rest
        if not len(units):
            continue
        # Of two animals between which the rows are divided, and not blank, which neither row says.
        allowed = animals | (units % 2 == 0)[:, None]
        best = np.where(allowed, means, -1).argmax(axis=1)
        which, sums = roll_up(means) if roll_up else (np.full(len(units), -1), np.zeros(len(units)))
        table = {
            "unit": units,
            "label": pa.array(labels, pa.string()).take(pa.array(best)),
            "score": means[np.arange(len(best)), best],
            "taxon": pa.array(which, pa.int32(), mask=which < 0),
            "taxon_score": pa.array(sums, mask=which < 0),
        }
        db.from_arrow(pa.table(table)).insert_into("pooled")
    scored: tuple[int] = db.execute("SELECT count(label) FROM grouped").fetchone() or (0,)
    return residual / max(scored[0], 1)
