"""What a test needs from the machine and may not find."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(message: str) -> NoReturn:
    """Skip the test that needs what is missing, with the reason; in CI it fails."""
    if os.environ.get("MONKEYRAY_CI"):
        pytest.fail(message)
    pytest.skip(message)
