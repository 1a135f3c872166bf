"""COCO Camera Traps, the JSON of LILA's data sets, and COCO itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Flags
from monkeyray.errors import InputError
from monkeyray.images.boxes import ROUNDING, is_number
from monkeyray.labels.options import LabelOptions
from monkeyray.labels.schema import (
    BOX,
    HUMAN,
    IMAGE,
    NOTE,
    SEQUENCE,
    labels_table,
    leave_out,
    texts,
    times,
)
from monkeyray.labels.source import Format, Source

#: LILA's checker refuses the last two, but they occur.
_SEQUENCES = ("seq_id", "sequence_id", "sequence")
#: Sequences of several images, all with one label each, from which they may be what was labelled.
_SUSPECT = 20


def _read(source: Source, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    rows = {name: source.content[name] for name in ("images", "categories", "annotations")}
    path = _named(rows["images"], options.uri_column, "file_name")
    for name, each in rows.items():
        needs = {"images": ("id", path), "categories": ("id", "name"),
                 "annotations": ("image_id", "category_id")}[name]  # fmt: skip
        _check(source, name, each, needs)
    images, annotations = rows["images"], rows["annotations"]
    keys = pa.array([str(image["id"]) for image in images], pa.string())
    where = pc.index_in(_strings(annotations, "image_id"), value_set=keys)
    called = _named(rows["categories"], options.label_column, "name")
    names = {str(row["id"]): row.get(called) for row in rows["categories"]}
    category = _strings(annotations, "category_id").to_pylist()
    label = pa.array([names.get(each) for each in category], pa.string())
    boxes = _boxes(images, annotations, where, notes)
    of_sequence = [bool(each.get("sequence_level_annotation")) for each in annotations]
    level = np.where(of_sequence, SEQUENCE, IMAGE).astype(object)
    level[np.asarray(boxes.is_valid())] = BOX
    sequence = _strings(images, *_SEQUENCES).take(where)
    if not any("sequence_level_annotation" in each for each in annotations):
        level[_one_label_each(sequence, label, notes)] = None
    its = pa.table(
        {
            name: _strings(images, *fields).take(where)
            for name, fields in {
                "path": (path,),
                "group": (options.group_column or "",),
                "location": ("location",),
                "time": ("datetime", "date_captured"),
                "corrupt": ("corrupt",),
            }.items()
        }
    )
    table = labels_table(
        len(annotations),
        label=label,
        box=boxes,
        level=pa.array(level, pa.string()),
        by=HUMAN,
        sequence=sequence,
        time=times(texts(its, "time")),
        **{name: texts(its, name) for name in ("path", "group", "location")},
    )
    annotated = np.zeros(len(images), bool)
    annotated[where.drop_null().to_numpy()] = True
    if without := int((~annotated).sum()):
        notes[NOTE + "images without an annotation, left out"] += without
    table = table.append_column("corrupt", pc.equal(its["corrupt"], "True"))
    table = leave_out(table, table["corrupt"], notes, "of images marked as corrupt, left out")
    table = leave_out(
        table, pc.is_null(table["path"]), notes, "of images that the file does not list, left out"
    )
    return table.drop_columns("corrupt")


def _one_label_each(sequence: pa.Array, label: pa.Array, notes: Counter[str]) -> Flags:
    """Which labels (bool) may be of sequences, although the file does not say so, because no
    sequence has two; `notes` counts the sequences."""
    there = pc.is_valid(sequence)
    pairs = pa.table({"sequence": sequence, "label": label}).filter(there)
    each = pairs.group_by("sequence").aggregate([("label", "count"), ("label", "count_distinct")])
    several = int((each["label_count"].to_numpy() > 1).sum())
    if several < _SUSPECT or pc.max(each["label_count_distinct"]).as_py() > 1:
        return np.zeros(len(sequence), bool)
    notes[
        NOTE + "sequences without differing labels, which may be of the sequence, not of each image"
    ] += several
    return np.asarray(there)


def _named(rows: Any, wanted: str | None, usual: str) -> str:
    """The field that is wanted, if a row has it, otherwise the usual one."""
    has = isinstance(rows, list) and any(isinstance(x, dict) and wanted in x for x in rows)
    return wanted if wanted is not None and has else usual


def _check(source: Source, name: str, rows: Any, needs: Iterable[str]) -> None:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{source.place} looks like COCO, but its {name} are not a list of objects"
        )
    for field in needs:
        number = next((i for i, row in enumerate(rows) if row.get(field) is None), None)
        if number is not None:
            raise InputError(
                f"{source.place} looks like COCO, but entry {number} of its {name} has no {field}: "
                "add it, or leave the entry out"
            )


def _strings(rows: Sequence[dict[str, Any]], *fields: str) -> pa.Array:
    """The first of some fields that a row has, as text."""

    def of(row: dict[str, Any]) -> str | None:
        value = next((row[name] for name in fields if row.get(name) is not None), None)
        return None if value is None else str(value)

    return pa.array([of(row) for row in rows], pa.string())


def _boxes(
    images: list[Any], annotations: list[Any], where: pa.Array, notes: Counter[str]
) -> pa.Array:
    """Each annotation's box as shares of its image, null without one; `notes` counts those that
    cannot be used."""
    found: list[list[float] | None] = []
    for annotation, at in zip(annotations, where.to_pylist(), strict=True):
        image = {} if at is None else images[at]
        box, why = _box(annotation, image.get("width"), image.get("height"))
        found.append(box)
        if why:
            notes[NOTE + why] += 1
    return pa.array(found, pa.list_(pa.float32(), 4))


def _box(annotation: dict[str, Any], width: Any, height: Any) -> tuple[list[float] | None, str]:
    pixels, shares = annotation.get("bbox"), annotation.get("bbox_relative")
    box = pixels or shares
    if not box:
        return None, ""
    if not isinstance(box, list) or [*map(is_number, box)] != [True] * 4:
        return None, "boxes that are not four numbers, read as labels of the image"
    if pixels:
        if not (is_number(width) and is_number(height) and width > 0 and height > 0):
            return None, "boxes in pixels of images of unknown size, read as labels of the image"
        box = [side / (width if i % 2 == 0 else height) for i, side in enumerate(box)]
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(box[2:]) <= 0 or min(left, top) < -ROUNDING or max(right, bottom) > 1 + ROUNDING:
        # As when a program writes the corner in place of width and height.
        return None, "boxes outside of their images, read as labels of the image"
    return [float(side) for side in box], ""


FORMATS = (
    Format(
        "COCO Camera Traps",
        frozenset(["images", "annotations"]),
        frozenset(["images", "annotations", "categories"]),
        "give a JSON with images, annotations and categories",
        _read,
    ),
    Format(
        "the output of a detector, not labels by people",
        frozenset(["detectioncategories"]),
        frozenset(),
        "give it as --detections, and the labels as --images",
    ),
)
