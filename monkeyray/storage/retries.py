"""Retries of transient errors, with exponential backoff and jitter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from monkeyray.errors import FaultError

T = TypeVar("T")

#: How long a store may be down in the middle of a job, and at its start, where a wrong address is
#: the likelier cause.
PATIENCE_SECONDS = 100.0
START_PATIENCE_SECONDS = 10.0

_LONGEST_WAIT_SECONDS = 15.0


def with_retries(operation: Callable[[], T], patience_seconds: float) -> T:
    """The result of an operation, called again while it raises FaultError.

    The waits are random up to a bound that doubles (full jitter), so that many workers do not come
    back at once. Raises the last FaultError after `patience_seconds`.
    """
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(FaultError),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_SECONDS),
        stop=tenacity.stop_after_delay(patience_seconds),
        reraise=True,
    )
    return retrying(operation)
