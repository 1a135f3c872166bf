"""Corrected labels over the images of a training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.errors import ConfigError, InputError
from monkeyray.storage.keys import OTHER_FORM
from monkeyray.storage.store import Storage
from monkeyray.training.listing import apply_corrections, list_dataset
from monkeyray.training.options import TrainConfig
from monkeyray.training.publish import recorded

labels = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["fox", "owl", "elk"]))


@settings(deadline=None)
@given(labels, labels)
def test_the_later_label_counts(first: dict[str, str], later: dict[str, str]) -> None:
    def table(rows: dict[str, str], split: str) -> pa.Table:
        return pa.table(
            {
                "uri": pa.array(list(rows), pa.string()),
                "label": pa.array(list(rows.values()), pa.string()),
                "given": pa.array([split] * len(rows), pa.string()),
            }
        )

    found = apply_corrections(table(first, "test"), table(later, "train"), Counter()).to_pylist()
    assert {row["uri"]: row["label"] for row in found} == first | later
    assert [row["uri"] for row in found] == list(first | later)
    assert [row["given"] for row in found] == [
        "test" if row["uri"] in first else "train" for row in found
    ]


def test_corrections_are_joined_in_either_unicode_form() -> None:
    names = ["uri", "label", "given"]
    table = pa.table([["/\u00e9.jpg", "/1.jpg"], ["fox", "owl"], ["test", None]], names)
    later = pa.table([["/e\u0301.jpg", "/2.jpg"], ["elk", "elk"], [None, "train"]], names)
    notes: Counter[str] = Counter()
    found = apply_corrections(table, later, notes)
    assert found["uri"].to_pylist() == ["/\u00e9.jpg", "/1.jpg", "/2.jpg"]
    assert found["label"].to_pylist() == ["elk", "owl", "elk"]
    assert notes == {OTHER_FORM: 1}


def test_corrections_of_a_training(tmp_path: Path) -> None:
    for label in ("fox", "owl"):
        for i in range(4):
            path = tmp_path / "images" / label / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "test.csv").write_text("uri,label\nt.jpg,fox\nu.jpg,owl\n")
    (tmp_path / "one.csv").write_text("uri,label\nimages/fox/0.jpg,owl\nn.jpg,fox\nt.jpg,owl\n")
    (tmp_path / "two.csv").write_text("uri,label,predicted_label\nn.jpg,owl,fox\n")
    config = TrainConfig(
        images=str(tmp_path / "images"),
        test=str(tmp_path / "test.csv"),
        corrections=(str(tmp_path / "one.csv"), str(tmp_path / "two.csv")),
        model=str(tmp_path / "model"),
    )
    table, _, _ = list_dataset(config, Storage())
    rows = {str(Path(row["uri"]).relative_to(tmp_path)): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == 11
    assert rows["images/fox/0.jpg"]["label"] == "owl"
    assert rows["images/fox/1.jpg"]["label"] == "fox"
    # A label may change in the test split, and what is new is for training.
    assert (rows["t.jpg"]["label"], rows["t.jpg"]["given"]) == ("owl", "test")
    assert (rows["n.jpg"]["label"], rows["n.jpg"]["given"]) == ("owl", None)


def test_corrections_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a URI is empty"):
        TrainConfig(images="i", model="m", corrections=(" ",))
    (tmp_path / "i.csv").write_text("uri,label\na.jpg,fox\nb.jpg,owl\n")
    config = TrainConfig(
        images=str(tmp_path / "i.csv"), model="m", corrections=(str(tmp_path / "no.csv"),)
    )
    with pytest.raises(InputError, match=r"manifest .*no\.csv does not exist"):
        list_dataset(config, Storage())


def test_a_column_of_groups_that_no_table_has(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("uri,label,visit\na,fox,1\nb,owl,2\nc,fox,3\nd,owl,4\n")
    config = TrainConfig(images=str(tmp_path / "i.csv"), model="m", group_column="visits")
    with pytest.raises(InputError, match="--group-column visits: no labelled image has a value"):
        list_dataset(config, Storage())
    found, _, _ = list_dataset(replace(config, group_column="visit"), Storage())
    assert found["group"].to_pylist() == ["1", "2", "3", "4"]


def test_a_bundle_does_not_say_where_corrections_were() -> None:
    config = TrainConfig(images="/secret/i", model="/secret/m", corrections=("/secret/c.csv",))
    assert "secret" not in str(recorded(config))
