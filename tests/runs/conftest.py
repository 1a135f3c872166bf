"""A lease for the tests of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monkeyray.runs.lease import Lease, hold
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    with hold(Location.of(str(tmp_path)), Storage(), print) as lease:
        yield lease
