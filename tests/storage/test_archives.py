from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import monkeyray.storage.store
from monkeyray.errors import (
    ConflictError,
    ForbiddenError,
    MemberError,
    MissingError,
    ObjectError,
    StorageError,
    TooLargeError,
)
from monkeyray.storage.archives import (
    Extent,
    Index,
    Member,
    absent_version,
    dump_index,
    index_archive,
    unpack,
)
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.backends.s3 import S3Store
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

NAMES = ["n/a.jpg", "n/b c#d%.jpg", "日本.jpg", "../up.jpg", "/abs//x.jpg", "n/a.jpg", "a;2.jpg"]
FRAGMENTS = [
    "n/a.jpg", "n/b%20c%23d%25.jpg", "%E6%97%A5%E6%9C%AC.jpg", "%2E%2E%2Fup.jpg",
    "%2Fabs%2F%2Fx.jpg", "n/a.jpg;2", "a%3B2.jpg",
]  # fmt: skip


def make_tar(files: list[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def make_zip(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return sink.getvalue()


def contents(data: bytes, index: Index, max_bytes: int | None = None) -> dict[str, bytes]:
    return {
        name: unpack(data[member.extent.start : member.extent.end], member, max_bytes)
        for name, member in index.items()
    }


MAKERS: dict[str, Callable[[list[tuple[str, bytes]]], bytes]] = {
    "tar": make_tar,
    "stored": make_zip,
    "deflated": lambda files: make_zip(files, zipfile.ZIP_DEFLATED),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", MAKERS)
def test_each_member_has_its_own_uri_and_bytes(kind: str, tmp_path: Path) -> None:
    files = [(name, f"{number} {name}".encode()) for number, name in enumerate(NAMES)]
    data = MAKERS[kind](files)
    index = index_archive(io.BytesIO(data), kind != "tar", "v1")
    assert index.broken is None
    assert contents(data, index) == {f: d for f, (_, d) in zip(FRAGMENTS, files, strict=True)}

    # By the facade, with the name written in any way.
    path = tmp_path / f"season.{'tar' if kind == 'tar' else 'zip'}"
    path.write_bytes(data)
    storage = Storage()
    for fragment, (_, expected) in zip(FRAGMENTS, files, strict=True):
        blob = storage.read(f"{path}#{fragment}")
        assert blob.data == expected
        entry = storage.stat(f"{path}#{fragment}")
        assert (entry.size_bytes, entry.version) == (len(expected), blob.version)
    assert storage.read(f"{path}#n%2Fa%2Ejpg").data == files[0][1]
    assert storage.exists(f"{path}#日本.jpg")
    assert not storage.exists(f"{path}#n/nothing.jpg")
    with pytest.raises(MissingError, match="does not exist"):
        storage.read(f"{path}#n/a.jpg;3")
    # A file of that very name comes first.
    (tmp_path / f"{path.name}#a%3B2.jpg").write_bytes(b"a plain file")
    assert storage.read(f"{path}#a%3B2.jpg").data == b"a plain file"


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(TEXTS, max_size=6))
def test_any_name_is_found_under_its_uri(names: list[str]) -> None:
    data = make_tar([(name, b"data") for name in names])
    index = index_archive(io.BytesIO(data), False, "")
    assert len(index.names) == len(names)
    for fragment, member in index.items():
        place = Location.of(f"s3://bucket/a.tar#{fragment}")
        assert place.split_member() == (Location.of("s3://bucket/a.tar"), fragment)
        assert index.find(fragment) == member
        # Nothing takes it for another path.
        assert Location.parse(f"/x/a.tar#{fragment}").path == f"/x/a.tar#{fragment}"


def test_links_folders_and_sparse_files_are_left_out() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"a-{kind!r}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for how in (
            {"GNU.sparse.map": "0,0", "GNU.sparse.size": "100000"},
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100000"},
        ):
            # With its holes it is larger than the archive. The second one lacks its map.
            sparse = tarfile.TarInfo("sparse.bin")
            sparse.pax_headers = how
            archive.addfile(sparse)
        archive.addfile(tarfile.TarInfo("last.jpg"))
    index = index_archive(io.BytesIO(sink.getvalue()), False, "")
    assert (index.names, index.links, index.broken) == (["last.jpg"], 5, None)

    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as packed:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
        packed.mkdir("folder")
    index = index_archive(io.BytesIO(sink.getvalue()), True, "")
    assert (len(index.names), index.links, index.broken) == (0, 1, None)


@pytest.mark.parametrize("kind", MAKERS)
def test_whole_members_of_a_truncated_archive_are_found(kind: str) -> None:
    files = [(f"{number}.jpg", bytes(range(256)) * number) for number in range(8)]
    data = MAKERS[kind](files)
    whole = contents(data, index_archive(io.BytesIO(data), kind != "tar", ""))
    assert whole == dict(files)
    counts = set()
    for size in range(0, len(data), 97):
        cut = data[:size]
        index = index_archive(io.BytesIO(cut), kind != "tar", "")
        found = contents(cut, index)
        assert found == {name: whole[name] for name in found}
        assert list(found) == [name for name, _ in files[: len(found)]]
        # A tar archive may lack its end mark, or a part of it.
        assert index.broken or kind == "tar"
        if found and kind != "tar":
            end = index.ends[-1]
            assert (index.broken or "").endswith(f"no whole member after byte {end}")
        counts.add(len(found))
    assert counts == set(range(9))


@given(st.binary(max_size=3000), st.booleans(), st.booleans())
def test_any_bytes_give_members_or_a_reason(data: bytes, is_zip: bool, headed: bool) -> None:
    if headed:
        data = (make_zip if is_zip else make_tar)([("a.jpg", b"x" * 40)])[:-100] + data
    index = index_archive(io.BytesIO(data), is_zip, "")
    for _, member in index.items():
        try:
            unpack(data[member.extent.start : member.extent.end], member, 100)
        except (MemberError, TooLargeError):
            continue


def test_inflating_stops_at_the_limit_whatever_the_headers_claim() -> None:
    data = bytearray(make_zip([("bomb.jpg", bytes(50_000_000))], zipfile.ZIP_DEFLATED))
    index = index_archive(io.BytesIO(data), True, "")
    ((_, member),) = index.items()
    packed = bytes(data[member.extent.start : member.extent.end])
    with pytest.raises(TooLargeError, match="50000000 bytes, the limit is 1000"):
        unpack(packed, member, 1000)
    with pytest.raises(TooLargeError, match="more than the limit, 1000 bytes"):
        unpack(packed, Member(10, member.extent), 1000)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_too_large_for_a_name_is_not_read_into_memory(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 2**33
    with path.open("wb") as file:
        file.write(make_tar([("a.jpg", b"data")])[:1024] + info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 2048)
    index = Storage().index(str(path))
    assert index.names == ["a.jpg"]
    assert "a header of 8589934592 bytes at byte 1024" in (index.broken or "")


def test_a_lying_extent_reads_no_more_than_a_member_can_have() -> None:
    assert Extent("", 10, 10**15, "z").clamped_end(1000) < 10**6


def test_members_without_a_place_or_a_name_in_a_zip() -> None:
    data = bytearray(make_zip([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")]))
    directory = data.index(b"PK\1\2")
    second = data.index(b"b.jpg", directory) - 46
    # The first entry has a place beyond the end; the second has a comment instead of a name.
    data[directory + 42 : directory + 46] = (2**32 - 2).to_bytes(4, "little")
    data[second + 28 : second + 34] = struct.pack("<3H", 0, 0, 5)
    index = index_archive(io.BytesIO(data), True, "")
    assert index.names == ["", "c.jpg", "a.jpg"]
    assert [*index.starts] == [36, 72, directory]
    assert [*index.ends] == [72, directory, directory]


@pytest.mark.parametrize(
    ("flags", "method", "reason"),
    [(1, 0, "encrypted"), (0, 12, "compressed with bzip2"), (0, 77, "compressed with method 77")],
)
def test_other_members_say_what_to_do(flags: int, method: int, reason: str) -> None:
    data = bytearray(make_zip([("a.jpg", b"data")]))
    data[6:8], data[8:10] = flags.to_bytes(2, "little"), method.to_bytes(2, "little")
    with pytest.raises(MemberError, match=reason) as error:
        unpack(bytes(data), Member(4, Extent("", 0, len(data), "z")), None)
    assert error.value.kind == "unsupported"


def test_a_changed_archive_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar([("a.jpg", b"one")]))
    storage = Storage()
    where = Extent.parse(storage.stat(f"{path}#a.jpg").version)
    assert where is not None
    assert storage.read_range(path.as_posix(), where.start, where.end, where.version) == b"one"
    path.write_bytes(make_tar([("b.jpg", b"two"), ("a.jpg", b"three")]))
    with pytest.raises(ConflictError, match="was changed by another program"):
        storage.read_range(path.as_posix(), where.start, where.end, where.version)


@pytest.mark.parametrize("kind", MAKERS)
def test_members_of_an_archive_that_changes_are_found_where_they_are_now(
    kind: str, tmp_path: Path
) -> None:
    path, storage = tmp_path / f"a.{'tar' if kind == 'tar' else 'zip'}", Storage()
    versions = [("a.jpg", b"1")], [("b.jpg", b"22"), ("a.jpg", b"333")], [("c.jpg", b"4")]
    for second, files in enumerate(versions):
        path.write_bytes(MAKERS[kind](files))
        os.utime(path, (second, second))
        for name, data in files:
            assert storage.read(f"{path}#{name}").data == data
    for name in ("a.jpg", "a.jpg;²", "c.jpg;2"):
        with pytest.raises(MissingError, match=name):
            storage.read(f"{path}#{name}")


def test_a_member_that_was_absent_is_looked_for_once_its_archive_has_changed(
    tmp_path: Path,
) -> None:
    path, storage = tmp_path / "a.tar", Storage()
    path.write_bytes(make_tar([("a.jpg", b"1")]))
    os.utime(path, (1, 1))
    absent = absent_version(storage.stat(str(path)).version or "")
    path.write_bytes(make_tar([("a.jpg", b"1"), ("b.jpg", b"2")]))
    os.utime(path, (2, 2))
    assert storage.read(f"{path}#b.jpg", None, absent).data == b"2"


@pytest.mark.parametrize("in_pax", [False, True])
def test_a_negative_size_ends_an_archive(in_pax: bool) -> None:
    # It would lead back to the same header.
    info = tarfile.TarInfo("bad.jpg")
    if in_pax:
        info.pax_headers = {"size": "-1536"}
        bad = info.tobuf(tarfile.PAX_FORMAT)
    else:
        info.size = -512
        bad = info.tobuf(tarfile.GNU_FORMAT)
    data = make_tar([("a.jpg", b"data")])[:1024] + bad + bytes(1024)
    index = index_archive(io.BytesIO(data), False, "")
    assert index.names == ["a.jpg"]
    assert "a size of -" in (index.broken or "")


def test_an_archive_that_never_ends_is_not_read_for_ever(tmp_path: Path) -> None:
    # A sparse file claims a terabyte; only its headers are read.
    path = tmp_path / "sparse.tar"
    info = tarfile.TarInfo("big.jpg")
    info.size = 2**40
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**40 + 2048)
    index = Storage().index(str(path))
    assert [*index.sizes] == [2**40]
    with pytest.raises(TooLargeError):
        Storage().read(f"{path}#big.jpg", 1000)


def test_an_index_beside_a_tar_is_used_if_it_is_of_this_very_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monkeyray.storage.store, "RANGE_BYTES", 5000)
    path, beside = tmp_path / "a.tar", tmp_path / "a.tar.index.jsonl"
    files = [(name, bytes(1000 + number)) for number, name in enumerate(NAMES)]
    path.write_bytes(make_tar(files))
    entry = Storage().stat(str(path))
    scanned = Storage().read_index(entry)
    assert not beside.exists()
    assert Storage(index_archives=True).read_index(entry) == scanned
    written = beside.read_bytes()

    unread = Index("", "t", broken="the archive was read")

    def scan(*_: object) -> Index:
        return replace(unread)

    monkeypatch.setattr(monkeyray.storage.store, "index_archive", scan)
    assert Storage().read_index(entry) == scanned
    lines = written.splitlines(keepends=True)
    damaged = [written[:-20], lines[0], written.replace(b"n/a", b"n/b"), b"", b"[]\n", b"\xff\n"]
    for data in damaged:
        beside.write_bytes(data)
        assert Storage().read_index(entry) == replace(unread, stale=True)
    beside.write_bytes(written)
    assert Storage().read_index(replace(entry, version="other")).stale
    assert Storage().read_index(replace(entry, size_bytes=len(path.read_bytes()) + 1)).stale
    # Those that lie about the archive, with a right hash.
    for name, end, links in (("a.jpg", 10**9, 0), (1, 513, 0), ("a.jpg", 513, float("inf"))):
        index = Index(entry.version or "", "t", links=links)  # type: ignore[arg-type]
        index.add(name, end - 512, 512, end)  # type: ignore[arg-type]
        beside.write_bytes(dump_index(index, entry.size_bytes or 0))
        assert Storage().read_index(entry).stale
    # The index is forbidden, not the archive.
    monkeypatch.setattr(Storage, "write", Mock(side_effect=ForbiddenError("AccessDenied")))
    with pytest.raises(StorageError, match="AccessDenied; leave out --index-archives") as error:
        Storage(index_archives=True).read_index(entry)
    assert not isinstance(error.value, ObjectError)


def test_a_tar_in_a_store_is_read_once_in_large_ranges(
    s3: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monkeyray.storage.store, "RANGE_BYTES", 30_000)
    files = [(f"{number}.jpg", bytes([number]) * 1500) for number in range(100)]
    data = make_tar(files)
    version = s3.write("s3://photos/ranges/a.tar", data)
    asked: list[tuple[int, int]] = []
    get_range = S3Store.get_range

    def noted(self: S3Store, place: Location, start: int, end: int, version: str) -> bytes:
        asked.append((start, end))
        return get_range(self, place, start, end, version)

    monkeypatch.setattr(S3Store, "get_range", noted)
    assert s3.read_range("s3://photos/ranges/a.tar", 512, 512, version or "") == b""
    assert not asked
    (entry,) = s3.list("s3://photos/ranges/a.tar")
    index = s3.read_index(entry)
    assert (contents(data, index), index.broken) == (dict(files), None)
    assert len(asked) <= -(-len(data) // 30_000)
    assert sum(end - start for start, end in asked) <= len(data)

    # With the version of its row, a member is read by one request, and by more if that is old.
    asked.clear()
    member = index.find("7.jpg")
    assert member is not None
    row = str(member.extent)
    uri = "s3://photos/ranges/a.tar#7.jpg"
    assert s3.read(uri, version=row).data == files[7][1]
    assert len(asked) == 1
    s3.write("s3://photos/ranges/a.tar", make_tar(files[5:]))
    assert s3.read(uri, version=row).data == files[7][1]
    # An archive that has changed since it was listed is read as it is now.
    changed = s3.read_index(Entry(entry.uri, entry.size_bytes, version))
    assert changed.names[0] == "5.jpg"
