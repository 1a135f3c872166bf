"""What tests of exports share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.required import skip_or_fail


@pytest.fixture(scope="session")
def standard() -> Path:
    """The folder with Camtrap DP's schemas and its example; see skip_or_fail."""
    root = os.environ.get("MONKEYRAY_PHOTOS")
    folder = Path(root or ".") / "camtrap-dp"
    if not root or not (folder / "camtrap-dp-profile.json").is_file():
        skip_or_fail("set MONKEYRAY_PHOTOS to a folder that holds camtrap-dp with its schemas")
    return folder
