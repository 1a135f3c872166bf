"""The review job: predictions to pages for looking at images, correcting and choosing labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from monkeyray.console import Result, counted
from monkeyray.errors import InputError
from monkeyray.exports.job import open_source
from monkeyray.exports.taxonomy import Taxa
from monkeyray.images.boxes import BLANK
from monkeyray.images.decode import Limits
from monkeyray.labels.listing import list_labelled
from monkeyray.labels.names import read_label_names
from monkeyray.options_file import write_options_beside
from monkeyray.pages.options import ReviewConfig
from monkeyray.pages.review_page import PLACES_OF, Place, page_name, render_page
from monkeyray.pages.review_rows import NEXT, Figures, Shown, Wanted, read_review
from monkeyray.pages.thumbnails import thumbnails
from monkeyray.runs.reader import Predictions
from monkeyray.scoring.schema import SCORED
from monkeyray.statistics.missed import Missed, Stratum, estimate_missed
from monkeyray.storage.keys import fingerprint, nfc
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

_MOST_BYTES = Limits().max_bytes


@dataclass(frozen=True, repr=False)
class Review(Result):
    """The result. `shown`: images on the pages; `selected`: those chosen by --select; `unseen`:
    scored images without a picture, because they can no longer be read; `strata` and `missed`: how
    many animals are missed, with corrections."""

    uri: str
    images: int
    shown: int
    selected: int
    unseen: int
    pages: int
    notes: tuple[str, ...] = ()
    strata: dict[str, Stratum] = field(default_factory=dict)
    missed: Missed | None = None

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `output`, the first of the `pages`; `images` in the predictions, and
        how many of them are `shown`, `selected` to label next, and `unseen`, without a picture
        because they can no longer be read; `missed`, the estimated number of `images` with an
        animal that is not reported, from `low` to `high` (95%), and what was looked at in the
        `strata`, null without corrections of each of them; `notes` for people."""
        return {
            "output": self.uri,
            "pages": self.pages,
            "images": self.images,
            "shown": self.shown,
            "selected": self.selected,
            "unseen": self.unseen,
            "missed": self.missed
            and asdict(self.missed)
            | {"strata": {name: asdict(each) for name, each in self.strata.items()}},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        pages = f", on {self.pages} pages" if self.pages > 1 else ""
        lines = [f"{self.shown} of {counted(self.images, 'image')} to review{pages}"]
        if self.selected:
            lines.append(f"  {self.selected:>9} to label next")
        if self.unseen:
            lines.append(f"  {self.unseen:>9} without a picture: they can no longer be read")
        if self.missed:
            lines.append(
                f"  {round(self.missed.images):>9} images with an animal are missed (95% interval: "
                f"{self.missed.low} to {self.missed.high})"
            )
        return "\n".join([*lines, *self.notes, f"open {self.uri}"])


def review(config: ReviewConfig) -> Review:
    """Write the pages of a review.

    Raises MonkeyRayError.
    """
    storage = config.store.storage()
    reporter = config.store.reporter()
    first = _page(config, 1)
    source = open_source(config, storage, [first])
    predictions = source.predictions
    names = read_label_names(config.label_names, storage) if config.label_names else {}
    if source.pattern:  # without one, paths are only displayed
        source.required_root()
    wanted = _wanted(config, predictions, storage)
    figures, rows = read_review(source, wanted, reporter.bar)
    pages = -(-len(rows) // config.images_per_page) or 1
    if pages > 1 and _is_file(config.output):
        raise InputError(
            f"{counted(len(rows), 'image')} do not fit on one page of {config.images_per_page}: "
            f"give a folder as --output, or --images-per-page {len(rows)}"
        )
    missed = estimate_missed([*figures.strata.values()]) if figures.strata else None
    identity = predictions.run.identity
    made_by = str(identity.get("model_id"))
    kept_as = fingerprint([predictions.run.run_id, made_by])[:16]
    boxes = identity.get("detections")
    padding = float(boxes["padding"]) if boxes else 0.0
    unseen = 0
    with reporter.bar("making pictures") as bar:
        for number in range(1, pages + 1):
            start = (number - 1) * config.images_per_page
            mine = rows[start : start + config.images_per_page]
            pictures = _pictures(mine, config.thumbnail_pixels, storage, padding)
            unseen += sum(picture is None for picture in pictures.values())
            place = Place(
                predictions.uri, predictions.images, made_by, kept_as, number, pages,
                boxes=bool(boxes),
            )  # fmt: skip
            page = render_page(figures, mine, pictures, names, place, missed)
            storage.write(_page(config, number), page.encode())
            bar(len(rows), {"ok": start + len(mine)})
    _delete_older(config, pages, storage)
    # Beside it, not in it: the folder goes to those who label and holds nothing but pages.
    write_options_beside(Location.parse(config.output), config, storage)
    selected = sum(NEXT in row.sections for row in rows)
    return Review(
        str(first), figures.images, len(rows), selected, unseen, pages,
        (*_notes(config, predictions, selected, figures), *source.notes()), figures.strata, missed,
    )  # fmt: skip


def _is_file(output: str) -> bool:
    return output.lower().endswith((".html", ".htm"))


def _page(config: ReviewConfig, number: int) -> Location:
    output = Location.parse(config.output)
    return output if _is_file(config.output) else output / page_name(number)


def _wanted(config: ReviewConfig, predictions: Predictions, storage: Storage) -> Wanted:
    if config.select == "diverse" and not predictions.run.identity.get("embeddings"):
        raise InputError(
            f"--select diverse compares embeddings, and {predictions.uri} has none: score "
            "the images with --embeddings, or use --select uncertain"
        )
    labelled: set[str] = set()
    for uri in config.labelled:
        labelled.update(list_labelled(uri, storage, Counter())["uri"].to_pylist())
    corrections: dict[str, str] = {}
    for uri in config.corrections:
        table = list_labelled(uri, storage, Counter())
        pairs = zip(table["uri"].to_pylist(), table["label"].to_pylist(), strict=True)
        corrections.update((nfc(each), label) for each, label in pairs)
    return Wanted(
        config.per_label, config.per_section, config.select, config.count, labelled, config.sample,
        corrections, Taxa({}, config.kinds()), config.people,
    )  # fmt: skip


def _pictures(
    rows: list[Shown], side: int, storage: Storage, padding: float
) -> dict[str, str | None]:
    """Thumbnails of scored images, and of those where the detector found nothing; a file that broke
    a decoder is not opened again."""
    scored = [row for row in rows if row.status in (*SCORED, BLANK)]
    boxes = {row.uri: row.bbox for row in scored if row.bbox is not None}
    versions = {row.uri: row.version for row in scored}
    return thumbnails(
        [row.uri for row in scored],
        lambda uri: storage.read(uri, _MOST_BYTES, versions[uri]).data,
        side,
        boxes,
        padding,
        {row.uri: row.people for row in scored},
    )


def _delete_older(config: ReviewConfig, pages: int, storage: Storage) -> None:
    """Delete the surplus pages of an older review."""
    if _is_file(config.output):
        return
    number = pages + 1
    while storage.exists(_page(config, number)):
        storage.delete(_page(config, number))
        number += 1


def _notes(
    config: ReviewConfig, predictions: Predictions, selected: int, figures: Figures
) -> list[str]:
    notes = []
    for name, each in figures.strata.items():
        if each.images and not each.seen:
            notes.append(
                f"none of the {each.images} images {PLACES_OF[name]} is in --corrections: look at "
                "the sample to know how many animals are missed"
            )
    if predictions.box_columns:
        notes.append(
            "of several boxes in an image, the one with the highest confidence is shown, and counts"
        )
    if config.select and selected < config.count:
        notes.append(
            f"--select {config.select} chose all that are without a label, {selected} of --count "
            f"{config.count} (files with the same bytes count once)"
        )
    return notes
