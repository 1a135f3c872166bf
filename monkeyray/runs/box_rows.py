"""Matches files in a detector's results to images, and makes the rows of boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.images.boxes import BLANK, BOX_FIELDS, FAILURE
from monkeyray.images.detections import KINDS, Detections
from monkeyray.images.prefixes import Rule, find_rule, sample_uris
from monkeyray.redact import masked
from monkeyray.runs.plan import Listing, collect
from monkeyray.storage.keys import OTHER_FORM, find, nfc, nfc_column, string_keys, utf8_names


@dataclass(frozen=True)
class Matched:
    """Images and their detections. `where`: the index of each listed image's file in the
    detections, -1 if it has none; `rule`: the rule that found them; `in_other_form`: how many have
    other code points in the detections."""

    detections: Detections
    where: Array
    rule: Rule
    in_other_form: int


def match(detections: Detections, listing: Listing, images: str) -> Matched:
    """Find the listed images in the detections, by their names in NFC.

    Raises InputError if none of them is there, or if it is ambiguous which is which.
    """
    files, keys = detections.files, listing.keys
    written = keys
    # Plain ASCII is the same in every form, and without % all names are UTF-8.
    if not all(file.isascii() and "%" not in file for file in files):
        files = list(map(nfc, files))
        written = np.concatenate(
            [string_keys(utf8_names(each["uri"])) for each in listing.tables()]
        )
        keys = np.concatenate(
            [string_keys(nfc_column(utf8_names(each["uri"]))) for each in listing.tables()]
        )
    uris = sample_uris(listing.tables(), listing.rows)
    sample = [nfc(uri) for uri in utf8_names(pa.chunked_array([uris])).to_pylist()]
    remedy = "give --images a folder whose path contains one of them"
    rule = find_rule(files, sample, "detections", remedy)
    where = np.full(listing.rows, -1, np.int64)
    if rule is not None:
        names = [rule.uri(file) for file in files]
        there = np.array([i for i, name in enumerate(names) if name is not None])
        named = pa.array([name for name in names if name is not None], pa.string())
        found = find(keys, string_keys(pa.chunked_array([named])))
        where = np.where(found < 0, -1, there[found])
    if rule is None or (where < 0).all():
        raise InputError(
            f"none of the {listing.rows} images in {images} is in --detections {detections.uri}: "
            f"it has {len(detections.files)} files such as {masked(detections.files[0])}, the "
            f"images are such as {sample[0]}"
        )
    ours = (keys != written).any(axis=1)
    theirs = np.array([file != name for file, name in zip(files, detections.files, strict=True)])
    return Matched(detections, where, rule, int(((where >= 0) & (ours != theirs[where])).sum()))


def make_rows(matched: Matched, listing: Listing, threshold: float) -> Listing:
    """The plan's rows with BOX_FIELDS: one per box of an animal, person or vehicle whose confidence
    reaches the threshold, and one per image without such a box; then one per box of the image with
    a negative confidence."""
    rows = collect(_rows(matched, listing, threshold))
    assert rows is not None
    return rows


def _rows(matched: Matched, listing: Listing, threshold: float) -> Iterator[pa.Table]:
    found = matched.detections
    low = found.confs < np.float32(threshold)
    kept = np.flatnonzero((found.kinds >= 0) & (~low | (found.confs < 0)))
    # The kept boxes of file i are starts[i]:starts[i + 1], the eliminated ones last.
    starts = np.searchsorted(kept, found.starts)
    its_file = np.repeat(np.arange(len(found.files)), np.diff(starts))
    kept = kept[np.lexsort((low[kept], its_file))]
    all_low = np.append(np.bincount(its_file[~low[kept]], minlength=len(found.files)) == 0, True)
    # One extra entry represents "no box".
    kept = np.append(kept, len(found.kinds))
    confs, boxes = np.append(found.confs, 0), np.append(found.boxes, np.zeros((1, 4)), axis=0)
    names = np.array([*KINDS, BLANK, FAILURE], dtype=object)
    start = 0
    for table in listing.tables():
        file = matched.where[start : start + table.num_rows]
        start += table.num_rows
        counts = np.where(file < 0, 0, starts[file + 1] - starts[file])
        each = counts + all_low[file]
        image = np.repeat(np.arange(len(file)), each)
        its = file[image]
        # From -1, the row of an image without a box to score.
        place = np.arange(len(image)) - np.repeat(np.cumsum(each) - counts, each)
        boxed = place >= 0
        box = kept[np.where(boxed, starts[its] + place, len(kept) - 1)]
        none = np.where(found.failed[its], len(KINDS) + 1, len(KINDS))
        kind = np.where(boxed, np.append(found.kinds, -1)[box], none)
        flat = pa.array(boxes[box].ravel(), pa.float32())
        columns = (
            pa.array(box - found.starts[its], pa.int32(), mask=~boxed),
            pa.array(names[kind], pa.string(), mask=its < 0),
            pa.array(confs[box], pa.float32(), mask=~boxed),
            pa.FixedSizeListArray.from_arrays(flat, 4, mask=pa.array(~boxed)),
        )
        table = table.take(pa.array(image))
        for (name, type_), column in zip(BOX_FIELDS, columns, strict=True):
            table = table.append_column(name, column.cast(type_))
        yield table


def count_unused(matched: Matched, threshold: float) -> dict[str, int]:
    """Counts of detections that became no row and of images without any, for the summary."""
    found, where = matched.detections, matched.where
    mine = np.zeros(len(found.files), bool)
    mine[where[where >= 0]] = True
    mine_boxes = np.repeat(mine, np.diff(found.starts))
    other, low = found.kinds < 0, found.confs < np.float32(threshold)
    eliminated = ~other & (found.confs < 0)
    rule = matched.rule
    how = f", as {rule.here}… for {masked(rule.there)}…" if rule.there else ""
    return {
        f"images found in the detections{how}": int((where >= 0).sum()),
        OTHER_FORM: matched.in_other_form,
        "images not listed in the detections": int((where < 0).sum()),
        "files of the detections that are not among the images": int((~mine).sum()),
        "repeated entries of the detections": found.repeated,
        "boxes with a negative confidence, eliminated and not scored": int(
            (mine_boxes & eliminated).sum()
        ),
        f"boxes below the detection threshold, {threshold:g}": int(
            (mine_boxes & low & ~eliminated).sum()
        ),
        "boxes of other categories than animal, person and vehicle, ignored": int(
            (mine_boxes & other & ~low).sum()
        ),
    }
