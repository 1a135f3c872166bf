"""The run of a scoring: a new one, or an earlier one that is resumed or updated."""

from __future__ import annotations

from typing import Any

from monkeyray.console import Say
from monkeyray.errors import InputError
from monkeyray.options import flag
from monkeyray.runs.lease import Lease
from monkeyray.runs.place import clear, create_run
from monkeyray.runs.plan import Listing, shard_sizes
from monkeyray.runs.run import Run
from monkeyray.runs.update import Changes, Listed, new_rows, update_run
from monkeyray.scoring.options import ScoreConfig
from monkeyray.storage.location import Location


def open_or_create(
    config: ScoreConfig,
    lease: Lease,
    place: Location,
    identity: dict[str, Any],
    run: Run | None,
    listed: tuple[Listing, dict[str, Any]] | None,
    workers: int,
    say: Say,
) -> Run:
    """The run to resume, updated if asked for, or a new one. `say` is called if there is nothing to
    update."""
    if run is None:
        assert listed is not None
        listing, notes = listed
        if config.overwrite:
            clear(place, lease)
        sizes = shard_sizes(listing.rows, workers, config.rows_per_file)
        return create_run(place, lease, identity, listing, sizes, notes)
    if not config.update and not config.retry_failed:
        return run
    new, sizes, now = None, [], None
    seen: dict[str, Any] = dict(run.notes)
    if listed is not None:
        listing, seen = listed
        now = Listed.of(listing)
        new = listing.only(new_rows(run, listing))
        if new.rows and not new.schema.equals(run.plan.schema()):
            raise InputError(
                f"the columns of {config.images} have changed since {place} was started: use "
                "another place or --overwrite"
            )
        sizes = shard_sizes(new.rows, workers, config.rows_per_file)
        seen["images that are new"] = new.rows
    changes = Changes(now, config.retry_failed)

    def notes_of_changes() -> dict[str, Any]:
        return seen | {
            "images that have changed": changes.changed,
            "images that are gone, their rows are kept": changes.vanished,
            "images that failed and are tried again": changes.retried,
        }

    after = update_run(run, lease, changes, new, sizes, notes_of_changes)
    if after.run_id == run.run_id:
        options = [
            f"--{flag(name)}" for name in ("update", "retry_failed") if getattr(config, name)
        ]
        say(f"{' and '.join(options)} found no image to score; existing rows are kept as they are")
    return after
