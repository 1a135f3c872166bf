"""The figures of an evaluation, from scores alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.arrays import Array
from monkeyray.model.known_images import describe_known_images
from monkeyray.scoring.evaluation.evaluate import Evaluation
from monkeyray.scoring.evaluation.labelled import some
from monkeyray.scoring.evaluation.measure import (
    LabelledPredictions,
    likely_label_errors,
    measure,
    measure_new,
    measure_unknown,
)
from monkeyray.statistics.calibration import calibrate
from monkeyray.statistics.metrics import classification_metrics, cross_entropy, softmax

LABELS = ["a", "b", "c", "d"]


def answers(
    seed: int = 0, images: int = 60, listed: int = 4, decisions: Any = None
) -> tuple[LabelledPredictions, Array]:
    """Scores of a model that is mostly right, and the logits that they came from."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, images)
    logits = rng.normal(size=(images, 4)) + 3 * np.eye(4)[truth]
    probabilities = softmax(logits).astype(np.float32)
    smallest = np.argsort(-probabilities, axis=1)[:, listed:]
    np.put_along_axis(probabilities, smallest, 0, axis=1)
    return LabelledPredictions(
        labels=LABELS,
        uris=np.array([f"s3://photos/{i}.jpg" for i in range(images)], dtype=object),
        given=np.array(LABELS, dtype=object)[truth],
        probabilities=probabilities,
        listed=listed,
        decisions=decisions,
        outliers=np.linspace(-1, 2, images).astype(np.float32),
    ), logits


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 80))
def test_all_scores_agree_with_their_logits(seed: int, images: int) -> None:
    each, logits = answers(seed, images)
    found, expected = measure(each, None), classification_metrics(logits, each.truth(), LABELS)
    assert found["loss"] == pytest.approx(cross_entropy(logits, each.truth()), abs=1e-5)
    for name, value in expected.items():
        if name != "loss":
            assert found[name] == value, name
    after = calibrate(logits, each.truth(), 1.0)["after"]
    assert found["calibration"]["ece"] == pytest.approx(after["ece"], abs=1e-5)
    assert found["calibration"]["ece_interval"] == pytest.approx(after["ece_interval"], abs=1e-5)
    assert found["coverage"][-1]["precision"] == pytest.approx(expected["accuracy"])
    json.dumps(found, allow_nan=False)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_some_scores_give_what_can_be_told_from_them(seed: int, listed: int) -> None:
    (all_scores, _), (some_scores, _) = answers(seed), answers(seed, listed=listed)
    full, part = measure(all_scores, None), measure(some_scores, None)
    assert part["loss"] is None
    assert set(part["top_k_accuracy"]) == {str(k) for k in (2, 3) if k <= listed}
    for k, share in part["top_k_accuracy"].items():
        assert share == full["top_k_accuracy"][k]
    for name in set(full) - {"loss", "top_k_accuracy"}:
        # The ECE too: the scores that are there are not made to sum to 1.
        assert part[name] == full[name], name


def test_labels_that_only_seem_to_be_all() -> None:
    each, _ = answers(listed=2)
    # Two labels are all that the rows name, and their scores do not sum to 1.
    two = each.only(np.isin(each.given, ["a", "b"]))
    rows = LabelledPredictions(
        LABELS[:2], two.uris, two.given, two.probabilities[:, :2], 2, None, two.outliers
    )
    assert measure(rows, None)["loss"] is None


def test_thresholds_are_held_against_their_promise() -> None:
    each, _ = answers(decisions=np.array(["accepted", "no_threshold", "below_threshold"] * 20))
    found = measure(each, 0.95)["thresholds"]
    right = each.probabilities.argmax(axis=1) == each.truth()
    assert found["target"] == 0.95
    assert (found["images"], found["accepted"], found["coverage"]) == (60, 20, 1 / 3)
    assert found["precision"] == right[::3].mean()
    low, high = found["precision_interval"]
    assert low <= found["precision"] <= high
    nobody = each.only(np.arange(60) % 3 > 0)
    assert measure(nobody, 0.95)["thresholds"]["precision"] is None
    assert measure(answers()[0], None)["thresholds"] is None


def test_unknown_labels_are_counted_separately() -> None:
    each, _ = answers(decisions=np.array(["accepted", "below_threshold"] * 30))
    each.given[:3] = ["x", "y", "x"]
    assert each.known().tolist() == [False] * 3 + [True] * 57
    assert measure_unknown(each.only(~each.known())) == {
        "images": 3,
        "labels": {"x": 2, "y": 1},
        "above_1": 0.0,
        "accepted": 2,
    }
    assert measure_unknown(each.only(np.zeros(60, bool))) is None
    each = answers()[0].only(np.array([58, 59]))
    assert measure_unknown(each) == {
        "images": 2,
        "labels": dict.fromkeys(each.given, 1),
        "above_1": 1.0,
        "accepted": None,
    }


@pytest.mark.parametrize("listed", [4, 1])
def test_planted_label_errors_come_first(listed: int) -> None:
    each, _ = answers(images=400, listed=listed)
    wrong = np.arange(0, 400, 40)
    each.given[wrong] = [LABELS[(LABELS.index(label) + 1) % 4] for label in each.given[wrong]]
    found = likely_label_errors(each)
    uris = [row["uri"] for row in found]
    assert {*each.uris[wrong]} <= {*uris}
    assert len({*each.uris[wrong]} & {*uris[:40]}) >= 7
    assert all(row["given"] != row["suggested"] for row in found)
    assert likely_label_errors(each.only(np.zeros(400, bool))) == []


def test_the_summary_names_what_a_person_wants_first() -> None:
    each, _ = answers(decisions=np.array(["accepted", "below_threshold"] * 30))
    each.given[:3] = ["x", "y", "x"]
    known = each.only(each.known())
    content: dict[str, Any] = {
        "data": {
            "labelled": 63,
            "scored": 60,
            "failures": {"empty": 3},
            "opened": 7,
            "skipped_files": {},
        },
        "unknown_labels": measure_unknown(each.only(~each.known())),
        "seen": describe_known_images(None, [], 0.0),
        "metrics": measure(known, 0.9),
        "metrics_without_seen": measure_new(known, 0.9),
        "findings": {"contradictions": [], "label_errors": likely_label_errors(known)},
    }
    assert "cameras" not in str(Evaluation("out", content))
    sites = np.array([f"site {i}" for i in range(12)], dtype=object)[
        np.arange(len(known.uris)) % 12
    ]
    known = replace(known, locations=sites, at_seen=np.arange(len(known.uris)) % 12 < 3)
    content["metrics"] = metrics = measure(known, 0.9)
    text = str(Evaluation("out", content))
    assert f"unseen cameras: accuracy {metrics['cameras']['unseen']['accuracy']:.4f} (" in text
    assert "seen cameras" in text
    assert "(no interval from fewer than 5 cameras)" in text
    first = metrics["cameras"]["by_location"][0]
    assert f"most errors first\n{first['location']:<7} " in text
    assert "and 4 more in metrics.json" in text
    assert "63 labelled images, 60 scored\n          3 empty\n" in text
    assert "7 images opened, features of 56 from the cache" in text
    assert "left out, with labels that the model does not know: x (2), y (1)" in text
    assert "have an outlier score above 1; accepted nevertheless: 2" in text
    assert f"accuracy {metrics['accuracy']:.4f} [" in text
    assert "the thresholds for 0.9 accept 49.1%" in text
    assert "whether the model was trained on any of the images is unknown" in text
    assert all(f"\n{label:<5} " in text for label in LABELS)
    first = content["findings"]["label_errors"][0]
    assert f"{first['uri']}: labelled {first['given']}, probably {first['suggested']}" in text
    assert some([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


@pytest.mark.parametrize(
    ("seen", "compared", "words"),
    [
        ([""] * 4, 1.0, ["the model was trained on none of the images"]),
        ([""] * 4, 0.0, ["none of the images (compared as files, not as pictures)"]),
        ([""] * 4, 0.25, ["none of the images (pictures compared with 25.0% of its"]),
        (["", "near", "identical", ""], 1.0,
         ["WARNING: the model was trained on 30 of these images, or on the same pictures: "
          "s3://photos/1.jpg, s3://photos/2.jpg, ", "without them: accuracy ", " on 30 images"]),
        (["near"] * 4, 1.0, ["trained on 60 of these", "there are no others, so the"]),
    ],
)  # fmt: skip
def test_images_that_were_trained_on_are_left_out(
    seen: list[str], compared: float, words: list[str]
) -> None:
    each, _ = answers()
    each = replace(each, seen=np.array(seen * 15, dtype=object))
    rest = measure_new(each, None)
    content: dict[str, Any] = {
        "data": {"labelled": 60, "scored": 60, "failures": {}},
        "unknown_labels": None,
        "seen": describe_known_images(each.seen, each.uris.tolist(), compared),
        "metrics": measure(each, None),
        "metrics_without_seen": rest,
        "findings": {"contradictions": [], "label_errors": []},
    }
    text = str(Evaluation("out", content))
    for each_word in words:
        assert each_word in text
    if len(set(seen)) > 1:
        assert each.seen is not None
        assert rest == measure(each.only(np.flatnonzero(each.seen == "")), None)
    else:
        assert rest is None
