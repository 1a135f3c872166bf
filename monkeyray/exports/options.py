"""The options of exports and events, and those that they share with reviews."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from monkeyray.errors import ConfigError
from monkeyray.options import JobConfig, Place, Range, check_outside, require


@dataclass(frozen=True, kw_only=True)
class PredictionsConfig(JobConfig):
    """The options of every command that reads predictions and writes something from them."""

    predictions: Place
    """The predictions to read: --predictions of score."""

    output: Place
    """Where to write the result."""

    partial: bool = False
    """Accept predictions whose scoring has not finished."""

    overwrite: bool = False
    """Replace an existing --output."""

    site_pattern: str | None = None
    """Where the path of an image below --relative-to names its site, camera or deployment, such as
    {site}/{camera}/*."""

    deployments: Place | None = None
    """Table (CSV or Parquet) of where and when cameras were deployed: deployment_id, site, camera,
    latitude, longitude, start, end, time_zone (Africa/Nairobi or +03:00), clock_offset (seconds or
    h:mm:ss to add to the camera's time to correct it) and failures (periods in which the camera was
    down). Without --site-pattern, a single deployment."""

    times: Place | None = None
    """Table (CSV or Parquet) of times that override those in the predictions: uri and captured_at,
    or SourceFile and DateTimeOriginal, as written by `exiftool -csv -DateTimeOriginal -r`."""

    relative_to: Place | None = None
    """Folder or prefix that paths are relative to. Default: that of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_outside(self, "output", "predictions")
        if self.site_pattern is not None:
            from monkeyray.images.site_pattern import SitePattern

            SitePattern(self.site_pattern)


@dataclass(frozen=True, kw_only=True)
class KindsConfig(PredictionsConfig):
    """The options of commands that tell animals from other labels."""

    blank: tuple[str, ...] = ("blank", "empty")
    """Labels of empty images, unless --taxonomy lists them."""

    human: tuple[str, ...] = ("human", "person")
    """Labels of people, unless --taxonomy lists them."""

    vehicle: tuple[str, ...] = ("vehicle",)
    """Labels of vehicles, unless --taxonomy lists them."""

    unknown: tuple[str, ...] = ("unknown",)
    """Labels of animals that could not be identified, unless --taxonomy lists them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = [label.lower() for labels in self.kinds().values() for label in labels]
        for label in kinds:
            require(kinds.count(label) == 1, "blank, --human, --vehicle or --unknown", label,
                     "given to one of them only")  # fmt: skip

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The labels of blank, human, vehicle and unknown, by these kinds."""
        return {name: getattr(self, name) for name in ("blank", "human", "vehicle", "unknown")}


@dataclass(frozen=True, kw_only=True)
class TaxaConfig(KindsConfig):
    """The options of commands that map labels to taxa."""

    taxonomy: Place | None = None
    """Table (CSV or Parquet) of the taxa of labels: label, scientific_name, common_name,
    observation_type (animal, human, vehicle, blank or unknown), kingdom to genus."""

    rollup_threshold: Annotated[float, Range(0, 1, above=True)] | None = None
    """With --taxonomy: in camtrap-dp and csv, roll an image whose label is not accepted and scores
    below this up to the lowest taxon whose summed score reaches it; above 0, up to 1. Default: no
    roll-up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        has_taxa = self.taxonomy is not None or getattr(self, "project", None) is not None
        if self.rollup_threshold is not None and not has_taxa:
            raise ConfigError("--rollup-threshold needs a table of taxa: give --taxonomy")


@dataclass(frozen=True, kw_only=True)
class GapConfig(TaxaConfig):
    """The options that say which images are of one event."""

    gap: str = "30min"
    """The longest time between two consecutive images of an event, a visit to a camera: a number
    with ms, s, min or h. In export, for camtrap-dp."""

    burst_gap: str = "5s"
    """The longest time between two consecutive images of a burst, whose scores are pooled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_gap("gap", self.gap)
        parse_gap("burst-gap", self.burst_gap)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(GapConfig):
    """Write predictions in a format that other programs of the field read."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "format", "output", "partial", "overwrite"),
        "Cameras and times": ("project", "deployments", "site_pattern", "times", "relative_to"),
        "Events": ("observation_level", "gap", "burst_gap"),
        "Labels and taxa": ("taxonomy", "rollup_threshold", "blank", "human", "vehicle", "unknown"),
    }

    format: Literal["camtrap-dp", "megadetector", "csv", "failures"]
    """camtrap-dp: a data package for sharing and GBIF. megadetector: batch results (JSON) for
    Timelapse and others. csv: one table, always with the same columns. failures: a manifest (CSV)
    of the images that were not scored, with the cause."""

    output: Place
    """Where to write the export: a folder or prefix for camtrap-dp, otherwise a file."""

    project: Place | None = None
    """For camtrap-dp: a JSON or TOML file with contributors and project, as in datapackage.json."""

    observation_level: Literal["media", "event"] = "media"
    """For camtrap-dp: media, an observation for each image or box; or event, also one for each
    label of an event, with a count, which GBIF then takes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format == "camtrap-dp":
            for name in ("project", "deployments"):
                if getattr(self, name) is None:
                    raise ConfigError(
                        f"--format camtrap-dp needs --{name}: the standard requires contributors "
                        "and a project, locations, and times with a UTC offset"
                    )
        elif self.observation_level == "event":
            raise ConfigError(
                f"--format {self.format} has no observations of events: drop --observation-level, "
                "or use `monkeyray events`"
            )
        if self.format in ("megadetector", "failures") and self.deployments is not None:
            raise ConfigError(
                f"--format {self.format} has no locations or times: drop --deployments"
            )
        if self.format in ("megadetector", "failures") and self.rollup_threshold is not None:
            raise ConfigError(f"--format {self.format} has no taxa: drop --rollup-threshold")
        if self.site_pattern is not None and self.deployments is None:
            raise ConfigError(
                "--site-pattern finds an image's row in the table of deployments: give "
                "--deployments too"
            )


@dataclass(frozen=True, kw_only=True)
class EventsConfig(GapConfig):
    """Find events (visits to a camera) in predictions, and write their labels, counts and rates."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "output", "format", "partial", "overwrite"),
        "Events": ("site_pattern", "relative_to", "deployments", "times", "gap", "burst_gap"),
        "Labels and taxa": ("taxonomy", "rollup_threshold", "blank", "human", "vehicle", "unknown"),
    }

    output: Place
    """Folder or prefix for the tables: events, one row per event and label; rows, the event of each
    row of the predictions; sites, events and rates by site and label."""

    format: Literal["parquet", "csv"] = "parquet"
    """The format of the tables."""

    rollup_threshold: Annotated[float, Range(0, 1, above=True)] | None = None
    """With --taxonomy: the score at which a label or taxon is accepted, above 0, up to 1. Default:
    the --threshold of score, otherwise 0.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site_pattern is None and self.deployments is None:
            raise ConfigError(
                "events needs to know each image's camera: give --site-pattern, such as "
                "{site}/{camera}/* for the paths below the images' folder"
            )


def parse_gap(option: str, text: str) -> int:
    """The microseconds of a --gap or --burst-gap.

    >>> parse_gap("gap", "5s"), parse_gap("gap", "1.5 min")
    (5000000, 90000000)
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(ms|s|min|h)", text)
    if match is None:
        raise ConfigError(
            f"--{option} is {text!r}: it must be a number with ms, s, min or h, such as 5s"
        )
    return round(float(match[1]) * {"ms": 1e3, "s": 1e6, "min": 6e7, "h": 3.6e9}[match[2]])
