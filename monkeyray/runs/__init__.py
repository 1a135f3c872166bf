"""A run: its plan, its shards, and the workers that make them."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Job", "Predictions", "Run", "create_run", "open_pool", "open_predictions"]

if TYPE_CHECKING:
    from monkeyray.runs.place import create_run
    from monkeyray.runs.reader import Predictions, open_predictions
    from monkeyray.runs.run import Run
    from monkeyray.runs.workers.pools import open_pool
    from monkeyray.runs.workers.worker import Job
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "workers.worker": "Job",
            "reader": "Predictions open_predictions",
            "run": "Run",
            "place": "create_run",
            "workers.pools": "open_pool",
        },
    )
