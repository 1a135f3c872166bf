"""Labelled images, from folders and tables, as one Arrow table."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["list_labelled", "read_label_names"]

if TYPE_CHECKING:
    from monkeyray.labels.listing import list_labelled
    from monkeyray.labels.names import read_label_names
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(__name__, {"listing": "list_labelled", "names": "read_label_names"})
