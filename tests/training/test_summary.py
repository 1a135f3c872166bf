"""The summary of a training."""

from __future__ import annotations

import re

from monkeyray.training.summary import Trained
from tests.support.report_data import full_model


def summary(int8: dict[str, object] | None = None, *, cameras: bool = True, **data: object) -> str:
    model = full_model()
    if not cameras:
        for name in ("estimate", "test"):
            model["metrics"][name]["cameras"] = None
    if int8 is None:
        model["metrics"]["int8"] = None
    else:
        model["metrics"]["int8"] |= int8
    model["metrics"] |= {"search": None, "fine_tuning": None, "thresholds": None}
    model["data"] |= data
    seconds = {"start": 1.0, "training": 1.0, "head": 1.0, "features": 1.0}
    return repr(Trained("m", model, 0, seconds))


def test_labels_with_few_images_are_named_with_what_they_lack() -> None:
    rows = [
        {"label": "a", "train": 3, "groups": 1, "test": 1},
        {"label": "b", "train": 90, "groups": 4, "test": None},
        {"label": "c", "train": 80, "groups": 70, "test": 0},
    ]
    text = summary(rare_labels=rows)
    assert (
        "labels with few images: a (3 to train on, all of one picture or group, so it cannot be "
        "measured), b (90 to train on, in 4 pictures or groups), c (80 to train on, no test "
        "image); add images, or" in text
    )
    assert "few images" not in summary(rare_labels=[])


def test_figures_name_their_head() -> None:
    text = summary()
    assert "The test figures are of the published head." in text
    assert "test accuracy 0." in text
    assert re.search(r"out-of-fold accuracy 0\.\d+ on 600 images\n  at unseen cameras", text)
    assert re.search(
        r"out-of-fold accuracy 0\.\d+ \(0\.\d+ to 0\.\d+ with 95% conf.*\) on 600 im",
        summary(cameras=False),
    )
    assert "3 test images also among the training images" in summary(leaks=3)


def test_cameras_seen_and_unseen_are_told_apart() -> None:
    text = summary()
    assert re.search(
        r"\n  at unseen cameras: accuracy 0\.\d+ \(0\.\d+ to 0\.\d+ with 95% confidence, counting "
        r"cameras\) on 300 images of 12 cameras\n  at seen cameras: accuracy 0\.",
        text,
    )
    assert "no interval from fewer than 5 cameras" in text  # of the test split
    assert "not tested at an unseen camera, at fewer than 3 locations: n2 (2)\n" in text
    assert "not tested either, of no known location: 7 images" in text
    assert "folds are not made of locations" not in text
    text = summary(locations=None, not_by_location="there is one")
    assert "folds are not made of locations: there is one\n" in text


def test_learning_curve_is_summarised() -> None:
    assert "accuracy would rise by about 1.4 percentage points" in summary()


def test_int8_is_compared_with_float32() -> None:
    line = "int8: 10.6 times as fast as float32"
    assert f"{line}, accuracy 0.9690, the same label for 99.38% of 161 im" in summary({})
    assert f"{line}\n" in summary({"images": 0})
    assert "int8" not in summary()
