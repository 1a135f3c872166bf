"""Files of options: what is wrong in them is named, and nothing secret is repeated."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.cli.config_files import read_options
from monkeyray.config_files import to_toml, write_options_beside
from monkeyray.errors import ConfigError
from monkeyray.exports.options import ExportConfig
from monkeyray.scoring.options import ScoreConfig
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig

STORAGE = Storage()


def wrong(tmp_path: Path, text: str, ending: str = "toml", command: str = "train") -> str:
    file = tmp_path / f"o.{ending}"
    file.write_text(text)
    with pytest.raises(ConfigError) as found:
        read_options(str(file), command, STORAGE)
    message = str(found.value)
    assert str(file) in message
    assert "\n" not in message
    assert "hunter2" not in message
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed = 3", "the key 'sed', which is no option of train: did you mean seed?"),
        ("xyzzy = 3", "monkeyray train --help-all lists them"),
        ("top_k = 5", "an option of score and rescore, not of train"),
        ("predictions = 's3://me:hunter2@b'", "not of train"),
        ("config = 'x'", "for the command line alone"),
        ("summary-json = 'x'", "for the command line alone"),
        ("aws_secret_access_key = 'hunter2'", "no option is a secret"),
        ("s3-password = 'hunter2'", "through the environment or a role"),
        ("[store]\nquiet = true", "the key 'store', which is no option"),
        ("batch-size = 3\nbatch_size = 4", "gives batch-size twice"),
        ("seed = 'three'", "has seed = 'three': seed has to be a whole number, without quotes"),
        ("seed = true", "seed = True: seed has to be a whole number"),
        ("seed = 1.5", "a whole number"),
        ("learning_rate = '1e-3'", "learning-rate has to be a number"),
        ("gpu = 'yes'", "gpu has to be true or false, without quotes"),
        ("gpu = 1", "true or false"),
        ("images = 5", "images has to be a path or URI in quotes"),
        ("images = ['s3://me:hunter2@b/x']", "images = ['s3://***@b/x']: images has to be a path"),
        ("corrections = 'a.csv'", 'a list of paths or URIs, as ["one.csv", "other.csv"]'),
        ("corrections = [5]", "corrections has to be a path or URI in quotes"),
        ("head = [5]", "head has to be a text in quotes"),
        ("seed = ", "is no TOML"),
        ("seed = 1\nseed = 2", "is no TOML"),
    ],
)
def test_mistakes_in_toml(tmp_path: Path, text: str, words: str) -> None:
    assert words in wrong(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "command", "words"),
    [
        ("learning_rate: 1e-3", "train", "with a point, as 0.5 or 1.0e-4"),
        ("seed: null", "train", "seed = None: seed has to be a whole number"),
        ("- seed", "train", "no list of options: write lines as `seed: 1`"),
        ("seed: 1\nseed: 2", "train", "gives seed twice"),
        ("seed: [1\nmodel: s3://me:hunter2@b", "train", "is no YAML in line 2"),
        ("seed: !!python/object/apply:os.system ['x']", "train", "is no YAML in line 1"),
        ("include: '*.jpg'", "score", 'a list of texts, as ["one", "other"]'),
        ("include: [1, true]", "score", "include has to be a text in quotes"),
        ("l2_range: [1]", "tune", "a list of 2 numbers, as [0.001, 0.1]"),
        ("head: linear", "tune", "an option of train, not of tune"),
        ("format: xlsx", "export", "format has to be one of camtrap-dp, megadetector, csv"),
    ],
)
def test_mistakes_in_yaml(tmp_path: Path, text: str, command: str, words: str) -> None:
    assert words in wrong(tmp_path, text, "yaml", command)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["include: [{}]", "? [{}]\n: 1"])
def test_aliases_that_would_fill_the_memory(tmp_path: Path, text: str) -> None:
    lists = ["&a0 [lol, lol]", *(f"&a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    message = wrong(tmp_path, text.format(", ".join(lists)), "yaml", "score")
    assert len(message) < 1000


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "has to end in .toml or .yaml" in wrong(tmp_path, "seed = 1", "ini")
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_options(str(tmp_path / "none.toml"), "train", STORAGE)
    (tmp_path / "o.toml").write_bytes(b"images = '\xff'")
    with pytest.raises(ConfigError, match="not in UTF-8"):
        read_options(str(tmp_path / "o.toml"), "train", STORAGE)
    (tmp_path / "o.yml").write_text("")
    assert read_options(str(tmp_path / "o.yml"), "train", STORAGE) == {}


def test_values_are_of_their_option(tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text(
        'top-k = 3\ninclude = ["a", "b"]\nthreshold = 1\nlimit = 2\ngpu = true\nquiet = true\n'
    )
    found = read_options(str(tmp_path / "o.toml"), "score", STORAGE)
    assert found == {
        "top_k": "3", "include": ("a", "b"), "threshold": 1.0, "limit": 2, "gpu": True,
        "quiet": True,
    }  # fmt: skip


def test_what_is_written_deletes_nothing_and_has_no_secret() -> None:
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
    assert "# exclude is left out: it carries a secret" in written
    assert "# include is left out: it is not in UTF-8" in written
    assert "monkeyray score --config" in written
    words = tomllib.loads(to_toml(TrainConfig(images="i", model="m", mlflow="sqlite:///x.db")))
    assert (words["weights"], words["mlflow"]) == ("imagenet", "sqlite:///x.db")


def test_places_are_written_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(images="i", model="m", corrections=("a.csv", "s3://b/c.csv"))
    (tmp_path / "o.toml").write_text(to_toml(config))
    found = read_options(str(tmp_path / "o.toml"), "train", STORAGE)
    assert found["images"] == str(tmp_path / "i")
    assert found["corrections"] == (str(tmp_path / "a.csv"), "s3://b/c.csv")


# The first one parses the texts of the options.
@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text: str) -> None:
    config = ScoreConfig(images="/i", model="m", predictions="p", include=(text,))
    if "@" not in text:
        assert tomllib.loads(to_toml(config))["include"] == [text]


def test_where_it_is_written_beside(tmp_path: Path) -> None:
    config = ExportConfig(predictions="p", format="csv", output="o")
    write_options_beside(str(tmp_path / "package"), config, STORAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["package.config.toml"]
    storage = Storage()
    write_options_beside("memory://bucket", config, storage)
    assert storage.exists("memory://bucket/config.toml")
