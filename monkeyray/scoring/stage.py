"""Scoring as a stage of your own Ray Data pipeline."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from monkeyray.errors import InputError
from monkeyray.runs.workers.fetch import FETCH_THREADS
from monkeyray.scoring.notebook import PLAN, load_model, uri_of
from monkeyray.scoring.schema import EMBEDDING
from monkeyray.storage.tables import rename_reserved


class Scorer:
    """Turns batches of images into rows of predictions, for `ray.data.Dataset.map_batches`::

        images = ray.data.read_binary_files("photographs", include_paths=True)
        rows = images.map_batches(
            monkeyray.Scorer,
            fn_constructor_args=["models/first"],
            batch_format="pyarrow",
            batch_size=64,
            num_cpus=1,
            concurrency=4,
        )
        rows.write_parquet("out")

    A batch has a column `bytes` of files, or a column `uri` or `path` of places to read them from.
    Each row gets the columns of `score`'s predictions, and keeps the batch's other columns but
    `bytes`; `path` becomes `uri`, and names that predictions have get `input_` before them. An
    image that is null or cannot be read becomes a row whose status and error say why.

    `embeddings`: add the features of the backbone. `options`: those of `load_model`, such as `gpu`,
    for which `map_batches` needs `num_gpus` and `batch_size`. As many threads compute as Ray gives
    the actor CPUs.

    Raises what `load_model` raises; in a call, InputError for a batch without images, ConfigError
    for a malformed URI, and StorageError if a store cannot be used.
    """

    def __init__(self, model_uri: str, *, embeddings: bool = False, **options: Any) -> None:
        # Ray sets OMP_NUM_THREADS, which TensorFlow does not look at.
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
        # Several may share a GPU, and the first would take all of its memory.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        self._model = load_model(model_uri, **options)
        self._without = () if embeddings else (EMBEDDING.name,)
        self._pool = ThreadPoolExecutor(FETCH_THREADS)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row of predictions for each row of a batch, in its order."""
        if not isinstance(batch, pa.Table):
            raise InputError(
                f'the batch is a {type(batch).__name__}: give map_batches batch_format="pyarrow"'
            )
        names = batch.column_names
        place = next((name for name in ("uri", "path") if name in names), None)
        source = "bytes" if "bytes" in names else place
        if source is None:
            raise InputError(
                f"the batch has the columns {', '.join(names)}: it needs one called bytes, as of "
                "ray.data.read_binary_files, or uri"
            )
        images = batch[source].to_pylist()
        if source == "bytes":
            uris = batch[place].to_pylist() if place else [None] * len(images)
        else:
            uris = [uri_of(image) for image in images]
        columns: dict[str, Any] = {"uri": pa.array(uris, pa.string())}
        columns |= {name: pa.nulls(len(images), PLAN.field(name).type) for name in PLAN.names[1:]}
        others = [name for name in names if name not in ("bytes", place)]
        for theirs, ours in rename_reserved(others, {*PLAN.names, "captured_at"}).items():
            columns[ours] = batch[theirs]
        return self._model.rows(pa.table(columns), images, self._pool).drop_columns(self._without)
