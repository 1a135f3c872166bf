"""Images for fine-tuning, decoded on the fly: streamed through Ray Data into each worker, or by
threads where no cluster is."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from monkeyray.arrays import Array, Bytes
from monkeyray.errors import DecodeError, InputError, ObjectError
from monkeyray.images.boxes import has_boxes
from monkeyray.images.decode import Limits, decode
from monkeyray.model.network import Network
from monkeyray.storage.store import Storage
from monkeyray.training.dataset import Dataset
from monkeyray.training.options import TrainConfig

#: Steps that are decoded ahead of a worker.
_STEPS_AHEAD = 2

#: As in decode.Limits, once for the tasks.
_LIMITS = Limits()

#: Maximum rotation in degrees, zoom, and change of brightness and contrast. They are small, since
#: animals stand upright and camera traps hardly move.
_DEGREES = 10.0
_ZOOM = 1.3
_LIGHT = 0.25
_CONTRAST = 0.25

#: Share of pictures made grey, as in infrared light.
_GREY = 0.15


@dataclass(frozen=True)
class Decoder:
    """Rows of URIs to rows of pixels, in Ray Data's tasks.

    `augmented`: seed and epoch, to return the first view of each image, augmented; None for all
    views unchanged.
    """

    storage: Storage
    size: int
    views: Sequence[str]
    augmented: tuple[int, int] | None
    padding: float = 0.0

    def __call__(self, rows: pa.Table) -> dict[str, Any]:
        """A table with the columns `uri`, `version`, `image` and, for crops, `bbox`, to pixels,
        uint8 of shape (n, views, size, size, 3).

        Raises InputError for an image that can no longer be read.
        """
        pixels = []
        boxes = rows["bbox"] if "bbox" in rows.column_names else pa.nulls(rows.num_rows)
        columns = (rows["uri"], rows["version"], rows["image"], boxes)
        for uri, version, image, bbox in zip(
            *(column.to_pylist() for column in columns), strict=True
        ):
            try:
                data = self.storage.read(uri, version=version).data
                views = decode(
                    data, self.size, _LIMITS, self.views, bbox=bbox, padding=self.padding
                ).pixels
            except (DecodeError, ObjectError) as error:
                raise InputError(
                    f"{uri} was readable before and is not now ({error}): rerun the command"
                ) from None
            if self.augmented is not None:
                views = augment(views[0], (*self.augmented, image))[None]
            pixels.append(views)
        return {"pixels": np.stack(pixels)}


@dataclass(frozen=True)
class PixelSource:
    """Bytes of images by index, fetched and decoded at every call, and augmented for training.

    `versions`: as listed, a string or None for each of the `uris`.
    """

    uris: Array
    versions: Array
    size: int
    views: tuple[str, ...]
    storage: Storage
    augment_seed: int | None
    #: The box of each image, float32 (n, 4), to crop with `padding`; None for whole images.
    boxes: Array | None = None
    padding: float = 0.0

    def __call__(self, index: Array, epoch: int | None) -> Iterator[Array]:
        """Each step's pixels, uint8 (b, views, size, size, 3)."""
        import ray

        if not len(index):
            return
        steps = [self._rows(step) for step in index]
        augmented = None
        if epoch is not None and self.augment_seed is not None:
            augmented = (self.augment_seed, epoch)
        decoder = Decoder(self.storage, self.size, self.views, augmented, self.padding)
        stream = _stream if ray.is_initialized() else _read_ahead
        yield from stream(decoder, steps)

    def reader(self, images: Array) -> Callable[[], Array]:
        """A function that reads the pixels of a few images, uint8 (n, views, size, size, 3)."""
        decoder = Decoder(self.storage, self.size, self.views, None, self.padding)
        return functools.partial(_read, decoder, self._rows(images))

    def _rows(self, step: Array) -> pa.Table:
        rows = {
            "uri": pa.array(self.uris[step], pa.string()),
            "version": pa.array(self.versions[step], pa.string()),
            "image": pa.array(step),
        }
        if self.boxes is not None:
            rows["bbox"] = pa.array(list(self.boxes[step]), pa.list_(pa.float32(), 4))
        return pa.table(rows)


def _stream(decoder: Decoder, steps: Sequence[pa.Table]) -> Iterator[Array]:
    """Each step's pixels, decoded by Ray Data's tasks."""
    import ray.data

    from monkeyray.runs.cluster import quiet_data

    with quiet_data(preserve_order=True):
        pixels = ray.data.from_arrow(steps).map_batches(
            decoder, batch_size=None, batch_format="pyarrow", num_cpus=0.25
        )
        batches = pixels.iter_batches(
            batch_size=steps[0].num_rows, prefetch_batches=_STEPS_AHEAD, batch_format="numpy"
        )
        for batch in batches:
            yield batch["pixels"]


def _read_ahead(decoder: Decoder, steps: Sequence[pa.Table]) -> Iterator[Array]:
    """Each step's pixels, decoded by threads of this process."""
    with ThreadPoolExecutor(_STEPS_AHEAD) as threads:
        ahead: deque[Future[dict[str, Any]]] = deque()
        for step in steps:
            ahead.append(threads.submit(decoder, step))
            if len(ahead) > _STEPS_AHEAD:
                yield ahead.popleft().result()["pixels"]
        for decoded in ahead:
            yield decoded.result()["pixels"]


def pixel_source(
    config: TrainConfig, storage: Storage, network: Network, data: Dataset
) -> PixelSource:
    """The images of a training, decoded whenever they are needed."""
    boxes = None
    if has_boxes(data.images.column_names):
        boxes = np.array(data.images["detection_bbox"].to_pylist(), np.float32)
    return PixelSource(
        data.uris,
        np.array(data.images["version"].to_pylist(), dtype=object),
        network.size,
        network.views,
        storage,
        config.seed if config.augment else None,
        boxes,
        config.box_padding,
    )


def _read(decoder: Decoder, rows: pa.Table) -> Array:
    return np.asarray(decoder(rows)["pixels"])


def augment(pixels: Bytes, key: tuple[int, ...]) -> Bytes:
    """A picture randomly mirrored, rotated, cropped, relit and perhaps made grey.

    `pixels`: uint8 RGB of shape (n, n, 3). `key`: non-negative integers that seed the change, such
    as seed, epoch and image; the same key and pixels give the same result.
    """
    chance = np.random.default_rng(key)
    mirrored = chance.random() < 0.5
    angle = math.radians(chance.uniform(-_DEGREES, _DEGREES))
    zoom = chance.uniform(1.0, _ZOOM)
    # The position of the crop.
    shift = chance.uniform(-1.0, 1.0, size=2) * (1 - 1 / zoom) / 2
    light, contrast = chance.uniform(-1.0, 1.0, size=2) * (_LIGHT, _CONTRAST)
    grey = chance.random() < _GREY
    moved = _move(pixels, mirrored, angle, zoom, shift)
    values = moved.astype(np.float32)
    if grey:
        # Rec. 601 luma, as Pillow's mode L.
        values = np.repeat(values @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)
    middle = values.mean()
    values = (values - middle) * np.float32(1 + contrast) + middle * np.float32(1 + light)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _move(pixels: Bytes, mirrored: bool, angle: float, zoom: float, shift: Any) -> Bytes:
    """Mirror, rotate about the centre and zoom; the picture is reflected at its edges."""
    size = len(pixels)
    margin = size // 4
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    # Pillow maps result to source: x = a u + b v + c, y = d u + e v + f.
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    a, d = (-cosine, -sine) if mirrored else (cosine, sine)
    b, e = -sine, cosine
    half = size / 2
    c = margin + half + shift[0] * size - (a + b) * half
    f = margin + half + shift[1] * size - (d + e) * half
    image = Image.fromarray(padded).transform(
        (size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(image, np.uint8)
