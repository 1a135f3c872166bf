"""One run at a time in a place, on local disk and S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from monkeyray.errors import LeaseError
from monkeyray.runs import lease as leases
from monkeyray.runs.lease import NAME, hold
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

STORAGE = Storage()


def test_the_lease_is_given_back(tmp_path: Path) -> None:
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        lease.check()
        assert json.loads((tmp_path / NAME).read_text())["token"] == lease.token
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LeaseError):
        lease.check()


def test_a_second_run_is_refused(
    s3: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.5)
    for place, storage in ((str(tmp_path), STORAGE), ("s3://photos/leases/a", s3)):
        with hold(Location.of(place), storage, print) as lease:
            start = time.monotonic()
            with (
                pytest.raises(LeaseError, match=r"another run .* is writing into"),
                hold(Location.of(place), storage, print),
            ):
                pass
            assert time.monotonic() - start < leases.LAPSE_SECONDS
            lease.check()


HOLDER = """
    import sys, time
    from monkeyray.runs.lease import hold
    from monkeyray.storage.location import Location
    from monkeyray.storage.store import Storage
    with hold(Location.of(sys.argv[1]), Storage(), print) as lease:
        print("held", flush=True)
        sys.stdin.readline()
        try:
            lease.check()
        except Exception as error:
            print(type(error).__name__, flush=True)
"""


def holder(place: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_run_is_followed_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.wait()
    start = time.monotonic()
    with hold(Location.of(str(tmp_path)), STORAGE, print):
        assert time.monotonic() - start < leases.RENEW_SECONDS


def test_a_run_that_sleeps_is_followed_and_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LAPSE_SECONDS", 2.0)
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    said: list[str] = []
    with hold(Location.of(str(tmp_path)), STORAGE, said.append) as lease:
        os.kill(process.pid, signal.SIGCONT)
        out, _ = process.communicate("\n", timeout=30)
        assert out == "LeaseError\n"
        lease.check()
    assert process.returncode == 0


def test_a_lease_of_another_machine_or_version_must_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with hold(Location.of(str(tmp_path)), STORAGE, print):
        mine = json.loads((tmp_path / NAME).read_text())
    monkeypatch.setattr(leases, "time", clock)
    exited = mine["process"] | {"started": 1}
    for stale in (
        mine | {"process": None},
        mine | {"process": {"system": "elsewhere", "pid": 1, "started": 1}},
        mine | {"format": 99, "process": exited | {"threads": 2}},
        {"owner": "of a version to come"},
    ):
        STORAGE.write(str(tmp_path / NAME), json.dumps(stale).encode())
        start = clock.now
        with hold(Location.of(str(tmp_path)), STORAGE, print):
            assert clock.now - start >= leases.LAPSE_SECONDS
    STORAGE.write(str(tmp_path / NAME), json.dumps(mine | {"process": exited}).encode())
    start = clock.now
    with hold(Location.of(str(tmp_path)), STORAGE, print):
        assert clock.now == start


class Clock:
    """A clock that only waiting moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
