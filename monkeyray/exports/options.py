"""The options of exports, and of bursts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from monkeyray.errors import ConfigError
from monkeyray.options_shared import Place, StoreConfig, check_apart, require
from monkeyray.storage.location import normalise


class _Kinds:
    """What the options blank, human, vehicle and unknown of a command say together."""

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """By what labels stand for, the labels that the options name."""
        return {name: getattr(self, name) for name in ("blank", "human", "vehicle", "unknown")}

    def _check_kinds(self) -> None:
        kinds = [label.lower() for labels in self.kinds().values() for label in labels]
        for label in kinds:
            require(kinds.count(label) == 1, "blank, --human, --vehicle or --unknown", label,
                     "given to one of them only")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_Kinds):
    """Write predictions in a format that other programs of the field read."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "format", "output", "partial", "overwrite"),
        "Where and when": ("project", "deployments", "site_pattern", "relative_to"),
        "What labels are": ("taxonomy", "rollup_threshold", "blank", "human", "vehicle", "unknown"),
    }

    predictions: Place
    """The predictions: what was --predictions of score."""

    format: Literal["camtrap-dp", "megadetector", "csv"]
    """camtrap-dp: a data package for sharing and GBIF. megadetector: batch results (JSON) for
    Timelapse and others. csv: one table with the same columns always."""

    output: Place
    """Where it is written: a folder or prefix for camtrap-dp, else a file."""

    project: Place | None = None
    """For camtrap-dp: a JSON or TOML file with contributors and project, as in datapackage.json."""

    deployments: Place | None = None
    """Table (CSV or Parquet) of where and when cameras hung: deployment_id, site, camera, latitude,
    longitude, start, end, time_zone (Africa/Nairobi or +03:00) and clock_offset (seconds or h:mm:ss
    that make the camera's time right when added)."""

    site_pattern: str | None = None
    """Where an image's path below --relative-to has its site, camera or deployment, as
    {site}/{camera}/*. Not needed for a single deployment."""

    taxonomy: Place | None = None
    """Table (CSV or Parquet) of what labels are: label, scientific_name, common_name,
    observation_type (animal, human, vehicle, blank or unknown), kingdom to genus."""

    rollup_threshold: float | None = None
    """With --taxonomy: an image that is not accepted and whose label's score is below this gets the
    lowest taxon whose labels reach it together, in camtrap-dp and csv; above 0, up to 1. Default:
    no roll-up."""

    relative_to: Place | None = None
    """Folder or prefix that file paths are relative to. Default: that of the images."""

    blank: tuple[str, ...] = ("blank", "empty")
    """Labels of images with nothing on them, where --taxonomy does not say."""

    human: tuple[str, ...] = ("human", "person")
    """Labels of people, where --taxonomy does not say."""

    vehicle: tuple[str, ...] = ("vehicle",)
    """Labels of vehicles, where --taxonomy does not say."""

    unknown: tuple[str, ...] = ("unknown",)
    """Labels that say that nobody knows, where --taxonomy does not say."""

    partial: bool = False
    """Export what is there of a scoring that has not ended."""

    overwrite: bool = False
    """Replace what is there at --output."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        require(
            self.format in ("camtrap-dp", "megadetector", "csv"),
            "format", repr(self.format), "camtrap-dp, megadetector or csv",
        )  # fmt: skip
        check_apart(self.output, self.predictions)
        for name in ("project", "deployments", "taxonomy", "relative_to"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        if self.format == "camtrap-dp":
            for name in ("project", "deployments"):
                if getattr(self, name) is None:
                    raise ConfigError(
                        f"--format camtrap-dp needs --{name}, for the standard requires "
                        "contributors and a project, places, and times with an offset"
                    )
        if self.format == "megadetector" and self.deployments is not None:
            raise ConfigError("--format megadetector has no places or times: drop --deployments")
        _check_rollup(self.rollup_threshold, self.taxonomy or self.project)
        if self.format == "megadetector" and self.rollup_threshold is not None:
            raise ConfigError("--format megadetector has no taxa: drop --rollup-threshold")
        if self.site_pattern is not None:
            from monkeyray.exports.deployments import SitePattern

            SitePattern(self.site_pattern)
            if self.deployments is None:
                raise ConfigError(
                    "--site-pattern finds an image's row in the table of deployments: give "
                    "--deployments too"
                )
        self._check_kinds()


@dataclass(frozen=True, kw_only=True)
class BurstsConfig(_Kinds):
    """Find the bursts in predictions, and write what their images say together."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "output", "partial", "overwrite"),
        "What is a burst": ("site_pattern", "relative_to", "deployments", "burst_gap"),
        "What labels are": ("taxonomy", "rollup_threshold", "blank", "human", "vehicle", "unknown"),
    }

    predictions: Place
    """The predictions: what was --predictions of score. With --top-k all the result is exact."""

    output: Place
    """The Parquet file that is written: one row an image, to be joined on uri."""

    site_pattern: str | None = None
    """Where an image's path below --relative-to has its site, camera or deployment, as
    {site}/{camera}/*: images in which it finds the same are of one camera."""

    deployments: Place | None = None
    """Table (CSV or Parquet) of when cameras hung, as for export: images of two deployments are in
    no burst together, and times get its clock_offset. Without --site-pattern, of one deployment."""

    burst_gap: str = "5s"
    """An image that its camera took this long after the one before, or less, is of the same burst:
    a number with ms, s, min or h."""

    taxonomy: Place | None = None
    """Table (CSV or Parquet) of what labels are, as for export: where no label is sure enough, the
    lowest taxon that is goes into rollup_rank, rollup_taxon and rollup_score."""

    rollup_threshold: float | None = None
    """With --taxonomy: the score from which a label or taxon is sure enough, above 0, up to 1.
    Default: what was --threshold of score, else 0.5."""

    relative_to: Place | None = None
    """Folder or prefix below which --site-pattern looks. Default: that of the images."""

    blank: tuple[str, ...] = ("blank", "empty")
    """Labels of images with nothing on them, where --taxonomy does not say."""

    human: tuple[str, ...] = ("human", "person")
    """Labels of people, where --taxonomy does not say."""

    vehicle: tuple[str, ...] = ("vehicle",)
    """Labels of vehicles, where --taxonomy does not say."""

    unknown: tuple[str, ...] = ("unknown",)
    """Labels that say that nobody knows, where --taxonomy does not say."""

    partial: bool = False
    """Take what is there of a scoring that has not ended."""

    overwrite: bool = False
    """Replace what is there at --output."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        self._check_kinds()
        check_apart(self.output, self.predictions)
        other = self.output.lower().endswith((".csv", ".tsv", ".json"))
        require(
            not other, "output", self.output, "a file that ends in .parquet, which is what it is"
        )
        for name in ("deployments", "taxonomy", "relative_to"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        if self.site_pattern is not None:
            from monkeyray.exports.deployments import SitePattern

            SitePattern(self.site_pattern)
        elif self.deployments is None:
            raise ConfigError(
                "which images are of one camera is not known: give --site-pattern, as "
                "{site}/{camera}/* for their paths below the images' folder"
            )
        parse_gap(self.burst_gap)
        _check_rollup(self.rollup_threshold, self.taxonomy)


def _check_rollup(threshold: float | None, taxa: str | None) -> None:
    if threshold is None:
        return
    require(0 < threshold <= 1, "rollup-threshold", threshold, "above 0, up to 1")
    if taxa is None:
        raise ConfigError("--rollup-threshold needs a table of taxa: give --taxonomy")


def parse_gap(text: str) -> int:
    """The microseconds that `--burst-gap` means.

    >>> parse_gap("5s"), parse_gap("1.5 min")
    (5000000, 90000000)
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(ms|s|min|h)", text)
    if match is None:
        raise ConfigError(
            f"--burst-gap is {text!r}: it must be a number with ms, s, min or h, as 5s"
        )
    return round(float(match[1]) * {"ms": 1e3, "s": 1e6, "min": 6e7, "h": 3.6e9}[match[2]])
