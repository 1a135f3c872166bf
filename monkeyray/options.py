"""What the options of all commands share.

A command's options are the fields of a frozen dataclass in its package's `options.py`, which is
also the job's argument in Python. They hold no secrets.
"""

from __future__ import annotations

import functools
import math
import os
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, ParamSpec, Protocol, TypeVar, overload

from monkeyray.console import LogFormat, Reporter
from monkeyray.errors import ConfigError
from monkeyray.redact import masked
from monkeyray.storage.backends.clouds import AZURE, GOOGLE
from monkeyray.storage.location import Location
from monkeyray.storage.retries import PATIENCE_SECONDS
from monkeyray.storage.store import Storage


@dataclass(frozen=True)
class IsPlace:
    """Marks an option that is a path or URI. `words`: other values with a meaning of their own.

    `checked`: whether it must be a place that can be read or written here. `ending`: of all places;
    values without it are words.
    """

    words: tuple[str, ...] = ()
    checked: bool = True
    ending: str = ""

    def is_word(self, value: str) -> bool:
        """Whether a value is not a place."""
        return value in self.words or not value.endswith(self.ending)

    def check(self, option: str, value: Any) -> None:
        """Raise ConfigError for a malformed place."""
        if self.checked and not self.is_word(value):
            Location.parse(value)


@dataclass(frozen=True)
class Range:
    """Marks a number from `low` to `high`, without `low` if `above` and without `high` if `below`.

    >>> Range(1).check("folds", 0)
    Traceback (most recent call last):
    monkeyray.errors.ConfigError: --folds is 0: it must be at least 1
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, option: str, value: Any) -> None:
        """Raise ConfigError for a number outside of the range."""
        need = f"{'above' if self.above else 'at least'} {self.low}"
        if self.high < math.inf:
            need += f" and {'below' if self.below else 'at most'} {self.high}"
        elif self.below:
            need += " and finite"
        inside = self.low < value if self.above else self.low <= value
        inside &= value < self.high if self.below else value <= self.high
        require(inside, option, value, need)


@dataclass(frozen=True)
class OneOf:
    """Marks an option that must have one of these values."""

    choices: tuple[Any, ...]

    def check(self, option: str, value: Any) -> None:
        """Raise ConfigError for any other value."""
        need = f"one of {', '.join(map(str, self.choices))}"
        require(value in self.choices, option, repr(value), need)


#: The types of options that several commands have.
Place = Annotated[str, IsPlace()]
Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # as many bits as NumPy and TensorFlow take
Engine = Annotated[str, OneOf(("auto", "tensorflow", "openvino", "onnxruntime"))]
Precision = Annotated[str, OneOf(("float32", "mixed", "int8"))]

#: The heading of options that the short help only names.
SELDOM = "Seldom needed"


def require(condition: bool, option: str, value: object, need: str) -> None:
    """Raise ConfigError with the option, its value and what it must be."""
    if not condition:
        raise ConfigError(f"--{option} is {value}: it must be {need}")


def flag(name: str) -> str:
    """A field's name on the command line."""
    return name.replace("_", "-")


def marks(hint: Any) -> Iterator[Any]:
    """What annotates a type or its parts, such as IsPlace, Range and OneOf.

    >>> list(marks(tuple[Place, ...] | None))
    [IsPlace(words=(), checked=True, ending='')]
    """
    yield from getattr(hint, "__metadata__", ())
    if typing.get_origin(hint) is Literal:
        yield OneOf(typing.get_args(hint))
        return
    for each in typing.get_args(hint):
        yield from marks(each)


def place_mark(hint: Any) -> IsPlace | None:
    """The mark of a type that is a path or URI, or is made of some."""
    return next((each for each in marks(hint) if isinstance(each, IsPlace)), None)


def check(option: str, hint: Any, value: Any) -> None:
    """Raise ConfigError for a value, or a member of a tuple, that its type's marks refuse."""
    for each in value if isinstance(value, tuple) else (value,):
        for mark in marks(hint):
            if each is not None and isinstance(mark, IsPlace | Range | OneOf):
                mark.check(option, each)


def type_hints(kind: Any) -> dict[str, Any]:
    """A class's types by field, with what annotates them."""
    return typing.get_type_hints(kind, include_extras=True)


def check_outside(config: Any, name: str, folder: str) -> None:
    """Raise ConfigError if an option's place is in that of another, which holds only a run."""
    place, outer = getattr(config, name), getattr(config, folder)
    if place is not None and Location.parse(place).is_within(Location.parse(outer)):
        raise ConfigError(
            f"--{name} {place} is in --{folder} {outer}, which may hold only the files of a run: "
            "choose another place for one of them"
        )


class Checked:
    """Base of options: checks each field by its type's marks."""

    def __post_init__(self) -> None:
        for name, hint in type_hints(type(self)).items():
            if name in type(self).__dataclass_fields__:  # type: ignore[attr-defined]
                check(flag(name), hint, getattr(self, name))


@dataclass(frozen=True)
class StoreConfig(Checked):
    """Where the store is and what is printed; the same options for every command."""

    s3_endpoint: tuple[str, ...] | str | None = None
    """URL of an S3 server other than AWS, such as http://127.0.0.1:9000, or BUCKET=URL for one
    bucket. Default: AWS_ENDPOINT_URL."""

    profile: tuple[str, ...] | str | None = None
    """Profile of AWS's configuration files, or BUCKET=NAME for one bucket. Default: AWS_PROFILE."""

    anonymous: tuple[Place, ...] | str = ()
    """Public buckets or prefixes, such as s3://bucket, to read without credentials."""

    store_patience_seconds: Annotated[float, Range(0)] = PATIENCE_SECONDS
    """Seconds to keep retrying a store that throttles or does not answer."""

    index_archives: bool = False
    """Write an index beside each tar archive of more than 24 MiB that is listed
    (NAME.tar.index.jsonl), so that later commands need not read the archive to list it."""

    ray_address: str | None = None
    """Ray cluster to use: its address, auto for the one that `ray start` started here, or local for
    a new one on this machine. Default: RAY_ADDRESS; otherwise no cluster, and a new local one for
    GPUs and for several workers of a training."""

    quiet: bool = False
    """Print only the result and errors."""

    log_format: LogFormat = "text"
    """text, or json: print every line as an object with time, level, event, message and the
    message's figures."""

    debug: bool = False
    """Print Ray's and the workers' own messages, and tracebacks of errors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for endpoint in _each(self.s3_endpoint):
            # Even a malformed URL may hold a password, which must not be repeated.
            if "@" in endpoint or masked(endpoint) != endpoint:
                raise ConfigError(
                    "--s3-endpoint contains credentials: remove them, and supply them through the "
                    "environment or a role"
                )
            require(
                re.fullmatch(r"(?i)([^=/\s]+=)?https?://[^/\s]+(/\S*)?", endpoint) is not None,
                "s3-endpoint", repr(endpoint), "a URL such as http://127.0.0.1:9000, or BUCKET=URL",
            )  # fmt: skip
        for profile in _each(self.profile):
            need = "the name of a profile, or BUCKET=NAME"
            require(all(profile.split("=", 1)), "profile", repr(profile), need)
        for prefix in _each(self.anonymous):
            require(
                Location.parse(prefix).scheme in ("s3", *AZURE, *GOOGLE),
                "anonymous", prefix, "a bucket or prefix such as s3://bucket",
            )  # fmt: skip
        _by_bucket("s3-endpoint", self.s3_endpoint)
        _by_bucket("profile", self.profile)

    def storage(self) -> Storage:
        """Open the storage that these options describe."""
        endpoint, endpoints = _by_bucket("s3-endpoint", self.s3_endpoint)
        profile, profiles = _by_bucket("profile", self.profile)
        return Storage(
            s3_endpoint=endpoint,
            profile=profile,
            endpoints=endpoints,
            profiles=profiles,
            anonymous=tuple(map(Location.parse, _each(self.anonymous))),
            patience_seconds=self.store_patience_seconds,
            index_archives=self.index_archives,
        )

    def reporter(self) -> Reporter:
        """Make the reporter that these options describe."""
        return Reporter(self.quiet, self.log_format)


def _each(values: tuple[str, ...] | str | None) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else values or ()


def _by_bucket(
    option: str, values: tuple[str, ...] | str | None
) -> tuple[str | None, dict[str, str]]:
    """The value for all buckets, and those written BUCKET=VALUE. Raises ConfigError if there are
    two for the same.

    >>> _by_bucket("s3-endpoint", ("http://a", "photos=http://b"))
    ('http://a', {'photos': 'http://b'})
    """
    found: dict[str, str] = {}
    for value in _each(values):
        bucket, equals, rest = value.partition("=")
        if not equals or "/" in bucket:  # a URL may contain =
            bucket, rest = "", value
        if bucket in found:
            where = f"bucket {bucket}" if bucket else "all buckets"
            raise ConfigError(f"--{option} is given twice for {where}: leave one of them out")
        found[bucket] = rest
    return found.pop("", None), found


@dataclass(frozen=True, kw_only=True)
class JobConfig(Checked):
    """Base of every command's options."""

    store: StoreConfig = field(default_factory=StoreConfig)


@dataclass(frozen=True, kw_only=True)
class CallConfig(Checked):
    """The options of a single call, which do not change its result."""

    config: Place | None = None
    """TOML or YAML file with options by their names here; the command line overrides it. Such a
    file is written beside every result, to repeat it."""

    summary_json: Annotated[str, IsPlace(("-",))] | None = None
    """Write a summary as JSON to a file that ends in .json, or - for standard output. It is written
    only if the command succeeds; with -, other output goes to standard error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        place = self.summary_json
        require(
            place is None or place == "-" or place.endswith(".json"),
            "summary-json", repr(place), "a file that ends in .json, or -",
        )  # fmt: skip


P = ParamSpec("P")
C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[P, C_contra, R_co]):
    """A job's function: called with its options as one object, or by keyword."""

    __name__: str

    @overload
    def __call__(self, config: C_contra, /) -> R_co: ...

    @overload
    def __call__(self, *none: P.args, **options: P.kwargs) -> R_co: ...


def takes_options(kind: Callable[P, C]) -> Callable[[Callable[[C], R_co]], Job[P, C, R_co]]:
    """Let a job that takes one options object also take its fields by keyword.

    The function raises TypeError for anything but one object of `kind`, or keywords that make one.
    """
    made_of = typing.cast(type[Any], kind)

    def accept(job: Callable[[C], R_co]) -> Job[P, C, R_co]:
        @functools.wraps(job)
        def run(*config: Any, **options: Any) -> R_co:
            if not config:
                # Options are texts, but notebooks often have paths.
                texts = {
                    key: os.fspath(value) if isinstance(value, os.PathLike) else value
                    for key, value in options.items()
                }
                return job(made_of(**texts))
            if len(config) > 1 or options or not isinstance(config[0], made_of):
                raise TypeError(
                    f"monkeyray.{job.__name__} takes one {made_of.__name__}, or its fields by "
                    "keyword"
                )
            return job(config[0])

        return typing.cast(Job[P, C, R_co], run)

    return accept
