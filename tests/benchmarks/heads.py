"""Which head to train, and how: recipes compared on repeated grouped splits of labelled images.

    monkeyray train --images FOLDER --model MODEL --views 4 --features CACHE
    OMP_NUM_THREADS=1 python -m tests.benchmarks.heads recipes --features CACHE/mobilenet-…

The training images are in one folder per label. Each round holds out 30% of them, in whole groups
of copies; a recipe sees only the others, and makes all choices on them. Rounds overlap in their
images, so intervals are those of the corrected resampled t-test (Nadeau and Bengio, Machine
Learning 52, 2003). Results are kept in --results, and only missing rounds are computed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import beta, t

from monkeyray.arrays import Array
from monkeyray.model.head import head_logits
from monkeyray.statistics.calibration import expected_calibration_error, fit_temperature
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import grey_thumbnails
from monkeyray.statistics.metrics import cross_entropy, softmax
from monkeyray.statistics.splits import fold_images
from monkeyray.statistics.thresholds import ACCEPTED, choose_thresholds, decide
from monkeyray.training.fitting.linear import L2, fit_linear

TEST_SHARE = 0.3
#: Every share is a multiple of this.
PARTS = 20
FOLDS = 5
TARGETS = (0.95, 0.99)

#: L2 penalties.
GRID = (100.0, 10.0, 1.0, 0.1, 0.01)

BIG = (1024, 1024, 512)


@dataclass(frozen=True)
class Images:
    """`features`: float32 (n, views, width); `truth`: label indices (n,); `groups`: equal numbers
    for images that must stay together; `labels`: how many."""

    features: Array
    truth: Array
    groups: Array
    labels: int

    def take(self, rows: Array) -> Images:
        """Some of the images."""
        return Images(self.features[rows], self.truth[rows], self.groups[rows], self.labels)

    def mean(self, views: int) -> Array:
        """The mean features of the first views."""
        return np.asarray(self.features[:, :views].mean(axis=1))

    def split(self, share: float, seed: int, second: float = 0.0) -> Array:
        """The split of each image: train, validation (`second`) or test, in whole groups."""
        labels = [str(label) for label in self.truth.tolist()]
        part = fold_images(labels, self.groups, np.zeros(len(labels), bool), PARTS, seed) / PARTS
        test, validation = part < share, part < share + second
        return np.select([part < 0, test, validation], ["train", "test", "validation"], "train")

    def folds(self, seed: int) -> Array:
        """The number of the fold in which each image is held out."""
        from sklearn.model_selection import StratifiedGroupKFold

        cutter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        found = np.empty(len(self.truth), np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a label in fewer groups than folds
            for number, (_, held) in enumerate(cutter.split(found, self.truth, self.groups)):
                found[held] = number
        return found


#: The published head's logits of the test images; the logits and truth of the images on which the
#: temperature and the thresholds are chosen.
Found = tuple[Array, Array, Array]


def load(features: Path, views: int) -> Images:
    """The readable images of a cache, whose labels are the folders that they are in."""
    table = pq.read_table(features, columns=["uri", "status", "sha256", "thumbnail", "embedding"])
    table = table.filter(pc.equal(table["status"], "ok"))
    newest = {uri: row for row, uri in enumerate(table["uri"].to_pylist())}
    table = table.take([row for _, row in sorted(newest.items())])
    vectors = np.array(table["embedding"].combine_chunks().flatten(), np.float32)
    names = [uri.split("/")[-2] for uri in table["uri"].to_pylist()]
    labels, truth = np.unique(names, return_inverse=True)
    return Images(
        vectors.reshape(table.num_rows, views, -1),
        truth,
        group_images(table["sha256"].to_pylist(), grey_thumbnails(table["thumbnail"])),
        len(labels),
    )


def linear(x: Array, y: Array, labels: int, weight: Array, l2: float) -> list[Any]:
    """Linear heads, one for each column of weights."""
    return fit_linear(x, y, weight, labels, l2)


def fold_weights(fold: Array) -> Array:
    """Image weights (n, 1 + folds): for a head on all images, and for each fold head."""
    numbers = np.arange(-1, FOLDS)
    return np.asarray(fold[:, None] != numbers, np.float64)


def out_of_fold(heads: Sequence[Any], x: Array, fold: Array) -> Array:
    """Each image's logits by the fold head that has not seen it."""
    return np.stack([head_logits(head, x) for head in heads])[fold, np.arange(len(x))]


def converged(
    views: int = 1, l2: float | None = L2, mean: bool = False
) -> Callable[[Images, Images, int], Found]:
    """A converged linear head on all images (or the `mean` of the fold heads), with a given penalty
    or the one with the lowest calibrated out-of-fold loss."""

    def recipe(known: Images, test: Images, seed: int) -> Found:
        x, fold = known.mean(views), known.folds(seed)
        tried = []
        for each in GRID if l2 is None else (l2,):
            heads = linear(x, known.truth, known.labels, fold_weights(fold), each)
            held = out_of_fold(heads[1:], x, fold)
            loss = cross_entropy(held / fit_temperature(held, known.truth), known.truth)
            tried.append((loss, each, heads, held))
        _, _, heads, held = min(tried, key=lambda found: found[:2])
        outputs = [head_logits(head, test.mean(views)) for head in heads]
        return (np.mean(outputs[1:], axis=0) if mean else outputs[0]), held, known.truth

    return recipe


class Adam:
    """A head trained by Adam on batches of 64, as `train` did before linear heads converged."""

    def __init__(self, widths: tuple[int, ...], labels: int, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self._labels = np.arange(labels)
        self._net = MLPClassifier(
            widths,
            solver="adam",
            learning_rate_init=3e-4 if widths else 3e-3,
            # 0.001 times the sum of squares, on the mean loss of a batch.
            alpha=0.0 if widths else 2 * 1e-3 * 64,
            batch_size=64,
            random_state=seed,
        )

    def epoch(self, x: Array, y: Array) -> None:
        """Pass over all images once."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # fewer images than a batch has
            self._net.partial_fit(x, y, classes=self._labels)

    def logits(self, x: Array) -> Array:
        """Logits up to a constant for each image."""
        scores = np.asarray(self._net.predict_proba(x), np.float64)
        return np.asarray(np.log(np.maximum(scores, 1e-30)))


def stopped_early(widths: tuple[int, ...] = ()) -> Callable[[Images, Images, int], Found]:
    """Train on 70% of the images, stop and choose on 15%, and keep 15% for a test."""
    patience = 5 if widths else 10

    def recipe(known: Images, test: Images, seed: int) -> Found:
        names, x, y = known.split(0.15, seed, 0.15), known.mean(1), known.truth
        train, validation = names == "train", names == "validation"
        head, least, since = Adam(widths, known.labels, seed), np.inf, 0
        best: Found | None = None
        for _ in range(200):
            head.epoch(x[train], y[train])
            held = head.logits(x[validation])
            loss, since = cross_entropy(held, y[validation]), since + 1
            if loss < least - 1e-4:
                best, least, since = (head.logits(test.mean(1)), held, y[validation]), loss, 0
            if since >= patience:
                break
        assert best is not None
        return best

    return recipe


def steps_from_folds(widths: tuple[int, ...], epochs: int = 20) -> Callable[..., Found]:
    """A head on all images, trained for as many epochs as were best out of fold."""

    def recipe(known: Images, test: Images, seed: int) -> Found:
        x, y, fold = known.mean(1), known.truth, known.folds(seed)
        held = np.zeros((epochs, len(y), known.labels))
        for number in range(FOLDS):
            head = Adam(widths, known.labels, seed)
            for epoch in range(epochs):
                head.epoch(x[fold != number], y[fold != number])
                held[epoch, fold == number] = head.logits(x[fold == number])
        best = int(np.argmin([cross_entropy(each, y) for each in held]))
        head = Adam(widths, known.labels, seed)
        for _ in range(best + 1):
            head.epoch(x, y)
        return head.logits(test.mean(1)), held[best], y

    return recipe


RECIPES: dict[str, Callable[[Images, Images, int], Found]] = {
    "Adam, stopped early": stopped_early(),
    "converged": converged(),
    "converged, penalty from folds": converged(l2=None),
    "converged, mean of folds": converged(mean=True),
    "converged, 2 views": converged(views=2),
    "converged, 4 views": converged(views=4),
    "1024-1024-512, stopped early": stopped_early(BIG),
    "1024-1024-512, epochs from folds": steps_from_folds(BIG),
    **{f"converged, l2 {each:g}": converged(l2=each) for each in GRID},
}


def measure(found: Found, truth: Array, labels: int) -> dict[str, Any]:
    """The figures of one round."""
    logits, held, held_truth = found
    temperature = fit_temperature(held, held_truth)
    probabilities = softmax(logits / temperature)
    scores, predicted = probabilities.max(axis=1), logits.argmax(axis=1)
    held_scores = softmax(held / temperature).max(axis=1).astype(np.float32)
    correct = predicted == truth
    names = [str(label) for label in range(labels)]
    row: dict[str, Any] = {
        "accuracy": float(correct.mean()),
        "loss": cross_entropy(logits / temperature, truth),
        "ece": expected_calibration_error(scores, correct),
        "ece uncalibrated": expected_calibration_error(softmax(logits).max(axis=1), correct),
        "temperature": temperature,
        "held": float(np.mean(held.argmax(axis=1) == held_truth)),
    }
    for target in TARGETS:
        chosen = choose_thresholds(held_scores, held.argmax(axis=1), held_truth, names, target)
        accepted = decide(scores.astype(np.float32), predicted, chosen) == ACCEPTED
        own = [chosen.per_label[name] is not None for name in names]
        sets = [accepted & (predicted == label) for label in np.flatnonzero(own)]
        sets.append(accepted & ~np.array(own)[predicted])
        row[f"{target:g}"] = {
            "accepted": int(accepted.sum()),
            "right": int((accepted & correct).sum()),
            "images": len(truth),
            # One for each threshold that there is.
            "each": [[int(s.sum()), int((s & correct).sum())] for s in sets if s.any()],
        }
    return row


def interval(values: Array) -> tuple[float, float]:
    """The mean over rounds and the half-width of its 95% interval, for overlapping rounds."""
    spread = values.var(ddof=1) * (1 / len(values) + TEST_SHARE / (1 - TEST_SHARE))
    return float(values.mean()), float(t.ppf(0.975, len(values) - 1) * np.sqrt(spread))


class Results:
    """Figures by name and round, kept in a JSON file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._rows = json.loads(path.read_text())

    def get(self, name: str, seed: int, make: Callable[[], Any]) -> Any:
        """The figures of a round, made if missing."""
        rows = self._rows.setdefault(name, {})
        if str(seed) not in rows:
            rows[str(seed)] = make()
            if self._path is not None:
                self._path.write_text(json.dumps(self._rows))
        return rows[str(seed)]


def round_of(images: Images, seed: int) -> tuple[Images, Images]:
    """What a recipe may see in a round, and the test images."""
    names = images.split(TEST_SHARE, seed)
    return images.take(np.flatnonzero(names != "test")), images.take(
        np.flatnonzero(names == "test")
    )


def of_round(
    recipe: Callable[[Images, Images, int], Found], known: Images, test: Images, seed: int
) -> dict[str, Any]:
    """The figures of a recipe in a round."""
    return measure(recipe(known, test, seed), test.truth, test.labels)


def show_recipes(images: Images, results: Results, rounds: int, names: Sequence[str]) -> None:
    """The figures of each recipe, and its differences from the first one in the same rounds."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name, its in rows.items():
        for seed in range(rounds):
            known, test = round_of(images, seed)
            make = partial(of_round, RECIPES[name], known, test, seed)
            its.append(results.get(name, seed, make))
    print(f"{rounds} rounds; mean ± half of the 95% interval; differences from {names[0]}")
    show_differences(
        rows, ("accuracy", "loss", "ece", "ece uncalibrated", "temperature", "held", "held - test")
    )
    for target in TARGETS:
        print(f"\nthresholds for {target:g}")
        for name, its in rows.items():
            print(f"  {name:34} {promise([row[f'{target:g}'] for row in its], target)}")


def show_differences(rows: dict[str, list[dict[str, Any]]], keys: Sequence[str]) -> None:
    """A line for each figure and recipe; (same): 0 is in the interval of the difference."""
    first = next(iter(rows))
    for key in keys:
        print(f"\n{key}")
        each = {name: np.array([figure(row, key) for row in its]) for name, its in rows.items()}
        for name, values in each.items():
            line = "  {:34} {:.4f} ± {:.4f}".format(name, *interval(values))
            if name != first:
                off = values - each[first]
                mean, half = interval(off)
                line += f"   {mean:+.4f} ± {half:.4f}, higher in {(off > 0).sum()}, lower in "
                line += f"{(off < 0).sum()}{'' if abs(mean) > half else '  (same)'}"
            print(line)


def figure(row: dict[str, Any], key: str) -> float:
    """A figure of a round; `held - test` is the error of the out-of-fold accuracy."""
    found = row["held"] - row["accuracy"] if key == "held - test" else row[key]
    return float(found)


def promise(rows: Sequence[dict[str, Any]], target: float) -> str:
    """How well the thresholds of all rounds did on their test images."""
    some = [row for row in rows if row["accepted"]]
    kept = sum(row["right"] >= target * row["accepted"] for row in some)
    accepted = sum(row["accepted"] for row in rows)
    right = sum(row["right"] for row in rows)
    each = [pair for row in rows for pair in row["each"]]
    refuted = sum(
        beta.ppf(0.95, right + 1, count - right) < target for count, right in each if right < count
    )
    return (
        f"in {len(some)} of {len(rows)} rounds, kept in {kept}; accepts "
        f"{accepted / sum(row['images'] for row in rows):.3f}, {right / max(1, accepted):.4f} of "
        f"them right; of {len(each)} thresholds {refuted} refuted at 95%"
    )


SIZES = (5, 10, 20, 50)


def some_of(images: Images, each: int, seed: int) -> Images:
    """`each` different pictures of every label."""
    order = np.random.default_rng(seed).permutation(len(images.truth))
    first = order[np.unique(images.groups[order], return_index=True)[1]]
    first = np.random.default_rng([seed, 1]).permutation(first)
    return images.take(
        np.concatenate([first[images.truth[first] == x][:each] for x in range(images.labels)])
    )


def show_curve(images: Images, results: Results, rounds: int) -> None:
    """Accuracy by the number of labelled images of each label."""
    for size in (*SIZES, None):
        rows: dict[str, list[Any]] = {"Adam, stopped early": [], "converged": []}
        for name, its in rows.items():
            for seed in range(rounds):
                known, test = round_of(images, seed)
                known = known if size is None else some_of(known, size, seed)
                its.append(
                    results.get(
                        name if size is None else f"{name}, {size} a label",
                        seed,
                        partial(of_round, RECIPES[name], known, test, seed),
                    )
                )
        print(f"\n{size or 'all'} a label")
        show_differences(rows, ("accuracy", "loss", "ece", "held"))


#: Shares of the folds' training images, to see what more labels would bring.
SHARES = (0.25, 0.5, 1.0)


def more_labels(images: Images, seed: int) -> tuple[Array, Array, Array]:
    """From folds alone: the numbers of training images (shares,), the out-of-fold accuracy with
    each (shares,), and the accuracy expected with all images and with twice as many (2,), by a
    power law of the errors."""
    x, y, fold = images.mean(1), images.truth, images.folds(seed)
    # The first images of each label in each fold, in an order that keeps groups together.
    numbers = np.random.default_rng(seed).permutation(images.groups.max() + 1)[images.groups]
    rank = np.empty(len(y))
    for label, number in product(range(images.labels), range(FOLDS)):
        its = np.flatnonzero((y == label) & (fold == number))
        rank[its[np.argsort(numbers[its], kind="stable")]] = np.arange(len(its)) / max(1, len(its))
    columns = [(fold != number) & (rank < share) for share, number in product(SHARES, range(FOLDS))]
    heads = linear(x, y, images.labels, np.stack(columns, axis=1).astype(np.float64), L2)
    sizes, accuracies = [], []
    for place in range(0, len(columns), FOLDS):
        held = out_of_fold(heads[place : place + FOLDS], x, fold)
        sizes.append(np.mean([column.sum() for column in columns[place : place + FOLDS]]))
        accuracies.append(np.mean(held.argmax(axis=1) == y))
    errors = (1 - np.array(accuracies)) * len(y)
    slope, level = np.polyfit(np.log(sizes), np.log((errors + 0.5) / (len(y) + 1)), 1)
    expected = np.exp(level + min(slope, 0.0) * np.log(len(y) * np.array([1, 2])))
    return np.array(sizes), np.array(accuracies), 1 - expected


def show_more(images: Images, rounds: int) -> None:
    """The gain from more labels, as predicted by the folds and as measured on the test images."""
    for size in (10, 20, 30):
        found = []
        for seed in range(rounds):
            known, test = round_of(images, seed)
            truth = []
            for each in (size, 2 * size):
                some = some_of(known, each, seed)
                (head,) = linear(
                    some.mean(1), some.truth, some.labels, np.ones((len(some.truth), 1)), L2
                )
                predicted = head_logits(head, test.mean(1)).argmax(axis=1)
                truth.append(float(np.mean(predicted == test.truth)))
            _, accuracies, expected = more_labels(some_of(known, size, seed), seed)
            found.append([*accuracies, *expected, *truth])
        table = np.array(found)
        print(f"\n{size} images a label, {rounds} rounds")
        titles = [f"folds, {share:g} of their images" for share in SHARES]
        titles += ["expected with all", "expected with twice as many", "test, all", "test, twice"]
        for title, values in zip(titles, table.T, strict=True):
            print("  {:30} {:.4f} ± {:.4f}".format(title, *interval(values)))
        for title, one, other in (
            ("folds - test", table[:, 2], table[:, 5]),
            ("expected - test, all", table[:, 3], table[:, 5]),
            ("expected - test, twice", table[:, 4], table[:, 6]),
            ("gain expected - gain in test", table[:, 4] - table[:, 3], table[:, 6] - table[:, 5]),
        ):
            off = one - other
            print(
                f"  {title:30} {off.mean():+.4f}, root mean square {np.sqrt((off**2).mean()):.4f}"
            )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("recipes", "curve", "more"))
    parser.add_argument("--features", type=Path, required=True, help="a folder of the cache")
    parser.add_argument("--views", type=int, default=4, help="as many as the cache has")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--results", type=Path, help="where figures are kept (.json)")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), metavar="RECIPE")
    options = parser.parse_args()
    images = load(options.features, options.views)
    results = Results(options.results)
    print(f"{len(images.truth)} images in {len(set(images.groups.tolist()))} groups")
    if options.table == "curve":
        show_curve(images, results, options.rounds)
    elif options.table == "more":
        show_more(images, options.rounds)
    else:
        show_recipes(images, results, options.rounds, options.only or list(RECIPES))


if __name__ == "__main__":
    main()
