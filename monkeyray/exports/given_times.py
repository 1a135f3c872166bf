"""Capture times from a table, as exiftool writes it, in place of those in predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.images.manifest import as_text
from monkeyray.images.times import parse_times
from monkeyray.runs.box_rows import find_rule
from monkeyray.runs.reader import Predictions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import key, stream_table

#: The possible names of the columns, see `tables.key`; the second is exiftool's.
_FILES, _TIMES = ("uri", "sourcefile"), ("captured_at", "datetimeoriginal")

#: Images from which to derive how the table's files are found.
_SAMPLE = 64


@dataclass(frozen=True)
class GivenTimes:
    """Times by URI. `uris`, `times`: of the table's files, string (n,)."""

    uris: pa.Array
    times: pa.Array

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows with the columns uri and captured_at, which the given times replace."""
        where = pc.index_in(rows["uri"], value_set=self.uris)
        given = self.times.take(where.combine_chunks())
        place = rows.column_names.index("captured_at")
        times = pc.coalesce(given, rows["captured_at"].combine_chunks())
        return rows.set_column(place, "captured_at", times)


def read_given_times(place: Location, storage: Storage, predictions: Predictions) -> GivenTimes:
    """Read the times of files that have one.

    The files may be named from another folder than in the predictions. Raises InputError for a
    table without the two columns or with values that are not times, and if none of its files is
    among the images.
    """
    called = f"--times {place}"
    files: list[str] = []
    times: list[str] = []
    for table in stream_table(place, storage, "--times"):
        names = [_column(table.column_names, which, called) for which in (_FILES, _TIMES)]
        texts = [as_text(called, table, name) for name in names]
        parsed = parse_times(texts[1], f"the column {names[1]} of {called}")
        for file, time in zip(texts[0].to_pylist(), parsed.to_pylist(), strict=True):
            if file and time:
                files.append(file.strip().replace("\\", "/").removeprefix("./"))
                times.append(time)
    rule = find_rule(files, _sample(predictions))
    if rule is None:
        raise InputError(
            f"{called} has times for {len(files)} files, none of which is an image in "
            f"{predictions.uri}: give the table for these images"
        )
    uris = pa.array([rule.uri(file) for file in files], pa.string())
    return GivenTimes(uris, pa.array(times, pa.string()))


def _sample(predictions: Predictions) -> list[str]:
    step = max(1, predictions.rows // _SAMPLE)
    sample: list[str] = []
    row = 0
    for table in predictions.tables(["uri"]):
        sample += table["uri"].take(pa.array(range(-row % step, table.num_rows, step))).to_pylist()
        row += table.num_rows
    return sample


def _column(names: Sequence[str], possible: Sequence[str], called: str) -> str:
    for wanted in possible:
        for name in names:
            if key(name) == key(wanted):
                return name
    raise InputError(
        f"{called} has no column {possible[0]}, only {', '.join(names)}: use uri and captured_at, "
        "or the columns that exiftool -csv -DateTimeOriginal writes"
    )
