"""Finds the images that tables of labels name: relative, POSIX and Windows paths, and URIs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.console import counted
from monkeyray.errors import InputError
from monkeyray.images.listing import PLAN_SCHEMA, list_images
from monkeyray.images.manifest import BACKSLASHES, check_remote, count_true
from monkeyray.images.prefixes import find_rule
from monkeyray.labels.schema import NOTE
from monkeyray.redact import masked
from monkeyray.storage.keys import OTHER_FORM, index_in_either_form
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

_URI = r"^[A-Za-z][A-Za-z0-9+.\-]+://"
#: A URI, a POSIX path, or a Windows drive or share with slashes.
_WHOLE = rf"{_URI}|^(/|[A-Za-z]:/)"
_SAMPLE = 64
_NAMED = 5


def slashed(names: pa.ChunkedArray, notes: Counter[str]) -> pa.ChunkedArray:
    """Names of images with slashes; `notes` counts BACKSLASHES."""
    windows = pc.and_not(pc.match_substring(names, "\\"), pc.match_substring_regex(names, _URI))
    notes[BACKSLASHES] += count_true(windows)
    if pc.any(windows).as_py():
        names = pc.if_else(windows, pc.replace_substring(names, "\\", "/"), names)
    dotted = pc.any(pc.starts_with(names, "./")).as_py()
    return pc.replace_substring_regex(names, r"^(\./)+", "") if dotted else names


def find_images(
    names: pa.Array,
    place: Location,
    folder: Location,
    root: Location | None,
    storage: Storage,
    notes: Counter[str],
    known: pa.Array | None = None,
) -> pa.Table:
    """The URI, size and version of each named image, as in PLAN_SCHEMA; null where it is not there.

    Names (string, with slashes) are below `root`, or else `folder`, if any is found there as it is.
    Otherwise one rule, which replaces the same first folders of every name, is derived from some
    of them. Without a `root`, URIs are taken as they are, and not looked for. `known`: URIs of
    images that are there; by default those in the folder. `notes` counts what is not there.
    Raises InputError if none is there, or if two rules find equally many.
    """
    given = root or folder
    full = pc.match_substring_regex(names, _URI)
    if root is None and known is None:
        check_remote(str(place), names.filter(full), storage)
        full = pc.or_(full, _exist(names))
    else:
        full = pc.and_(full, False)
    others = names.filter(pc.invert(full))
    found = PLAN_SCHEMA.empty_table()
    if len(others):
        there = _listed(given, storage, known)
        found = _find(others, place, given, there, storage, notes)
    number = pc.subtract(pc.cumulative_sum(pc.invert(full).cast(pa.int64())), 1)
    table = found.take(pc.if_else(full, None, number))
    return table.set_column(0, "uri", pc.if_else(full, names, table["uri"]))


def _exist(names: pa.Array) -> pa.Array:
    """Which names are whole paths of files of this machine, bool (n,)."""
    if not pc.any(pc.starts_with(names, "/")).as_py():
        return pa.repeat(pa.scalar(False), len(names))
    found = [name.startswith("/") and Path(name).exists() for name in names.to_pylist()]
    return pa.array(found, pa.bool_())


def _listed(given: Location, storage: Storage, known: pa.Array | None) -> pa.Table | None:
    """What is there; None on a web server, which cannot be listed."""
    if known is not None:
        nulls = [pa.nulls(len(known), kind) for kind in PLAN_SCHEMA.types[1:]]
        return pa.table([known, *nulls], schema=PLAN_SCHEMA)
    if given.scheme in ("http", "https"):
        return None
    return pa.concat_tables([PLAN_SCHEMA.empty_table(), *list_images(given, storage, Counter())])


def _find(
    names: pa.Array, place: Location, given: Location, there: pa.Table | None, storage: Storage,
    notes: Counter[str],
) -> pa.Table:  # fmt: skip
    whole = pc.match_substring_regex(names, _WHOLE)
    below = pc.binary_join_element_wise(pa.scalar(given.prefix), names, "")
    direct = pc.if_else(whole, names, below)
    if there is None:
        nulls = [pa.nulls(len(names), kind) for kind in PLAN_SCHEMA.types[1:]]
        return pa.table([direct, *nulls], schema=PLAN_SCHEMA)
    uris = there["uri"].combine_chunks()
    where, in_other_form = index_in_either_form(pa.chunked_array([direct]), uris)
    if where.null_count == len(names):
        sample = names.take(pa.array(range(0, len(names), max(1, len(names) // _SAMPLE))))
        remedy = "give --images-root the folder that the names are relative to"
        rule = find_rule(uris.to_pylist(), sample.to_pylist(), "images", remedy)
        if rule is None:
            raise InputError(_nothing_there(place, given, names, there.num_rows, storage))
        below = pc.starts_with(names, rule.here)
        rest = pc.utf8_slice_codeunits(names, len(rule.here))
        direct = pc.if_else(below, pc.binary_join_element_wise(rule.there, rest, ""), None)
        where, in_other_form = index_in_either_form(pa.chunked_array([direct]), uris)
        notes[
            f"{NOTE}images found in {rule.there}"
            + (f", which stands for {masked(rule.here)}" if rule.here else "")
        ] += len(names) - where.null_count
    notes[OTHER_FORM] += in_other_form
    if where.null_count:
        missing = names.filter(pc.is_null(where))
        some = ", ".join(map(masked, missing[:_NAMED].to_pylist()))
        notes[f"{NOTE}images that are not in {given}, left out ({some})"] += len(missing)
    return there.take(where)


def _nothing_there(
    place: Location, given: Location, names: pa.Array, listed: int, storage: Storage
) -> str:
    first = names[0].as_py()
    message = (
        f"none of the {counted(len(names), 'image')} that {place} names is in {given}, which has "
        f"{counted(listed, 'image')}; the names are such as {masked(first)}: "
    )
    tail = first.split("/")
    for start in range(len(tail)):
        for above in _above(given):
            path = "/".join(tail[start:])
            if path and storage.exists(above / path):
                return f"{message}give --images-root {above}"
    whole = re.match(_WHOLE, first) is not None
    folder = "the image" if len(tail) == 1 else tail[-2 if whole else 0]
    return f"{message}give --images-root the folder that has {folder} in it"


def _above(place: Location) -> Sequence[Location]:
    """The three folders above."""
    return [place.parent, place.parent.parent, place.parent.parent.parent]
