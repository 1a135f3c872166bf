"""What labels stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from monkeyray.errors import InputError
from monkeyray.exports.taxonomy import read_taxa
from monkeyray.storage.store import Storage

KINDS = {"blank": ("empty",), "human": ("person",)}


def test_a_table_a_project_and_options(tmp_path: Path) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text(
        "label,latin_name,common_name,Observation Type,order,vernacularNames.eng\n"
        "n0,alouatta_palliata,mantled_howler,,Primates,mantled howler\n"
        "car,Homo sapiens,,vehicle,,\n"
        "person,homo sapiens,,,,\n"
    )
    project = {"n0": {"scientificName": "Nonsense", "taxonRank": "species"}, "fox": "vulpes vulpes"}
    taxa = read_taxa(str(path), Storage(), KINDS, project)
    howler = taxa.of("n0")
    assert (howler.kind, howler.name) == ("animal", "mantled howler")
    assert howler.scientific_name == "Alouatta palliata"
    assert howler.rest == {
        "taxonRank": "species",
        "order": "Primates",
        "vernacularNames": {"eng": "mantled howler"},
    }
    assert (taxa.of("car").kind, taxa.of("car").scientific_name) == ("vehicle", None)
    assert (taxa.of("person").kind, taxa.of("person").scientific_name) == ("human", "Homo sapiens")
    assert taxa.of("fox").scientific_name == "Vulpes vulpes"
    assert (taxa.of("EMPTY").kind, taxa.of("EMPTY").name) == ("blank", "EMPTY")
    assert (taxa.of("other").kind, taxa.of("other").scientific_name) == ("animal", None)


def test_the_first_column_is_the_label(tmp_path: Path) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text("species code,scientific name\nn0,Vulpes vulpes\n")
    assert read_taxa(str(path), Storage(), {}).of("n0").scientific_name == "Vulpes vulpes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,kind\na,plant\n", "kind 'plant'.*animal, human"),
        ("label,kind\na,\na,\n", "'a' twice"),
        ("label,kind\n,animal\n", "without a label"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_taxa(str(path), Storage(), {})
