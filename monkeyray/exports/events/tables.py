"""The events job: visits to cameras, with counts and rates, as three tables in a folder.

place/events.parquet    a row for each event and label
place/rows.parquet      the event of each row of the predictions, and its pooled label
place/sites.parquet     a row for each site and label: events, trap-days, hours of the day
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from monkeyray.console import Result, counted
from monkeyray.exports.events.effort import trap_days
from monkeyray.exports.events.find import Found, find_events
from monkeyray.exports.job import open_source
from monkeyray.exports.options import EventsConfig, parse_gap
from monkeyray.exports.row_table import open_database
from monkeyray.exports.taxonomy import read_taxa
from monkeyray.options_file import write_options_beside
from monkeyray.storage.location import Location
from monkeyray.storage.spreadsheets import guard
from monkeyray.storage.store import Storage

#: Rows in a row group.
_GROUP = 131_072

#: `start` and `end` are local times, corrected by the clock offset.
_EVENTS = """
SELECT event_id, site, deployment AS deployment_id, "start", "end", label, kind AS observation_type,
    scientific_name, score::FLOAT AS score, accepted,
    if(kind = 'blank', NULL, count)::INTEGER AS count, observations.images::INTEGER AS images,
    rank AS rollup_rank, name AS rollup_taxon, taxon_score::FLOAT AS rollup_score
FROM events JOIN observations USING (event) LEFT JOIN taxa ON taxon = taxa.number
ORDER BY event, label
"""
_ROWS = """
SELECT uri, detection, event_id, named.label AS pooled_label, named.score::FLOAT AS pooled_score
FROM rows LEFT JOIN named USING (number) LEFT JOIN events USING (event) ORDER BY number
"""
_HOURS = ", ".join(
    f'count(*) FILTER (hour("start") = {hour})::INTEGER AS hour_{hour:02}' for hour in range(24)
)
#: All sites with all labels, since a site without a label counts in the average of sites.
_SITES = f"""
WITH found AS (
    SELECT site, label, count(*)::INTEGER AS events, count_if(accepted)::INTEGER AS accepted,
        {_HOURS}
    FROM events JOIN observations USING (event) GROUP BY ALL),
sites AS (SELECT site FROM events UNION SELECT site FROM effort),
names AS (SELECT DISTINCT label, kind, scientific_name FROM observations)
SELECT site, label, kind AS observation_type, scientific_name, coalesce(events, 0) AS events,
    if((SELECT count(accepted) FROM observations) = 0, NULL, coalesce(accepted, 0)) AS accepted,
    round(trap_days, 3) AS trap_days, 100 * coalesce(events, 0) / nullif(trap_days, 0)
        AS events_per_100_trap_days,
    coalesce(COLUMNS('hour_.*'), 0)
FROM sites CROSS JOIN names LEFT JOIN found USING (site, label) LEFT JOIN effort USING (site)
ORDER BY site, label
"""
TABLES = {"events": _EVENTS, "rows": _ROWS, "sites": _SITES}


@dataclass(frozen=True, repr=False)
class Events(Result):
    """The result. `rows`: of the predictions, `changed` of them with a different label from their
    burst; `events` with `observations`, one for each label; `apart`: by reason, rows in no event.
    `notes`: for people."""

    uri: str
    rows: int
    events: int
    observations: int
    changed: int
    apart: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `output`; `rows` of the predictions, and how many of them have a
        label that differs from that of their burst, `changed`; `events`, with `observations`, one
        for each label; `apart`, rows in no event, by reason in words; `notes` for people."""
        return {
            "output": self.uri,
            "rows": self.rows,
            "events": self.events,
            "observations": self.observations,
            "changed": self.changed,
            "apart": self.apart,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [
            f"{counted(self.rows, 'row')} in {counted(self.events, 'event')} with "
            f"{counted(self.observations, 'observation')}",
            *(f"  {count:>9} in no event: {why}" for why, count in self.apart.items() if count),
            f"  {self.changed:>9} with a different label from their burst",
        ]
        return "\n".join([*lines, *self.notes, f"written to {self.uri}"])


def events(config: EventsConfig) -> Events:
    """Find the events in predictions, and write them, their rows, and counts by site.

    Raises MonkeyRayError.
    """
    storage = config.store.storage()
    output = Location.parse(config.output)
    places = {name: output / f"{name}.{config.format}" for name in TABLES}
    source = open_source(config, storage, [*places.values()])
    source.required_root()
    taxa = read_taxa(config.taxonomy, storage, config.kinds())
    threshold = config.rollup_threshold
    if threshold is None and config.taxonomy:
        threshold = source.predictions.run.identity.get("threshold") or 0.5
    gaps = (parse_gap("gap", config.gap), parse_gap("burst-gap", config.burst_gap))
    reporter = config.store.reporter()
    with open_database("256MB") as db:
        with reporter.bar("finding events") as bar:
            found = find_events(db, source, taxa, *gaps, bar, rollup_threshold=threshold)
        days = trap_days(source.deployments.rows if source.deployments else [])
        effort = {"site": [*days], "trap_days": [*days.values()]}
        schema = pa.schema([("site", pa.string()), ("trap_days", pa.float64())])
        db.register("effort", pa.table(effort, schema=schema))
        groups = found.roll_up.groups if found.roll_up else []
        taxa_table = {
            "number": range(len(groups)),
            "rank": pa.array([group.rank for group in groups], pa.string()),
            "name": pa.array([group.name for group in groups], pa.string()),
        }
        db.register("taxa", pa.table(taxa_table))
        for name, query in TABLES.items():
            _write(db, query, places[name], storage)
        counts = db.execute("""SELECT (SELECT count(*) FROM rows), count(DISTINCT event), count(*),
            (SELECT count(*) FROM named WHERE NOT agrees) FROM observations""").fetchone()
    write_options_beside(output, config, storage)
    rows, visits, observations, changed = counts or (0, 0, 0, 0)
    notes = (*_notes(found, days), *source.notes(), *(taxa.notes() if config.taxonomy else ()))
    return Events(str(output), rows, visits, observations, changed, found.apart, notes)


def _notes(found: Found, days: dict[str, float | None]) -> Iterator[str]:
    if found.residual > 1e-3:
        yield (
            f"labels that the rows do not list have {found.residual:.3f} of the probability, "
            "distributed evenly among them: score with --top-k all to pool exactly"
        )
    unknown = [site for site, value in days.items() if value is None]
    if unknown:
        yield (
            f"{counted(len(unknown), 'site')} without trap-days ({', '.join(unknown[:3])}): fill "
            "in start and end of --deployments"
        )


def _write(db: duckdb.DuckDBPyConnection, query: str, place: Location, storage: Storage) -> None:
    reader = db.sql(query).to_arrow_reader(_GROUP)
    with storage.writing(place) as file:
        if place.path.endswith(".csv"):
            with pyarrow.csv.CSVWriter(file, reader.schema) as writer:
                for batch in reader:
                    texts = [guard(x) if pa.types.is_string(x.type) else x for x in batch.columns]
                    writer.write_batch(pa.record_batch(texts, schema=reader.schema))
        else:
            options = {"compression": "zstd", "write_page_index": True}
            with pq.ParquetWriter(file, reader.schema, **options) as parquet:
                for batch in reader:
                    parquet.write_batch(batch)
