"""Out-of-distribution scores: images that show none of the labels the model was trained on.

Softmax scores always sum to 1 over the known labels, so a model of monkeys calls an elephant a
monkey. The outlier score adds two distances between L2-normalised features, which together separate
better than either alone or the top softmax score:

- to the nearest class mean: the Mahalanobis distance with one shrunk covariance (Lee et al. 2018)
  in the discriminant directions only (the idea of Ren et al. 2021). It detects what lies between
  the labels, such as another species of the same family;
- to the nearest training images (Sun et al., "Out-of-Distribution Detection with Deep Nearest
  Neighbors", ICML 2022). It detects what is unlike all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from monkeyray.arrays import Array

NEIGHBOURS = 5
#: Size limit of the training features kept.
BANK_BYTES = 7_000_000
#: Discriminant directions kept, those with the largest eigenvalues.
MOST_DIRECTIONS = 100
#: Images drawn at random to estimate the covariance.
MOST_IMAGES = 20_000

#: Images out of fold that suffice for the scale: of a fold with twice as many an even selection is
#: measured, and further folds are not.
ENOUGH_MEASURED = 5_000

_ROWS = 2048

#: The arrays used for any number of views, and the prefix of those for one number.
_SHARED, _WEIGHTS = ("bank", "directions", "means"), "weights-"


@dataclass(frozen=True)
class OutlierModel:
    """What the score is computed from, all float32, for features of `width`.

    `bank`: (m, width), L2-normalised features of training images; `directions`: (width, c);
    `means`: (labels, c), class means in these directions; `weights`: by the number of views that
    features are averaged over, (3,): of the squared distance to the mean, of the distance to the
    neighbours, and a constant. With fewer views features lie farther from the means.
    """

    bank: Array
    directions: Array
    means: Array
    weights: Mapping[int, Array]

    def score(self, features: Array, views: int) -> Array:
        """Outlier scores, float32 (n,), of features (n, width), each the mean over `views` views.

        0 is the median of images with known labels that the model was not fitted on, 1 their 95th
        percentile; there is no upper bound. Training images score too low, as they are their own
        neighbours. `views` must be in `weights`.
        """
        parts = [
            np.stack(_distances(self, features[start : start + _ROWS]))
            for start in range(0, len(features), _ROWS)
        ]
        to_mean, to_bank = np.concatenate([np.empty((2, 0)), *parts], axis=1)
        a, b, c = self.weights[views].astype(np.float64)
        return np.asarray(a * to_mean + b * to_bank + c, np.float32)

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, for a safetensors file; the weights for two views are `weights-2`."""
        scales = {f"{_WEIGHTS}{views}": array for views, array in self.weights.items()}
        return {name: getattr(self, name) for name in _SHARED} | scales

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> OutlierModel:
        """The inverse of `to_arrays`. Raises ValueError for missing, odd or ill-fitting arrays."""
        try:
            bank, directions, means = (arrays[name] for name in _SHARED)
        except KeyError as error:
            raise ValueError(f"no array {error}") from error
        weights = {}
        for name, array in arrays.items():
            if name not in _SHARED:
                if not re.fullmatch(f"{_WEIGHTS}[1-9]", name):
                    raise ValueError(f"unexpected array {name!r}")
                weights[int(name.removeprefix(_WEIGHTS))] = array
        for name, array in arrays.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite float32, and is {array.dtype}")
        shapes = {name: array.shape for name, array in arrays.items()}
        fits = [array.ndim for array in (bank, directions, means)] == [2, 2, 2] and (
            bank.shape[1] == directions.shape[0]
            and directions.shape[1] == means.shape[1]
            and {array.shape for array in weights.values()} == {(3,)}
            and min(len(bank), len(means)) > 0
        )
        if not fits:
            raise ValueError(f"the shapes {shapes} do not fit")
        return cls(bank, directions, means, weights)


def fit_outliers(
    features: Mapping[int, Array],
    truth: Array,
    fold: Array,
    second: Array | None = None,
    images: Array | None = None,
    *,
    seed: int = 0,
) -> OutlierModel:
    """Fit the distances on all images, and their scale out of fold: each image is measured by a
    model of the other folds.

    `features`: by the number of views averaged over, (n, width); `truth`: int label indices (n,);
    `fold`: the fold of each image from 0, int (n,), negative for none; `second`: another one whose
    images are measured by a model without it, None for none; `images`: indices of those to use,
    None for all. `seed` draws the images kept, equally many of each label. Raises ValueError for
    fewer than two images, or none in a fold.
    """
    most = features[max(features)]
    if images is None:
        images = np.arange(len(most))
    its_fold = fold[images]
    its_second = np.full(len(images), -1) if second is None else second[images]
    measured = int((its_fold >= 0).sum())
    if len(images) < 2 or not measured:
        raise ValueError(
            f"{len(images)} images, {measured} of them in folds: an outlier model needs at least "
            "two images, one of them in a fold"
        )
    distances: dict[int, list[Array]] = {views: [] for views in features}
    for number in np.unique(its_fold[its_fold >= 0]):
        if sum(each.shape[1] for each in distances[max(features)]) >= ENOUGH_MEASURED:
            break
        model = _fit(most, images[(its_fold != number) & (its_second != number)], truth, seed)
        held = images[its_fold == number]
        held = held[:: max(1, len(held) // ENOUGH_MEASURED)]
        for views, each in features.items():
            for start in range(0, len(held), _ROWS):
                some = each[held[start : start + _ROWS]]
                distances[views].append(np.stack(_distances(model, some)))
    scales = {views: _scale(np.concatenate(each, axis=1)) for views, each in distances.items()}
    return replace(_fit(most, images, truth, seed), weights=scales)


def _fit(features: Array, images: Array, truth: Array, seed: int) -> OutlierModel:
    """Fit a model on some images, given by index, without its scale."""
    used = images[_balanced(truth[images], seed)[:MOST_IMAGES]]
    vectors = _unit(features[used])
    directions, means = _discriminants(vectors, truth[used])
    room = max(NEIGHBOURS, BANK_BYTES // (4 * features.shape[1]))
    return OutlierModel(
        bank=vectors[:room].astype(np.float32),
        directions=directions.astype(np.float32),
        means=means.astype(np.float32),
        weights={},
    )


def _scale(distances: Array) -> Array:
    """The weights that map the median of these distances, (2, n), to a score of 0, and their 95th
    percentile to 1."""
    spread = [_spread(row) for row in distances]
    total = sum(row / one for row, one in zip(distances, spread, strict=True))
    scale = _spread(total)
    weights = [1 / (spread[0] * scale), 1 / (spread[1] * scale), -np.median(total) / scale]
    return np.array(weights, np.float32)


def _distances(model: OutlierModel, features: Array) -> tuple[Array, Array]:
    """The squared distance to the nearest mean, the mean one to the neighbours; both (n,)."""
    vectors = _unit(features).astype(np.float32)
    # |a - b|^2 by its three terms, since SciPy would slow the start of each worker.
    places, means = (vectors @ model.directions).astype(np.float64), model.means.astype(np.float64)
    squares = (places**2).sum(axis=1)[:, None] - 2 * places @ means.T + (means**2).sum(axis=1)
    to_mean = np.maximum(squares.min(axis=1), 0.0)
    likeness = vectors @ model.bank.T
    k = min(NEIGHBOURS, len(model.bank))
    nearest = np.partition(likeness, len(model.bank) - k, axis=1)[:, -k:]
    return to_mean, 1 - nearest.mean(axis=1, dtype=np.float64)


def _discriminants(vectors: Array, truth: Array) -> tuple[Array, Array]:
    """Fisher's discriminants with unit variance within labels, and the class means in them."""
    _, index = np.unique(truth, return_inverse=True)
    means = np.stack([vectors[index == i].mean(axis=0) for i in range(index.max() + 1)])
    covariance = _shrunk_covariance(vectors - means[index])
    covariance += np.eye(len(covariance)) * (1e-9 + 1e-6 * np.trace(covariance) / len(covariance))
    apart = means - means.mean(axis=0)
    towards = np.linalg.solve(covariance, apart.T)
    values, rotation = np.linalg.eigh(apart @ towards)
    kept = np.flatnonzero(values > 1e-6 * values.max())[-MOST_DIRECTIONS:]
    directions = towards @ rotation[:, kept] / np.sqrt(values[kept])
    return directions, means @ directions


def _shrunk_covariance(centred: Array) -> Array:
    """The covariance of centred vectors (n, width) after Ledoit and Wolf (J. Multivariate Analysis
    88, 2004), float64 (width, width). Often there are fewer images than dimensions; shrinkage makes
    the matrix invertible.

    It agrees with scikit-learn's, which takes nine times as long: that one adds up the products of
    all pairs of squared features, whose sum is the square of the sum of each image's.
    """
    images, width = centred.shape
    covariance = centred.T @ centred / images
    mean = np.trace(covariance) / width
    square = (covariance**2).sum()
    apart = square - width * mean**2
    noise = (((centred**2).sum(axis=1) ** 2).mean() - square) / images
    share = min(noise, apart) / apart if noise > 0 else 0.0
    return np.asarray((1 - share) * covariance + share * mean * np.eye(width))


def _balanced(truth: Array, seed: int) -> Array:
    """All images, in an order whose every prefix has about equally many of each label."""
    shuffled = np.random.default_rng(seed).permutation(len(truth))
    place = np.empty(len(truth), np.int64)
    for label in np.unique(truth):
        its = shuffled[truth[shuffled] == label]
        place[its] = np.arange(len(its))
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def _unit(features: Array) -> Array:
    exact = np.asarray(features, np.float64)
    return np.asarray(exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12))


def _spread(values: Array) -> float:
    middle, high = np.percentile(values, [50, 95])
    # Equal values, such as a single one, need a scale too.
    return float(max(high - middle, 1e-3 * abs(middle), 1e-6))
