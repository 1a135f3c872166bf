"""The review job: chosen images, files written, and mistakes refused."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from monkeyray.cli.main import main
from monkeyray.errors import ConfigError, InputError, MonkeyRayError, StorageError
from monkeyray.options import StoreConfig
from monkeyray.pages.options import ReviewConfig
from monkeyray.pages.review import Review, review
from monkeyray.storage.store import Storage
from tests.support.pictures import encode
from tests.support.predicted import box, predict, scored

#: Embeddings: the directions are 0, 10, 60 and 90 degrees.
POINTS = {"a": (1.0, 0.0), "b": (9.8, 1.7), "c": (0.5, 0.87), "d": (0.0, 4.0)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for i, (name, point) in enumerate(POINTS.items()):
        path = tmp_path / "images" / "site" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(Image.new("RGB", (64, 48), (60 * i, 90, 120))))
        rows.append(
            scored(
                str(path), ("fox", 0.5 + i / 10), ("owl", 0.5 - i / 10),
                embedding=point, sha256=f"{4 - i:064x}",
            )
        )  # fmt: skip
    rows.append({"uri": str(tmp_path / "images" / "e.jpg"), "status": "missing"})
    predict(
        tmp_path / "predictions", rows, images=str(tmp_path / "images"), sizes=[3, 2],
        extra={"embedding": pa.list_(pa.float32(), 2)}, embeddings=True, model_id="ab" * 32,
    )  # fmt: skip
    return tmp_path


def run(place: Path, **options: Any) -> Review:
    given = {
        "predictions": str(place / "predictions"),
        "output": str(place / "review.html"),
        "store": StoreConfig(quiet=True),
    }
    return review(ReviewConfig(**{**given, **options}))


def chosen(place: Path, name: str = "review.html") -> list[str]:
    """The names of the images that are to be labelled next, in order."""
    page = (place / name).read_text()
    cards = re.findall(r'data-uri="[^"]*/(\w+)\.jpg".*data-sections="([^"]*)"', page)
    order = [
        (int(found[1]), name)
        for name, sections in cards
        if (found := re.search(r"next:(\d+)", sections))
    ]
    return [name for _, name in sorted(order)]


def test_a_page(place: Path) -> None:
    done = run(place, site_pattern="{site}/*")
    assert (done.images, done.shown, done.selected, done.unseen, done.pages) == (5, 5, 0, 0, 1)
    page = (place / "review.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert chosen(place) == []
    assert "5 of 5 images to review" in str(done)


def test_the_most_confident_box_is_shown(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "images" / "herd.png"
    canvas = Image.new("RGB", (400, 200), (255, 255, 255))
    canvas.paste((255, 0, 0), (0, 0, 100, 200))
    canvas.save(path)
    rows = [
        scored(str(path), ("fox", 0.6), ("owl", 0.4), **box(0, "animal", 0.5, 0.5, 0, 0.5, 1)),
        scored(str(path), ("owl", 0.7), ("fox", 0.3), **box(1, "animal", 0.75, 0, 0, 0.25, 1)),
        {"uri": str(path), "status": "person", **box(2, "person", 0.9, 0.5, 0, 0.5, 1)},
        {"uri": "/x/p.jpg", "status": "person", **box(0, "person", 0.9, 0, 0, 1, 1)},
        {"uri": "/x/gone.jpg", "status": "missing", **box(0, "animal", 0.9, 0, 0, 1, 1)},
    ]  # fmt: skip
    for number, row in enumerate(rows):
        row["sha256"] = f"{number:064x}"
    predict(
        tmp_path / "boxes", rows, images="/x", sizes=[1, 4],
        detections={"sha256": "0", "threshold": 0.2, "padding": 0.0},
    )  # fmt: skip
    done = run(place, predictions=str(tmp_path / "boxes"), select="uncertain", count=1)
    # People get no card; unreadable images do.
    assert (done.images, done.shown, done.selected) == (3, 2, 1)
    assert "the one with the highest confidence is shown" in str(done)
    page = (place / "review.html").read_text()
    assert re.findall(r'data-label="(\w*)"', page) == ["owl", ""]
    (data,) = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        # The crop is a square around the box, which is half as wide as high.
        assert picture.size[0] == picture.size[1]
        assert np.asarray(picture)[10, 10, 1:].max() < 60


def test_what_was_missed(tmp_path: Path) -> None:
    """Of 6 images called blank and 4 below the threshold, people look at some."""
    rows = [
        *(scored(f"/x/b{i}.jpg", ("Empty", 0.9), sha256=f"{i:064x}") for i in range(5)),
        scored("/x/rest.jpg", ("Empty", 0.6), sha256="f" * 64, decision="below_threshold"),
        *(scored(f"/x/t{i}.jpg", ("fox", 0.5), ("owl", 0.4), sha256=f"{i:064x}",
                 decision=("below_threshold", "no_threshold")[i % 2]) for i in range(4)),
        scored("/x/sure.jpg", ("fox", 0.9), sha256="0" * 64, decision="accepted"),
    ]  # fmt: skip
    predict(tmp_path / "predictions", rows, images="/x")
    done = run(tmp_path, sample=3, per_section=0, per_label=0)
    assert done.missed is None
    page = (tmp_path / "review.html").read_text()
    shown = dict(re.findall(r'data-uri="/x/(\w+)\.jpg".*data-sections="([^"]*)"', page))
    assert shown == {f"{what}{i}": f"{section}:{i}" for i in range(3)
                     for what, section in (("b", "blanks"), ("t", "below"))}  # fmt: skip
    assert "Missed animals" not in page
    # Images that are not of the sample do not count, and one of it was skipped.
    answers = {
        "b0": "fox",
        "b1": "empty",
        "b2": "person",
        "t0": "fox",
        "t1": "EMPTY",
        "sure": "owl",
    }
    lines = [f"/x/{name}.jpg,{label}" for name, label in answers.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["uri,label", *lines]))
    options = {"sample": 3, "corrections": (str(tmp_path / "labels.csv"),), "overwrite": True}
    done = run(tmp_path, **options)
    assert {name: asdict(each) for name, each in done.strata.items()} == {
        "blanks": {"images": 6, "seen": 3, "missed": 1},
        "below": {"images": 4, "seen": 2, "missed": 1},
    }
    assert done.missed is not None
    assert done.missed.images == 6 / 3 + 4 / 2
    assert 2 <= done.missed.low <= 4 <= done.missed.high <= 7
    assert "4 images with an animal are missed (95% interval: 2 to" in str(done)
    assert done.to_json()["missed"]["strata"]["below"]["seen"] == 2
    page = (tmp_path / "review.html").read_text()
    assert "About <b>4</b> images" in page
    # Without an answer about the images below the threshold, there is no estimate.
    (tmp_path / "labels.csv").write_text("\n".join(["uri,label", *lines[:3]]))
    done = run(tmp_path, **options)
    assert done.missed is done.to_json()["missed"] is None
    assert "none of the 4 images below the thresholds is in --corrections" in str(done)


def test_images_where_the_detector_found_nothing_are_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    Image.new("RGB", (80, 40), (0, 200, 0)).save(path)
    rows = [{"uri": str(path), "status": "blank", **box(None, "blank")}]
    predict(tmp_path / "predictions", rows, images=str(tmp_path))
    done = run(tmp_path)
    assert (done.shown, done.unseen) == (1, 0)
    page = (tmp_path / "review.html").read_text()
    assert re.findall(r'data-label="(\w*)".*data-sections="([^"]*)"', page) == [
        ("blank", "blanks:0")
    ]
    assert re.findall(r'<button type="button" value="(\w*)"', page) == ["blank"]


def test_members_of_a_tar_are_read_where_their_rows_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, archive = tmp_path / "1.png", tmp_path / "a.tar"
    Image.new("RGB", (80, 40), (0, 200, 0)).save(picture)
    with tarfile.open(archive, "w") as tar:
        tar.add(picture, "1.png")
    ((_, member),) = Storage().index(str(archive)).items()
    row = scored(f"{archive}#1.png", ("fox", 0.9), etag_or_mtime=str(member.extent))
    predict(tmp_path / "predictions", [row], images=str(archive))
    monkeypatch.delattr(Storage, "index")
    done = run(tmp_path)
    assert (done.shown, done.unseen) == (1, 0)


@pytest.mark.parametrize("boxes", [False, True])
def test_people_are_blurred_or_left_out(tmp_path: Path, boxes: bool) -> None:
    canvas = Image.new("RGB", (200, 200), (255, 255, 255))
    stripes = np.zeros((200, 100, 3), np.uint8)
    stripes[::8] = stripes[1::8] = stripes[2::8] = stripes[3::8] = 255
    canvas.paste(Image.fromarray(stripes), (100, 0))
    canvas.paste((255, 0, 0), (0, 0, 50, 200))
    path = tmp_path / "both.png"
    canvas.save(path)
    rows = [scored(str(path), ("fox" if boxes else "Person", 0.9), ("owl", 0.1), sha256="0" * 64)]
    if boxes:
        rows[0] |= box(0, "animal", 0.5, 0, 0, 1, 1)
        rows.append({"uri": str(path), "status": "person", **box(1, "person", 0.9, 0.5, 0, 0.5, 1)})
    predict(tmp_path / "predictions", rows, images=str(tmp_path))

    def picture() -> Any:
        page = (tmp_path / "review.html").read_text()
        (data,) = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return np.asarray(image.convert("RGB").resize((200, 200))).astype(int)

    run(tmp_path)
    # The stripes of the person on the right, and the red half of the animal on the left.
    assert np.ptp(picture()[20:180, 150, 0]) > 150
    run(tmp_path, people="blur", overwrite=True)
    blurred = picture()
    assert np.ptp(blurred[20:180, 150, 0]) < 60
    red_to_white = np.ptp(blurred[100, 20:80, 1])
    assert red_to_white > 200 if boxes else red_to_white < 200
    assert run(tmp_path, people="omit", overwrite=True).shown == 0


def test_uncertain_images_are_selected(place: Path) -> None:
    (place / "labelled.csv").write_text("uri,label\nimages/site/b.jpg,fox\n")
    run(place, select="uncertain", count=2)
    assert chosen(place) == ["a", "b"]
    done = run(
        place, select="uncertain", count=9, labelled=(str(place / "labelled.csv"),), overwrite=True
    )
    assert chosen(place) == ["a", "c", "d"]
    assert "chose all that are without a label, 3 of --count 9" in str(done)


def test_diverse_images_are_selected(place: Path) -> None:
    # First the one in the middle, then the farthest from all before.
    run(place, select="diverse", count=3)
    assert chosen(place) == ["c", "a", "d"]
    (place / "labelled.csv").write_text("uri,label\nimages/site/c.jpg,owl\nimages/site/d.jpg,fox\n")
    run(place, select="diverse", count=1, labelled=(str(place / "labelled.csv"),), overwrite=True)
    assert chosen(place) == ["a"]  # 60 degrees away, and b 50


def test_diverse_images_need_embeddings(place: Path) -> None:
    rows = [scored("/x/a.jpg", ("fox", 0.5))]
    predict(place / "bare", rows, images="/x", embeddings=False)
    with pytest.raises(InputError, match=r"bare has none: score the images with --embeddings"):
        run(place, predictions=str(place / "bare"), select="diverse")
    assert not (place / "review.html").exists()


def test_a_folder_of_pages(place: Path) -> None:
    output = place / "pages"
    done = run(place, output=str(output), images_per_page=2)
    assert (done.pages, done.uri) == (3, str(output / "index.html"))
    assert sorted(path.name for path in output.iterdir()) == [
        "index.html", "page-2.html", "page-3.html",
    ]  # fmt: skip
    cards = [(output / name.name).read_text().count('class="card"') for name in output.iterdir()]
    assert sorted(cards) == [1, 2, 2]
    # A smaller review deletes the surplus pages of the previous one.
    run(place, output=str(output), images_per_page=3, overwrite=True)
    assert sorted(path.name for path in output.iterdir()) == ["index.html", "page-2.html"]
    with pytest.raises(InputError, match=r"5 images do not fit on one page of 2: give a folder"):
        run(place, images_per_page=2)


def test_images_that_are_gone_have_no_picture(place: Path) -> None:
    (place / "images" / "site" / "a.jpg").unlink()
    (place / "images" / "site" / "b.jpg").write_bytes(b"<html>")
    done = run(place)
    assert done.unseen == 2
    assert "2 without a picture" in str(done)
    assert (place / "review.html").read_text().count("no picture") == 3


def test_existing_output_is_kept(place: Path) -> None:
    (place / "review.html").write_text("mine")
    with pytest.raises(StorageError, match="already exists"):
        run(place)
    with pytest.raises(ConfigError, match="would be overwritten"):
        run(place, label_names=str(place / "review.html"), overwrite=True)
    assert (place / "review.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "all"}, "one of uncertain, diverse"),
        ({"count": 0}, r"--count is 0: it must be at least 1 and at most 10000"),
        ({"images_per_page": 0}, "--images-per-page"),
        ({"labelled": ("x.csv",)}, "give --select too"),
        ({"site_pattern": "{place}/*"}, "site-pattern"),
        ({"output": "p/review.html"}, "is in --predictions"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReviewConfig(**{"predictions": "p", "output": "o", **options})


def test_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["review", "--predictions", str(place / "predictions"), "--output"]
    main([*arguments, str(place / "r"), "--select", "uncertain", "--count", "2", "--quiet"])
    assert "2 to label next" in capsys.readouterr().out
    assert chosen(place / "r", "index.html") == ["a", "b"]


def test_the_options_beside_it_make_it_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "labelled.csv").write_text("uri,label\nimages/site/b.jpg,fox\n")
    monkeypatch.chdir(place)
    main(["review", "--quiet", "--predictions", "predictions", "--output", "r/", "--overwrite",
          "--select", "uncertain", "--count", "2", "--labelled", "labelled.csv"])  # fmt: skip
    assert [path.name for path in (place / "r").iterdir()] == ["index.html"]
    first = (place / "r" / "index.html").read_bytes()
    config = ["review", "--config", str(place / "r.config.toml")]
    monkeypatch.chdir("/")
    # --overwrite is not taken from the file.
    with pytest.raises(SystemExit):
        main(config)
    capsys.readouterr()
    main([*config, "--overwrite", "--summary-json", "-"])
    assert (place / "r" / "index.html").read_bytes() == first
    assert json.loads(capsys.readouterr().out)["result"] == {
        "output": str(place / "r" / "index.html"), "pages": 1, "images": 5, "shown": 5,
        "selected": 2, "unseen": 0, "missed": None, "notes": [],
    }  # fmt: skip


def test_an_unfinished_scoring(tmp_path: Path) -> None:
    rows = [scored(f"/x/{i}.jpg", ("fox", 0.5)) for i in range(4)]
    predict(tmp_path / "predictions", rows, images="/x", sizes=[3, 1], finish=False)
    with pytest.raises(MonkeyRayError, match="--partial"):
        run(tmp_path)
    assert "partial: 3 of 4" in str(run(tmp_path, partial=True))
