"""How many images show an animal that the model missed, from random samples that people look at."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from monkeyray.statistics.thresholds import CONFIDENCE


@dataclass(frozen=True)
class Stratum:
    """Images that are reported as no animal, such as those called blank. Of `images`, a random
    sample of `seen` was looked at, and `missed` of these show an animal."""

    images: int
    seen: int
    missed: int


@dataclass(frozen=True)
class Missed:
    """The estimated number of images with an animal that was missed, and its interval, both ends
    included."""

    images: float
    low: int
    high: int


def estimate_missed(strata: Sequence[Stratum], confidence: float = CONFIDENCE) -> Missed | None:
    """The estimate over all strata; None if there is a stratum that nobody looked into.

    The interval of each stratum is exact for samples without replacement, the Clopper-Pearson
    interval of a finite population (Buonaccorsi, The American Statistician 41, 1987). They are
    combined by recovering variances (MOVER: Zou, Huang, Zhang, Computational Statistics & Data
    Analysis 53, 2009), which never assumes a normal distribution of the counts, few as they are.

    >>> estimate_missed([Stratum(1000, 100, 2), Stratum(50, 50, 7)])
    Missed(images=27.0, low=10, high=74)
    """
    strata = [each for each in strata if each.images]
    if any(not each.seen for each in strata):
        return None
    estimate, below, above = 0.0, 0.0, 0.0
    for each in strata:
        mean = each.images * each.missed / each.seen
        low, high = exact_interval(each, confidence)
        estimate += mean
        below += (mean - low) ** 2
        above += (high - mean) ** 2
    least = sum(each.missed for each in strata)
    most = sum(each.images - each.seen + each.missed for each in strata)
    # A whole number may come back from its square slightly off.
    low = math.floor(round(estimate - math.sqrt(below), 6))
    high = math.ceil(round(estimate + math.sqrt(above), 6))
    return Missed(estimate, max(low, least), min(high, most))


def exact_interval(stratum: Stratum, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """The numbers of missed images in a stratum that its sample does not refute, first and last.

    >>> exact_interval(Stratum(1000, 100, 0)), exact_interval(Stratum(10, 10, 3))
    ((0, 34), (3, 3))
    """
    from scipy.stats import hypergeom

    images, seen, missed = stratum.images, stratum.seen, stratum.missed
    tail = (1 - confidence) / 2
    possible = range(missed, images - (seen - missed) + 1)

    def explains_as_many(total: int) -> bool:
        return bool(hypergeom.sf(missed - 1, images, total, seen) > tail)

    def explains_no_more(total: int) -> bool:
        return bool(hypergeom.cdf(missed, images, total, seen) <= tail)

    low = possible[bisect.bisect_left(possible, True, key=explains_as_many)]
    high = possible[bisect.bisect_left(possible, True, key=explains_no_more) - 1]
    return low, high
