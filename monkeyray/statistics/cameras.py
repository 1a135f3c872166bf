"""Accuracy at locations that a head has seen and at others, with intervals that count locations.

Photographs of one camera share its background, light and animals, so they are not independent: an
interval that counts images is far too narrow for what a new camera will give.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.arrays import Array, Flags
from monkeyray.statistics.metrics import wilson

#: Clusters below which a bootstrap says too little to be given.
LEAST_CLUSTERS = 5

_RESAMPLES = 5000


def cluster_bootstrap(hits: Flags, clusters: Array) -> list[float] | None:
    """The 95% bootstrap interval [low, high] of the share of hits, drawing whole clusters; None
    with fewer than LEAST_CLUSTERS.

    `hits`: bool (n,); `clusters`: the cluster of each, int or str (n,). The percentiles are
    expanded, since with few clusters 2.5 and 97.5 are too narrow (Hesterberg, "What Teachers Should
    Know About the Bootstrap", The American Statistician 69, 2015). If all are hits, or none is,
    every resample is the same, and each cluster counts as one image of a Wilson interval.
    """
    from scipy.special import ndtr, stdtrit

    names, index = np.unique(clusters, return_inverse=True)
    count = len(names)
    if count < LEAST_CLUSTERS:
        return None
    share = float(np.mean(hits))
    if share in (0.0, 1.0):
        return wilson(share, count)
    sums = np.stack([np.bincount(index, hits), np.bincount(index)])
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    right, images = sums @ drawn.T
    tail = 100 * ndtr(np.sqrt(count / (count - 1)) * stdtrit(count - 1, 0.025))
    return [float(bound) for bound in np.percentile(right / images, [tail, 100 - tail])]


def camera_metrics(hits: Flags, locations: Array, seen: Flags) -> dict[str, Any]:
    """The accuracy of predictions at seen and unseen locations, in JSON types.

    `hits`: which predictions are right, bool (n,); `locations`: str or None (n,); `seen`: whether
    the head that predicts learned from other images of the location, bool (n,). Each of `unseen`
    and `seen` has its `images`, `locations` and `accuracy`, the `accuracy_interval` of
    `cluster_bootstrap` and, as `naive_interval`, the Wilson interval that counts images.
    `by_location`: `images` and `accuracy` of both by location, most errors first. `unknown`: images
    without a location, which are in none of these.
    """
    known = np.array([location is not None for location in locations], bool)
    hits, seen = hits[known], seen[known]
    names, index = np.unique(locations[known].astype(str), return_inverse=True)
    sides = {"unseen": ~seen, "seen": seen}
    images = {side: np.bincount(index[its], minlength=len(names)) for side, its in sides.items()}
    right = {
        side: np.bincount(index[its], hits[its], len(names)).astype(int)
        for side, its in sides.items()
    }
    found: dict[str, Any] = {"unknown": int((~known).sum())}
    for side, its in sides.items():
        accuracy = _share(right[side].sum(), images[side].sum())
        found[side] = {
            "locations": int((images[side] > 0).sum()),
            "images": int(images[side].sum()),
            "accuracy": accuracy,
            "accuracy_interval": cluster_bootstrap(hits[its], index[its]),
            "naive_interval": wilson(accuracy, int(images[side].sum())),
        }
    errors = sum(images[side] - right[side] for side in sides)
    found["by_location"] = [
        {"location": str(names[row])}
        | {
            side: {
                "images": int(images[side][row]),
                "accuracy": _share(right[side][row], images[side][row]),
            }
            for side in sides
        }
        for row in np.argsort(-np.asarray(errors), kind="stable").tolist()
    ]
    return found


def describe_side(side: str, found: dict[str, Any]) -> str:
    """A line of text for one of the two sides of camera_metrics."""
    if not found["images"]:
        return f"at {side} cameras: no image"
    interval = found["accuracy_interval"]
    bounds = (
        f"no interval from fewer than {LEAST_CLUSTERS} cameras"
        if interval is None
        else "{:.4f} to {:.4f} with 95% confidence, counting cameras".format(*interval)
    )
    return (
        f"at {side} cameras: accuracy {found['accuracy']:.4f} ({bounds}) on {found['images']} "
        f"images of {found['locations']} cameras"
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
