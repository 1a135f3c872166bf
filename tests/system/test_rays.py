"""Several Rays on one machine, and Rays that die: commands as a user starts them, with a fresh home
and Ray's own settings."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monkeyray.training.summary import Trained
from tests.support.rays import head_node, short_folder
from tests.support.weed import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

NO_DASHBOARD = "--include-dashboard=false"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user with a fresh home and a temporary folder of their own."""
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with short_folder() as folder:
        yield {
            **kept, "HOME": str(tmp_path / "home"), "TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip


@pytest.fixture
def start(user: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command of MonkeyRay."""
    with contextlib.ExitStack() as ending:

        def run(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "monkeyray", *arguments], env=user, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            ending.callback(process.kill)
            return process

        yield run


def all_end_well(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        assert "using the Ray cluster" not in out


def model_id(model: Path | str) -> str:
    return str(json.loads((Path(model) / "model.json").read_text())["model_id"])


def test_commands_beside_another_ray_and_after_its_death(
    few: Path,
    trained: Trained,
    embedded: Path,
    user: dict[str, str],
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    # Beside somebody's Ray, which then dies, and beside each other.
    features = ["--features", f"{trained.uri}/features"]
    train = ["train", "--images", str(few), *features, "--model"]
    score = ["score", "--images", str(few), "--model", trained.uri, "--workers", "1"]
    log = tmp_path / "head.log"
    with head_node(sys.executable, user, log, free_port(), NO_DASHBOARD) as kill:
        beside = [
            start(*train, str(tmp_path / "beside"), "--ray-address", "local"),
            *(start(*score, "--predictions", str(tmp_path / name)) for name in ("a", "b")),
        ]
        while not (tmp_path / "beside" / ".training").exists():
            assert beside[0].poll() is None, beside[0].communicate()[0]
            time.sleep(0.1)
        kill()
    all_end_well(*beside)

    # Its address is still there.
    assert (Path(user["TMPDIR"]) / "ray" / "ray_current_cluster").exists()
    after = [str(tmp_path / name) for name in ("after", "c", "rescored", "evaluated", "tuned")]
    images = ["--images", str(few)]
    again = ["--model", trained.uri, "--output"]
    all_end_well(start(*train, after[0]), start(*score, "--predictions", after[1]))
    all_end_well(
        start(
            "rescore", "--predictions", str(embedded), *again, after[2], "--ray-address", "local"
        ),
        start("evaluate", *images, *again, after[3]),
    )
    all_end_well(start("tune", *images, *features, "--trials", "2", "--model", after[4]))

    assert model_id(tmp_path / "beside") == model_id(after[0]) == model_id(trained.uri)
    for name in ("a", "b", "c"):
        uris = pq.read_table(tmp_path / name)["uri"].to_pylist()
        assert sorted(uris) == sorted(map(str, few.rglob("*.jpg")))
    assert pq.read_table(after[2]).num_rows == 44
    assert json.loads((Path(after[3]) / "metrics.json").read_text())["data"]["scored"] == 42
    assert model_id(after[4])
    # Nobody's next Ray wants a token because of ours.
    assert not (tmp_path / "home" / ".ray" / "auth_token").exists()


def test_a_job_resumes_after_its_cluster_went_away(
    few: Path,
    trained: Trained,
    user: dict[str, str],
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    photographs = sorted(few.rglob("*.jpg"))
    images, out, port = tmp_path / "images", tmp_path / "out", free_port()
    images.mkdir()
    for number in range(400):
        os.link(photographs[number % len(photographs)], images / f"{number:04d}.jpg")
    score = [
        "score", "--images", str(images), "--model", trained.uri, "--predictions", str(out),
        "--rows-per-file", "20", "--workers", "2", "--ray-address", f"127.0.0.1:{port}",
    ]  # fmt: skip
    with head_node(sys.executable, user, tmp_path / "head.log", port, NO_DASHBOARD) as kill:
        job = start(*score)
        while len(list(out.glob("*.parquet"))) < 2:
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        kill()
        printed, _ = job.communicate(timeout=120)
    assert job.returncode == 2, printed
    lost = rf"^error: the Ray cluster at \S+:{port} has gone away: finished files are kept; .*$"
    assert len(re.findall(lost, printed, re.MULTILINE)) == 1, printed
    assert printed.count("error: ") == 1
    assert "Traceback" not in printed
    finished = {path: path.read_bytes() for path in out.glob("*.parquet")}
    assert not (out / "_SUCCESS").exists()

    with head_node(sys.executable, user, tmp_path / "head.log", port, NO_DASHBOARD):
        job = start(*score)
        printed, _ = job.communicate(timeout=240)
    assert job.returncode == 0, printed
    assert re.search(rf"^using the Ray cluster at \S+:{port}: 2 CPUs, 0 GPUs$", printed, re.M)
    assert all(path.read_bytes() == data for path, data in finished.items())
    uris = pq.read_table(out)["uri"].to_pylist()
    assert sorted(uris) == sorted(map(str, images.iterdir()))
