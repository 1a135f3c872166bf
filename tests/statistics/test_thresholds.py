"""Thresholds keep their promise: bounds by the book, walks by hand, and the promise by drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.statistics.thresholds import (
    Thresholds,
    choose_thresholds,
    clopper_pearson_lower,
    coverage_curve,
    decide,
    least_images,
)


def _one(
    correct: list[bool], target: float = 0.95, scores: list[float] | None = None
) -> Thresholds:
    """Thresholds of one label whose images come from the surest down."""
    n = len(correct)
    values = np.array(scores) if scores else np.linspace(1, 0.5, n)
    truth = np.where(correct, 0, 1)
    return choose_thresholds(values, np.zeros(n, int), truth, ["a", "b"], target)


def test_lower_bound_by_the_book() -> None:
    # without an error it is the root of alpha; 8 of 10: Clopper and Pearson's two-sided 90%
    assert clopper_pearson_lower(20, 20) == pytest.approx(0.05 ** (1 / 20))
    assert clopper_pearson_lower(8, 10) == pytest.approx(0.4931, abs=1e-4)
    assert clopper_pearson_lower(0, 10) == clopper_pearson_lower(0, 0) == 0.0
    assert clopper_pearson_lower(58, 58) < 0.95 <= clopper_pearson_lower(59, 59)
    assert clopper_pearson_lower(298, 298) < 0.99 <= clopper_pearson_lower(299, 299)


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_lower_bound_inverts_the_binomial(case: tuple[int, int]) -> None:
    from scipy.stats import binom

    hits, n = case
    bound = clopper_pearson_lower(hits, n)
    assert 0 < bound < hits / n
    # were this the precision, as many hits or more would come in one of twenty
    assert binom.sf(hits - 1, n, bound) == pytest.approx(0.05, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.3, 0.999), st.integers(0, 6), st.floats(0.8, 0.99))
def test_least_images_are_the_least(target: float, errors: int, confidence: float) -> None:
    n = least_images(target, errors, confidence)
    assert clopper_pearson_lower(n - errors, n, confidence) >= target
    assert clopper_pearson_lower(n - 1 - errors, n - 1, confidence) < target


def test_too_few_images_reach_nothing() -> None:
    found = _one([True] * 58)
    assert found.per_label == {"a": None, "b": None}
    assert found.pooled is None
    assert found.evidence["a"].images == 58
    assert (found.evidence["a"].accepted, found.evidence["a"].lower) == (0, None)
    assert _one([True] * 59).per_label["a"] == 0.5
    assert _one([True] * 298, 0.99).per_label["a"] is None
    assert _one([True] * 299, 0.99).per_label["a"] == 0.5


def test_walk_by_hand() -> None:
    # looks at 59 (bears no error), at 93 (one), then at each, of which 124 is the first to bear two
    correct = [i not in (60, 100, 101) for i in range(1, 131)]
    found = _one(correct)
    scores = np.linspace(1, 0.5, 130)
    assert found.per_label["a"] == scores[98]
    evidence = found.evidence["a"]
    assert (evidence.images, evidence.accepted, evidence.errors) == (130, 99, 1)
    assert evidence.lower == pytest.approx(clopper_pearson_lower(98, 99))
    late = _one([i not in (60, 61, 300) for i in range(1, 301)])  # two by 93: the first look stays
    assert (late.evidence["a"].accepted, late.evidence["a"].errors) == (59, 0)


def test_walk_does_not_go_on_after_a_failure() -> None:
    # an error among the first 59 ends it, though all 500 together would do
    correct = [True] * 500
    correct[10] = False
    assert clopper_pearson_lower(499, 500) > 0.95
    found = _one(correct)
    assert found.per_label["a"] is None
    assert found.pooled is None


def test_few_images_are_looked_at_one_by_one() -> None:
    assert _one([True] * 80).evidence["a"].accepted == 80
    assert _one([True] * 70 + [False] + [True] * 21).evidence["a"].accepted == 70


def test_equal_scores_are_accepted_together() -> None:
    scores = [0.9] * 40 + [0.8] * 40 + [0.7] * 10
    assert _one([True] * 90, scores=scores).per_label["a"] == 0.7
    last = _one([True] * 80 + [False] * 10, scores=scores)
    assert (last.per_label["a"], last.evidence["a"].accepted) == (0.8, 80)
    assert _one([True] * 79 + [False] * 11, scores=scores).per_label["a"] is None


def test_labels_without_their_own_threshold_are_pooled() -> None:
    # a: 60 right; b and c: 30 right each, which only together are enough; d: never predicted
    predicted = np.repeat([0, 1, 2], [60, 30, 30])
    scores = np.linspace(0.99, 0.5, 120)
    found = choose_thresholds(scores, predicted, predicted, list("abcd"), 0.95)
    assert found.per_label == {"a": scores[59], "b": None, "c": None, "d": None}
    assert found.pooled == 0.5
    assert (found.pooled_evidence.images, found.pooled_evidence.accepted) == (60, 60)
    decisions = decide(np.array([0.6, 0.99, 0.6, 0.4]), np.array([0, 0, 1, 2]), found)
    assert decisions.tolist() == ["below_threshold", "accepted", "accepted", "below_threshold"]


def test_decisions_without_any_threshold() -> None:
    found = _one([True] * 10)
    assert decide(np.array([1.0]), np.array([0]), found).tolist() == ["no_threshold"]
    assert decide(np.zeros(0), np.zeros(0, int), found).tolist() == []


def test_a_threshold_accepts_its_own_score_after_a_journey_through_json() -> None:
    scores = np.linspace(0.99, 0.5, 70).astype(np.float32)
    first = choose_thresholds(scores, np.zeros(70, int), np.zeros(70, int), ["z", "a"], 0.95)
    text = json.dumps(first.to_json(), allow_nan=False, sort_keys=True)
    again = Thresholds.from_json(json.loads(text))
    assert again == first
    assert list(again.per_label) == ["z", "a"]
    assert set(decide(scores, np.zeros(70, int), again)) == {"accepted"}


def test_invalid_arguments_are_refused() -> None:
    nothing = np.zeros(0)
    for target in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="target precision"):
            choose_thresholds(nothing, nothing, nothing, ["a"], target)
    with pytest.raises(ValueError, match="per_label"):
        Thresholds.from_json({"target": 0.95})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 2), st.booleans()), min_size=0, max_size=300
    ),
    st.sampled_from([0.5, 0.7, 0.9]),
)
def test_acceptance_agrees_with_the_evidence(
    rows: list[tuple[int, int, bool]], target: float
) -> None:
    scores = np.array([score / 20 for score, _, _ in rows])
    predicted = np.array([label for _, label, _ in rows], int)
    correct = np.array([right for _, _, right in rows], bool)
    truth = np.where(correct, predicted, (predicted + 1) % 3)
    found = choose_thresholds(scores, predicted, truth, list("abc"), target)
    decisions = decide(scores, predicted, found)
    own = [i for i, value in enumerate(found.per_label.values()) if value is not None]
    for i in own:
        evidence = found.evidence["abc"[i]]
        taken = (predicted == i) & (decisions == "accepted")
        assert (taken.sum(), (taken & ~correct).sum()) == (evidence.accepted, evidence.errors)
        assert evidence.lower is not None
        assert target <= evidence.lower < 1 - evidence.errors / evidence.accepted + 1e-12
    rest = ~np.isin(predicted, own)
    taken = rest & (decisions == "accepted")
    assert taken.sum() == found.pooled_evidence.accepted
    assert set(decisions[rest]) <= (
        {"no_threshold"} if found.pooled is None else {"accepted", "below_threshold"}
    )


def test_the_promise_holds_on_fresh_data() -> None:
    """Were the target merely met on the data at hand, about every other draw would miss it."""
    rng = np.random.default_rng(0)
    kept = naive = accepted = 0
    draws = 300
    for _ in range(draws):
        scores = 1 - rng.beta(0.5, 3, 1000)  # calibrated: right as often as the score says
        correct = rng.random(1000) < scores
        predicted = np.zeros(1000, int)
        found = choose_thresholds(scores, predicted, (~correct).astype(int), ["a", "b"], 0.95)
        threshold = found.per_label["a"]
        # the precision that fresh images would have, over so many that no chance is left
        fresh = 1 - rng.beta(0.5, 3, 20_000)
        if threshold is None:
            kept += 1
        else:
            accepted += 1
            kept += fresh[fresh >= threshold].mean() >= 0.95
        order = np.argsort(-scores)
        shares = correct[order].cumsum() / np.arange(1, 1001)
        naive += fresh[fresh >= scores[order][np.flatnonzero(shares >= 0.95)[-1]]].mean() >= 0.95
    assert accepted > draws / 2  # it does promise something
    assert kept >= 0.92 * draws  # 0.95 expected at least, less more than two standard errors
    assert naive < 0.7 * draws


def test_coverage_curve_by_hand() -> None:
    rows = coverage_curve(np.array([0.9, 0.7, 0.7, 0.2]), np.array([True, True, False, False]))
    assert [row["threshold"] for row in rows] == [0.9, 0.7, 0.2]
    assert [row["coverage"] for row in rows] == [0.25, 0.75, 1.0]
    assert [row["precision"] for row in rows] == [1.0, 2 / 3, 0.5]
    assert rows[1]["lower"] == pytest.approx(clopper_pearson_lower(2, 3))
    assert coverage_curve(np.zeros(0), np.zeros(0, bool)) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=400))
@settings(deadline=None, max_examples=50)
def test_coverage_curve_is_short_and_whole(images: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in images])
    correct = np.array([right for _, right in images])
    rows = coverage_curve(scores, correct, points=50)
    json.dumps(rows, allow_nan=False)
    assert 1 <= len(rows) <= 50
    assert rows[0]["threshold"] == scores.max()
    assert (rows[-1]["threshold"], rows[-1]["coverage"]) == (scores.min(), 1.0)
    assert rows[-1]["precision"] == pytest.approx(correct.mean())
    coverages = [row["coverage"] for row in rows]
    assert coverages == sorted(set(coverages))
    for row in rows:
        taken = scores >= row["threshold"]
        assert row["coverage"] == pytest.approx(taken.mean())
        assert row["precision"] == pytest.approx(correct[taken].mean())
        assert row["lower"] <= row["precision"]
