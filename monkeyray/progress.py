"""What a person sees while a job runs: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from monkeyray.terminal import harmless_line

_LINE_SECONDS = 30.0

#: Called with the number of images to do and the rows by status so far.
Advance = Callable[[int, dict[str, int]], None]


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep what C++ code writes to standard error away from it.

    TensorFlow and Ray print some lines while they start that no option of theirs turns off. Errors
    come as exceptions, and are not touched.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Reporter:
    """Writes to standard error, or nothing at all when `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def say(self, line: str) -> None:
        """One line."""
        if not self._quiet:
            print(harmless_line(line), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, what: str, unit: str = "images") -> Iterator[Advance]:
        """A bar with rate and ETA; where there is no terminal, a line every 30 seconds.

        `unit`: what is counted, in the plural.
        """
        from tqdm import tqdm

        if self._quiet:
            yield lambda total, rows: None
            return
        terminal = sys.stderr.isatty()
        bar: tqdm | None = None
        start = last = time.monotonic()

        def advance(total: int, rows: dict[str, int]) -> None:
            nonlocal bar, last
            done = sum(rows.values())
            bad = {status: count for status, count in rows.items() if status != "ok" and count}
            if terminal:
                if bar is None:
                    bar = tqdm(total=total, desc=what, unit=f" {unit}", dynamic_ncols=True)
                bar.set_postfix(bad, refresh=False)
                bar.update(done - bar.n)
            elif time.monotonic() - last >= _LINE_SECONDS or done >= total:
                last = time.monotonic()
                rate = done / max(last - start, 1e-9)
                form = ".0f" if rate >= 10 else ".1f"
                rest = "" if not done else f", {(total - done) / rate:.0f} s left"
                others = "".join(f", {count} {status}" for status, count in bad.items())
                print(
                    f"{what}: {done} of {total}, {rate:{form}} {unit}/s{rest}{others}",
                    file=sys.stderr,
                    flush=True,
                )

        try:
            yield advance
        finally:
            if bar is not None:
                bar.close()
