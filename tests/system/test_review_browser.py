"""A review in a browser: filter, label by keyboard and mouse, export, and read the export."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from monkeyray.labels.listing import list_labelled
from monkeyray.options import StoreConfig
from monkeyray.pages.options import ReviewConfig
from monkeyray.pages.review import review
from monkeyray.storage.spreadsheets import is_formula
from monkeyray.storage.store import Storage
from monkeyray.training.listing import list_dataset
from monkeyray.training.options import TrainConfig
from tests.support.browsing import STICKING_OUT, WIDTHS, listen
from tests.support.pictures import encode
from tests.support.predicted import predict, scored
from tests.support.report_data import HOSTILE

#: Text that a CSV file and a page must preserve.
ODD_FILE = 'b,\r"1" <img src=x onerror=alert(1)>\x1b é\'.jpg'
ODD_LABEL = '=A("new", fox é)'
LONG = "s3-" + "a" * 200

NAMES = {"n0": "red fox", "n1": HOSTILE}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reviews as files: of all, with some chosen to be labelled next, and with missed animals."""
    folder = tmp_path_factory.mktemp("review")
    rows: list[dict[str, Any]] = []
    names = [f"A/{i}.jpg" for i in range(5)] + [f"B/{ODD_FILE}", f"B/{LONG}.jpg", "B/7.jpg"]
    for i, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(Image.new("RGB", (64, 48), (30 * i, 90, 120))))
        pair = ("n0", "n1") if i < 6 else ("n1", "n0")
        listed = zip((*pair, HOSTILE), (0.5 + i / 20, 0.3 - i / 40, 0.1), strict=True)
        rows.append(
            scored(
                str(path), *listed, sha256=f"{i:064x}", ood_score=i / 4, decision="accepted",
                captured_at=f"2025-03-04T{i:02}:00:00",
            )
        )  # fmt: skip
    rows.append({"uri": str(folder / "images/B/8.jpg"), "status": "unreadable", "error": HOSTILE})
    predict(folder / "predictions", rows, images=str(folder / "images"), model_id="ab" * 32)
    (folder / "names.csv").write_text(f"label,name\nn0,red fox\nn1,{HOSTILE}\n")
    # Of two images called blank, people see animals in both.
    blank = [row["uri"] for row in rows if row.get("label") == "n1"]
    (folder / "seen.csv").write_text("\n".join(["uri,label", *(f"{uri},n0" for uri in blank)]))
    for name, select in (("all", None), ("next", "uncertain"), ("missed", None)):
        missed: dict[str, Any] = {"blank": ("n1",), "corrections": (str(folder / "seen.csv"),)}
        config = ReviewConfig(
            predictions=str(folder / "predictions"),
            output=str(folder / f"{name}.html"),
            label_names=str(folder / "names.csv"),
            site_pattern="{site}/*",
            select=select,  # type: ignore[arg-type]
            count=3,
            store=StoreConfig(quiet=True),
            **(missed if name == "missed" else {}),
        )
        review(config)
    return {name: folder / f"{name}.html" for name in ("all", "next", "missed")}


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that keeps nothing of the tests before."""
    context = browser.new_context(accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def show(context: BrowserContext, places: dict[str, Path]) -> Iterator[Callable[..., Page]]:
    """Opens a review; at the end it must have said and asked for nothing."""
    said: list[str] = []

    def opened(name: str, width: int = 1280) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 844})
        listen(page, places[name].as_uri(), said)
        page.goto(places[name].as_uri())
        return page

    yield opened
    # The page itself starts the download.
    assert [line for line in said if not line.startswith("request: blob:")] == []


def shown(page: Page) -> list[str]:
    """The names of the images that are shown, in order."""
    return [
        str(uri).rpartition("/")[2]
        for uri in page.evaluate(
            "[...document.querySelectorAll('.card')].filter(card => card.checkVisibility())"
            ".map(card => card.dataset.uri)"
        )
    ]


def export(page: Page, how: Callable[[], None], to: Path) -> dict[str, str]:
    """The exported labels as train reads them, by file."""
    with page.expect_download() as download:
        how()
    download.value.save_as(to)
    with open(to, newline="") as file:
        assert not any(
            is_formula(cell) and cell[0] != "'" for row in csv.reader(file) for cell in row
        )
    table = list_labelled(str(to), Storage(), Counter())
    return dict(zip(table["uri"].to_pylist(), table["label"].to_pylist(), strict=True))


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_missed_animals(show: Callable[..., Page], width: int) -> None:
    page = show("missed", width)
    assert "About 2 images with an animal" in page.locator("section:has(#missed)").inner_text()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert [each for each in page.evaluate(STICKING_OUT) if not each.startswith("<option")] == []
    page.select_option("select[name=section]", "blanks")
    assert len(shown(page)) == 2


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_within_the_window(show: Callable[..., Page], width: int) -> None:
    page = show("all", width)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    page.locator(".card input").last.fill("w" * 300)
    page.keyboard.press("Enter")
    page.keyboard.press("z")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    # The browser draws the entries of lists.
    assert [each for each in page.evaluate(STICKING_OUT) if not each.startswith("<option")] == []
    assert page.evaluate("document.body.innerText").count(HOSTILE) > 8
    assert page.locator("#activity").count() == 1


def test_filters(show: Callable[..., Page]) -> None:
    page = show("all")
    assert len(shown(page)) == 9
    assert page.inner_text("#count").startswith("9 of 9 shown")
    page.select_option("select[name=label]", "n1")
    assert shown(page) == [f"{LONG}.jpg", "7.jpg"]
    page.select_option("select[name=label]", "")
    page.select_option("select[name=site]", "A")
    page.select_option("select[name=section]", "outliers")
    # Highest outlier scores first.
    assert shown(page) == ["4.jpg", "3.jpg", "2.jpg", "1.jpg", "0.jpg"]
    page.fill("input[name=text]", "a/3 RED")
    assert shown(page) == ["3.jpg"]
    page.fill("input[name=text]", "nowhere")
    assert shown(page) == []
    assert page.is_visible("#none")
    page.fill("input[name=text]", "")
    page.select_option("select[name=site]", "")
    page.select_option("select[name=section]", "problems")
    assert shown(page) == ["8.jpg"]
    assert page.locator(".card:visible button").count() == 0


def test_labels_by_keyboard_are_a_manifest(show: Callable[..., Page], tmp_path: Path) -> None:
    page = show("all")
    page.keyboard.press("Enter")  # nobody has gone to an image yet
    assert page.is_disabled("#export")
    page.keyboard.press("ArrowRight")
    order = shown(page)
    assert order[:5] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    for key in ("Enter", "2", "1", "2", "2"):
        page.keyboard.press(key)
    page.keyboard.press("o")
    page.keyboard.type(ODD_LABEL)
    page.keyboard.press("Enter")
    page.keyboard.press("o")
    page.keyboard.type(" RED fox")  # what a label is called stands for it
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    # The last one is broken and cannot be labelled.
    page.keyboard.press("1")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("0")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#count").endswith("7 reviewed, 5 changed")
    page.select_option("select[name=done]", "changed")
    assert len(shown(page)) == 5
    # Labels are kept when the page is opened again.
    page.reload()
    page.keyboard.press("ArrowRight")
    found = export(page, lambda: page.keyboard.press("e"), tmp_path / "labels.csv")
    files = {uri.partition("/images/")[2]: label for uri, label in found.items()}
    assert files == {
        "A/0.jpg": "n0",
        "A/1.jpg": "n1",
        "A/2.jpg": "n0",
        "A/3.jpg": "n1",
        "A/4.jpg": "n1",
        f"B/{ODD_FILE}": ODD_LABEL,
        f"B/{LONG}.jpg": "n0",
    }
    assert all(Path(uri).is_file() for uri in found)


def test_next_section_comes_first_and_its_labels_train(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    page = show("next", 390)
    assert shown(page) == ["0.jpg", "1.jpg", "2.jpg"]
    page.locator(".card:visible button").first.click()
    assert page.inner_text("#export") == "Export 1 label"
    page.locator(".card:visible button").first.click()  # again: taken back
    assert page.is_disabled("#export")
    page.select_option("select[name=section]", "")
    for i, card in enumerate(page.locator(".card:has(button)").all()):
        card.locator("button").nth(i % 2).click()
    saved = tmp_path / "labels.csv"
    assert len(export(page, lambda: page.click("#export"), saved)) == 8
    config = TrainConfig(images=str(saved), model=str(tmp_path / "model"))
    table, _, _ = list_dataset(config, Storage())
    assert Counter(table["label"].to_pylist()) == {"n0": 4, "n1": 4}
