"""The versioned formats as docs/pages/formats.md documents them are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from monkeyray import errors
from monkeyray.exports.csv import SCHEMA
from monkeyray.images.boxes import PASSED, UNDETECTED
from monkeyray.model import bundle
from monkeyray.model.backbones import ONNX
from monkeyray.model.bundle_schema import COMPONENTS
from monkeyray.runs.run import MAY_PASS
from monkeyray.scoring.rows import OVERFLOW
from monkeyray.scoring.schema import SCHEMA_VERSION, SCORED, prediction_schema

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "pages" / "formats.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", PAGE, flags=re.M | re.S)
    assert found is not None
    return found[1]


def rows(heading: str, header: str) -> list[list[str]]:
    """The cells of a section's table that has this first header."""
    (table,) = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", section(heading), re.M)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_versions() -> None:
    assert f"**Version {SCHEMA_VERSION}**" in section("Predictions")
    schema = prediction_schema(pa.schema([("uri", pa.string())]))
    assert schema.metadata == {b"monkeyray.schema_version": str(SCHEMA_VERSION).encode()}


def test_statuses() -> None:
    documented = {name.strip("`") for name, _ in rows("Statuses", "status")}
    kinds = [getattr(each, "kind", None) for each in vars(errors).values()]
    kinds = [kind for kind in kinds if isinstance(kind, str)]
    known = {*SCORED, *MAY_PASS, *PASSED, UNDETECTED, OVERFLOW[0], *kinds}
    assert known <= documented
    code = "".join(path.read_text() for path in (ROOT / "monkeyray").rglob("*.py"))
    assert [each for each in documented if f'"{each}"' not in code] == []


def test_columns_of_the_csv() -> None:
    names = [
        name for cells, _ in rows("The CSV export", "csv column") for name in cells.split(", ")
    ]
    assert [name.strip("`") for name in names] == SCHEMA.names


def test_files_of_a_bundle() -> None:
    assert f"**Version {bundle.FORMAT_VERSION}**" in section("The bundle")
    files = [name.strip("`") for name, _ in rows("The bundle", "file")]
    arrays = [f"{part}-….safetensors" for part in (*COMPONENTS, bundle.KNOWN_IMAGES, bundle.INT8)]
    assert f"`backbone-….{ONNX}`" in section("The bundle")
    assert files == ["model.json", *arrays, bundle.REPORT, bundle.METRICS, "config.toml"]
    fields = [name.strip("`") for name, _ in rows("The bundle", "field")]
    assert fields == [*bundle.IDENTITY]
