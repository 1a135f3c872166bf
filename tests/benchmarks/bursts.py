"""What a burst adds to a single image: accuracy on single frames and on pooled ones.

    MONKEYRAY_PHOTOS=… python -m tests.benchmarks.bursts --seeds 3

A burst of frames is made from each held-out photograph, as if an animal walked past a fixed camera:
the visible part drifts, the light and a branch in front stay nearly the same, and each frame has
its own blur and noise. So the errors of the frames are correlated, as in real bursts. A linear head
on MobileNet's features is trained on the other photographs, unchanged; copies of a picture are on
one side.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from monkeyray.arrays import Array
from monkeyray.images.decode import decode
from monkeyray.model.backbones import load_weights
from monkeyray.model.network import Network, TensorFlowEngine
from monkeyray.statistics.calibration import expected_calibration_error, fit_temperature
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import SIDE
from monkeyray.statistics.metrics import cross_entropy, softmax
from monkeyray.statistics.splits import fold_images
from monkeyray.storage.keys import sha256
from monkeyray.storage.store import Storage

VIEWS = ("middle",)
BATCH = 32
LEAST = 1e-6

#: From scores (bursts, frames, labels) to log scores (bursts, labels), not normalised.
RULES: dict[str, Callable[[Array], Array]] = {
    "mean": lambda scores: np.log(scores.mean(axis=1)),
    "mean of logs": lambda scores: np.log(scores).mean(axis=1),
    "max": lambda scores: np.log(scores.max(axis=1)),
}


def burst(
    photo: Image.Image, frames: int, strength: float, random: np.random.Generator
) -> Iterator[bytes]:
    """A photograph as a burst of JPEGs: drifting, blurred, darkened and partly hidden.

    `strength`: of all disturbances; 0 is none, and with 1 every other frame is hard.
    """
    photo = photo.convert("RGB")
    photo.thumbnail((512, 512))
    infrared = random.random() < 0.4 * strength
    light, blur = 1 - random.uniform(0, 0.7) * strength, random.uniform(0, 2) * strength
    part = 1 - random.uniform(0.15, 0.5) * strength
    place, step = random.uniform(0.2, 0.8, 2), random.normal(0, 0.12, 2)
    branch = random.uniform(0, 1, 4), random.uniform(0, 0.3) * strength, random.integers(10, 90, 3)
    for i in range(frames):
        at = place + (i - (frames - 1) / 2) * step + random.normal(0, 0.05, 2)
        width, height = (round(side * part) for side in photo.size)
        left, top = (int(x) for x in at.clip(0, 1) * (np.array(photo.size) - (width, height)))
        frame = photo.crop((left, top, left + width, top + height))
        ends = [int(x) for x in branch[0] * np.array([width, height, width, height])]
        thick = int(branch[1] * min(width, height))
        if thick:
            ImageDraw.Draw(frame).line(ends, tuple(int(x) for x in branch[2]), thick)
        frame = frame.filter(ImageFilter.GaussianBlur(blur * random.lognormal(0, 0.6)))
        frame = ImageEnhance.Brightness(frame).enhance(light * random.uniform(0.8, 1.2))
        if infrared:
            frame = frame.convert("L").convert("RGB")
        noise = random.normal(0, 12 * strength, (height, width, 1))
        sink = io.BytesIO()
        pixels = (np.asarray(frame, np.float32) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(sink, "JPEG", quality=70)
        yield sink.getvalue()


class Embedder:
    """JPEGs to MobileNet's features, through the decoder and the engine of scoring."""

    def __init__(self) -> None:
        weights = load_weights("mobilenet", "imagenet", Storage())
        self._network = Network("mobilenet", weights, VIEWS)
        self._engine = TensorFlowEngine(self._network)

    def __call__(self, images: list[bytes]) -> tuple[Array, list[bytes | None]]:
        """Features (n, width) and thumbnails."""
        features, thumbnails = [], []
        for start in range(0, len(images), BATCH):
            lot = images[start : start + BATCH]
            decoded = [decode(x, self._network.size, views=VIEWS, thumbnails=True) for x in lot]
            each, _ = self._engine(np.stack([image.pixels for image in decoded]))
            features.append(each.mean(axis=1))
            thumbnails += [image.thumbnail for image in decoded]
        return np.concatenate(features), thumbnails


def scores_of_bursts(
    folder: Path, seeds: int, frames: int, strength: float
) -> Iterator[tuple[int, Array, Array, Array]]:
    """By seed: scores (photographs, frames, labels) of bursts, scores (photographs, labels) of the
    photographs that they were made from, and the true labels."""
    from sklearn.linear_model import LogisticRegression

    paths = sorted(folder.glob("n*/*"))
    data = [path.read_bytes() for path in paths]
    names = sorted({path.parent.name for path in paths})
    truth = np.array([names.index(path.parent.name) for path in paths])
    embed = Embedder()
    features, thumbnails = embed(data)
    pictures = np.frombuffer(b"".join(map(bytes, filter(None, thumbnails))), np.uint8)
    groups = group_images([sha256(x) for x in data], pictures.reshape(-1, SIDE, SIDE))
    labels = [names[i] for i in truth]
    for seed in range(seeds):
        fold = fold_images(labels, groups, np.zeros(len(paths), bool), 5, seed)
        test, validation, train = (
            np.flatnonzero(each) for each in (fold == 0, fold == 1, fold > 1)
        )
        # C as strong as an L2 penalty of 0.001 on the mean loss.
        top = LogisticRegression(C=500 / len(train), max_iter=500)
        top.fit(features[train], truth[train])
        temperature = fit_temperature(
            top.decision_function(features[validation]), truth[validation]
        )
        random = np.random.default_rng(seed)
        made = [x for i in test for x in burst(Image.open(paths[i]), frames, strength, random)]
        shaken, _ = embed(made)
        scores = softmax(top.decision_function(shaken) / temperature)
        clean = softmax(top.decision_function(features[test]) / temperature)
        yield seed, scores.reshape(len(test), frames, -1), clean, truth[test]


def figures(logs: Array, truth: Array) -> tuple[float, float, float]:
    """Accuracy, mean negative log likelihood in nats, and expected calibration error."""
    right = logs.argmax(axis=1) == truth
    error = expected_calibration_error(softmax(logs).max(axis=1), right)
    assert error is not None
    return float(right.mean()), cross_entropy(logs, truth), error


def main() -> None:
    """Print accuracy, loss and calibration error by seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--strength", type=float, default=0.8)
    options = parser.parse_args()
    folder = Path(os.environ["MONKEYRAY_PHOTOS"]) / "monkeys10"
    rows: dict[str, list[tuple[float, float, float]]] = {}
    made = scores_of_bursts(folder, options.seeds, options.frames, options.strength)
    for seed, scores, clean, truth in made:
        kept = np.maximum(scores, LEAST)
        single = np.log(kept).reshape(-1, kept.shape[2])
        found = {
            "photographs": figures(np.log(np.maximum(clean, LEAST)), truth),
            "single frames": figures(single, truth.repeat(options.frames)),
            **{name: figures(rule(kept), truth) for name, rule in RULES.items()},
        }
        for name, row in found.items():
            rows.setdefault(name, []).append(row)
            print(f"seed {seed}, {len(truth)} bursts: {name:14}", _text(row), flush=True)
    for name, many in rows.items():
        print(f"mean of {options.seeds} seeds: {name:14}", _text(tuple(np.mean(many, axis=0))))


def _text(row: tuple[float, ...]) -> str:
    return "accuracy {:.3f}, loss {:.3f}, calibration error {:.3f}".format(*row)


if __name__ == "__main__":
    main()
