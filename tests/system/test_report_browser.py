"""The report in a browser: no console messages, no requests, fits every screen, prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browsing import STICKING_OUT, WIDTHS, listen
from tests.support.report_data import CASES, HOSTILE, LONG, report


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports as files, as a person opens them."""
    folder = tmp_path_factory.mktemp("reports")
    files = {case: folder / f"{case}.html" for case in CASES}
    for case, file in files.items():
        file.write_text(report(case), encoding="utf-8")
    return files


@pytest.fixture
def show(browser: Browser, files: dict[str, Path]) -> Iterator[Callable[..., Page]]:
    """Opens a report; at the end of the test it must have said and asked for nothing."""
    pages: list[Page] = []
    said: list[str] = []

    def opened(case: str, width: int = 1280, scheme: Any = "light") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        pages.append(page)
        address = files[case].as_uri()
        listen(page, address, said)
        page.goto(address)
        return page

    yield opened
    for page in pages:
        page.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("case", CASES)
def test_silent_and_within_the_window(
    show: Callable[..., Page], case: str, width: int, scheme: str
) -> None:
    page = show(case, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert page.evaluate(STICKING_OUT) == []
    # The page has its own background, which follows the colour scheme.
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 384) == (scheme == "light")


def test_the_check_finds_what_sticks_out(show: Callable[..., Page]) -> None:
    page = show("plain")
    page.evaluate("document.querySelector('main p').style.width = '2000px'")
    page.evaluate("document.querySelector('svg text').setAttribute('x', 470)")
    assert len(page.evaluate(STICKING_OUT)) >= 2


def test_pictures_are_shown(show: Callable[..., Page]) -> None:
    page = show("full")
    loaded = page.evaluate("[...document.images].map(x => x.complete && x.naturalWidth > 0)")
    assert len(loaded) == 5 + 24 + 50  # of the label errors shown every second has one
    assert all(loaded)
    # The whole picture is visible, whatever its shape.
    assert page.evaluate("getComputedStyle(document.images[0]).objectFit") == "contain"


def test_pictures_from_elsewhere_are_not_shown(show: Callable[..., Page]) -> None:
    page = show("hostile")
    assert page.evaluate("document.images.length") == 1
    assert page.locator(".picture.none").count() == 5
    assert page.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize(("case", "path"), [("full", "n1/site-0/IMG_0000.JPG"), ("long", LONG)])
def test_a_click_selects_a_path_to_copy(show: Callable[..., Page], case: str, path: str) -> None:
    page = show(case)
    page.locator(".errors .path").first.click()
    assert page.evaluate("getSelection().toString()") == path


def test_the_contents_lead_to_every_section(show: Callable[..., Page]) -> None:
    page = show("full", 390)
    links = page.locator("nav a")
    assert links.count() == 22
    links.last.click()
    assert page.url.endswith("#configuration")
    assert page.locator("#configuration").bounding_box()["y"] < 844  # type: ignore[index]


@pytest.mark.parametrize("case", ["full", "hostile", "long", "empty", "many"])
def test_prints(show: Callable[..., Page], case: str) -> None:
    page = show(case)
    pdf = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    sizes = {(round(float(width)), round(float(height))) for width, height in boxes}
    upright, lying = (595, 842), (842, 595)
    assert sizes == ({upright, lying} if case == "many" else {upright})
    # Chromium shrinks a page that is too wide for the paper, with all its text.
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 970})  # A4 less its margins
    assert page.evaluate(STICKING_OUT) == []
    assert not page.locator("nav").is_visible()


def test_hostile_text_is_read_as_it_is(show: Callable[..., Page]) -> None:
    text = show("hostile").evaluate("document.body.innerText")
    assert text.count(HOSTILE) > 20
