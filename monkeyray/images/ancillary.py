"""Strips ancillary data from images, for files that are broken only there.

Pillow reads text, colour profiles and the like when it opens a file, and rejects the file if one of
them is odd or large.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

#: PNG's transparency and EXIF, EXIF in WebP and JPEG (APP1), orientation and EXIF in TIFF: used if
#: readable.
_WANTED = (b"tRNS", b"eXIf", b"EXIF", 0xE1, 274, 34665)
#: WebP's chunks with pixels.
_WEBP = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
#: TIFF's tags of the layout and colours of pixels.
_TIFF = frozenset([
    254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324,
    325, 332, 333, 338, 339, 347, 529, 530, 531, 532,
])  # fmt: skip


def without_ancillary(data: bytes) -> Iterator[bytes]:
    """A PNG, WebP, JPEG or TIFF without ancillary data, first with transparency, EXIF and
    orientation, then without; nothing if it has no ancillary data."""
    for magic, strip in _STRIP.items():
        if data.startswith(magic):
            last = data
            for wanted in (_WANTED, ()):
                stripped = strip(data, wanted)
                if stripped != last:
                    last = stripped
                    yield stripped


def _png(data: bytes, wanted: Collection[bytes | int]) -> bytes:
    kept, place = [data[:8]], 8
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        end = place + size + 12
        # The names of critical chunks begin with a capital letter.
        if name[:1].isupper() or name in wanted:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _webp(data: bytes, wanted: Collection[bytes | int]) -> bytes:
    kept, place = [data[:12]], 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        end = place + 8 + size + size % 2
        if name in _WEBP or name in wanted:
            kept.append(data[place:end])
        place = end
    stripped = b"".join(kept)
    if len(stripped) == len(data):
        return data
    return data[:4] + (len(stripped) - 8).to_bytes(4, "little") + stripped[8:]


def _jpeg(data: bytes, wanted: Collection[bytes | int]) -> bytes:
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker, size = struct.unpack_from(">xBH", data, place)
        end = place + 2 + size
        # Adobe's segment, if whole, says which colours these are.
        adobe = marker == 0xEE and size >= 14
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or adobe or marker in wanted:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def _tiff(data: bytes, wanted: Collection[bytes | int]) -> bytes:
    """The same file with fewer entries in its first directory, and no other directory."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        entries = [data[start + 2 + 12 * i :][:12] for i in range(count)]
        tags = [struct.unpack_from(order + "H", entry)[0] for entry in entries]
    except struct.error:  # beyond the end
        return data
    kept = [e for e, tag in zip(entries, tags, strict=True) if tag in _TIFF or tag in wanted]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]


_STRIP = {
    b"\x89PNG": _png, b"RIFF": _webp, b"\xff\xd8": _jpeg, b"II*\0": _tiff, b"MM\0*": _tiff,
}  # fmt: skip
