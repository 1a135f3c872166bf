"""What a label stands for: an animal and its scientific name, a person, a vehicle, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.exports.rows import listed_labels, listed_scores
from monkeyray.statistics.thresholds import ACCEPTED
from monkeyray.storage.spreadsheets import unguarded
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import key, read_rows

#: What a label can stand for; the names are those of Camtrap DP's observationType.
KINDS = ("animal", "human", "vehicle", "blank", "unknown")

#: The ranks that a taxon may be given with, from the widest.
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")

_SCIENTIFIC = ("scientificname", "latinname")
_COMMON = ("commonname", "name")
_KIND = ("observationtype", "kind", "type")
_VERNACULAR = re.compile(r"vernacularnames?([a-z]{3})")


@dataclass(frozen=True)
class Taxon:
    """What a label stands for.

    `kind`: one of KINDS. `name`: what people call it, the label where there is no other.
    `scientific_name`: of an animal or a person, where it is known. `rest`: what else Camtrap DP
    says of a taxon: taxonID, taxonRank, the RANKS, and vernacularNames by language.
    """

    label: str
    kind: str
    name: str
    scientific_name: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)


class Taxa:
    """Labels with what they stand for; one that nothing is known of is an animal without a name.

    >>> taxa = Taxa({}, {"blank": ["empty"]})
    >>> taxa.of("Empty").kind, taxa.of("fox").kind
    ('blank', 'animal')
    """

    def __init__(
        self, rows: Mapping[str, Mapping[str, str]], kinds: Mapping[str, Iterable[str]]
    ) -> None:
        """`rows`: by label, the columns of a table. `kinds`: by kind, the labels that are meant
        where the table does not say, in any case of letters."""
        #: Animals that were asked for and are in no row.
        self._unlisted: set[str] = set()
        self._kinds = {label.lower(): kind for kind, labels in kinds.items() for label in labels}
        self._taxa = {label: self._taxon(label, row) for label, row in rows.items()}

    def of(self, label: str) -> Taxon:
        """What a label stands for."""
        taxon = self._taxa.get(label)
        if taxon is None:
            taxon = self._taxa[label] = self._taxon(label, {})
            if taxon.kind == "animal":
                self._unlisted.add(label)
        return taxon

    def note_of_unlisted(self) -> str | None:
        """What to tell who gave a table that lacks labels which were asked for."""
        if not self._unlisted:
            return None
        some = ", ".join(sorted(self._unlisted)[:5])
        return (
            f"{len(self._unlisted)} labels are not in --taxonomy ({some}): they are animals "
            "without a scientific name"
        )

    def _taxon(self, label: str, row: Mapping[str, str]) -> Taxon:
        def first(names: Iterable[str]) -> str:
            return next((row[name] for name in names if row.get(name)), "")

        kind = first(_KIND) or self._kinds.get(label.lower(), "animal")
        if kind not in KINDS:
            raise InputError(
                f"the label {label!r} is of the kind {kind!r}: write one of {', '.join(KINDS)}"
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
    """A scientific name as it is written: `alouatta_palliata` is Alouatta palliata."""
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

    The table's first column, or the one named label, is the label; the others may be
    scientific_name (or latin_name), common_name, observation_type (one of KINDS), taxonID,
    taxonRank and the RANKS. The project file has the same by label. What the table says of a label
    comes first. Raises InputError for a label that comes twice, or a kind that is none.
    """
    rows: dict[str, dict[str, str]] = {}
    for label, values in (project or {}).items():
        if not isinstance(values, Mapping):
            values = {"scientificName": values}
        rows[label] = _one_name({key(name): str(value).strip() for name, value in values.items()})
    seen = set()
    for line in read_rows(uri, storage, "taxonomy") if uri else []:
        label = unguarded(line["label"] if "label" in line else next(iter(line.values())))
        if not label:
            raise InputError(f"--taxonomy {uri} has a row without a label: fill it or drop it")
        if label in seen:
            raise InputError(f"--taxonomy {uri} has the label {label!r} twice: keep one")
        seen.add(label)
        rows[label] = {**rows.get(label, {}), **_one_name(line)}
    return Taxa(rows, kinds)


def _one_name(row: Mapping[str, str]) -> dict[str, str]:
    """A row's values under one name for each, so that those of another row can be laid over it."""
    named = {name: value for name, value in row.items() if value}
    for names in (_SCIENTIFIC, _COMMON, _KIND):
        found = next((named[name] for name in names if name in named), None)
        if found is not None:
            named[names[0]] = found
    return named


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


#: The columns of predictions that are needed.
COLUMNS = ("label", "score", "decision", "top_k")


def roll_up_rows(
    table: pa.Table, taxa: Taxa, threshold: float | None
) -> list[tuple[Group, float] | None]:
    """For each row its lowest group that is sure enough and the score of that, None where there is
    none, and everywhere where there is no threshold.

    A label that the model's thresholds or --threshold accepted is sure enough whatever its score.
    Labels that a row does not list count as nothing.
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
    """A group as what a label stands for."""
    if group.label is not None:
        return taxa.of(group.label)
    rest = {**group.above, "taxonRank": group.rank}
    return Taxon(group.name, "animal", group.name, group.name, rest)
