"""Review pages: their content, and that names cannot inject anything."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from datetime import datetime
from html.parser import HTMLParser

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.pages.review_page import Place, page_name, render_page
from monkeyray.pages.review_rows import Figures, Shown
from tests.support.report_data import HOSTILE

PLACE = Place("/predictions", "/images", "ab" * 32, "cd" * 8)
PICTURE = "data:image/jpeg;base64,AAAA"


def row(uri: str, label: str = "fox", **rest: object) -> Shown:
    given = {"path": uri, "status": "ok", "listed": ((label, 0.75), ("owl", 0.125), ("elk", 0.001))}
    return Shown(uri=uri, **{**given, "sections": {"labels": 0}, **rest})  # type: ignore[arg-type]


def figures(label: str = "fox", site: str = "A") -> Figures:
    hours = np.zeros(24, np.int64)
    hours[[5, 23]] = 2, 1
    return Figures(
        images=4,
        statuses=Counter({"ok": 3, "missing": 1}),
        labels=Counter({label: 3}),
        sites=Counter({site: 4}),
        hours={label: hours},
        known={label, "owl", "elk"},
    )


class Elements(HTMLParser):
    """All elements of a page, as tag and attributes, and all texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([HOSTILE, "</script><script>alert(1)</script>"]) | st.text(min_size=1))
def test_names_are_text_whatever_they_are(text: str) -> None:
    # Characters that XML and HTML change in any text, and that URIs and labels never have.
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "_", text)
    given_row = row(text, text, site=text, error=text, decision="accepted", ood_score=1.5)
    plain_row = row("a", "b", site="c", error="d", decision="accepted", ood_score=1.5)
    page = render_page(figures(text, text), [given_row], {text: PICTURE}, {text: text}, PLACE)
    plain = render_page(figures("b", "c"), [plain_row], {"a": PICTURE}, {"b": "b"}, PLACE)
    tags = [tag for tag, _ in Elements(page).found if tag != "wbr"]
    assert sorted(tags) == sorted(tag for tag, _ in Elements(plain).found if tag != "wbr")
    card = next(found for found in Elements(page).of("li") if found.get("class") == "card")
    assert (card["data-uri"], card["data-label"], card["data-site"]) == (text, text, text)


def test_nothing_but_our_own_script_runs() -> None:
    page = render_page(figures(), [row("/images/a.jpg")], {}, {}, PLACE)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = next(m for m in Elements(page).of("meta") if m.get("http-equiv"))["content"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)


def test_pictures_from_elsewhere_are_not_shown() -> None:
    rows = [row("/images/a.jpg"), row("/images/b.jpg")]
    pictures = {"/images/a.jpg": "https://example.org/x.jpg", "/images/b.jpg": PICTURE}
    images = Elements(render_page(figures(), rows, pictures, {}, PLACE)).of("img")
    assert [image["src"] for image in images] == [PICTURE]


def test_contents_of_a_card() -> None:
    card = row(
        "/images/A/a.jpg", path="A/a.jpg", site="A", taken=datetime(2025, 3, 4, 5, 6),
        ood_score=1.25, decision="below_threshold", sections={"next": 3, "uncertain": 0},
    )  # fmt: skip
    broken = row("/images/b.jpg", listed=(), status="missing", error="no such file")
    page = Elements(render_page(figures(), [card, broken], {}, {"fox": "Vulpes vulpes"}, PLACE))
    # The third label's score is too low to be offered.
    assert [button["value"] for button in page.of("button") if "value" in button] == ["fox", "owl"]
    first, second = (found for found in page.of("li") if found.get("class") == "card")
    assert first["data-sections"] == "next:3 uncertain:0"
    assert "vulpes" in str(first["data-text"])
    assert second["data-label"] == ""
    text = " ".join(" ".join(page.texts).split())
    for words in ("2025-03-04 05:06", "ood 1.25", "below threshold", "missing no such file"):
        assert words in text
    # Unreadable images cannot be labelled.
    assert len([found for found in page.of("input") if found.get("list") == "known"]) == 1
    options = [option.get("value") for option in page.of("option")]
    assert {"next", "uncertain", "fox", "A"} <= set(options)
    assert "outliers" not in options


def test_counts_are_on_the_first_page_alone() -> None:
    first, second = (
        render_page(figures(), [row("a")], {}, {}, Place("/p", None, "ab", "cd", number, 2))
        for number in (1, 2)
    )
    assert page_name(1) == "index.html"
    assert 'href="page-2.html"' in first
    assert 'href="index.html"' in second
    assert 'id="activity"' in first
    assert "3 of the 3 scored images have a time" in " ".join(first.split())
    assert 'id="activity"' not in second


def test_a_review_of_nothing() -> None:
    page = render_page(Figures(), [], {}, {}, PLACE)
    assert "0 of 0 images" in page
    assert 'id="activity"' not in page
