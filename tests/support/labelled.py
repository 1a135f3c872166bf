"""Files of labels, read as train reads --images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from monkeyray.labels.listing import list_labelled
from monkeyray.labels.options import LabelOptions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: LILA's images are public.
_STORAGE = Storage(anonymous=(Location.parse("gs://public-datasets-lila"),))


def read_counted(
    place: Path | str, known: pa.Array | None = None, *, crops: bool = False, **options: Any
) -> tuple[pa.Table, dict[str, int]]:
    """The labelled images of a place, and what became of the other labels, without the start of
    the keys. `known`: URIs that labels may be of, in place of the files that are there."""
    notes: Counter[str] = Counter()
    table = list_labelled(
        str(place),
        _STORAGE,
        notes,
        LabelOptions(**options),
        known and (lambda: known),
        crops=crops,
    )
    return table, {note.removeprefix("labels: "): count for note, count in notes.items() if count}


def read(place: Path | str, **options: Any) -> pa.Table:
    """The labelled images of a place."""
    return read_counted(place, **options)[0]


def labels_of(table: pa.Table, root: Path | str = "") -> dict[str, str]:
    """The label of each image, by its path below a folder."""
    paths = [uri.removeprefix(f"{root}/" if root else "") for uri in table["uri"].to_pylist()]
    return dict(zip(paths, table["label"].to_pylist(), strict=True))
