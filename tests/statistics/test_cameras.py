"""Intervals that count locations, and accuracies at those that a head has seen and at others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.cameras import (
    LEAST_CLUSTERS,
    camera_metrics,
    cluster_bootstrap,
    describe_side,
)
from monkeyray.statistics.metrics import wilson


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=80))
def test_the_interval_is_within_what_the_clusters_reach(rows: list[tuple[bool, int]]) -> None:
    hits, clusters = (np.array(column) for column in zip(*rows, strict=True))
    found = cluster_bootstrap(hits, clusters)
    names = np.unique(clusters)
    if len(names) < LEAST_CLUSTERS:
        assert found is None
        return
    assert found is not None
    low, high = found
    assert 0 <= low <= high <= 1
    if hits.all():
        assert found == wilson(1.0, len(names))
    elif hits.any():
        shares = [hits[clusters == name].mean() for name in names]
        assert min(shares) - 1e-12 <= low <= hits.mean() + 1e-12
        assert hits.mean() - 1e-12 <= high <= max(shares) + 1e-12
    # What the clusters are called does not matter.
    assert found == cluster_bootstrap(hits, np.array([f"camera {name}" for name in clusters]))


def test_equal_images_of_a_cluster_count_once() -> None:
    rng = np.random.default_rng(0)
    once = rng.random(60) < 0.7
    alone = cluster_bootstrap(once, np.arange(60))
    assert alone == cluster_bootstrap(np.repeat(once, 50), np.repeat(np.arange(60), 50))
    assert alone == pytest.approx(wilson(once.mean(), 60), abs=0.03)


def test_the_interval_holds_the_accuracy_of_new_clusters() -> None:
    """With accuracies of 30 clusters drawn from one distribution, its mean is in 95% of the
    intervals, and in few of those that count images."""
    rng = np.random.default_rng(1)
    inside = {"clusters": 0, "images": 0}
    for _ in range(200):
        hits = rng.random((30, 100)) < rng.beta(4, 1, 30)[:, None]
        found = cluster_bootstrap(hits.ravel(), np.repeat(np.arange(30), 100))
        naive = wilson(float(hits.mean()), hits.size)
        assert found is not None
        assert naive is not None
        inside["clusters"] += found[0] <= 0.8 <= found[1]
        inside["images"] += naive[0] <= 0.8 <= naive[1]
    assert inside["clusters"] >= 180
    assert inside["images"] <= 110


def test_both_sides_and_each_location_are_counted() -> None:
    locations = np.array([*"aaabbcdef", None], dtype=object)
    hits = np.array([1, 0, 0, 1, 0, 1, 1, 1, 1, 1], bool)
    seen = np.array([0, 0, 1, 0, 1, 0, 0, 0, 0, 0], bool)
    found = camera_metrics(hits, locations, seen)
    assert found == json.loads(json.dumps(found))
    assert found["unknown"] == 1
    assert (found["unseen"]["images"], found["unseen"]["locations"]) == (7, 6)
    assert found["unseen"]["accuracy"] == pytest.approx(6 / 7)
    assert found["seen"]["accuracy"] == 0
    assert found["seen"]["accuracy_interval"] is None
    assert [row["location"] for row in found["by_location"]] == [*"abcdef"]
    assert found["by_location"][0] == {
        "location": "a",
        "unseen": {"images": 2, "accuracy": 0.5},
        "seen": {"images": 1, "accuracy": 0.0},
    }
    assert "no interval from fewer than 5 cameras" in describe_side("seen", found["seen"])
    assert "with 95% confidence, counting cameras" in describe_side("unseen", found["unseen"])
    nowhere = camera_metrics(hits[9:], locations[9:], seen[9:])
    assert nowhere["by_location"] == []
    assert describe_side("seen", nowhere["seen"]) == "at seen cameras: no image"
