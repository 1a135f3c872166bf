"""What people write of deployments, as Camtrap DP takes it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from monkeyray.errors import InputError
from monkeyray.exports.camtrap_deployments import deployments_csv
from monkeyray.exports.deployments import read_deployments
from monkeyray.storage.store import Storage
from tests.exports.test_camtrap import TIME, make, problems, standard  # noqa: F401
from tests.support.predicted import scored

HEAD = "deploymentID,latitude,longitude,start,end,time_zone"
ROW = "d1,51.5,4.75,2021-05-01,2021-06-30,UTC"
WRITTEN = {
    "coordinate_uncertainty": ("187.0", "187"),
    "cameraHeight": ("1.20", "1.2"),
    "camera tilt": ("-90", "-90"),
    "cameraHeading": ("NA", ""),
    "baitUse": ("Yes", "true"),
    "timestampIssues": ("FALSE", "false"),
    "featureType": ("road paved", "roadPaved"),
    "habitat": ("=marsh", "=marsh"),
}


def table(columns: dict[str, str]) -> str:
    return f"{','.join([HEAD, *columns])}\n{','.join([ROW, *columns.values()])}\n"


def written(folder: Path, columns: dict[str, str]) -> list[str]:
    (folder / "d.csv").write_text(table(columns))
    rows = read_deployments(str(folder / "d.csv"), Storage(), None).rows
    (row,) = csv.DictReader(io.StringIO(deployments_csv(rows).decode()))
    letters = {"".join(x for x in name.lower() if x.isalnum()): name for name in row}
    return [row[letters[name.lower().replace("_", "").replace(" ", "")]] for name in columns]


def test_what_is_meant_is_written_as_the_standard_has_it(
    tmp_path: Path,
    standard: Path,  # noqa: F811
) -> None:
    given = {name: text for name, (text, _) in WRITTEN.items()}
    assert written(tmp_path, given) == [text for _, text in WRITTEN.values()]
    (tmp_path / "taxa.csv").write_text("label,scientific_name,taxonRank\nfox,Vulpini,Tribe\n")
    make(tmp_path, [scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME)], table=table(given),
         site_pattern=None, taxonomy=str(tmp_path / "taxa.csv"))  # fmt: skip
    assert problems(tmp_path / "package", standard) == []


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("coordinateUncertainty", "0", "a whole number from 1:"),
        ("cameraDelay", "2.5", "a whole number from 0:"),
        ("cameraHeight", "low", "a number from 0:"),
        ("cameraHeading", "361", "a whole number from 0 to 360:"),
        ("detectionDistance", "inf", "a number from 0:"),
        ("baitUse", "maybe", "true or false:"),
        ("featureType", "road", "one of roadPaved, "),
    ],
)
def test_what_it_does_not_take_is_refused(tmp_path: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(
        InputError, match=f"d1 has the {name} '{text}', and Camtrap DP takes {what}"
    ):
        written(tmp_path, {name: text})
