"""The images of a collection to score, or the boxes that a detector found in them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from monkeyray.errors import InputError
from monkeyray.images.detections import parse_detections
from monkeyray.images.listing import count_videos, list_images
from monkeyray.images.manifest import BACKSLASHES, BLANKS, DRIVES
from monkeyray.runs.box_rows import count_unused, make_rows, match
from monkeyray.runs.plan import Listing, collect
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.schema import check_columns
from monkeyray.storage.archives import LINKS, STALE
from monkeyray.storage.keys import OTHER_FORM
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


def list_collection(
    config: ScoreConfig, storage: Storage, detections: bytes | None
) -> tuple[Listing, dict[str, Any]]:
    """The images, each URI once, or their boxes; and counts of what was skipped.

    `detections`: the content of that file. Raises InputError if there are no images, or none of
    them is in the detections.
    """
    skipped: Counter[str] = Counter()
    images = list_images(config.images, storage, skipped, config.include, config.exclude)
    listing = collect(images, config.limit)
    if listing is None and skipped["excluded"]:
        raise InputError(
            f"--include and --exclude leave none of the {skipped['excluded']} images in "
            f"{config.images}: globs match the whole path below it, as in *.jpg or site-1/*"
        )
    if listing is None:
        raise InputError(
            f"no images in {config.images}: give a folder or prefix with images, or a manifest "
            "whose name ends in .csv or .parquet, which may be a folder of Parquet files"
        )
    check_columns(listing.schema)
    notes = {
        "files skipped, side-cars by name": skipped["side-car"],
        "files skipped, hidden": skipped["hidden"],
        "images left out by --include and --exclude": skipped["excluded"],
        "rows with a URI that was listed before": listing.repeated,
        "videos by name, which are not scored": count_videos(listing.tables()),
        **{note: skipped[note] for note in (BACKSLASHES, DRIVES, BLANKS, OTHER_FORM, LINKS, STALE)},
    }
    if detections is None:
        return listing, notes
    assert config.detections is not None
    found = parse_detections(Location.parse(config.detections), detections)
    matched = match(found, listing, config.images)
    threshold = config.detection_threshold
    threshold = found.threshold if threshold is None else threshold
    counts = count_unused(matched, threshold)
    # Of an image whose path was found on the disk and in the detections, once.
    counts[OTHER_FORM] = max(counts[OTHER_FORM], notes[OTHER_FORM])
    return make_rows(matched, listing, threshold), notes | counts
