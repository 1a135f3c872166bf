"""Images that crash or hang their process cost their own row and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monkeyray.errors import ClusterError, StorageError
from monkeyray.images.decode import Limits
from monkeyray.runs.workers import supervisor
from monkeyray.runs.workers.decode_process import COMPUTING, OpenImage
from monkeyray.runs.workers.shared_engine import SharedEngine
from monkeyray.runs.workers.supervisor import SupervisedDecoder, pack
from tests.support.shard_jobs import (
    bug_engine,
    dying_engine,
    hanging_engine,
    hanging_start,
    make_engine,
    plan_of,
    work,
)


@pytest.fixture
def start() -> Iterator[Callable[..., SupervisedDecoder]]:
    running: list[SupervisedDecoder] = []

    def start(
        engine: Any = make_engine, batch_size: int = 8, shared: bool = False, **limits: Any
    ) -> SupervisedDecoder:
        job = replace(work(Limits(**limits), engine), batch_size=batch_size)
        packed = pack(job, engine=SharedEngine(job, 4) if shared else None)
        running.append(SupervisedDecoder(packed, {}))
        return running[-1]

    yield start
    for watched in running:
        watched.close()


def good(count: int) -> dict[str, bytes]:
    return {f"{i:03d}.jpg": b"good" + bytes([i]) for i in range(count)}


@pytest.mark.parametrize("shared", [False, True])
def test_a_poison_file_and_one_that_hangs_cost_a_row_each(
    shared: bool, start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    contents = good(30)
    contents |= {"005.jpg": b"crash", "006.jpg": b"crash again"}
    contents |= {"020.jpg": b"broken", "029.jpg": b"hang, the last one"}
    plan = plan_of(tmp_path, contents)
    table = pa.concat_tables(start(decode_seconds=0.5, shared=shared).run(plan))
    assert table["uri"].to_pylist() == plan["uri"].to_pylist()
    rows = {Path(row["uri"]).name: row for row in table.to_pylist()}
    statuses = Counter(row["status"] for row in rows.values())
    assert statuses == {"ok": 26, "crashed": 2, "timeout": 1, "unreadable": 1}
    assert rows["005.jpg"]["error"] == "the decoder crashed on it twice: signal 11 (SIGSEGV)"
    assert rows["029.jpg"]["error"] == "not decoded within 0.5 s, twice"
    for name, data in contents.items():
        if rows[name]["status"] == "ok":
            assert rows[name]["seen"] == data[-1]
        assert rows[name]["sha256"] is not None


def test_a_broken_camera_writes_neighbours(
    start: Callable[..., SupervisedDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A whole batch of poison, more than the deaths that a process may die for no image's fault.
    monkeypatch.setattr(supervisor, "_DEATHS", 2)
    contents = good(10) | {f"{i:03d}.jpg": b"crash" for i in range(3, 8)}
    table = pa.concat_tables(start(batch_size=4).run(plan_of(tmp_path, contents)))
    assert Counter(table["status"].to_pylist()) == {"ok": 5, "crashed": 5}


def test_the_child_imports_nothing_from_the_working_directory(
    start: Callable[..., SupervisedDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, good(3))
    (tmp_path / "queue.py").write_text("raise SystemExit('not that of the standard library')\n")
    monkeypatch.chdir(tmp_path)
    assert pa.concat_tables(start().run(plan))["status"].to_pylist() == ["ok"] * 3


def test_a_pipe_is_no_image(start: Callable[..., SupervisedDecoder], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, good(3))
    (tmp_path / "001.jpg").unlink()
    os.mkfifo(tmp_path / "001.jpg")
    table = pa.concat_tables(start().run(plan))
    assert table["status"].to_pylist() == ["ok", "unsupported", "ok"]


def test_a_file_is_not_read_beyond_the_limit(
    start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, good(2) | {"big.jpg": b"good" * 100})
    table = pa.concat_tables(start(max_bytes=100).run(plan))
    assert table["status"].to_pylist() == ["ok", "ok", "too_large"]
    assert table["sha256"].to_pylist()[2] is None


def test_a_file_that_kills_only_in_company_is_no_crash(
    start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    contents = good(10) | {"004.jpg": f"once {tmp_path / 'marker'} \7".encode()}
    table = pa.concat_tables(start().run(plan_of(tmp_path, contents)))
    assert (tmp_path / "marker").exists()
    assert set(table["status"].to_pylist()) == {"ok"}
    assert table["seen"].to_pylist()[4] == 7


def test_a_child_killed_from_outside_makes_no_image_crashed(
    start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, {f"{i:03d}.jpg": b"slow" + bytes([i]) for i in range(16)})
    watched = start()
    killed: list[int] = []

    def kill() -> None:
        for done in range(2):
            while (child := watched._child).pid in killed or child._image.position() is None:
                time.sleep(0.01)
            time.sleep(0.5 * done)  # the second time in the middle
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    table = pa.concat_tables(watched.run(plan))
    thread.join()
    assert set(table["status"].to_pylist()) == {"ok"}
    assert table["seen"].to_pylist() == list(range(16))
    assert len(set(table["pid"].to_pylist()) | set(killed)) == 3


WORKER = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from monkeyray.images.decode import Limits
from monkeyray.runs.workers.shared_engine import SharedEngine
from monkeyray.runs.workers.supervisor import SupervisedDecoder, pack
from tests.support.shard_jobs import plan_of, work
decoder = SupervisedDecoder(pack(work(Limits())), {})
def tell():
    while decoder._child._image.position() is None:
        time.sleep(0.05)
    print(decoder._child.pid, flush=True)
threading.Thread(target=tell).start()
list(decoder.run(plan_of(Path(sys.argv[2]), {"hang.jpg": b"hang"})))
"""


def test_a_child_ends_with_its_worker(tmp_path: Path) -> None:
    # The child hangs in the decoder and looks at nothing else while its worker is killed.
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(Path(__file__).parents[3]), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    child = Path("/proc") / worker.stdout.readline().strip()
    assert child.exists()
    worker.kill()
    worker.wait()
    deadline = time.monotonic() + 10
    while child.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_that_keeps_dying_stops_the_job(
    start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match=r"died 5 times .*exit code 3.*memory"):
        list(start(dying_engine, batch_size=2).run(plan_of(tmp_path, good(4))))


@pytest.mark.parametrize("shared", [False, True])
def test_a_bug_in_the_engine_is_raised_as_it_is(
    shared: bool, start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    watched = start(bug_engine, shared=shared)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        list(watched.run(plan_of(tmp_path, good(3))))


def test_a_long_run_of_missing_images_stops_the_job(
    start: Callable[..., SupervisedDecoder], tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, good(60))
    watched = start(max_refused=20)
    assert pa.concat_tables(watched.run(plan))["status"].to_pylist() == ["ok"] * 60
    # The disk is gone: what could be read before is missing too.
    tmp_path.rename(tmp_path.with_name("away"))
    with pytest.raises(StorageError, match=r"could be read before, is missing now"):
        list(watched.run(plan))


@pytest.mark.parametrize(
    ("engine", "shared"), [(hanging_engine, False), (hanging_start, False), (hanging_engine, True)]
)
def test_a_network_that_hangs_ends_the_run(
    engine: Any,
    shared: bool,
    start: Callable[..., SupervisedDecoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "_COMPUTE_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=r"not computed within 0\.5 s, 2 times in a row"):
        list(start(engine, shared=shared).run(plan_of(tmp_path, good(20))))


def test_a_slow_network_is_given_its_time(
    start: Callable[..., SupervisedDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = start()
    assert list(watched.run(plan_of(tmp_path, good(20))))
    assert watched._child.compute_seconds == supervisor._COMPUTE_SECONDS
    monkeypatch.setattr(supervisor, "_SLOWER", 1e9)
    assert list(watched.run(plan_of(tmp_path, good(20))))
    assert watched._child.compute_seconds > supervisor._COMPUTE_SECONDS


def test_the_open_image_is_seen_from_both_sides() -> None:
    ours = OpenImage.create()
    theirs = OpenImage(os.dup(ours.descriptor))
    assert ours.position() is None
    assert not ours.longer_than(-1.0, 60.0)
    theirs.set(7)
    assert ours.position() == 7
    assert ours.longer_than(-1.0, 60.0)
    assert not ours.longer_than(60.0, -1.0)
    theirs.set(COMPUTING)
    assert ours.position() is None
    assert ours.longer_than(60.0, -1.0)
    assert not ours.longer_than(-1.0, 60.0)
    theirs.set(None)
    assert not ours.longer_than(-1.0, -1.0)
    ours.close()
    theirs.close()
