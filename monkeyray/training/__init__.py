"""From labelled images to a bundle."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Dataset", "TrainConfig", "Trained", "TuneConfig", "list_dataset"]

if TYPE_CHECKING:
    from monkeyray.training.dataset import Dataset
    from monkeyray.training.listing import list_dataset
    from monkeyray.training.options import TrainConfig, TuneConfig
    from monkeyray.training.summary import Trained
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "dataset": "Dataset",
            "listing": "list_dataset",
            "options": "TrainConfig TuneConfig",
            "summary": "Trained",
        },
    )
