"""What the options of all commands share."""

from __future__ import annotations

import functools
import os
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, overload

from monkeyray.errors import ConfigError
from monkeyray.logs import LogFormat
from monkeyray.progress import Reporter
from monkeyray.redact import masked
from monkeyray.storage.location import join, normalise
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
