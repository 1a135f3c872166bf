"""The bursts job: group images taken together and pool their scores.

Three passes over the predictions, some thousand rows at a time. Memory holds some 60 bytes per
image and per burst, and the scores of incomplete bursts; if these would exceed _OPEN, the second
pass takes several rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monkeyray.arrays import Array
from monkeyray.console import Advance, Result, counted
from monkeyray.errors import InputError
from monkeyray.exports.burst_groups import (
    BurstMeans,
    Groups,
    Survey,
    distribute_residual,
    group_bursts,
    numbered,
    survey,
)
from monkeyray.exports.job import open_source
from monkeyray.exports.options import BurstsConfig, parse_gap
from monkeyray.exports.taxonomy import RollUp, read_taxa
from monkeyray.options_file import write_options_beside
from monkeyray.runs.reader import Predictions
from monkeyray.scoring.schema import listed_scores
from monkeyray.storage.location import Location

#: Maximum bytes of the scores of incomplete bursts.
_OPEN = 256 * 2**20
#: Rows in a row group.
_GROUP = 131_072

#: `burst_start`: the local time of its first image, corrected by the clock offset. `burst_label`,
#: `burst_score`: null for images that were not scored.
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("burst_id", pa.string()),
        ("burst_images", pa.int32()),
        ("burst_start", pa.timestamp("ms")),
        ("burst_label", pa.string()),
        ("burst_score", pa.float32()),
    ]
)
#: Columns that a taxonomy adds.
_ROLLUP = [
    ("rollup_rank", pa.string()),
    ("rollup_taxon", pa.string()),
    ("rollup_score", pa.float32()),
]


@dataclass(frozen=True, repr=False)
class Bursts(Result):
    """The result. `bursts`: with two or more images, `together` in all. `alone`: by reason, images
    that cannot be in a burst with others. `changed`: images whose label differs from that of their
    burst. `notes`: for people."""

    uri: str
    images: int
    bursts: int
    together: int
    changed: int
    alone: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `output`; `images`, and how many of them are `together` in `bursts`
        of two or more; `alone`, by reason in words; `changed`, images whose label differs from
        that of their burst; `notes` for people."""
        return {
            "output": self.uri,
            "images": self.images,
            "bursts": self.bursts,
            "together": self.together,
            "alone": self.alone,
            "changed": self.changed,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [
            f"{counted(self.images, 'image')}, {self.together} of them in "
            f"{counted(self.bursts, 'burst')} of two or more",
            *(f"  {count:>9} alone: {why}" for why, count in self.alone.items() if count),
            f"  {self.changed:>9} with a different label from their burst",
        ]
        return "\n".join([*lines, *self.notes, f"written to {self.uri}"])


def bursts(config: BurstsConfig) -> Bursts:
    """Group predictions into bursts, pool their scores, and write one row for each image.

    Raises MonkeyRayError.
    """
    storage = config.store.storage()
    output = Location.parse(config.output)
    source = open_source(config, storage, [output])
    predictions = source.predictions
    if predictions.box_columns:
        raise InputError(
            f"the rows of {predictions.uri} are boxes, but bursts are of images: score the images "
            "without --detections"
        )
    taxa = read_taxa(config.taxonomy, storage, config.kinds()) if config.taxonomy else None
    source.required_root()
    reporter = config.store.reporter()
    with reporter.bar("finding bursts") as bar:
        seen = survey(source, bar)
    groups = group_bursts(seen.cameras, seen.times, seen.alone, parse_gap(config.burst_gap))
    starts = seen.times[groups.first]
    roll_up = None
    if taxa is not None:
        threshold = config.rollup_threshold or predictions.run.identity.get("threshold") or 0.5
        roll_up = RollUp(taxa, seen.labels, threshold)
    with reporter.bar("pooling") as bar:
        pooled = _pool(predictions, seen, groups, roll_up, bar)
    with storage.writing(output) as file, reporter.bar("writing") as bar:
        changed = _write(file, predictions, seen, groups, starts, pooled, roll_up, bar)
    write_options_beside(output, config, storage)
    several = groups.sizes > 1
    return Bursts(
        str(output),
        len(groups.burst),
        int(several.sum()),
        int(groups.sizes[several].sum()),
        changed,
        seen.counts,
        (*_notes(pooled), *source.notes(), *(taxa.notes() if taxa else ())),
    )


def _notes(pooled: _Pooled) -> Iterator[str]:
    if pooled.rest > 1e-3:
        yield (
            f"labels that the rows do not list have {pooled.rest:.3f} of the probability, "
            "distributed evenly among them: score with --top-k all to pool exactly"
        )


@dataclass
class _Pooled:
    """For each burst: `ids`, the hash of its camera and first image; `label`, an index in the
    survey's labels, -1 if none was scored, and `score`; `group`, an index in the roll-up's groups,
    -1 for none, and `sum`. `rest`: the average probability of the labels that are not listed."""

    ids: Array
    label: Array
    score: Array
    group: Array
    sum: Array
    rest: float = 0.0


def _pool(
    predictions: Predictions,
    seen: Survey,
    groups: Groups,
    roll_up: RollUp | None,
    advance: Advance,
) -> _Pooled:
    count = len(groups.sizes)
    found = _Pooled(
        np.zeros(count, np.uint64),
        np.full(count, -1, np.int32),
        np.zeros(count, np.float32),
        np.full(count if roll_up else 0, -1, np.int32),
        np.zeros(count if roll_up else 0, np.float32),
    )
    rounds = _rounds(groups, len(seen.labels))
    rest = scored = 0.0
    for number, (low, high) in enumerate(rounds):
        pool = BurstMeans(groups.sizes)
        for span, table in numbered(predictions, ["uri", "label", "top_k"], advance):
            mine = groups.burst[span]
            if not number:
                first = np.flatnonzero(groups.first[mine] == np.arange(span.start, span.stop))
                uris = table["uri"].take(pa.array(first))
                found.ids[mine[first]] = seen.ids(span.start + first, uris)
            take = pc.is_valid(table["label"]).to_numpy() & (low <= mine) & (mine < high)
            listed = listed_scores(table["top_k"].filter(pa.array(take)), seen.labels)
            scores, left = distribute_residual(listed)
            rest, scored = rest + float(left.sum()), scored + len(left)
            complete, means = pool.add(mine[take], scores)
            if not len(complete):
                continue
            found.label[complete] = best = means.argmax(axis=1)
            found.score[complete] = means[np.arange(len(best)), best]
            if roll_up is not None:
                found.group[complete], found.sum[complete] = roll_up(means)
    found.rest = rest / max(scored, 1)
    return found


def _rounds(groups: Groups, labels: int) -> list[tuple[int, int]]:
    """Ranges of bursts, small enough for the incomplete ones to fit into _OPEN bytes."""
    count = len(groups.sizes)
    limit = max(_OPEN // (8 * max(labels, 1) + 200), 1)  # a vector, and Python's objects around it
    if groups.most_open() <= limit:
        return [(0, count)]
    return [(start, min(start + limit, count)) for start in range(0, count, limit)]


def _write(
    file: Any,
    predictions: Predictions,
    seen: Survey,
    groups: Groups,
    starts: Array,
    pooled: _Pooled,
    roll_up: RollUp | None,
    advance: Advance,
) -> int:
    """Write one row per image, in the order of the predictions. Returns how many images have a
    different label from their burst."""
    schema = SCHEMA
    for name, kind in _ROLLUP if roll_up else []:
        schema = schema.append(pa.field(name, kind))
    changed = 0
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True) as writer:
        for span, table in numbered(predictions, ["uri", "label"], advance):
            mine = groups.burst[span]
            start = pa.array(starts[mine] // 1000, mask=~seen.timed[groups.first[mine]])
            columns = [
                table["uri"],
                pa.array([f"{number:016x}" for number in pooled.ids[mine].tolist()]),
                pa.array(groups.sizes[mine], pa.int32()),
                start.cast(pa.timestamp("ms")),
                _named(seen.labels, pooled.label[mine]),
                pa.array(pooled.score[mine], mask=pooled.label[mine] < 0),
            ]
            changed += pc.sum(pc.not_equal(columns[4], table["label"])).as_py() or 0
            if roll_up is not None:
                which = pooled.group[mine]
                columns += [
                    _named([group.rank for group in roll_up.groups], which),
                    _named([group.name for group in roll_up.groups], which),
                    pa.array(pooled.sum[mine], mask=which < 0),
                ]
            waiting.append(pa.table(columns, schema=schema))
            if sum(lot.num_rows for lot in waiting) >= _GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    return int(changed)


def _named(names: list[str], which: Array) -> pa.Array:
    index = pa.array(which, pa.int32(), mask=which < 0)
    return pa.array(names, pa.string()).take(index)
