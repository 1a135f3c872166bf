"""Workers without Ray: poison, a killed child, a fault, an interrupt; the same rows as Ray's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monkeyray.console import Reporter
from monkeyray.errors import ClusterError, StorageError
from monkeyray.images.decode import Decoded, Limits
from monkeyray.runs.cluster import is_asked_for
from monkeyray.runs.lease import hold
from monkeyray.runs.reader import open_predictions
from monkeyray.runs.run import Run
from monkeyray.runs.workers.pools import MachinePool
from monkeyray.runs.workers.worker import SPENT, Job, every_second
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained
from tests.support.processes import processes_below
from tests.support.shard_jobs import hooked_decode, plan_of, prepare, work

SAY = Reporter(True).say


def printing(data: bytes, size: int, limits: Limits) -> Decoded:
    print("said while decoding")
    return hooked_decode(data, size, limits)


@contextlib.contextmanager
def prepared(
    folder: Path, contents: dict[str, bytes], limits: Limits
) -> Iterator[tuple[Run, Job, pa.Table]]:
    (folder / "images").mkdir()
    plan = plan_of(folder / "images", contents)
    with hold(Location.of(str(folder / "out")), Storage(), print) as lease:
        run = prepare(lease, plan, 16)
        yield run, Job("scoring", run, work(limits)), plan
        if not run.pending():
            run.finish(lease)


def children() -> list[int]:
    return processes_below(b"monkeyray.runs.workers.decode_process")


def test_poison_and_a_killed_child_in_one_run(tmp_path: Path) -> None:
    contents = {f"{i:04d}.jpg": b"slow" + bytes([i % 250]) for i in range(32)}
    contents |= {"0013.jpg": b"crash", "0029.jpg": b"hang"}

    def kill() -> None:
        while not list((tmp_path / "out").glob("*.parquet")):
            time.sleep(0.1)
        killed.append(children()[0])
        os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    seen: list[dict[str, int]] = []
    thread = threading.Thread(target=kill)
    thread.start()
    with prepared(tmp_path, contents, Limits(decode_seconds=0.5)) as (run, job, plan):
        spent = MachinePool().run(job, list(run.pending()), WorkerCount(2), SAY, seen.append)
    thread.join()
    assert killed
    assert all(spent[name] > 0 for name in SPENT)
    assert sum(seen[-1].values()) >= 32
    run = open_predictions(str(tmp_path / "out"), Storage()).run
    table = pa.concat_tables(table for _, table in run.read_files())
    assert table["uri"].to_pylist() == plan["uri"].to_pylist()
    assert Counter(table["status"].to_pylist()) == Counter(ok=30, crashed=1, timeout=1)
    for row in table.to_pylist():
        if row["status"] == "ok":
            assert row["seen"] == contents[Path(row["uri"]).name][-1]
    assert not children()


def test_a_fault_stops_the_job_with_its_own_error(tmp_path: Path) -> None:
    contents = {f"{i:04d}.jpg": b"good" + bytes([i]) for i in range(64)}
    with prepared(tmp_path, contents, Limits(max_refused=8)) as (run, job, _):
        for path in sorted((tmp_path / "images").iterdir())[:-1]:
            path.unlink()
        with pytest.raises(StorageError, match=r"^\d+ consecutive images are missing, the last is"):
            MachinePool().run(job, list(run.pending()), WorkerCount(1), SAY, lambda rows: None)
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert not children()


def test_an_interrupt_ends_all_at_once(tmp_path: Path) -> None:
    contents = {f"{i:04d}.jpg": b"hang" for i in range(64)}

    def interrupt() -> None:
        while len(children()) < 2:
            time.sleep(0.1)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    # Where the tests run in the background, an interrupt is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    with prepared(tmp_path, contents, Limits(decode_seconds=600)) as (run, job, _):
        with pytest.raises(KeyboardInterrupt):
            MachinePool().run(job, list(run.pending()), WorkerCount(2), SAY, lambda rows: None)
        assert len(run.pending()) == len(run.plan.sizes)
    signal.signal(signal.SIGINT, before)
    # Long before the decoder's time is over.
    assert not children()


def test_failing_progress_is_reported_once_and_retried() -> None:
    said, tries = [], []

    def tell() -> None:
        tries.append(1)
        raise BrokenPipeError("no terminal")

    def say(message: str, event: str = "note", **fields: Any) -> None:
        said.append(message)

    with every_second(tell, say):
        while len(tries) < 2:
            time.sleep(0.1)
    assert said == [
        "the job continues, but its progress cannot be shown (BrokenPipeError: no terminal)"
    ]


def test_no_more_workers_than_cores() -> None:
    pool = MachinePool()
    cores = pool.count("workers", None, False).workers
    assert pool.count("workers", 1, False) == WorkerCount(1)
    with pytest.raises(ClusterError, match=rf"--workers {cores + 1} needs {cores + 1} CPUs.*fewer"):
        pool.count("workers", cores + 1, False)
    with pytest.raises(ClusterError, match="Ray shares GPUs out"):
        pool.count("workers", None, True)


def test_scoring_needs_no_ray_and_gives_the_same_rows(
    few: Path, trained: Trained, embedded: Path, tmp_path: Path
) -> None:
    options = {
        "images": str(embedded.parent / "images"), "model": trained.uri,
        "predictions": str(tmp_path / "out"), "embeddings": True, "rows_per_file": 16,
    }  # fmt: skip
    code = (
        "import json, sys, monkeyray\n"
        "options = json.loads(sys.argv[1])\n"
        "print(monkeyray.score(**options))\n"
        "place = options['predictions'] + '-evaluated'\n"
        "from monkeyray.scoring.options import EvaluateConfig\n"
        "from monkeyray.scoring.evaluation.evaluate import evaluate\n"
        "config = EvaluateConfig(output=place, images=sys.argv[2], model=options['model'])\n"
        "print(evaluate(config))\n"
        "assert 'ray' not in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    environment = {name: v for name, v in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(options), str(few)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "44 rows, one per image" in done.stdout
    # What the libraries of a child say stays off the terminal.
    said = done.stderr.replace("\r", "\n").splitlines()
    told = ("scoring: ", "embedding: ")
    assert all(line.startswith(told) for line in said if line.strip()), done.stderr

    def rows(place: Path) -> list[dict[str, Any]]:
        run = open_predictions(str(place), Storage()).run
        table = pa.concat_tables(table for _, table in run.read_files())
        kept: list[dict[str, Any]] = table.drop_columns(
            ["predicted_at", "embedding", "top_k"]
        ).to_pylist()
        return kept

    for mine, rays in zip(rows(tmp_path / "out"), rows(embedded), strict=True):
        for name, value in mine.items():
            near = isinstance(value, float)
            assert value == (pytest.approx(rays[name], abs=1e-4) if near else rays[name]), name


def test_a_child_says_nothing_where_the_result_is_told(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from tests.runs.workers import test_pools as t\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from monkeyray.runs.workers import supervisor\n"
        "with t.prepared(Path(sys.argv[1]), {'0.jpg': b'print'}, t.Limits()) as (run, job, _):\n"
        "    job = replace(job, work=replace(job.work, decode=t.printing))\n"
        "    t.MachinePool(debug=True).run(job, [0], t.WorkerCount(1), t.SAY, lambda rows: None)\n"
        # In a process that is forked afterwards it can be done again.
        "os.fork() or os._exit(len(supervisor._starter._threads))\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (done.stdout, "said while decoding" in done.stderr) == ("", True)


@pytest.mark.parametrize(
    ("variables", "address", "here", "used"),
    [
        # One that merely runs on this machine, or has died there and left its address.
        ({}, None, False, False),
        ({}, "auto", False, True),
        ({}, "local", False, True),
        ({"RAY_ADDRESS": "ray.example:6379"}, None, False, True),
        ({"RAY_JOB_SUBMISSION_ID": "job"}, None, False, True),
        ({}, None, True, True),
    ],
)
def test_a_cluster_is_used_only_where_one_is_asked_for(
    variables: dict[str, str],
    address: str | None,
    here: bool,
    used: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: here)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = tmp_path / "ray" / "ray_current_cluster"
        file.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        assert is_asked_for(address) is used
