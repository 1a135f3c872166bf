"""The options of a command, as its configuration class declares them."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from monkeyray.options_calls import CallConfig
from monkeyray.options_shared import IsPlace, flag

#: The heading of the options that all commands have.
EVERY_COMMAND = "Of every command"

_REQUIRED = dataclasses.MISSING


@dataclass(frozen=True)
class Option:
    """One option.

    `kind`: its type without what marks it: bool, int, float, str, a Literal or a tuple of these.
    `place`: whether it is a path or URI, or each of a tuple is, and which words are none.
    `default`: dataclasses.MISSING where it has to be given. `text`: what it does, on one line.
    """

    name: str
    kind: Any
    place: IsPlace | None
    optional: bool
    default: Any
    heading: str
    text: str

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is _REQUIRED

    @property
    def flag(self) -> str:
        """As the command line has it; `--[no-]…` for what is on unless it is switched off."""
        return f"--{'[no-]' if self.default is True else ''}{flag(self.name)}"

    @property
    def value(self) -> str:
        """A word for the value that follows the flag, empty where none does."""
        if self.kind is bool:
            return ""
        if typing.get_origin(self.kind) is Literal:
            return "|".join(typing.get_args(self.kind))
        if typing.get_origin(self.kind) is tuple:
            kinds = typing.get_args(self.kind)
            word = "PLACE" if self.place is not None else _word(kinds[0])
            return f"{word}…" if kinds[1:] == (...,) else " ".join([word] * len(kinds))
        return "PLACE" if self.place is not None else _word(self.kind)

    @property
    def shown_default(self) -> str:
        """The default in words, empty where there is none to tell."""
        if self.required or self.default is None or self.default is False or self.default == ():
            return ""
        if self.default is True:
            return "on"
        if isinstance(self.default, tuple):
            return " ".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def brief(self) -> str:
        """The first sentence of what it does."""
        return re.split(r"(?<=[^.…])\.\s+(?=[A-Z0-9-])", self.text, maxsplit=1)[0].rstrip(".")


def _word(kind: Any) -> str:
    return "N" if kind in (int, float) else "TEXT"


def options_of(kind: type[Any]) -> tuple[Option, ...]:
    """All options of a command's configuration class, in the order in which people read them.

    Those that all commands have come last.
    """
    return (*_own(kind), *_own(CallConfig, EVERY_COMMAND), *_shared(kind))


def _shared(kind: type[Any]) -> tuple[Option, ...]:
    hints = typing.get_type_hints(kind)
    nested = [hints[each.name] for each in dataclasses.fields(kind)]
    return tuple(
        option
        for shared in nested
        if dataclasses.is_dataclass(shared)
        for option in _own(typing.cast(type[Any], shared), EVERY_COMMAND)
    )


def _own(kind: type[Any], heading: str = "Options") -> list[Option]:
    hints = typing.get_type_hints(kind, include_extras=True)
    texts = _texts(kind)
    headings = {
        name: title for title, names in getattr(kind, "GROUPS", {}).items() for name in names
    }
    found = [
        _option(each, hints[each.name], headings.get(each.name, heading), texts.get(each.name, ""))
        for each in dataclasses.fields(kind)
        if each.init and not dataclasses.is_dataclass(hints[each.name])
    ]
    order = list(headings)
    return sorted(found, key=lambda each: order.index(each.name) if each.name in order else -1)


def _option(each: dataclasses.Field[Any], hint: Any, heading: str, text: str) -> Option:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
        optional = True
    if typing.get_origin(hint) is tuple:
        first, *rest = map(_unmarked, typing.get_args(hint))
        kinds = (first[0], *(kind for kind, _ in rest))
        hint, place = types.GenericAlias(tuple, kinds), first[1]
    else:
        hint, place = _unmarked(hint)
    return Option(each.name, hint, place, optional, each.default, heading, text)


def _unmarked(hint: Any) -> tuple[Any, IsPlace | None]:
    """A type without what marks it, and the mark that it is a place."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, None
    marks = [mark for mark in hint.__metadata__ if isinstance(mark, IsPlace)]
    return hint.__origin__, next(iter(marks), None)


def _texts(kind: type[Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            texts |= _own_texts(each)
    return texts


@functools.cache
def _own_texts(kind: Any) -> dict[str, str]:
    """By field that a class declares, the string below it in the source."""
    from docstring_parser.attrdoc import AttributeDocstrings

    found = AttributeDocstrings().get_attr_docs(kind)
    return {name: " ".join(text.split()) for name, (text, *_) in found.items()}
