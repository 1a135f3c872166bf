"""Listing images: folders, prefixes and manifests to Arrow tables.

Every table has the columns `uri` (string), `size_bytes` (int64) and `version` (string: ETag or time
of modification), the last two null for a manifest; then the manifest's other columns.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.console import Say
from monkeyray.errors import InputError, ObjectError
from monkeyray.images.manifest import BACKSLASHES, BLANKS, DRIVES, count_true, read_manifest
from monkeyray.storage.archives import (
    CUT,
    LINKS,
    STALE,
    Index,
    absent_version,
    broken_version,
    is_archive,
)
from monkeyray.storage.backends.local import local_errors
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.keys import OTHER_FORM, nfc, nfc_column
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table

PLAN_SCHEMA = pa.schema(
    [("uri", pa.string()), ("size_bytes", pa.int64()), ("version", pa.string())]
)

#: Files that accompany photographs. Everything else counts as an image, whatever its name: the
#: decoder decides.
_SIDECARS = frozenset([
    "csv", "tsv", "txt", "json", "jsonl", "xml", "xmp", "yaml", "yml", "toml", "ini", "cfg",
    "md", "html", "htm", "log", "db", "sqlite", "parquet", "pq", "arrow", "dat", "xls", "xlsx",
    "ods", "doc", "docx", "pdf", "py", "r", "ipynb", "sha256", "md5", "h5", "safetensors",
    "thm", "tmp", "cls", "npy",
])  # fmt: skip
_HIDDEN = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "_SUCCESS"})
#: The endings of videos. They are listed, and get rows with the status `unsupported`.
VIDEOS = (".mp4", ".avi", ".mpeg", ".mpg", ".mov", ".mkv", ".m4v", ".wmv", ".flv", ".webm")
_VIDEO = f"(?i)({'|'.join(map(re.escape, VIDEOS))})$"
#: Archives that are not of independent members.
_PACKED = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar",
)  # fmt: skip
_MEMBERS = r"(?i)\.(tar|zip)#."
_CHUNK = 8_192
_SHARD_LIST_BYTES = 64 * 2**20
#: Requests at the same time.
_THREADS = 16

#: Files that a thread looks up at a time.
_SOME = 16


def list_images(
    uri: str | Location,
    storage: Storage,
    skipped: Counter[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    folder: Location | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[pa.Table]:
    """All images below a folder or prefix, in a manifest, or in the archives that an index of
    WebDataset's wids lists, in tables of some thousand rows.

    `include` and `exclude` are globs in which * also matches slashes, compared with the path below
    a folder or with the URI in a manifest: an image must match one of the first, if there are any,
    and none of the second. `folder` and `names`: of a manifest, as in `read_manifest`. `skipped`
    counts files that are not images by their name, "hidden" and "side-car", those "excluded", and
    the notes of `read_manifest`.
    Raises InputError if the place does not exist, or a manifest has no column `uri`.
    """
    place = Location.parse(uri)
    if (shards := _read_shard_list(place, storage)) is not None:
        tables = _plan_tables(_with_members(iter(shards), storage, skipped))
        root: Location | None = place.parent
    elif is_table(str(place)):
        rows = read_manifest(place, storage, skipped, folder, names)
        tables, root = _with_extents(rows, storage), None
    else:
        tables, root = _list_folder(place, storage, skipped), place
    for table in tables:
        if include or exclude:
            keep = _matches(_names(table["uri"], root), include, exclude)
            skipped["excluded"] += table.num_rows - count_true(keep)
            table = table.filter(keep)
        yield table


def count_videos(tables: Iterable[pa.Table]) -> int:
    """How many files of tables with a column `uri` are videos by their names."""
    return sum(count_true(pc.match_substring_regex(each["uri"], _VIDEO)) for each in tables)


def with_versions(images: pa.Table, storage: Storage) -> pa.Table:
    """Listed images with their sizes and versions looked up where the list, such as a manifest, has
    none. The version of an image that cannot be read is "none"."""
    unknown = np.flatnonzero(images["version"].is_null().to_numpy())
    if not len(unknown):
        return images
    uris = images["uri"].take(pa.array(unknown)).to_pylist()

    def stat(uri: str) -> Entry:
        try:
            return storage.stat(uri)
        except ObjectError:
            return Entry(uri, None, "none")  # unlike any other version

    def stat_some(start: int) -> list[Entry]:
        # Together, because a million futures would take a gigabyte.
        return [stat(uri) for uri in uris[start : start + _SOME]]

    with ThreadPoolExecutor(_THREADS) as pool:
        starts = range(0, len(uris), _SOME)
        found = [entry for some in pool.map(stat_some, starts) for entry in some]
    for name in ("size_bytes", "version"):
        column = images[name].to_pylist()
        for row, entry in zip(unknown.tolist(), found, strict=True):
            column[row] = getattr(entry, name)
        index = images.column_names.index(name)
        images = images.set_column(index, name, pa.array(column, images[name].type))
    return images


def say_notes(skipped: Counter[str], say: Say) -> None:
    """Report how many paths were read differently from how they are written, and what archives
    have besides images, and remove these counts from `skipped`."""
    for note in (BACKSLASHES, DRIVES, BLANKS, OTHER_FORM, LINKS, STALE, CUT):
        if count := skipped.pop(note, 0):
            say(f"{note}: {count}")


def _names(uris: pa.ChunkedArray, root: Location | None) -> pa.ChunkedArray:
    """What globs are compared with."""
    if root is None:
        return uris
    if not pc.any(pc.match_substring_regex(uris, "^file://|#")).as_py():
        return pc.utf8_slice_codeunits(uris, len(root.prefix))
    # Arrow strings are UTF-8, so other bytes in a name become U+FFFD.
    names = [
        (root.below(uri) or "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for uri in uris.to_pylist()
    ]
    return pa.chunked_array([pa.array(names, pa.string())])


def _matches(names: pa.ChunkedArray, include: Sequence[str], exclude: Sequence[str]) -> Any:
    def any_of(globs: Sequence[str]) -> Any:
        matches = [pc.match_like(names, _like(glob)) for glob in globs]
        return functools.reduce(pc.or_, matches)

    if not "".join([*include, *exclude]).isascii():
        names = nfc_column(names)
        include, exclude = [*map(nfc, include)], [*map(nfc, exclude)]
    keep = any_of(include or ["*"])
    return pc.and_not(keep, any_of(exclude)) if exclude else keep


def _like(glob: str) -> str:
    """A glob as the pattern of SQL's LIKE, which Arrow matches without Python.

    >>> _like("*/IMG_?.jpg")
    '%/IMG\\\\__.jpg'
    """
    escaped = re.sub(r"([\\%_])", r"\\\1", glob)
    return escaped.replace("*", "%").replace("?", "_")


def _list_folder(place: Location, storage: Storage, skipped: Counter[str]) -> Iterator[pa.Table]:
    if place.path.lower().endswith(_PACKED):
        raise InputError(
            f"{place} is an archive that can only be read from its start: unpack it, or pack it as "
            ".tar or .zip"
        )
    if place.is_local:
        with local_errors(place):
            exists = Path(place.path).exists()
        if not exists:
            raise InputError(f"no such folder of images: {place}")
    files = _list_files(place, storage, skipped)
    yield from _plan_tables(_with_members(files, storage, skipped))


def _read_shard_list(place: Location, storage: Storage) -> list[Entry] | None:
    """The archives that an index of WebDataset's wids lists, in its order; None for other files.
    It says where they are and how many samples they have, and not where these are in them."""
    if not place.path.lower().endswith(".json"):
        return None
    try:
        content = json.loads(storage.read(place, _SHARD_LIST_BYTES).data)
        names = [str(shard["url"]) for shard in content["shardlist"]]
    except (ObjectError, ValueError, KeyError, TypeError, RecursionError):
        return None
    places = (Location.parse(name) if "://" in name else place.parent / name for name in names)
    return [Entry(str(shard), None, None) for shard in places]


def _list_files(place: Location, storage: Storage, skipped: Counter[str]) -> Iterator[Entry]:
    for entry in storage.list(place):
        # A single file was named on purpose, so any name is accepted.
        reason = None if entry.uri == str(place) else _not_image(place.below(entry.uri) or "")
        if reason:
            skipped[reason] += 1
        else:
            yield entry


def _with_members(
    entries: Iterator[Entry], storage: Storage, skipped: Counter[str]
) -> Iterator[Entry]:
    """The entries, with archives replaced by their members. Archives are indexed ahead of use."""
    # One at first, which may already hold as many images as --limit asks for.
    most, at_once = storage.indexed_at_once, 1
    ahead: deque[tuple[Entry, Future[Index] | None]] = deque()
    pool = ThreadPoolExecutor(most)
    try:

        def take() -> Iterator[Entry]:
            entry, future = ahead.popleft()
            if future is None:
                yield entry
                return
            try:
                index = future.result()
            except ObjectError:
                yield entry  # its row says why it cannot be read
                return
            skipped[LINKS] += index.links
            skipped[STALE] += index.stale
            for fragment, member in index.items():
                if reason := _not_image(unquote(fragment, errors="replace")):
                    skipped[reason] += 1
                else:
                    uri = f"{entry.uri}#{fragment}"
                    yield Entry(uri, member.size_bytes, str(member.extent))
            if index.broken is not None:
                version = broken_version(entry.version, index.broken)
                yield Entry(entry.uri, entry.size_bytes, version)

        for entry in entries:
            archived = is_archive(entry.uri)
            if not archived and not ahead:
                yield entry
                continue
            ahead.append((entry, pool.submit(storage.read_index, entry) if archived else None))
            if len(ahead) > at_once:
                yield from take()
                at_once = min(2 * at_once, most)
        while ahead:
            yield from take()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _with_extents(tables: Iterator[pa.Table], storage: Storage) -> Iterator[pa.Table]:
    """The rows of a manifest, with the sizes and places of the members that it names."""
    for table in tables:
        uris = table["uri"]
        if not pc.any(pc.match_substring_regex(uris, _MEMBERS)).as_py():
            yield table
            continue
        splits = [Location.of(uri).split_member() for uri in uris.to_pylist()]
        indexes = storage.indexes(split[0] for split in splits if split)
        found = [split and _place_of(indexes[split[0]], split[1]) for split in splits]
        for name, values in (
            ("size_bytes", [each and each[0] for each in found]),
            ("version", [each and each[1] for each in found]),
        ):
            column = pa.array(values, table[name].type)
            table = table.set_column(table.column_names.index(name), name, column)
        yield table


def _place_of(index: Index | ObjectError, fragment: str) -> tuple[int | None, str] | None:
    """A member's size in bytes and version: None and `absent_version` if the archive lacks it.
    Returns None if the archive cannot be read."""
    if isinstance(index, ObjectError):
        return None  # a plain file of this name, or its row says why it cannot be read
    member = index.find(fragment)
    if member is None:
        return None, absent_version(index.version)
    return member.size_bytes, str(member.extent)


def _plan_tables(entries: Iterator[Entry]) -> Iterator[pa.Table]:
    while some := list(itertools.islice(entries, _CHUNK)):
        yield _plan_table(some)


def _plan_table(entries: list[Entry]) -> pa.Table:
    columns = zip(*((entry.uri, entry.size_bytes, entry.version) for entry in entries), strict=True)
    return pa.table([list(column) for column in columns], schema=PLAN_SCHEMA)


def _not_image(path: str) -> str | None:
    """Why a file is not an image by its path below the folder, or None."""
    names = path.split("/")
    # Hadoop marks folders on S3 by empty objects of this ending.
    hidden = any((name.strip(".") and name.startswith(".")) or name in _HIDDEN for name in names)
    if hidden or path.endswith("_$folder$"):
        return "hidden"
    _, dot, ending = names[-1].lower().rpartition(".")
    return "side-car" if dot and ending in _SIDECARS else None
