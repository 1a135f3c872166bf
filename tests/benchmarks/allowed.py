"""What --allowed brings where a third of a model's labels does not occur at a site.

    MONKEYRAY_PHOTOS=… python -m tests.benchmarks.allowed --per-label 12

A head on MobileNet is trained on a few photographs of each of nine species. The others are spread
over made-up sites, at each of which six species occur, and evaluated with the table of these.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

import monkeyray
from monkeyray.scoring.evaluation.evaluate import evaluate
from monkeyray.scoring.options import EvaluateConfig

LABELS = [f"n{i}" for i in range(9)]
SITES = 12


def main() -> None:
    """Print accuracy, coverage and precision with and without the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-label", type=int, default=12)
    parser.add_argument("--precision", type=float, default=0.95)
    options = parser.parse_args()
    folder = Path(os.environ["MONKEYRAY_PHOTOS"]) / "monkeys10"
    random = np.random.default_rng(0)
    # Every label occurs at two sites of three.
    occurs = {label: [s for s in range(SITES) if (s + i) % 3] for i, label in enumerate(LABELS)}
    train, test = ["uri,label"], ["uri,label,site"]
    for label in LABELS:
        paths = sorted((folder / label).iterdir())
        order = random.permutation(len(paths)).tolist()
        train += [f"{paths[i]},{label}" for i in order[: options.per_label]]
        test += [
            f"{paths[i]},{label},s{random.choice(occurs[label])}"
            for i in order[options.per_label :]
        ]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "train.csv").write_text("\n".join(train))
        (place / "test.csv").write_text("\n".join(test))
        rows = [f"{label},s{site}" for label, sites in occurs.items() for site in sites]
        (place / "allowed.csv").write_text("\n".join(["label,site", *rows]))
        model = str(place / "model")
        monkeyray.train(
            images=str(place / "train.csv"), model=model, target_precision=options.precision
        )
        done = evaluate(
            EvaluateConfig(
                images=str(place / "test.csv"), model=model, output=str(place / "out"),
                allowed=str(place / "allowed.csv"),
            )
        )  # fmt: skip
    ours, without = done.content["metrics"], done.content["data"]["without_allowed"]
    for what, each in (("without", without["metrics"]), ("with", ours)):
        print(what, f"accuracy {each['accuracy']:.4f} {each['accuracy_interval']}", flush=True)
        print("  ", each["thresholds"], "ece", each["calibration"]["ece"])
    print("labels changed:", without["changed"], "of", ours["images"])


if __name__ == "__main__":
    main()
