"""Which file of the detections is which image, and the rows that follow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar
from unicodedata import normalize

import pyarrow as pa
import pytest

from monkeyray.errors import InputError
from monkeyray.images.boxes import BOX_COLUMNS, pass_through
from monkeyray.images.decode import Limits
from monkeyray.images.detections import parse_detections
from monkeyray.images.listing import list_images
from monkeyray.runs.box_rows import count_unused, make_rows, match
from monkeyray.runs.plan import Listing, collect
from monkeyray.runs.workers.batches import batches
from monkeyray.runs.workers.batches import categories as categories_of
from monkeyray.runs.workers.fetch import Refusals
from monkeyray.storage.backends.protocol import Blob
from monkeyray.storage.keys import OTHER_FORM
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.megadetector import detection, results


def listing(*names: str, **columns: Any) -> Listing:
    uris = [str(Location.of(f"/p/{name}")) for name in names]
    table = {"uri": pa.array(uris, pa.string()), "size_bytes": pa.nulls(len(uris), pa.int64())}
    found = collect([pa.table({**table, "version": pa.nulls(len(uris), pa.string()), **columns})])
    assert found is not None
    return found


def parsed(*images: dict[str, Any]) -> Any:
    return parse_detections("/x.json", json.dumps(results(list(images))).encode())


IMAGES = (
    {"file": "two.jpg", "detections": [
        detection(conf=0.1), detection(conf=0.2), detection("2", 0.9), detection(bbox=(0, 0, 1, 1)),
    ]},
    {"file": "blank.jpg", "detections": [detection(conf=0.19)]},
    {"file": "elsewhere.jpg", "detections": [detection()]},
    {"file": "broken.jpg", "failure": "no", "detections": None},
    {"file": "car.jpg", "detections": [detection("3", 0.5)]},
)  # fmt: skip


def test_one_row_per_box_and_one_per_image_without_boxes() -> None:
    images = listing("car.jpg", "two.jpg", "new.jpg", "blank.jpg", "broken.jpg", site=list("abcde"))
    matched = match(parsed(*IMAGES), images, "/p")
    rows = make_rows(matched, images, 0.2)
    table = pa.concat_tables(rows.tables())
    assert rows.rows == table.num_rows == 7
    assert rows.repeated == 0
    read = table.select(["uri", "site", *BOX_COLUMNS[:3]]).to_pylist()
    assert [tuple(row.values()) for row in read] == [
        ("/p/car.jpg", "a", 0, "vehicle", 0.5),
        ("/p/two.jpg", "b", 1, "animal", pytest.approx(0.2)),
        ("/p/two.jpg", "b", 2, "person", pytest.approx(0.9)),
        ("/p/two.jpg", "b", 3, "animal", pytest.approx(0.9)),
        ("/p/new.jpg", "c", None, None, None),
        ("/p/blank.jpg", "d", None, "blank", None),
        ("/p/broken.jpg", "e", None, "failure", None),
    ]
    assert table["detection_bbox"].null_count == 3
    assert table["detection_bbox"][3].as_py() == [0, 0, 1, 1]
    statuses = [pass_through(row["detection_category"])[0] for row in read]
    assert statuses[4:] == ["undetected", "blank", "undetected"]
    counts = list(count_unused(matched, 0.2).values())
    assert counts == [4, 0, 1, 1, 0, 0, 2, 0]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_eliminated_boxes_come_last_and_are_not_scored(threshold: float) -> None:
    images = listing("both.jpg", "only.jpg")
    both = [detection("2", -0.81), detection(conf=0.5), detection("8", -0.5)]
    categories = {"1": "animal", "2": "person", "8": "tripod"}
    only = [detection(conf=-1), detection(conf=-0.3)]
    files = [{"file": "both.jpg", "detections": both}, {"file": "only.jpg", "detections": only}]
    content = json.dumps(results(files, detection_categories=categories)).encode()
    matched = match(parse_detections("/x.json", content), images, "/p")
    table = pa.concat_tables(make_rows(matched, images, threshold).tables())
    found = [table[name].to_pylist() for name in ("uri", *BOX_COLUMNS[:3])]
    assert list(zip(*found, categories_of(table), strict=True)) == [
        ("/p/both.jpg", 1, "animal", 0.5, "animal"),
        ("/p/both.jpg", 0, "person", pytest.approx(-0.81), "eliminated"),
        ("/p/only.jpg", None, "blank", None, "blank"),
        ("/p/only.jpg", 0, "animal", -1, "eliminated"),
        ("/p/only.jpg", 1, "animal", pytest.approx(-0.3), "eliminated"),
    ]
    counts = count_unused(matched, threshold)
    assert counts["boxes with a negative confidence, eliminated and not scored"] == 3
    assert counts[f"boxes below the detection threshold, {threshold:g}"] == 1  # the tripod


@pytest.mark.parametrize(("there", "here"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_compared_in_either_unicode_form(there: Any, here: Any) -> None:
    names = ["\u00c9land/1.jpg", "fox/1.jpg", "fox/2.jpg"]
    images = listing(*(normalize(here, name) for name in names))
    entries = [{"file": normalize(there, name), "detections": []} for name in names]
    matched = match(parsed(*entries), images, "/p")
    assert matched.where.tolist() == [0, 1, 2]
    assert count_unused(matched, 0.2)[OTHER_FORM] == 1


@pytest.mark.parametrize("folder", ["", "\udcc9land/"])
def test_names_that_are_not_utf8_are_found(folder: str) -> None:
    """MegaDetector writes such bytes as surrogates, as Python does."""
    names = [f"{folder}caf\udce9 100%.jpg", f"{folder}fox 1%.jpg"]
    entries = [{"file": f"x/{name}", "detections": []} for name in names]
    matched = match(
        parsed(*entries, {"file": "\ud800.jpg", "failure": "no"}), listing(*names), "/p"
    )
    assert matched.where.tolist() == [0, 1]
    assert count_unused(matched, 0.2)[OTHER_FORM] == 0


def test_passwords_in_detector_names_are_not_repeated() -> None:
    images = listing("A/a.jpg")
    there = "https://me:hunter2@host/A/"
    matched = match(parsed({"file": f"{there}a.jpg", "detections": []}), images, "/p")
    assert "for https://***@host/" in str(count_unused(matched, 0.2))
    wrong = ([{"file": f"{there}b.jpg", "detections": []}],
             [{"file": there, "detections": x} for x in ([], [detection()])],
             [{"file": there, "detections": [{}]}])  # fmt: skip
    for entries in wrong:
        with pytest.raises(InputError) as found:
            match(parsed(*entries), images, "/p")
        assert "***@host" in str(found.value)
        assert "hunter2" not in str(found.value)


def test_without_any_box_all_images_are_rows() -> None:
    images = listing("a.jpg", "b.jpg")
    matched = match(parsed({"file": "a.jpg", "detections": []}), images, "/p")
    table = pa.concat_tables(make_rows(matched, images, 0.2).tables())
    assert table["detection_category"].to_pylist() == ["blank", None]
    assert table["detection"].null_count == 2


class Counting(Storage):
    """Counts what is asked for."""

    asked: ClassVar[Counter[str]] = Counter()

    def read(
        self, place: str | Location, max_bytes: int | None = None, version: str | None = None
    ) -> Blob:
        self.asked[str(place)] += 1
        return super().read(place, max_bytes, version)


@pytest.mark.parametrize("threads", [1, 4])
def test_an_image_of_many_boxes_is_fetched_once(tmp_path: Path, threads: int) -> None:
    (tmp_path / "herd.jpg").write_bytes(b"bytes")
    names = ["gone.jpg"] * 9 + ["herd.jpg"] * 7 + ["lost.jpg"] * 2
    uris = [str(tmp_path / name) for name in names]
    columns = {"uri": uris, "size_bytes": [5] * 18, "version": ["1"] * 18}
    plan = pa.table({**columns, "detection": list(range(18))})
    Counting.asked.clear()
    storage = Counting()
    refusals = Refusals(storage, 3)  # of the images, not of their boxes
    found = [
        item.data
        for batch in batches(
            plan, storage, Limits(), batch_size=4, threads=threads, refusals=refusals
        )
        for item in batch.fetched
    ]
    assert found == [None] * 9 + [b"bytes"] * 7 + [None] * 2
    # And once more the one that could be read, to prove that others can.
    assert sorted(Counting.asked.values()) == [1, 1, 2]


def test_a_manifests_columns_are_not_taken_for_boxes(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,detection,detection_bbox,site\na.jpg,x,y,z\n")
    (table,) = list_images(str(tmp_path / "m.csv"), Storage(), Counter())
    assert table.column_names[3:] == ["input_detection", "input_detection_bbox", "site"]


def test_images_that_are_not_in_the_detections_at_all_are_refused() -> None:
    with pytest.raises(InputError, match=r"none of the 1 images.*car\.jpg|two\.jpg.*/p/x\.jpg"):
        match(parsed(*IMAGES), listing("x.jpg"), "/p")
