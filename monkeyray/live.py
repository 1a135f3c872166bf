"""Training without a cache: images stream through Ray Data, and each worker runs the base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.decode import Limits, decode
from monkeyray.engine import Network, TensorFlowEngine
from monkeyray.errors import DecodeError, InputError, ObjectError
from monkeyray.storage import Storage

#: Decoded images on their way to a worker, in steps; each is a batch of pixels.
_STEPS_AHEAD = 2


@dataclass(frozen=True)
class Decoder:
    """Rows of URIs to rows of pixels, in Ray Data's tasks."""

    storage: Storage
    size: int
    limits: Limits

    def __call__(self, rows: pa.Table) -> dict[str, Any]:
        """A table with the column `uri` to uint8 pixels of shape (n, size, size, 3).

        Raises InputError for an image that could be read before the training and no longer can.
        """
        pixels = []
        for uri in rows["uri"].to_pylist():
            try:
                pixels.append(decode(self.storage.read(uri).data, self.size, self.limits).pixels)
            except (DecodeError, ObjectError) as error:
                raise InputError(
                    f"{uri} could be read before and cannot be now ({error}): run the same "
                    "command again"
                ) from None
        return {"pixels": np.stack(pixels)}


class LiveSource:
    """Features of images by index, from bytes at every call: fetch, decode, base.

    The order is the one asked for, whatever the cluster's locality suggests.
    """

    def __init__(self, uris: list[str], network: Network, storage: Storage, limits: Limits) -> None:
        self._uris = np.array(uris, dtype=object)
        self._engine = TensorFlowEngine(network)
        self._decoder = Decoder(storage, network.size, limits)

    def __call__(self, index: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        import ray.data

        from monkeyray.cluster import quiet_data

        if not len(index):
            return
        quiet_data()
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        steps = [pa.table({"uri": pa.array(self._uris[step], pa.string())}) for step in index]
        pixels = ray.data.from_arrow(steps).map_batches(
            self._decoder, batch_size=None, batch_format="pyarrow", num_cpus=0.25
        )
        batches = pixels.iter_batches(
            batch_size=index.shape[1], prefetch_batches=_STEPS_AHEAD, batch_format="numpy"
        )
        for batch in batches:
            features, _ = self._engine(batch["pixels"])
            yield features
