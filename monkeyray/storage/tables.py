"""Small tables that people keep by hand, CSV or Parquet, as rows of text."""

from __future__ import annotations

import csv
import io
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monkeyray.errors import InputError, ObjectError
from monkeyray.storage.location import normalise
from monkeyray.storage.store import Storage


def key(name: str) -> str:
    """A column's name as it is compared: without case, spaces and punctuation.

    >>> key("deploymentID"), key("Deployment id"), key("clock_offset")
    ('deploymentid', 'deploymentid', 'clockoffset')
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def delimiter_of(header: str) -> str:
    """What divides the cells of a CSV: commas, or the semicolons or tabs of spreadsheets, the one
    that the first line has most of; a comma where it has none.

    >>> delimiter_of("uri;label"), delimiter_of("uri")
    (';', ',')
    """
    return max(",;\t", key=header.count)


def read_rows(uri: str, storage: Storage, option: str) -> list[dict[str, str]]:
    """The rows of a table, each as column (in the form of `key`) to trimmed text, "" for none.

    A CSV is UTF-8, divided by commas, or by the semicolons or tabs of spreadsheets. Raises
    InputError, which names the option, for what is no table, has a column twice or has no rows.
    """
    uri = normalise(uri)
    try:
        data = storage.read(uri).data
        if uri.lower().endswith((".parquet", ".pq")):
            table = pq.read_table(io.BytesIO(data))
            names = table.column_names
            columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
            lines = [list(line) for line in zip(*columns, strict=True)]
        else:
            text = data.decode("utf-8-sig")
            delimiter = delimiter_of(text.partition("\n")[0])
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            names, *lines = [line for line in reader if any(map(str.strip, line))] or [[]]
    except (ObjectError, pa.ArrowException, OSError, csv.Error, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--{option} {uri} cannot be read: {reason}: give a CSV in UTF-8 or a Parquet file"
        ) from error
    keys = [key(name) for name in names]
    for name in keys:
        if keys.count(name) > 1:
            raise InputError(f"--{option} {uri} has two columns {name!r}: rename one")
    for number, line in enumerate(lines, 1):
        if len(line) > len(keys):
            raise InputError(
                f"--{option} {uri} has {len(line)} values for {len(keys)} columns in row {number}: "
                "put values that hold the delimiter in quotes"
            )
    if not lines:
        raise InputError(f"--{option} {uri} has no rows")
    # A row that is shorter than the header leaves its last columns empty.
    return [
        {name: value.strip() for name, value in zip(keys, [*line, *[""] * len(keys)], strict=False)}
        for line in lines
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, date | datetime):
        return value.isoformat()
    return "" if value != value else str(value)  # NaN, which pandas writes for nothing
