"""What none of the labels shows scores higher, on the scale that is promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.arrays import Array
from monkeyray.statistics import outliers
from monkeyray.statistics.outliers import BANK_BYTES, OutlierModel, fit_outliers

WIDTH = 48


def _images(n: int, labels: list[int], seed: int) -> tuple[Array, Array]:
    """Features like a network's: not negative, each label around a mean of its own."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).gamma(1.0, 1.0, (12, WIDTH))
    truth = np.array(labels)[rng.integers(0, len(labels), n)]
    return np.maximum(means[truth] + rng.normal(0, 0.6, (n, WIDTH)), 0).astype(np.float32), truth


@pytest.fixture(scope="module")
def model() -> OutlierModel:
    """Of labels 0 to 7; 8 to 11 are unknown to it."""
    features, truth = _images(600, list(range(8)), 0)
    return fit_outliers({1: _blurred(features), 2: features}, truth, np.arange(600) % 5)


def _blurred(features: Array) -> Array:
    """As one view of what the mean of two shows: farther from it, each in its own way."""
    rng = np.random.default_rng(11)
    return (features + rng.normal(0, 0.5, features.shape)).clip(0).astype(np.float32)


def test_scale(model: OutlierModel) -> None:
    fresh = model.score(_images(4000, list(range(8)), 2)[0], 2)
    assert fresh.dtype == np.float32
    assert np.median(fresh) == pytest.approx(0, abs=0.1)
    assert 0.02 < np.mean(fresh > 1) < 0.1


def test_scale_depends_on_the_number_of_views(model: OutlierModel) -> None:
    fresh = _images(4000, list(range(8)), 2)[0]
    assert 0.02 < np.mean(model.score(_blurred(fresh), 1) > 1) < 0.1
    # On the scale of two views, one would make outliers of what is none.
    assert np.mean(model.score(_blurred(fresh), 2) > 1) > 0.2


def test_unknown_labels_score_higher(model: OutlierModel) -> None:
    from sklearn.metrics import roc_auc_score

    known, unknown = (
        model.score(_images(500, labels, 3)[0], 2) for labels in ([0, 3, 7], [8, 9, 10, 11])
    )
    scores = np.concatenate([known, unknown])
    assert roc_auc_score(np.arange(len(scores)) >= len(known), scores) > 0.97
    noise = np.random.default_rng(4).uniform(0, 3, (200, WIDTH))
    assert np.mean(model.score(noise, 2) > 1) > 0.95


def test_both_distances_count(model: OutlierModel) -> None:
    between = (model.bank[0] + model.bank[1:9]).astype(np.float32)  # a mixture of two images
    assert np.all(np.isfinite(model.score(between, 2)))
    assert np.all(model.weights[2][:2] > 0)
    # what differs in a direction in which no two labels do is seen by the neighbours alone
    basis, _ = np.linalg.qr(model.directions)
    away = np.random.default_rng(5).normal(0, 1, WIDTH)
    away -= basis @ (basis.T @ away)
    features, _ = _images(50, list(range(8)), 6)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    moved = features + norms * away / np.linalg.norm(away)
    assert np.median(model.score(moved, 2)) > np.median(model.score(features, 2)) + 1


def test_scores_do_not_depend_on_the_batch_or_on_the_brightness(model: OutlierModel) -> None:
    features, _ = _images(50, list(range(12)), 7)
    whole = model.score(features, 2)
    one_by_one = np.concatenate([model.score(features[i : i + 1], 2) for i in range(50)])
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.score(features * 7, 2), whole, rtol=1e-4, atol=1e-4)
    assert model.score(features[:0], 2).shape == (0,)
    many = np.concatenate([features] * 50)  # more than are computed at once
    np.testing.assert_allclose(model.score(many, 2), np.tile(whole, 50), rtol=1e-4, atol=1e-4)


def test_arrays_make_the_same_model(model: OutlierModel) -> None:
    from safetensors.numpy import load, save

    arrays = model.to_arrays()
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    again = OutlierModel.from_arrays(
        load(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))
    )
    features, _ = _images(20, [0, 9], 8)
    np.testing.assert_array_equal(again.score(features, 2), model.score(features, 2))


def test_damaged_arrays(model: OutlierModel) -> None:
    arrays = model.to_arrays()
    with pytest.raises(ValueError, match="no array 'means'"):
        OutlierModel.from_arrays({key: arrays[key] for key in ("bank", "directions", "weights-2")})
    for key in arrays:
        with pytest.raises(ValueError, match="do not fit"):
            OutlierModel.from_arrays({**arrays, key: arrays[key][..., :-1]})
        for wrong in (arrays[key].astype(np.float64), arrays[key] * np.float32(np.nan)):
            with pytest.raises(ValueError, match=f"{key} must be finite float32, and is float"):
                OutlierModel.from_arrays({**arrays, key: wrong})
    with pytest.raises(ValueError, match="unexpected array 'weights-x'"):
        OutlierModel.from_arrays({**arrays, "weights-x": arrays["weights-1"]})
    shared = {key: array for key, array in arrays.items() if not key.startswith("weights")}
    with pytest.raises(ValueError, match="do not fit"):
        OutlierModel.from_arrays(shared)


def test_the_bank_is_bounded_and_has_every_label() -> None:
    width = 128
    rng = np.random.default_rng(0)
    room = BANK_BYTES // (4 * width)
    rare = 40
    truth = np.concatenate([np.zeros(room + 500, int), np.ones(rare, int)])
    features = rng.random((len(truth), width)).astype(np.float32)
    features[truth == 1, 0] += 90
    model = fit_outliers({1: features}, truth, np.arange(len(truth)) % 5)
    assert model.bank.shape == (room, width)
    assert model.bank.nbytes <= BANK_BYTES
    assert (model.bank[:, 0] > 0.8).sum() >= rare
    np.testing.assert_allclose(np.linalg.norm(model.bank[:100], axis=1), 1, rtol=1e-5)


def test_enough_images_give_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    features, truth = _images(600, list(range(8)), 0)
    fold = np.arange(600) % 5
    wanted = fit_outliers({1: features}, truth, np.where(fold == 0, 0, -1))
    monkeypatch.setattr(outliers, "ENOUGH_MEASURED", 100)
    found = fit_outliers({1: features}, truth, fold)
    np.testing.assert_array_equal(found.weights[1], wanted.weights[1])
    # Of a fold with more, every second image is measured, by a model without any of the fold.
    monkeypatch.setattr(outliers, "ENOUGH_MEASURED", 60)
    found = fit_outliers({1: features}, truth, fold)
    its, others = (np.where(np.arange(600) % 10 == rest, 0, -1) for rest in (0, 5))
    wanted = fit_outliers({1: features}, truth, its, others)
    np.testing.assert_array_equal(found.weights[1], wanted.weights[1])


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 100))
def test_few_images_still_make_a_model(images: int, labels: int, held: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.random((images, 6))
    truth = rng.integers(0, labels, images) * 3
    model = fit_outliers({1: features}, truth, np.arange(images) % (held + 1) - 1, seed=seed)
    assert OutlierModel.from_arrays(model.to_arrays()) is not None
    scores = model.score(np.concatenate([features, np.zeros((1, 6))]), 1)
    assert scores.shape == (images + 1,)
    assert np.all(np.isfinite(scores))


def test_too_few_images_give_no_model() -> None:
    features, truth = _images(10, [0, 1], 0)
    with pytest.raises(ValueError, match="10 images, 0 of them in folds"):
        fit_outliers({1: features}, truth, np.full(10, -1))
    with pytest.raises(ValueError, match="1 images, 1 of them in folds"):
        fit_outliers({1: features[:1]}, truth[:1], np.zeros(1, int))


@pytest.mark.parametrize("images", [2, 30, 500])
def test_the_covariance_is_shrunk_as_by_scikit_learn(images: int) -> None:
    from sklearn.covariance import ledoit_wolf

    random = np.random.default_rng(images)
    vectors = random.normal(size=(images, WIDTH)) * random.gamma(1.0, 1.0, WIDTH)
    vectors -= vectors.mean(axis=0)
    expected, share = ledoit_wolf(vectors, assume_centered=True)
    assert 0 < share <= 1
    np.testing.assert_allclose(outliers._shrunk_covariance(vectors), expected, atol=1e-12)
    # Equal vectors have no covariance.
    assert not outliers._shrunk_covariance(np.zeros((images, 3))).any()
