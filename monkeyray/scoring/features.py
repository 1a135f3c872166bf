"""Features of the frozen backbone: computed once, cached as Parquet by URI and version."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Floats
from monkeyray.console import Reporter
from monkeyray.errors import StorageError
from monkeyray.images.boxes import BOX_COLUMNS, has_boxes
from monkeyray.images.decode import DECODE_VERSION, Limits, decode
from monkeyray.images.listing import with_versions
from monkeyray.model.backbones import weights_hash
from monkeyray.model.engines import TENSORFLOW, EngineChoice
from monkeyray.model.network import Network
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.run import MAY_PASS, read_parquet
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.pools import Pool, run_pending
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.rows import embed_batch
from monkeyray.statistics.fingerprints import THUMBNAIL_VERSION
from monkeyray.storage.keys import comparable_versions, fingerprint
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

_ROWS_PER_FILE = 4096
_BATCH = 32


@dataclass(frozen=True)
class Features:
    """The features of n images, in their order.

    `table`: the columns of the cache except `embedding`. `vectors`: float32 (n, views, width), 0
    for images that could not be read. `found`: images found in the cache, which were not opened.
    """

    table: pa.Table
    vectors: Floats
    found: int


@dataclass(frozen=True)
class FeatureCache:
    """The features of one backbone and preprocessing, in a folder of their own below `folder`.

    Each pass over new images is a run in a sub-folder. The finished files of a pass that was killed
    are used.
    """

    folder: Location
    storage: Storage
    network: Network
    engine: EngineChoice = TENSORFLOW
    #: Margin around boxes, as in ScoreConfig.box_padding; None for whole images.
    padding: float | None = None

    @property
    def place(self) -> Location:
        """The folder; its name contains a hash of all that features depend on except the image."""
        weights = self.network.backbone_hash()
        if self.engine.precision == "int8":
            assert self.network.int8 is not None
            weights = weights_hash(self.network.int8)
        identity = {
            "backbone": self.network.backbone,
            "size": self.network.size,
            "views": list(self.network.views),
            "decode": DECODE_VERSION,
            "thumbnail": THUMBNAIL_VERSION,
            "weights": weights,
            "engine": str(self.engine),
        }
        if self.padding is not None:
            identity["padding"] = self.padding
        return self.folder / f"{self.network.backbone}-{fingerprint(identity)[:16]}"

    def load(self) -> pa.Table | None:
        """The newest cached row of each URI, or of each of its boxes; None for an empty cache."""
        uris = [e.uri for e in self.storage.list(self.place) if e.uri.endswith(".parquet")]
        # The name of a pass's folder begins with its number.
        tables = [read_parquet(self.storage, uri) for uri in sorted(uris)]
        if not tables:
            return None
        table = pa.concat_tables(tables)
        index = pa.array(range(table.num_rows), pa.int64())
        keyed = pa.table({"key": _keys(table), "index": index})
        last = keyed.group_by("key").aggregate([("index", "max")])["index_max"]
        return table if len(last) == table.num_rows else table.take(last)

    def get(
        self, images: pa.Table, pool: Pool, workers: WorkerCount, reporter: Reporter
    ) -> Features:
        """The features of all images; the pool's workers compute those that are new or changed.

        Raises StorageError if another program deletes the cache meanwhile.
        """
        cached = self.load()
        images = with_versions(images, self.storage)
        where = find_cached(images, cached)
        missing = pc.is_null(where)
        boxes = BOX_COLUMNS if self.padding is not None else ()
        todo = images.filter(missing).select(["uri", "size_bytes", "version", *boxes])
        if todo.num_rows:
            self._compute(todo, pool, workers, reporter)
            cached = self.load()
            where = find_cached(images, cached, fresh=_keys(todo))
        if cached is None or pc.any(pc.is_null(where)).as_py():
            raise StorageError(
                f"some features written to {self.place} are missing: is another program deleting "
                "them? Run the same command again"
            )
        rows = cached.take(where)
        flat = _vectors(rows["embedding"])
        vectors = flat.reshape(len(flat), len(self.network.views), -1)
        keep = [name for name in rows.column_names if name != "embedding"]
        return Features(rows.select(keep), vectors, images.num_rows - todo.num_rows)

    def _compute(
        self, todo: pa.Table, pool: Pool, workers: WorkerCount, reporter: Reporter
    ) -> None:
        files = [self.place.relative(entry.uri) or "" for entry in self.storage.list(self.place)]
        number = len({file.split("/")[0] for file in files})
        name = f"pass-{number:05d}-{fingerprint(todo['uri'].to_pylist())[:8]}"
        place = self.place / name
        work = Work(
            make_engine=functools.partial(self.engine.build, self.network),
            mapper=embed_batch,
            storage=self.storage,
            size=self.network.size,
            limits=Limits(),
            batch_size=max(1, _BATCH // len(self.network.views)),
            views=len(self.network.views),
            decode=functools.partial(
                decode, views=self.network.views, thumbnails=True, padding=self.padding or 0.0
            ),
        )
        listing = collect([todo])
        assert listing is not None
        with hold(place, self.storage, lambda line: None) as lease:
            sizes = shard_sizes(todo.num_rows, workers.processes, _ROWS_PER_FILE)
            run = create_run(place, lease, {"features": str(self.place)}, listing, sizes)
            job = Job("embedding", run, work, str(self.folder))
            run_pending(job, lease, pool, workers, reporter)


def unusable(features: Features) -> Counter[str]:
    """Images that cannot be trained on, by status."""
    statuses = Counter(features.table["status"].to_pylist())
    del statuses["ok"]
    return statuses


def find_cached(
    images: pa.Table, cached: pa.Table | None, fresh: pa.ChunkedArray | None = None
) -> Any:
    """Each image's row in the cache, int32 (n,); null if it is missing or outdated.
    `fresh`: keys of rows that have just been computed, so that they are never outdated."""
    if cached is None:
        return pa.nulls(images.num_rows, pa.int32())
    keys = _keys(images)
    where = pc.index_in(keys, value_set=_keys(cached).combine_chunks())
    version = comparable_versions(cached["etag_or_mtime"].take(where))
    listed = comparable_versions(images["version"])
    size = cached["size_bytes"].take(where)
    # Without a version or a size, as in a manifest, a cached image is assumed to be unchanged.
    same = pc.and_(
        pc.fill_null(pc.equal(listed, version), pc.is_null(listed)),
        pc.fill_null(pc.equal(images["size_bytes"], size), pc.is_null(images["size_bytes"])),
    )
    # Retry statuses that may be temporary.
    status = cached["status"].take(where)
    same = pc.and_(same, pc.invert(pc.is_in(status, value_set=pa.array(MAY_PASS))))
    if fresh is not None:
        same = pc.or_(same, pc.is_in(keys, value_set=fresh.combine_chunks()))
    return pc.if_else(same, where, pa.scalar(None, pa.int32()))


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """What tells rows apart (string): the URI, and the box if there are some."""
    if not has_boxes(table.column_names):
        return table["uri"]
    sides = [pc.list_element(table["detection_bbox"], i).cast(pa.string()) for i in range(4)]
    return pc.binary_join_element_wise(table["uri"], *(pc.fill_null(s, "") for s in sides), "\0")


def _vectors(column: pa.ChunkedArray) -> Floats:
    array = column.combine_chunks()
    width = array.type.list_size
    flat = array.values.slice(array.offset * width, len(array) * width)
    valid = np.asarray(array.is_valid())
    vectors = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), width)
    return np.where(valid[:, None], vectors, np.float32(0))
