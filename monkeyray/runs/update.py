"""What changed since a run: new, changed and vanished images, and failures worth another try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Flags, Hashes
from monkeyray.runs.plan import Listing, row_keys
from monkeyray.runs.run import MAY_PASS, Run
from monkeyray.storage.keys import find, string_keys

#: Of what was scored, what tells whether it has changed or failed.
COLUMNS = ["status", "size_bytes", "etag_or_mtime"]


@dataclass(frozen=True)
class Listed:
    """What was listed now. `version_keys`: size and version of each, `told`: where there is one."""

    listing: Listing
    version_keys: Hashes
    told: Flags

    @classmethod
    def of(cls, listing: Listing) -> Listed:
        """Read a listing once more for its versions."""
        keys = [np.empty((0, 2), np.uint64)]
        told = [np.empty(0, bool)]
        for table in listing.tables():
            keys.append(_version_keys(table["size_bytes"], table["version"]))
            told.append(table["version"].is_valid().to_numpy())
        return cls(listing, np.concatenate(keys), np.concatenate(told))


class Changes:
    """Decides, part by part, which rows of a run are to be made again; counts as it goes.

    `listed`: what there is now, None not to compare. `retry`: whether to try failures again that
    may have passed.
    """

    def __init__(self, listed: Listed | None, retry: bool) -> None:
        self._listed = listed
        self._retry = retry
        self.changed = 0
        self.vanished = 0
        self.retried = 0

    def __call__(self, plan: pa.Table, held: pa.Table | None) -> tuple[pa.Table, list[int]]:
        """A part's new plan, and its rows to be made again; `held`: COLUMNS of its file."""
        again = np.zeros(plan.num_rows, bool)
        if self._retry and held is not None:
            again = pc.is_in(held["status"], value_set=pa.array(MAY_PASS)).to_numpy()
            self.retried += int(again.sum())
        if self._listed is None:
            return plan, np.flatnonzero(again).tolist()
        now = find(row_keys(plan), self._listed.listing.keys)
        there = now >= 0
        if held is None:
            known = _version_keys(plan["size_bytes"], plan["version"])
        else:
            known = _version_keys(held["size_bytes"], held["etag_or_mtime"])
        changed = there & self._listed.told[now]
        changed &= (known != self._listed.version_keys[now]).any(axis=1)
        self.vanished += int((~there).sum())
        if not changed.any():
            return plan, np.flatnonzero(again & there).tolist()
        self.changed += int(changed.sum())
        # What is read then tells the new size and version.
        for name in ("size_bytes", "version"):
            column = pc.if_else(pa.array(changed), pa.scalar(None, plan[name].type), plan[name])
            plan = plan.set_column(plan.column_names.index(name), name, column)
        if held is None:
            return plan, []
        return plan, np.flatnonzero((again & there) | changed).tolist()


def new_rows(run: Run, listing: Listing) -> Flags:
    """Which listed images are not in the plan of a run."""
    keys = [row_keys(table) for _, table in run.plan.read_all()]
    return find(listing.keys, np.concatenate(keys)) < 0


def _version_keys(sizes: Any, versions: Any) -> Hashes:
    text = pc.binary_join_element_wise(
        pc.fill_null(sizes.cast(pa.string()), ""), pc.fill_null(versions, ""), " "
    )
    return string_keys(text if isinstance(text, pa.ChunkedArray) else pa.chunked_array([text]))
