"""What a round of review gains: images to label chosen by the rules of --select, and at random.

    MONKEYRAY_PHOTOS=… OMP_NUM_THREADS=1 python -m tests.benchmarks.active --features monkeys10.npz

A linear head on MobileNet's features is trained on a few labels per species. Each rule then chooses
a round of further images, which get their labels, and the head is trained again. All files of a
picture are on one side of the split, and at most one of them is in the pool or in the test split.
Random choices are made several times for each seed and averaged.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from monkeyray.arrays import Array
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import SIDE
from monkeyray.statistics.selection import k_center, squared_distances, unit
from monkeyray.statistics.splits import fold_images
from monkeyray.storage.keys import sha256
from tests.benchmarks.bursts import Embedder

TEST_PARTS = 3


def embed(folder: Path) -> dict[str, Array]:
    """By photograph: features, float32 (n, 1024), the label, and the number of its picture."""
    paths = sorted(folder.glob("n*/*"))
    data = [path.read_bytes() for path in paths]
    features, thumbnails = Embedder()(data)
    pictures = np.frombuffer(b"".join(map(bytes, filter(None, thumbnails))), np.uint8)
    groups = group_images([sha256(x) for x in data], pictures.reshape(-1, SIDE, SIDE))
    names = np.array([path.parent.name for path in paths])
    return {"features": features, "labels": names, "groups": groups}


def train(features: Array, labels: Array) -> Any:
    """A linear head; the L2 penalty is relative to the mean loss, as in training."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=500 / len(features), max_iter=500).fit(features, labels)


def margins(scores: Array) -> Array:
    """How far the best label is ahead of the second, (n,), from scores (n, labels)."""
    best = np.sort(scores, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def start_of(labels: Array, each: int, random: np.random.Generator) -> Array:
    """Positions of `each` images of every label."""
    return np.concatenate(
        [
            random.choice(np.flatnonzero(labels == label), each, replace=False)
            for label in np.unique(labels)
        ]
    )


def one_seed(data: dict[str, Array], seed: int, start: int, count: int, draws: int) -> Array:
    """Test accuracies of the start, the round by uncertainty, by diversity and at random, and of
    all labels."""
    features, labels, groups = data["features"], data["labels"], data["groups"]
    fold = fold_images(labels.tolist(), groups, np.zeros(len(labels), bool), TEST_PARTS, seed)
    test, pool = np.flatnonzero(fold == 0), np.flatnonzero(fold != 0)
    random = np.random.default_rng(seed)
    known = start_of(labels[pool], start, random)
    rest = np.setdiff1d(np.arange(len(pool)), known)
    first = train(features[pool[known]], labels[pool[known]])
    directions = unit(features[pool])
    nearest = squared_distances(directions[rest], directions[known])
    rules: dict[str, Callable[[], Array]] = {
        "uncertain": lambda: np.argsort(margins(first.predict_proba(features[pool[rest]])))[:count],
        "diverse": lambda: k_center(directions[rest], count, nearest),
        "random": lambda: random.choice(len(rest), count, replace=False),
    }

    def accuracy(head: Any) -> float:
        return float(np.mean(head.predict(features[test]) == labels[test]))

    def after(rule: str) -> float:
        rows = pool[np.concatenate([known, rest[rules[rule]()]])]
        return accuracy(train(features[rows], labels[rows]))

    return np.array(
        [
            accuracy(first),
            after("uncertain"),
            after("diverse"),
            np.mean([after("random") for _ in range(draws)]),
            accuracy(train(features[pool], labels[pool])),
        ]
    )


def interval(values: Array) -> str:
    """The mean and its 95% interval by Student's t over seeds."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.4f} [{values.mean() - half:.4f}, {values.mean() + half:.4f}]"


def main() -> None:
    """Print the accuracies, and the advantage of each rule over random choice, by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=int, default=20, help="labels a species")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--features", type=Path, help="where features are kept (.npz)")
    options = parser.parse_args()
    if options.features is not None and options.features.exists():
        data = dict(np.load(options.features))
    else:
        data = embed(Path(os.environ["MONKEYRAY_PHOTOS"]) / "monkeys10")
        if options.features is not None:
            np.savez(
                options.features,
                features=data["features"],
                labels=data["labels"],
                groups=data["groups"],
            )
    # One file a picture, so that a choice is never wasted on a copy.
    one = np.unique(data["groups"], return_index=True)[1]
    data = {name: values[one] for name, values in data.items()}
    print(f"{len(one)} pictures, {options.start} labels a species, then {options.count} images")
    found = []
    for seed in range(options.seeds):
        found.append(one_seed(data, seed, options.start, options.count, options.draws))
        print(f"seed {seed}:", *(f"{value:.4f}" for value in found[-1]), flush=True)
    names = ("start", "uncertain", "diverse", "random", "all labels")
    table = np.array(found)
    for name, values in zip(names, table.T, strict=True):
        print(f"{name:12}", interval(values))
    for name in ("uncertain", "diverse"):
        print(f"{name} - random", interval(table[:, names.index(name)] - table[:, 3]))


if __name__ == "__main__":
    main()
