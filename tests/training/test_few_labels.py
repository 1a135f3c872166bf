"""From the features of very few images: heads, figures and JSON, whatever the counts."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from monkeyray.statistics.splits import Folds, fold_images
from monkeyray.training.assess import OUT_OF_FOLD, assess, learning_curve
from monkeyray.training.dataset import Dataset
from monkeyray.training.fitting.distributed import below
from monkeyray.training.fitting.head import head_training
from monkeyray.training.fitting.worker import Worker
from monkeyray.training.options import TrainConfig


@pytest.mark.parametrize(
    ("counts", "folds", "measured"),
    [
        ([1, 2], 2, 2),  # the label with a single image cannot be measured
        ([3, 1, 1, 1], 3, 3),
        ([2, 2], 4, 4),
        ([1, 9, 30], 5, 39),
        ([5, 5, 5, 5], 5, 20),
    ],
)
def test_few_images_can_be_measured(counts: list[int], folds: int, measured: int) -> None:
    truth = np.repeat(np.arange(len(counts)), counts)
    images, labels = len(truth), [str(label) for label in range(len(counts))]
    noise = np.random.default_rng(0).normal(size=(images, 1, 16))
    vectors = (noise + 2 * np.eye(16)[truth][:, None]).astype(np.float32)
    each, none = np.arange(images), np.zeros(images, bool)
    fold = fold_images(truth.astype(str).tolist(), each, none, 5, 0)
    data = Dataset(
        images=pa.table({}), uris=each.astype(str), table=pa.table({}), vectors=vectors,
        thumbnails=np.empty((images, 32, 32)), labels=labels, folds=Folds(truth, fold),
        pictures=each, groups=each, test=none, leaked=none, locations=None, sequences=each,
        contradictions=[], data={},
    )  # fmt: skip
    assert data.folds.count == folds
    config = TrainConfig(images="i", model="m")
    _, weights = head_training(config, data.folds, vectors.mean(axis=1), len(labels))(Worker())
    *fold_heads, head = (below(weights, str(number)) for number in range(folds + 1))
    found = assess(data, vectors, head, dict(enumerate(fold_heads)), OUT_OF_FOLD, 0.9)
    metrics = json.loads(json.dumps(found.metrics, allow_nan=False))
    assert metrics["estimate"]["images"] == found.unseen.sum() == measured
    assert 0.05 <= found.calibration["1"]["temperature"] <= 20
    assert np.isfinite(found.outliers.score(vectors.mean(axis=1), 1)).all()
    assert learning_curve(data, weights, dict(enumerate(fold_heads))) is None
