"""Display names of labels."""

from __future__ import annotations

from monkeyray.console import has_control
from monkeyray.errors import InputError
from monkeyray.storage.location import Location
from monkeyray.storage.spreadsheets import unguarded
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import read_rows


def read_label_names(uri: str | Location, storage: Storage) -> dict[str, str]:
    """Label to name from a CSV or Parquet table, also Kaggle's padded monkey_labels.txt.

    The label is the column `label`, else the first; the name is `common_name`, `name`, or else the
    next column. Raises InputError if it is not such a table, or has control characters.
    """
    place = Location.parse(uri)
    rows = read_rows(place, storage, "label-names")
    columns = list(rows[0])
    if len(columns) < 2:
        raise InputError(f"--label-names {place} has one column: give two, label and name")
    label = "label" if "label" in columns else columns[0]
    others = [name for name in columns if name != label]
    name = next((name for name in ("commonname", "name") if name in others), others[0])
    names = {unguarded(row[label]): " ".join(row[name].split()) for row in rows if row[label]}
    for text in (*names, *names.values()):
        if has_control(text):
            raise InputError(
                f"--label-names {place} has {text!r} with control characters: correct it"
            )
    return names
