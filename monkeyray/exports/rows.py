"""What is exported: the rows of predictions, some thousand at a time, and the names of files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monkeyray.arrays import Array
from monkeyray.errors import ConfigError, InputError, MissingError, RunError, StorageError
from monkeyray.images.boxes import BOX_COLUMNS
from monkeyray.progress import Advance
from monkeyray.runs.run import Run, open_run
from monkeyray.storage.location import join, local_path, normalise
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table

#: Rows at a time: what an export holds in memory does not grow with the files.
_ROWS = 8192


@dataclass(frozen=True)
class Predictions:
    """Predictions to be read. `parts`: the parts of the run that have a file, in order."""

    run: Run
    parts: tuple[int, ...]

    @property
    def images(self) -> str | None:
        """The folder, prefix or manifest that was scored, where the run says."""
        value = self.run.identity.get("images")
        return value if isinstance(value, str) else None

    @property
    def root(self) -> str | None:
        """The folder or prefix that the images are below: that of a manifest, where it was one."""
        if self.images and is_table(self.images):
            return self.images.rpartition("/")[0] or "/"
        return self.images

    @property
    def box_columns(self) -> list[str]:
        """The columns that say of which box a row is; none where whole images were scored."""
        return list(BOX_COLUMNS) if self.run.identity.get("detections") else []

    @property
    def rows(self) -> int:
        """Rows in the parts that have a file."""
        return sum(self.run.plan.sizes[part] for part in self.parts)

    def tables(self, columns: list[str], advance: Advance | None = None) -> Iterator[pa.Table]:
        """The rows in the order in which the images were listed, with the columns given."""
        done = 0
        for part in self.parts:
            uri = self.run.part_uri(part)
            try:
                with self.run.storage.open(uri) as source, pq.ParquetFile(source) as file:
                    missing = [name for name in columns if name not in file.schema_arrow.names]
                    if missing:
                        raise RunError(
                            f"{uri} has no column {missing[0]!r}: it is of another version of "
                            "MonkeyRay; export with that one, or score again"
                        )
                    for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                        # In the order asked for, which is not always the file's.
                        yield pa.Table.from_batches([batch]).select(columns)
                        done += batch.num_rows
                        if advance is not None:
                            advance(self.rows, {"ok": done})
            except MissingError as error:
                raise RunError(
                    f"{uri} was deleted while it was read: let the scoring end, and export again"
                ) from error
            except pa.ArrowException as error:
                raise RunError(
                    f"{uri} cannot be read ({str(error).splitlines()[0]}): delete it and run "
                    "the scoring command again"
                ) from error


def open_predictions(uri: str, storage: Storage, *, partial: bool) -> Predictions:
    """The predictions in a place, whatever model and options they are of.

    Raises RunError where there are none, or where the run is not finished and `partial` is not
    allowed.
    """
    uri = normalise(uri)
    try:
        identity: Any = json.loads(storage.read(join(uri, "_run.json")).data)["identity"]
    except MissingError:
        raise RunError(
            f"no predictions in {uri}: it has no _run.json; give the place that was --predictions "
            "of score"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        identity = None
    # It says what is wrong with a file that cannot be read.
    run = open_run(uri, storage, identity if isinstance(identity, dict) else {})
    assert run is not None
    parts = tuple(sorted(run.finished()))
    if not storage.exists(join(uri, "_SUCCESS")):
        if not partial:
            raise RunError(
                f"{uri} is not finished ({len(parts)} of {len(run.plan.sizes)} files, no "
                "_SUCCESS): run the scoring command again, or export what is there with --partial"
            )
    elif len(parts) != len(run.plan.sizes):
        raise RunError(
            f"{uri} has {len(parts)} of its {len(run.plan.sizes)} files: others were deleted; run "
            "the scoring command again, or export what is there with --partial"
        )
    if not parts:
        raise RunError(f"{uri} has no rows yet: run the scoring command again")
    return Predictions(run, parts)


def listed_labels(top_k: pa.ChunkedArray) -> set[str]:
    """The labels in a column top_k."""
    return set(pc.unique(_listed(top_k, "label")).to_pylist())


def listed_scores(top_k: pa.ChunkedArray, labels: list[str]) -> Array:
    """A column top_k as float64 (n, labels), 0 for a label that a row does not list and for rows
    that were not scored."""
    scores = np.zeros((len(top_k), len(labels)))
    counts = pc.fill_null(pc.list_value_length(top_k), 0).to_numpy()
    columns = pc.index_in(_listed(top_k, "label"), value_set=pa.array(labels, pa.string()))
    rows = np.repeat(np.arange(len(top_k)), counts)
    scores[rows, columns.to_numpy()] = _listed(top_k, "score").to_numpy()
    return scores


def _listed(top_k: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.struct_field(pc.list_flatten(top_k), name)


def relative(uri: str, root: str) -> str | None:
    """The path of an image below a place, None where it is not below it.

    Of a local name that is no UTF-8, the bytes are percent-encoded.

    >>> relative("s3://bucket/a/b c.jpg", "s3://bucket/a"), relative("/x/y.jpg", "/z")
    ('b c.jpg', None)
    """
    encoded = uri.startswith("file://")
    path = local_path(uri) if encoded else uri
    start = join(root, "")
    if not path.startswith(start) or len(path) == len(start):
        return None
    path = path[len(start) :]
    return quote(os.fsencode(path)) if encoded else path


def tidy_box(bbox: Sequence[float]) -> list[float]:
    """Left, top, width and height of a box with the digits that a float32 has, within 0 and 1.

    >>> tidy_box([0.20000000298, -0.001, 0.5, 1.002])
    [0.2, 0.0, 0.5, 1.0]
    """
    starts = [min(max(round(share, 6), 0.0), 1.0) for share in bbox[:2]]
    ends = [min(max(bbox[i] + bbox[i + 2], 0.0), 1.0) for i in (0, 1)]
    sides = (end - start for start, end in zip(starts, ends, strict=True))
    return starts + [max(round(side, 6), 0.0) for side in sides]


def root_of(predictions: Predictions, relative_to: str | None) -> str:
    """The place that paths are relative to: the option's, or the images' own.

    Raises InputError where neither is known.
    """
    root = normalise(relative_to) if relative_to else predictions.root
    if root is None:
        raise InputError(
            f"{predictions.run.uri} does not say where its images were: say with --relative-to "
            "what their paths are to be relative to"
        )
    return root


def check_output(
    targets: Sequence[str], inputs: Mapping[str, str | None], storage: Storage, *, overwrite: bool
) -> None:
    """Refuse to write over what is there, and over what is read.

    `inputs`: by option, the tables that are given. Raises ConfigError or StorageError.
    """
    for name, value in inputs.items():
        if value and normalise(value) in targets:
            raise ConfigError(f"--{name} {value} would be overwritten: choose another --output")
    for target in () if overwrite else targets:
        if storage.exists(target):
            raise StorageError(
                f"{target} is there already: choose another --output, or replace it with "
                "--overwrite"
            )
