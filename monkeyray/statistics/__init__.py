"""Statistics of a classifier and its data: arrays in, arrays or plain dictionaries out."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = [
    "choose_thresholds",
    "classification_metrics",
    "fit_outliers",
    "fit_temperature",
    "fold_images",
    "group_images",
]

if TYPE_CHECKING:
    from monkeyray.statistics.calibration import fit_temperature
    from monkeyray.statistics.duplicates import group_images
    from monkeyray.statistics.metrics import classification_metrics
    from monkeyray.statistics.outliers import fit_outliers
    from monkeyray.statistics.splits import fold_images
    from monkeyray.statistics.thresholds import choose_thresholds
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "thresholds": "choose_thresholds",
            "metrics": "classification_metrics",
            "outliers": "fit_outliers",
            "calibration": "fit_temperature",
            "duplicates": "group_images",
            "splits": "fold_images",
        },
    )
