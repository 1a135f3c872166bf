"""One run at a time in a place: a small file that its owner renews and others respect.

A lease expires after LAPSE_SECONDS without renewal, or at once if its owner ran on this machine and
has exited. It only refuses a second active run. If an owner wakes up after its lease has expired,
or two runs race for an expired one, the fence of run.py protects the rows; so the lease needs no
conditional replacement.
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
from monkeyray.storage.backends.protocol import Blob
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

RENEW_SECONDS = 5.0
LAPSE_SECONDS = 60.0

#: Renewing and releasing the lease give up sooner than it expires.
_PATIENCE_SECONDS = 10.0

NAME = "_lease.json"

#: The fields below; a lease in another format is judged by its renewals only.
_FORMAT = 2


@dataclass(frozen=True)
class Lease:
    """The right to write into a place, as long as its file holds this token."""

    place: Location
    storage: Storage
    token: str

    def check(self) -> None:
        """Raise LeaseError if another run has taken the place."""
        if not self.is_held():
            raise LeaseError(
                f"{self.place} was taken over by another run while this one was unresponsive: "
                "nothing is lost, let the other run continue"
            )

    def is_held(self) -> bool:
        """Whether the lease is still this one."""
        try:
            content = json.loads(self.storage.read(self.place / NAME).data)
            return bool(content["token"] == self.token)
        except (MissingError, ValueError, KeyError, TypeError, RecursionError):
            return False


@contextlib.contextmanager
def hold(place: Location, storage: Storage, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease of a place, renewed by a thread.

    Raises LeaseError if a live run has it. If that cannot be seen at once, it waits for up to
    LAPSE_SECONDS, and says so.
    """
    file = place / NAME
    lease = Lease(place, storage, uuid.uuid4().hex)
    content: dict[str, Any] = {
        "format": _FORMAT,
        "token": lease.token,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": _process(os.getpid()),
        "renewals": 0,
    }
    brief = replace(lease, storage=replace(storage, patience_seconds=_PATIENCE_SECONDS))
    _acquire(file, storage, content, say)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_SECONDS):
            # If the store does not answer, the lease may expire; a later try finds that out.
            with contextlib.suppress(StorageError):
                if not brief.is_held():
                    return  # the job's next check reports it
                content["renewals"] += 1
                brief.storage.write(file, _bytes(content))

    thread = threading.Thread(target=renew, daemon=True, name="lease")
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        # If the store does not answer any more, the job's own error is the one to tell.
        with contextlib.suppress(StorageError):
            if brief.is_held():
                brief.storage.delete(file)


def _acquire(
    file: Location, storage: Storage, content: dict[str, Any], say: Callable[[str], None]
) -> None:
    while True:
        with contextlib.suppress(ConflictError):
            storage.create(file, _bytes(content))
            return
        try:
            seen = storage.read(file)
        except MissingError:
            time.sleep(0.2)
            continue  # given back just now
        if not _has_exited(seen):
            _watch(file, storage, seen, say)
        storage.delete(file)


def _watch(file: Location, storage: Storage, seen: Blob, say: Callable[[str], None]) -> None:
    """Return once a lease has not been renewed for LAPSE_SECONDS."""
    start = time.monotonic()
    said = False
    while (waited := time.monotonic() - start) < LAPSE_SECONDS:
        time.sleep(1)
        try:
            now = storage.read(file)
        except MissingError:
            return
        if now.version != seen.version:
            owner = _owner(now)
            raise LeaseError(
                f"another run ({owner}) is writing into {file.parent}: wait for it, or stop it"
            )
        if waited > 2 * RENEW_SECONDS and not said:
            said = True
            say(
                f"another run ({_owner(seen)}) has not been seen for a while: waiting until its "
                "lease expires"
            )


def _owner(lease: Blob) -> str:
    try:
        content = json.loads(lease.data)
        return f"on {content['host']} since {content['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown"


def _has_exited(lease: Blob) -> bool:
    """Whether the owner is known to have run on this machine and to have exited."""
    try:
        content = json.loads(lease.data)
        owner, here = content["process"], _process(os.getpid())
        if content["format"] != _FORMAT or owner is None or here is None:
            return False
        return bool(owner["system"] == here["system"] and _process(owner["pid"]) != owner)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _process(pid: int) -> dict[str, Any] | None:
    """What identifies a process on Linux; None if it has exited, or on other systems."""
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
