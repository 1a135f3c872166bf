"""The options of a command, as the fields of its configuration class declare them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any

from monkeyray.options import CallConfig, OneOf, StoreConfig, flag, marks, place_mark, type_hints

#: The heading of the options that all commands have.
EVERY_COMMAND = "Every command"


@dataclass(frozen=True)
class Option:
    """One option.

    `default`: dataclasses.MISSING if it is required. `text`: its help, on one line.
    """

    name: str
    hint: Any
    default: Any
    heading: str
    text: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        """Its name on the command line; `--[no-]…` for a switch that is on by default."""
        return f"--{'[no-]' if self.default is True else ''}{flag(self.name)}"

    @property
    def value(self) -> str:
        """A word for its value, empty for a switch."""
        kind = self.hint
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
            kind = next(each for each in typing.get_args(kind) if each is not type(None))
        if typing.get_origin(kind) is not tuple:
            return "" if kind is bool else "|".join(map(str, self.choices)) or _word(kind)
        inner = typing.get_args(kind)
        return f"{_word(inner[0])}…" if inner[-1] is ... else " ".join(map(_word, inner))

    @property
    def choices(self) -> tuple[Any, ...]:
        """Its possible values, if they are few."""
        return next((mark.choices for mark in marks(self.hint) if isinstance(mark, OneOf)), ())

    @property
    def shown_default(self) -> str:
        """Its default in words, empty if there is nothing to show."""
        if self.required or self.default is None or self.default is False or self.default == ():
            return ""
        if self.default is True:
            return "on"
        if isinstance(self.default, tuple):
            return " ".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def brief(self) -> str:
        """The first sentence of its text."""
        return re.split(r"(?<=[^.…])\.\s+(?=[A-Z0-9-])", self.text, maxsplit=1)[0].rstrip(".")


def _word(kind: Any) -> str:
    if place_mark(kind):
        return "PLACE"
    return "N" if getattr(kind, "__origin__", kind) in (int, float) else "TEXT"


def options_of(kind: type[Any]) -> list[Option]:
    """All options of a command's configuration class in reading order, the shared ones last."""
    groups = getattr(kind, "GROUPS", {})
    headings = {name: heading for heading, names in groups.items() for name in names}
    order = list(headings)
    own = sorted(
        _fields(kind, headings),
        key=lambda each: order.index(each.name) if each.name in order else -1,
    )
    return [*own, *shared_options()]


def shared_options() -> list[Option]:
    """The options that all commands have."""
    return [each for kind in (CallConfig, StoreConfig) for each in _fields(kind, {}, EVERY_COMMAND)]


def _fields(kind: type[Any], headings: dict[str, str], heading: str = "Options") -> list[Option]:
    hints = type_hints(kind)
    texts = {
        name: text for each in reversed(kind.__mro__) for name, text in _field_texts(each).items()
    }
    return [
        Option(
            each.name, hints[each.name], each.default, headings.get(each.name, heading),
            texts.get(each.name, ""),
        )
        for each in dataclasses.fields(kind)
        if each.init and hints[each.name] is not StoreConfig
    ]  # fmt: skip


def _field_texts(kind: type[Any]) -> dict[str, str]:
    """The docstring below each field that a class itself declares."""
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(_classes(kind.__module__).get(kind.__name__, ()))
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


@functools.cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    if not module.startswith("monkeyray."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {each.name: each.body for each in tree.body if isinstance(each, ast.ClassDef)}
