"""Keys for comparison: bulk hashes of strings, hashes of JSON and bytes, Unicode forms of names."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from monkeyray.arrays import Flags, Hashes, Ints
from monkeyray.storage.location import Location

_SLICE = 8192

#: The note on paths that are joined although their code points differ.
OTHER_FORM = "images found under a path in another Unicode form"


def nfc(text: str) -> str:
    """A text in Unicode's form NFC, in which é is one code point; Macs write two.

    >>> nfc("E\u0301land") == "\u00c9land"
    True
    """
    return unicodedata.normalize("NFC", text)


def nfc_column(texts: Any) -> Any:
    """A column of texts (string) in NFC."""
    return pc.utf8_normalize(texts, form="NFC")


def utf8_name(name: str) -> str:
    """A name of a file whose bytes are not UTF-8 (surrogates, as from os.fsdecode and in JSON) with
    these bytes percent-encoded.

    >>> utf8_name("caf\\udce9 1.jpg")
    'caf%E9 1.jpg'
    """
    return re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def utf8_names(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of URIs with those of local files that are not UTF-8 as by `utf8_name`."""
    if not pc.any(pc.starts_with(uris, "file://")).as_py():
        return uris
    names = (
        utf8_name(Location.of(uri).path) if uri.startswith("file://") else uri
        for uri in uris.to_pylist()
    )
    return pa.chunked_array([pa.array(names, pa.string())])


def index_in_either_form(names: pa.ChunkedArray, among: pa.Array) -> tuple[pa.Array, int]:
    """The first row of each name in `among`, null if it is not there (int32), and how many were
    found in NFC alone."""
    exact = pc.index_in(names, value_set=among).combine_chunks()
    found = pc.coalesce(
        exact, pc.index_in(nfc_column(names), value_set=nfc_column(among)).combine_chunks()
    )
    return found, exact.null_count - found.null_count


def comparable_versions(versions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Versions of images, to tell which have changed: of members of archives only their places, so
    that they stay when others are added to the archive."""
    return pc.replace_substring_regex(versions, r"(?s)^.*(@\d+-\d+[tz])$", r"\1")


def string_keys(strings: pa.ChunkedArray) -> Hashes:
    """A hash of 128 bits of each string, uint64 of shape (n, 2).

    Multilinear hashing (Carter and Wegman 1979) with fixed random multipliers modulo 2^64, twice,
    over the bytes of each string, without making Python objects.
    """
    found = [np.empty((0, 2), np.uint64)]
    for chunk in strings.chunks:
        for start in range(0, len(chunk), _SLICE):
            found.append(_keys(chunk.slice(start, _SLICE).cast(pa.large_string())))
    return np.concatenate(found)


def _keys(strings: pa.LargeStringArray) -> Hashes:
    _, offsets_buffer, data = strings.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)
    offsets = offsets[strings.offset : strings.offset + len(strings) + 1]
    values = np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    random = _multipliers(1 << int(lengths.max(initial=1)).bit_length())
    keys = np.zeros((len(strings), 2), np.uint64)
    filled = lengths > 0  # reduceat has no empty slices
    for column in range(2):
        products = (values + np.uint64(1)) * random[column][place]
        if filled.any():
            keys[filled, column] = np.add.reduceat(products, starts[filled])
    return keys


@functools.lru_cache(maxsize=2)
def _multipliers(length: int) -> tuple[Hashes, Hashes]:
    draw = [np.random.default_rng(seed).integers(0, 2**64, length, np.uint64) for seed in (1, 2)]
    return draw[0] | np.uint64(1), draw[1] | np.uint64(1)


def first_of_each(keys: Hashes) -> Flags:
    """Whether each row is the first with its key, bool of shape (n,)."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable, so the first of equals is first
    sorted_keys = keys[order]
    repeated = (sorted_keys[1:] == sorted_keys[:-1]).all(axis=1)
    first = np.ones(len(keys), bool)
    first[order[1:][repeated]] = False
    return first


def number_keys(keys: Hashes) -> Ints:
    """Numbers from 0, equal for rows with equal keys: int64 (n,)."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    new = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    numbers = np.zeros(len(keys), np.int64)
    numbers[order[1:]] = np.cumsum(new)
    return numbers


def find(keys: Hashes, among: Hashes) -> Ints:
    """The row of each key in `among`, whose keys are distinct; -1 if it is not there."""
    order = np.lexsort((among[:, 1], among[:, 0]))
    if not len(order):
        return np.full(len(keys), -1, np.int64)
    firsts = among[order, 0]
    # Among ten million keys, two share their first half with a chance of 10^-5: look at both.
    at = np.searchsorted(firsts, keys[:, 0])
    rows = np.full(len(keys), -1, np.int64)
    for step in range(2):
        candidate = order[np.minimum(at + step, len(order) - 1)]
        same = (among[candidate] == keys).all(axis=1)
        rows = np.where(same & (rows < 0), candidate, rows)
    return rows


def fingerprint(value: Any) -> str:
    """SHA-256 of any JSON value, 64 hexadecimal digits."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def json_bytes(value: Any) -> bytes:
    """Any JSON value as indented text, with sorted keys, in UTF-8."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def sha256(data: bytes) -> str:
    """The content hash of a file, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
