"""A trained model in this process, for notebooks: images to an Arrow table of predictions.

An image is a path, a URI, bytes, a PIL image or an array. All of them pass through the one decoder:
pixels that come without a file are written to one in memory first.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image, TiffImagePlugin

from monkeyray.arrays import Array
from monkeyray.errors import ConfigError, DecodeError, InputError
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.model.backbones import import_keras
from monkeyray.model.bundle import Bundle, load_bundle
from monkeyray.model.engines.choice import choose_engine
from monkeyray.options import Engine, Precision, StoreConfig, check, require
from monkeyray.runs.workers.batches import Batch, attempt
from monkeyray.runs.workers.fetch import FETCH_THREADS, Fetched, fetch
from monkeyray.scoring.allowed import read_allowed
from monkeyray.scoring.options import parse_top_k
from monkeyray.scoring.rows import BatchScorer, ScoreOptions
from monkeyray.scoring.schema import EMBEDDING, EXCLUDED, prediction_schema
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: One image: a path or URI, the bytes of a file, a PIL image, or an array of uint8 RGB, (h, w, 3).
OneImage = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array

#: One image or several: a list, tuple or generator, a pandas or Polars Series, an Arrow column, an
#: array (n, h, w, 3). None, NaN and null stand for a missing image.
Images = OneImage | Iterable[OneImage | None]

_BYTES = (bytes, bytearray, memoryview)
_EXPECTED = "a path or URI, bytes, a PIL image, or an array of uint8 RGB of shape (h, w, 3)"

#: The columns of a plan that images given here have.
PLAN = pa.schema([("uri", pa.string()), ("size_bytes", pa.int64()), ("version", pa.string())])

#: The columns of predictions that do not describe a file, a model or a run.
_COLUMNS = (
    "uri", "status", "error", "label", "score", "decision", "ood_score", "top_k", "width", "height",
    "captured_at",
)  # fmt: skip


class Model:
    """A trained model, ready to predict; `load_model` returns it."""

    def __init__(self, bundle: Bundle, storage: Storage, options: ScoreOptions) -> None:
        self._bundle = bundle
        self._storage = storage
        # Embeddings cost nothing here, and each call chooses whether to return them.
        self._options = replace(options, embeddings=True)
        network = bundle.network(options.views)
        self._engine = options.engine.build(network)
        self._scorer = BatchScorer(bundle, self._options)
        self._size = network.size
        self._decode = functools.partial(decode, views=options.views)

    @property
    def model_id(self) -> str:
        """64 hexadecimal digits that identify everything that decides a score."""
        return self._bundle.model_id

    @property
    def labels(self) -> list[str]:
        """The model's labels, in the order of its outputs."""
        return self._bundle.labels

    @property
    def names(self) -> dict[str, str]:
        """Display names by label; the label itself if it has none."""
        return self._bundle.names

    def __repr__(self) -> str:
        return f"<Model {self.model_id[:12]}: {', '.join(self.labels)}>"

    def predict(
        self, images: Images, *, embeddings: bool = False, batch_size: int = 32
    ) -> pa.Table:
        """Predictions for one image or several, one row each, in their order.

        `images`: a path or URI, the bytes of a file, a PIL image, an array of uint8 RGB of shape
        (h, w, 3), or a list, tuple, generator, pandas Series or Arrow column of any of them.
        `embeddings`: include the features of the backbone, as a list of float32. `batch_size`:
        images in memory at a time, apart from those given.

        The columns are those of `score`'s predictions that do not describe a file: uri (null if
        none was given), status, error, label, score, decision, ood_score, top_k, width, height,
        captured_at, excluded_label (with a table of allowed labels) and embedding. For an image
        that is null or cannot be read, status and error say why, and score is null. `.to_pandas()`
        turns the table into a DataFrame.

        PIL images and arrays are resized from their full resolution, JPEGs given by path or bytes
        are decoded at a reduced scale as in training; above twice the network's input size their
        scores can differ slightly.

        Raises InputError for objects that are not images and for a table of allowed labels by
        place, since nothing says where the images were taken; ConfigError for a malformed URI, and
        StorageError if the store cannot be used.
        """
        require(batch_size >= 1, "batch-size", batch_size, "1 or more")
        allowed = self._options.allowed
        if allowed is not None:
            allowed.check(PLAN.empty_table())
        whole = prediction_schema(
            PLAN, int(self._bundle.model["feature_width"]), allowed=allowed is not None
        )
        wanted = (*_COLUMNS, EXCLUDED.name, *([EMBEDDING.name] if embeddings else []))
        names = [name for name in wanted if name in whole.names]
        schema = pa.schema([whole.field(name) for name in names], metadata=whole.metadata)
        size = max(1, batch_size // len(self._options.views))
        tables = [schema.empty_table()]
        given = one_by_one(images)
        pool = ThreadPoolExecutor(FETCH_THREADS)
        try:
            while batch := list(islice(given, size)):
                nothing = [None] * len(batch)
                columns = {"uri": [*map(uri_of, batch)], "size_bytes": nothing, "version": nothing}
                plan = pa.table(columns, schema=PLAN)
                tables.append(self.rows(plan, batch, pool).select(names))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return pa.concat_tables(tables)

    def rows(
        self, plan: pa.Table, images: list[OneImage | None], pool: ThreadPoolExecutor
    ) -> pa.Table:
        """Whole rows of predictions, with embeddings, for the rows of a plan, whose images are
        given, or named by its column `uri`."""
        uris = plan["uri"].to_pylist()
        fetched = list(pool.map(self._fetch, images, uris))
        outcomes = {
            place: self._decode_pixels(image)
            for place, image in enumerate(images)
            if isinstance(image, (Image.Image, np.ndarray))
        }
        batch = Batch(plan, fetched)
        columns, pixels, good = batch.decode(
            self._size, self._options.limits, self._decode, outcomes
        )
        return self._scorer(batch, columns, good, *self._engine(pixels))

    def _fetch(self, image: OneImage | None, uri: str | None) -> Fetched:
        if image is None:
            return Fetched(None, None, "missing", "the image given is null")
        if isinstance(image, _BYTES):
            return Fetched(bytes(image), None)
        if uri is not None:
            return fetch(self._storage, uri, None, self._options.limits)
        return Fetched(b"", None)  # decoded by _decode_pixels

    def _decode_pixels(self, image: Image.Image | Array) -> Decoded | DecodeError:
        # One at a time, since the uncompressed files are large.
        limits = replace(self._options.limits, max_bytes=sys.maxsize)
        try:
            data = to_file(image)
        except DecodeError as error:
            return error
        return attempt(self._decode, data, self._size, limits, {})


def load_model(
    uri: str | os.PathLike[str],
    *,
    model_id: str | None = None,
    views: int | None = None,
    top_k: int | str = 5,
    threshold: float | None = None,
    allowed: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    precision: str = "float32",
    gpu: bool = False,
    store: StoreConfig | None = None,
) -> Model:
    """Load a model bundle into this process, ready to predict, without Ray::

        model = monkeyray.load_model("models/first")
        model.predict(sorted(Path("photographs").rglob("*.jpg"))).to_pandas()

    The options are those of ScoreConfig; `top_k` may be a number. A table of `allowed` labels by
    site is for Scorer, whose batches may have a column site. OpenVINO computes in one thread,
    or in OMP_NUM_THREADS of the environment. Unlike in a job, images are decoded in this process,
    so a malicious one can crash it or keep it busy. Keras must run on TensorFlow, unless the
    model's backbone came as an ONNX file, which needs neither. A model that was trained on crops of
    boxes prints a note, since it expects crops.

    Raises BundleError if there is no such model or it is damaged, and ConfigError for invalid
    options or if Keras already runs on another backend in this process.
    """
    top_k = str(top_k)
    parse_top_k(top_k, 1)
    check("engine", Engine, engine)
    check("precision", Precision, precision)
    require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")
    store = store or StoreConfig()
    storage = store.storage()
    bundle = load_bundle(os.fspath(uri), storage, model_id, int8=precision == "int8")
    if note := bundle.unlike(None):
        store.reporter().say(note)
    table = None
    if allowed is not None:
        table = read_allowed(os.fspath(allowed), storage, bundle.labels)
        for note in table.notes():
            store.reporter().say(note)
    options = ScoreOptions(
        views=bundle.choose_views(views),
        top_k=parse_top_k(top_k, len(bundle.labels)),
        threshold=threshold,
        embeddings=True,
        limits=Limits(),
        allowed=table,
        engine=choose_engine(engine, precision, gpu, bundle.onnx is not None),
    )
    # Otherwise OpenVINO's engine would choose Keras's backend, for the whole notebook.
    if bundle.onnx is None and (backend := import_keras().backend.backend()) != "tensorflow":
        raise ConfigError(
            f"Keras runs on {backend} in this process: set KERAS_BACKEND=tensorflow before it is "
            "imported, or call load_model in another process"
        )
    return Model(bundle, storage, options)


# -- Images in a notebook ---------------------------------------------------------------


def one_by_one(images: Images) -> Iterator[OneImage | None]:
    """The images in their order, None for a missing one.

    Raises InputError, when it is reached, for an item that is not an image.

    >>> list(one_by_one("a.jpg")), list(one_by_one(pa.array(["a.jpg", None])))
    (['a.jpg'], ['a.jpg', None])
    >>> len(list(one_by_one(np.zeros((2, 4, 6, 3), np.uint8))))
    2
    """
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        raise InputError(
            f"images is a {type(images).__name__}: give one column of it, with paths or bytes"
        )
    for place, item in enumerate(_items(images)):
        yield _checked(item, place)


def _items(images: Any) -> Iterable[Any]:
    if isinstance(images, (pa.Array, pa.ChunkedArray)):
        return (scalar.as_py() for scalar in images)
    if isinstance(images, np.ndarray) and images.ndim == 1:
        return images.tolist()  # type: ignore[no-any-return]
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return images
    if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, *_BYTES)):
        return [images]
    if isinstance(images, Iterable):
        return images
    raise InputError(f"images is a {type(images).__name__}: give {_EXPECTED}, or a list of them")


def _checked(item: Any, place: int) -> OneImage | None:
    if isinstance(item, np.ndarray):
        if item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3:
            return item
        raise InputError(
            f"image {place} is an array of {item.dtype} of shape {item.shape}: give uint8 RGB of "
            "shape (h, w, 3), or a PIL image, as PIL.Image.fromarray makes of other arrays"
        )
    if isinstance(item, (str, os.PathLike, Image.Image, *_BYTES)):
        return item
    if _is_null(item):
        return None
    raise InputError(f"image {place} is a {type(item).__name__}: give {_EXPECTED}")


def _is_null(item: Any) -> bool:
    # Without importing pandas only to compare with its NA.
    pandas = sys.modules.get("pandas")
    return (
        item is None
        or (isinstance(item, float) and item != item)
        or (pandas is not None and item is pandas.NA)
    )


def uri_of(image: OneImage | None) -> str | None:
    """The URI of an image given by path or URI, otherwise None.

    Raises ConfigError for a URI that is malformed or contains a password.

    >>> uri_of("/photographs/../a.jpg"), uri_of("s3://bucket/a.jpg"), uri_of(b"")
    ('/a.jpg', 's3://bucket/a.jpg', None)
    """
    if isinstance(image, (str, os.PathLike)):
        return str(Location.parse(os.fspath(image)))
    return None


def to_file(image: Image.Image | Array) -> bytes:
    """A PIL image or an array, uint8 (h, w, 3), as the bytes of an uncompressed TIFF.

    Raises DecodeError of kind empty or unreadable.

    >>> from monkeyray.images.decode import decode
    >>> image = Image.new("RGB", (40, 30), "white")
    >>> decoded = decode(to_file(image), 8)
    >>> decoded.width, decoded.height, decoded.pixels.shape, int(decoded.pixels.min())
    (40, 30, (1, 8, 8, 3), 255)
    """
    if 0 in (image.shape if isinstance(image, np.ndarray) else image.size):
        raise DecodeError("empty", "it has no pixels")
    file = io.BytesIO()
    try:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image.load()
        tags = _exif_tags(image)
        if not image.mode.startswith("I") and image.mode != "F":  # which the decoder rescales
            mode = "RGBA" if image.has_transparency_data else "RGB"
            image = image if image.mode == mode else image.convert(mode)
        image.save(file, "TIFF", compression="raw", tiffinfo=tags, icc_profile=None)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise DecodeError("unreadable", reason or type(error).__name__) from None
    return file.getvalue()


def _exif_tags(image: Image.Image) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The EXIF tags that the decoder reads. Pillow cannot write some others back."""
    kept = TiffImagePlugin.ImageFileDirectory_v2()
    with contextlib.suppress(Exception):
        found = image.getexif()
        orientation = found.get(ExifTags.Base.Orientation)
        if orientation in range(1, 9):
            kept[ExifTags.Base.Orientation] = orientation
        details = found.get_ifd(ExifTags.IFD.Exif)
        tags = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal)
        if times := {tag: str(details[tag]) for tag in tags if tag in details}:
            kept[ExifTags.IFD.Exif] = times
    return kept
