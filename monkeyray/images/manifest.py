"""Manifests: tables of images with a column `uri`, resolved to full URIs that a store can open."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.console import counted
from monkeyray.errors import ConfigError, InputError, first_line
from monkeyray.images.boxes import BOX_COLUMNS
from monkeyray.images.times import parse_times
from monkeyray.redact import masked
from monkeyray.storage.keys import OTHER_FORM
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import MISSING_TEXTS, rename_reserved, stream_table

#: Notes on URIs that are read differently from how they are written.
BACKSLASHES = "manifest paths with backslashes, read as slashes"
DRIVES = "manifest paths with a Windows drive, read as below the manifest's folder"
BLANKS = "manifest URIs with surrounding blanks, trimmed"

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
#: In RE2's syntax, for Arrow.
_FULL = r"^(/|[A-Za-z][A-Za-z0-9+.\-]+://)"
_LOCAL = r"(?i)^(/|file://)"
_DRIVE = r"^([A-Za-z]:[/\\]|\\\\)"
_HALF_FULL = r"^[A-Za-z][A-Za-z0-9+.\-]+:/([^/]|$)"
_DOTS = r"(^|/)\.{1,2}(/|$)"
_S3 = r"(?i)^s3://"
_S3_NAME = r"(?is)^s3://[a-z0-9][a-z0-9._\-]{1,254}/."
_OTHER_NAME = r"(?is)^([^:]+://[^/]+/|memory://)."
_MAYBE_SECRET = r"(?is)^[a-z][a-z0-9+.\-]+://.*(@|[?&;].*=)"

#: Images that are looked for below the manifest's folder.
_SAMPLE = 16


@dataclass
class _Known:
    """What is known from earlier rows. `schemes`: those that can be opened; `drive`: the start of
    Windows paths that stands for the manifest's folder, with slashes; None until one is found."""

    schemes: set[str]
    drive: str | None = None


def read_manifest(
    place: Location,
    storage: Storage,
    notes: Counter[str],
    folder: Location | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[pa.Table]:
    """The rows of a manifest with full URIs, some thousand at a time.

    The columns are `uri`, and `size_bytes` and `version` without values; then the manifest's other
    columns, prefixed with `input_` if their name is one of these or of boxes.BOX_COLUMNS. URIs
    without a scheme or a leading slash are relative to the manifest's folder; backslashes in them
    are Windows' slashes, and local paths are found in either Unicode form. Paths with a drive are
    those of images below the manifest's folder, where one rule finds them: the same first folders
    are left out of each. A column `captured_at` has times. `folder`: what stands for the manifest's
    folder; `names`: columns that stand for others, such as uri, if the manifest has them. `notes`
    counts BACKSLASHES, DRIVES, BLANKS and OTHER_FORM.
    Raises InputError if it does not exist, cannot be read, has no column `uri`, has a URI that no
    store can hold or that contains credentials, or has one of a scheme that cannot be opened.
    """
    if place.is_local and str(place) != place.path:
        raise InputError(f"the path of manifest {place} is not UTF-8: rename it")
    known = _Known({"s3"})
    for table in stream_table(place, storage, "manifest"):
        table = _renamed(table, names or {})
        yield _absolute(str(place), folder or place.parent, table, storage, known, notes)


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """With the columns that stand for others under their names, and without those."""
    found = {its: name for name, its in names.items() if its in table.column_names and its != name}
    table = table.drop_columns([name for name in found.values() if name in table.column_names])
    return table.rename_columns([found.get(name, name) for name in table.column_names])


def _absolute(
    manifest: str,
    folder: Location,
    table: pa.Table,
    storage: Storage,
    known: _Known,
    notes: Counter[str],
) -> pa.Table:
    """A manifest's rows with full URIs and the columns of a plan first."""
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise InputError(f"manifest {manifest} has two columns {twice[0]!r}: rename one")
    if "uri" not in table.column_names:
        raise InputError(
            f"manifest {manifest} has no column 'uri', only {', '.join(table.column_names)}: "
            "rename the one with the images' paths (train, tune and evaluate take --uri-column)"
        )
    written = as_text(manifest, table, "uri")
    uris = pc.utf8_trim_whitespace(written)
    notes[BLANKS] += count_true(pc.not_equal(uris, written))
    bad = count_true(pc.or_kleene(pc.is_null(uris), pc.equal(uris, "")))
    if bad:
        raise InputError(
            f"manifest {manifest} has {counted(bad, 'row')} with no uri: fill or drop them"
        )
    full = _full_uris(manifest, str(folder), uris, storage, known, notes)
    columns: dict[str, Any] = {"uri": _as_on_disk(full, notes)}
    for name, kind in (("size_bytes", pa.int64()), ("version", pa.string())):
        columns[name] = pa.nulls(table.num_rows, kind)
    carried = [name for name in table.column_names if name != "uri"]
    for name, renamed in rename_reserved(carried, {*columns, *BOX_COLUMNS}).items():
        columns[renamed] = table[name]
    if "captured_at" in columns:
        texts = as_text(manifest, table, "captured_at")
        columns["captured_at"] = parse_times(
            texts, f"the column captured_at of manifest {manifest}"
        )
    return pa.table(columns)


def as_text(manifest: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column as text (string); NaN and MISSING_TEXTS become null.

    Raises InputError for a column that does not hold one text in UTF-8 in each row.
    """
    column = table[name]
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        text = column.cast(pa.string())
        text.validate(full=True)  # that its bytes are UTF-8
        missing = pc.is_in(pc.utf8_trim_whitespace(text), pa.array(MISSING_TEXTS))
    except pa.ArrowException as error:
        raise InputError(
            f"manifest {manifest} has a column {name!r} ({table[name].type}) that is not text: "
            "write one UTF-8 text in each row"
        ) from error
    return pc.if_else(missing, None, text)


def count_true(mask: Any) -> int:
    """How many of an Arrow boolean array are true."""
    return pc.sum(mask).as_py() or 0  # the sum of no rows is null


def _full_uris(
    manifest: str,
    folder: str,
    written: pa.ChunkedArray,
    storage: Storage,
    known: _Known,
    notes: Counter[str],
) -> pa.ChunkedArray:
    written = _without_drive(folder, written, storage, known, notes)
    full = pc.match_substring_regex(written, _FULL)
    windows = pc.and_not(pc.match_substring(written, "\\"), full)
    notes[BACKSLASHES] += count_true(windows)
    slashed = pc.if_else(windows, pc.replace_substring(written, "\\", "/"), written)
    uris = pc.if_else(full, written, pc.binary_join_element_wise(pa.scalar(folder), slashed, "/"))
    local = pc.match_substring_regex(uris, _LOCAL)
    _check_uris(manifest, written, pc.and_not(full, local))
    _try_schemes(manifest, uris.filter(pc.invert(local)), storage, known.schemes)
    # In a full URI of another store, dots are part of the name.
    dots = pc.and_(pc.match_substring_regex(uris, _DOTS), pc.or_(local, pc.invert(full)))
    odd = pc.or_(pc.match_substring_regex(uris, "(?i)^file://"), dots)
    if not pc.any(odd).as_py():
        return uris
    mended = [
        _clean(manifest, value) if flag else value
        for value, flag in zip(uris.to_pylist(), odd.to_pylist(), strict=True)
    ]
    return pa.chunked_array([pa.array(mended, pa.string())])


def _without_drive(
    folder: str, written: pa.ChunkedArray, storage: Storage, known: _Known, notes: Counter[str]
) -> pa.ChunkedArray:
    """Paths with a Windows drive or share as relative ones, if they are below `known.drive`."""
    drive = pc.match_substring_regex(written, _DRIVE)
    if not pc.any(drive).as_py():
        return written
    slashed = pc.replace_substring(written, "\\", "/")
    if known.drive is None:
        paths = slashed.filter(drive)[:_SAMPLE].to_pylist()
        known.drive = _find_drive(folder, paths, storage)
    if known.drive is None:
        return written
    below = pc.and_(drive, pc.starts_with(slashed, known.drive))
    notes[DRIVES] += count_true(below)
    return pc.if_else(below, pc.utf8_slice_codeunits(slashed, len(known.drive)), written)


def _find_drive(folder: str, paths: list[str], storage: Storage) -> str | None:
    """The start to leave out of the paths, from the first image that is found below the folder."""
    for path in paths:
        names = path.split("/")
        for start in range(1, len(names)):
            relative = "/".join(names[start:])
            if storage.exists(f"{folder}/{relative}"):
                return path.removesuffix(relative)
    return None


def check_remote(manifest: str, uris: pa.ChunkedArray, storage: Storage) -> None:
    """Raise InputError for URIs with a scheme that no store can hold, that contain credentials, or
    that cannot be opened."""
    _check_uris(manifest, uris, pc.is_valid(uris))
    _try_schemes(manifest, uris, storage, {"s3"})


def _check_uris(manifest: str, uris: pa.ChunkedArray, remote: Any) -> None:
    """Raise InputError for URIs that no store can hold, which would stop a running job."""

    def match(pattern: str) -> Any:
        return pc.match_substring_regex(uris, pattern)

    secret = match(_MAYBE_SECRET)
    if pc.any(secret).as_py():
        looked_at = zip(uris.to_pylist(), secret.to_pylist(), strict=True)
        exact = [maybe and masked(uri) != uri for uri, maybe in looked_at]
        secret = pa.chunked_array([pa.array(exact, pa.bool_())])
    formed = pc.if_else(match(_S3), match(_S3_NAME), match(_OTHER_NAME))
    drive = match(_DRIVE)
    bad = pc.or_(pc.or_(secret, pc.or_(drive, match(_HALF_FULL))), pc.and_not(remote, formed))
    count = count_true(bad)
    if not count:
        return
    first = pc.index(bad, True).as_py()
    if secret[first].as_py():
        why = (
            "it contains credentials, before the @ or in its query: supply them through the "
            "environment or a role"
        )
    elif drive[first].as_py():
        why = (
            "this machine cannot open Windows drives and shares, and the image was not found below "
            "the manifest's folder: write paths relative to the manifest, such as site1/1.jpg"
        )
    else:
        why = "write a path, or scheme://bucket/path such as s3://bucket/photos/1.jpg"
    raise InputError(
        f"manifest {manifest} has {counted(count, 'malformed URI')}, the first is "
        f"{masked(uris[first].as_py())!r}: {why}"
    )


def _try_schemes(manifest: str, uris: pa.ChunkedArray, storage: Storage, opened: set[str]) -> None:
    kinds = pc.utf8_lower(pc.replace_substring_regex(uris, "(?s)://.*", ""))
    for kind in set(pc.unique(kinds).to_pylist()) - opened:
        example = uris[pc.index(kinds, kind).as_py()].as_py()
        try:
            storage.check_opens(example)
        except Exception as error:  # each file system has its own
            count = count_true(pc.equal(kinds, kind))
            raise InputError(
                f"manifest {manifest} has {counted(count, 'URI')} that cannot be opened, the first "
                f"is {example!r}: {first_line(error)}"
            ) from error
        opened.add(kind)


def _as_on_disk(uris: pa.ChunkedArray, notes: Counter[str]) -> pa.ChunkedArray:
    """Local paths in the Unicode form that the disk has them in; `notes` counts OTHER_FORM."""
    if pc.all(pc.string_is_ascii(uris)).as_py():
        return uris
    folders: dict[str, str] = {}

    def find(path: str) -> str:
        if path.isascii() or not path.startswith("/"):
            return path
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = find(folder)
        exact = f"{folders[folder]}/{name}"
        forms = (f"{folders[folder]}/{normalize(form, name)}" for form in _FORMS)
        if name.isascii() or os.path.lexists(exact):
            return exact
        return next(filter(os.path.lexists, forms), exact)

    written = uris.to_pylist()
    found = [find(path) for path in written]
    notes[OTHER_FORM] += sum(map(operator.ne, written, found))
    return pa.chunked_array([pa.array(found, pa.string())])


def _clean(manifest: str, uri: str) -> str:
    """The canonical URI of a place, without . and .. segments."""
    place = Location.of(uri)
    if place.is_local:
        try:
            return str(Location.parse(uri))
        except ConfigError as error:
            raise InputError(f"manifest {manifest} has a {error}") from error
    kept: list[str] = []
    for name in place.path.split("/"):
        if name == "..":
            del kept[-1:]
        elif name != ".":
            kept.append(name)
    return str(Location(place.scheme, place.bucket, "/".join(kept)))
