"""One run at a time in a place: a small file that its owner renews and others respect.

A run whose lease was not renewed for LAPSE_SECONDS is taken for dead, at once where its process can
be seen to be. If it wakes up all the same, its workers find another's token in the file and stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monkeyray.errors import ConflictError, LeaseError, MissingError, StorageError
from monkeyray.storage.location import join
from monkeyray.storage.protocol import Blob
from monkeyray.storage.store import Storage

RENEW_SECONDS = 5.0
LAPSE_SECONDS = 60.0

#: The lease is renewed, checked and given back with less patience than it takes to lapse.
_PATIENCE_SECONDS = 10.0

NAME = "_lease.json"


@dataclass(frozen=True)
class Lease:
    """The right to write into a place, as long as its file holds this token."""

    place: str
    storage: Storage
    token: str

    def check(self) -> None:
        """Raise LeaseError when the place has been taken over."""
        try:
            token = json.loads(self.storage.read(join(self.place, NAME)).data)["token"]
        except (MissingError, ValueError, KeyError, TypeError, RecursionError):
            token = None
        if token != self.token:
            raise LeaseError(
                f"{self.place} was taken over by another run while this one did not answer: "
                "nothing is lost, let that one go on"
            )


@contextlib.contextmanager
def hold(place: str, storage: Storage, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease of a place, renewed by a thread.

    Raises LeaseError when a live run has it; where that cannot be seen at once, it waits for up to
    LAPSE_SECONDS, and says so.
    """
    uri = join(place, NAME)
    mine: dict[str, Any] = {
        "token": uuid.uuid4().hex,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": _process(os.getpid()),
        "renewals": 0,
    }
    brief = replace(storage, patience_seconds=_PATIENCE_SECONDS)
    version = _acquire(uri, storage, mine, say)
    stop = threading.Event()

    def renew() -> None:
        held = version
        while not stop.wait(RENEW_SECONDS):
            mine["renewals"] += 1
            try:
                held = brief.replace(uri, _bytes(mine), held)
            except ConflictError:
                return  # taken over: the workers' own checks stop them
            except StorageError:
                continue  # it may lapse, and then a later try finds that out

    thread = threading.Thread(target=renew, daemon=True, name="lease")
    thread.start()
    lease = Lease(place, storage, mine["token"])
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        # Where the store does not answer any more, the job's own error is the one to tell.
        with contextlib.suppress(LeaseError, StorageError):
            replace(lease, storage=brief).check()
            brief.delete(uri)


def _acquire(
    uri: str, storage: Storage, mine: dict[str, Any], say: Callable[[str], None]
) -> str | None:
    while True:
        try:
            return storage.create(uri, _bytes(mine))
        except ConflictError:
            pass
        try:
            seen = storage.read(uri)
        except MissingError:
            time.sleep(0.2)
            continue  # given back just now
        if not _is_dead(seen):
            _watch(uri, storage, seen, say)
        try:
            return storage.replace(uri, _bytes(mine), seen.version)
        except ConflictError:
            continue  # a third one was quicker


def _watch(uri: str, storage: Storage, seen: Blob, say: Callable[[str], None]) -> None:
    """Return when a lease is not renewed for as long as it takes to lapse."""
    start = time.monotonic()
    said = False
    while (waited := time.monotonic() - start) < LAPSE_SECONDS:
        time.sleep(1)
        try:
            now = storage.read(uri)
        except MissingError:
            return
        if now.version != seen.version:
            owner = _owner(now)
            raise LeaseError(
                f"another run ({owner}) is writing into {uri.rpartition('/')[0]}: wait for it, or "
                "stop it"
            )
        if waited > 2 * RENEW_SECONDS and not said:
            said = True
            say(f"another run ({_owner(seen)}) has not been seen for a while: waiting to be sure")


def _owner(lease: Blob) -> str:
    try:
        content = json.loads(lease.data)
        return f"on {content['host']} since {content['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown"


def _is_dead(lease: Blob) -> bool:
    """Whether the owner ran on this machine and is no more."""
    try:
        owner = json.loads(lease.data)["process"]
        here = _process(os.getpid())
        if owner is None or here is None or owner["system"] != here["system"]:
            return False
        return bool(_process(owner["pid"]) != owner)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True  # no lease of ours


def _process(pid: int) -> dict[str, Any] | None:
    """What tells a process from all others, on Linux; None where that cannot be said."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    if state in "ZX":
        return None
    return {"system": f"{boot} {namespace}", "pid": pid, "started": int(fields[18])}


def _bytes(lease: dict[str, Any]) -> bytes:
    return (json.dumps(lease) + "\n").encode()
