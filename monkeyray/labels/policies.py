"""What becomes of labels that are not one human's word on one image, the same in all formats."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array, Ints
from monkeyray.console import Say, has_control
from monkeyray.errors import InputError
from monkeyray.labels.options import LabelOptions
from monkeyray.labels.schema import MACHINE, NOTE, SEQUENCE, leave_out
from monkeyray.storage.keys import number_keys, string_keys
from monkeyray.storage.location import Location

#: What formats call images without animals, of people and of vehicles, in lower case.
KINDS = {
    "blank": ("blank", "empty", "no animal", "no animals", "nothing", "false trigger"),
    "human": ("human", "humans", "person", "people", "homo sapiens", "homo species", "homo",
              "human-camera trapper"),
    "vehicle": ("vehicle", "vehicles"),
}  # fmt: skip
#: What they call images in which nothing was identified.
_UNIDENTIFIED = ("unknown", "unidentified", "unclassified", "unlabelled", "unlabeled")


def say_labels(notes: Counter[str], say: Say) -> None:
    """Report what became of labels."""
    for note, count in notes.items():
        if note.startswith(NOTE) and count:
            say(f"{note}: {count}")


def one_label_per_image(
    table: pa.Table,
    options: LabelOptions,
    notes: Counter[str],
    place: Location,
    *,
    crops: bool = False,
) -> pa.Table:
    """The rows of schema.LABELS that teach, one an image, by the options' policies; `notes` counts
    what is left out.

    `crops`: one for each label of an image, with the largest box that has it.
    Raises InputError if nothing is left, for labels with control characters, for images with
    several labels if these are refused, and for a level that the format has no taxa for.
    """
    rows = table.num_rows
    table = leave_out(table, pc.is_null(table["path"]), notes, "without a path, left out")
    table = _with_kinds(table)
    table = leave_out(
        table, pc.is_null(table["label"]), notes, "without an identification, left out"
    )
    _check_left(table, rows, place, "no image has a path and an identification")
    if options.machine_labels == "drop":
        by_machine = pc.equal(table["by"], MACHINE)
        table = leave_out(table, by_machine, notes, "by a machine, left out")
        _check_left(table, rows, place, "all others are a machine's: give --machine-labels keep")
    table = _of_sequences(table, options, notes)
    _check_left(table, rows, place, "all others are of sequences: give --sequence-labels keep")
    if options.label_level is not None:
        table = _at_level(table, options.label_level, notes, place)
        _check_left(table, rows, place, f"no animal is identified to its {options.label_level}")
    strange = [label for label in pc.unique(table["label"]).to_pylist() if has_control(label)]
    if strange:
        raise InputError(
            f"the label {min(strange)!r} in {place} has control characters: correct it"
        )
    if crops:
        return _largest_boxes(table, notes, place)
    table = _without_several(table, options, notes, place)
    _check_left(table, rows, place, "all images have several labels")
    return table


def _check_left(table: pa.Table, rows: int, place: Location, why: str) -> None:
    if not table.num_rows:
        raise InputError(f"none of the {rows} labels in {place} can be used: {why}")


def _with_kinds(table: pa.Table) -> pa.Table:
    """With one name each for blanks, people and vehicles, and null for what is unidentified."""
    encoded = table["label"].combine_chunks().dictionary_encode()
    names: dict[str, str | None] = dict.fromkeys(_UNIDENTIFIED)
    names |= {name: kind for kind, spellings in KINDS.items() for name in spellings}
    labels = [
        names.get(label.lower().replace("_", " "), label)
        for label in encoded.dictionary.to_pylist()
    ]
    at = table.column_names.index("label")
    return table.set_column(at, "label", pa.array(labels, pa.string()).take(encoded.indices))


def _of_sequences(table: pa.Table, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    """Without the labels of sequences where images have their own."""
    of_sequence = np.asarray(pc.fill_null(pc.equal(table["level"], SEQUENCE), False))
    if not of_sequence.any():
        return table
    image = number_keys(string_keys(table["path"]))
    own = np.zeros(image.max() + 1, bool)
    own[image[~of_sequence]] = True
    spare = of_sequence & own[image]
    # Where both are known, how often an image does not show what its sequence does.
    encoded = table["label"].combine_chunks().dictionary_encode()
    pair = image * (len(encoded.dictionary) + 1) + np.asarray(encoded.indices)
    if wrong := int((~np.isin(pair[spare], pair[~of_sequence])).sum()):
        notes[NOTE + "of sequences that differ from their images' own"] += wrong
    kept = of_sequence & ~spare
    table = leave_out(
        table, pa.array(spare), notes, "of sequences whose images have their own, left out"
    )
    of_sequence = kept[~spare]
    if options.sequence_labels == "drop":
        return leave_out(table, pa.array(of_sequence), notes, "of sequences, left out")
    if kept.any():
        notes[
            NOTE + "of sequences, kept for each image, although not every one shows the animal"
        ] += int(kept.sum())
    return table


def _at_level(table: pa.Table, level: str, notes: Counter[str], place: Location) -> pa.Table:
    if table[level].null_count == table.num_rows:
        raise InputError(
            f"--label-level {level}: {place} has no {level} of its labels, leave the option out or "
            "name a column by --label-column"
        )
    kind = pc.is_in(table["label"], pa.array(list(KINDS)))
    table = table.set_column(
        table.column_names.index("label"), "label", pc.if_else(kind, table["label"], table[level])
    )
    return leave_out(
        table, pc.is_null(table["label"]), notes, f"not identified to the {level}, left out"
    )


def _largest_boxes(table: pa.Table, notes: Counter[str], place: Location) -> pa.Table:
    """The largest box of each label of an image, in order; of a herd, one animal counts."""
    boxed = pc.is_valid(table["box"])
    if not pc.any(boxed).as_py():
        raise InputError(f"none of the {table.num_rows} labels in {place} has a box: drop --crops")
    image = number_keys(string_keys(table["path"]))
    lost = len(np.unique(image)) - len(np.unique(image[np.asarray(boxed)]))
    if lost:
        notes[NOTE + "images without a box, left out"] += lost
    image, table = image[np.asarray(boxed)], table.filter(boxed)
    label = np.asarray(table["label"].combine_chunks().dictionary_encode().indices)
    sides = np.asarray(table["box"].combine_chunks().flatten()).reshape(-1, 4)
    order = np.lexsort((-sides[:, 2] * sides[:, 3], label, image))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(image[order]) != 0) | (np.diff(label[order]) != 0)
    return table.take(pa.array(np.sort(order[new])))


def _without_several(
    table: pa.Table, options: LabelOptions, notes: Counter[str], place: Location
) -> pa.Table:
    """One row for each image, those with several labels left out or refused."""
    image = number_keys(string_keys(table["path"]))
    encoded = table["label"].combine_chunks().dictionary_encode()
    code = encoded.indices.to_numpy()
    lowest, highest = _extremes(image, code)
    several = lowest != highest
    if several.any():
        blank = pc.index(encoded.dictionary, "blank").as_py()
        has_blank = np.zeros(len(several), bool)
        has_blank[image[code == blank]] = True
        if options.several_labels == "refuse":
            first = int(np.flatnonzero(several[image])[0])
            its = sorted(set(table.filter(pa.array(image == image[first]))["label"].to_pylist()))
            raise InputError(
                f"{place} gives {table['path'][first].as_py()} the labels {', '.join(its)} "
                f"({several.sum()} such images): give --several-labels drop"
            )
        for mask, what in (
            (several & ~has_blank, "images with several species, left out"),
            (several & has_blank, "images that are both blank and not, left out"),
        ):
            if mask.any():
                notes[NOTE + what] += int(mask.sum())
    first_row = np.unique(image, return_index=True)[1]
    return table.take(pa.array(np.sort(first_row[~several])))


def _extremes(image: Ints, code: Array) -> tuple[Array, Array]:
    """The lowest and highest code of each image."""
    lowest = np.full(image.max(initial=-1) + 1, np.iinfo(np.int32).max, np.int32)
    highest = np.full(len(lowest), -1, np.int32)
    np.minimum.at(lowest, image, code)
    np.maximum.at(highest, image, code)
    return lowest, highest
