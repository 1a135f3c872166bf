"""Mistakes that can be known before heavy work: one line, exit code 2, and no Ray."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import monkeyray.scoring.evaluation.evaluate
import monkeyray.scoring.rescore
import monkeyray.scoring.score
import monkeyray.storage.store
import monkeyray.training.job
from monkeyray.cli.main import main
from monkeyray.model.bundle import Bundle, describe, save_bundle
from monkeyray.model.network import Network
from monkeyray.statistics.outliers import fit_outliers
from monkeyray.storage.store import Storage
from tests.support.weed import free_port


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a job connects to Ray or asks for workers."""

    def found(*arguments: Any) -> NoReturn:
        raise AssertionError("a mistake was not found before the workers")

    for name in ("connected", "MachinePool"):
        monkeypatch.setattr(monkeyray.training.job, name, found)
    scoring = monkeyray.scoring
    for job in (scoring.score, scoring.rescore, scoring.evaluation.evaluate):
        monkeypatch.setattr(job, "open_pool", found)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Places to give as options, into which nothing is written. The `good` images are never opened
    here, so they are empty files."""
    tmp_path = tmp_path_factory.mktemp("places")
    images = {"good": (9, 9), "one": (9,), "thin": (1, 1)}
    for name, counts in images.items():
        for label, count in enumerate(counts):
            (tmp_path / name / f"n{label}").mkdir(parents=True)
            for i in range(count):
                (tmp_path / name / f"n{label}" / f"{i}.jpg").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    manifests = {
        "nouri": "path,label\na,b\n",
        "nolabel": "uri,name\na,b\n",
        "half": "uri,label\na,b\ns3:/bucket/c.jpg,d\n",
        "secret": "uri,label\na,b\ns3://me:hunter2@bucket/c.jpg,d\n",
        "scheme": "uri,label\na,b\nnonsense://bucket/c.jpg,d\n",
        "twice": "uri,uri\na,b\n",
    }
    for name, text in manifests.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "no.parquet").write_bytes(b"no Parquet at all")
    names = (*images, *manifests, "empty", "file", "out", "newer", "cut", "changed", "bundle")
    return {name: tmp_path / name for name in names} | {"tmp": tmp_path}


@pytest.fixture(scope="module")
def bundles(places: dict[str, Path]) -> None:
    """Bundles of a network that is none, which loading does not find out."""
    weights = {"0000/x": np.zeros((1024, 2), np.float32), "0001/x": np.zeros(2, np.float32)}
    labels = [{"label": name, "name": None} for name in ("a", "b")]
    few = np.eye(3, 1024)
    outliers = fit_outliers({1: few}, np.arange(3) % 2, np.array([0, -1, -1])).to_arrays()
    model = describe(
        Network("mobilenet", weights, ("middle",), weights, (), 2),
        labels=labels,
        outliers=outliers,
        calibration={"1": {"temperature": 1.0, "thresholds": None}},
        rest={},
    )
    for name in ("bundle", "newer", "cut", "changed"):
        save_bundle(str(places[name]), Storage(), Bundle(model, weights, weights, outliers), "", "")
    path = places["newer"] / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    path = places["cut"] / "model.json"
    path.write_bytes(path.read_bytes()[:-20])
    path = next(places["changed"].glob("backbone-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def mistake(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is wrong, and give the one line that it prints."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    printed = capfd.readouterr()
    assert exit_.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    return printed.err.strip()


def train(*arguments: str, model: str = "{out}", images: str = "{good}") -> list[str]:
    return ["train", "--images", images, "--model", model, *arguments]


def score(
    *arguments: str, images: str = "{good}", model: str = "{bundle}", predictions: str = "{out}"
) -> list[str]:
    options = ["--images", images, "--model", model, "--predictions", predictions]
    return ["score", *options, *arguments]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # places
        (train(images="{empty}"), "no images in {empty}"),
        (train(images="{tmp}/none"), "no such folder of images: {tmp}/none"),
        (train(images="{one}"), "only the label 'n0'"),
        (train(images="{thin}"), "no label has two different pictures"),
        (train(images="s3:/bucket"), "malformed URI 's3:/bucket'"),
        (train(images="s3://me:hunter2@bucket"), "credentials"),
        (train(images="~nobody-here/x"), "~nobody-here/x is in the home of an unknown user"),
        (train(model="/proc/no"), "/proc/no"),
        (train(model="{file}/model"), "{file}/model"),
        (score(predictions="/proc/no"), "/proc/no"),
        (score(model="{empty}"), "no model bundle in {empty}"),
        (score(images="{out}/images"), "--images {out}/images is in --predictions {out}"),
        (score(predictions="{bundle}"), "--model {bundle} is in --predictions {bundle}"),
        (train("--weights", "{tmp}/no.h5"), "--weights {tmp}/no.h5 cannot be read"),
        (train("--label-names", "{tmp}/no.csv"), "--label-names {tmp}/no.csv does not exist"),
        (["demo", "--folder", "{file}"], "--folder {file} is a file"),
        (["demo", "--folder", "{good}"], "--folder {good} holds other files"),
        (["demo", "--folder", "/proc/nox"], "/proc/nox"),
        (["demo", "--folder", "s3://bucket/demo"], "--folder is s3://bucket/demo"),
        # manifests
        (train(images="{tmp}/none.csv"), "manifest {tmp}/none.csv does not exist"),
        (train(images="{nouri}.csv"), "has no column 'uri', only path, label"),
        (train(images="{nolabel}.csv"), "has no column 'label'"),
        (train(images="{half}.csv"), "1 malformed URI, the first is 's3:/bucket/c.jpg'"),
        (train(images="{secret}.csv"), "'s3://***@bucket/c.jpg'"),
        (train(images="{scheme}.csv"), "'nonsense://bucket/c.jpg'"),
        (train(images="{twice}.csv"), "two columns 'uri'"),
        (train(images="{tmp}/no.parquet"), "no.parquet cannot be read"),
        (score("--dry-run", images="{nouri}.csv"), "has no column 'uri', only path, label"),
        (score("--dry-run", images="{half}.csv"), "1 malformed URI"),
        # bundles
        (score(model="{newer}"), "bundle format 99"),
        (score(model="{cut}"), "{cut}/model.json is damaged: it is not JSON"),
        (score(model="{changed}"), "{changed} is damaged: backbone-"),
        (score("--model-id", "0" * 12), "--model-id"),
        (
            ["rescore", "--predictions", "{empty}", "--model", "{bundle}", "--output", "{out}"],
            "no predictions in {empty}",
        ),
        (
            ["evaluate", "--predictions", "{empty}", "--labels", "{half}.csv", "--output", "{out}"],
            "no predictions in {empty}",
        ),
        (
            ["evaluate", "--images", "{empty}", "--model", "{bundle}", "--output", "{out}"],
            "no images in {empty}",
        ),
        # values
        (train("--backbone", "x"), "unknown backbone 'x'"),
        (train("--head", "1_0,5"), "unknown head '1_0,5'"),
        (train("--head", "٣"), "unknown head"),
        (train("--seed", str(2**32)), "--seed is 4294967296"),
        (train("--learning-rate", "inf"), "--learning-rate is inf"),
        (
            train("--crop", "round"),
            'invalid value "round" for --crop. Choose from: "middle", "whole", "square".',
        ),
        (train("--views", "3"), '"3" for --views. Choose from: "1", "2", "4", "6"'),
        (train("--class-weights", "heavy"), '"heavy" for --class-weights. Choose from: "none"'),
        (train("--target-precision", "1"), "--target-precision is 1.0"),
        (train("--folds", "1"), "--folds is 1: it must be at least 2 and at most 100"),
        (train("--fine-tune", "some"), "--fine-tune is 'some'"),
        (train("--fine-tune", "99-blocks"), "mobilenet has 14 blocks to train"),
        (train("--fine-tune-rate", "1e-3"), "--fine-tune-rate has no effect without --fine-tune"),
        (train("--no-augment"), "--no-augment has no effect without --fine-tune"),
        (train("--mlflow-experiment", "x"), "has no effect without --mlflow"),
        (train("--pool", "mean"), "--pool has no effect without --backbone FILE.onnx"),
        (train("--input-size", "9"), "--input-size has no effect without --backbone FILE.onnx"),
        (train("--backbone", "x.onnx", "--fine-tune", "9"), "--fine-tune needs a Keras backbone"),
        (train("--backbone", "x.onnx", "--weights", "none"), "--weights needs a Keras backbone"),
        (train("--backbone", "/no/such.onnx"), "--backbone /no/such.onnx cannot be read"),
        (train("--backbone", "s3://b/x.onnx?X-Amz-Signature=1.onnx"), "contains credentials"),
        (score("--views", "2"), "--views 2: this model was made for 1"),
        (train("--l2", "nan"), "--l2 is nan"),
        (train("--s3-endpoint", "127.0.0.1:9000"), "--s3-endpoint is '127.0.0.1:9000'"),
        (train("--s3-endpoint", "http://me:hunter2@host"), "--s3-endpoint contains credentials"),
        (train("--s3-endpoint", "me:hunter2@host"), "--s3-endpoint contains credentials"),
        (train("--s3-endpoint", "b=http://me:hunter2@h"), "--s3-endpoint contains credentials"),
        (train("--s3-endpoint", "b=h:9000"), "--s3-endpoint is 'b=h:9000'"),
        (train("--s3-endpoint", "http://a", "http://b"), "is given twice for all buckets"),
        (train("--profile", "a=x", "a=y"), "--profile is given twice for bucket a"),
        (train("--profile", "a="), "--profile is 'a='"),
        (train("--anonymous", "photos"), "--anonymous is photos"),
        (score("--top-k", "²"), "--top-k is '²'"),
        (score("--top-k", "0"), "--top-k is '0'"),
        (["demo", "--seed", "-1"], "--seed is -1"),
        (["jsonl"], "jsonl"),
    ],
)
@pytest.mark.usefixtures("bundles")
def test_mistakes_are_one_line(
    arguments: list[str],
    words: str,
    places: dict[str, Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = mistake(capfd, *(argument.format(**places) for argument in arguments))
    assert words.format(**places) in line
    assert "hunter2" not in line


def test_a_terminated_command_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(9)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("monkeyray.cli.main._do", terminated)
    with pytest.raises(SystemExit) as exit_:
        main(["demo"])
    assert exit_.value.code == 143
    assert "run the same command again" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_debug_shows_where(places: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--images", str(places["empty"]), "--model", "x", "--debug"])
    assert exit_.value.code == 2
    printed = capfd.readouterr().err
    assert printed.startswith("Traceback (most recent call last):\n")
    last = printed.splitlines()[-1]
    assert last.startswith(f"monkeyray.errors.InputError: no images in {places['empty']}")


@pytest.mark.parametrize("command", ["train", "score"])
def test_unusable_stores(
    command: str,
    s3: Storage,
    places: dict[str, Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monkeyray.storage.store, "START_PATIENCE_SECONDS", 1.0)
    rest = [
        *(["--model", str(places["out"])] if command == "train" else ["--model", "s3://photos/m"]),
        *(["--predictions", "s3://photos/p"] if command == "score" else []),
    ]

    def line(images: str, endpoint: str | None) -> str:
        options = ["--images", images, "--s3-endpoint", str(endpoint), *rest]
        return mistake(capfd, command, *options)

    bucket = line("s3://no-such-bucket/a", s3.s3_endpoint)
    assert "bucket 'no-such-bucket' does not exist" in bucket
    nobody = f"http://127.0.0.1:{free_port()}"
    assert f"cannot reach {nobody}" in line("s3://photos/a", nobody)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another one")
    assert "the credentials are wrong" in line("s3://photos/a", s3.s3_endpoint)
