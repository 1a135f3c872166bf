"""One page of a review, as a self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from monkeyray.pages.charts import activity
from monkeyray.pages.review_rows import (
    BELOW,
    BLANKS,
    LABELS,
    LISTED,
    NEXT,
    OUTLIERS,
    PROBLEMS,
    UNCERTAIN,
    Figures,
    Shown,
)
from monkeyray.pages.template import ENVIRONMENT
from monkeyray.scoring.schema import SCORED
from monkeyray.statistics.missed import Missed
from monkeyray.statistics.thresholds import ACCEPTED

#: Rows of a table; labels with an activity plot.
_ROWS, _PLOTS = 40, 11
#: Labels with a lower score are not offered, except the second best.
_LEAST = 0.005

_MORE = "; review again with your labels as --corrections to estimate how many animals are missed"

#: Title and description of each section.
_SECTIONS = {
    NEXT: ("To label next", "chosen by --select, most informative first"),
    UNCERTAIN: ("Least certain", "the two best labels have the closest scores"),
    OUTLIERS: ("Least typical", "least like the training images, by ood_score"),
    BLANKS: ("Called blank", f"a random sample of images that the model calls blank{_MORE}"),
    BELOW: ("Below threshold", f"a random sample of images that no threshold accepted{_MORE}"),
    LABELS: ("By label", "a random sample of each label"),
    PROBLEMS: ("Not scored", "missing, broken or refused files"),
}
#: What the images are that animals may be missed among.
PLACES_OF = {BLANKS: "called blank", BELOW: "below the thresholds"}


@dataclass(frozen=True)
class Place:
    """What a page shows. `review_id`: the key under which a browser keeps labels. `number`: of
    `pages`, from 1. `boxes`: whether pictures show boxes of images."""

    predictions: str
    images: str | None
    model_id: str
    review_id: str
    number: int = 1
    pages: int = 1
    boxes: bool = False


def page_name(number: int) -> str:
    """The file name of a page in the folder of a review.

    >>> page_name(1), page_name(2)
    ('index.html', 'page-2.html')
    """
    return "index.html" if number == 1 else f"page-{number}.html"


def render_page(
    figures: Figures,
    rows: Sequence[Shown],
    thumbnails: Mapping[str, str | None],
    names: Mapping[str, str],
    place: Place,
    missed: Missed | None = None,
) -> str:
    """The HTML of a page.

    `thumbnails`: by image URI, the data URI of a JPEG, or None. `names`: the common names of
    labels. `missed`: the estimate from what was looked at, if there is one. Only the first page has
    the counts.
    """
    script = _source("review.js")
    return ENVIRONMENT.get_template("review.html.j2").render(
        figures=figures,
        scored=sum(figures.statuses[status] for status in SCORED),
        accepted=figures.decisions[ACCEPTED] if figures.decisions else None,
        cards=[_card(row, thumbnails.get(row.uri), names) for row in rows],
        named=lambda label: {"label": label, "name": names.get(label)},
        sections={
            key: _SECTIONS[key] for key in _SECTIONS if any(key in row.sections for row in rows)
        },
        labels=sorted(figures.known | set(names)),
        predicted=sorted({row.listed[0][0] for row in rows if row.listed}),
        sites=sorted({row.site for row in rows if row.site is not None}),
        statuses=sorted({row.status for row in rows}),
        plots=_plots(figures),
        missed=missed,
        strata=[(PLACES_OF[name], each) for name, each in figures.strata.items() if each.images],
        timed=sum(int(hours.sum()) for hours in figures.hours.values()),
        most={"rows": _ROWS, "choices": LISTED},
        place=place,
        page_name=page_name,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _source(name: str) -> str:
    assert ENVIRONMENT.loader is not None
    return ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0]


def _card(row: Shown, thumbnail: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    words = [row.path, row.site, row.status, *(label for label, _ in row.listed[:1])]
    words += [names.get(label) for label, _ in row.listed[:1]]
    return {
        "row": row,
        "uri": row.uri,
        "thumbnail": thumbnail,
        "label": row.listed[0][0] if row.listed else "",
        "choices": [each for i, each in enumerate(row.listed) if i < 2 or (each[1] or 0) >= _LEAST],
        "sections": " ".join(f"{section}:{place}" for section, place in row.sections.items()),
        "text": " ".join(filter(None, words)).lower(),
    }


def _plots(figures: Figures) -> list[tuple[str | None, Any]]:
    """The activity of all labels together (None) and of the most frequent ones."""
    if not figures.hours:
        return []
    total = np.sum(list(figures.hours.values()), axis=0)
    frequent = sorted(figures.hours.items(), key=lambda item: (-int(item[1].sum()), item[0]))
    # With a single label, both plots would be the same.
    each = frequent[:_PLOTS] if len(frequent) > 1 else []
    return [
        (label, activity([int(count) for count in hours]))
        for label, hours in [(None, total), *each]
    ]
