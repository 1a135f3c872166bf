"""Plans: each URI once, cut into shards, found again, without an object for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.runs.plan import Plan, collect, shard_sizes
from monkeyray.storage.keys import find, first_of_each, string_keys
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

STORAGE = Storage()
NAMES = st.lists(st.text(max_size=40), max_size=60)


def column(names: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(names, pa.string())])


def tables(names: list[str], rows: int = 7) -> Iterator[pa.Table]:
    for start in range(0, len(names), rows):
        some = names[start : start + rows]
        table = pa.table({"uri": pa.array(some, pa.string()), "n": range(start, start + len(some))})
        yield pa.concat_tables([table[:0], table])  # a chunk may be empty


@given(NAMES)
def test_keys_are_equal_where_strings_are(names: list[str]) -> None:
    keys = string_keys(column(names))
    assert keys.shape == (len(names), 2)
    seen: dict[str, tuple[int, ...]] = {}
    for name, key in zip(names, keys.tolist(), strict=True):
        assert seen.setdefault(name, tuple(key)) == tuple(key)
    assert len(set(seen.values())) == len(seen)


def test_keys_do_not_depend_on_the_neighbours() -> None:
    names = ["", "a", "s3://bucket/" + "x" * 1000, "ü日", "a\0", "\0a"]
    together = string_keys(column(names))
    sliced = column(["zzz", *names])[1:]
    np.testing.assert_array_equal(together, string_keys(sliced))
    for name, key in zip(names, together, strict=True):
        np.testing.assert_array_equal(string_keys(column([name]))[0], key)


def test_a_million_names_that_differ_little_have_a_million_keys() -> None:
    numbers = pa.array(np.arange(1_000_000)).cast(pa.string())
    keys = string_keys(pa.chunked_array([numbers]))
    assert first_of_each(keys).all()
    for half in range(2):
        assert len(np.unique(keys[:, half])) == 1_000_000


@given(NAMES, NAMES)
def test_find_tells_where_each_is(wanted: list[str], among: list[str]) -> None:
    among = list(dict.fromkeys(among))
    rows = find(string_keys(column(wanted)), string_keys(column(among)))
    assert rows.tolist() == [among.index(name) if name in among else -1 for name in wanted]


@given(NAMES, st.one_of(st.none(), st.integers(1, 30)))
def test_a_listing_has_each_name_once_in_order(names: list[str], limit: int | None) -> None:
    listing = collect(tables(names), limit)
    distinct = list(dict.fromkeys(names))[:limit]
    if not names:
        assert listing is None
        return
    assert listing is not None
    assert listing.rows == len(distinct)
    if limit is None:
        assert listing.repeated == len(names) - len(distinct)
    assert pa.concat_tables(listing.tables())["uri"].to_pylist() == distinct
    # The first of equal ones is kept, with what stands beside it.
    first = pa.concat_tables(listing.tables())["n"].to_pylist()
    assert first == [names.index(name) for name in distinct]
    even = np.arange(listing.rows) % 2 == 0
    assert pa.concat_tables(listing.only(even).tables())["uri"].to_pylist() == distinct[::2]
    assert listing.take(np.flatnonzero(even))["uri"].to_pylist() == distinct[::2]
    sizes = shard_sizes(listing.rows, 2, 5, smallest=2)
    shards = list(listing.shards(sizes))
    assert [shard.num_rows for shard in shards] == sizes
    assert pa.concat_tables(shards)["uri"].to_pylist() == distinct


@given(st.integers(0, 10**6), st.integers(1, 64), st.integers(64, 10_000))
def test_parts_cover_the_plan(rows: int, workers: int, most: int) -> None:
    sizes = shard_sizes(rows, workers, most)
    assert sum(sizes) == rows
    assert all(0 < size <= most for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("shards", [1, 15, 16, 17, 40])
def test_a_plan_is_read_back(tmp_path: Path, shards: int) -> None:
    names = [f"/x/{i}.jpg" for i in range(3 * shards)]
    listing = collect(tables(names))
    assert listing is not None
    plan = Plan(Location.of(str(tmp_path)), STORAGE, (3,) * shards)
    plan.write_all(listing.shards(plan.sizes))
    assert plan.read(shards - 1)["uri"].to_pylist() == names[-3:]
    read = list(plan.read_all())
    assert [number for number, _ in read] == list(range(shards))
    assert pa.concat_tables(table for _, table in read)["uri"].to_pylist() == names
    assert not list(tmp_path.rglob("*.parquet"))
