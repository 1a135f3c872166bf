"""What the options of all commands share, and the TOML file of options beside every result.

A command's options are the fields of a frozen dataclass in its package's `options.py`, which is
also the job's argument in Python. They hold no secrets.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, overload

from monkeyray.console import LogFormat, Reporter
from monkeyray.errors import ConfigError
from monkeyray.redact import has_secret, masked
from monkeyray.storage.location import is_local, join, local_uri, normalise
from monkeyray.storage.retries import PATIENCE_SECONDS
from monkeyray.storage.store import Storage


@dataclass(frozen=True)
class IsPlace:
    """Marks an option that is a path or URI. `words`: values that are none, but mean something."""

    words: tuple[str, ...] = ()


#: The type of an option that is a path or URI.
Place = Annotated[str, IsPlace()]

#: The heading of options that the short help only names.
SELDOM = "Seldom needed"

#: What is seen around a box, on each side, in shares of its longer side. Boxes end where the animal
#: does, or a little before; with a tenth more it fills 0.83 of the crop, about as much as objects
#: fill of what ImageNet's networks are trained on, of which the central 0.875 are seen.
PADDING = 0.1


def require(condition: bool, option: str, value: object, need: str) -> None:
    """Raise ConfigError with the option, its value and what it must be."""
    if not condition:
        raise ConfigError(f"--{option} is {value}: it must be {need}")


def flag(name: str) -> str:
    """A field's name as the command line has it."""
    return name.replace("_", "-")


def check_engine(engine: str) -> None:
    """Raise ConfigError for what is no engine."""
    engines = ("auto", "tensorflow", "openvino")
    require(engine in engines, "engine", repr(engine), f"one of {', '.join(engines)}")


def check_precision(precision: str) -> None:
    """Raise ConfigError for what is no precision."""
    precisions = ("float32", "mixed", "int8")
    require(
        precision in precisions, "precision", repr(precision), f"one of {', '.join(precisions)}"
    )


def check_seed(seed: int, option: str = "seed") -> None:
    """Raise ConfigError for what is no seed."""
    # NumPy and TensorFlow take no more than 32 bits.
    require(0 <= seed < 2**32, option, seed, f"from 0 to {2**32 - 1}")


def check_detections(detections: str | None, threshold: float | None, padding: float) -> None:
    """Raise ConfigError for what cannot be meant with --detections."""
    require(0 <= padding <= 10, "box-padding", padding, "from 0 to 10")
    require(
        threshold is None or 0 <= threshold <= 1, "detection-threshold", threshold, "from 0 to 1"
    )
    if detections is not None:
        normalise(detections)
    elif threshold is not None or padding != PADDING:
        option = "box-padding" if threshold is None else "detection-threshold"
        raise ConfigError(f"--{option} is about boxes: give --detections too, or drop it")


def check_apart(output: str, predictions: str) -> None:
    """Raise ConfigError for an output that would be among the files of a run."""
    if join(normalise(output), "").startswith(join(normalise(predictions), "")):
        raise ConfigError(
            f"--output {output} is in --predictions {predictions}, which holds nothing but a run: "
            "choose another place"
        )


@dataclass(frozen=True)
class StoreConfig:
    """Where the store is and what is printed; the same options for every command."""

    s3_endpoint: str | None = None
    """URL of an S3 server other than AWS, as http://127.0.0.1:9000. Default: AWS_ENDPOINT_URL."""

    s3_anonymous: bool = False
    """Send S3 requests without credentials, for public buckets."""

    store_patience_seconds: float = PATIENCE_SECONDS
    """Seconds for which a store that throttles or does not answer is tried again."""

    ray_address: str | None = None
    """Ray cluster to use, or local for a new one on this machine. Default: RAY_ADDRESS, else what
    `ray start` has started here; else none to score on CPUs, and a new local one for all else."""

    quiet: bool = False
    """Print nothing but the result and errors."""

    log_format: LogFormat = "text"
    """text, or json: every line that is printed is an object with time, level, event, message, and
    the figures of the message."""

    debug: bool = False
    """Print Ray's and the workers' own messages, and a traceback with errors."""

    def __post_init__(self) -> None:
        patience = self.store_patience_seconds
        require(patience >= 0, "store-patience-seconds", patience, "0 or more")
        form = self.log_format
        require(form in ("text", "json"), "log-format", repr(form), "text or json")
        endpoint = self.s3_endpoint
        if endpoint is None:
            return
        # A password must not be repeated, wherever in a half URL it stands.
        if "@" in endpoint or masked(endpoint) != endpoint:
            raise ConfigError(
                "--s3-endpoint carries credentials: take them out, and give them through the "
                "environment or a role"
            )
        require(
            re.fullmatch(r"(?i)https?://[^/\s]+(/\S*)?", endpoint) is not None,
            "s3-endpoint", repr(endpoint), "a URL such as http://127.0.0.1:9000",
        )  # fmt: skip

    def storage(self) -> Storage:
        """The storage that these options describe."""
        return Storage(
            s3_endpoint=self.s3_endpoint,
            s3_anonymous=self.s3_anonymous,
            patience_seconds=self.store_patience_seconds,
        )

    def reporter(self) -> Reporter:
        """What prints as these options say."""
        return Reporter(self.quiet, self.log_format)


@dataclass(frozen=True, kw_only=True)
class CallConfig:
    """Where else the options come from, and where the result is told to programs."""

    config: Place | None = None
    """TOML or YAML file with options, by their names here. What is given on the command line counts
    before the file. A file like this is written beside every result, to do the same again."""

    summary_json: Place | None = None
    """Write what the command did as JSON, to a file that ends in .json, or - for standard output.
    It is there only when the command was done; what is printed else goes to standard error."""

    def __post_init__(self) -> None:
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
    """Let a job that takes one object with its options take them by keyword, too.

    The function raises TypeError for anything but one object of `kind`, or keywords that make one.
    """
    made_of = typing.cast(type[Any], kind)

    def accept(job: Callable[[C], R_co]) -> Job[P, C, R_co]:
        @functools.wraps(job)
        def run(*config: Any, **options: Any) -> R_co:
            if not config:
                # Notebooks have paths, and options are texts.
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


#: The name beside other results; in a folder of predictions a name that readers of data sets skip.
NAME, HIDDEN_NAME = "config.toml", "_config.toml"

#: Options that act once on existing files. They are not written down, so that reusing a file
#: deletes nothing.
ONCE = ("overwrite", "update", "retry_failed", "dry_run")


def write_options(place: str, config: Any, storage: Storage, name: str = NAME) -> None:
    """Write the options that made a result into its folder or prefix, over an older file."""
    storage.write(join(place, name), to_toml(config).encode())


def write_options_beside(uri: str, config: Any, storage: Storage) -> None:
    """Write the options that made a file, or a folder for other programs, to URI.config.toml.

    A whole bucket has nothing beside it, so there the file goes inside.
    """
    whole = not is_local(uri) and "/" not in uri.partition("://")[2]
    storage.write(join(uri, NAME) if whole else f"{uri}.{NAME}", to_toml(config).encode())


def to_toml(config: Any) -> str:
    """Format options as TOML for --config. Places are absolute, so it works from any folder.

    A value that TOML cannot hold, or that carries a secret, is left out with a comment.
    """
    command = type(config).__name__.removesuffix("Config").lower()
    lines = [
        "# The options that made this. To do the same again:",
        f"#   monkeyray {command} --config THIS-FILE",
        "",
    ]
    for name, hint, value in _values(config):
        if name in ONCE or value is None:
            continue
        try:
            lines.append(f"{flag(name)} = {_to_toml(_in_full(place_mark(hint), value))}")
        except ValueError as why:
            lines.append(f"# {flag(name)} is left out: {why}")
    return "\n".join(lines) + "\n"


def _values(config: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each option's name, type and value, with those of nested dataclasses."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value)
        elif each.init:
            yield each.name, hints[each.name], value


def place_mark(hint: Any) -> IsPlace | None:
    """The mark of a type that is a path or URI, or is made of some.

    >>> place_mark(tuple[Place, ...] | None), place_mark(int)
    (IsPlace(words=()), None)
    """
    if isinstance(hint, IsPlace):
        return hint
    return next(filter(None, map(place_mark, typing.get_args(hint))), None)


def _in_full(place: IsPlace | None, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_in_full(place, each) for each in value)
    if place is None or value in place.words:
        return value
    try:
        return local_uri(normalise(value))
    except ConfigError:
        # For example the name of a tracking server; _to_toml checks it for secrets.
        return value


def _to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_to_toml, value))}]"
    if has_secret(value):
        raise ValueError("it carries a secret")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not in UTF-8") from None
    # JSON's escapes are TOML's, but for the one character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
