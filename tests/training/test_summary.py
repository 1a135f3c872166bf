"""What a training says it did."""

from __future__ import annotations

from monkeyray.training.summary import Trained
from tests.support.report_data import full_model


def summary(int8: dict[str, object] | None = None, **data: object) -> str:
    model = full_model()
    if int8 is None:
        model["metrics"]["int8"] = None
    else:
        model["metrics"]["int8"] |= int8
    model["metrics"] |= {"search": None, "fine_tuning": None, "folds": None, "thresholds": None}
    model["data"] |= data
    seconds = {"ray": 1.0, "training": 1.0, "head": 1.0, "features": 1.0}
    return repr(Trained("m", model, 0, seconds))


def test_labels_with_few_images_are_named_with_the_parts_that_lack_them() -> None:
    rows = [
        {"label": "a", "train": 3, "validation": 1, "test": 1},
        {"label": "b", "train": 90, "validation": 0, "test": 0},
        {"label": "c", "train": 80, "validation": 5, "test": 0},
    ]
    text = summary(rare_labels=rows)
    assert (
        "labels with few images: a (3 to train on), b (90 to train on, no validation or test image)"
        ", c (80 to train on, no test image); add images, or" in text
    )
    assert "few images" not in summary(rare_labels=[])


def test_copies_in_validation_are_told() -> None:
    assert "4 validation images are in train too" in summary(validation_leaks=4)
    assert "also in" not in summary(validation_leaks=0)


def test_int8_is_compared_with_float32() -> None:
    line = "int8: 10.6 times as fast as float32"
    assert f"{line}, test accuracy 0.9690, the same label for 99.38% of 161 test" in summary({})
    assert f"{line}\n" in summary({"images": 0})
    assert "int8" not in summary()
