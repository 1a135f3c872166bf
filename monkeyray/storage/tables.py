"""Tables in CSV or Parquet: large ones streamed as Arrow tables, small ones as rows of text.

A CSV is UTF-8 and separated by commas, or by the semicolons or tabs of spreadsheets.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from monkeyray.errors import InputError, ObjectError
from monkeyray.storage.local import local_errors
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

_HEAD_BYTES = 1 << 20
_BATCH_ROWS = 8_192


def is_table(uri: str) -> bool:
    """Whether a URI names a table rather than a folder or prefix."""
    return uri.lower().endswith((".csv", ".parquet", ".pq"))


def stream_table(place: Location, storage: Storage, called: str) -> Iterator[pa.Table]:
    """A table's rows, some thousand at a time. The columns of a CSV are all text (string).

    `called`: the option or noun that errors name. Raises InputError if it cannot be read.
    """
    with _table_errors(place, called):
        if _is_parquet(place):
            with storage.open(place) as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
                    yield pa.Table.from_batches([batch])
            return
        with storage.open(place) as file:
            head = file.read(_HEAD_BYTES).decode("utf-8-sig", "replace")
        delimiter = _delimiter(head)
        header = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
        with storage.open(place) as file:
            reader = pyarrow.csv.open_csv(
                file,
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True
                ),
                # Types guessed from the first rows may fail at the millionth.
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string())
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])


def read_rows(uri: str | Location, storage: Storage, option: str) -> list[dict[str, str]]:
    """The rows of a small table, each as column (in the form of `key`) to trimmed text.

    Raises InputError, which names the option, for a file that is not a table, has two columns of
    one name, or has no rows.
    """
    place = Location.parse(uri)
    called = f"--{option} {place}"
    with _table_errors(place, f"--{option}"):
        data = storage.read(place).data
        if _is_parquet(place):
            table = pq.read_table(io.BytesIO(data))
            header = table.column_names
            columns = [map(_text, column.to_pylist()) for column in table.columns]
            lines = [list(line) for line in zip(*columns, strict=True)]
        else:
            text = data.decode("utf-8-sig")
            reader = csv.reader(
                io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True
            )
            header, *lines = [line for line in reader if any(map(str.strip, line))] or [[]]
    keys = [key(name) for name in header]
    for name in keys:
        if keys.count(name) > 1:
            raise InputError(f"{called} has two columns {name!r}: rename one")
    for number, line in enumerate(lines, 1):
        if len(line) > len(keys):
            raise InputError(
                f"{called} has {len(line)} values for {len(keys)} columns in row {number}: "
                "put values that hold the delimiter in quotes"
            )
    if not lines:
        raise InputError(f"{called} has no rows")
    # A row that is shorter than the header leaves its last columns empty.
    return [
        {name: value.strip() for name, value in zip(keys, [*line, *[""] * len(keys)], strict=False)}
        for line in lines
    ]


def key(name: str) -> str:
    """A column's name for comparison: without case, spaces and punctuation.

    >>> key("deploymentID"), key("Deployment id"), key("clock_offset")
    ('deploymentid', 'deploymentid', 'clockoffset')
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def rename_reserved(names: Sequence[str], reserved: Collection[str]) -> dict[str, str]:
    """The columns of people's tables with names that do not clash with ours.

    >>> rename_reserved(["site", "label", "input_label"], {"label"})
    {'site': 'site', 'label': 'input_input_label', 'input_label': 'input_label'}
    """
    taken = set(reserved)
    kept = set(names) - taken
    renamed = {}
    for name in names:
        new = name
        while new in taken or (new != name and new in kept):
            new = f"input_{new}"
        taken.add(new)
        renamed[name] = new
    return renamed


def _is_parquet(place: Location) -> bool:
    return place.path.lower().endswith((".parquet", ".pq"))


def _delimiter(text: str) -> str:
    """The delimiter that the first line has most of; a comma if it has none.

    >>> _delimiter("uri;label"), _delimiter("uri")
    (';', ',')
    """
    return max(",;\t", key=text.partition("\n")[0].count)


@contextlib.contextmanager
def _table_errors(place: Location, called: str) -> Iterator[None]:
    try:
        yield
    except (ObjectError, pa.ArrowException, OSError, csv.Error, UnicodeDecodeError) as error:
        # Arrow's OSError for bytes that are not Parquet has no number; the others are the disk's.
        if isinstance(error, OSError) and error.errno is not None:
            with local_errors(place):
                raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{called} {place} cannot be read: {reason}: give a CSV in UTF-8 or a Parquet file"
        ) from error


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, date | datetime):
        return value.isoformat()
    return "" if value != value else str(value)  # NaN, which pandas writes for a missing value
