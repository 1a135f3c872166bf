"""What the figures at seen and unseen cameras promise, and what new cameras then give.

    MONKEYRAY_PHOTOS=… python -m tests.benchmarks.cameras --splits 5

The photographs of the 10 monkey species are given to made-up sites, each with a background, light
and vignette of its own and few of the species, so that a head can learn the background in place of
the animal. Each photograph becomes a sequence of frames. Two thirds of the sites are trained on, as
`train` does it, and `evaluate` measures the others. Then the same is done with the features for
other choices of the sites.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

import monkeyray
from monkeyray.arrays import Array
from monkeyray.model.head import head_logits
from monkeyray.runs.cluster import connected
from monkeyray.scoring.evaluation.evaluate import evaluate
from monkeyray.scoring.options import EvaluateConfig
from monkeyray.statistics.cameras import camera_metrics, describe_side
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import SIDE as THUMBNAIL
from monkeyray.statistics.fingerprints import grey_thumbnail
from monkeyray.statistics.splits import Folds, fold_images, fold_locations
from monkeyray.training.fitting.distributed import below
from monkeyray.training.fitting.head import head_training
from monkeyray.training.fitting.worker import Worker
from monkeyray.training.options import TrainConfig

SIDE = 224


class Site:
    """A fixed camera: where the animal is in the frame, what is around it, and the light."""

    def __init__(self, random: np.random.Generator) -> None:
        noise = random.integers(0, 256, (6, 6, 3), np.uint8)
        ground = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grain = random.normal(0, 40, (SIDE, SIDE, 1)) * random.random()
        self._ground = np.asarray(ground.filter(ImageFilter.GaussianBlur(2)), float) + grain
        self._share = random.uniform(0.5, 0.75)
        self._place = random.uniform(0, 1, 2)
        self._cast = random.uniform(0.55, 1.25, 3)
        distance = np.hypot(*np.meshgrid(*2 * [np.linspace(-1, 1, SIDE)]))[..., None]
        self._vignette = 1 - random.uniform(0.1, 0.5) * distance**2 / 2
        self._infrared = random.random() < 0.3

    def frame(self, photo: Image.Image, random: np.random.Generator) -> bytes:
        """A frame, as JPEG, in which the photograph covers a part."""
        side = round(SIDE * self._share * random.uniform(0.9, 1.1))
        room = SIDE - side
        x, y = ((self._place + random.normal(0, 0.08, 2)).clip(0, 1) * room).astype(int)
        pixels = self._ground.copy()
        pixels[y : y + side, x : x + side] = np.asarray(photo.convert("RGB").resize((side, side)))
        pixels *= self._cast * self._vignette * random.uniform(0.85, 1.15)
        if self._infrared:
            pixels[:] = pixels.mean(axis=2, keepdims=True)
        pixels += random.normal(0, 5, pixels.shape)
        sink = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(sink, "JPEG", quality=85)
        return sink.getvalue()


def different(paths: list[Path]) -> list[Path]:
    """One photograph of each picture, so that no two sites have one in common."""
    thumbnails = []
    for path in paths:
        with Image.open(path) as photo:
            thumbnails.append(np.frombuffer(grey_thumbnail(photo.convert("RGB")), np.uint8))
    pictures = np.stack(thumbnails).reshape(-1, THUMBNAIL, THUMBNAIL)
    first = np.unique(group_images([str(path) for path in paths], pictures))
    return [paths[row] for row in first]


def draw_sites(photos: Path, folder: Path, sites: int, frames: int, seed: int) -> list[list[str]]:
    """Write all frames, and return their rows: uri, label, location and sequence."""
    random = np.random.default_rng(seed)
    paths = different(sorted(photos.glob("n*/*")))
    labels = sorted({path.parent.name for path in paths})
    # Each site has a few species, and each species more or less its share of all sites.
    mixes = random.dirichlet(np.full(len(labels), 0.25), sites)
    each = [Site(random) for _ in range(sites)]
    rows = []
    for path in paths:
        chances = mixes[:, labels.index(path.parent.name)]
        site = int(random.choice(sites, p=chances / chances.sum()))
        with Image.open(path) as photo:
            photo.load()
        for number in range(frames):
            uri = folder / f"site-{site:02}" / f"{path.parent.name}-{path.stem}-{number}.jpg"
            uri.parent.mkdir(parents=True, exist_ok=True)
            uri.write_bytes(each[site].frame(photo, random))
            rows.append([str(uri), path.parent.name, uri.parent.name, path.stem])
    return rows


def write(path: Path, rows: list[list[str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["uri", "label", "location", "sequence"], *rows])
    return str(path)


def measure(
    vectors: Array, labels: Array, sites: Array, sequences: Array, new: Array
) -> tuple[dict[str, object], float, float]:
    """The camera_metrics of training on the sites that are not `new`, the accuracy that folds of
    sequences promise instead, and the accuracy at the new sites."""
    known = sorted(set(labels[~new]))
    old, test = np.flatnonzero(~new), np.flatnonzero(new & np.isin(labels, known))
    truth = np.searchsorted(known, labels)
    none = np.zeros(len(old), bool)
    args = (labels[old].tolist(), sequences[old])
    fold, second = fold_locations(*args, sites[old], none, 5, 0)
    by_site = Folds(truth[old], fold, None, second)
    by_sequence = Folds(truth[old], fold_images(*args, none, 5, 0))

    def heads(folds: Folds) -> list[Array]:
        config = TrainConfig(images="i", model="m")
        _, weights = head_training(config, folds, vectors[old], len(known))(Worker())
        return [
            head_logits(below(weights, str(number)), vectors).argmax(axis=1) == truth
            for number in range(folds.count + 1)
        ]

    hits = np.stack(heads(by_site))
    held, back = by_site.held_out(5), by_site.held_back(5)
    rows, number = np.concatenate([held, back]), np.concatenate([fold[held], second[back]])
    found = camera_metrics(
        hits[number, old[rows]],
        sites[old[rows]].astype(str).astype(object),
        np.arange(len(rows)) >= len(held),
    )
    other = np.stack(heads(by_sequence))
    its = by_sequence.held_out(5)
    naive = other[by_sequence.fold[its], old[its]].mean()
    return found, float(naive), float(hits[-1, test].mean())


def repeat(model: Path, rows: list[list[str]], new_sites: int, splits: int) -> None:
    """Choose the new sites again and again, on the features of all."""
    table = pq.read_table(model / "features")
    place = {uri: row for row, uri in enumerate(table["uri"].to_pylist())}
    table = table.take([place[row[0]] for row in rows])
    width = len(table["embedding"][0])
    vectors = np.array(table["embedding"].combine_chunks().flatten(), np.float32)
    vectors = vectors.reshape(len(rows), width)
    _, labels, locations, stems = (np.array(column) for column in zip(*rows, strict=True))
    names, sites = np.unique(locations, return_inverse=True)
    sequences = np.unique(stems, return_inverse=True)[1]
    print(f"\n{len(rows)} images in {sequences.max() + 1} sequences at {len(names)} sites")
    found = []
    for split in range(splits):
        drawn = np.random.default_rng(split).permutation(len(names))[:new_sites]
        cameras, naive, new = measure(vectors, labels, sites, sequences, np.isin(sites, drawn))
        unseen, seen = cameras["unseen"], cameras["seen"]
        assert isinstance(unseen, dict)
        assert isinstance(seen, dict)
        inside = [
            low <= new <= high
            for low, high in (unseen["accuracy_interval"], unseen["naive_interval"])
        ]
        widths = [
            high - low for low, high in (unseen["accuracy_interval"], unseen["naive_interval"])
        ]
        found.append([seen["accuracy"], unseen["accuracy"], naive, new, *widths, *inside])
        print(f"{split}: {', '.join(f'{each:.3f}' for each in found[-1])}", flush=True)
    mean = np.mean(found, axis=0)
    off = np.array(found)[:, 3:4] - np.array(found)[:, :3]
    print(
        f"mean of {splits} choices of {new_sites} new sites:\n"
        f"  folds of sequences promise {mean[2]:.3f}\n"
        f"  at seen cameras            {mean[0]:.3f}\n"
        f"  at unseen cameras          {mean[1]:.3f}\n"
        f"  at the new ones            {mean[3]:.3f}, from the unseen ones' "
        f"{off[:, 1].mean():+.3f} ± {off[:, 1].std():.3f}\n"
        f"  the interval by location is {mean[4]:.3f} wide and holds it in {mean[6]:.0%}, "
        f"Wilson's {mean[5]:.3f} and {mean[7]:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=36)
    parser.add_argument("--new", type=int, default=12, help="sites that are not trained on")
    parser.add_argument("--frames", type=int, default=2, help="in each sequence")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where the model is left")
    options = parser.parse_args()
    photos = Path(os.environ["MONKEYRAY_PHOTOS"]) / "monkeys10"
    with tempfile.TemporaryDirectory() as name, connected("local"):
        folder, model = Path(name), options.keep or Path(name) / "model"
        rows = draw_sites(photos, folder / "frames", options.sites, options.frames, options.seed)
        sites = sorted({row[2] for row in rows})
        new = set(sites[-options.new :])
        old = write(folder / "old.csv", [row for row in rows if row[2] not in new])
        rest = write(folder / "new.csv", [row for row in rows if row[2] in new])
        quiet = monkeyray.StoreConfig(quiet=True)
        features = str(model / "features")
        trained = monkeyray.train(images=old, model=str(model), features=features, store=quiet)
        print(trained)
        out = str(folder / "out")
        found = evaluate(
            EvaluateConfig(
                images=rest, model=str(model), output=out, features=features, store=quiet
            )
        )
        print("\nAt the new sites:")
        print(describe_side("unseen", found.content["metrics"]["cameras"]["unseen"]))
        print(json.dumps(found.to_json()["cameras"]))
        if options.splits:
            repeat(model, rows, options.new, options.splits)


if __name__ == "__main__":
    main()
