"""The bursts job: one row per image, independent of the order of the images."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import monkeyray.exports.bursts
from monkeyray.cli.main import main
from monkeyray.errors import ConfigError, InputError, RunError, StorageError
from monkeyray.exports.burst_groups import BurstMeans
from monkeyray.exports.bursts import SCHEMA, Bursts, bursts
from monkeyray.exports.options import BurstsConfig, parse_gap
from monkeyray.options import StoreConfig
from tests.support.predicted import predict, scored

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


def run(place: Path, **options: Any) -> tuple[Bursts, list[dict[str, Any]]]:
    given: dict[str, Any] = {
        "predictions": str(place / "predictions"),
        "output": str(place / "bursts.parquet"),
        "site_pattern": "{site}/{camera}/*",
        "store": StoreConfig(quiet=True),
        "overwrite": True,
    }
    done = bursts(BurstsConfig(**{**given, **options}))
    return done, pq.read_table(done.uri).to_pylist()


def made(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By the first in the list, the images of each burst, without their folder."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["burst_id"], []).append(row["uri"].removeprefix("/x/"))
    return {names[0]: names for names in found.values()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=[3, 5])
    return tmp_path


def test_bursts_of_cameras(place: Path) -> None:
    done, rows = run(place)
    assert [row["uri"] for row in rows] == [row["uri"] for row in ROWS]
    assert pq.read_schema(done.uri).equals(SCHEMA)
    assert list(made(rows).values()) == [
        ["A/1/a.jpg", "A/1/b.jpg"], ["A/1/c.jpg"], ["A/1/d.jpg"], ["A/2/a.jpg", "A/2/z.jpg"],
        ["A/2/b.jpg"], ["loose.jpg"],
    ]  # fmt: skip
    first, second, broken, _, late, timeless, _, early = rows
    mean = {"burst_images": 2, "burst_label": "leopard", "burst_score": 0.5625}
    assert first.items() > {**mean, "burst_start": datetime(2021, 5, 31, 8)}.items()
    assert {**first, "uri": second["uri"]} == second
    assert early.items() > {**mean, "burst_start": datetime(2021, 5, 31, 7, 59, 55)}.items()
    assert late["burst_start"] == early["burst_start"]
    assert broken.items() > {"burst_images": 1, "burst_label": None, "burst_score": None}.items()
    assert (timeless["burst_label"], timeless["burst_score"]) == ("lion", 0.5)
    assert (timeless["burst_images"], timeless["burst_start"]) == (1, None)
    assert (done.images, done.bursts, done.together, done.changed) == (8, 2, 4, 2)
    assert list(done.alone.values()) == [1, 1, 1]
    assert done.notes == ()
    assert "8 images, 4 of them in 2 bursts" in str(done)


@pytest.mark.parametrize("form", ["uri", "exiftool"])
def test_given_times_count_before_those_of_the_predictions(place: Path, form: str) -> None:
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
    done, rows = run(place, times=str(place / "times.csv"))
    assert list(made(rows).values())[:3] == [
        ["A/1/a.jpg", "A/1/b.jpg", "A/1/d.jpg"], ["A/1/c.jpg"],
        ["A/2/a.jpg", "A/2/b.jpg", "A/2/z.jpg"],
    ]  # fmt: skip
    assert list(done.alone.values()) == [1, 1, 0]


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
    _, rows = run(place, burst_gap="6s")
    assert made(rows)["A/1/a.jpg"] == ["A/1/a.jpg", "A/1/b.jpg", "A/1/d.jpg"]
    _, rows = run(place, burst_gap="4999ms")
    assert all(row["burst_images"] == 1 for row in rows)


def test_joined_on_the_image(place: Path) -> None:
    run(place)
    found = duckdb.sql(
        f"SELECT uri, label, burst_label FROM '{place}/predictions/*.parquet' "
        f"JOIN '{place}/bursts.parquet' USING (uri) WHERE label <> burst_label ORDER BY uri"
    ).fetchall()
    assert found == [("/x/A/1/a.jpg", "lion", "leopard"), ("/x/A/2/a.jpg", "lion", "leopard")]


def test_deployments_divide_bursts_and_set_the_clock_right(place: Path) -> None:
    (place / "deployments.csv").write_text(
        "deployment_id,site,camera,start,end,time_zone,clock_offset\n"
        f"d1,A,1,2021-05-01,{DAY}08:00:02,UTC,\n"
        f"d2,A,1,{DAY}08:00:03,2021-06-30,UTC,\n"
        "d3,A,2,2021-05-01,2021-06-30,Europe/Brussels,-1:00:00\n"
    )
    _, rows = run(place, deployments=str(place / "deployments.csv"))
    assert made(rows)["A/1/a.jpg"] == ["A/1/a.jpg"]
    assert made(rows)["A/2/a.jpg"] == ["A/2/a.jpg", "A/2/z.jpg"]
    assert rows[4]["burst_start"] == datetime(2021, 5, 31, 6, 59, 55)


def test_single_deployment_needs_no_pattern(place: Path) -> None:
    (place / "deployments.csv").write_text("deployment_id\nd1\n")
    _, rows = run(place, site_pattern=None, deployments=str(place / "deployments.csv"))
    assert rows[0]["burst_images"] == 5
    assert rows[6]["burst_id"] == rows[0]["burst_id"]


def test_uncertain_labels_are_rolled_up(place: Path) -> None:
    (place / "taxa.csv").write_text(
        "label,scientific_name\nlion,Panthera leo\nleopard,Panthera pardus\n"
    )
    _, rows = run(place, taxonomy=str(place / "taxa.csv"))
    names = ("rollup_rank", "rollup_taxon", "rollup_score")
    assert [rows[0][name] for name in names] == ["species", "Panthera pardus", 0.5625]
    _, rows = run(place, taxonomy=str(place / "taxa.csv"), rollup_threshold=0.6)
    assert [rows[0][name] for name in names] == ["genus", "Panthera", 0.875]
    assert [rows[2][name] for name in names] == [None] * 3
    _, rows = run(place, taxonomy=str(place / "taxa.csv"), rollup_threshold=0.9)
    assert [rows[0][name] for name in names] == [None] * 3


def test_the_threshold_of_the_scoring_is_that_of_the_roll_up(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", ROWS, images="/x", threshold=0.8)
    (tmp_path / "taxa.csv").write_text(
        "label,scientific_name\nlion,Panthera leo\nleopard,Panthera pardus\n"
    )
    _, rows = run(tmp_path, taxonomy=str(tmp_path / "taxa.csv"))
    assert rows[0]["rollup_taxon"] == "Panthera"


def test_labels_that_are_not_listed(tmp_path: Path) -> None:
    rows = [
        scored("/x/A/1/a.jpg", ("lion", 0.4), captured_at=f"{DAY}08:00:00"),
        scored("/x/A/1/b.jpg", ("leopard", 0.6), captured_at=f"{DAY}08:00:00"),
        scored("/x/A/1/c.jpg", ("empty", 0.3)),
    ]
    predict(tmp_path / "predictions", rows, images="/x")
    done, found = run(tmp_path)
    # The residual of the lion's image is split between the leopard and the blank.
    assert found[0]["burst_label"] == "leopard"
    assert found[0]["burst_score"] == pytest.approx(0.45)
    # A distributed residual never exceeds a listed score.
    assert (found[2]["burst_label"], found[2]["burst_score"]) == ("empty", pytest.approx(0.3))
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


def test_in_rounds_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(tmp_path / "predictions", shuffled(500), images="/x", sizes=[200, 300])
    options = {"site_pattern": "{site}/*"}
    whole, rows = run(tmp_path, **options)
    assert {row["burst_images"] for row in rows} == {2, 3}
    pools = []

    def counted(sizes: Any) -> BurstMeans:
        pools.append(BurstMeans(sizes))
        return pools[-1]

    monkeypatch.setattr(monkeyray.exports.bursts, "_OPEN", 10_000)
    monkeypatch.setattr(monkeyray.exports.bursts, "BurstMeans", counted)
    again, same = run(tmp_path, **options, output=str(tmp_path / "again.parquet"))
    assert same == rows
    assert len(pools) > 2
    assert (whole.bursts, whole.changed) == (again.bursts, again.changed)


def test_names_of_bursts_stay_when_others_come(tmp_path: Path, place: Path) -> None:
    _, before = run(place)
    more = tmp_path / "more"
    new = scored("/x/A/0/new.jpg", *PAIR, captured_at=f"{DAY}08:00:00")
    late = scored("/x/A/1/late.jpg", *PAIR, captured_at=f"{DAY}08:00:06")
    predict(more / "predictions", [new, *ROWS, late], images="/x")
    _, after = run(more)
    ids = {row["uri"]: row["burst_id"] for row in after}
    assert all(ids[row["uri"]] == row["burst_id"] for row in before if "/d.jpg" not in row["uri"])
    assert ids["/x/A/1/late.jpg"] == ids["/x/A/1/a.jpg"]
    assert len(set(ids.values())) == len(made(after))


def test_an_unfinished_scoring(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=[3, 5], finish=False)
    with pytest.raises(InputError, match="--partial"):
        run(tmp_path)
    done, rows = run(tmp_path, partial=True)
    assert len(rows) == 3
    assert "partial: 3 of 8" in str(done)


def test_rows_that_are_not_those_of_the_plan(place: Path) -> None:
    part = next((place / "predictions").glob("part-00001*"))
    pq.write_table(pq.read_table(part).slice(1), part)
    with pytest.raises(RunError, match="7 rows for 8 planned"):
        run(place)
    pq.write_table(pa.concat_tables([pq.read_table(part)] * 2), part)
    with pytest.raises(RunError, match="11 rows for 8 planned"):
        run(place)
    assert not (place / "bursts.parquet").exists()


def test_existing_output_is_kept(place: Path) -> None:
    (place / "bursts.parquet").write_text("mine")
    with pytest.raises(StorageError, match="already exists"):
        run(place, overwrite=False)
    with pytest.raises(ConfigError, match="would be overwritten"):
        run(place, taxonomy=str(place / "bursts.parquet"))
    assert (place / "bursts.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site_pattern": None}, "give --site-pattern"),
        ({"site_pattern": "{place}/*"}, "site-pattern"),
        ({"output": "p/bursts.parquet"}, "is in --predictions"),
        ({"output": "bursts.CSV"}, "ends in .parquet"),
        ({"burst_gap": "5"}, "with ms, s, min or h"),
        ({"burst_gap": "-5s"}, "with ms, s, min or h"),
        ({"rollup_threshold": 0.5}, "give --taxonomy"),
        ({"rollup_threshold": 1.5, "taxonomy": "t.csv"}, "above 0 and at most 1"),
        ({"blank": ("Person",)}, "--human"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    given = {"predictions": "p", "output": "b.parquet", "site_pattern": "{camera}/*"}
    with pytest.raises(ConfigError, match=message):
        BurstsConfig(**{**given, **options})


def test_gaps() -> None:
    assert [parse_gap(text) for text in ("0s", "2h", "0.5s", "1 min")] == [
        0, 7_200_000_000, 500_000, 60_000_000,
    ]  # fmt: skip


def test_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(place / "b.parquet")
    main(["bursts", "--predictions", str(place / "predictions"), "--output", output,
          "--site-pattern", "{site}/{camera}/*", "--burst-gap", "1min", "--quiet"])  # fmt: skip
    assert "8 images, 5 of them in 2 bursts" in capsys.readouterr().out
    assert pq.read_table(output).num_rows == 8


_PEAK = """
import re, sys
sys.path.insert(0, sys.argv[1])
from monkeyray.exports.options import BurstsConfig
from monkeyray.exports.bursts import bursts
from monkeyray.options import StoreConfig
bursts(BurstsConfig(predictions=sys.argv[2], output=sys.argv[3], site_pattern="{site}/*",
                    store=StoreConfig(quiet=True)))
# Not ru_maxrss, which a process inherits from its parent.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (8_000, 60_000):
        place = tmp_path / str(count)
        predict(place, shuffled(count), images="/x")
        root = str(Path(__file__).parents[2])
        command = [sys.executable, "-c", _PEAK, root, str(place), f"{place}.parquet"]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    # As Python objects, the rows would take some 100 MB more.
    assert peaks[1] - peaks[0] < 50
