"""The command line does what it did when its behaviour was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.frozen import differences, record


@pytest.mark.timeout(1800)  # some minutes, and twice as many on a machine that is busy
def test_the_command_line_does_what_was_recorded(photos: Path) -> None:
    frozen = json.loads(Path(__file__).with_name("frozen.json").read_text())
    # Other processors compute a little otherwise.
    found = list(differences(frozen, record(photos), tolerance=1e-3))
    assert not found, "\n".join(found[:50])
