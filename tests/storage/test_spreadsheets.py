"""Formulas are written as text, and read back as what they were."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.exports.export import export
from monkeyray.exports.options import ExportConfig
from monkeyray.labels.listing import list_labelled
from monkeyray.options import StoreConfig
from monkeyray.storage.spreadsheets import guard, is_formula, unguard, unguarded
from monkeyray.storage.store import Storage
from tests.support.predicted import predict, scored

FORMULA = "=HYPERLINK(\"http://evil\",'x')"
TEXTS = st.text(st.sampled_from("='+-@\t\r\n5.,x\uff1d"), max_size=6) | st.text(max_size=9)


@given(st.lists(TEXTS | st.none()))
def test_texts_survive_the_round_trip(texts: list[str | None]) -> None:
    written = guard(pa.array(texts, pa.string()))
    assert unguard(written).to_pylist() == texts
    for text, cell in zip(texts, written.to_pylist(), strict=True):
        if text is not None:
            assert not is_formula(cell) or cell.startswith("'")
            assert unguarded(cell) == text
            assert (cell == text) is (not is_formula(text))


@pytest.mark.parametrize("text", ["-1.5", "+5", "-", "", "fox", "'fox'", "a=b", "1,5"])
def test_numbers_and_words_are_left_alone(text: str) -> None:
    assert guard(pa.array([text])).to_pylist() == [text]


def test_an_export_has_no_formulas_and_can_be_trained_on(tmp_path: Path) -> None:
    rows = [scored(f"/x/{FORMULA}", (FORMULA, 0.75)), scored("/x/-b/c.jpg", ("-1", 0.75))]
    predict(tmp_path / "p", rows, images="/x")
    taxa = io.StringIO()
    csv.writer(taxa).writerows([["label", "common_name"], [f"'{FORMULA}", "@SUM(A1)"]])
    (tmp_path / "taxa.csv").write_text(taxa.getvalue())
    output = tmp_path / "all.csv"
    export(ExportConfig(
        predictions=str(tmp_path / "p"), format="csv", output=str(output),
        taxonomy=str(tmp_path / "taxa.csv"), store=StoreConfig(quiet=True),
    ))  # fmt: skip
    with open(output, newline="") as file:
        first, second = csv.DictReader(file)
    assert not [cell for cell in first.values() if is_formula(cell) and not cell.startswith("'")]
    # A path that leads to the same file, and the URI as it is.
    assert (first["uri"], first["path"]) == (f"/x/{FORMULA}", f"./{FORMULA}")
    assert (first["label"], first["common_name"]) == (f"'{FORMULA}", "'@SUM(A1)")
    assert (second["path"], second["label"]) == ("./-b/c.jpg", "-1")
    read = list_labelled(str(output), Storage(), Counter())
    assert read["label"].to_pylist() == [FORMULA, "-1"]
    assert read["uri"].to_pylist() == [row["uri"] for row in rows]


@pytest.mark.parametrize("label", ["a\x1b[2Jb", "a\nb", "a\x9bb", "a\u2028b"])
def test_labels_with_control_characters_are_refused(tmp_path: Path, label: str) -> None:
    with open(tmp_path / "m.csv", "w", newline="") as file:
        csv.writer(file).writerows([["uri", "label"], ["/x/a.jpg", label]])
    (tmp_path / label).mkdir()
    (tmp_path / label / "a.jpg").touch()
    for place in (tmp_path / "m.csv", tmp_path):
        with pytest.raises(InputError, match="control characters") as found:
            list_labelled(str(place), Storage(), Counter())
        assert label not in str(found.value)
