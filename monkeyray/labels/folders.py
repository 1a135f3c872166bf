"""Labelled images from folders: the label is the first sub-folder."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from monkeyray.errors import InputError
from monkeyray.labels.manifest import SPLITS
from monkeyray.labels.schema import IMAGE, with_context
from monkeyray.storage.keys import nfc
from monkeyray.storage.location import Location


def label_by_folder(folder: Location, table: pa.Table, skipped: Counter[str]) -> pa.Table:
    """The images in labels' folders, with the columns `label` (string, in NFC) and those
    of schema.CONTEXT.

    Single folders around the labels' folders, as in unpacked archives, are skipped. `skipped`
    counts images beside the labels' folders. Raises InputError if there are no sub-folders, one's
    name is not UTF-8, or all are called like splits.
    """
    root = folder
    paths = [_path(folder, uri).split("/") for uri in table["uri"].to_pylist()]
    while all(len(path) >= 3 for path in paths) and len({path[0] for path in paths}) == 1:
        root /= paths[0][0]
        paths = [path[1:] for path in paths]
    labelled = [len(path) >= 2 for path in paths]
    skipped["not in a label's folder"] += labelled.count(False)
    if not any(labelled):
        raise InputError(
            f"{folder} has images but no sub-folders: the sub-folders are the labels; or give a "
            "manifest with the columns uri and label"
        )
    labels = [nfc(path[0]) for path in paths if len(path) >= 2]
    _check_names(root, sorted(set(labels)))
    table = table.filter(pa.array(labelled)).append_column("label", pa.array(labels, pa.string()))
    return with_context(table, {"level": pa.repeat(pa.scalar(IMAGE), table.num_rows)})


def _path(folder: Location, uri: str) -> str:
    """The path below a folder, or of a member below its archive."""
    place = Location.of(uri)
    split = place.split_member()
    return (split[0] if split else folder).below(uri) or place.name


def _check_names(root: Location, labels: list[str]) -> None:
    for label in labels:
        try:
            label.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the label {label!r} in {root} is not UTF-8: rename the folder, or give a "
                "manifest with the columns uri and label"
            ) from None
    found = {SPLITS.get(label.lower()): label for label in labels}
    if None not in found:
        train, test = found.get("train", "train"), found.get("test", "test")
        raise InputError(
            f"the sub-folders {', '.join(labels)} of {root} look like splits, not labels: give "
            f"--images {root / train} --test {root / test}"
        )
