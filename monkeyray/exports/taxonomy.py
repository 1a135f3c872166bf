"""What a label stands for: an animal and its scientific name, a person, a vehicle, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from monkeyray.errors import InputError
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
