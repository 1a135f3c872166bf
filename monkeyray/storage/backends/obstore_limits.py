"""What obstore cannot do: express some keys, and work in a fork."""

from __future__ import annotations

import os
import re

#: Keys that obstore refuses or silently changes: control characters, and segments that are empty,
#: . or ..
_INEXPRESSIBLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|(?:\A|/)\.{0,2}(?:/|\Z)")

#: The process that runs obstore's threads. A fork lacks them, and would wait forever.
_threads_of: int | None = None


def is_expressible(key: str) -> bool:
    """Whether obstore requests exactly this key.

    >>> is_expressible("a/b c.jpg"), is_expressible("a//b.jpg"), is_expressible("/a.jpg")
    (True, False, False)
    """
    return _INEXPRESSIBLE.search(key) is None


def owns_threads() -> bool:
    """Whether this process may use obstore: the first one that asks may, its forks may not."""
    global _threads_of
    _threads_of = _threads_of or os.getpid()
    return _threads_of == os.getpid()
