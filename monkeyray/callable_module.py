"""Modules that can be called: `monkeyray.score` is the module of the job and the job itself.

Python sets a package's attribute to a submodule whenever that is imported, so a function of the
same name beside it would be there or not, by the order of imports.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")


class CallableModule(ModuleType, Generic[P, C, R]):
    """A job's module, which runs the job when it is called: with its options, or by keyword."""

    _made_of: type[Any]
    _job: Callable[[Any], Any]

    @overload
    def __call__(self, config: C, /) -> R: ...

    @overload
    def __call__(self, *none: P.args, **options: P.kwargs) -> R: ...

    def __call__(self, *config: Any, **options: Any) -> Any:
        """Run the job.

        Raises TypeError for anything but one object with the options, or keywords that make one,
        and else what the job raises.
        """
        if not config:
            # Notebooks have paths, and options are texts.
            texts = {key: _text(value) for key, value in options.items()}
            return self._job(self._made_of(**texts))
        if len(config) > 1 or options or not isinstance(config[0], self._made_of):
            raise TypeError(
                f"{self.__name__} takes one {self._made_of.__name__}, or its fields by keyword"
            )
        return self._job(config[0])

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        # Ray pickles functions of notebooks with the modules that they use, which it knows by type.
        return importlib.import_module, (self.__name__,)


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def callable_module(
    name: str, made_of: Callable[P, C], job: Callable[[C], R]
) -> CallableModule[P, C, R]:
    """The module of that name, made callable: it runs `job` with options of the class `made_of`."""
    module = sys.modules[name]
    # Python's own way to give a module a class, in the reference's "Customizing module attribute
    # access".
    module.__class__ = CallableModule
    called = cast(CallableModule[P, C, R], module)
    called._made_of = cast(type[Any], made_of)
    called._job = job
    return called
