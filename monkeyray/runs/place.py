"""The folder or prefix of a run: read, create, resume or clear it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from monkeyray.errors import MissingError, RunError
from monkeyray.runs.lease import NAME as LEASE
from monkeyray.runs.lease import Lease
from monkeyray.runs.plan import Listing
from monkeyray.runs.run import FILE_NAME, Redo, Run, new_id, plan_of
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: Names of files that we write into a place, beside the lease.
_OURS = re.compile(
    r"_SUCCESS|_run\.json|_config\.toml|_plan/.*|\.trial-.*|\..*\.tmp|" + FILE_NAME.pattern,
    re.DOTALL,
)
_ID = re.compile(r"[0-9a-f]{8}")
_THREADS = 16


def read_run(place: Location, storage: Storage, remedy: str) -> Run | None:
    """The run in a place as its _run.json describes it; None if there is none.

    Raises RunError, with the `remedy`, if _run.json is damaged or of another version.
    """
    try:
        blob = storage.read(place / "_run.json")
    except MissingError:
        return None
    try:
        stored = json.loads(blob.data)
        ids = tuple(stored["ids"])
        if not ids or not all(_ID.fullmatch(run_id) for run_id in ids):
            raise ValueError("an id that leads elsewhere")
        sizes = [int(size) for size in stored["sizes"]]
        redo: Redo = {
            int(shard): rows if rows is None else [int(row) for row in rows]
            for shard, rows in stored["redo"].items()
        }
        if min(sizes, default=0) < 0 or not all(
            0 <= shard < len(sizes) and all(0 <= row < sizes[shard] for row in rows or ())
            for shard, rows in redo.items()
        ):
            raise ValueError("rows that no shard has")
        plan = plan_of(place, storage, ids[-1], sizes)
        identity, notes = dict(stored["identity"]), dict(stored["notes"])
        return Run(place, storage, ids, identity, plan, notes, redo, blob.version)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise RunError(
            f"{place}/_run.json is damaged or of another version of MonkeyRay: {remedy}"
        ) from error


def open_run(place: Location, storage: Storage, identity: dict[str, Any]) -> Run | None:
    """The run in a place, to resume; None if the place is empty.

    Raises RunError if the place holds a run of another identity, naming what differs, or files that
    belong to no run.
    """
    run = read_run(place, storage, "choose another place, or start over with --overwrite")
    if run is None:
        _check_empty(place, storage)
        return None
    different = [
        f"{key} is {identity.get(key)!r}, was {run.identity.get(key)!r}"
        for key in sorted({*identity, *run.identity})
        if identity.get(key) != run.identity.get(key)
    ]
    if different:
        raise RunError(
            f"{place} holds another run: {'; '.join(different)}. Choose another place, or replace "
            "it with --overwrite"
        )
    return run


def _check_empty(place: Location, storage: Storage) -> None:
    for entry in storage.list(place):
        name = place.relative(entry.uri) or ""
        if name != LEASE and (not _OURS.fullmatch(name) or FILE_NAME.fullmatch(name)):
            raise RunError(
                f"{place} is not empty and holds no run (it has {name}): choose an empty place, or "
                "delete that file"
            )


def create_run(
    place: Location,
    lease: Lease,
    identity: dict[str, Any],
    rows: Listing | Iterable[pa.Table],
    sizes: Sequence[int],
    notes: dict[str, Any] | None = None,
    *,
    ending: str = "parquet",
) -> Run:
    """Write a new run's plan, and _run.json last, so that a plan is there whole or not at all.

    `rows`: a listing, or its shards in order; `sizes`: the rows of each shard.
    """
    if isinstance(rows, Listing):
        assert rows.rows == sum(sizes)
        rows = rows.shards(sizes)
    storage, run_id = lease.storage, new_id()
    plan = plan_of(place, storage, run_id, sizes)
    plan.write_all(rows)
    return Run(place, storage, (run_id,), identity, plan, notes or {}, ending=ending).save(lease)


def clear(place: Location, lease: Lease) -> None:
    """Delete everything of a run but its lease, beginning with _SUCCESS and _run.json, so that its
    workers stop.

    Raises RunError, and deletes nothing, if there are files of anything else.
    """
    storage = lease.storage
    names = [place.relative(entry.uri) or "" for entry in storage.list(place)]
    strange = [
        name
        for name in names
        if name != LEASE and (not _OURS.fullmatch(name) or _leads_out(place, name))
    ]
    if strange:
        raise RunError(
            f"{place} holds other files than predictions ({len(strange)}, such as {strange[0]}), "
            "which --overwrite does not delete: choose another place"
        )
    lease.check()
    for name in ("_SUCCESS", "_run.json"):
        storage.delete(place / name)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(storage.delete, (place / name for name in names if name != LEASE)))


def delete_plan(run: Run) -> None:
    """Delete the plan of a run that has a successor, or of a successor that is not needed."""
    for entry in list(run.storage.list(run.plan.folder)):
        if not _leads_out(run.place, run.place.relative(entry.uri) or ""):
            run.storage.delete(entry.uri)


def _leads_out(place: Location, name: str) -> bool:
    """Whether a file below a place is elsewhere, because a folder on the way is a link."""
    if not place.is_local or "/" not in name:
        return False
    folder = Path((place / name).path).parent.resolve()
    return not folder.is_relative_to(Path(place.path).resolve())
