"""The way to a GPU, as far as a machine without one can go: Ray has one by name, and the worker
that asks for it computes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

JOBS = """
import json, sys
import monkeyray
import ray
from monkeyray.options import StoreConfig
from monkeyray.scoring.options import ScoreConfig
from monkeyray.training.options import TrainConfig
from monkeyray.scoring.score import score
from monkeyray.training.train import train

few, model, out = sys.argv[1:]
ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
quiet = StoreConfig(quiet=True)
trained = train(TrainConfig(images=few, model=model, gpu=True, store=quiet))
summary = score(ScoreConfig(images=few, model=model, predictions=out, gpu=True, store=quiet))
images = ray.data.read_binary_files(few, include_paths=True)
options = {"fn_constructor_args": [model], "fn_constructor_kwargs": {"gpu": True}}
stage = images.map_batches(
    monkeyray.Scorer, **options, batch_format="pyarrow", batch_size=16, num_gpus=1, concurrency=1
)
labels = {row["uri"]: row["label"] for row in stage.take_all()}
print(json.dumps([trained.opened, summary.images, summary.statuses, labels]))
"""


def test_both_jobs_with_a_gpu_by_name(few: Path, tmp_path: Path) -> None:
    places = [str(few), str(tmp_path / "model"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", JOBS, *places], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *counts, labels = json.loads(done.stdout.splitlines()[-1])
    assert counts == [42, 42, {"ok": 42}]
    run = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert run["identity"]["engine"] == "tensorflow-float32"
    # Two decode processes share its engine; the labels are those of photographs seen before.
    table = pq.read_table(tmp_path / "out")
    right = sum(row["uri"].split("/")[-2] == row["label"] for row in table.to_pylist())
    assert right >= 34
    # A stage of one's own pipeline says the same.
    assert {row["uri"]: row["label"] for row in table.to_pylist()} == labels
