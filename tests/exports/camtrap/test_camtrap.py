"""Camtrap DP: frictionless accepts the packages by the standard's own schemas."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from monkeyray.errors import ConfigError, InputError
from monkeyray.exports.camtrap.profile import deployments_csv
from monkeyray.exports.camtrap.tables import file_path
from monkeyray.exports.deployments import read_deployments
from monkeyray.exports.options import ExportConfig
from monkeyray.images.decode import decode
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.camtrap import PROJECT, SCHEMAS, TABLE, TIME, make_package, problems, read_csv
from tests.support.predicted import MODEL_ID, box, scored

RESEARCH = PROJECT["project"]


def test_the_schemas_are_the_standards(standard: Path) -> None:
    for path in standard.glob("*.json"):
        assert (SCHEMAS / path.name).read_bytes() == path.read_bytes()


def test_the_checker_accepts_good_and_rejects_bad_packages(standard: Path, tmp_path: Path) -> None:
    package = tmp_path / "example"
    shutil.copytree(standard / "example", package)
    for path in (package, *package.rglob("*")):
        path.chmod(0o755)
    assert problems(package) == []
    media = (package / "media.csv").read_text()
    (package / "media.csv").write_text(media.replace("2020-05-30T04:57:37+02:00", "yesterday"))
    assert any("yesterday" in problem for problem in problems(package))


def test_every_kind_of_row(tmp_path: Path) -> None:
    def image(path: str, label: str, score: float, **rest: Any) -> dict[str, Any]:
        return scored(f"/x/{path}", (label, score), **{"captured_at": TIME, **rest})

    rows = [
        image("A/1/fox 1.jpg", "fox", 0.75, decision="accepted"),
        image("A/1/low.JPG", "fox", 0.25, decision="below_threshold"),
        image("A/1/none.png", "empty", 1.0000001, decision="no_threshold"),
        image("B/1/man.jpg", "person", 0.5, status="truncated", error="cut off"),
        image("B/1/car.jpg", "vehicle", 0.5),
        image("B/1/deer.jpg", "roe|deer", 0.5),
        {"uri": "/x/B/1/big.jpg", "status": "too_large", "error": "!", "captured_at": TIME},
        {"uri": "/x/B/1/gone.jpg", "status": "missing", "error": "gone"},
        image("A/1/old.jpg", "fox", 0.5, captured_at="2000-01-01T00:00:00"),
        image("C/1/far.jpg", "fox", 0.5),
        image("A/1/two..dots.jpg", "fox", 0.5),
        image("A/1/far.jpg", "fox", 0.5, captured_at="2021-05-31T08:25:38-08:00"),
    ]
    done = make_package(tmp_path, rows)
    package = tmp_path / "package"
    assert problems(package) == []
    media, seen = read_csv(package / "media.csv"), read_csv(package / "observations.csv")
    assert len(media) == len(seen) == 8
    assert len({row["mediaID"] for row in media}) == 8
    fox = media[0]
    assert (fox["deploymentID"], fox["timestamp"]) == ("d1", "2021-05-31T09:25:38+02:00")
    assert (fox["filePath"], fox["fileName"]) == ("A/1/fox 1.jpg", "fox 1.jpg")
    assert (fox["filePublic"], fox["captureMethod"]) == ("false", "activityDetection")
    assert [row["fileMediatype"] for row in media[:3]] == ["image/jpeg", "image/jpeg", "image/png"]
    assert media[3]["timestamp"] == "2021-05-31T08:25:38+03:00"
    assert media[3]["mediaComments"] == "truncated: cut off"
    assert [row["observationType"] for row in seen] == [
        "animal", "unknown", "blank", "human", "vehicle", "animal", "unclassified", "animal",
    ]  # fmt: skip
    assert [row["scientificName"] for row in seen] == ["Vulpes vulpes", *[""] * 6, "Vulpes vulpes"]
    assert seen[0]["mediaID"] == fox["mediaID"]
    assert seen[0]["classificationMethod"] == "machine"
    assert seen[0]["classifiedBy"] == f"MonkeyRay model {MODEL_ID}"
    assert seen[0]["classificationTimestamp"] == "2026-03-04T05:06:07Z"
    assert [float(row["classificationProbability"]) for row in seen[:3]] == [0.75, 0.25, 1.0]
    assert seen[1]["observationTags"] == "label:fox | decision:below_threshold"
    assert seen[5]["observationTags"] == "label:roe/deer"
    assert seen[6]["classificationMethod"] == seen[6]["classificationProbability"] == ""
    # Known without a table: eight images of two cameras at one time.
    assert len({row["eventID"] for row in seen} - {""}) == 2
    left = {row["uri"]: row["reason"] for row in read_csv(package / "left-out.csv")}
    assert left == {
        "/x/B/1/gone.jpg": "no_time",
        "/x/A/1/old.jpg": "outside_deployment",
        "/x/C/1/far.jpg": "no_deployment",
        "/x/A/1/two..dots.jpg": "no_path",
    }
    places = read_csv(package / "deployments.csv")
    assert [row["deploymentID"] for row in places] == ["d1", "d2"]
    assert places[0]["habitat"] == "marsh, wet"
    assert places[0]["deploymentEnd"] == "2021-06-30T23:59:59+02:00"
    described = json.loads((package / "datapackage.json").read_text())
    assert described["taxonomic"] == [{"scientificName": "Vulpes vulpes"}]
    assert described["temporal"] == {"start": "2021-05-01", "end": "2021-06-30"}
    assert described["spatial"]["coordinates"][0][0] == [4.774, -1.28]
    assert described["project"]["observationLevel"] == ["media"]
    # Without it, GBIF's converter takes observations of events alone.
    assert described["gbifIngestion"] == {"observationLevel": "media"}
    text = str(done)
    for words in (
        "8 images exported",
        "4 images without",
        "left-out.csv",
        "roe|deer",
        "1 image with another UTC offset",
    ):
        assert words in text


def test_observations_of_events(tmp_path: Path) -> None:
    """Two visits to one camera, in a package for GBIF at the level of events."""

    def image(second: int, label: str, score: float, **rest: Any) -> dict[str, Any]:
        time = f"2021-05-31T{8 + second // 3600:02}:{second % 3600 // 60:02}:{second % 60:02}"
        return scored(f"/x/A/1/{second}.jpg", (label, score), captured_at=time, **rest)

    def seen(second: int, number: int, category: str, **rest: Any) -> dict[str, Any]:
        return {
            **box(number, category, 0.75, 0.1, 0.1, 0.2, 0.2),
            **image(second, "fox", 0.9),
            **rest,
        }

    nothing = dict.fromkeys(("label", "score", "top_k"))
    rows = [
        seen(0, 0, "animal", decision="accepted"),
        seen(60, 0, "animal", decision="below_threshold"),
        seen(60, 1, "animal", decision="accepted"),
        seen(60, 2, "person", **nothing, status="person"),
        {**seen(90, 0, "animal"), **image(90, "deer", 0.4, decision="below_threshold")},
        {**seen(95, 0, "animal"), **image(99, "hare", 0.3, decision="below_threshold")},
        {**seen(120, 0, "animal", **nothing), "status": "crashed", "error": "!"},
        {**image(7200, "fox", 0.9), **nothing, **box(None, "blank"), "status": "blank"},
        {**image(7205, "fox", 0.9), **nothing, **box(None, "blank"), "status": "blank"},
        # In no deployment, so neither an image nor an event of the package.
        scored(
            "/x/C/1/far.jpg", ("fox", 0.5), captured_at=TIME, **box(0, "animal", 0.5, 0, 0, 1, 1)
        ),
    ]
    done = make_package(tmp_path, rows, observation_level="event")
    package = tmp_path / "package"
    assert problems(package) == []
    observations = read_csv(package / "observations.csv")
    media = [row for row in observations if row["observationLevel"] == "media"]
    events = [row for row in observations if row["observationLevel"] == "event"]
    assert len(media) == 9
    assert len({row["eventID"] for row in media}) == 2
    assert "" not in {row["eventID"] for row in observations}
    assert [row["eventID"] for row in events] == [media[0]["eventID"]] * 3 + [media[-1]["eventID"]]
    columns = ("observationType", "scientificName", "count", "mediaID")
    assert [tuple(row[name] for name in columns) for row in events] == [
        ("animal", "Vulpes vulpes", "2", ""), ("human", "", "1", ""),
        # Two labels that no threshold accepted are one unknown observation.
        ("unknown", "", "1", ""), ("blank", "", "", ""),
    ]  # fmt: skip
    fox = events[0]
    assert (fox["eventStart"], fox["eventEnd"], fox["deploymentID"]) == (
        "2021-05-31T09:00:00+02:00", "2021-05-31T09:02:00+02:00", "d1",
    )  # fmt: skip
    assert fox["classifiedBy"] == f"MonkeyRay model {MODEL_ID}"
    assert (fox["bboxX"], fox["classificationProbability"]) == ("", "0.9")
    described = json.loads((package / "datapackage.json").read_text())
    assert described["gbifIngestion"] == {"observationLevel": "event"}
    assert described["project"]["observationLevel"] == ["media", "event"]
    assert "4 observations of events" in str(done)
    assert done.kinds.total() == 9


def test_events_are_rolled_up(tmp_path: Path) -> None:
    pair = (("lion", 0.5), ("leopard", 0.375))
    rows = [
        scored("/x/A/1/1.jpg", *pair, captured_at=TIME),
        scored("/x/A/1/2.jpg", *pair[::-1], captured_at="2021-05-31T08:35:38"),
        scored("/x/A/1/3.jpg", ("fox", 0.6), captured_at="2021-05-31T08:45:38"),
    ]
    labels = {"fox": "Vulpes vulpes", "lion": "Panthera leo", "leopard": "Panthera pardus"}
    project = {**PROJECT, "labels": labels}
    make_package(tmp_path, rows, project=project, rollup_threshold=0.8, observation_level="event")
    assert problems(tmp_path / "package") == []
    observations = read_csv(tmp_path / "package" / "observations.csv")
    events = [row for row in observations if row["observationLevel"] == "event"]
    # Two bursts of one genus are one observation of it.
    assert [(row["observationType"], row["scientificName"]) for row in events] == [
        ("animal", "Animalia"), ("animal", "Panthera"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--observation-level"):
        ExportConfig(predictions="p", output="o", format="csv", observation_level="event")


def test_the_standards_own_photographs(tmp_path: Path, standard: Path) -> None:
    """Ten real photographs with the times of their EXIF, in a package that lies above them."""
    shutil.copytree(standard / "example" / "media", tmp_path / "package" / "media" / "A" / "1")
    rows = []
    for path in sorted((tmp_path / "package" / "media").rglob("*.JPG")):
        captured_at = decode(path.read_bytes(), 32).captured_at
        rows.append(scored(str(path), ("fox", 0.75), captured_at=captured_at))
    table = "id,lat,lon,start,end,tz,deployment\n1,51,4,2021-04-01,2021-05-01,+01:00,d\n"
    images = str(tmp_path / "package" / "media")
    make_package(tmp_path, rows, images=images, table=table, site_pattern=None)
    package = tmp_path / "package"
    assert problems(package) == []
    media = read_csv(package / "media.csv")
    assert len(media) == 10
    assert all((package / row["filePath"]).is_file() for row in media)
    theirs = {
        row["fileName"]: row["timestamp"] for row in read_csv(standard / "example" / "media.csv")
    }
    assert {row["fileName"]: row["timestamp"] for row in media}.items() <= theirs.items()


def test_images_in_a_store_have_urls(tmp_path: Path) -> None:
    uri = "s3://bucket/a b/A/1/x..y.jpg"
    rows = [scored(uri, ("fox", 0.75), captured_at=TIME)]
    make_package(tmp_path, rows, images="s3://bucket/a b")
    assert problems(tmp_path / "package") == []
    (medium,) = read_csv(tmp_path / "package" / "media.csv")
    assert medium["filePath"] == "s3://bucket/a%20b/A/1/x%2E%2Ey.jpg"
    rows[0]["uri"] = "s3://bucket/a b/A/1/x.jpg"
    make_package(tmp_path / "2", rows, images="s3://bucket/a b", relative_to="s3://bucket/a b")
    (medium,) = read_csv(tmp_path / "2" / "package" / "media.csv")
    assert medium["filePath"] == "A/1/x.jpg"


@pytest.mark.parametrize("name", ["/y/a.jpg", "/x/.a/b.jpg", "/x/~a/b.jpg", "/x/a/../b", "/x/a\nb"])
def test_paths_that_the_standard_does_not_take(name: str) -> None:
    assert file_path(name, Location.of("/x")) is None


def test_taxa_of_the_project_file_and_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text(
        "label,latin_name,taxonRank,family,vernacularNames.eng\n"
        "n0,ardea_cinerea,species,Ardeidae,grey heron\n"
    )
    known = {"scientificName": "Vulpes vulpes", "taxonID": "https://x.org/5BSG3"}
    project = {**PROJECT, "taxonomic": [known, {"scientificName": "Martes foina"}]}
    rows = [
        scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME),
        scored("/x/A/1/2.jpg", ("n0", 0.75), captured_at=TIME),
    ]
    make_package(tmp_path, rows, project=project, taxonomy=str(tmp_path / "taxa.csv"))
    assert problems(tmp_path / "package") == []
    described = json.loads((tmp_path / "package" / "datapackage.json").read_text())
    heron = {
        "scientificName": "Ardea cinerea", "taxonRank": "species", "family": "Ardeidae",
        "vernacularNames": {"eng": "grey heron"},
    }  # fmt: skip
    assert described["taxonomic"] == [heron, known]


def test_package_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image fits into.*1 no time in their EXIF"):
        make_package(tmp_path, [scored("/x/A/1/1.jpg", ("fox", 0.75))])
    assert not list((tmp_path / "package").iterdir())


def test_a_package_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    rows = [scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME)]
    make_package(tmp_path, rows)
    with pytest.raises(Exception, match=r"datapackage\.json already exists"):
        make_package(tmp_path, rows)
    make_package(tmp_path, rows, overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contributors": []}, "contributors: "),
        ({"contributors": [{"role": "contact"}]}, "contributors[0]: 'title' is a required"),
        ({"contributors": [{"title": "A", "role": "boss"}]}, "role: 'boss' is not one of"),
        ({"contributors": [{"title": "A", "email": "none"}]}, "email: 'none' is not a 'email'"),
        ({"licenses": [{"name": "CC0-1.0", "scope": "data"}]}, "licenses: "),
        ({"licenses": [{"name": "CC0-1.0", "scope": "data"}] * 2}, "one with the scope media"),
        ({"licenses": [{"scope": "data"}, {"scope": "media"}]}, "needs a name or a path"),
        ({"project": None}, "project: None is not of type 'object'"),
        ({"project": {**RESEARCH, "samplingDesign": "odd"}}, "samplingDesign: 'odd' is not one of"),
        ({"project": {**RESEARCH, "captureMethod": []}}, "project.captureMethod: "),
        ({"project": {**RESEARCH, "individualAnimals": "no"}}, "individualAnimals: 'no' is not of"),
        ({"project": {**RESEARCH, "acronym": 3}}, "project.acronym: 3 is not of type 'string'"),
        ({"resources": []}, "resources is written by the export"),
        ({"filePublic": "yes"}, "filePublic: 'yes' is not of type 'boolean'"),
        ({"labels": {"fox": {"kind": "plant"}}}, "kind 'plant'"),
        ({"title": 3}, "title: 3 is not of type 'string'"),
        ({"name": "A Name"}, "name: 'A Name' does not match"),
        ({"sources": [{"path": "x"}]}, "sources[0]: 'title' is a required property"),
        ({"taxonomic": "foxes"}, "taxonomic: 'foxes' is not of type 'array'"),
        ({"keywords": "foxes"}, "keywords: 'foxes' is not of type 'array'"),
        ({"spatial": {"type": "Here"}}, "spatial.type: 'Here' is not one of"),
        ({"temporal": {"start": "2021-01-01"}}, "temporal: 'end' is a required property"),
        ({"temporal": {"start": "2021", "end": "2022"}}, "is not a 'date'"),
    ],
)
def test_mistakes_in_the_project_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME)]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make_package(tmp_path, rows, project={**PROJECT, **change})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "package").exists()


def test_a_project_file_in_toml(tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(
        '[[contributors]]\ntitle = "A Person"\n[project]\ntitle = "P"\n'
        'samplingDesign = "targeted"\ncaptureMethod = ["timeLapse", "activityDetection"]\n'
        "individualAnimals = false\n"
    )
    rows = [scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME)]
    make_package(tmp_path, rows, file="project.toml")
    assert problems(tmp_path / "package") == []
    assert read_csv(tmp_path / "package" / "media.csv")[0]["captureMethod"] == ""


@pytest.mark.parametrize("column", ["latitude", "longitude", "start", "end"])
def test_deployments_have_what_the_standard_requires(tmp_path: Path, column: str) -> None:
    head, first, _ = TABLE.splitlines()
    cells = first.split(",", 9)
    cells[head.split(",").index(column)] = ""
    rows = [scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME)]
    with pytest.raises(InputError, match=f"d1 has no {column}"):
        make_package(tmp_path, rows, table=f"{head}\n{','.join(cells)}\n")


def test_uncertain_labels_are_rolled_up(tmp_path: Path) -> None:
    pair = (("lion", 0.5), ("leopard", 0.375), ("empty", 0.125))
    rows = [
        scored("/x/A/1/a.JPG", *pair, decision="below_threshold", captured_at=TIME),
        scored("/x/A/1/b.JPG", *pair, decision="accepted", captured_at=TIME),
        scored("/x/A/1/c.JPG", ("lion", 0.5), ("empty", 0.5), captured_at=TIME),
        scored("/x/A/1/d.JPG", ("empty", 0.875), ("lion", 0.125), captured_at=TIME),
    ]
    labels = {
        "lion": {"scientificName": "Panthera leo", "family": "Felidae"},
        "leopard": {"scientificName": "Panthera pardus", "family": "Felidae"},
    }
    done = make_package(tmp_path, rows, project={**PROJECT, "labels": labels}, rollup_threshold=0.8)
    assert done.kinds == {"animal": 2, "unknown": 1, "blank": 1}
    with open(tmp_path / "package" / "observations.csv", newline="") as file:
        seen = list(csv.DictReader(file))
    names = ("observationType", "scientificName", "classificationProbability")
    assert [tuple(row[name] for name in names) for row in seen] == [
        ("animal", "Panthera", "0.875"),
        ("animal", "Panthera leo", "0.5"),
        ("unknown", "", "0.5"),
        ("blank", "", "0.875"),
    ]
    assert seen[0]["observationTags"] == "label:lion | decision:below_threshold"
    package = json.loads((tmp_path / "package" / "datapackage.json").read_text())
    assert package["taxonomic"] == [
        {"scientificName": "Panthera", "kingdom": "Animalia", "family": "Felidae",
         "taxonRank": "genus"},
        {"scientificName": "Panthera leo", "family": "Felidae"},
    ]  # fmt: skip
    assert problems(tmp_path / "package") == []


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


def test_spellings_are_normalised_to_the_standard(
    tmp_path: Path,
) -> None:
    given = {name: text for name, (text, _) in WRITTEN.items()}
    assert written(tmp_path, given) == [text for _, text in WRITTEN.values()]
    (tmp_path / "taxa.csv").write_text("label,scientific_name,taxonRank\nfox,Vulpini,Tribe\n")
    rows = [scored("/x/A/1/1.jpg", ("fox", 0.75), captured_at=TIME)]
    taxonomy = str(tmp_path / "taxa.csv")
    make_package(tmp_path, rows, table=table(given), site_pattern=None, taxonomy=taxonomy)
    assert problems(tmp_path / "package") == []


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
def test_invalid_project_files_are_refused(tmp_path: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(
        InputError, match=f"d1 has the {name} '{text}', but Camtrap DP requires {what}"
    ):
        written(tmp_path, {name: text})
