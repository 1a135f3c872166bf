"""`ray job submit` to a head node, from an environment where monkeyray is not installed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monkeyray.model.bundle import load_bundle
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained
from tests.support.processes import processes_below
from tests.support.rays import head_node, short_folder
from tests.support.weed import free_port

ROOT = Path(__file__).parents[2]


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a user with a fresh home, and without our code on the path."""
    kept = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HOME": str(home)}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Python that has our dependencies and not us: what .pth files add, it does not see."""
    venv.create(tmp_path / "bare", symlinks=True)
    site = next((tmp_path / "bare" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = tmp_path / "bare" / "bin" / "python"
    probe = "import importlib.util as u; assert u.find_spec('monkeyray') is None"
    subprocess.run([python, "-c", probe], check=True, cwd=tmp_path, env=clean_environment(tmp_path))
    return python


@pytest.fixture
def head(bare: Path) -> Iterator[dict[str, str]]:
    """A Ray head node of that Python; the environment to talk to it."""
    dashboard, port, log = free_port(), free_port(), bare.parent / "head.log"
    with short_folder() as folder:
        environment = clean_environment(bare.parents[2]) | {
            "TMPDIR": folder,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "HEAD_ADDRESS": f"127.0.0.1:{port}",  # for the second node
        }
        with head_node(str(bare), environment, log, port, f"--dashboard-port={dashboard}"):
            yield environment


def submit(python: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(python), "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(ROOT),
         "--", str(python), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=python.parent,
    )  # fmt: skip


def end(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it printed."""
    out, _ = job.communicate(timeout=400)
    return job.returncode, out


@pytest.mark.skipif(sys.platform != "linux", reason="ray start is tested on Linux")
def test_both_jobs_are_submitted(
    bare: Path,
    head: dict[str, str],
    few: Path,
    trained: Trained,
    embedded: Path,
    tmp_path: Path,
) -> None:
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    train = ["jobs/train.py", "--images", str(few)]
    # That images are opened where the code was sent to shows in scoring.
    cached = ["--features", str(Path(trained.uri) / "features")]
    job = submit(bare, head, *train, "--model", model, *cached, "--workers", "2")
    refused = submit(bare, head, *train, "--model", "relative")  # beside the other one
    code, printed = end(job)
    assert code == 0, printed
    assert "out-of-fold accuracy" in printed
    # One worker on this machine, without a cluster, gave the same weights to the last bit.
    assert load_bundle(model, Storage()).model["model_id"] == trained.model["model_id"]
    code, printed = end(refused)
    assert code != 0
    assert "--model relative is a relative path" in printed
    code, printed = end(
        submit(
            bare, head, "jobs/score.py", "--images", str(embedded.parent / "images"),
            "--model", model, "--predictions", out, "--embeddings", "--rows-per-file", "2",
            "--workers", "1",
        )
    )  # fmt: skip
    assert code == 0, printed
    submitted, local = (
        pq.read_table(place).drop_columns(["predicted_at"]).sort_by("uri")
        for place in (out, embedded)
    )
    assert submitted.equals(local)
    assert local.num_rows == 44


@pytest.mark.skipif(sys.platform != "linux", reason="ray start is tested on Linux")
def test_lost_node_costs_no_row(
    bare: Path, head: dict[str, str], few: Path, trained: Trained, tmp_path: Path
) -> None:
    photographs = sorted(path for path in few.rglob("*") if path.is_file())
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(1800):
        os.link(photographs[number % len(photographs)], images / f"{number:04d}.jpg")
    (images / "0300.jpg").unlink()
    (images / "0300.jpg").write_bytes(b"")
    # A node of its own: another raylet with another object store, which actors are spread over.
    log = open(tmp_path / "node.log", "wb")  # noqa: SIM115 - closed with the node
    node = subprocess.Popen(
        [str(bare), "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2",
         f"--address={head['HEAD_ADDRESS']}"],
        env=head, cwd=bare.parent, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "will now block" not in Path(log.name).read_text():  # it has joined
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.2)
        job = submit(
            bare, head, "jobs/score.py", "--images", str(images), "--model", trained.uri,
            "--predictions", str(out), "--rows-per-file", "16", "--workers", "4",
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (
            list(out.glob("*.parquet"))
            and processes_below(b"monkeyray.runs.workers.decode_process", node.pid)
        ):
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < deadline, "no file, or no worker on the second node"
            time.sleep(0.05)
        made = len(list(out.glob("*.parquet")))
        for pid in [*processes_below(b"", node.pid), node.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code, printed = end(job)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait(20)
        log.close()
    assert code == 0, printed
    assert made < len(list(out.glob("*.parquet")))
    uris = pq.read_table(out)["uri"].to_pylist()
    assert sorted(uris) == sorted(str(path) for path in images.iterdir())
    assert (out / "_SUCCESS").exists()
