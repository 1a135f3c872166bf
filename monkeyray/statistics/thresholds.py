"""Thresholds that keep a promise: of the images accepted, at least the target share is right.

A threshold that merely had the target precision on some images will miss it on the next ones about
every other time. Here a lower confidence bound has to reach the target: Clopper and Pearson's
(Biometrika 26, 1934), exact at any number of images.

A label's images are those predicted as it, since only they can be wrong under its name. They are
walked from the surest down, and the bound is looked at again and again; picking the best of many
looks would undo its confidence. So the looks form a fixed sequence (Maurer, Hothorn, Lehmacher
1995; for thresholds: Angelopoulos et al., "Learn then Test", 2021): they are tested one after the
other, the walk ends at the first that fails, and the last that passed counts. The chance of
promising too much then stays at 1 - confidence for each threshold, however many looks there were.

The first look is at the number of images at which the bound can be reached without an error (59 for
0.95, 299 for 0.99), the next where it bears one (93, 473), then at every score, and where there are
not so many images at every score from the first look on. What lies between the first two is left
out since there a single error would end the walk. All of this follows from the target and the
number of images, never from what is right, as it must. Images of equal score are accepted together:
a look is always at the end of such a run.

Labels that reach no threshold of their own, for want of images or for errors, join one pool, which
is tested in the same way; its promise holds for the pool as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.errors import BundleError, ConfigError

CONFIDENCE = 0.95

#: What `decide` says.
ACCEPTED, BELOW, NONE = "accepted", "below_threshold", "no_threshold"


@dataclass(frozen=True)
class Evidence:
    """What a threshold rests on, or what was there where it could not be reached.

    `images` were looked at, of which the threshold accepts `accepted` with `errors` among them, so
    that the precision is at least `lower`, which is None where nothing is accepted.
    """

    images: int
    accepted: int
    errors: int
    lower: float | None


@dataclass(frozen=True)
class Thresholds:
    """The least score that is accepted, by label and for the pool; None where there is none.

    `per_label` and `evidence` are in the order of the label indices.
    """

    target: float
    confidence: float
    per_label: Mapping[str, float | None]
    pooled: float | None
    evidence: Mapping[str, Evidence]
    pooled_evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        """The same in JSON's types; labels as a list, since their order counts."""
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
        """What `to_json` gave. Raises BundleError where it cannot be that."""
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
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the thresholds are damaged: {error!r}") from error


def clopper_pearson_lower(hits: int, n: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided lower bound of a share of which `hits` of `n` were seen; 0.0 for none.

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
    confidence: float = CONFIDENCE,
) -> Thresholds:
    """The lowest thresholds that keep the promise of `target_precision`.

    `scores`: top scores (n,), calibrated or not; `predicted` and `truth`: int indices (n,) into
    `labels`, of images that the model was not trained on. A threshold accepts the scores that are
    equal to it too; compare scores of the same dtype. Raises ConfigError for a target or a
    confidence that is not between 0 and 1, both excluded: no number of images proves 1.
    """
    for name, value in (("target precision", target_precision), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"a {name} of {value} cannot be shown: give one between 0 and 1")
    correct = np.asarray(predicted) == np.asarray(truth)

    def walk(images: Array) -> tuple[float | None, Evidence]:
        return _walk(scores[images], correct[images], target_precision, confidence)

    own = {label: walk(predicted == i) for i, label in enumerate(labels)}
    left = [i for i, (threshold, _) in enumerate(own.values()) if threshold is None]
    pooled, pooled_evidence = walk(np.isin(predicted, left))
    return Thresholds(
        target=target_precision,
        confidence=confidence,
        per_label={label: threshold for label, (threshold, _) in own.items()},
        pooled=pooled,
        evidence={label: evidence for label, (_, evidence) in own.items()},
        pooled_evidence=pooled_evidence,
    )


def decide(scores: Array, predicted: Array, thresholds: Thresholds) -> Array:
    """ "accepted", "below_threshold" or "no_threshold" for each image, an array of str (n,).

    A label without a threshold of its own has the pool's, if there is one. Arguments as of
    `choose_thresholds`.
    """
    each = [
        thresholds.pooled if own is None else own for own in thresholds.per_label.values()
    ]  # None becomes NaN, which no score reaches
    least = np.array(each, np.float64)[predicted]
    reached = np.asarray(scores, np.float64) >= least
    return np.where(np.isnan(least), NONE, np.where(reached, ACCEPTED, BELOW))


def coverage_curve(
    scores: Array, correct: Array, confidence: float = CONFIDENCE, points: int = 200
) -> list[dict[str, float]]:
    """What accepting from a threshold on would give, as at most `points` rows of a plot.

    `scores`: top scores (n,); `correct`: bool (n,). From the highest threshold down: `threshold`,
    the share of images accepted as `coverage`, their `precision` and its one-sided `lower` bound,
    each row's by itself: a threshold picked off this curve promises less than one of
    `choose_thresholds`. The first row and the last, which accepts everything, are always there.
    """
    values, accepted, hits = _prefixes(scores, correct)
    if len(values) > points:
        chosen = np.unique(np.linspace(0, len(values) - 1, points).round().astype(np.int64))
        values, accepted, hits = values[chosen], accepted[chosen], hits[chosen]
    lower = _lower(hits, accepted, confidence)
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
    """How many images have to be accepted for the bound to reach the target in spite of `errors`.

    >>> [least_images(0.95, errors) for errors in (0, 1, 2)], least_images(0.99)
    ([59, 93, 124], 299)
    """
    low = high = errors
    # Doubling, then halving: the bound rises with n where the errors stay the same.
    while clopper_pearson_lower(high - errors, high, confidence) < target:
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = clopper_pearson_lower(middle - errors, middle, confidence) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def _walk(
    scores: Array, correct: Array, target: float, confidence: float
) -> tuple[float | None, Evidence]:
    images = len(scores)
    values, accepted, hits = _prefixes(scores, correct)
    first, second = (least_images(target, errors, confidence) for errors in (0, 1))
    looks = np.flatnonzero(accepted >= first)
    if images >= second:
        looks = looks[(accepted[looks] >= second) | (looks == looks[0])]
    lower = _lower(hits[looks], accepted[looks], confidence)
    passed = np.logical_and.accumulate(lower >= target).sum()
    if not passed:
        return None, Evidence(images, 0, 0, None)
    at, bound = looks[passed - 1], float(lower[passed - 1])
    n = int(accepted[at])
    return float(values[at]), Evidence(images, n, n - int(hits[at]), bound)


def _prefixes(scores: Array, correct: Array) -> tuple[Array, Array, Array]:
    """Distinct scores from the top, how many images reach each, and how many of those are right."""
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
