"""The redo of a run: new, changed and vanished images, and failures worth another try.

`update_run` gives a run its successor in the same place, as run.py describes. The steps, between
any two of which it may be killed: the new plan is written beside the old one; _SUCCESS is
withdrawn; `_run.json` is replaced, if it is still the version that was read; the old plan is
deleted. If there is nothing to do, only the new plan is deleted.
From then on workers make what is pending, and `finish` deletes the files that have a successor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Flags, Hashes
from monkeyray.runs.lease import Lease
from monkeyray.runs.place import delete_plan
from monkeyray.runs.plan import Listing, row_keys
from monkeyray.runs.run import MAY_PASS, Redo, Run, new_id, plan_of, read_parquet
from monkeyray.storage.keys import comparable_versions, find, string_keys

#: The columns of a file that tell whether an image has changed or failed.
_COLUMNS = ["status", "size_bytes", "etag_or_mtime"]


@dataclass(frozen=True)
class Listed:
    """What is listed now. `version_keys`: a hash of each image's size and version; `told`: whether
    its version is known."""

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
    """Decides, shard by shard, which rows of a run to make again, and counts them.

    `listed`: what is there now; None not to compare. `retry`: whether to try failures again that
    may have passed.
    """

    def __init__(self, listed: Listed | None, retry: bool) -> None:
        self._listed = listed
        self._retry = retry
        self.changed = 0
        self.vanished = 0
        self.retried = 0

    def __call__(self, plan: pa.Table, held: pa.Table | None) -> tuple[pa.Table, list[int]]:
        """A shard's new plan, and its rows to make again; `held`: _COLUMNS of its file."""
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
        told = there & self._listed.told[now]
        changed = told & (known != self._listed.version_keys[now]).any(axis=1)
        self.vanished += int((~there).sum())
        self.changed += int(changed.sum())
        # Those without a file too: only the version of their archive may have changed, and workers
        # would have to look for them in it.
        made = there if held is None else (again & there) | changed
        if (fresh := made & told).any():
            # In the order of the listing, which is read batch by batch.
            rows, place = np.unique(now[fresh], return_inverse=True)
            listed = self._listed.listing.take(rows).take(pa.array(place))
            for name in ("size_bytes", "version"):
                old, new = plan[name].combine_chunks(), listed[name].combine_chunks()
                column = pc.replace_with_mask(old, pa.array(fresh), new)
                plan = plan.set_column(plan.column_names.index(name), name, column)
        return plan, [] if held is None else np.flatnonzero(made).tolist()


def update_run(
    run: Run,
    lease: Lease,
    changes: Changes,
    new: Listing | None = None,
    sizes: Sequence[int] = (),
    notes: Callable[[], dict[str, Any]] | None = None,
) -> Run:
    """The successor of a run, which makes some rows again and has new shards of `sizes` for the
    `new` images. If nothing is new or to be made again, the run itself, and nothing is changed.

    `notes` is called for new notes once all shards have been checked. Raises LeaseError if another
    run has taken the place.
    """
    lease.check()
    files = run.files()
    redo: Redo = {}
    is_needed = bool(sizes)

    def shards() -> Iterator[pa.Table]:
        nonlocal is_needed
        for shard, plan in run.plan.read_all():
            if shard not in files:
                redo[shard] = None
                yield changes(plan, None)[0]
                continue
            held = read_parquet(run.storage, run.file_uri(shard, files[shard]), _COLUMNS)
            changed, rows = changes(plan, held)
            is_needed |= bool(rows)
            if shard in run.redo and files[shard] != run.run_id:
                # What an earlier redo asked for and did not get.
                before = run.redo[shard]
                redo[shard] = None if before is None else sorted({*before, *rows})
            elif rows:
                # None for all of them, as workers read _run.json often and millions make it long.
                redo[shard] = rows if len(rows) < plan.num_rows else None
            yield changed
        if new is not None:
            yield from new.shards(sizes)

    run_id = new_id()
    plan = plan_of(run.place, run.storage, run_id, (*run.plan.sizes, *sizes))
    plan.write_all(shards())
    found = notes() if notes else run.notes
    if not is_needed and not changes.changed:
        delete_plan(replace(run, plan=plan))
        return replace(run, notes=found)
    run.reopen(lease)
    # Not those without a file that counts; but a worker of this state may publish one just now.
    earlier = (each for each in run.ids if each in files.values() or each == run.run_id)
    successor = replace(run, ids=(*earlier, run_id), plan=plan, redo=redo, notes=found).save(lease)
    delete_plan(run)
    return successor


def new_rows(run: Run, listing: Listing) -> Flags:
    """Which of the listed images the plan of a run lacks, bool (n,)."""
    keys = [row_keys(table) for _, table in run.plan.read_all()]
    return find(listing.keys, np.concatenate(keys)) < 0


def _version_keys(sizes: Any, versions: Any) -> Hashes:
    listed = comparable_versions(pc.fill_null(versions, ""))
    text = pc.binary_join_element_wise(pc.fill_null(sizes.cast(pa.string()), ""), listed, " ")
    return string_keys(text if isinstance(text, pa.ChunkedArray) else pa.chunked_array([text]))
