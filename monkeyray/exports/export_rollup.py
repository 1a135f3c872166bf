"""Roll-up of exported rows: to the label where it was accepted, else to what is sure enough."""

from __future__ import annotations

import pyarrow as pa

from monkeyray.exports.rollup import Group, RollUp
from monkeyray.exports.rows import listed_labels, listed_scores
from monkeyray.exports.taxonomy import Taxa, Taxon
from monkeyray.statistics.thresholds import ACCEPTED

#: The columns of predictions that are needed.
COLUMNS = ("label", "score", "decision", "top_k")


def roll_up_rows(
    table: pa.Table, taxa: Taxa, threshold: float | None
) -> list[tuple[Group, float] | None]:
    """For each row its lowest group that is sure enough and the score of that, None where there is
    none, and everywhere where there is no threshold.

    A label that the model's thresholds or --threshold accepted is sure enough whatever its score.
    Labels that a row does not list count as nothing.
    """
    if threshold is None:
        return [None] * table.num_rows
    labels = sorted(listed_labels(table["top_k"]))
    roll_up = RollUp(taxa, labels, threshold)
    which, sums = roll_up(listed_scores(table["top_k"], labels))
    rows: list[tuple[Group, float] | None] = [
        (roll_up.groups[group], score) if group >= 0 else None
        for group, score in zip(which.tolist(), sums.tolist(), strict=True)
    ]
    own = {label: roll_up.groups[group] for label, group in roll_up.own.items()}
    for row, (label, score, decision) in enumerate(
        zip(*(table[name].to_pylist() for name in COLUMNS[:3]), strict=True)
    ):
        if decision == ACCEPTED:
            rows[row] = own[label], score
    return rows


def taxon_of(group: Group, taxa: Taxa) -> Taxon:
    """A group as what a label stands for."""
    if group.label is not None:
        return taxa.of(group.label)
    rest = {**group.above, "taxonRank": group.rank}
    return Taxon(group.name, "animal", group.name, group.name, rest)
