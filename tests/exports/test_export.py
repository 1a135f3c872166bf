"""The export job: its inputs, CSV, and mistakes found before anything is written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monkeyray.cli.main import main
from monkeyray.errors import ConfigError, InputError, MonkeyRayError
from monkeyray.exports.csv import SCHEMA
from monkeyray.exports.export import export
from monkeyray.exports.job import Export
from monkeyray.exports.options import ExportConfig
from monkeyray.images.listing import list_images
from monkeyray.options import StoreConfig
from monkeyray.storage.store import Storage
from tests.support.predicted import box, predict, scored

ROWS = [
    scored("/x/A/1/a.jpg", ("n0", 0.75), ("empty", 0.25), captured_at="2021-05-31T08:25:38"),
    {"uri": "/x/A/1/b.jpg", "status": "missing", "error": 'no "b"\nat all'},
    scored("/x/A/1/c.jpg", ("empty", 0.5), ("n0", 0.25), captured_at="2021-05-31T08:25:39"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=[2, 1])
    return tmp_path


def run(place: Path, **options: Any) -> Export:
    given = {"predictions": str(place / "predictions"), "store": StoreConfig(quiet=True)}
    return export(ExportConfig(**{**given, **options}))


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_failures_are_a_manifest(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"uri": "/x/B/d.jpg", "status": "crashed", "error": "=1+1", **box(0, "animal", 0.9)},
        {"uri": "/x/B/d.jpg", "status": "crashed", "error": "again", **box(1, "animal", 0.8)},
        {"uri": "/x/B/e.jpg", "status": "person", **box(0, "person", 0.8)},
        {"uri": "/x/B/f.jpg", "status": "blank", **box(None, "blank")},
        {"uri": "/x/B/g.jpg", "status": "undetected", "captured_at": "2021-05-31T08:00:00"},
    ]
    predict(tmp_path / "predictions", rows, images="/x", sizes=[4, 4])
    done = run(tmp_path, format="failures", output=str(tmp_path / "failures.csv"))
    assert done.kinds == {"missing": 1, "crashed": 1, "undetected": 1}
    found = lines(tmp_path / "failures.csv")
    assert [(row["uri"], row["failure"], row["reason"]) for row in found] == [
        ("/x/A/1/b.jpg", "missing", 'no "b"\nat all'), ("/x/B/d.jpg", "crashed", "'=1+1"),
        ("/x/B/g.jpg", "undetected", ""),
    ]  # fmt: skip
    (tables,) = list_images(str(tmp_path / "failures.csv"), Storage(), Counter())
    assert tables["uri"].to_pylist() == [row["uri"] for row in found]
    assert tables["captured_at"].to_pylist() == [None, None, "2021-05-31T08:00:00"]


def test_csv(place: Path) -> None:
    (place / "deployments.csv").write_text(
        "deployment_id,latitude,longitude,start,end,time_zone\n"
        "d1,51.5,4.75,2021-01-01,2021-12-31,Europe/Brussels\n"
    )
    (place / "taxa.csv").write_text("label,latin_name,common_name\nn0,vulpes_vulpes,fox\n")
    done = run(
        place,
        format="csv",
        output=str(place / "out" / "all.csv"),
        deployments=str(place / "deployments.csv"),
        taxonomy=str(place / "taxa.csv"),
    )
    assert done.kinds == {"animal": 1, "blank": 1, "not classified": 1}
    fox, missing, blank = lines(place / "out" / "all.csv")
    assert list(fox) == SCHEMA.names
    assert (fox["uri"], fox["path"], fox["label"]) == ("/x/A/1/a.jpg", "A/1/a.jpg", "n0")
    assert float(fox["score"]) == 0.75
    assert json.loads(fox["top_k"]) == [["n0", 0.75], ["empty", 0.25]]
    assert (fox["scientific_name"], fox["common_name"]) == ("Vulpes vulpes", "fox")
    assert fox["timestamp"] == "2021-05-31T08:25:38+02:00"
    assert fox["predicted_at"] == "2026-03-04T05:06:07+00:00"
    assert (fox["deployment_id"], fox["latitude"], fox["longitude"]) == ("d1", "51.5", "4.75")
    assert (missing["status"], missing["error"]) == ("missing", 'no "b"\nat all')
    assert (missing["label"], missing["observation_type"], missing["top_k"]) == ("", "", "")
    assert (missing["undated"], missing["timestamp"]) == ("no_time", "")
    assert blank["observation_type"] == "blank"
    assert "3 images exported" in str(done)


def test_a_csv_rolled_up(tmp_path: Path) -> None:
    pair = (("lion", 0.5), ("leopard", 0.375))
    rows = [
        scored("/x/a.jpg", *pair, decision="below_threshold"),
        scored("/x/b.jpg", *pair, decision="accepted"),
        scored("/x/c.jpg", ("lion", 0.875), decision="no_threshold"),
        scored("/x/d.jpg", ("lion", 0.5), ("empty", 0.5)),
        {"uri": "/x/e.jpg", "status": "missing", "error": "gone"},
    ]
    predict(tmp_path / "predictions", rows, images="/x")
    (tmp_path / "taxa.csv").write_text(
        "label,scientific_name\nlion,Panthera leo\nleopard,Panthera pardus\n"
    )
    run(tmp_path, format="csv", output=str(tmp_path / "all.csv"),
        taxonomy=str(tmp_path / "taxa.csv"), rollup_threshold=0.8)  # fmt: skip
    names = ("rollup_rank", "rollup_taxon", "rollup_score")
    assert [tuple(row[name] for name in names) for row in lines(tmp_path / "all.csv")] == [
        ("genus", "Panthera", "0.875"),
        ("species", "Panthera leo", "0.5"),
        ("species", "Panthera leo", "0.875"),
        ("", "", ""),
        ("", "", ""),
    ]


def test_missing_table_entries_are_reported(place: Path) -> None:
    (place / "deployments.csv").write_text("deployment_id,site,camera\nd1,a,1\n")
    (place / "taxa.csv").write_text("label,scientific_name\nN0,Vulpes vulpes\n")
    tables = {
        "deployments": str(place / "deployments.csv"),
        "taxonomy": str(place / "taxa.csv"),
        "overwrite": True,
    }
    said = str(run(place, format="csv", output=str(place / "all.csv"),
                   site_pattern="{site}/{camera}/*", **tables))  # fmt: skip
    assert "3 no deployment matches the site and camera in their path" in said
    assert (
        "A/1/a.jpg has site 'A', camera '1', but the first row of --deployments has 'a', '1'"
        in (said)
    )
    assert "1 label not in --taxonomy (n0)" in said
    said = str(run(place, format="csv", output=str(place / "all.csv"),
                   site_pattern="{site}-{camera}", **tables))  # fmt: skip
    assert "A/1/a.jpg does not match --site-pattern {site}-{camera}" in said
    del tables["deployments"]
    said = str(run(place, format="megadetector", output=str(place / "all.json"), **tables))
    assert "(n0)" in said


def test_columns_are_stable_without_tables_and_with_later_columns(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", ROWS, images="/x", extra={"a_later_column": pa.float32()})
    run(tmp_path, format="csv", output=str(tmp_path / "all.csv"))
    fox = lines(tmp_path / "all.csv")[0]
    assert list(fox) == SCHEMA.names
    assert (fox["uri"], fox["label"], fox["timestamp"]) == ("/x/A/1/a.jpg", "n0", "")


def test_an_unfinished_run_is_refused_or_exported_in_part(tmp_path: Path) -> None:
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=[2, 1], finish=False)
    options = {"format": "csv", "output": str(tmp_path / "all.csv")}
    with pytest.raises(InputError, match=r"1 of 2 files.*--partial"):
        run(tmp_path, **options)
    done = run(tmp_path, **options, partial=True)
    assert "partial: 2 of 3 images" in str(done)
    assert len(lines(tmp_path / "all.csv")) == 2


def test_a_finished_run_with_a_file_gone_is_refused(place: Path) -> None:
    next((place / "predictions").glob("part-00001*")).unlink()
    with pytest.raises(InputError, match="1 of 2 files"):
        run(place, format="csv", output=str(place / "all.csv"))


def test_broken_predictions_leave_no_export(place: Path) -> None:
    part = next((place / "predictions").glob("part-00001*"))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00001.*cannot be read"):
        run(place, format="csv", output=str(place / "out" / "all.csv"))
    assert list((place / "out").iterdir()) == []


def test_places_without_predictions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no predictions in .*no _run\.json"):
        run(tmp_path, format="csv", output=str(tmp_path / "all.csv"))
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "_run.json").write_text("[]")
    with pytest.raises(InputError, match="damaged"):
        run(tmp_path, format="csv", output=str(tmp_path / "all.csv"))


def test_existing_output_is_kept(place: Path) -> None:
    output = place / "all.csv"
    output.write_text("mine")
    options = {"format": "csv", "output": str(output)}
    with pytest.raises(MonkeyRayError, match=r"already exists.*--overwrite"):
        run(place, **options)
    assert output.read_text() == "mine"
    run(place, **options, overwrite=True)
    assert len(lines(output)) == 3
    with pytest.raises(ConfigError, match=r"--taxonomy .* would be overwritten"):
        run(place, **options, overwrite=True, taxonomy=str(output))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "camtrap-dp"}, "needs --project"),
        ({"format": "camtrap-dp", "project": "p.json"}, "needs --deployments"),
        ({"format": "megadetector", "deployments": "d.csv"}, "drop --deployments"),
        ({"format": "csv", "site_pattern": "{site}/*"}, "give --deployments too"),
        ({"format": "csv", "site_pattern": "{place}/*"}, "site-pattern"),
        ({"format": "csv", "output": "p/all.csv"}, "is in --predictions"),
        ({"format": "csv", "blank": ("Person",)}, "--human"),
        ({"format": "csv", "rollup_threshold": 0.8}, "give --taxonomy"),
        ({"format": "csv", "rollup_threshold": 0.0, "taxonomy": "t.csv"}, "above 0 and at most 1"),
        (
            {"format": "megadetector", "rollup_threshold": 0.8, "taxonomy": "t.csv"},
            "drop --rollup-threshold",
        ),
        ({"format": "xlsx"}, "one of camtrap-dp, megadetector, csv"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportConfig(**{"predictions": "p", "output": "all", **options})


def test_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(place / "all.csv")
    given = ["--predictions", str(place / "predictions"), "--output", output, "--quiet"]
    main(["export", *given, "--format", "csv", "--blank", "empty", "nothing"])
    assert f"written to {output}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["export", *given, "--format", "csv"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_out_of_s3_and_into_it(s3: Storage) -> None:
    predict("s3://photos/export/p", ROWS, images="/x", storage=s3)
    store = StoreConfig(quiet=True, s3_endpoint=s3.s3_endpoint)
    uri = "s3://photos/export/all.csv"
    export(ExportConfig(predictions="s3://photos/export/p", format="csv", output=uri, store=store))
    assert s3.read(uri).data.count(b"/x/A/1/") == 3


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    storage = Storage()

    def break_off() -> None:
        with storage.writing(str(path)) as file:
            file.write(b"new")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        break_off()
    assert path.read_text() == "old"
    with storage.writing("memory://bucket/big") as file:
        file.write(b"x" * 3_000_000)
    assert len(storage.read("memory://bucket/big").data) == 3_000_000
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


_PEAK = """
import re, sys
sys.path.insert(0, sys.argv[1])
from monkeyray.exports.options import ExportConfig
from monkeyray.exports.export import export
from monkeyray.images.listing import list_images
from monkeyray.options import StoreConfig
export(ExportConfig(predictions=sys.argv[2], format=sys.argv[3], output=sys.argv[4],
                    store=StoreConfig(quiet=True)))
# Not ru_maxrss, which a process inherits from its parent.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks: dict[str, list[int]] = {"csv": [], "megadetector": []}
    for count in (20_000, 80_000):  # the smaller one fills all buffers
        place = tmp_path / str(count)
        row = scored("", ("n0", 0.7), ("n1", 0.2))
        rows = [row | {"uri": f"/x/{'folder' * 9}/{i}.jpg"} for i in range(count)]
        predict(place, rows, images="/x")
        for kind, found in peaks.items():
            root = str(Path(__file__).parents[2])
            command = [sys.executable, "-c", _PEAK, root, str(place), kind, f"{place}.{kind}"]
            found.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    # The larger file has 20 MB, and its rows as Python objects would take some 100 MB.
    assert all(large - small < 50 for small, large in peaks.values())
