"""What a review shows: counts over all rows of predictions, and some of the rows themselves.

One pass, some thousand rows at a time, and one before it where images are to be unlike each other.
Memory holds the counts and the rows that are shown; they do not grow with the predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.exports.deployments import Deployments, Origin, SitePattern, origin
from monkeyray.exports.event_groups import wall_times
from monkeyray.exports.rows import Predictions, listed_labels, relative
from monkeyray.images.boxes import PASSED
from monkeyray.progress import Advance
from monkeyray.scoring.best_boxes import one_row_per_image
from monkeyray.scoring.rows import SCORED
from monkeyray.statistics.selection import Least, k_center, margins, squared_distances, unit

Array = np.ndarray[Any, Any]

#: The sections, in the order in which they are shown.
NEXT, UNCERTAIN, OUTLIERS, LABELS, PROBLEMS = "next", "uncertain", "outliers", "labels", "problems"

#: Images of which diverse ones are chosen: some 80 MB of features. More are drawn from at random.
CANDIDATES = 20_000

_COLUMNS = [
    "uri", "status", "error", "label", "score", "decision", "ood_score", "top_k", "captured_at",
    "sha256",
]  # fmt: skip
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_HOUR = 3_600_000_000


@dataclass(frozen=True)
class Shown:
    """A row that is shown.

    `path`: below the images' folder, the URI where it is not below it. `listed`: the best labels
    with their scores, the best first, none where the image was not scored. `taken`: local time by
    the camera's clock, made right by its deployment's clock offset. `bbox`: the box that was
    scored, where boxes were. `sections`: those that it is in, each with its place there.
    """

    uri: str
    path: str
    status: str
    error: str | None = None
    listed: tuple[tuple[str, float], ...] = ()
    decision: str | None = None
    ood_score: float | None = None
    site: str | None = None
    taken: datetime | None = None
    bbox: tuple[float, ...] | None = None
    sections: dict[str, int] = field(default_factory=dict)


@dataclass
class Figures:
    """Counts of images: all `images` by status and site, and those that were scored by decision,
    label, and label and hour of day (int64 (24,)). `known`: the labels that any row lists."""

    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    hours: dict[str, Array] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Places:
    """What tells an image's site and time: `root`, below which paths are; the rest perhaps not."""

    root: str | None = None
    pattern: SitePattern | None = None
    deployments: Deployments | None = None

    def origins(self, uris: list[str], captured_at: list[str | None]) -> list[Origin] | None:
        """The origins of images, None where nothing tells any."""
        if self.pattern is None and self.deployments is None:
            return None
        return [
            origin(self.path(uri) or "", time, self.pattern, self.deployments)
            for uri, time in zip(uris, captured_at, strict=True)
        ]

    def path(self, uri: str) -> str | None:
        """The path of an image below the root, None where it is not below it."""
        return None if self.root is None else relative(uri, self.root)


@dataclass(frozen=True)
class Wanted:
    """How many rows are shown: of each label, of each other section, and to be labelled `next`.

    `chosen`: for what is next, the URIs in order; where None, the least certain that have no label
    yet. `labelled`: the URIs of images that have one.
    """

    per_label: int
    per_section: int
    next: int = 0
    chosen: dict[str, int] | None = None
    labelled: Collection[str] = ()


def survey(
    predictions: Predictions, places: Places, wanted: Wanted, advance: Advance
) -> tuple[Figures, list[Shown]]:
    """The counts, and the rows that are shown, each once, in the order of the sections."""
    seen = _Survey(places, wanted)
    for table in _images(predictions, _COLUMNS, advance):
        seen.add(table)
    return seen.figures, seen.shown()


def _images(predictions: Predictions, columns: list[str], advance: Advance) -> Iterator[pa.Table]:
    """A row an image, with the columns, of which status is one: of boxes the surest."""
    boxes = predictions.box_columns
    tables = predictions.tables([*columns, *boxes], advance)
    return one_row_per_image(tables) if boxes else tables


class _Survey:
    def __init__(self, places: Places, wanted: Wanted) -> None:
        self.figures = Figures()
        self._places, self._wanted = places, wanted
        self._least = {
            NEXT: Least[Shown](wanted.next),
            UNCERTAIN: Least[Shown](wanted.per_section),
            OUTLIERS: Least[Shown](wanted.per_section),
            PROBLEMS: Least[Shown](wanted.per_section),
        }
        self._by_label: dict[str, Least[Shown]] = {}
        self._labelled = pa.array(sorted(wanted.labelled), pa.string())

    def add(self, table: pa.Table) -> None:
        uris, labels = table["uri"].to_pylist(), table["label"].to_pylist()
        times, timed = wall_times(table["captured_at"])
        origins = self._places.origins(uris, table["captured_at"].to_pylist())
        if origins is not None:
            times = times + [each.clock_offset // _MICROSECOND for each in origins]
        self._count(table, labels, times, timed, origins)
        scored = pc.is_in(table["status"], pa.array(SCORED)).to_numpy()
        contents = pc.fill_null(pc.coalesce(table["sha256"], table["uri"]), "").to_pylist()

        def make(i: int) -> Shown:
            moment = _EPOCH + int(times[i]) * _MICROSECOND if timed[i] else None
            row = {name: table[name][i].as_py() for name in table.column_names}
            bbox = row.get("detection_bbox")
            return Shown(
                uri=row["uri"],
                path=self._places.path(row["uri"]) or row["uri"],
                status=row["status"],
                error=row["error"],
                listed=tuple((each["label"], each["score"]) for each in row["top_k"] or ()),
                decision=row["decision"],
                ood_score=row["ood_score"],
                site=None if origins is None else origins[i].site,
                taken=moment,
                bbox=None if bbox is None else tuple(bbox),
            )

        margin = margins(_listed(table))
        keys = {
            NEXT: self._next(table, margin),
            UNCERTAIN: np.where(scored, margin, np.nan),
            OUTLIERS: -pc.fill_null(table["ood_score"], np.nan).to_numpy(),
            PROBLEMS: self._problems(table["status"].to_pylist(), scored),
        }
        for section, least in self._least.items():
            # Broken files are told apart by their names alone: many are empty, all alike.
            least.add(keys[section], uris if section == PROBLEMS else contents, make)
        draw = _draw(table["sha256"])
        for label in {label for label in labels if label is not None}:
            mine = np.where(
                pc.equal(table["label"], label).to_numpy(zero_copy_only=False), draw, np.nan
            )
            least = self._by_label.setdefault(label, Least[Shown](self._wanted.per_label))
            least.add(mine, contents, make)

    def _count(
        self,
        table: pa.Table,
        labels: list[str | None],
        times: Array,
        timed: Array,
        origins: list[Origin] | None,
    ) -> None:
        figures = self.figures
        self._before = Counter(figures.statuses)
        figures.images += table.num_rows
        figures.statuses.update(table["status"].to_pylist())
        figures.decisions.update(filter(None, table["decision"].to_pylist()))
        figures.labels.update(label for label in labels if label is not None)
        figures.known |= listed_labels(table["top_k"])
        if origins is not None:
            figures.sites.update(each.site for each in origins if each.site is not None)
        hours = (times // _HOUR % 24).tolist()
        for label, hour, there in zip(labels, hours, timed.tolist(), strict=True):
            if there and label is not None:
                figures.hours.setdefault(label, np.zeros(24, np.int64))[hour] += 1

    def _next(self, table: pa.Table, margin: Array) -> Array:
        wanted = self._wanted
        if not wanted.next:
            return np.full(table.num_rows, np.nan)
        if wanted.chosen is not None:
            return np.array([wanted.chosen.get(uri, np.nan) for uri in table["uri"].to_pylist()])
        return np.where(_free(table, self._labelled), margin, np.nan)

    def _problems(self, statuses: list[str], scored: Array) -> Array:
        """What should have been scored and was not: the first of each status, then the second of
        each, and so on."""
        counts = self._before
        keys = np.full(len(statuses), np.nan)
        for i in np.flatnonzero(~scored).tolist():
            if statuses[i] in PASSED:
                continue
            keys[i] = counts[statuses[i]]
            counts[statuses[i]] += 1
        return keys

    def shown(self) -> list[Shown]:
        """All that is kept; what is in several sections comes with the first."""
        lists = {section: list(least) for section, least in self._least.items()}
        lists[LABELS] = [row for label in sorted(self._by_label) for row in self._by_label[label]]
        rows: dict[str, Shown] = {}
        for section in (NEXT, UNCERTAIN, OUTLIERS, LABELS, PROBLEMS):
            for place, row in enumerate(lists[section]):
                rows.setdefault(row.uri, row).sections[section] = place
        return list(rows.values())


def _listed(table: pa.Table) -> Array:
    """The two best scores of each row, 0 where there is none, float64 (n, 2)."""
    scores = np.zeros((table.num_rows, 2))
    for place in range(2):
        long = pc.greater(pc.fill_null(pc.list_value_length(table["top_k"]), 0), place)
        rows = np.flatnonzero(long.to_numpy())
        kept = table["top_k"].filter(long)
        if len(kept):
            scores[rows, place] = pc.struct_field(pc.list_element(kept, place), "score").to_numpy()
    return scores


def _free(table: pa.Table, labelled: pa.Array) -> Array:
    """Which images can be labelled and used for training, and are not yet, bool (n,)."""
    whole = pc.equal(table["status"], "ok")
    return np.asarray(pc.and_not(whole, pc.is_in(table["uri"], labelled)).to_numpy())


def _draw(contents: pa.ChunkedArray) -> Array:
    """A number for each content hash that is as good as drawn at random, float64; NaN for none."""
    return np.array(
        [np.nan if hash_ is None else int(hash_[:13], 16) for hash_ in contents.to_pylist()]
    )


def choose_diverse(
    predictions: Predictions,
    count: int,
    labelled: Collection[str],
    bar: Callable[[str], Any],
) -> dict[str, int]:
    """The URIs of images that are unlike each other and unlike the labelled ones, in order, by the
    directions of their embeddings.

    They are chosen from CANDIDATES images at most. `bar` gives a progress bar by its title. Raises
    InputError for predictions without embeddings.
    """
    columns = ["uri", "status", "sha256", "embedding"]
    known = pa.array(sorted(labelled), pa.string())
    drawn = Least[tuple[str, Array]](CANDIDATES)
    with bar("reading embeddings") as advance:
        for table in _images(predictions, columns, advance):
            uris, vectors = table["uri"], table["embedding"]

            def make(i: int, uris: Any = uris, vectors: Any = vectors) -> tuple[str, Array]:
                return uris[i].as_py(), vectors[i].values.to_numpy().copy()

            keys = np.where(_free(table, known), _draw(table["sha256"]), np.nan)
            drawn.add(keys, pc.fill_null(table["sha256"], "").to_pylist(), make)
    found = list(drawn)
    if not found:
        return {}
    candidates = unit(np.stack([vector for _, vector in found]))
    nearest = np.full(len(candidates), np.inf, np.float32)
    if len(known):
        with bar("comparing with --labelled") as advance:
            for table in _images(predictions, ["uri", "status", "embedding"], advance):
                mine = table.filter(pc.is_in(table["uri"], known))["embedding"].drop_null()
                for chunk in mine.chunks:
                    centres = unit(chunk.flatten().to_numpy().reshape(len(chunk), -1))
                    nearest = np.minimum(nearest, squared_distances(candidates, centres))
    return {found[i][0]: place for place, i in enumerate(k_center(candidates, count, nearest))}
