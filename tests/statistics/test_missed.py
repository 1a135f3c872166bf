"""The number of missed animals, and how often its interval covers the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.missed import Stratum, estimate_missed, exact_interval

#: Images called blank and images below the thresholds, and how many of each show an animal.
SITUATIONS = [
    ((5000, 100), (800, 300)),
    ((20_000, 20), (1000, 900)),
    ((500, 0), (100, 3)),
    ((60, 30), (3000, 1500)),
]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("seen", [20, 48, 200])
def test_the_interval_covers_a_known_number(
    situation: tuple[tuple[int, int], ...], seen: int
) -> None:
    random = np.random.default_rng(seen)
    truth = sum(missed for _, missed in situation)
    covered = []
    for _ in range(20):
        strata = []
        for images, missed in situation:
            count = min(seen, images)
            found = int(random.hypergeometric(missed, images - missed, count))
            strata.append(Stratum(images, count, found))
        estimate = estimate_missed(strata)
        assert estimate is not None
        covered.append(estimate.low <= truth <= estimate.high)
    assert sum(covered) >= 17


def test_the_estimate_has_no_bias() -> None:
    random = np.random.default_rng(0)
    found, times = np.unique(random.hypergeometric(100, 4900, 50, 4000), return_counts=True)
    estimates = [estimate_missed([Stratum(5000, 50, each)]) for each in found.tolist()]
    images = [each.images for each in estimates if each]
    assert np.average(images, weights=times) == pytest.approx(100, rel=0.05)


@given(st.integers(1, 60), st.data())
def test_one_stratum_has_its_exact_interval(images: int, data: st.DataObject) -> None:
    seen = data.draw(st.integers(1, images))
    stratum = Stratum(images, seen, data.draw(st.integers(0, seen)))
    low, high = exact_interval(stratum)
    assert stratum.missed <= low <= high <= images - seen + stratum.missed
    found = estimate_missed([stratum, Stratum(0, 0, 0)])
    assert found is not None
    assert (found.low, found.high) == (low, high)
    # Whoever has looked at everything knows.
    if seen == images:
        assert low == high == stratum.missed == found.images


def test_a_larger_sample_says_more() -> None:
    few, many = (
        estimate_missed([Stratum(5000, seen, seen // 20), Stratum(500, seen, seen // 2)])
        for seen in (20, 200)
    )
    assert few is not None
    assert many is not None
    assert few.images == many.images == 500
    assert many.high - many.low < (few.high - few.low) / 2


def test_nothing_is_said_about_what_nobody_looked_at() -> None:
    assert estimate_missed([Stratum(100, 50, 1), Stratum(10, 0, 0)]) is None
    assert estimate_missed([Stratum(0, 0, 0)]) is not None
