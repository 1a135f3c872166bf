"""The counts and images of a review, however the files are split."""

from __future__ import annotations

import itertools
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import monkeyray.runs.reader
from monkeyray.console import Reporter
from monkeyray.exports.job import open_source
from monkeyray.pages.options import ReviewConfig
from monkeyray.pages.review_rows import Figures, Shown, Wanted, read_review
from monkeyray.storage.store import Storage
from tests.support.predicted import box, predict, scored


def sha(text: str) -> str:
    return text.encode().hex().ljust(64, "0")


def scores(name: str, *listed: tuple[str, float], **rest: Any) -> dict[str, Any]:
    return scored(f"/x/{name}", *listed, **{"sha256": sha(name), "ood_score": 0.5, **rest})


#: Margins 0.5, 0.25, 0, 0.125 and, for a single listed label, at least 0.25.
ROWS = [
    scores("A/1/a.jpg", ("fox", 0.75), ("owl", 0.25), captured_at="2025-03-04T23:30:00"),
    scores("A/1/b.jpg", ("fox", 0.5), ("owl", 0.25), captured_at="2025-03-04T05:00:00+02:00"),
    {"uri": "/x/A/1/c.jpg", "status": "missing", "error": "gone"},
    scores("B/1/d.jpg", ("owl", 0.5), ("fox", 0.5), ood_score=2.0, captured_at="no time"),
    {"uri": "/x/B/1/e.jpg", "status": "missing", "error": "gone"},
    {"uri": "/x/B/1/f.jpg", "status": "empty", "error": "no bytes", "sha256": sha("")},
    scores("B/1/g.jpg", ("owl", 0.5), ("elk", 0.375), status="truncated", ood_score=1.5),
    scores("g.jpg", ("fox", 0.625), decision="accepted"),
]


def look(place: Path, wanted: Wanted, **options: Any) -> tuple[Figures, list[Shown]]:
    config = ReviewConfig(predictions=str(place), output=str(place.parent / "o.html"), **options)
    return read_review(open_source(config, Storage(), []), wanted, Reporter(quiet=True).bar)


def section(rows: list[Shown], name: str) -> list[str]:
    mine = sorted((row.sections[name], row.path) for row in rows if name in row.sections)
    assert [place for place, _ in mine] == list(range(len(mine)))
    return [path for _, path in mine]


@pytest.fixture(params=[(8, [8]), (2, [3, 5]), (1, [8])], ids=["whole", "parts", "single"])
def place(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    at_a_time, sizes = request.param
    monkeypatch.setattr(monkeyray.runs.reader, "_ROWS", at_a_time)
    predict(tmp_path / "p", ROWS, images="/x", sizes=sizes)
    return tmp_path / "p"


def test_sections(place: Path) -> None:
    wanted = Wanted(1, 2, "uncertain", 3, labelled={"/x/B/1/d.jpg"})
    figures, rows = look(place, wanted)
    # Usable images without a label, smallest margin first; ties in the order of the rows.
    assert section(rows, "next") == ["A/1/b.jpg", "g.jpg", "A/1/a.jpg"]
    assert section(rows, "uncertain") == ["B/1/d.jpg", "B/1/g.jpg"]
    assert section(rows, "outliers") == ["B/1/d.jpg", "B/1/g.jpg"]
    # One of each status before a second of any.
    assert section(rows, "problems") == ["A/1/c.jpg", "B/1/f.jpg"]
    # One of each predicted label, drawn by content; no image is predicted as an elk.
    assert section(rows, "labels") == ["A/1/a.jpg", "B/1/d.jpg"]
    assert len({row.uri for row in rows}) == len(rows)
    assert figures.images == 8
    assert figures.statuses == {"ok": 4, "missing": 2, "empty": 1, "truncated": 1}
    assert figures.labels == {"fox": 3, "owl": 2}
    assert figures.decisions == {"accepted": 1}
    assert figures.known == {"fox", "owl", "elk"}
    assert figures.sites == {}
    # The camera's local time, whatever its offset.
    assert {label: hours.nonzero()[0].tolist() for label, hours in figures.hours.items()} == {
        "fox": [5, 23]
    }


def test_sites_and_times_by_deployments(place: Path, tmp_path: Path) -> None:
    table = tmp_path / "deployments.csv"
    table.write_text(
        "deployment_id,site,camera,time_zone,clock_offset\nd1,A,1,+01:00,1:00:00\nd2,B,1,UTC,\n"
    )
    options = {"site_pattern": "{site}/{camera}/*", "deployments": str(table)}
    figures, rows = look(place, Wanted(9, 9), **options)
    assert figures.sites == {"A": 3, "B": 4}
    assert figures.hours["fox"].nonzero()[0].tolist() == [0, 6]
    first = next(row for row in rows if row.path == "A/1/a.jpg")
    assert (first.site, first.taken) == ("A", datetime(2025, 3, 5, 0, 30))
    assert first.listed == (("fox", 0.75), ("owl", 0.25))


def test_the_same_bytes_are_shown_once(tmp_path: Path) -> None:
    rows = [scores(f"{i}.jpg", ("fox", 0.5), ("owl", 0.25), sha256=sha("same")) for i in range(4)]
    rows += [{"uri": f"/x/{i}.jpg", "status": "empty", "sha256": sha("")} for i in (7, 8)]
    predict(tmp_path / "p", rows, images="/x", sizes=[2, 4])
    _, shown = look(tmp_path / "p", Wanted(3, 3, "uncertain", 3))
    # Broken files are all shown, even if they are alike.
    assert [row.path for row in shown] == ["0.jpg", "7.jpg", "8.jpg"]


def random_rows(draw: random.Random, with_boxes: bool) -> list[dict[str, Any]]:
    """Rows with equal scores, equal contents and, perhaps, several boxes an image."""
    rows: list[dict[str, Any]] = []
    for image in range(60):
        for number in range(draw.randint(1, 3) if with_boxes else 1):
            row: dict[str, Any] = {"uri": f"/x/{image:02}.jpg", "status": "missing"}
            if draw.random() < 0.8:
                best, second = draw.choice([0.5, 0.625, 0.75]), draw.choice([0.125, 0.25])
                names = draw.sample(["fox", "owl", "Élk"], 2)
                row = scored(
                    row["uri"], (names[0], best), (names[1], second),
                    sha256=sha(str(draw.randint(0, 40))), ood_score=draw.choice([0.5, 1.5, None]),
                    status=draw.choice(["ok", "truncated"]),
                )  # fmt: skip
            if with_boxes:
                row |= box(number, "animal", draw.choice([0.25, 0.5, 0.75]), 0, 0, 0.5, 0.5)
            rows.append(row)
    return rows


@pytest.mark.parametrize("with_boxes", [False, True], ids=["images", "boxes"])
@pytest.mark.parametrize("seed", range(3))
def test_sections_are_those_of_sorting_all_rows(
    tmp_path: Path, seed: int, with_boxes: bool
) -> None:
    rows = random_rows(random.Random(seed), with_boxes)
    predict(tmp_path / "p", rows, images="/x", sizes=[len(rows) // 3, len(rows) - len(rows) // 3])
    _, shown = look(tmp_path / "p", Wanted(2, 7, "uncertain", 5))

    def rank(row: dict[str, Any]) -> tuple[bool, float]:
        return "label" not in row, -row.get("detection_conf", 0) if "label" in row else 0

    grouped = itertools.groupby(rows, key=lambda row: row["uri"])
    images = [min(boxes, key=rank) for _, boxes in grouped]
    known = [row for row in images if "label" in row]

    def least(key: Any, of: list[dict[str, Any]], limit: int) -> list[str]:
        first = {row["sha256"]: row for row in sorted(of, key=key, reverse=True)}
        return [row["uri"][3:] for row in sorted(first.values(), key=key)][:limit]

    def margin(row: dict[str, Any]) -> tuple[float, str]:
        return row["top_k"][0]["score"] - row["top_k"][1]["score"], row["uri"]

    whole = [row for row in known if row["status"] == "ok"]
    assert section(shown, "next") == least(margin, whole, 5)
    assert section(shown, "uncertain") == least(margin, known, 7)
    unusual = [row for row in known if row["ood_score"] is not None]
    outliers = least(lambda row: (-row["ood_score"], row["uri"]), unusual, 7)
    assert section(shown, "outliers") == outliers
    drawn = [
        least(lambda row: (row["sha256"][:13], row["uri"]), of, 2)
        for label in ("fox", "owl", "Élk")
        if (of := [row for row in known if row["label"] == label])
    ]
    assert section(shown, "labels") == [name for names in drawn for name in names]
    missing = [row["uri"][3:] for row in images if "label" not in row]
    assert section(shown, "problems") == missing[:7]
