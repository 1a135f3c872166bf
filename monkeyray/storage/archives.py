"""Members of tar and zip archives: their names, where they are, and their bytes.

A member's URI is `s3://bucket/season.tar#site-1/IMG_0042.JPG`, its name percent-encoded; the second
member of one name ends in `;2`. Its version says where its bytes are, so that a worker reads them
without the archive's index: `<version of the archive>@<start>-<end><kind>`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import quote, unquote

from monkeyray.errors import MemberError, TooLargeError

#: Members that are not regular files are counted under this name.
LINKS = "links and special files in archives"

#: Indexes beside archives that are of another version, or damaged, are counted under this name.
STALE = "indexes beside archives that do not match them and were not used"

#: Where labels are listed, broken archives are counted under this name.
CUT = "archives that are cut off or damaged, of which only whole members are used"

#: The name of the index beside a tar archive is the archive's with this ending.
INDEX_ENDING = ".index.jsonl"

#: Bytes of a tar archive that are read at once for its index, and a range of members at most.
RANGE_BYTES = 24 * 2**20

_VERSION = re.compile(r"(?s)(.*)@(\d+)-(\d+)([tz])")
#: The number after the ; of a member that is not the first of its name.
_NUMBER = re.compile("[0-9]{1,18}")
#: What stands between the version of a broken archive and the reason, in the version of its row.
BROKEN = "@broken: "
_ABSENT = "@absent"

#: Types of tar headers that only describe later members, and their maximum size in bytes. Python
#: reads them into memory whole.
_NAMING = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_LONGEST_NAME = 2**20

#: Sizes and positions are cut to this, the largest int64; a zip archive can claim more.
_MOST = 2**63 - 1
_BLOCK = 512
#: Bytes of a zip archive's local header, with the names in it, and of what Deflate may add.
_SLACK = 2**18
_ZIP_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _SIZES_LATER, _UTF8 = 1, 8, 0x800
_STORED, _DEFLATED = 0, 8
_ZIP64 = 2**32 - 1
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 99: "AES"}


@dataclass(frozen=True)
class Extent:
    """Where a member is: bytes `start` to before `end` of a `version` of its archive.

    `kind`: t for the bytes themselves in a tar archive, z for a zip archive's local header and the
    data after it.
    """

    version: str
    start: int
    end: int
    kind: str

    def clamped_end(self, max_bytes: int | None) -> int:
        """The end, as far as a member of at most `max_bytes` can reach. A damaged or hostile zip
        archive may have its next member anywhere."""
        return self.end if max_bytes is None else min(self.end, self.start + max_bytes + _SLACK)

    def __str__(self) -> str:
        return f"{self.version}@{self.start}-{self.end}{self.kind}"

    @classmethod
    def parse(cls, version: str | None) -> Extent | None:
        """The place that a version names; None for the version of a plain file.

        >>> Extent.parse("etag@512-1024t")
        Extent(version='etag', start=512, end=1024, kind='t')
        """
        match = _VERSION.fullmatch(version or "")
        return match and cls(match[1], int(match[2]), int(match[3]), match[4])


@dataclass(frozen=True)
class Member:
    """A member: its size in bytes when unpacked, and its place."""

    size_bytes: int
    extent: Extent


def _integers() -> array[int]:
    return array("q")


@dataclass
class Index:
    """What an archive of a `version` holds, in its order.

    For each member, `names` has the part of its URI after #, `sizes` its size in bytes when
    unpacked, and `starts` and `ends` the bytes of its extent; all extents have the same `kind`.
    `links`: how many members are not regular files. `broken`: why there are not more members.
    `stale`: whether an index beside the archive was not used because it does not match.
    """

    version: str
    kind: str
    # Columns, not objects, because there may be millions of members.
    names: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=_integers)
    starts: array[int] = field(default_factory=_integers)
    ends: array[int] = field(default_factory=_integers)
    links: int = 0
    broken: str | None = None
    stale: bool = False

    def add(self, name: str, size_bytes: int, start: int, end: int) -> None:
        """Add a member."""
        self.names.append(name)
        for column, value in ((self.sizes, size_bytes), (self.starts, start), (self.ends, end)):
            column.append(min(value, _MOST))

    def items(self) -> Iterator[tuple[str, Member]]:
        """The members in order, each with the part of its URI after #."""
        return ((name, self._member(row)) for row, name in enumerate(self.names))

    def find(self, fragment: str) -> Member | None:
        """The member of a name that is percent-encoded in any way; None if it is absent."""
        row = self._rows.get(fragment)
        if row is None:
            name, semicolon, number = fragment.rpartition(";")
            if not semicolon or not _NUMBER.fullmatch(number):
                name, number = fragment, "1"
            name = unquote(name, errors="surrogateescape")
            row = self._rows.get(_fragment(name, int(number)))
        return None if row is None else self._member(row)

    def _member(self, row: int) -> Member:
        extent = Extent(self.version, self.starts[row], self.ends[row], self.kind)
        return Member(self.sizes[row], extent)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}


def is_archive(uri: str) -> bool:
    """Whether a file is a tar or zip archive by its name."""
    return uri.lower().endswith((".tar", ".zip"))


def broken_version(version: str | None, reason: str) -> str:
    """The version of an archive whose row says that it is broken."""
    return f"{version or ''}{BROKEN}{reason}"


def broken_reason(version: str | None) -> str | None:
    """Why an archive is broken, by the version in its row; None for everything else."""
    return (version or "").partition(BROKEN)[2] or None


def absent_version(archive_version: str) -> str:
    """The version given to a member that an archive of this version lacks."""
    return f"{archive_version}{_ABSENT}"


def is_absent(version: str | None) -> bool:
    """Whether a row's version is that of a member which its archive lacked when it was listed."""
    return (version or "").endswith(_ABSENT)


def index_archive(file: IO[bytes], is_zip: bool, version: str) -> Index:
    """The members of an archive that is open for reading at any position.

    Of an archive that ends early, or a file that is not one, the index has the members that are
    whole, and `broken` is set.
    """
    index, times = Index(version, "z" if is_zip else "t"), Counter[str]()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    found = _zip_members(file, index) if is_zip else _tar_members(file, size, index)
    for name, size_bytes, start, end in found:
        times[name] += 1
        index.add(_fragment(name, times[name]), size_bytes, start, end)
    return index


def dump_index(index: Index, size_bytes: int) -> bytes:
    """The index of a tar archive of this size as lines of JSON, to keep beside it: the archive's
    size and version, then the name, first byte and size of each member."""
    lines = "".join(
        f"{json.dumps([name, member.extent.start, member.size_bytes])}\n"
        for name, member in index.items()
    ).encode()
    about = {
        "size_bytes": size_bytes, "version": index.version, "links": index.links,
        "broken": index.broken, "sha256": hashlib.sha256(lines).hexdigest(),
    }  # fmt: skip
    return f"{json.dumps(about)}\n".encode() + lines


def load_index(data: bytes, size_bytes: int, version: str) -> Index:
    """The index that was kept beside a tar archive of this size and version.

    Raises ValueError if it is of another size or version, or damaged.
    """
    try:
        head, _, lines = data.partition(b"\n")
        about = json.loads(head)
        if (about["size_bytes"], about["version"]) != (size_bytes, version):
            raise ValueError("it is of another version of the archive")
        if about["sha256"] != hashlib.sha256(lines).hexdigest():
            raise ValueError("it is damaged")
        index = Index(version, "t", links=int(about["links"]), broken=about["broken"])
        for name, start, size in map(json.loads, lines.splitlines()):
            if not isinstance(name, str) or not 0 <= start <= start + size <= size_bytes:
                raise ValueError("it has an entry that does not fit the archive")
            index.add(name, size, start, start + size)
        return index
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("it is not an index") from error


def unpack(data: bytes, member: Member, max_bytes: int | None) -> bytes:
    """A member's own bytes, from those of its extent.

    Raises TooLargeError for more than `max_bytes`, whatever the headers say, and MemberError for
    what is encrypted, compressed by another method than Deflate, or broken.
    """
    if max_bytes is not None and member.size_bytes > max_bytes:
        raise TooLargeError(f"{member.size_bytes} bytes, the limit is {max_bytes}")
    if member.extent.kind == "t":
        if len(data) < member.size_bytes:
            raise MemberError("unreadable", "its data in the tar archive end early")
        return data
    if len(data) < _ZIP_HEADER.size or not data.startswith(b"PK\3\4"):
        raise MemberError("unreadable", "its place in the zip archive does not hold a file")
    _, _, flags, method, _, _, _, _, _, name, extra = _ZIP_HEADER.unpack_from(data)
    if flags & _ENCRYPTED:
        raise MemberError("unsupported", "encrypted in the zip archive: pack it without a password")
    packed = data[_ZIP_HEADER.size + name + extra :]
    if method == _STORED:
        whole, unpacked = len(packed) >= member.size_bytes, packed[: member.size_bytes]
    elif method == _DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            unpacked = inflater.decompress(packed, 0 if max_bytes is None else max_bytes + 1)
        except zlib.error:
            raise MemberError("unreadable", "its data in the zip archive are damaged") from None
        if max_bytes is not None and len(unpacked) > max_bytes:
            raise TooLargeError(f"more than the limit, {max_bytes} bytes")
        whole = inflater.eof
    else:
        called = _METHODS.get(method, f"method {method}")
        raise MemberError(
            "unsupported", f"compressed with {called} in the zip archive: store or deflate it"
        )
    if not whole:
        raise MemberError("unreadable", "its data in the zip archive end early")
    return unpacked


def _fragment(name: str, number: int) -> str:
    """The part of a member's URI after #; `number`: which one of this name it is.

    >>> _fragment("site 1/a#b.jpg", 1), _fragment("../a.jpg", 2)
    ('site%201/a%23b.jpg', '%2E%2E%2Fa.jpg;2')
    """
    parts = name.split("/")
    if {"", ".", ".."} & set(parts):
        # Written so that nothing takes them for those of a path.
        encoded = "%2F".join(
            "%2E" * len(part) if set(part) <= {"."} else _quote(part) for part in parts
        )
    else:
        encoded = _quote(name, "/")
    return encoded if number == 1 else f"{encoded};{number}"


def _quote(text: str, safe: str = "") -> str:
    return quote(text, safe=safe, errors="surrogateescape")


def _zip_members(file: IO[bytes], index: Index) -> Iterator[tuple[str, int, int, int]]:
    """Name, size in bytes, start and end of each regular file, by the archive's directory."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, directory = archive.infolist(), archive.start_dir
    except (
        zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError,
        MemoryError,
    ) as error:  # fmt: skip
        end = yield from _scan_zip(file)
        reason = str(error).lower() or "it is too large"
        index.broken = (
            f"its directory cannot be read ({reason}), and there is no whole member after byte "
            f"{end}"
        )
        return
    infos.sort(key=lambda info: info.header_offset)
    # No member goes beyond the directory, whatever its entry says, and stores refuse a range
    # beyond the end of a file.
    end = directory
    ends = []
    for info, following in zip(reversed(infos), [None, *reversed(infos)], strict=False):
        if following is not None and following.header_offset > info.header_offset:
            end = min(following.header_offset, directory)
        ends.append(end)
    for info, end in zip(infos, reversed(ends), strict=True):
        if info.filename.endswith("/"):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            index.links += 1
            continue
        yield info.filename, info.file_size, min(info.header_offset, end), end


def _scan_zip(file: IO[bytes]) -> Generator[tuple[str, int, int, int], None, int]:
    """The whole members at the start of a zip archive whose directory, at its end, is missing, up
    to the first that is cut off or lacks its size. Returns the byte where the last of them ends."""
    size, start = file.seek(0, io.SEEK_END), 0
    while True:
        file.seek(start)
        header = file.read(_ZIP_HEADER.size)
        if len(header) < _ZIP_HEADER.size or not header.startswith(b"PK\3\4"):
            return start
        _, _, flags, _, _, _, _, packed, unpacked, name_size, extra = _ZIP_HEADER.unpack(header)
        name = file.read(name_size).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        end = start + _ZIP_HEADER.size + name_size + extra + packed
        if flags & _SIZES_LATER or packed == _ZIP64 or end > size:
            return start
        if not name.endswith("/"):
            yield name, unpacked, start, end
        start = end


class _Header(tarfile.TarInfo):
    """A member's headers. Raises tarfile.ReadError for one with a negative size, or that would take
    more memory than a name needs."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _NAMING and self.size > _LONGEST_NAME:
            raise tarfile.ReadError(f"a header of {self.size} bytes at byte {self.offset}")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]

    def _proc_gnusparse_10(self, header: tarfile.TarInfo, *_: object) -> None:
        # A sparse file is left out. Its map may be as long as the archive, and takes 25 times the
        # memory.
        header.sparse = b""

    def _block(self, count: int) -> int:
        # Older releases of Python would go back to an earlier header, for ever.
        if count < 0:
            raise tarfile.ReadError(f"a size of {count} bytes at byte {self.offset}")
        return super()._block(count)  # type: ignore[misc,no-any-return]


def _tar_members(file: IO[bytes], size: int, index: Index) -> Iterator[tuple[str, int, int, int]]:
    """Name, size in bytes, start and end of each regular file of a tar archive of `size` bytes."""
    try:
        archive = tarfile.open(  # noqa: SIM115 - not ours
            fileobj=file, mode="r:", errorlevel=0, tarinfo=_Header
        )
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            end = info.offset_data + info.size
            # A sparse file's size counts its holes, which take no space in the archive.
            if not info.isreg() or info.issparse():
                index.links += not info.isdir()
            elif end > size:
                index.broken = f"it ends after {size} bytes, inside a member that ends at {end}"
                return
            else:
                yield info.name, info.size, info.offset_data, end
        file.seek(archive.offset)
        # Python takes an invalid header for the end.
        if any(file.read(_BLOCK)):
            index.broken = f"it is damaged at byte {archive.offset}, where no member begins"
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        index.broken = f"not a tar archive, or cut off: {error}"
