"""Lazy package exports: names that are imported on first use (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports names from its modules on first use.

    `modules`: by module below `package`, the names that it defines, separated by spaces.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def getattribute(name: str) -> Any:
        if name in places:
            return getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute
