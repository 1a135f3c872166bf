"""Which labels can occur where, from a table: species lists of sites, cameras or deployments."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array, Flags
from monkeyray.console import Say, counted
from monkeyray.errors import InputError
from monkeyray.images.site_pattern import SitePattern
from monkeyray.model.bundle import Bundle
from monkeyray.scoring.options import AllowedConfig
from monkeyray.storage.keys import fingerprint, nfc
from monkeyray.storage.location import Location
from monkeyray.storage.spreadsheets import unguarded
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import read_rows

#: Labels that are allowed everywhere, in lower case: empty images, people and vehicles.
ALWAYS = ("blank", "empty", "human", "person", "vehicle")

#: What a row of the table may be about, and the columns that say so, in the table and of images.
_PLACES = {
    "site": ("site", "location"),
    "camera": ("camera",),
    "deployment": ("deployment", "deploymentid"),
}
_NAMES = {name for names in _PLACES.values() for name in names}

#: A site, camera and deployment, each empty if it is unknown or any.
_Where = tuple[str, ...]


@dataclass(frozen=True)
class Allowed:
    """A table of allowed labels, for a model.

    `by_place`: which labels each place allows, bool (labels,). `pattern`, `root`: find the place in
    an image's path below the root; otherwise it is in the image's columns. `sha256`: of the table's
    content. `unknown`: its labels that the model does not have, in words.
    """

    by_place: dict[_Where, Flags]
    pattern: SitePattern | None
    root: Location | None
    sha256: str
    unknown: tuple[str, ...] = ()
    _found: dict[_Where, Flags] = field(default_factory=dict, compare=False)

    def mask(self, images: pa.Table) -> Flags:
        """Which labels each image can show, bool (n, labels), by its column uri or those of its
        place.

        An image of an unknown place, or of one that is not in the table, can show what the table
        gives for all places; if it gives nothing for all, what it gives for any.
        """
        return np.stack([self._at(where) for where in self._places(images)])

    def check(self, images: pa.Table) -> str | None:
        """A warning if none of some images is at a place of the table, as when its names differ.

        Raises InputError if the table is by place and nothing says where images were taken.
        """
        listed = [place for place in self.by_place if any(place)]
        if self.pattern is None and listed and _NAMES.isdisjoint(images.column_names):
            raise InputError(
                "--allowed is by site, camera or deployment, and the images have no such column: "
                "add it, or give --site-pattern, such as {site}/* for the paths below the images' "
                "folder"
            )
        places = self._places(images)
        if places and listed and not any(_covers(a, b) for a in listed for b in set(places)):
            theirs, ours = (", ".join(filter(None, each)) for each in (listed[0], max(places)))
            return (
                f"WARNING: none of the first {counted(len(places), 'image')} is at a place in "
                f"--allowed: the table has {theirs}, the images "
                + (f"are of {ours}" if ours else "have none")
            )
        return None

    def notes(self) -> Iterator[str]:
        """A note about labels of the table that the model does not have."""
        if self.unknown:
            yield (
                f"{counted(len(self.unknown), 'label')} of --allowed unknown to the model: "
                + ", ".join(self.unknown[:5])
            )

    def _places(self, images: pa.Table) -> list[_Where]:
        if self.pattern is not None:
            assert self.root is not None
            paths = (self.root.relative(uri) or "" for uri in images["uri"].to_pylist())
            found = (self.pattern.match(path) or {} for path in paths)
            return [tuple(each.get(name, "") for name in _PLACES) for each in found]
        columns = [_column(images, names) for names in _PLACES.values()]
        return list(zip(*columns, strict=True))

    def _at(self, where: _Where) -> Flags:
        if where not in self._found:
            its = [
                labels
                for place, labels in self.by_place.items()
                if any(place) and _covers(place, where)
            ]
            general = [self.by_place[place] for place in self.by_place if not any(place)]
            whole = its + general or list(self.by_place.values())
            self._found[where] = np.logical_or.reduce(whole)
        return self._found[where]


def _covers(place: _Where, where: _Where) -> bool:
    """Whether a place of the table, in which empty names stand for all, includes an image's."""
    return all(a in ("", b) for a, b in zip(place, where, strict=True))


def masked(logits: Array, mask: Flags | None) -> Array:
    """Logits (n, labels) that give labels that are not allowed no probability.

    >>> masked(np.array([[1.0, 2.0]]), np.array([[True, False]])).tolist()
    [[1.0, -inf]]
    """
    return logits if mask is None else np.where(mask, logits, -np.inf).astype(logits.dtype)


def open_allowed(
    config: AllowedConfig, storage: Storage, bundle: Bundle, root: Location | None, say: Say
) -> Allowed | None:
    """The table of --allowed for a model, None without one. `root`: that of the images."""
    if config.allowed is None:
        return None
    if config.site_pattern is not None and root is None:
        raise InputError("the folder of the images is not known: leave out --site-pattern")
    allowed = read_allowed(config.allowed, storage, bundle.labels, config.site_pattern, root)
    for note in allowed.notes():
        say(note)
    return allowed


def read_allowed(
    uri: str,
    storage: Storage,
    labels: Sequence[str],
    pattern: str | None = None,
    root: Location | None = None,
) -> Allowed:
    """Read a table (CSV or Parquet) with the column label, and site (or location), camera or
    deployment.

    `labels`: the model's. `pattern`, `root`: see Allowed. Raises InputError for a table without
    labels, and for a place where the model has no allowed label.
    """
    place = Location.parse(uri)
    index = {nfc(label): i for i, label in enumerate(labels)}
    always = np.array([label.lower() in ALWAYS for label in labels], bool)
    by_place: dict[_Where, Flags] = {}
    lines, unknown = set(), set()
    for number, row in enumerate(read_rows(place, storage, "allowed"), 1):
        label = unguarded(row.get("label", ""))
        if not label:
            raise InputError(
                f"--allowed {place}, row {number}, has no label: give a column label, filled in "
                "every row"
            )
        where = tuple(
            next((row[name] for name in names if row.get(name)), "") for names in _PLACES.values()
        )
        lines.add((*where, label))
        mask = by_place.setdefault(where, always.copy())
        if label in index:
            mask[index[label]] = True
        elif label.lower() not in ALWAYS:
            unknown.add(label)
    if pattern is not None and _NAMES.isdisjoint(row):
        raise InputError(
            f"--site-pattern finds images in --allowed by site, camera or deployment, and {place} "
            f"has no such column, only {', '.join(row)}: rename one, or drop --site-pattern"
        )
    for where, mask in by_place.items():
        if not mask.any():
            its = ", ".join(filter(None, where)) or "all places"
            raise InputError(
                f"--allowed {place} gives {its} no label that the model knows, such as "
                f"{', '.join(list(labels)[:3])}: use the model's labels"
            )
    content = fingerprint(sorted(lines))
    found = None if pattern is None else SitePattern(pattern)
    return Allowed(by_place, found, root, content, _in_words(sorted(unknown), labels))


def _in_words(unknown: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that the model does not have, with the one of its labels that is nearly the same."""
    nearest = ((label, difflib.get_close_matches(label, labels, 1)) for label in unknown)
    return tuple(f"{label} (the model has {near[0]})" if near else label for label, near in nearest)


def _column(images: pa.Table, names: Sequence[str]) -> list[str]:
    """The values of the first of the columns that an image has, as text in NFC."""
    values = [images[name].to_pylist() for name in names if name in images.column_names]
    if not values:
        return [""] * images.num_rows
    rows = zip(*values, strict=True)
    return [next((nfc(str(x)).strip() for x in row if x is not None), "") for row in rows]
