"""The options about labels, which every command with labelled images has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from monkeyray.options import JobConfig, OneOf, Place


@dataclass(frozen=True, kw_only=True)
class LabelOptions(JobConfig):
    """How tables of labels are read."""

    images_root: Place | None = None
    """Folder or prefix that the images named in a table of labels are in. Default: the table's
    folder. If no name is found there as it is written, one rule is looked for that replaces the
    same first folders of every name, such as a Windows drive or share."""

    uri_column: str | None = None
    """Column of the images' paths or URIs, where a table has several, such as url_aws."""

    label_column: str | None = None
    """Column of the labels, where a table has several, such as scientific_name or Species."""

    group_column: str | None = None
    """Column of groups of images that must stay together in a split."""

    several_labels: Annotated[str, OneOf(("drop", "refuse"))] | None = None
    """What to do with images that have several labels: drop them, or refuse. Default: refuse in a
    table with the columns uri and label, drop in the formats of the field."""

    sequence_labels: Annotated[str, OneOf(("keep", "drop"))] = "keep"
    """What to do with labels of whole sequences, which not every image of them shows: keep gives
    them to each image without a label of its own."""

    machine_labels: Annotated[str, OneOf(("drop", "keep"))] = "drop"
    """What to do with labels that a machine gave and nobody confirmed."""

    label_level: Annotated[str, OneOf(("species", "genus", "family"))] | None = None
    """Taxon to use as the label, in formats with taxonomy: species, genus or family; animals that
    are not identified to it are left out. Default: the lowest taxon that is known."""


DEFAULTS = LabelOptions()

#: The names of these options.
LABEL_FIELDS = (
    "images_root", "uri_column", "label_column", "group_column", "several_labels",
    "sequence_labels", "machine_labels", "label_level",
)  # fmt: skip
