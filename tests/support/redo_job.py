"""A scoring with --update and --retry-failed, but without a network.

python -m tests.support.redo_job IMAGES PLACE
"""

from __future__ import annotations

import sys
from collections import Counter

from monkeyray.console import Reporter
from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run, open_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.update import Changes, Listed, new_rows, update_run
from monkeyray.runs.workers.pools import MachinePool
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.shard_jobs import work


def main(images: str, place: str) -> None:
    """Make the run, or bring it up to date, or go on with either."""
    storage = Storage()
    listing = collect(list_images(images, storage, Counter()))
    assert listing is not None
    with hold(Location.of(place), storage, print) as lease:
        run = open_run(lease.place, storage, {})
        if run is None:
            sizes = shard_sizes(listing.rows, 2, 6, smallest=3)
            run = create_run(lease.place, lease, {}, listing, sizes)
        else:
            new = listing.only(new_rows(run, listing))
            sizes = shard_sizes(new.rows, 2, 6, smallest=1)
            run = update_run(run, lease, Changes(Listed.of(listing), retry=True), new, sizes)
        job, say = Job("scoring", run, work(Limits())), Reporter(quiet=True).say
        MachinePool().run(job, list(run.pending()), WorkerCount(2), say, lambda rows: None)
        run.finish(lease)


if __name__ == "__main__":
    main(*sys.argv[1:])
