"""A trained model in this process, for notebooks: images in, an Arrow table of predictions out."""

from __future__ import annotations

import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from monkeyray.arrays import Array
from monkeyray.errors import ConfigError, DecodeError
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.model.backbones import import_keras
from monkeyray.model.bundle import Bundle, load_bundle
from monkeyray.model.engines import choose_engine
from monkeyray.options import StoreConfig, check_engine, check_precision, require
from monkeyray.runs.fetch import FETCH_THREADS, Batch, Fetched, attempt, fetch
from monkeyray.scoring.given_images import Images, OneImage, one_by_one, to_file, uri_of
from monkeyray.scoring.options import parse_top_k
from monkeyray.scoring.rows import ScoreOptions, Scorer
from monkeyray.scoring.schema import prediction_schema
from monkeyray.storage.store import Storage

_PLAN = pa.schema([("uri", pa.string()), ("size_bytes", pa.int64()), ("version", pa.string())])

#: Of the columns of predictions, those that say something of an image that is in no collection.
_COLUMNS = (
    "uri", "status", "error", "label", "score", "decision", "ood_score", "top_k", "width", "height",
    "captured_at",
)  # fmt: skip


class Model:
    """A trained model that is ready to predict. `load_model` makes it."""

    def __init__(self, bundle: Bundle, storage: Storage, options: ScoreOptions) -> None:
        self._bundle = bundle
        self._storage = storage
        # Always with embeddings, which are there anyway: each call says whether it wants them.
        self._options = replace(options, embeddings=True)
        self._scorer = Scorer(bundle, self._options)
        self._size = bundle.network(options.views).size
        self._decode = functools.partial(decode, views=options.views)

    @property
    def model_id(self) -> str:
        """64 hexadecimal digits that stand for everything that decides a score."""
        return self._bundle.model_id

    @property
    def labels(self) -> list[str]:
        """The labels that it tells apart."""
        return self._bundle.labels

    @property
    def names(self) -> dict[str, str]:
        """Label to what people call it, the label itself where it has no name."""
        return self._bundle.names

    def __repr__(self) -> str:
        return f"<Model {self.model_id[:12]}: {', '.join(self.labels)}>"

    def predict(
        self, images: Images, *, embeddings: bool = False, batch_size: int = 32
    ) -> pa.Table:
        """Predictions for one image or several, a row each, in their order.

        `images`: a path or URI, the bytes of a file, a PIL image, an array of uint8 RGB of shape
        (h, w, 3), or a list, tuple, generator, pandas Series or Arrow column of any of them.
        `embeddings`: with the features of the backbone, as a list of float32. `batch_size`: images
        that are in memory at a time, beside those that were given.

        The table has the columns of `score`'s predictions that do not tell of a file: uri (null
        where none was given), status, error, label, score, decision, ood_score, top_k, width,
        height, captured_at and embedding. An image that cannot be read, or is null, is a row whose
        status and error say why, and whose score is null. `.to_pandas()` makes a DataFrame of it.

        Of a PIL image or an array every pixel is seen, where a JPEG that is given by its path or
        bytes is decoded at a reduced scale as in training; so above twice the network's input size
        their scores can differ a little.

        Raises InputError for what is no image by its type, ConfigError for a malformed URI, and
        StorageError where the store cannot be used.
        """
        require(batch_size >= 1, "batch-size", batch_size, "1 or more")
        names = [*_COLUMNS, *(["embedding"] if embeddings else [])]
        width = int(self._bundle.model["feature_width"])
        whole = prediction_schema(_PLAN, width)
        schema = pa.schema([whole.field(name) for name in names], metadata=whole.metadata)
        size = max(1, batch_size // len(self._options.views))
        tables = [schema.empty_table()]
        given = one_by_one(images)
        pool = ThreadPoolExecutor(FETCH_THREADS)
        try:
            while batch := list(islice(given, size)):
                tables.append(self._rows(batch, pool).select(names))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return pa.concat_tables(tables)

    def _rows(self, images: list[OneImage | None], pool: ThreadPoolExecutor) -> pa.Table:
        uris = [uri_of(image) for image in images]
        nothing = [None] * len(images)
        plan = pa.table({"uri": uris, "size_bytes": nothing, "version": nothing}, schema=_PLAN)
        fetched = list(pool.map(self._fetch, images, uris))
        outcomes = {
            place: self._see(image)
            for place, image in enumerate(images)
            if isinstance(image, (Image.Image, np.ndarray))
        }

        def decode(batch: Batch) -> Any:
            return batch.decode(self._size, self._options.limits, self._decode, outcomes)

        return self._scorer(Batch(plan, fetched), decode)

    def _fetch(self, image: OneImage | None, uri: str | None) -> Fetched:
        if image is None:
            return Fetched(None, None, "missing", "null is given for this image")
        if uri is not None:
            return fetch(self._storage, uri, None, self._options.limits)
        if isinstance(image, (bytes, bytearray, memoryview)):
            return Fetched(bytes(image), None)
        return Fetched(b"", None)  # its outcome is known otherwise

    def _see(self, image: Image.Image | Array) -> Decoded | DecodeError:
        # Each at once, so that never more than one is there as a file, whose bytes nobody gave.
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
    engine: str = "auto",
    precision: str = "float32",
    gpu: bool = False,
    store: StoreConfig | None = None,
) -> Model:
    """A model bundle, loaded into this process and ready to predict, without Ray::

        model = monkeyray.load_model("models/first")
        model.predict(sorted(Path("photographs").rglob("*.jpg"))).to_pandas()

    The options are those of ScoreConfig, where each is explained; `top_k` may be a number. OpenVINO
    computes in one thread, or in as many as the environment's OMP_NUM_THREADS says. Unlike a job's,
    the decoder runs in this process, which an image that is made to can crash or keep busy. Keras
    runs on TensorFlow. A model that was trained on crops of boxes says so, for it wants crops.

    Raises BundleError where there is no such model or it is damaged, and ConfigError for options
    that cannot work, or where Keras runs on something else in this process already.
    """
    top_k = str(top_k)
    parse_top_k(top_k, 1)
    check_engine(engine)
    check_precision(precision)
    require(threshold is None or 0 <= threshold <= 1, "threshold", threshold, "from 0 to 1")
    store = store or StoreConfig()
    storage = store.storage()
    bundle = load_bundle(os.fspath(uri), storage, model_id, int8=precision == "int8")
    if note := bundle.unlike(None):
        store.reporter().say(note)
    options = ScoreOptions(
        views=bundle.choose_views(views),
        top_k=parse_top_k(top_k, len(bundle.labels)),
        threshold=threshold,
        embeddings=True,
        limits=Limits(),
        engine=choose_engine(engine, precision, gpu),
    )
    # Left alone, OpenVINO's engine would set Keras up for itself, and for the whole notebook.
    backend = import_keras().backend.backend()
    if backend != "tensorflow":
        raise ConfigError(
            f"Keras runs on {backend} in this process: set KERAS_BACKEND=tensorflow before it is "
            "imported, or call load_model in another process"
        )
    return Model(bundle, storage, options)
