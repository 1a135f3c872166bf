"""The options of reviews."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from monkeyray.errors import ConfigError
from monkeyray.options_shared import Place, StoreConfig, check_apart, flag, require
from monkeyray.storage.location import normalise


@dataclass(frozen=True, kw_only=True)
class ReviewConfig:
    """Write pages on which people look at predictions, correct labels and choose what to label
    next. The labels that they export are a manifest for train: --corrections or --images."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "output", "label_names", "partial", "overwrite"),
        "What to label next": ("select", "count", "labelled"),
        "Where and when": ("site_pattern", "relative_to", "deployments"),
        "What is shown": ("per_label", "per_section", "images_per_page", "thumbnail_pixels"),
    }

    predictions: Place
    """The predictions: what was --predictions of score."""

    output: Place
    """A file that ends in .html, or a folder or prefix, into which as many pages go as are
    needed."""

    select: Literal["uncertain", "diverse"] | None = None
    """Choose what to label next: uncertain, images whose two likeliest labels are closest; or
    diverse, images unlike those chosen before and those of --labelled (needs --embeddings of
    score)."""

    count: int = 100
    """How many images --select chooses."""

    labelled: tuple[Place, ...] = ()
    """Images that have a label (folders or manifests, as --images and --corrections of train):
    --select chooses none of them."""

    label_names: Place | None = None
    """Table (CSV or Parquet) with the columns label and name, as for train."""

    site_pattern: str | None = None
    """Where an image's path below --relative-to has its site, camera or deployment, as
    {site}/{camera}/*."""

    deployments: Place | None = None
    """Table (CSV or Parquet) of where and when cameras hung, as for export: it gives sites, and
    times its clock_offset."""

    relative_to: Place | None = None
    """Folder or prefix below which --site-pattern looks. Default: that of the images."""

    per_label: int = 12
    """Images that are shown of each label, drawn at random."""

    per_section: int = 48
    """Images that are shown of the least certain, of the least typical and of those not scored."""

    images_per_page: int = 240
    """Images on a page at most."""

    thumbnail_pixels: int = 320
    """The longer side of the pictures. 320 makes some 20 kB an image."""

    partial: bool = False
    """Take what is there of a scoring that has not ended."""

    overwrite: bool = False
    """Replace what is there at --output."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        check_apart(self.output, self.predictions)
        require(
            self.select in (None, "uncertain", "diverse"),
            "select", repr(self.select), "uncertain or diverse",
        )  # fmt: skip
        for name, low, high in (
            ("count", 1, 10_000),
            ("per_label", 0, 10_000),
            ("per_section", 0, 10_000),
            ("images_per_page", 1, 10_000),
            ("thumbnail_pixels", 32, 2048),
        ):
            value = getattr(self, name)
            option = flag(name)
            require(low <= value <= high, option, value, f"from {low} to {high}")
        for name in ("label_names", "deployments", "relative_to"):
            if getattr(self, name) is not None:
                normalise(getattr(self, name))
        for uri in self.labelled:
            normalise(uri)
        if self.labelled and self.select is None:
            raise ConfigError("--labelled says what --select leaves out: give --select too")
        if self.site_pattern is not None:
            from monkeyray.exports.deployments import SitePattern

            SitePattern(self.site_pattern)
