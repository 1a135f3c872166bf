"""What export, events and review have in common: their inputs, and checks of their output."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from monkeyray.console import Advance, Result, counted
from monkeyray.errors import ConfigError, InputError, StorageError
from monkeyray.exports.camtrap.profile import Project
from monkeyray.exports.deployments import Deployments, Origin, origin, read_deployments
from monkeyray.exports.options import ExportConfig, PredictionsConfig
from monkeyray.exports.taxonomy import Taxa
from monkeyray.exports.times import read_given_times
from monkeyray.images.site_pattern import SitePattern
from monkeyray.runs.reader import Predictions, open_predictions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: The options that name input files.
_INPUTS = ("deployments", "times", "project", "taxonomy", "label_names")


@dataclass(frozen=True)
class Source:
    """Predictions, and how to find the deployments of their images."""

    config: PredictionsConfig
    predictions: Predictions
    storage: Storage
    pattern: SitePattern | None
    deployments: Deployments | None

    @functools.cached_property
    def root(self) -> Location | None:
        """The folder or prefix that paths are relative to: --relative-to, otherwise that of the
        images, if the run has it."""
        given = self.config.relative_to
        return Location.parse(given) if given else self.predictions.root

    def required_root(self) -> Location:
        """`root`. Raises InputError if it is unknown."""
        if self.root is None:
            raise InputError(
                f"{self.predictions.uri} does not record the folder of its images: give "
                "--relative-to"
            )
        return self.root

    def path(self, uri: str) -> str | None:
        """The path of an image below the root, None if it is not below it."""
        return None if self.root is None else self.root.relative(uri)

    def origins(self, rows: pa.Table) -> list[Origin]:
        """The origin of each row, from its uri and captured_at."""
        if self.pattern is None and self.deployments is None:
            return [Origin()] * rows.num_rows
        columns = (rows["uri"].to_pylist(), rows["captured_at"].to_pylist())
        return [
            origin(self.path(uri) or "", captured_at, self.pattern, self.deployments)
            for uri, captured_at in zip(*columns, strict=True)
        ]

    def notes(self) -> Iterator[str]:
        """Notes about images without a deployment, and predictions that are incomplete."""
        if self.deployments is not None and self.deployments.unknown is not None:
            yield f"without a deployment: {self.deployments.unknown}"
        if self.config.partial and not self.predictions.is_complete:
            done, planned = self.predictions.rows, self.predictions.run.rows
            yield f"partial: {done} of {planned} images are scored so far"


def open_source(config: PredictionsConfig, storage: Storage, targets: Sequence[Location]) -> Source:
    """Open predictions, and the deployments if there are any.

    `targets`: the files to write. Raises StorageError if one of them exists and is not to
    be overwritten, ConfigError if one of them is an input, and InputError for inputs that cannot
    be read.
    """
    storage.check_reachable(Location.parse(config.predictions))
    predictions = open_predictions(config.predictions, storage, partial=config.partial)
    for name in _INPUTS:
        value = getattr(config, name, None)
        if value and Location.parse(value) in targets:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {value} would be overwritten: choose another --output")
    for target in () if config.overwrite else targets:
        if storage.exists(target):
            raise StorageError(
                f"{target} already exists: choose another --output, or give --overwrite"
            )
    if config.times:
        given = read_given_times(Location.parse(config.times), storage, predictions)
        predictions = replace(predictions, given_times=given)
    pattern = SitePattern(config.site_pattern) if config.site_pattern else None
    deployments = (
        read_deployments(config.deployments, storage, pattern) if config.deployments else None
    )
    return Source(config, predictions, storage, pattern, deployments)


@dataclass(frozen=True)
class Job:
    """An export: everything that a format needs. `output`: where to write it."""

    config: ExportConfig
    source: Source
    taxa: Taxa
    project: Project | None
    output: Location
    advance: Advance

    @property
    def predictions(self) -> Predictions:
        """The predictions to export."""
        return self.source.predictions

    @property
    def storage(self) -> Storage:
        """The store to read from and write to."""
        return self.source.storage


@dataclass(frozen=True, repr=False)
class Export(Result):
    """The result of an export.

    `kinds`: rows written, by observation type. `left_out`: by reason, images that were left out,
    or in a CSV have no time. `notes`: for people. `boxes`: whether rows are boxes, in runs with
    detections.
    """

    uri: str
    kinds: Counter[str]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    boxes: bool = False

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `output`; how many `images` were written, by `kinds` (if `boxes` is
        true, rows of boxes and of images without one); `left_out`, images without a time or a
        valid path, by reason in words; `notes` for people."""
        return {
            "output": self.uri,
            "images": self.kinds.total(),
            "boxes": self.boxes,
            "kinds": dict(self.kinds),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        total = self.kinds.total()
        rows = f"{total} boxes, and images without one," if self.boxes else counted(total, "image")
        lines = [f"{rows} exported"]
        lines += [f"  {count:>9} {kind}" for kind, count in self.kinds.most_common()]
        if self.left_out:
            images = counted(self.left_out.total(), "image")
            lines.append(f"{images} without a time or a valid path")
            lines += [f"  {count:>9} {why}" for why, count in self.left_out.most_common()]
        return "\n".join([*lines, *self.notes, f"written to {self.uri}"])
