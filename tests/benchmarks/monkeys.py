"""The out-of-fold accuracy on the 10 monkey species, over several seeds of the folds.

    python -m tests.benchmarks.monkeys --photos FOLDER --seeds 5 -- --views 2

Options after `--` are those of `monkeyray train`. Features are kept in --features between calls.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from monkeyray.cli.parsing import parse
from monkeyray.runs.cluster import connected
from monkeyray.statistics.metrics import wilson
from monkeyray.training.train import train


def main() -> None:
    """Train once for each seed, and print a line for each and one for all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    found, images = [], 0
    with tempfile.TemporaryDirectory() as name, connected("local"):
        for seed in range(arguments.seeds):
            call = ["--images", str(arguments.photos), "--model", f"{name}/model", "--quiet"]
            call += ["--features", str(arguments.features or f"{name}/features")]
            call += ["--seed", str(seed), *arguments.options]
            trained = train(parse("train", call, "monkeyray").config)
            metrics = trained.model["metrics"]
            estimate, fitted = metrics["estimate"], metrics["calibration"]
            found.append(estimate["accuracy"])
            images = estimate["images"]
            line = (
                f"seed {seed}: {found[-1]:.4f} of {images}, log loss {estimate['loss']:.4f}, "
                f"calibration error {fitted['before']['ece']:.3f} to {fitted['after']['ece']:.3f}, "
                f"{trained.seconds['head']:.1f} s"
            )
            if metrics["thresholds"] is not None:
                kept = metrics["thresholds"]["results"]
                line += f", accepts {kept['coverage']:.3f}, {kept['precision']:.4f} of them right"
            print(line, flush=True)
    mean = sum(found) / len(found)
    # The seeds share their images, so that they do not add up.
    low, high = wilson(mean, images) or (0.0, 1.0)
    print(
        f"mean {mean:.4f}, 95% interval {low:.3f}-{high:.3f}, seeds {min(found):.3f}-"
        f"{max(found):.3f}"
    )


if __name__ == "__main__":
    main()
