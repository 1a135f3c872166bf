"""Where and in which sequence labelled images were taken, by names that hold for a whole table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def locations_of(table: pa.Table, level: str) -> list[str | None]:
    """The location of each image, or with the level deployment its deployment; None where
    unknown. `table`: with the columns of CONTEXT."""
    # Cameras may have the same names at all locations, and sequences at all cameras.
    return _named(table, ("location",) if level == "location" else ("location", "deployment"))


def sequences_of(table: pa.Table) -> list[str | None]:
    """The sequence of each image; None where unknown. `table`: with the columns of CONTEXT."""
    return _named(table, ("location", "deployment", "sequence"))


def _named(table: pa.Table, names: Sequence[str]) -> list[str | None]:
    """The values of the last column, after those of the others that are known."""
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    return [None if row[-1] is None else "/".join(filter(None, row)) for row in rows]
