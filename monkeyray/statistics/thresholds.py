"""Score thresholds that guarantee the precision of what they accept.

A threshold that just reached the target precision on one sample misses it on about every other new
one. So the lower confidence bound has to reach the target: Clopper and Pearson's (Biometrika 26,
1934), which is exact at any sample size.

Each label has a threshold for the images predicted as that label. Candidates are tested from the
highest score down. Picking the best of many tests would invalidate the bound, so they form a fixed
sequence (Maurer, Hothorn, Lehmacher 1995; for thresholds: Angelopoulos et al., "Learn then Test",
2021): testing stops at the first failure, and the last candidate that passed is the threshold. The
chance of a false guarantee is then at most 1 - confidence per threshold.

The first candidate accepts as many images as it takes to reach the target without an error (59 for
0.95, 299 for 0.99), the second as many as it takes with one error (93, 473); from there every score
is a candidate. Those between the first two are skipped because a single error there would end the
sequence; with too few images for the second, every score from the first on is a candidate. The
candidates depend on the target and the number of images only, never on which images are right.
Images with equal scores are accepted together.

Labels without a threshold of their own share a pooled one, found in the same way; its guarantee
holds for the pool as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array

CONFIDENCE = 0.95

#: The decisions of `decide`.
ACCEPTED, BELOW, NONE = "accepted", "below_threshold", "no_threshold"


@dataclass(frozen=True)
class Evidence:
    """The sample behind a threshold, or behind the failure to find one.

    Of `images`, the threshold accepts `accepted`, `errors` of them wrongly, so the precision is at
    least `lower` (None if nothing is accepted).
    """

    images: int
    accepted: int
    errors: int
    lower: float | None


@dataclass(frozen=True)
class Thresholds:
    """The lowest accepted score per label and for the pool; None if no score is accepted.

    `per_label` and `evidence` are in the order of the label indices.
    """

    target: float
    confidence: float
    per_label: Mapping[str, float | None]
    pooled: float | None
    evidence: Mapping[str, Evidence]
    pooled_evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        """JSON types; labels as a list, to keep their order."""
        return {
            "target": self.target,
            "confidence": self.confidence,
            "per_label": [
                {"label": label, "threshold": threshold, **asdict(self.evidence[label])}
                for label, threshold in self.per_label.items()
            ],
            "pooled": {"threshold": self.pooled, **asdict(self.pooled_evidence)},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Thresholds:
        """The inverse of `to_json`. Raises ValueError for anything that it does not return."""
        try:
            rows, pool = value["per_label"], value["pooled"]
            return cls(
                target=float(value["target"]),
                confidence=float(value["confidence"]),
                per_label={str(row["label"]): _number(row["threshold"]) for row in rows},
                pooled=_number(pool["threshold"]),
                evidence={str(row["label"]): _evidence(row) for row in rows},
                pooled_evidence=_evidence(pool),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(repr(error)) from error


def clopper_pearson_lower(hits: int, n: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided lower confidence bound of a proportion, after `hits` of `n`; 0.0 without hits.

    >>> round(clopper_pearson_lower(59, 59), 4)
    0.9505
    """
    return float(_lower(np.array([hits]), np.array([n]), confidence)[0])


def choose_thresholds(
    scores: Array,
    predicted: Array,
    truth: Array,
    labels: Sequence[str],
    target_precision: float,
) -> Thresholds:
    """The lowest thresholds that guarantee `target_precision`, each with CONFIDENCE.

    `scores`: top scores (n,), calibrated or not; `predicted` and `truth`: int indices (n,) into
    `labels`, of images that the model was not trained on. A threshold accepts scores equal to it;
    compare scores of the same dtype. Raises ValueError unless the target is between 0 and 1,
    exclusive: no number of images proves 1.
    """
    if not 0 < target_precision < 1:
        raise ValueError(
            f"target precision is {target_precision}; it must be between 0 and 1, exclusive"
        )
    correct = np.asarray(predicted) == np.asarray(truth)

    def choose(images: Array) -> tuple[float | None, Evidence]:
        return _choose(scores[images], correct[images], target_precision)

    own = {label: choose(predicted == i) for i, label in enumerate(labels)}
    left = [i for i, (threshold, _) in enumerate(own.values()) if threshold is None]
    pooled, pooled_evidence = choose(np.isin(predicted, left))
    return Thresholds(
        target=target_precision,
        confidence=CONFIDENCE,
        per_label={label: threshold for label, (threshold, _) in own.items()},
        pooled=pooled,
        evidence={label: evidence for label, (_, evidence) in own.items()},
        pooled_evidence=pooled_evidence,
    )


def decide(scores: Array, predicted: Array, thresholds: Thresholds) -> Array:
    """ACCEPTED, BELOW or NONE for each image: str (n,). Arguments as in `choose_thresholds`.

    A label without a threshold of its own uses the pooled one.
    """
    each = [
        thresholds.pooled if own is None else own for own in thresholds.per_label.values()
    ]  # None becomes NaN, which no score reaches
    least = np.array(each, np.float64)[predicted]
    reached = np.asarray(scores, np.float64) >= least
    return np.where(np.isnan(least), NONE, np.where(reached, ACCEPTED, BELOW))


def coverage_curve(scores: Array, correct: Array, points: int = 200) -> list[dict[str, float]]:
    """Coverage and precision over thresholds: at most `points` rows of a plot, highest first.

    `scores`: top scores (n,); `correct`: bool (n,). A row has the `threshold`, the share of images
    accepted (`coverage`), their `precision` and its one-sided `lower` bound. Each bound holds by
    itself: a threshold picked from this curve guarantees less than one of `choose_thresholds`. The
    first row, and the last, which accepts everything, are always included.
    """
    values, accepted, hits = _prefixes(scores, correct)
    if len(values) > points:
        chosen = np.unique(np.linspace(0, len(values) - 1, points).round().astype(np.int64))
        values, accepted, hits = values[chosen], accepted[chosen], hits[chosen]
    lower = _lower(hits, accepted, CONFIDENCE)
    return [
        {
            "threshold": float(values[i]),
            "coverage": float(accepted[i] / len(scores)),
            "precision": float(hits[i] / accepted[i]),
            "lower": float(lower[i]),
        }
        for i in range(len(values))
    ]


def least_images(target: float, errors: int = 0, confidence: float = CONFIDENCE) -> int:
    """The least number of accepted images whose bound reaches the target despite `errors`.

    >>> [least_images(0.95, errors) for errors in (0, 1, 2)], least_images(0.99)
    ([59, 93, 124], 299)
    """
    low = high = errors
    # Bisection: with the errors fixed, the bound rises with n.
    while clopper_pearson_lower(high - errors, high, confidence) < target:
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = clopper_pearson_lower(middle - errors, middle, confidence) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def _choose(scores: Array, correct: Array, target: float) -> tuple[float | None, Evidence]:
    images = len(scores)
    values, accepted, hits = _prefixes(scores, correct)
    first, second = (least_images(target, errors) for errors in (0, 1))
    tested = np.flatnonzero(accepted >= first)
    if images >= second:
        tested = tested[(accepted[tested] >= second) | (tested == tested[0])]
    lower = _lower(hits[tested], accepted[tested], CONFIDENCE)
    passed = np.logical_and.accumulate(lower >= target).sum()
    if not passed:
        return None, Evidence(images, 0, 0, None)
    at, bound = tested[passed - 1], float(lower[passed - 1])
    n = int(accepted[at])
    return float(values[at]), Evidence(images, n, n - int(hits[at]), bound)


def _prefixes(scores: Array, correct: Array) -> tuple[Array, Array, Array]:
    """Distinct scores, highest first; how many images reach each; how many of those are right."""
    values, index = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    accepted = np.bincount(index, minlength=len(values))[::-1].cumsum()
    right = np.bincount(index, np.asarray(correct, np.float64), minlength=len(values))
    return values[::-1], accepted, right[::-1].cumsum().round().astype(np.int64)


def _lower(hits: Array, n: Array, confidence: float) -> Array:
    from scipy.stats import beta

    with np.errstate(invalid="ignore"):
        bound = beta.ppf(1 - confidence, hits, n - hits + 1)
    return np.where(hits > 0, bound, 0.0)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _evidence(row: Mapping[str, Any]) -> Evidence:
    return Evidence(
        int(row["images"]), int(row["accepted"]), int(row["errors"]), _number(row["lower"])
    )
