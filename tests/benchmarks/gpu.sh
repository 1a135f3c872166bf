#!/bin/bash
# What to run on a machine with a GPU, in about ten minutes, and what to bring back.
#
#   pip install -c requirements.lock '.[gpu,test]'
#   bash tests/benchmarks/gpu.sh PHOTOGRAPHS FIGURES
#
# PHOTOGRAPHS: a folder of labelled photographs, as for `train`. The folder FIGURES then has
#   machine.txt      GPU, driver, cores
#   train.txt        seconds of a training whose features are computed on the GPU
#   float32.json, mixed.json, cpu.json
#                    images/s of 20,000 images and where the time went; the CPU scores 2,000
#   agree.txt        labels that differ from the CPU's, and the largest difference of a score
#   feed.txt         what the cores decode, and the share of it that an engine without cost is fed
#   busy-*.csv       each second's utilisation and memory of the GPU
set -euo pipefail
photographs=$1 figures=$2
mkdir -p "$figures"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{ nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv; nproc; } > "$figures/machine.txt"

{ time timeout 180 monkeyray train --images "$photographs" --model "$work/model" --gpu; } \
  > "$figures/train.txt" 2>&1

python - "$photographs" "$work" <<'PYTHON'
import sys
from pathlib import Path
from tests.benchmarks.speed import collect
for name, count in (("many", 20_000), ("few", 2_000)):
    collect(Path(sys.argv[1]), Path(sys.argv[2]) / name, count, None)
PYTHON

score() {  # NAME IMAGES OPTIONS: one run, with the GPU watched
  nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv -l 1 > "$figures/busy-$1.csv" &
  local watching=$!
  timeout 120 monkeyray score --images "$work/$2" --model "$work/model" --predictions "$work/$1" \
    --quiet --summary-json "$figures/$1.json" "${@:3}" || echo "$1 failed or took too long"
  kill "$watching"
}
score float32 many --gpu
score mixed many --gpu --precision mixed
score gpu-few few --gpu
score cpu few --engine tensorflow

python - "$work" > "$figures/agree.txt" <<'PYTHON'
import sys
import pyarrow.parquet as pq
one, other = (pq.read_table(f"{sys.argv[1]}/{name}").sort_by("uri") for name in ("gpu-few", "cpu"))
differ = sum(a != b for a, b in zip(one["label"].to_pylist(), other["label"].to_pylist(), strict=True))
scores = zip(one["score"].to_pylist(), other["score"].to_pylist(), strict=True)
print(f"{differ} of {len(one)} labels differ; scores by at most", max(abs(a - b) for a, b in scores))
PYTHON

timeout 120 python -m tests.benchmarks.accelerator --photos "$photographs" --model "$work/model" \
  --images 20000 --rounds 1 > "$figures/feed.txt" 2>&1
cat "$figures"/{machine,train,agree,feed}.txt
