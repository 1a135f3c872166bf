"""Which whole groups of images go into new splits, so that every label is in each."""

from __future__ import annotations

from collections import Counter

import numpy as np

#: Cuts that are tried where groups hold several labels.
_ATTEMPTS = 20

#: The mean difference of a label's share of a split from the one asked for, below which no further
#: cut is tried.
_CLOSE = 0.01


def cut_groups(
    loose: dict[int, Counter[str]],
    totals: Counter[str],
    held: set[str],
    wanted: dict[str, float],
    seed: int,
) -> dict[int, str]:
    """The split of each group that is not in train, seeded.

    `loose`: the images of each label in each group that may be taken; `totals`: all images by
    label; `held`: labels that are in train in any case; `wanted`: the share of each new split.
    """
    # Where each group has one label, the first cut is as good as any.
    mixed = any(len(counts) > 1 for counts in loose.values())
    cuts: list[_Cut] = []
    for attempt in range(_ATTEMPTS if mixed else 1):
        cuts.append(_Cut(loose, totals, held, wanted))
        cuts[-1].fill([seed, attempt] if attempt else [seed])
        if not cuts[-1].avoidable and cuts[-1].deviation < _CLOSE:
            break
    return min(cuts, key=lambda cut: (cut.avoidable, cut.deviation)).chosen


class _Cut:
    """One way to give whole groups to the new splits: the label in the fewest groups comes first,
    and no group is taken that one of its labels needs for another split.

    `chosen`: the split of each group that was taken.
    """

    def __init__(
        self,
        loose: dict[int, Counter[str]],
        totals: Counter[str],
        held: set[str],
        wanted: dict[str, float],
    ) -> None:
        self._loose, self._totals, self._held, self._wanted = loose, totals, held, wanted
        self._with: dict[str, list[int]] = {label: [] for label in totals}
        for group, counts in loose.items():
            for label in counts:
                self._with[label].append(group)
        self._open = {label: len(its) for label, its in self._with.items()}
        self._got: Counter[tuple[str, str]] = Counter()
        self.chosen: dict[int, str] = {}

    def fill(self, seeds: list[int]) -> None:
        """Choose, in an order that the seeds give."""
        numbers = {label: number for number, label in enumerate(sorted(self._with))}
        for label in sorted(self._with, key=lambda each: (len(self._with[each]), each)):
            rng = np.random.default_rng([seeds[0], numbers[label], *seeds[1:]])
            order = rng.permutation(self._with[label]).tolist()
            for split in self._wanted:
                self._fill_split(label, split, order)

    @property
    def avoidable(self) -> int:
        """How often a label is absent from a split for which it has groups enough."""
        absent = 0
        for label, its in self._with.items():
            possible = max(0, len(its) - (label not in self._held))
            present = sum(self._got[split, label] > 0 for split in self._wanted)
            absent += min(len(self._wanted), possible) - present
        return absent

    @property
    def deviation(self) -> float:
        """By how much the labels' shares of the splits differ from those asked for, on average."""
        return float(
            np.mean(
                [
                    abs(self._got[split, label] / total - share)
                    for label, total in self._totals.items()
                    for split, share in self._wanted.items()
                ]
            )
        )

    def _fill_split(self, label: str, split: str, order: list[int]) -> None:
        for group in order:
            room = self._room(label, split)
            if room <= 0:
                return
            if group in self.chosen or self._loose[group][label] > room:
                continue
            used, over = self._use(group, split)
            if over <= used and self._can_spare(group, split):
                self._take(group, split)
        if not self._got[split, label]:
            rest = [
                group
                for group in order
                if group not in self.chosen and self._can_spare(group, split)
            ]
            # Where no group fits, the one that is least too large is taken all the same.
            if rest:
                self._take(min(rest, key=lambda group: self._use(group, split)[1]), split)

    def _take(self, group: int, split: str) -> None:
        self.chosen[group] = split
        for label, count in self._loose[group].items():
            self._got[split, label] += count
            self._open[label] -= 1

    def _room(self, label: str, split: str) -> int:
        """Images of a label that are still to come into a split; negative where it has too many."""
        whole = max(1, round(self._wanted[split] * self._totals[label]))
        return whole - self._got[split, label]

    def _use(self, group: int, split: str) -> tuple[float, float]:
        """What a group would add to a split that has room for it, and for which it has none: the
        sums over labels, as shares of all images of the label."""
        used = over = 0.0
        for label, count in self._loose[group].items():
            fitting = min(count, max(0, self._room(label, split)))
            used += fitting / self._totals[label]
            over += (count - fitting) / self._totals[label]
        return used, over

    def _can_spare(self, group: int, split: str) -> bool:
        """Whether each label of a group has groups left for the other splits that it is not in."""
        return all(
            self._open[label] - 1
            >= (label not in self._held)
            + sum(not self._got[other, label] for other in self._wanted if other != split)
            for label in self._loose[group]
        )
