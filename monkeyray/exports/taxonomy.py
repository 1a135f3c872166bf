"""The taxa of labels, and roll-up to the lowest taxon whose labels together reach a threshold.

With three species of macaque at 0.3 each, none is likely, but a macaque is nearly certain.
Probabilities of mutually exclusive labels add up, and so do those of a genus, a family and so on up
to the kingdom. The answer is the lowest taxon whose sum reaches the threshold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.console import counted
from monkeyray.errors import InputError
from monkeyray.scoring.schema import listed_labels, listed_scores
from monkeyray.statistics.thresholds import ACCEPTED
from monkeyray.storage.keys import nfc
from monkeyray.storage.spreadsheets import unguarded
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import key, read_rows

#: What a label can stand for, as in Camtrap DP's observationType.
KINDS = ("animal", "human", "vehicle", "blank", "unknown")

#: The ranks above the species that a taxonomy may have, highest first.
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")

_SCIENTIFIC = ("scientificname", "latinname")
_COMMON = ("commonname", "name")
_KIND = ("observationtype", "kind", "type")
_VERNACULAR = re.compile(r"vernacularnames?([a-z]{3})")


@dataclass(frozen=True)
class Taxon:
    """The meaning of a label.

    `kind`: one of KINDS. `name`: the common name, or the label. `scientific_name`: of an animal or
    a person, if known. `rest`: Camtrap DP's other properties of a taxon: taxonID, taxonRank, the
    RANKS, and vernacularNames by language.
    """

    label: str
    kind: str
    name: str
    scientific_name: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)


class Taxa:
    """The taxa of labels. An unknown label is an animal without a scientific name.

    >>> taxa = Taxa({}, {"blank": ["empty"]})
    >>> taxa.of("Empty").kind, taxa.of("fox").kind
    ('blank', 'animal')
    """

    def __init__(
        self, rows: Mapping[str, Mapping[str, str]], kinds: Mapping[str, Iterable[str]]
    ) -> None:
        """`rows`: the columns of a table, by label. `kinds`: labels by kind, for labels without a
        kind in the table; case-insensitive."""
        #: Labels without a row that count as animals.
        self._unlisted: set[str] = set()
        self._kinds = {
            nfc(label).lower(): kind for kind, labels in kinds.items() for label in labels
        }
        self._taxa = {nfc(label): self._taxon(nfc(label), row) for label, row in rows.items()}

    def of(self, label: str) -> Taxon:
        """The taxon of a label."""
        label = nfc(label)
        taxon = self._taxa.get(label)
        if taxon is None:
            taxon = self._taxa[label] = self._taxon(label, {})
            if taxon.kind == "animal":
                self._unlisted.add(label)
        return taxon

    def notes(self) -> Iterator[str]:
        """A note about labels that the table lacks."""
        if self._unlisted:
            some = ", ".join(sorted(self._unlisted)[:5])
            yield (
                f"{counted(len(self._unlisted), 'label')} not in --taxonomy ({some}), counted as "
                "animals without a scientific name"
            )

    def _taxon(self, label: str, row: Mapping[str, str]) -> Taxon:
        def first(names: Iterable[str]) -> str:
            return next((row[name] for name in names if row.get(name)), "")

        kind = first(_KIND) or self._kinds.get(label.lower(), "animal")
        if kind not in KINDS:
            raise InputError(
                f"the label {label!r} has the kind {kind!r}: use one of {', '.join(KINDS)}"
            )
        scientific = first(_SCIENTIFIC) if kind in ("animal", "human") else ""
        rest: dict[str, Any] = {
            name: row[key(name)] for name in ("taxonID", "taxonRank") if row.get(key(name))
        }
        rest |= {
            rank: " ".join(row[rank].replace("_", " ").split()).capitalize()
            for rank in RANKS
            if row.get(rank)
        }
        spoken = {
            match[1]: value
            for name, value in row.items()
            if value and (match := _VERNACULAR.fullmatch(name))
        }
        if spoken:
            rest["vernacularNames"] = spoken
        name = first(_COMMON).replace("_", " ") or label
        return Taxon(label, kind, name, _binomial(scientific) or None, rest)


def _binomial(name: str) -> str:
    """The usual spelling of a scientific name: `alouatta_palliata` is Alouatta palliata."""
    name = " ".join(name.replace("_", " ").split())
    name = name.lower() if name.isupper() else name
    return name[:1].upper() + name[1:]


def read_taxa(
    uri: str | None,
    storage: Storage,
    kinds: Mapping[str, Iterable[str]],
    project: Mapping[str, Any] | None = None,
) -> Taxa:
    """The taxa of a table (CSV or Parquet), of a project file's `labels`, or of both.

    The label is in the column label, or else the first; other columns may be scientific_name (or
    latin_name), common_name, observation_type (one of KINDS), taxonID, taxonRank and the RANKS. The
    project file has the same by label. The table takes precedence. Raises InputError for a
    duplicate label or an invalid kind.
    """
    rows: dict[str, dict[str, str]] = {}
    for label, values in (project or {}).items():
        if not isinstance(values, Mapping):
            values = {"scientificName": values}
        rows[nfc(label)] = _one_name(
            {key(name): str(value).strip() for name, value in values.items()}
        )
    seen = set()
    for line in read_rows(uri, storage, "taxonomy") if uri else []:
        label = unguarded(line["label"] if "label" in line else next(iter(line.values())))
        if not label:
            raise InputError(
                f"--taxonomy {uri} has a row without a label: fill in the label, or remove the row"
            )
        if label in seen:
            raise InputError(
                f"--taxonomy {uri} has the label {label!r} twice: remove one of the rows"
            )
        seen.add(label)
        rows[label] = {**rows.get(label, {}), **_one_name(line)}
    return Taxa(rows, kinds)


def _one_name(row: Mapping[str, str]) -> dict[str, str]:
    """A row with one spelling of each column, so that rows can be merged."""
    named = {name: value for name, value in row.items() if value}
    for names in (_SCIENTIFIC, _COMMON, _KIND):
        found = next((named[name] for name in names if name in named), None)
        if found is not None:
            named[names[0]] = found
    return named


#: Sums of float32 probabilities are within this of 1.
_SLACK = 1e-6


@dataclass(frozen=True)
class Group:
    """A taxon that labels belong to.

    `rank`: one of RANKS, species or another rank of the table, or `label` for a label without a
    taxon, such as blank. `label`: its first label, None for a taxon above those of labels.
    `above`: the higher taxa, by rank.
    """

    rank: str
    name: str
    label: str | None = None
    above: Mapping[str, str] = field(default_factory=dict)


class RollUp:
    """Rolls scores up to the lowest group that reaches a threshold (above 0, up to 1).

    Labels with the same scientific name are one taxon. Only animals have higher taxa: a person, a
    vehicle or a blank reaches the threshold by itself or not at all. The default kingdom of animals
    is Animalia, and the default genus is the first word of a binomial. Raises InputError for a
    taxon in two higher taxa of the same rank.

    >>> taxa = Taxa({name: {"scientificname": name} for name in ("Papio anubis", "Papio ursinus")},
    ...             {"blank": ["empty"]})
    >>> roll_up = RollUp(taxa, ["Papio anubis", "Papio ursinus", "empty"], 0.8)
    >>> which, scores = roll_up(np.array([[0.5, 0.375, 0.125], [0.875, 0.0, 0.125], [0.5, 0, 0.5]]))
    >>> [(roll_up.groups[i].name, float(s)) if i >= 0 else None for i, s in zip(which, scores)]
    [('Papio', 0.875), ('Papio anubis', 0.875), None]
    """

    def __init__(self, taxa: Taxa, labels: Sequence[str], threshold: float) -> None:
        self.groups: list[Group] = []
        #: The index in `groups` of each label's own taxon.
        self.own: dict[str, int] = {}
        self._threshold = threshold
        #: By rank: the index of its first group, and a matrix of labels and groups, 1 for members.
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
                    f"--taxonomy has the {rank} {name} in two taxa of rank {wider}, {names[0]} and "
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
        """The index in `groups` of the lowest group that reaches the threshold, int64 (n,), -1 for
        none, and its summed score, float64 (n,), 0.0 for none.

        `scores`: probabilities (n, labels), 0 for labels that are not listed. If few of many labels
        are listed, a group may be higher than necessary, but never too low.
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
    """A label's rank and name, and its taxa by rank."""

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
    """The rank of a taxon without one: the rank at which the table has the same name, otherwise
    species for a binomial."""
    same = [rank for rank, other in taxa.items() if other == name]
    return same[-1] if same else "species" if " " in name else "label"


#: The columns of predictions that roll-up needs.
COLUMNS = ("label", "score", "decision", "top_k")


def roll_up_rows(
    table: pa.Table, taxa: Taxa, threshold: float | None
) -> list[tuple[Group, float] | None]:
    """The lowest group that reaches the threshold and its score, for each row; None if there is
    none, and for all rows without a threshold.

    A label that the model's thresholds or --threshold accepted needs no roll-up, whatever its
    score. Labels that a row does not list count as 0.
    """
    if threshold is None:
        return [None] * table.num_rows
    labels = sorted(listed_labels(table["top_k"]))
    roll_up = RollUp(taxa, labels, threshold)
    which, sums = roll_up(listed_scores(table["top_k"], labels))
    rows: list[tuple[Group, float] | None] = [
        (roll_up.groups[group], score) if group >= 0 else None
        for group, score in zip(which.tolist(), sums.tolist(), strict=True)
    ]
    own = {label: roll_up.groups[group] for label, group in roll_up.own.items()}
    for row, (label, score, decision) in enumerate(
        zip(*(table[name].to_pylist() for name in COLUMNS[:3]), strict=True)
    ):
        if decision == ACCEPTED:
            rows[row] = own[label], score
    return rows


def taxon_of(group: Group, taxa: Taxa) -> Taxon:
    """A group as a taxon."""
    if group.label is not None:
        return taxa.of(group.label)
    rest = {**group.above, "taxonRank": group.rank}
    return Taxon(group.name, "animal", group.name, group.name, rest)
