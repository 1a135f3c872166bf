"""A Keras backbone through ONNX beside the native one: features, accuracy, labels and speed.

    pip install onnx tf2onnx
    python -m tests.benchmarks.onnx_mobilenet --photos FOLDER
    python -m tests.benchmarks.onnx_mobilenet --photos FOLDER --backbone inception_v3 --only speed

Keras exports the network to ONNX. MobileNet has its ImageNet weights, others random ones.
`features` compares those of all photographs; `labels` trains a head on both, for each of --seeds,
and compares the out-of-fold accuracy and the labels that both models give to all photographs;
`speed` lets both engines take turns, in one thread, on the same batch.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.images.decode import decode
from monkeyray.model.backbones import BACKBONES, ONNX, build_backbone, load_weights, named_weights
from monkeyray.model.engines.choice import EngineChoice
from monkeyray.model.engines.onnx import load_onnx
from monkeyray.model.network import Network
from monkeyray.scoring.notebook import load_model
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.keras_onnx import export_onnx

VIEWS = ("middle",)
BATCH = 32


def networks(name: str, file: Path) -> tuple[Network, Network]:
    """The native network and the same from its file, both without a head."""
    spec = BACKBONES[name]
    if spec.packaged:
        weights = load_weights(name, "imagenet", Storage())
    else:
        weights = named_weights(build_backbone(name, seed=1))
    if not file.exists():
        export_onnx(weights, file, name)
    pixels = "tf" if spec.offset else "raw"
    theirs, properties = load_onnx(Location.parse(str(file)), Storage(), pixels=pixels)
    return Network(name, weights, VIEWS), Network(ONNX, theirs, VIEWS, onnx=properties)


def engines(pair: tuple[Network, Network]) -> dict[str, Any]:
    return {
        title: EngineChoice("openvino").build(network)
        for title, network in zip(("native", "ONNX"), pair, strict=True)
    }


def pictures(paths: list[Path], size: int) -> Array:
    """uint8 (n, 1, size, size, 3)."""
    return np.stack([decode(path.read_bytes(), size, views=VIEWS).pixels for path in paths])


def compare_features(pair: tuple[Network, Network], paths: list[Path]) -> None:
    """Print how far features of both are apart."""
    both, most, largest = engines(pair), 0.0, 0.0
    for start in range(0, len(paths), BATCH):
        pixels = pictures(paths[start : start + BATCH], pair[0].size)
        native, theirs = (engine(pixels)[0] for engine in both.values())
        most = max(most, float(np.abs(native - theirs).max()))
        largest = max(largest, float(native.max()))
    print(f"features of {len(paths)} photographs: at most {most:.1e} apart, of up to {largest:.1f}")


def compare_labels(photos: Path, file: Path, work: Path, seeds: list[int]) -> None:
    """Print the accuracy of heads on both, and how often their labels agree."""
    import monkeyray

    quiet = monkeyray.StoreConfig(quiet=True)
    paths = [str(path) for path in sorted(photos.glob("*/*")) if path.is_file()]
    for seed in seeds:
        found, labels = [], []
        choices: dict[str, dict[str, Any]] = {
            "native": {},
            "onnx": {"backbone": str(file), "pixels": "tf"},
        }
        for title, options in choices.items():
            model, features = str(work / f"{title}-{seed}"), str(work / title)
            trained = monkeyray.train(
                images=str(photos), model=model, features=features, seed=seed, store=quiet,
                **options,
            )  # fmt: skip
            found.append(trained.model["metrics"]["estimate"]["accuracy"])
            labels.append(load_model(model).predict(paths)["label"].to_pylist())
        same = sum(one == other for one, other in zip(*labels, strict=True))
        print(
            f"seed {seed}: out-of-fold accuracy {found[0]:.4f} native, {found[1]:.4f} ONNX; "
            f"{same} of {len(paths)} photographs with the same label",
            flush=True,
        )


def compare_speed(file: Path) -> None:
    """Print images/s of both, and the ratio, as medians of rounds in which they take turns.

    `file`: the pickled networks, pixels and number of rounds. In a process without TensorFlow, as a
    worker is one, since the native engine's graph depends on it.
    """
    pair, pixels, rounds = pickle.loads(file.read_bytes())
    both = engines(pair)
    rates: dict[str, list[float]] = {title: [] for title in both}
    for _ in range(rounds + 1):
        for title, engine in both.items():
            start = time.perf_counter()
            engine(pixels)
            rates[title].append(BATCH / (time.perf_counter() - start))
    rates = {title: series[1:] for title, series in rates.items()}
    ratios = [theirs / native for native, theirs in zip(*rates.values(), strict=True)]
    median = {title: statistics.median(series) for title, series in rates.items()}
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    assert "tensorflow" not in sys.modules
    print(
        f"images/s in one thread: {median['native']:.1f} native, {median['ONNX']:.1f} ONNX; "
        f"ratio of a round {middle:.3f} ({low:.3f}-{high:.3f})"
    )


def main() -> None:
    """Compare what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default="mobilenet", choices=list(BACKBONES))
    parser.add_argument("--only", choices=["features", "labels", "speed"], nargs="*")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="folder to keep file and features in")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--turns", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turns is not None:
        compare_speed(arguments.turns)
        return
    steps = arguments.only or ["features", "labels", "speed"]
    with tempfile.TemporaryDirectory(prefix="monkeyray-onnx-") as name:
        keep = arguments.keep or Path(name)
        keep.mkdir(parents=True, exist_ok=True)
        file = keep / f"{arguments.backbone}.onnx"
        pair = networks(arguments.backbone, file)
        paths = [path for path in sorted(arguments.photos.glob("*/*")) if path.is_file()]
        if "features" in steps:
            compare_features(pair, paths)
        if "speed" in steps:
            pixels = pictures(paths[:BATCH], pair[0].size)
            work = Path(name) / "turns"
            work.write_bytes(pickle.dumps((pair, pixels, arguments.rounds)))
            subprocess.run([sys.executable, "-m", __spec__.name, "--turns", str(work)], check=True)
        if "labels" in steps:
            compare_labels(arguments.photos, file, keep, arguments.seeds)


if __name__ == "__main__":
    main()
