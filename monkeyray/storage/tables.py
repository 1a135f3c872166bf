"""Tables in CSV or Parquet: large ones streamed as Arrow tables, small ones as rows of text.

A CSV is in UTF-8, or UTF-16 with a byte order mark; separated by commas, or by the semicolons or
tabs of spreadsheets, whose first line may say so (`sep=;`); and may be compressed with gzip. A
Parquet table may be a folder of files, as Spark, Dask and Ray write it.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date, datetime
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from monkeyray.errors import InputError, MissingError, ObjectError, first_line
from monkeyray.storage.backends.local import local_errors
from monkeyray.storage.keys import nfc
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: How R, pandas, SQL and spreadsheets write a missing value as text.
MISSING_TEXTS = ("NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "<NA>")

#: Opens a file to read at any position.
Opener = Callable[[], IO[bytes]]

_HEAD_BYTES = 1 << 20
_BATCH_ROWS = 8_192

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".txt")
#: Unsupported tables, listed so that none is taken for an image.
_OTHERS = (".xlsx", ".xlsm", ".xls", ".ods", ".feather", ".arrow", ".json", ".jsonl", ".sqlite")

#: First bytes of other formats, by which the message names them.
_FORMATS = {
    b"PK\x03\x04": "an Excel or OpenDocument workbook, or a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file under the name of a CSV",
    b"ARROW1": "a Feather file",
    b"SQLite": "an SQLite database",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"{": "JSON",
    b"[": "JSON",
}
_NOT_UTF8 = "it is not UTF-8, perhaps in Windows-1252 (ANSI), as Excel writes a plain CSV"
_GZIP = b"\x1f\x8b"
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?', re.IGNORECASE)


def is_table(uri: str) -> bool:
    """Whether a URI names a table rather than a folder, prefix or image.

    >>> is_table("a/list.csv.gz"), is_table("a/list.xlsx"), is_table("a/1.jpg")
    (True, True, False)
    """
    name = re.sub(r"\.(gz|bz2|xz|zst|zip)$", "", uri.lower())
    return name.endswith((*_PARQUET, *_CSV, *_OTHERS))


def is_parquet(place: Location) -> bool:
    """Whether a table is a Parquet file or a folder of them, by its name."""
    return place.path.lower().endswith(_PARQUET)


def stream_table(
    place: Location,
    storage: Storage,
    called: str,
    opener: Opener | None = None,
    wanted: Collection[str] | None = None,
    fallback: str | None = None,
) -> Iterator[pa.Table]:
    """A table's rows, some thousand at a time. The columns of a CSV are all text (string).

    `called`: the option or noun that errors name; `opener`: opens the table, if it is a member of
    the file at `place`; `wanted`: the columns to read, those of other names are left out;
    `fallback`: the encoding of a CSV that is not UTF-8. Raises InputError if it cannot be read.
    """
    opener = opener or functools.partial(storage.open, place)
    with _table_errors(place, called):
        if is_parquet(place):
            yield from _stream_parquet(place, storage)
            return
        with _opened(opener) as file:
            form = _form_of(file.read(_HEAD_BYTES), fallback)
        if fallback and form.encoding == "utf-8":
            with _opened(opener) as file:
                form = form._replace(encoding="utf-8" if _is_utf8(file) else fallback)
        header = form.header
        with _opened(opener) as file:
            reader = pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(
                    encoding=form.encoding, skip_rows=form.lines_before
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=form.delimiter, newlines_in_values=True
                ),
                # Types guessed from the first rows may fail at the millionth.
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    include_columns=None
                    if wanted is None
                    else [name for name in header if name in wanted],
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])


def read_rows(uri: str | Location, storage: Storage, option: str) -> list[dict[str, str]]:
    """The rows of a small table, each as column (in the form of `key`) to trimmed text in NFC,
    empty for MISSING_TEXTS.

    Raises InputError, which names the option, for a file that is not a table, has two columns of
    one name, or has no rows.
    """
    place = Location.parse(uri)
    called = f"--{option} {place}"
    with _table_errors(place, f"--{option}"):
        header: list[str] = []
        if is_parquet(place):
            lines = []
            for table in _stream_parquet(place, storage):
                header = table.column_names
                columns = [map(_text, column.to_pylist()) for column in table.columns]
                lines += [list(line) for line in zip(*columns, strict=True)]
        else:
            with _opened(functools.partial(storage.open, place)) as file:
                data = file.read()
            form = _form_of(data[:_HEAD_BYTES])
            text = io.StringIO(data.decode(form.encoding).removeprefix("\ufeff"), newline="")
            for _ in range(form.lines_before):
                text.readline()
            reader = csv.reader(text, delimiter=form.delimiter, strict=True)
            header, *lines = [line for line in reader if any(map(str.strip, line))] or [[]]
    keys = [key(name) for name in header]
    for name in keys:
        if keys.count(name) > 1:
            raise InputError(f"{called} has two columns {name!r}: rename one")
    for number, line in enumerate(lines, 1):
        if len(line) > len(keys):
            raise InputError(
                f"{called} has {len(line)} values for {len(keys)} columns in row {number}: "
                "quote values that contain the delimiter"
            )
    if not lines:
        raise InputError(f"{called} has no rows")
    # A row that is shorter than the header leaves its last columns empty.
    return [
        {name: _cell(value) for name, value in zip(keys, [*line, *[""] * len(keys)], strict=False)}
        for line in lines
    ]


def key(name: str) -> str:
    """A column's name for comparison: without case, spaces and punctuation.

    >>> key("deploymentID"), key("Deployment id"), key("clock_offset")
    ('deploymentid', 'deploymentid', 'clockoffset')
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def rename_reserved(names: Sequence[str], reserved: Collection[str]) -> dict[str, str]:
    """New names for the columns of users' tables that clash with ours.

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


def _stream_parquet(place: Location, storage: Storage) -> Iterator[pa.Table]:
    schema = None
    for uri in _parquet_files(place, storage):
        with storage.open(uri) as file, pq.ParquetFile(file) as parquet:
            schema = schema or parquet.schema_arrow
            if not parquet.schema_arrow.equals(schema):
                raise ValueError(
                    f"{Location.of(uri).name} has different columns from the file before it"
                )
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                yield pa.Table.from_batches([batch])


def _parquet_files(place: Location, storage: Storage) -> list[str]:
    """The file itself, or those in the folder of its name."""
    if storage.exists(place):
        return [str(place)]
    paths = {entry.uri: place.relative(entry.uri) or "" for entry in storage.list(place)}
    files = {
        uri: path for uri, path in paths.items()
        if path.lower().endswith(_PARQUET) and not re.search(r"(^|/)[._]", path)
    }  # fmt: skip
    if not files:
        raise MissingError(f"{place} does not exist")
    # Such a column is in the folders' names alone.
    if parted := [path for path in files.values() if re.search("=.*/", path)]:
        raise ValueError(
            f"it is partitioned by a column ({parted[0]}), write it without partitions"
        )
    return list(files)


@contextlib.contextmanager
def _opened(opener: Opener) -> Iterator[IO[bytes]]:
    """A file as it was before its compression."""
    with opener() as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        yield pa.CompressedInputStream(file, "gzip") if zipped else file


class _Form(NamedTuple):
    """How a CSV is written. `lines_before`: lines before the header."""

    encoding: str
    delimiter: str
    lines_before: int
    header: list[str]


def _is_utf8(file: IO[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while piece := file.read(_HEAD_BYTES):
            decoder.decode(piece)
    except UnicodeDecodeError:
        return False
    return True


def _form_of(head: bytes, fallback: str | None = None) -> _Form:
    """The form of a CSV, from its first bytes. Raises ValueError for another format, and for a
    header that is not UTF-8 without a `fallback`."""
    for start, what in _FORMATS.items():
        if head.startswith(start):
            raise ValueError(f"it is {what}")
    encoding = "utf-8"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in head:
        raise ValueError("it is not text")
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    first, _, rest = text.partition("\n")
    said = _SEPARATOR.fullmatch(first)
    text = rest if said else text
    delimiter = said[1] if said else _delimiter(text)
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    if any("\N{REPLACEMENT CHARACTER}" in name for name in header):
        if fallback is None:
            raise ValueError(_NOT_UTF8)
        return _form_of(head.decode(fallback).encode())._replace(encoding=fallback)
    return _Form(encoding, delimiter, int(said is not None), header)


def _delimiter(text: str) -> str:
    """The most frequent delimiter in the first line; a comma if it has none.

    >>> _delimiter("uri;label"), _delimiter("uri")
    (';', ',')
    """
    return max(",;\t", key=text.partition("\n")[0].count)


@contextlib.contextmanager
def _table_errors(place: Location, called: str) -> Iterator[None]:
    try:
        yield
    except MissingError:
        raise InputError(f"{called} {place} does not exist") from None
    except (ObjectError, ValueError, pa.ArrowException, OSError, csv.Error) as error:
        # Arrow's OSError for bytes that are not Parquet has no number; the others are the disk's.
        if isinstance(error, OSError) and error.errno is not None:
            with local_errors(place):
                raise
        reason = first_line(error)
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in reason:
            reason = _NOT_UTF8
        raise InputError(
            f"{called} {place} cannot be read: {reason}: give a CSV in UTF-8 (in Excel, save as "
            "CSV UTF-8) or a Parquet file"
        ) from error


def _cell(value: str) -> str:
    value = nfc(value.strip())
    return "" if value in MISSING_TEXTS else value


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
