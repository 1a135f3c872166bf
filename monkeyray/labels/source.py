"""Where labels are: a table, or a folder or zip archive of tables, opened to see what it holds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import sqlite3
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from monkeyray.errors import InputError, MissingError, ObjectError
from monkeyray.labels.options import LabelOptions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_parquet, is_table, stream_table

#: Files of labels whose names are not those of tables.
_OTHERS = (".zip", ".ddb", ".tdb", ".db")
#: Files that make a folder one of labels.
PACKAGE, DEPLOYMENTS = "datapackage.json", "deployments.csv"


@dataclass(frozen=True)
class Source:
    """Files that labels are read from.

    `place`: the file or folder as given; `folder`: what names in it are relative to; `names`: the
    files in it; `main`: the one whose `fields` are known, which are the columns of a table, the
    members of a JSON object (`content`), or the tables of a database. `opener`: opens a file by its
    name or URI.
    """

    place: Location
    storage: Storage
    folder: Location
    opener: Callable[[str], IO[bytes]]
    names: tuple[str, ...] = ()
    main: str = ""
    fields: tuple[str, ...] = ()
    content: Any = None

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        try:
            with self._archive_errors(), self.opener(name) as file:
                return file.read()
        except ObjectError as error:
            raise InputError(f"{name} of {self.place} cannot be read: {error}") from error

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        try:
            self.opener(name).close()
        except ObjectError:
            return False
        return True

    @contextlib.contextmanager
    def _archive_errors(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise InputError(
                f"{self.place} is damaged, or packed in a way that Python cannot read: {error}: "
                "unpack it, and give what is in it"
            ) from error

    def tables(self, name: str, wanted: Collection[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a table, some thousand at a time; a CSV that is not UTF-8 is taken for
        Windows-1252. `wanted` as in stream_table."""
        if name.lower().endswith((".parquet", ".pq")) and not is_parquet(self.place):
            yield pq.read_table(io.BytesIO(self.read(name)))
            return
        called = f"the table {name} in" if name != self.place.name else "labels"
        opener = functools.partial(self.opener, name)
        with self._archive_errors():
            yield from stream_table(self.place, self.storage, called, opener, wanted, "cp1252")

    def table(self, name: str, wanted: Collection[str] | None = None) -> pa.Table:
        """A whole table; without columns if it has no rows."""
        found = list(self.tables(name, wanted))
        return pa.concat_tables(found, promote_options="default") if found else pa.table({})

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """An SQLite file as a database in memory, so that the file itself cannot change."""
        data = bytearray(self.read(self.main))
        data[18:20] = b"\1\1"  # a write-ahead log would be another file
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(bytes(data))
            yield database


@dataclass(frozen=True)
class Format:
    """A format of labels.

    `called`: how errors name it; `marks`: fields by which it is recognised, if at least half are
    there; `needed`: fields without which it cannot be read; `way_out`: what to do about a file
    without them, or of a format that is refused. `read`: to a table of schema.LABELS; its counter
    is for what it leaves out. None for formats that are recognised only to be refused.
    """

    called: str
    marks: frozenset[str]
    needed: frozenset[str]
    way_out: str
    read: Callable[[Source, LabelOptions, Counter[str]], pa.Table] | None = None


def open_source(place: Location, storage: Storage) -> Source | None:
    """The files of labels at a place; None for a folder of images, and for what can only be a plain
    table. Raises InputError for a file that cannot be read."""
    if not is_table(str(place)) and not place.path.lower().endswith(_OTHERS):
        return _open_folder(place, storage)

    def open_beside(name: str) -> IO[bytes]:
        return storage.open(Location.parse(name) if "://" in name else place.parent / name)

    source = Source(place, storage, place.parent, open_beside, (place.name,), place.name)
    if is_parquet(place):
        return _of_table(source)
    try:
        with storage.open(place) as file:
            head = file.read(64)
    except ObjectError:
        return None
    if head.startswith(b"PK\3\4"):
        return _of_archive(source)
    if head.startswith(b"SQLite format 3\0"):
        return _of_database(source)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return _of_json(source)
    return _of_table(source)


def _open_folder(place: Location, storage: Storage) -> Source | None:
    if place.scheme in ("http", "https"):
        return None

    def open_below(name: str) -> IO[bytes]:
        return storage.open(Location.parse(name) if "://" in name else place / name)

    source = Source(place, storage, place, open_below, main=PACKAGE)
    if source.has(PACKAGE):
        return _of_json(source)
    if not source.has(DEPLOYMENTS):
        return None
    paths = (place.below(entry.uri) or "" for entry in storage.list(place))
    return _of_tables(replace(source, names=tuple(path for path in paths if "/" not in path)))


def _of_archive(source: Source) -> Source | None:
    try:
        archive = zipfile.ZipFile(source.opener(source.main))
    except (zipfile.BadZipFile, ObjectError) as error:
        raise InputError(f"{source.place} is not a zip archive: {error}") from error
    hidden = re.compile(r"(^|/)(\.|__MACOSX)|/$")
    paths = [name for name in archive.namelist() if not hidden.search(name)]
    # The folder that all tables are in, such as the package's own.
    root = ""
    while len({path.split("/")[0] for path in paths}) == 1 and "/" in paths[0]:
        first = paths[0].partition("/")[0] + "/"
        root, paths = root + first, [path.removeprefix(first) for path in paths]

    def open_member(name: str) -> IO[bytes]:
        if "://" in name:
            return source.opener(name)
        try:
            return archive.open(root + name)
        except KeyError:
            raise MissingError(f"{source.place} has no {name} in it") from None

    inside = replace(source, opener=open_member, names=tuple(paths), main=PACKAGE)
    if PACKAGE in paths:
        return _of_json(inside)
    found = [path for path in paths if path.lower().endswith(".json")]
    if 1 < len(found) == len(paths):
        raise InputError(
            f"{source.place} has {len(found)} JSON files ({', '.join(found[:3])}): unpack it, and "
            "give one of them"
        )
    return _of_json(replace(inside, main=found[0])) if len(found) == 1 else _of_tables(inside)


def _of_tables(source: Source) -> Source | None:
    """Several tables, of which those of images count first, then those of sequences."""
    tables = sorted(name for name in source.names if re.search(r"(?i)\.csv(\.gz)?$", name))
    for start in ("images", "sequences", ""):
        for name in tables:
            if name.rpartition("/")[2].lower().startswith(start):
                return _of_table(replace(source, main=name))
    return None


def _of_table(source: Source) -> Source | None:
    table = next(source.tables(source.main), None)
    return None if table is None else replace(source, fields=tuple(table.column_names))


def _of_json(source: Source) -> Source | None:
    try:
        content = json.loads(source.read(source.main))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{source.place} is not JSON ({error}): it is damaged or incomplete, so export or "
            "download it again"
        ) from error
    if not isinstance(content, dict):
        return None
    return replace(source, fields=tuple(content), content=content)


def _of_database(source: Source) -> Source:
    try:
        with source.database() as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return replace(source, fields=tuple(name for (name,) in rows))
    except sqlite3.Error as error:
        raise InputError(f"{source.place} is not an SQLite database: {error}") from error
