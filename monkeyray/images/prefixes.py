"""Finds files that a table names under another folder among images.

`cards/A/IMG_1.JPG` in the results of a detector is `/mnt/season/A/IMG_1.JPG` here. One rule, which
replaces one prefix by another, is derived from some images and applied to all, so images of the
same name in different folders are not confused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from monkeyray.errors import InputError

#: Images that the rule is derived from.
_SAMPLE = 64


@dataclass(frozen=True)
class Rule:
    """How the names of files elsewhere become URIs: the prefix `there` is replaced by `here`."""

    there: str
    here: str

    def uri(self, file: str) -> str | None:
        """The URI of a file; None for one without the prefix."""
        if not file.startswith(self.there):
            return None
        return self.here + file[len(self.there) :]


def find_rule(files: Sequence[str], uris: Sequence[str], called: str, remedy: str) -> Rule | None:
    """The rule that finds a file for most of the URIs; of several, the one with the shortest
    prefixes.

    None if no file has the name of any URI. Raises InputError if two rules are equally good; its
    message says what the files are `called`, and the `remedy`.

    >>> find_rule(["A/1.jpg", "B/1.jpg"], ["/mnt/x/A/1.jpg"], "times", "give other ones")
    Rule(there='', here='/mnt/x/')
    """
    wanted: dict[str, list[list[str]]] = {}
    for uri in uris:
        wanted.setdefault(uri.rpartition("/")[2], []).append(uri.split("/"))
    votes: Counter[tuple[str, str]] = Counter()
    for file in files:
        its = wanted.get(file.rpartition("/")[2])
        if its is None:
            continue
        path = file.split("/")
        for other in its:
            same = 1
            while same < min(len(path), len(other)) and path[-same - 1] == other[-same - 1]:
                same += 1
            votes["/".join([*path[:-same], ""]), "/".join([*other[:-same], ""])] += 1

    def rank(rule: tuple[str, str]) -> tuple[int, int]:
        return -votes[rule], rule[0].count("/") + rule[1].count("/")

    best = sorted(votes, key=rank)
    if not best:
        return None
    if len(best) > 1 and rank(best[0]) == rank(best[1]):
        (one, here), (second, _) = best[:2]
        raise InputError(
            f"the images in {here or '/'} may be those of the {called} in {one or './'} or in "
            f"{second or './'}: {remedy}"
        )
    return Rule(*best[0])


def sample_uris(tables: Iterable[pa.Table], rows: int) -> list[str]:
    """Some URIs, evenly spaced, of the column uri of tables that have this many rows in all."""
    step = max(1, rows // _SAMPLE)
    sample: list[str] = []
    row = 0
    for table in tables:
        sample += table["uri"].take(pa.array(range(-row % step, table.num_rows, step))).to_pylist()
        row += table.num_rows
    return sample
