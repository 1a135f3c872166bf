"""Makes the pictures of the documentation again.

    MONKEYRAY_PHOTOS=… python -m tests.benchmarks.pictures docs/pages/pictures

The charts are of a report on the 10 monkey species. The review is of the demo's images, which
MonkeyRay draws itself, so that no one's photographs are published. Chromium takes the pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import monkeyray
from monkeyray.cli.demo_images import draw_demo_images
from monkeyray.pages.options import ReviewConfig
from monkeyray.pages.review import review
from monkeyray.runs.cluster import connected

#: Sections of the report that hold no photograph.
SECTIONS = ("accuracy", "training", "confusion", "calibration")
WIDTH = 1280


def make_report(photos: Path, folder: Path) -> Path:
    """Train as the page on the monkeys does."""
    trained = monkeyray.train(
        images=str(photos),
        label_names=str(photos / "labels.csv"),
        model=str(folder / "monkeys"),
        views=2,
        folds=5,
        target_precision=0.99,
    )
    return Path(trained.uri) / "report.html"


def make_review(folder: Path) -> Path:
    """Train and score as the demo does, and write a review with images to label next."""
    images = draw_demo_images(folder / "drawn", seed=0)
    model, predictions = str(folder / "drawn-model"), str(folder / "predictions")
    monkeyray.train(images=str(images.labelled), model=model)
    monkeyray.score(
        images=str(images.unlabelled), model=model, predictions=predictions, threshold=0.8
    )
    page = folder / "review.html"
    review(
        ReviewConfig(
            predictions=predictions,
            output=str(page),
            site_pattern="{site}/{camera}/*",
            select="uncertain",
            count=12,
        )
    )
    return page


def save(data: bytes, path: Path) -> None:
    """Save a picture: with few colours, or as JPEG if it shows photographs."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if path.suffix == ".png":
        picture = picture.quantize(48)
        picture.save(path, optimize=True)
    else:
        picture.save(path, quality=80, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes")


def show(browser: Browser, report: Path, review: Path, folder: Path) -> None:
    """Open both pages and take the pictures."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1080})
    page.goto(report.as_uri())
    for name in SECTIONS:
        data = page.locator(f"section:has(> #{name})").screenshot()
        save(data, folder / f"report-{name}.png")
    page.goto(review.as_uri())
    # As after the first two, for which the second label is right.
    for key in ("ArrowRight", "2", "2"):
        page.keyboard.press(key)
    page.evaluate("document.querySelector('section:has(> #review)').scrollIntoView()")
    save(page.screenshot(), folder / "review.jpg")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    target = parser.parse_args().folder
    target.mkdir(parents=True, exist_ok=True)
    photos = Path(os.environ["MONKEYRAY_PHOTOS"]) / "monkeys10"
    with tempfile.TemporaryDirectory() as name, connected(None):
        report, pages = make_report(photos, Path(name)), make_review(Path(name))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            show(browser, report, pages, target)


if __name__ == "__main__":
    main()
