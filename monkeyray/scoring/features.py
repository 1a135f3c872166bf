"""Features of the frozen backbone: computed once, cached as Parquet by URI and version."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monkeyray.arrays import Array, Bytes, Floats
from monkeyray.console import Reporter, Say
from monkeyray.errors import StorageError
from monkeyray.images.boxes import BOX_COLUMNS, has_boxes
from monkeyray.images.decode import DECODE_VERSION, Limits, decode
from monkeyray.images.listing import with_versions
from monkeyray.model.backbones import weights_hash
from monkeyray.model.engines.choice import TENSORFLOW, EngineChoice
from monkeyray.model.network import Network
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.run import MAY_PASS
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.pools import Pool, run_pending
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.rows import embed_batch
from monkeyray.statistics.fingerprints import SIDE, THUMBNAIL_VERSION, grey_thumbnails
from monkeyray.storage.backends.local import local_errors
from monkeyray.storage.keys import comparable_versions, fingerprint
from monkeyray.storage.location import Location
from monkeyray.storage.mapped import create_mapped, map_rows
from monkeyray.storage.store import Storage

_ROWS_PER_FILE = 4096
_BATCH = 32

#: The columns of arrays.
_ARRAYS = ("embedding", "thumbnail")

#: Arrays whose size is worth a line.
_MUCH_BYTES = 2**30


@dataclass(frozen=True)
class Features:
    """The features of n images, in their order.

    `table`: the columns of the cache except the arrays. `vectors`: float32 (n, views, width), 0 for
    images that could not be read; `thumbnails`: uint8 (n, 32, 32), black for these; both in files.
    `found`: images found in the cache, which were not opened.
    """

    table: pa.Table
    vectors: Floats
    thumbnails: Bytes
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

    def load(self, files: Sequence[Path]) -> pa.Table | None:
        """The newest row of each URI, or of each of its boxes, in files of the cache, without its
        arrays, and where these are: the index of its `file` and its `row` there. None without
        files."""
        tables = []
        for number, path in enumerate(files):
            file = pq.ParquetFile(path)
            table = file.read([name for name in file.schema_arrow.names if name not in _ARRAYS])
            rows = pa.array(np.arange(table.num_rows))
            table = table.append_column("file", pa.array(np.full(table.num_rows, number)))
            tables.append(table.append_column("row", rows))
        if not tables:
            return None
        table = pa.concat_tables(tables)
        keyed = pa.table({"key": _keys(table), "index": pa.array(np.arange(table.num_rows))})
        last = keyed.group_by("key").aggregate([("index", "max")])["index_max"]
        return table if len(last) == table.num_rows else table.take(last)

    def _files(self, folder: Path, say: Say) -> list[Path]:
        """The files of the cache in the order of their passes: those of a store are copied into a
        folder, unless they are there."""
        entries = [e for e in self.storage.list(self.place) if e.uri.endswith(".parquet")]
        # The name of a pass's folder begins with its number.
        entries.sort(key=lambda entry: entry.uri)
        if self.place.is_local:
            return [Path(Location.of(entry.uri).path) for entry in entries]
        files = [folder / f"{fingerprint(entry.uri)[:32]}.parquet" for entry in entries]
        missing = [(e, file) for e, file in zip(entries, files, strict=True) if not file.exists()]
        if missing:
            size = sum(entry.size_bytes or 0 for entry, _ in missing) / 1e9
            say(f"copying features from {self.place}: {size:.2f} GB on disk in {folder}")
        for entry, file in missing:
            with local_errors(str(file), writing=True):
                file.write_bytes(self.storage.read(entry.uri).data)
        return files

    def get(
        self,
        images: pa.Table,
        pool: Pool,
        workers: WorkerCount,
        reporter: Reporter,
        folder: Path,
    ) -> Features:
        """The features of all images; the pool's workers compute those that are new or changed.

        `folder`: of this machine, for the arrays and for copies of a cache in a store. Raises
        StorageError if another program deletes the cache meanwhile, and if the disk is full.
        """
        files = self._files(folder, reporter.say)
        cached = self.load(files)
        images = with_versions(images, self.storage)
        where = find_cached(images, cached)
        missing = pc.is_null(where)
        boxes = BOX_COLUMNS if self.padding is not None else ()
        todo = images.filter(missing).select(["uri", "size_bytes", "version", *boxes])
        if todo.num_rows:
            self._compute(todo, pool, workers, reporter)
            files = self._files(folder, reporter.say)
            cached = self.load(files)
            where = find_cached(images, cached, fresh=_keys(todo))
        if cached is None or pc.any(pc.is_null(where)).as_py():
            raise StorageError(
                f"some features written to {self.place} are missing: is another program deleting "
                "them? Run the same command again"
            )
        rows = cached.take(where)
        vectors, thumbnails = _read_arrays(files, rows, folder)
        if (size := vectors.nbytes + thumbnails.nbytes) > _MUCH_BYTES:
            reporter.say(f"features: {size / 1e9:.1f} GB on disk in {folder}")
        return Features(
            rows.drop_columns(["file", "row"]),
            vectors.reshape(images.num_rows, len(self.network.views), -1),
            thumbnails,
            images.num_rows - todo.num_rows,
        )

    def _compute(
        self, todo: pa.Table, pool: Pool, workers: WorkerCount, reporter: Reporter
    ) -> None:
        files = [self.place.relative(entry.uri) or "" for entry in self.storage.list(self.place)]
        # One above the highest: an earlier pass may have been deleted.
        passes = [int(each[1]) for file in files if (each := re.match(r"pass-(\d+)-", file))]
        number = max(passes, default=-1) + 1
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


def _read_arrays(files: Sequence[Path], rows: pa.Table, folder: Path) -> tuple[Floats, Bytes]:
    """The vectors, float32 (n, views x width), and thumbnails, uint8 (n, 32, 32), of rows from
    `FeatureCache.load`: in files of the folder, read one file of the cache at a time."""
    numbers, places = (rows[name].to_numpy() for name in ("file", "row"))
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(files) + 1))
    vectors: Array | None = None
    thumbnails = create_mapped(folder, np.uint8, (len(order), SIDE, SIDE))
    for number, path in enumerate(files):
        its = order[ends[number] : ends[number + 1]]
        if not len(its):
            continue
        table = pq.ParquetFile(path).read(list(_ARRAYS)).take(pa.array(places[its]))
        found = _vectors(table["embedding"])
        if vectors is None:
            vectors = create_mapped(folder, np.float32, (len(order), found.shape[1]))
        vectors[its] = found
        thumbnails[its] = grey_thumbnails(table["thumbnail"])
    assert vectors is not None
    return vectors, thumbnails


def mean_views(vectors: Array, count: int | None = None) -> Array:
    """The mean of the first `count` views (default: all) of features (n, views, width), of their
    dtype: (n, width)."""
    count = count or vectors.shape[1]
    if count == 1:
        return np.asanyarray(vectors[:, 0])
    shape = (len(vectors), vectors.shape[2])
    return map_rows(vectors, shape, lambda some: vectors[some, :count].mean(axis=1))


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
