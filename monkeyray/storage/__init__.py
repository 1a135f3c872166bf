"""Locations, local disks and object stores, and tables."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = ["Blob", "Entry", "Location", "Storage", "read_rows", "stream_table"]

if TYPE_CHECKING:
    from monkeyray.storage.backends.protocol import Blob, Entry
    from monkeyray.storage.location import Location
    from monkeyray.storage.store import Storage
    from monkeyray.storage.tables import read_rows, stream_table
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "backends.protocol": "Blob Entry",
            "location": "Location",
            "store": "Storage",
            "tables": "read_rows stream_table",
        },
    )
