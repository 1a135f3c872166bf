"""The options of reviews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from monkeyray.errors import ConfigError
from monkeyray.exports.options import KindsConfig
from monkeyray.options import Place, Range


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(KindsConfig):
    """Write pages to look at predictions, correct labels and choose what to label next.
    The labels exported from them are a manifest for train: --corrections or --images."""

    GROUPS: ClassVar = {
        "Places": ("predictions", "output", "label_names", "partial", "overwrite"),
        "What to label next": ("select", "count", "labelled"),
        "What was missed": ("sample", "corrections", "blank", "human", "vehicle", "unknown"),
        "Cameras and times": ("site_pattern", "relative_to", "deployments", "times"),
        "Pages": ("per_label", "per_section", "images_per_page", "thumbnail_pixels", "people"),
    }

    output: Place
    """A file that ends in .html, or a folder or prefix for as many pages as needed."""

    select: Literal["uncertain", "diverse"] | None = None
    """Choose images to label next: uncertain, those whose two best labels have the closest scores;
    or diverse, those unlike each other and those in --labelled (needs score --embeddings)."""

    count: Annotated[int, Range(1, 10_000)] = 100
    """Number of images that --select chooses."""

    labelled: tuple[Place, ...] = ()
    """Images that already have a label, which --select skips: folders or manifests, as for
    --images and --corrections of train."""

    sample: Annotated[int, Range(0, 10_000)] = 48
    """Number of images to show, drawn at random, of those that the model calls blank, and of those
    below the thresholds. With --corrections, they give an estimate of how many animals are
    missed."""

    corrections: tuple[Place, ...] = ()
    """Labels exported from an earlier review of the same predictions, for the estimate of missed
    animals."""

    label_names: Place | None = None
    """Table (CSV or Parquet) with the columns label and name, as for train."""

    per_label: Annotated[int, Range(0, 10_000)] = 12
    """Number of images to show for each label, drawn at random."""

    per_section: Annotated[int, Range(0, 10_000)] = 48
    """Number of images to show in each of the other sections: least certain, least typical, not
    scored."""

    images_per_page: Annotated[int, Range(1, 10_000)] = 240
    """Maximum number of images on a page."""

    thumbnail_pixels: Annotated[int, Range(32, 2048)] = 320
    """The longer side of the thumbnails. At 320, a page grows by about 20 kB per image."""

    people: Literal["show", "blur", "omit"] = "show"
    """People in the pictures: show them, blur their boxes, or omit the images. Without boxes, blur
    and omit apply to images whose label is one of --human."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labelled and self.select is None:
            raise ConfigError("--labelled lists images for --select to skip: give --select too")
