"""Writes a command's result as JSON for programs: --summary-json."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

import monkeyray
from monkeyray.console import Result
from monkeyray.runs.cluster import check_relative
from monkeyray.storage.location import Location

if TYPE_CHECKING:
    from monkeyray.cli.parsing import Call

#: Increases when a key changes its name, type or meaning.
SCHEMA_VERSION = 1


class SummaryFile:
    """The summary of a call, if --summary-json asks for one.

    The JSON has `schema_version`, `command`, `monkeyray` (the version), `started_at` (UTC),
    `seconds`, and `result`: the `to_json` of the command's result. Later versions may add keys. An
    older file is deleted at the start, so that an existing file means success.

    Raises a StorageError, before the command begins, if it cannot be written.
    """

    def __init__(self, call: Call) -> None:
        self._command = call.command
        self._place = call.call.summary_json
        self._storage = call.config.store.storage()
        self._started_at = datetime.now(UTC)
        self._start = time.monotonic()
        if self._place is not None and self._place != "-":
            check_relative("summary-json", self._place)
            place = Location.parse(self._place)
            self._storage.check_reachable(place)
            self._storage.check_writable(place.parent)
            self._storage.delete(place)

    @property
    def printed_to(self) -> TextIO:
        """The file to print the human-readable result to."""
        return sys.stderr if self._place == "-" else sys.stdout

    def write(self, result: Result) -> None:
        """Write a command's result."""
        if self._place is None:
            return
        content = {
            "schema_version": SCHEMA_VERSION,
            "command": self._command,
            "monkeyray": monkeyray.__version__,
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._start, 3),
            "result": result.to_json(),
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        if self._place == "-":
            print(text, end="", flush=True)
        else:
            self._storage.write(Location.parse(self._place), text.encode())
