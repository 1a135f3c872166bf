"""Labels that are not allowed where an image was taken have no probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monkeyray.errors import ConfigError, InputError
from monkeyray.images.decode import Limits
from monkeyray.scoring.allowed import Allowed, read_allowed
from monkeyray.scoring.options import EvaluateConfig, RescoreConfig, ScoreConfig
from monkeyray.scoring.rows import PostProcessor, ScoreOptions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.bundles import WIDTH, make_bundle

LABELS = ["lion", "tiger", "zebra", "Empty", "person", "vehicle"]
ALWAYS = {"Empty", "person", "vehicle"}


def read(folder: Path, table: str, **options: Any) -> Allowed:
    (folder / "allowed.csv").write_text(table)
    return read_allowed(str(folder / "allowed.csv"), Storage(), LABELS, **options)


def allowed(found: Allowed, **columns: list[Any]) -> list[set[str]]:
    """The labels that each image can show, without those that every image can."""
    mask = found.mask(pa.table(columns))
    return [{LABELS[i] for i in np.flatnonzero(row)} - ALWAYS for row in mask]


def test_labels_of_sites_and_of_all(tmp_path: Path) -> None:
    table = "label,location\nlion,A\nzebra,A\ntiger,B\nzebra,\nwolf,B\nzbra,B\n"
    found = read(tmp_path, table)
    assert found.mask(pa.table({"site": ["A"]}))[0, 3:].all()
    # What is given for all is so at every site, and alone where the site is unknown or not listed.
    expected = [{"lion", "zebra"}, {"tiger", "zebra"}, {"zebra"}, {"zebra"}, {"zebra"}]
    for column in ("site", "location"):
        assert allowed(found, **{column: ["A", " B", "C", "", None]}) == expected
    assert allowed(found, uri=["/a.jpg"]) == [{"zebra"}]
    assert list(found.notes()) == [
        "2 labels of --allowed unknown to the model: wolf, zbra (the model has zebra)"
    ]


def test_without_labels_for_all_an_unknown_site_has_those_of_any(tmp_path: Path) -> None:
    found = read(tmp_path, "label,site\nlion,A\ntiger,B\n")
    assert allowed(found, site=["A", "C", None]) == [{"lion"}, *[{"lion", "tiger"}] * 2]
    assert allowed(read(tmp_path, "label\nlion\n"), site=["A", None]) == [{"lion"}] * 2


def test_cameras_and_deployments(tmp_path: Path) -> None:
    table = "label,site,camera,deploymentID\nlion,A,,\ntiger,A,1,\nzebra,,,d7\n"
    found = read(tmp_path, table)
    columns: dict[str, list[Any]] = {
        "site": ["A", "A", "B", "A"], "camera": ["1", "2", "1", "1"],
        "deployment": ["d1", None, "d7", "d7"],
    }  # fmt: skip
    assert allowed(found, **columns) == [
        {"lion", "tiger"}, {"lion"}, {"zebra"}, {"lion", "tiger", "zebra"},
    ]  # fmt: skip
    # A number in a manifest is the text of a table.
    assert allowed(found, site=["A"], camera=[1]) == [{"lion", "tiger"}]


def test_sites_in_paths(tmp_path: Path) -> None:
    table = "label,site\nlion,A\ntiger,B\n"
    found = read(tmp_path, table, pattern="{site}/*", root=Location.of("/x"))
    uris = ["/x/A/1.jpg", "/x/B/c/1.jpg", "/x/1.jpg", "/elsewhere/A/1.jpg"]
    assert allowed(found, uri=uris, site=["B"] * 4) == [
        {"lion"}, {"tiger"}, *[{"lion", "tiger"}] * 2,
    ]  # fmt: skip
    assert found.check(pa.table({"uri": uris})) is None
    with pytest.raises(InputError, match="add it, or give --site-pattern"):
        read(tmp_path, table).check(pa.table({"uri": uris, "habitat": uris}))
    assert read(tmp_path, table).check(pa.table({"location": ["B", "C"]})) is None
    assert read(tmp_path, "label\nlion\n").check(pa.table({"uri": uris})) is None


def test_a_table_whose_places_have_other_names(tmp_path: Path) -> None:
    found = read(tmp_path, "label,site\nlion,Site A\n")
    warning = found.check(pa.table({"site": ["site-a", None]})) or ""
    assert warning.endswith("--allowed: the table has Site A, the images are of site-a")
    assert (found.check(pa.table({"site": [""]})) or "").endswith("the images have none")
    with pytest.raises(InputError, match="has no such column, only label, plot: rename one"):
        read(tmp_path, "label,plot\nlion,A\n", pattern="{site}/*", root=Location.of("/x"))


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    first = read(tmp_path, "label,site\nlion,A\ntiger,B\n")
    same = read(tmp_path, "location;label;notes\nB;tiger;x\nA;lion;y\nA;lion;\n")
    assert first.sha256 == same.sha256
    assert first.sha256 != read(tmp_path, "label,site\nlion,A\ntiger,A\n").sha256


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("species,site\nlion,A\n", "row 1, has no label: give a column label"),
        ("label,site\nlion,A\n,B\n", "row 2, has no label"),
    ],
)
def test_tables_without_labels(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, table)


def test_a_site_must_have_a_label_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "allowed.csv").write_text("label,site\nn0,A\nwolf,B\n")
    with pytest.raises(InputError, match="gives B no label that the model knows, such as n0, n5"):
        read_allowed(str(tmp_path / "allowed.csv"), Storage(), ["n0", "n5"])


def test_rows_see_the_labels_that_are_left(tmp_path: Path) -> None:
    bundle = make_bundle()
    (tmp_path / "allowed.csv").write_text("label,site\nn5,A\nn0,B\nn5,B\n")
    table = read_allowed(str(tmp_path / "allowed.csv"), Storage(), bundle.labels)
    options = ScoreOptions(bundle.views, 2, None, False, Limits(), allowed=table)
    columns: dict[str, Any] = {"status": ["ok"] * 4, "error": [None] * 4}
    images = pa.table({"site": ["A", "B", "A", "A"]})
    # The last image has no features.
    logits = np.array([[3, 0], [3, 0], [0, 3]], np.float32)
    process = PostProcessor(bundle, options)
    process(columns, np.arange(3), np.zeros((3, WIDTH), np.float32), logits, images)
    assert columns["label"] == ["n5", "n0", "n5", None]
    assert columns["excluded_label"] == ["n0", None, None, None]
    assert columns["score"][0] == columns["score"][2] == 1
    assert columns["score"][1] < 1
    assert [row and [each["label"] for each in row] for row in columns["top_k"]] == [
        ["n5"], ["n0", "n5"], ["n5"], None,
    ]  # fmt: skip
    # Without the table there is no such column.
    columns = {"status": ["ok"] * 3, "error": [None] * 3}
    process = PostProcessor(bundle, ScoreOptions(bundle.views, 2, None, False, Limits()))
    process(columns, np.arange(3), np.zeros((3, WIDTH), np.float32), logits, images)
    assert columns["label"] == ["n0", "n0", "n5"]
    assert "excluded_label" not in columns


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="give --allowed too"):
        ScoreConfig(images="a", model="b", predictions="c", site_pattern="{site}/*")
    with pytest.raises(ConfigError, match="site-pattern"):
        RescoreConfig(
            predictions="a", model="b", output="c", allowed="t.csv", site_pattern="{place}"
        )
    with pytest.raises(ConfigError, match="--allowed require --images"):
        EvaluateConfig(output="a", predictions="b", labels="c", allowed="t.csv")
