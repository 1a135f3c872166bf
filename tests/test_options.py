"""The options that all commands share, and the TOML file of options beside a result."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.exports.options import ExportConfig
from monkeyray.options_file import to_toml, write_options_beside
from monkeyray.scoring.options import ScoreConfig
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig

STORAGE = Storage()


def test_written_options_delete_nothing_and_hold_no_secret() -> None:
    written = to_toml(
        ScoreConfig(
            images="/i", model="m", predictions="p", overwrite=True, dry_run=True,
            exclude=("s3://me:hunter2@b/*",), include=("\udcff*",),
        )
    )  # fmt: skip
    found = tomllib.loads(written)
    assert not found.keys() & {"overwrite", "update", "retry-failed", "dry-run"}
    assert found["images"] == "/i"
    assert "hunter2" not in written
    assert "# exclude is left out: it contains a secret" in written
    assert "# include is left out: it is not UTF-8" in written
    assert "monkeyray score --config" in written
    words = tomllib.loads(to_toml(TrainConfig(images="i", model="m", mlflow="sqlite:///x.db")))
    assert (words["weights"], words["mlflow"]) == ("imagenet", "sqlite:///x.db")


def test_places_are_written_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(images="i", model="m", corrections=("a.csv", "s3://b/c.csv"))
    found = tomllib.loads(to_toml(config))
    assert found["images"] == str(tmp_path / "i")
    assert found["corrections"] == [str(tmp_path / "a.csv"), "s3://b/c.csv"]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text: str) -> None:
    config = ScoreConfig(images="/i", model="m", predictions="p", include=(text,))
    if "@" not in text:
        assert tomllib.loads(to_toml(config))["include"] == [text]


def test_place_of_the_file_beside(tmp_path: Path) -> None:
    config = ExportConfig(predictions="p", format="csv", output="o")
    write_options_beside(str(tmp_path / "package"), config, STORAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["package.config.toml"]
    storage = Storage()
    write_options_beside("memory://bucket", config, storage)
    assert storage.exists("memory://bucket/config.toml")
