"""Taxonomies, and roll-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monkeyray.errors import InputError
from monkeyray.exports.taxonomy import RANKS, RollUp, Taxa, read_taxa
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


def test_labels_are_compared_in_either_unicode_form() -> None:
    taxa = read_taxa(None, Storage(), {"blank": ["E\u0301"]}, {"e\u0301land": "Taurotragus oryx"})
    for label in ("\u00e9land", "e\u0301land"):
        assert taxa.of(label).scientific_name == "Taurotragus oryx"
    assert taxa.of("\u00c9").kind == "blank"


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
def test_unusable_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_taxa(str(path), Storage(), {})


TABLE = {
    "baboon": ("Papio anubis", "Papio", "Cercopithecidae", "Primates", "Mammalia"),
    "chacma": ("Papio ursinus", "", "Cercopithecidae", "Primates", "Mammalia"),
    "vervet": ("Chlorocebus pygerythrus", "", "Cercopithecidae", "Primates", "Mammalia"),
    "fox": ("Vulpes vulpes", "Vulpes", "Canidae", "Carnivora", "Mammalia"),
    "bird": ("Aves", "", "", "", "Aves"),
    "heron": ("Ardea cinerea", "", "Ardeidae", "Pelecaniformes", "Aves"),
}
COLUMNS = ("scientificname", "genus", "family", "order", "class")
ROWS = {label: dict(zip(COLUMNS, row, strict=True)) for label, row in TABLE.items()}
TAXA = Taxa(ROWS, {"blank": ["empty"], "human": ["person"]})
LABELS = [*TABLE, "moth", "empty", "person"]


def rolled(threshold: float = 0.8, **scores: float) -> tuple[str, str, float] | None:
    roll_up = RollUp(TAXA, LABELS, threshold)
    which, sums = roll_up(np.array([[scores.get(label, 0.0) for label in LABELS]]))
    if which[0] < 0:
        assert sums[0] == 0
        return None
    group = roll_up.groups[which[0]]
    return group.rank, group.name, round(float(sums[0]), 6)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"baboon": 0.8, "fox": 0.2}, ("species", "Papio anubis", 0.8)),
        # The chacma's genus comes from its name.
        ({"baboon": 0.5, "chacma": 0.4}, ("genus", "Papio", 0.9)),
        ({"baboon": 0.5, "vervet": 0.4}, ("family", "Cercopithecidae", 0.9)),
        ({"baboon": 0.5, "fox": 0.4}, ("class", "Mammalia", 0.9)),
        ({"bird": 0.5, "heron": 0.4}, ("class", "Aves", 0.9)),
        ({"bird": 0.9}, ("class", "Aves", 0.9)),
        ({"heron": 0.5, "fox": 0.2, "moth": 0.2}, ("kingdom", "Animalia", 0.9)),
        ({"moth": 0.9}, ("label", "moth", 0.9)),
        ({"empty": 0.9}, ("label", "empty", 0.9)),
        # People and blanks have no higher taxa.
        ({"person": 0.5, "fox": 0.5}, None),
        ({"empty": 0.5, "fox": 0.5}, None),
        ({}, None),
    ],
)
def test_the_lowest_taxon_that_reaches_the_threshold(
    scores: dict[str, float], expected: tuple[str, str, float] | None
) -> None:
    assert rolled(**scores) == expected


def test_labels_of_one_species_count_together_and_higher_taxa_are_reported() -> None:
    rows = {
        "ewe": {"scientificname": "Ovis aries", "family": "Bovidae"},
        "ram": {"scientificname": "ovis_aries", "family": "Bovidae"},
        "goat": {"scientificname": "Capra hircus", "family": "Bovidae", "class": "Mammalia"},
    }
    roll_up = RollUp(Taxa(rows, {}), ["goat", "ewe", "ram"], 0.75)
    which, sums = roll_up(np.array([[0.0, 0.5, 0.375], [0.5, 0.25, 0.25]], np.float32))
    sheep, bovid = (roll_up.groups[i] for i in which)
    assert (sheep.name, sheep.label, sheep.above, sums[0]) == ("Ovis aries", "ewe", {}, 0.875)
    assert (bovid.rank, bovid.name, bovid.label, sums[1]) == ("family", "Bovidae", None, 1.0)
    assert bovid.above == {"kingdom": "Animalia", "class": "Mammalia"}
    assert [roll_up.groups[roll_up.own[label]].name for label in ("ram", "goat")] == [
        "Ovis aries",
        "Capra hircus",
    ]


@given(
    arrays(np.float64, (3, len(LABELS)), elements=st.floats(0, 1)),
    st.floats(0.01, 1.0),
)
def test_rolled_up_taxon_is_the_lowest_sure_one(scores: np.ndarray, least: float) -> None:
    scores = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1.0)
    roll_up = RollUp(TAXA, LABELS, least)
    which, sums = roll_up(scores)
    order = ["label", "species", *reversed(RANKS)]
    for row, group, score in zip(scores, which.tolist(), sums.tolist(), strict=True):
        best = row.max()
        if group < 0:
            assert row[:7].sum() < least
            assert best < least
            continue
        found = roll_up.groups[group]
        assert score >= least - 2e-6
        if found.label is None:
            assert best < least
            assert found.rank in order[2:]
        else:
            assert score >= row[LABELS.index(found.label)] - 1e-9


def test_full_float32_softmax_reaches_threshold_1() -> None:
    scores = np.full((1, 7), 1 / 7, np.float32)
    roll_up = RollUp(TAXA, LABELS[:7], 1.0)
    which, sums = roll_up(scores)
    assert roll_up.groups[which[0]].name == "Animalia"
    assert sums[0] == pytest.approx(1)


def test_ranks_in_any_case_are_one_taxon_and_two_of_them_are_a_mistake() -> None:
    rows = {
        "a": {"scientificname": "PAPIO ANUBIS", "genus": "papio", "family": "CERCOPITHECIDAE"},
        "b": {"scientificname": "papio_ursinus", "family": "cercopithecidae"},
    }
    roll_up = RollUp(Taxa(rows, {}), ["a", "b"], 0.8)
    assert [(x.rank, x.name) for x in roll_up.groups] == [
        ("species", "Papio anubis"), ("species", "Papio ursinus"), ("genus", "Papio"),
        ("family", "Cercopithecidae"), ("kingdom", "Animalia"),
    ]  # fmt: skip
    rows["b"]["family"] = "Cercopithecidea"
    with pytest.raises(
        InputError, match="genus Papio in two taxa of rank family, Cercopithecidae and"
    ):
        RollUp(Taxa(rows, {}), ["a", "b"], 0.8)
