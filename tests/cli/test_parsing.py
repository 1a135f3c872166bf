"""Arguments and a file of options together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.config_files import read_options
from monkeyray.cli.parsing import completion, find_command, parse
from monkeyray.errors import ConfigError
from monkeyray.options_file import to_toml
from monkeyray.storage.store import Storage

NEEDED: dict[str, list[str]] = {
    "train": ["--images", "a", "--model", "b"],
    "tune": ["--images", "a", "--model", "b"],
    "score": ["--images", "a", "--model", "b", "--predictions", "c"],
    "rescore": ["--predictions", "a", "--model", "b", "--output", "c"],
    "evaluate": ["--images", "a", "--model", "b", "--output", "c"],
    "export": ["--predictions", "a", "--format", "csv", "--output", "b"],
    "events": ["--predictions", "a", "--output", "b", "--site-pattern", "{camera}/*"],
    "review": ["--predictions", "a", "--output", "b"],
    "demo": [],
}


def config(command: str, *arguments: str) -> Any:
    return parse(command, [*arguments], "monkeyray").config


@pytest.mark.parametrize("command", COMMANDS)
def test_written_options_file_repeats_the_command(command: str, tmp_path: Path) -> None:
    some = ["--s3-endpoint", "http://127.0.0.1:9", "a.b=http://127.0.0.1:8"]
    some += ["--anonymous", "s3://a.b", "--profile", "a.b=me"]
    some += ["--store-patience-seconds", "7", "--quiet"]
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
        "events": ["--blank"],
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
        "fine-tune-rate: 0.2\nlimit: null\n"
    )
    found = config("train", "--config", str(file))
    assert (found.images, found.seed, found.head, found.fine_tune) == (
        "from-file",
        3,
        "256",
        "2-blocks",
    )
    assert (found.augment, found.store.quiet, found.fine_tune_rate) == (False, True, 0.2)
    found = config("train", "--seed", "9", "--augment", "--config", str(file), "--images", "given")
    assert (found.images, found.seed, found.augment, found.model) == ("given", 9, True, "m")
    # What is wrong together is put right by the command line.
    file.write_text("images: i\nmodel: m\nfine-tune-rate: 0.2\n")
    words = rf"has no effect without --fine-tune.*--config {file} also"
    with pytest.raises(ConfigError, match=words):
        config("train", "--config", str(file))
    assert config("train", "--config", str(file), "--fine-tune", "3").fine_tune == "3"
    file.write_text("images: s3://me:hunter2@bucket/x\nmodel: m\n")
    with pytest.raises(ConfigError, match="has credentials in images") as secret:
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
    assert all(name in script for name in COMMANDS)
    options = (flag.removeprefix("--") for flag in ("--config", "--summary-json", "--fine-tune"))
    assert all(re.search(rf"[- ]{flag}\b", script) for flag in options)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    (tmp_path / "c.bash").write_text(completion(["bash"]))
    ask = (
        f"source {tmp_path}/c.bash; COMP_WORDS=(monkeyray score --summ); COMP_CWORD=2; "
        "$(complete -p monkeyray | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--summary-json"]


SCORE = ["--images=a", "--model=b", "--predictions=c"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--imges", "x"], "unknown option: --imges. Did you mean --images?"),
        (["--zzz"], "unknown option: --zzz."),
        (["--images", "x"], "missing: --model, --predictions; see monkeyray score --help"),
        ([*SCORE, "--batch-size", "many"], "--batch-size: 'many' is not a whole number."),
        ([*SCORE, "--batch-size", "1.5"], "--batch-size: '1.5' is not a whole number."),
        ([*SCORE, "--threshold", "x"], 'for --threshold: unable to convert "x" into float'),
        ([*SCORE, "--log-format", "xml"], '"xml" for --log-format. Choose from: "text", "json".'),
        ([*SCORE, "d"], "unexpected argument: d."),
        ([*SCORE, "--model-id"], "--model-id requires an argument."),
    ],
)
def test_a_wrong_call_is_a_one_line_error(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse("score", arguments, "monkeyray score")
    assert words in str(found.value)
    assert "see monkeyray score --help" in str(found.value).replace("See", "see")
    assert "\n" not in str(found.value)


def test_options_may_have_underscores_and_be_switched_off() -> None:
    arguments = [
        "--images=a",
        "--model=b",
        "--fine-tune=3",
        "--no-augment",
        "--head_seed=3",
        "--head=8",
        "--no-gpu",
    ]
    found = config("train", *arguments)
    assert (found.augment, found.head_seed, found.gpu) == (False, 3, False)
    with pytest.raises(ConfigError, match="unknown option: --model_id"):
        config("train", *arguments, "--model_id", "c")


def wrong(tmp_path: Path, text: str, ending: str = "toml", command: str = "train") -> str:
    file = tmp_path / f"o.{ending}"
    file.write_text(text)
    with pytest.raises(ConfigError) as found:
        config(command, *NEEDED[command], "--config", str(file))
    message = str(found.value)
    assert str(file) in message
    assert "\n" not in message
    assert "hunter2" not in message
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed = 3", "the key 'sed', which is not an option of train: did you mean seed?"),
        ("xyzzy = 3", "monkeyray train --help-all lists them"),
        ("top_k = 5", "an option of score and rescore, not of train"),
        ("predictions = 's3://me:hunter2@b'", "not of train"),
        ("config = 'x'", "on the command line only"),
        ("summary-json = 'x'", "on the command line only"),
        ("aws_secret_access_key = 'hunter2'", "no option holds a secret"),
        ("s3-password = 'hunter2'", "through the environment or a role"),
        ("[store]\nquiet = true", "the key 'store', which is not an option"),
        ("batch-size = 3\nbatch_size = 4", "gives batch-size twice"),
        ("seed = 'three'", "[seed]: 'three' is not a whole number"),
        ("seed = true", "'True' is not a whole number"),
        ("seed = 1.5", "'1.5' is not a whole number"),
        ("learning_rate = 'fast'", 'unable to convert "fast" into float'),
        ("gpu = 'perhaps'", 'unable to convert "perhaps" into bool'),
        ("images = ['s3://me:hunter2@b/x']", "has credentials in images: remove them"),
        ("mlflow = 'https://me:hunter2@b'", "has credentials in mlflow: remove them"),
        ("head = ['5']", "[head]"),
        ("head = [[5]]", "nests lists or tables in head"),
        ("seed = ", "is not valid TOML"),
        ("seed = 1\nseed = 2", "is not valid TOML"),
    ],
)
def test_mistakes_in_toml(tmp_path: Path, text: str, words: str) -> None:
    assert words in wrong(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "command", "words"),
    [
        ("- seed", "train", "is not a list of options: write lines such as `seed: 1`"),
        ("1: seed", "train", "a key that is not text"),
        ("seed: 1\nseed: 2", "train", "gives seed twice"),
        ("seed: [1\nmodel: s3://me:hunter2@b", "train", "is not valid YAML in line 2"),
        ("seed: !!python/object/apply:os.system ['x']", "train", "is not valid YAML in line 1"),
        ("l2_range: [1]", "tune", "expected 2 but got 1"),
        ("head: linear", "tune", "an option of train, not of tune"),
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


def test_files_that_are_not_options(tmp_path: Path) -> None:
    assert "must end in .toml or .yaml" in wrong(tmp_path, "seed = 1", "ini")
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_options(str(tmp_path / "none.toml"), "train", Storage())
    (tmp_path / "o.toml").write_bytes(b"images = '\xff'")
    with pytest.raises(ConfigError, match="not in UTF-8"):
        read_options(str(tmp_path / "o.toml"), "train", Storage())
    (tmp_path / "o.yml").write_text("")
    assert read_options(str(tmp_path / "o.yml"), "train", Storage()) == {}


def test_values_are_of_their_option(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text(
        "top-k: 3\ninclude: [a, b]\nexclude: c\nthreshold: 1\nlimit: 2\ngpu: true\n"
        "detection_threshold: null\ndecode-seconds: 1e1\n"
    )
    found = config("score", *NEEDED["score"], "--config", str(tmp_path / "o.yaml"))
    assert (found.top_k, found.include, found.exclude) == ("3", ("a", "b"), ("c",))
    assert (found.threshold, found.limit, found.decode_seconds) == (1.0, 2, 10.0)
    assert (found.gpu, found.detection_threshold) == (True, None)
