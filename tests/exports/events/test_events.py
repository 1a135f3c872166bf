"""The events job: events, their rows and sites, independent of the order of the images."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import monkeyray.exports.events.find
from monkeyray.cli.main import main
from monkeyray.errors import ConfigError, InputError, RunError, StorageError
from monkeyray.exports.events.tables import Events, events
from monkeyray.exports.options import EventsConfig, parse_gap
from monkeyray.options import StoreConfig
from tests.support.predicted import box, predict, scored

START = datetime(2021, 5, 1)
DAY = "2021-05-31T"
PAIR = (("lion", 0.5), ("leopard", 0.375), ("empty", 0.125))
OTHER = (("leopard", 0.75), ("lion", 0.125), ("empty", 0.125))
ROWS = [
    scored("/x/A/1/a.jpg", *PAIR, captured_at=f"{DAY}08:00:00"),
    scored("/x/A/1/b.jpg", *OTHER, captured_at=f"{DAY}08:00:05"),
    {"uri": "/x/A/1/c.jpg", "status": "unreadable", "captured_at": f"{DAY}08:00:05"},
    scored("/x/A/1/d.jpg", *PAIR, captured_at=f"{DAY}08:00:11"),
    scored("/x/A/2/a.jpg", *PAIR, captured_at=f"{DAY}08:00:00"),
    scored("/x/A/2/b.jpg", *PAIR),
    scored("/x/loose.jpg", *PAIR, captured_at=f"{DAY}08:00:00"),
    # Listed after a later image.
    scored("/x/A/2/z.jpg", *OTHER, captured_at=f"{DAY}07:59:55"),
]
TAXA = "label,scientific_name\nlion,Panthera leo\nleopard,Panthera pardus\n"


def run(place: Path, **options: Any) -> tuple[Events, dict[str, list[dict[str, Any]]]]:
    """By default an event is a burst."""
    given: dict[str, Any] = {
        "predictions": str(place / "predictions"),
        "output": str(place / "events"),
        "site_pattern": "{site}/{camera}/*",
        "gap": "5s",
        "store": StoreConfig(quiet=True),
        "overwrite": True,
    }
    done = events(EventsConfig(**{**given, **options}))
    names = ("events", "rows", "sites")
    tables = {name: pq.read_table(f"{done.uri}/{name}.parquet").to_pylist() for name in names}
    return done, tables


def made(tables: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The images of each event, without their folder."""
    found: dict[str, list[str]] = {}
    for row in tables["rows"]:
        if row["event_id"] is not None:
            found.setdefault(row["event_id"], []).append(row["uri"].removeprefix("/x/"))
    return list(found.values())


def visit(uri: str, at: datetime, label: str, **rest: Any) -> dict[str, Any]:
    return scored(uri, (label, 0.9), captured_at=at.isoformat(), **rest)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=[3, 5])
    return tmp_path


def test_events_of_cameras(place: Path) -> None:
    done, tables = run(place)
    assert [row["uri"] for row in tables["rows"]] == [row["uri"] for row in ROWS]
    assert made(tables) == [
        ["A/1/a.jpg", "A/1/b.jpg", "A/1/c.jpg"], ["A/1/d.jpg"], ["A/2/a.jpg", "A/2/z.jpg"],
    ]  # fmt: skip
    first, second, broken, _, late, timeless, loose, early = tables["rows"]
    assert first.items() > {"pooled_label": "leopard", "pooled_score": 0.5625}.items()
    assert {**first, "uri": second["uri"]} == second
    assert early["event_id"] == late["event_id"]
    # An image that was not scored is in the event without showing anything.
    assert broken["event_id"] == first["event_id"]
    assert broken["pooled_label"] is broken["pooled_score"] is None
    for row in (timeless, loose):
        assert row["event_id"] is row["pooled_label"] is row["pooled_score"] is None
    assert len(tables["events"]) == 3
    pooled, _, other = tables["events"]
    assert pooled == {
        "event_id": first["event_id"], "site": "A", "deployment_id": None,
        "start": datetime(2021, 5, 31, 8), "end": datetime(2021, 5, 31, 8, 0, 5),
        "label": "leopard", "observation_type": "animal", "scientific_name": None,
        "score": 0.5625, "accepted": None, "count": 1, "images": 2,
        "rollup_rank": None, "rollup_taxon": None, "rollup_score": None,
    }  # fmt: skip
    assert other["start"] == datetime(2021, 5, 31, 7, 59, 55)
    assert (done.rows, done.events, done.observations, done.changed) == (8, 3, 3, 2)
    assert list(done.apart.values()) == [1, 1, 0]
    assert done.notes == ()
    assert "8 rows in 3 events with 3 observations" in str(done)


def test_long_events_keep_the_labels_of_their_bursts(tmp_path: Path) -> None:
    """Goats for hours do not hide a leopard, and empty frames no animal."""
    rows = [
        *(visit(f"/x/A/1/{i:02}.jpg", START + timedelta(minutes=20 * i), "goat") for i in range(9)),
        visit("/x/A/1/cat.jpg", START + timedelta(minutes=65), "leopard"),
        visit("/x/A/1/grass.jpg", START + timedelta(minutes=66), "empty"),
        visit("/x/A/1/wind.jpg", START + timedelta(hours=9), "empty"),
        visit("/x/A/1/gale.jpg", START + timedelta(hours=9, minutes=1), "blank"),
        visit("/x/A/1/calm.jpg", START + timedelta(hours=9, minutes=2), "empty"),
    ]
    predict(tmp_path / "predictions", rows, images="/x")
    done, tables = run(tmp_path, gap="30min")
    found = [(row["label"], row["images"], row["count"]) for row in tables["events"]]
    assert found == [("goat", 9, 1), ("leopard", 1, 1), ("empty", 2, None)]
    assert (done.events, done.observations) == (2, 3)


def test_an_animal_in_few_frames_of_a_burst(tmp_path: Path) -> None:
    """Blank frames do not outvote it, nor does their share of the scores of other frames."""
    doubts = [("lion", 0.4), ("leopard", 0.4)]
    rows = [
        *(visit(f"/x/A/1/{i}.jpg", START + timedelta(seconds=i), "empty") for i in range(5)),
        *(scored(f"/x/A/1/{i + 5}.jpg", best, ("empty", 0.35), ("person", 0.25),
                 captured_at=(START + timedelta(seconds=5 + i)).isoformat())
          for i, best in enumerate(doubts)),
        visit("/x/A/1/8.jpg", START + timedelta(seconds=8), "person"),
    ]  # fmt: skip
    predict(tmp_path / "predictions", rows, images="/x")
    _, tables = run(tmp_path)
    found = [(row["label"], row["images"], row["observation_type"]) for row in tables["events"]]
    assert found == [("leopard", 2, "animal"), ("person", 1, "human")]
    assert tables["events"][0]["score"] == pytest.approx(0.2)


@pytest.fixture
def herd(tmp_path: Path) -> Path:
    """Two frames of zebras, a gazelle and a ranger with his car, then one of a fox alone, twice."""

    def at(second: int, name: str, number: int, **rest: Any) -> dict[str, Any]:
        seen = box(number, rest.pop("category", "animal"), 0.9, 0.1, 0.1, 0.2, 0.2)
        time = (START + timedelta(seconds=second)).isoformat()
        return {**rest, **seen, "uri": f"/x/A/1/{name}.jpg", "captured_at": time}

    def animal(second: int, name: str, number: int, *scores: tuple[str, float]) -> dict[str, Any]:
        return at(second, name, number, **scored("", *scores))

    zebra, gazelle = ("zebra", 0.75), ("gazelle", 0.75)
    rows = [
        *(animal(0, "a", i, zebra) for i in range(2)),
        *(animal(2, "b", i, zebra) for i in range(3)),
        animal(2, "b", 3, gazelle),
        at(2, "b", 4, category="person", status="person"),
        at(2, "b", 5, category="person", status="person"),
        at(2, "b", 6, category="vehicle", status="vehicle"),
        at(2, "b", 7, category="animal", status="eliminated"),
        animal(3600, "c", 0, ("fox", 0.75), ("dog", 0.25)),
        animal(3602, "d", 0, ("dog", 0.5), ("fox", 0.375)),
        {**at(9999, "e", 0, category="blank", status="blank"), **box(None, "blank")},
    ]
    predict(tmp_path / "predictions", rows, images="/x", threshold=0.5)
    return tmp_path


def test_boxes_are_counted_and_people_and_vehicles_are_what_they_are(herd: Path) -> None:
    done, tables = run(herd, gap="30min")
    found = [(row["label"], row["observation_type"], row["count"]) for row in tables["events"]]
    assert found == [
        ("gazelle", "animal", 1), ("human", "human", 2), ("vehicle", "vehicle", 1),
        ("zebra", "animal", 3), ("fox", "animal", 1), ("blank", "blank", None),
    ]  # fmt: skip
    # One box a frame is one animal, and its scores are pooled.
    assert tables["events"][4]["score"] == pytest.approx((0.75 + 0.375) / 2)
    assert tables["events"][1]["score"] == pytest.approx(0.9)
    assert done.changed == 1
    assert list(done.apart.values()) == [0, 0, 0]
    assert len({row["event_id"] for row in tables["rows"]} - {None}) == 3


def test_accepted_where_a_row_with_the_label_was(tmp_path: Path) -> None:
    rows = [
        visit("/x/A/1/a.jpg", START, "lion", decision="below_threshold"),
        visit("/x/A/1/b.jpg", START + timedelta(minutes=1), "lion", decision="accepted"),
        visit("/x/A/1/c.jpg", START + timedelta(minutes=2), "fox", decision="below_threshold"),
    ]
    predict(tmp_path / "predictions", rows, images="/x", threshold=0.5)
    _, tables = run(tmp_path, gap="30min")
    assert {row["label"]: row["accepted"] for row in tables["events"]} == {
        "lion": True, "fox": False,
    }  # fmt: skip
    assert [row["accepted"] for row in tables["sites"]] == [0, 1]


def test_rates_at_sites(tmp_path: Path) -> None:
    """Known visits, and trap-days counted by hand."""
    noon = datetime(2021, 5, 2, 12)
    rows = [
        # Three visits of foxes to A, one of them to the other camera; and one of a hare.
        *(visit(f"/x/A/1/{i}.jpg", noon + timedelta(minutes=10 * i), "fox") for i in range(4)),
        visit("/x/A/1/later.jpg", noon + timedelta(hours=2), "fox"),
        visit("/x/A/2/other.jpg", noon, "fox"),
        visit("/x/A/1/hare.jpg", noon + timedelta(hours=5), "hare"),
        visit("/x/B/1/fox.jpg", noon + timedelta(hours=11), "fox"),
        # At home, before and after.
        visit("/x/B/1/home.jpg", datetime(2021, 4, 30), "fox"),
        visit("/x/B/1/back.jpg", datetime(2021, 6, 30), "fox"),
    ]
    predict(tmp_path / "predictions", rows, images="/x")
    (tmp_path / "deployments.csv").write_text(
        "deployment_id,site,camera,start,end,time_zone,failures\n"
        # 10 days, less 3 in which it was down, with a day in both failures.
        "a1,A,1,2021-05-01,2021-05-10,UTC,2021-05-04/2021-05-05; 2021-05-05/2021-05-06\n"
        # 2 days and 6 hours.
        "a2,A,2,2021-05-01T06:00:00,2021-05-03T11:59:59,UTC,\n"
        # 20 days; the failure goes on when the camera is collected, and the other is before.
        "b1,B,1,2021-05-01,2021-05-21,UTC,2021-05-21T00:00:00/2021-06-01|2020-01-01/2020-12-31\n"
        "c1,C,1,2021-05-01,2021-05-04,UTC,\n"
    )
    done, tables = run(tmp_path, gap="30min", deployments=str(tmp_path / "deployments.csv"))
    assert list(done.apart.values()) == [0, 0, 2]
    assert "without a deployment" not in str(done)
    found = {(row["site"], row["label"]): row for row in tables["sites"]}
    assert {where: row["events"] for where, row in found.items()} == {
        ("A", "fox"): 3, ("A", "hare"): 1, ("B", "fox"): 1, ("B", "hare"): 0, ("C", "fox"): 0,
        ("C", "hare"): 0,
    }  # fmt: skip
    days = {site: found[site, "fox"]["trap_days"] for site in "ABC"}
    assert days == {"A": 7 + 2.25, "B": 20, "C": 4}
    fox = found["A", "fox"]
    assert fox["events_per_100_trap_days"] == pytest.approx(100 * 3 / 9.25)
    hours = {name: n for name, n in fox.items() if name.startswith("hour_") and n}
    assert hours == {"hour_12": 2, "hour_14": 1}
    assert found["B", "hare"]["hour_23"] == 0
    assert found["B", "hare"]["accepted"] is None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("2021-05-04", "is not a period"),
        ("2021-05-06/2021-05-04", "ends before it starts"),
        ("2021-05-06/soon", "'soon' is not a time"),
    ],
)
def test_failures_that_are_not_periods(place: Path, failure: str, words: str) -> None:
    (place / "deployments.csv").write_text(
        f"deployment_id,site,camera,time_zone,failures\nd1,A,1,UTC,{failure}\n"
    )
    with pytest.raises(InputError, match=f"row 1: .*{words}"):
        run(place, deployments=str(place / "deployments.csv"))


def test_csv_has_the_same_tables(place: Path) -> None:
    _, tables = run(place)
    done = events(EventsConfig(
        predictions=str(place / "predictions"), output=str(place / "csv"), format="csv", gap="5s",
        site_pattern="{site}/{camera}/*", store=StoreConfig(quiet=True),
    ))  # fmt: skip
    for name, expected in tables.items():
        with open(f"{done.uri}/{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [*rows[0]] == [*expected[0]]
        assert [row.get("event_id") or None for row in rows] == [
            row.get("event_id") for row in expected
        ]


@pytest.mark.parametrize("form", ["uri", "exiftool"])
def test_given_times_override_those_of_the_predictions(place: Path, form: str) -> None:
    columns, folder, between = {
        "uri": ("uri,captured_at", "/x/", ""),
        "exiftool": ("SourceFile,FileSize,DateTimeOriginal", "./cards/", "9,"),
    }[form]
    times = {
        "A/1/d.jpg": "2021:05:31 08:00:10", "A/2/b.jpg": "2021:05:31 08:00:02+02:00",
        "A/2/a.jpg": "", "A/1/b.jpg": "0000:00:00 00:00:00",
    }  # fmt: skip
    lines = [f"{folder}{name},{between}{time}" for name, time in times.items()]
    (place / "times.csv").write_text("\n".join([columns, *lines]))
    done, tables = run(place, times=str(place / "times.csv"))
    assert made(tables) == [
        ["A/1/a.jpg", "A/1/b.jpg", "A/1/c.jpg", "A/1/d.jpg"],
        ["A/2/a.jpg", "A/2/b.jpg", "A/2/z.jpg"],
    ]  # fmt: skip
    assert list(done.apart.values()) == [1, 0, 0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("uri,time\n/x/A/1/a.jpg,1\n", "no column captured_at, only uri, time: use uri"),
        ("uri,captured_at\n/x/A/1/a.jpg,noon\n", "'noon', which is not a time"),
        ("uri,captured_at\n/x/other.jpg,2021-05-31 08:00:00\n", "1 files, none of which is"),
    ],
)
def test_other_tables_of_times_are_refused(place: Path, table: str, words: str) -> None:
    (place / "times.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        run(place, times=str(place / "times.csv"))


def test_the_gap_is_between_neighbours(place: Path) -> None:
    _, tables = run(place, gap="6s")
    assert made(tables)[0] == ["A/1/a.jpg", "A/1/b.jpg", "A/1/c.jpg", "A/1/d.jpg"]
    _, tables = run(place, gap="4999ms")
    assert made(tables)[:2] == [["A/1/a.jpg"], ["A/1/b.jpg", "A/1/c.jpg"]]


IMAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(-30, 60)), min_size=1, max_size=50)


@settings(max_examples=20, deadline=None)
@given(IMAGES, st.integers(0, 10))
def test_images_are_together_where_they_follow_each_other(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[int, int]], gap: int
) -> None:
    place = tmp_path_factory.mktemp("events")
    rows = [
        visit(f"/x/A/{camera}/{i}.jpg", START + timedelta(seconds=second), "fox")
        for i, (camera, second) in enumerate(images)
    ]
    predict(place / "predictions", rows, images="/x")
    done, tables = run(place, gap=f"{gap}s")
    members: dict[str, list[int]] = {}
    for i, row in enumerate(tables["rows"]):
        members.setdefault(row["event_id"], []).append(i)
    assert done.events == len(members)
    edges = []
    for numbers in members.values():
        (camera,) = {images[i][0] for i in numbers}
        ordered = sorted(images[i][1] for i in numbers)
        assert all(b - a <= gap for a, b in pairwise(ordered))
        edges.append((camera, ordered[0], ordered[-1]))
    edges.sort()
    for (one, _, end), (other, start, _) in pairwise(edges):
        assert one != other or start - end > gap


def test_joined_to_the_predictions(place: Path) -> None:
    run(place)
    found = duckdb.sql(
        f"SELECT uri, predictions.label, events.label FROM '{place}/predictions/*.parquet' "
        f"predictions JOIN '{place}/events/rows.parquet' USING (uri) "
        f"JOIN '{place}/events/events.parquet' events USING (event_id) "
        "WHERE predictions.label <> events.label ORDER BY uri"
    ).fetchall()
    assert found == [("/x/A/1/a.jpg", "lion", "leopard"), ("/x/A/2/a.jpg", "lion", "leopard")]


def test_deployments_divide_events_and_set_the_clock_right(place: Path) -> None:
    (place / "deployments.csv").write_text(
        "deployment_id,site,camera,start,end,time_zone,clock_offset\n"
        f"d1,A,1,2021-05-01,{DAY}08:00:02,UTC,\n"
        f"d2,A,1,{DAY}08:00:03,2021-06-30,UTC,\n"
        "d3,A,2,2021-05-01,2021-06-30,Europe/Brussels,-1:00:00\n"
    )
    _, tables = run(place, deployments=str(place / "deployments.csv"))
    assert made(tables)[0] == ["A/1/a.jpg"]
    last = tables["events"][-1]
    assert (last["deployment_id"], last["images"]) == ("d3", 2)
    assert last["start"] == datetime(2021, 5, 31, 6, 59, 55)


def test_a_camera_without_a_deployment_is_named(place: Path) -> None:
    (place / "deployments.csv").write_text("deployment_id,site,camera\nd1,A,1\n")
    done, _ = run(place, deployments=str(place / "deployments.csv"))
    assert "without a deployment: A/2/a.jpg has site 'A', camera '2'" in str(done)


def test_single_deployment_needs_no_pattern(place: Path) -> None:
    (place / "deployments.csv").write_text("deployment_id\nd1\n")
    done, tables = run(place, site_pattern=None, deployments=str(place / "deployments.csv"))
    assert tables["events"][0]["images"] == 5
    assert tables["rows"][6]["event_id"] == tables["rows"][0]["event_id"]
    assert "1 site without trap-days (d1)" in str(done)


def test_uncertain_labels_are_rolled_up(place: Path) -> None:
    (place / "taxa.csv").write_text(TAXA)
    names = ("rollup_rank", "rollup_taxon", "rollup_score")
    for threshold, expected in (
        (None, ["species", "Panthera pardus", 0.5625]),
        (0.6, ["genus", "Panthera", 0.875]),
        (0.9, [None] * 3),
    ):
        _, tables = run(place, taxonomy=str(place / "taxa.csv"), rollup_threshold=threshold)
        assert [tables["events"][0][name] for name in names] == expected
    assert tables["events"][0]["scientific_name"] == "Panthera pardus"


def test_the_threshold_of_the_scoring_is_that_of_the_roll_up(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", ROWS, images="/x", threshold=0.8)
    (tmp_path / "taxa.csv").write_text(TAXA)
    _, tables = run(tmp_path, taxonomy=str(tmp_path / "taxa.csv"))
    assert tables["events"][0]["rollup_taxon"] == "Panthera"


def test_labels_that_are_not_listed(tmp_path: Path) -> None:
    rows = [
        scored("/x/A/1/a.jpg", ("lion", 0.4), captured_at=f"{DAY}08:00:00"),
        scored("/x/A/1/b.jpg", ("leopard", 0.6), captured_at=f"{DAY}08:00:00"),
        scored("/x/A/2/c.jpg", ("empty", 0.3), captured_at=f"{DAY}08:00:00"),
    ]
    predict(tmp_path / "predictions", rows, images="/x")
    done, tables = run(tmp_path)
    found = [(row["pooled_label"], row["pooled_score"]) for row in tables["rows"]]
    # The residual of the lion's image is split between the leopard and the blank.
    assert found[0] == ("leopard", pytest.approx(0.45))
    # A distributed residual never exceeds a listed score.
    assert found[2] == ("empty", pytest.approx(0.3))
    assert "--top-k all" in str(done)


def shuffled(count: int) -> list[dict[str, Any]]:
    """Rows of bursts of three, none of them beside each other."""
    rows = [
        scored(
            f"/x/A/{i % 3}/{i:05}.jpg", *random.Random(i).choice([PAIR, OTHER]),
            captured_at=(START + timedelta(minutes=i // 3, seconds=i % 3)).isoformat(),
        )
        for i in range(count)
    ]  # fmt: skip
    random.Random(0).shuffle(rows)
    return rows


def test_batches_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shuffled(300)
    predict(tmp_path / "predictions", rows, images="/x", sizes=[100, 200])
    whole, tables = run(tmp_path, site_pattern="{site}/*")
    assert Counter(len(images) for images in made(tables)) == {3: 100}
    by_uri = {row["uri"]: row for row in rows}
    for images in made(tables)[:20]:
        lions = [dict(PAIR)["lion"] if by_uri[f"/x/{name}"]["label"] == "lion" else 0.125
                 for name in images]  # fmt: skip
        (row,) = [r for r in tables["rows"] if r["uri"] == f"/x/{images[0]}"]
        expected = "lion" if sum(lions) / 3 > 0.4375 else "leopard"
        assert row["pooled_label"] == expected
    monkeypatch.setattr(monkeyray.exports.events.find, "ROWS", 7)
    again, same = run(tmp_path, site_pattern="{site}/*", output=str(tmp_path / "again"))
    assert same == tables
    assert whole.changed == again.changed


def test_ids_of_events_stay_when_others_come(tmp_path: Path, place: Path) -> None:
    _, before = run(place)
    more = tmp_path / "more"
    new = scored("/x/A/0/new.jpg", *PAIR, captured_at=f"{DAY}08:00:00")
    late = scored("/x/A/1/late.jpg", *PAIR, captured_at=f"{DAY}08:00:06")
    predict(more / "predictions", [new, *ROWS, late], images="/x")
    _, after = run(more)
    ids = {row["uri"]: row["event_id"] for row in after["rows"]}
    for row in before["rows"]:
        if "/d.jpg" not in row["uri"]:
            assert ids[row["uri"]] == row["event_id"]
    assert ids["/x/A/1/late.jpg"] == ids["/x/A/1/a.jpg"]


def test_an_unfinished_scoring(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=[3, 5], finish=False)
    with pytest.raises(InputError, match="--partial"):
        run(tmp_path)
    done, tables = run(tmp_path, partial=True)
    assert len(tables["rows"]) == 3
    assert "partial: 3 of 8" in str(done)


def test_rows_that_are_not_those_of_the_plan(place: Path) -> None:
    part = next((place / "predictions").glob("part-00001*"))
    pq.write_table(pq.read_table(part).slice(1), part)
    with pytest.raises(RunError, match="7 rows for 8 planned"):
        run(place)
    pq.write_table(pa.concat_tables([pq.read_table(part)] * 2), part)
    with pytest.raises(RunError, match="11 rows for 8 planned"):
        run(place)
    assert not (place / "events").exists()


def test_nothing_in_an_event(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", [{"uri": "/x/a.jpg", "status": "missing"}], images="/x")
    done, tables = run(tmp_path)
    assert (done.rows, done.events, tables["events"], tables["sites"]) == (1, 0, [], [])


def test_existing_output_is_kept(place: Path) -> None:
    (place / "events").mkdir()
    (place / "events" / "rows.parquet").write_text("mine")
    with pytest.raises(StorageError, match="already exists"):
        run(place, overwrite=False)
    with pytest.raises(ConfigError, match="would be overwritten"):
        run(place, taxonomy=str(place / "events" / "rows.parquet"))
    assert (place / "events" / "rows.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site_pattern": None}, "give --site-pattern"),
        ({"site_pattern": "{place}/*"}, "site-pattern"),
        ({"output": "p/events"}, "is in --predictions"),
        ({"gap": "5"}, "--gap is '5': it must be a number with ms, s, min or h"),
        ({"burst_gap": "-5s"}, "--burst-gap is '-5s'"),
        ({"rollup_threshold": 0.5}, "give --taxonomy"),
        ({"rollup_threshold": 1.5, "taxonomy": "t.csv"}, "above 0 and at most 1"),
        ({"blank": ("Person",)}, "--human"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    given = {"predictions": "p", "output": "e", "site_pattern": "{camera}/*"}
    with pytest.raises(ConfigError, match=message):
        EventsConfig(**{**given, **options})


def test_gaps() -> None:
    assert [parse_gap("gap", text) for text in ("0s", "2h", "0.5s", "1 min")] == [
        0, 7_200_000_000, 500_000, 60_000_000,
    ]  # fmt: skip


def test_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(place / "e")
    main(["events", "--predictions", str(place / "predictions"), "--output", output,
          "--site-pattern", "{site}/{camera}/*", "--quiet"])  # fmt: skip
    assert "8 rows in 2 events with 3 observations" in capsys.readouterr().out
    assert pq.read_table(f"{output}/rows.parquet").num_rows == 8


def test_events_of_the_standards_example(standard: Path, tmp_path: Path) -> None:
    """The images of Camtrap DP's example, with observations as boxes, fall into the events that its
    authors made, with the same species."""
    folder = standard / "example"
    with open(folder / "media.csv", newline="") as file:
        media = {row["mediaID"]: row for row in csv.DictReader(file)}
    with open(folder / "observations.csv", newline="") as file:
        observed = list(csv.DictReader(file))
    given = sorted((row for row in observed if row["mediaID"]), key=lambda row: row["mediaID"])
    theirs = {row["mediaID"]: row["eventID"] for row in given}
    rows = []
    for number, row in enumerate(given):
        image = media[row["mediaID"]]
        label = row["scientificName"] or row["observationType"]
        where = f"/x/{image['deploymentID']}/{row['mediaID']}.jpg"
        found = scored(where, (label, 0.9), captured_at=image["timestamp"])
        rows.append({**found, **box(number, "animal", 0.9, 0, 0, 1, 1)})
    predict(tmp_path / "predictions", rows, images="/x")
    _, tables = run(tmp_path, gap="2min", site_pattern="{deployment}/*")
    names = {row["event_id"]: theirs[Path(row["uri"]).stem] for row in tables["rows"]}
    ours = {Path(row["uri"]).stem: names[row["event_id"]] for row in tables["rows"]}
    assert ours == theirs
    assert len(names) == len(set(theirs.values())) == 34
    told = {
        (row["eventID"], row["scientificName"] or row["observationType"])
        for row in observed
        if row["observationLevel"] == "event" and row["eventID"] in theirs.values()
    }
    found_there = {(names[row["event_id"]], row["label"]) for row in tables["events"]}
    # Three blank images have no observation of their event, and people were made anonymous there.
    assert Counter(label for _, label in found_there - told) == {"blank": 3, "Homo sapiens": 1}
    assert {label for _, label in told - found_there} == {"unclassified"}


_PEAK = """
import re, sys
sys.path.insert(0, sys.argv[1])
from monkeyray.exports.options import EventsConfig
from monkeyray.exports.events.tables import events
from monkeyray.options import StoreConfig
events(EventsConfig(predictions=sys.argv[2], output=sys.argv[3], site_pattern="{site}/*",
                    store=StoreConfig(quiet=True)))
# Not ru_maxrss, which a process inherits from its parent.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (20_000, 72_000):
        place = tmp_path / str(count)
        predict(place, shuffled(count), images="/x")
        root = str(Path(__file__).parents[3])
        command = [sys.executable, "-c", _PEAK, root, str(place), f"{place}-events"]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    # As Python objects, the rows would take some 100 MB more.
    assert peaks[1] - peaks[0] < 50
