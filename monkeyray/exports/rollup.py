"""Roll-up: where no label is sure enough, the lowest taxon whose labels together are.

Of three kinds of macaque at 0.3 each no one is likely, and that it is a macaque is all but certain.
Probabilities of labels that exclude each other may be summed; so do those of a genus, a family, and
so on up to the kingdom, and the lowest of them whose sum reaches the threshold is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monkeyray.errors import InputError
from monkeyray.exports.taxonomy import RANKS, Taxa, Taxon

Array = np.ndarray[Any, Any]

#: Sums of float32 probabilities miss 1 by less than this.
_SLACK = 1e-6


@dataclass(frozen=True)
class Group:
    """A taxon with the labels that are of it.

    `rank`: one of RANKS, or species or another that the table gives a label, or `label` where a
    label has no taxon, as a blank. `label`: the first of its labels, where it is their own taxon
    and not one above. `above`: the wider taxa, by rank.
    """

    rank: str
    name: str
    label: str | None = None
    above: Mapping[str, str] = field(default_factory=dict)


class RollUp:
    """Rolls scores up to the lowest group that reaches a threshold (above 0, up to 1).

    Labels with the same scientific name are one taxon. Only animals have taxa above their own: a
    person, a vehicle or a blank is sure enough by itself or not at all. An animal whose kingdom the
    table does not give is of the Animalia, and one with a binomial and no genus is of the genus
    that its name begins with. Raises InputError for a taxon that is in two wider ones of a rank.

    >>> taxa = Taxa({name: {"scientificname": name} for name in ("Papio anubis", "Papio ursinus")},
    ...             {"blank": ["empty"]})
    >>> roll_up = RollUp(taxa, ["Papio anubis", "Papio ursinus", "empty"], 0.8)
    >>> which, scores = roll_up(np.array([[0.5, 0.375, 0.125], [0.875, 0.0, 0.125], [0.5, 0, 0.5]]))
    >>> [(roll_up.groups[i].name, float(s)) if i >= 0 else None for i, s in zip(which, scores)]
    [('Papio', 0.875), ('Papio anubis', 0.875), None]
    """

    def __init__(self, taxa: Taxa, labels: Sequence[str], threshold: float) -> None:
        self.groups: list[Group] = []
        #: By label, the number of its own taxon in `groups`.
        self.own: dict[str, int] = {}
        self._threshold = threshold
        #: By level, the number of its first group, and which label (row) is of which group of it.
        self._levels: list[tuple[int, Array]] = []
        self._lines = [_Line.of(taxa.of(label)) for label in labels]
        own: dict[tuple[str, str], list[int]] = {}
        for i, line in enumerate(self._lines):
            own.setdefault((line.rank, line.name), []).append(i)
        for number, members in enumerate(own.values()):
            self.own.update((labels[i], number) for i in members)
        self._add(
            (Group(rank, name, labels[members[0]]), members)
            for (rank, name), members in own.items()
        )
        for rank in reversed(RANKS):
            wider: dict[str, list[int]] = {}
            for i, line in enumerate(self._lines):
                if rank in line.taxa:
                    wider.setdefault(line.taxa[rank], []).append(i)
            self._add((self._above(rank, name, m), m) for name, m in wider.items())

    def _above(self, rank: str, name: str, members: list[int]) -> Group:
        its = [self._lines[i].taxa for i in members]
        above: dict[str, str] = {}
        for wider in RANKS[: RANKS.index(rank)]:
            names = sorted({taxa[wider] for taxa in its if wider in taxa})
            if len(names) > 1:
                raise InputError(
                    f"--taxonomy has the {rank} {name} in two of rank {wider}, {names[0]} and "
                    f"{names[1]}: correct the {wider} of its labels"
                )
            if names:
                above[wider] = names[0]
        return Group(rank, name, above=above)

    def _add(self, found: Iterable[tuple[Group, list[int]]]) -> None:
        groups = list(found)
        matrix = np.zeros((len(self._lines), len(groups)))
        for column, (_, members) in enumerate(groups):
            matrix[members, column] = 1.0
        if groups:
            self._levels.append((len(self.groups), matrix))
            self.groups += [group for group, _ in groups]

    def __call__(self, scores: Array) -> tuple[Array, Array]:
        """The number in `groups` of the lowest group that reaches the threshold, int64 (n,), -1
        where none does, and its summed score, float64 (n,), 0.0 where there is none.

        `scores`: probabilities (n, labels). Sums of what a row does not list are too small, so with
        a few labels of many a group may be wider than it had to be, and never too narrow.
        """
        which = np.full(len(scores), -1)
        sums = np.zeros(len(scores))
        for first, matrix in self._levels:
            open_ = np.flatnonzero(which < 0)
            found = np.asarray(scores[open_], np.float64) @ matrix
            best = found.argmax(axis=1)
            top = found[np.arange(len(open_)), best]
            reached = top >= self._threshold - _SLACK
            which[open_[reached]] = first + best[reached]
            sums[open_[reached]] = np.minimum(top[reached], 1.0)
        return which, sums


@dataclass(frozen=True)
class _Line:
    """A label's own rank and name, and all its taxa by rank."""

    rank: str
    name: str
    taxa: Mapping[str, str]

    @classmethod
    def of(cls, taxon: Taxon) -> _Line:
        if taxon.kind != "animal":
            return cls("label", taxon.label, {})
        taxa = {"kingdom": "Animalia"}
        taxa |= {rank: str(taxon.rest[rank]) for rank in RANKS if rank in taxon.rest}
        name = taxon.scientific_name
        if name is None:
            return cls("label", taxon.label, taxa)
        rank = str(taxon.rest.get("taxonRank") or _rank(name, taxa)).lower()
        if rank in RANKS:
            taxa[rank] = name
        elif rank in ("species", "subspecies"):
            taxa.setdefault("genus", name.split()[0])
        return cls(rank, name, taxa)


def _rank(name: str, taxa: Mapping[str, str]) -> str:
    """A rank that is not given: that at which the table has the name too; else a name of one word
    is no species."""
    same = [rank for rank, other in taxa.items() if other == name]
    return same[-1] if same else "species" if " " in name else "label"
