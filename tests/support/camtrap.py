"""Camtrap DP packages for tests, and their validation by frictionless."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import monkeyray.exports.camtrap
from monkeyray.exports.export import export
from monkeyray.exports.job import Export
from monkeyray.exports.options import ExportConfig
from monkeyray.options import StoreConfig
from tests.support.predicted import predict

SCHEMAS = Path(monkeyray.exports.camtrap.__file__).parent / "schemas"
PROJECT: dict[str, Any] = {
    "title": "A package",
    "contributors": [{"title": "A Person", "role": "contact"}],
    "licenses": [{"name": "CC0-1.0", "scope": "data"}, {"name": "CC0-1.0", "scope": "media"}],
    "project": {
        "title": "A project",
        "samplingDesign": "targeted",
        "captureMethod": ["activityDetection"],
        "individualAnimals": False,
    },
    "labels": {"fox": "Vulpes vulpes"},
}
TABLE = (
    "deploymentID,locationID,camera,latitude,longitude,start,end,time_zone,clock_offset,habitat\n"
    'd1,A,1,51.496,4.774,2021-05-01,2021-06-30,Europe/Brussels,3600,"marsh, wet"\n'
    "d2,B,1,-1.28,36.8,2021-05-01,2021-06-30,Africa/Nairobi,,\n"
)
TIME = "2021-05-31T08:25:38"


class _Answer:
    """The part of an HTTP response that frictionless reads."""

    def __init__(self, data: bytes) -> None:
        self.raw = io.BytesIO(data)

    def raise_for_status(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Session:
    """Answers for the URLs that the standard's files refer to, from the schemas in the package."""

    def get(self, url: str, **options: Any) -> _Answer:
        import frictionless

        if url.startswith("https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/"):
            return _Answer((SCHEMAS / url.rpartition("/")[2]).read_bytes())
        if url == "https://specs.frictionlessdata.io/schemas/data-package.json":
            return _Answer(b"{}")  # frictionless checks that itself
        assert url == "http://json.schemastore.org/geojson.json"
        profiles = Path(frictionless.__file__).parent / "assets" / "profiles"
        return _Answer((profiles / "geojson.json").read_bytes())


def problems(package: Path) -> list[str]:
    """The errors that frictionless finds in a package by the standard's profile and schemas."""
    frictionless = pytest.importorskip("frictionless")
    with frictionless.system.use_context(http_session=_Session()):
        report = frictionless.validate(str(package / "datapackage.json"))
    return [" ".join(map(str, row)) for row in report.flatten(["path", "type", "note", "message"])]


def make_package(
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    project: Mapping[str, Any] = PROJECT,
    table: str = TABLE,
    images: str = "/x",
    file: str = "project.json",
    **options: Any,
) -> Export:
    """Export rows of predictions with a project file and a table of deployments."""
    if not (folder / "predictions").exists():
        predict(folder / "predictions", rows, images=images, threshold=0.5)
    (folder / "project.json").write_text(json.dumps(project))
    (folder / "deployments.csv").write_text(table)
    given: dict[str, Any] = {
        "predictions": str(folder / "predictions"),
        "format": "camtrap-dp",
        "output": str(folder / "package"),
        "project": str(folder / file),
        "deployments": str(folder / "deployments.csv"),
        "site_pattern": "{site}/{camera}/*",
        "store": StoreConfig(quiet=True),
    }
    return export(ExportConfig(**{**given, **options}))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
