"""Arguments and a file of options together."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.parsing import completion, find_command, parse
from monkeyray.config_files import to_toml
from monkeyray.errors import ConfigError
from monkeyray.storage.store import Storage

NEEDED: dict[str, list[str]] = {
    "train": ["--images", "a", "--model", "b"],
    "tune": ["--images", "a", "--model", "b"],
    "score": ["--images", "a", "--model", "b", "--predictions", "c"],
    "rescore": ["--predictions", "a", "--model", "b", "--output", "c"],
    "evaluate": ["--images", "a", "--model", "b", "--output", "c"],
    "export": ["--predictions", "a", "--format", "csv", "--output", "b"],
    "bursts": ["--predictions", "a", "--output", "b", "--site-pattern", "{camera}/*"],
    "review": ["--predictions", "a", "--output", "b"],
    "demo": [],
}


def config(command: str, *arguments: str) -> Any:
    return parse(command, [*arguments], "monkeyray").config


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_written_does_the_same_again(command: str, tmp_path: Path) -> None:
    some = ["--s3-endpoint", "http://127.0.0.1:9", "--store-patience-seconds", "7", "--quiet"]
    more = {
        "train": [
            "--no-augment",
            "--fine-tune",
            "2-blocks",
            "--head",
            "12,3",
            "--weights",
            "none",
            "--corrections",
            "c.csv",
            "s3://d/e.csv",
        ],
        "tune": ["--heads", "7", "linear", "--l2-range", "0", "0", "--tensorboard", "model"],
        "score": ["--include", 'a "b"\\*', "ü☃\x7f\x1f*", "--top-k", "all", "--threshold", "1e-9"],
        "bursts": ["--blank"],
        "review": ["--select", "diverse", "--labelled", "c", "d.csv"],
    }
    first = config(command, *NEEDED[command], *more.get(command, []), *some)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(first))
    again = config(command, "--config", str(file))
    # Places are written in full, so that it is the same from any folder.
    assert to_toml(again) == to_toml(first)
    assert again == config(command, f"--config={file}")
    if command == "score":
        assert again.include == first.include
        assert again.images == str(Path("a").absolute())


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text(
        "images: from-file\nmodel: m\nseed: 3\naugment: false\nfine-tune: 2-blocks\nhead: 256\n"
        "quiet: true\n"
        "test-share: 0.2\nlimit: null\n"
    )
    found = config("train", "--config", str(file))
    assert (found.images, found.seed, found.head, found.fine_tune) == (
        "from-file",
        3,
        "256",
        "2-blocks",
    )
    assert (found.augment, found.store.quiet, found.test_share) == (False, True, 0.2)
    found = config("train", "--seed", "9", "--augment", "--config", str(file), "--images", "given")
    assert (found.images, found.seed, found.augment, found.model) == ("given", 9, True, "m")
    # What is wrong together is put right by the command line.
    file.write_text("images: i\nmodel: m\nfolds: 5\nfine-tune: 3\n")
    with pytest.raises(ConfigError, match=rf"train twice, once with each.*--config {file} too"):
        config("train", "--config", str(file))
    assert config("train", "--config", str(file), "--folds", "0").fine_tune
    file.write_text("images: s3://me:hunter2@bucket/x\nmodel: m\n")
    with pytest.raises(ConfigError, match="carries credentials") as secret:
        config("train", "--config", str(file))
    assert "hunter2" not in str(secret.value)


def test_a_file_in_a_store(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3.write("s3://photos/o.toml", b'images = "i"\nmodel = "m"\nepochs = 4\n')
    endpoint = ["--s3-endpoint", str(s3.s3_endpoint)]
    assert config("train", *endpoint, "--config", "s3://photos/o.toml").epochs == 4
    with pytest.raises(ConfigError, match=r"s3://photos/none\.toml cannot be read"):
        config("train", "--config", "s3://photos/none.toml", *endpoint)


def test_commands_have_names() -> None:
    with pytest.raises(ConfigError, match="unknown command 'trian': did you mean train"):
        find_command("trian")
    with pytest.raises(ConfigError, match=r"choose one of train, tune.*, completion"):
        find_command("zzz")
    with pytest.raises(ConfigError, match="one of bash, zsh, fish"):
        completion(["tcsh"])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_knows_every_option(shell: str) -> None:
    script = completion([shell])
    assert all(f"'{name}': {{" in script for name in COMMANDS)
    assert all(flag in script for flag in ("--config", "--summary-json", "--fine-tune-rate"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes(tmp_path: Path) -> None:
    if shutil.which("bash") is None or shutil.which("python3") is None:
        pytest.skip("needs bash and python3")
    (tmp_path / "c.bash").write_text(completion(["bash"]))
    ask = (
        f"source {tmp_path}/c.bash; COMP_WORDS=(monkeyray score --summ); COMP_CWORD=2; "
        "$(complete -p monkeyray | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--summary-json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--imges", "x"], "unknown option --imges: did you mean --images?"),
        (["--zzz"], "unknown option --zzz: see monkeyray score --help-all"),
        (["--images", "x"], "missing: --model, --predictions; see monkeyray score --help"),
        (
            ["--images=a", "--model=b", "--predictions=c", "--batch-size", "many"],
            "Error parsing --batch-size: invalid literal for int() with base 10: 'many': see "
            "monkeyray score --help",
        ),
        (
            ["--images=a", "--model=b", "--predictions=c", "d"],
            "Unrecognized options: d: see monkeyray score --help",
        ),
    ],
)
def test_a_wrong_call_is_told_in_a_line(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse("score", arguments, "monkeyray score")
    assert str(found.value) == words


def test_options_may_have_underscores_and_be_switched_off() -> None:
    arguments = ["--images=a", "--model=b", "--model_id", "c", "--no-augment"]
    with pytest.raises(ConfigError, match="unknown option --model-id"):
        parse("train", arguments, "monkeyray train")
    call = parse(
        "train",
        [*arguments[:2], "--no-augment", "--fine-tune=3", "--head_seed=3"],
        "monkeyray train",
    )
    assert (call.config.augment, call.config.head_seed) == (False, 3)
