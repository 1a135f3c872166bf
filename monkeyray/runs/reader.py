"""The one reader of predictions: for exports, events, review, evaluation and rescoring.

`open_predictions` finds the run in a place and its files; `Predictions.tables` streams rows in the
order in which the images were listed. Anything wrong with the predictions (a missing or unfinished
run, a damaged file) is an InputError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from monkeyray.console import Advance
from monkeyray.errors import InputError, MissingError, RunError
from monkeyray.images.boxes import BOX_COLUMNS
from monkeyray.runs.place import read_run
from monkeyray.runs.run import Run, read_parquet
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table

#: Rows at a time: what a reader holds in memory does not grow with the files.
_ROWS = 8192


@dataclass(frozen=True)
class Predictions:
    """Predictions to read. `files`: the URI of each shard's file, in order; in one that is not
    finished some have none. `given_times`: replaces the column captured_at in tables that also
    have uri."""

    run: Run
    files: Mapping[int, str]
    given_times: Callable[[pa.Table], pa.Table] | None = None

    @property
    def uri(self) -> str:
        """The folder or prefix that they are in."""
        return str(self.run.place)

    @property
    def images(self) -> str | None:
        """The folder, prefix or manifest that was scored, if the run says so."""
        value = self.run.identity.get("images")
        return value if isinstance(value, str) else None

    @property
    def root(self) -> Location | None:
        """The folder or prefix that contains the images; for a manifest, its folder."""
        return root_of(self.images) if self.images else None

    @property
    def box_columns(self) -> list[str]:
        """The columns that describe each row's box; empty if whole images were scored."""
        return list(BOX_COLUMNS) if self.run.identity.get("detections") else []

    @property
    def rows(self) -> int:
        """Rows in the files that are there."""
        return sum(self.run.plan.sizes[shard] for shard in self.files)

    @property
    def is_complete(self) -> bool:
        """Whether every shard has a file."""
        return len(self.files) == len(self.run.plan.sizes)

    def tables(self, columns: list[str], advance: Advance | None = None) -> Iterator[pa.Table]:
        """The rows in the order in which the images were listed, some thousand at a time, with
        the given columns in the given order.

        Raises InputError for a file that is damaged, was deleted meanwhile, or lacks a column.
        """
        done = 0
        for uri in self.files.values():
            try:
                with self.run.storage.open(uri) as source, pq.ParquetFile(source) as file:
                    missing = [name for name in columns if name not in file.schema_arrow.names]
                    if missing:
                        raise InputError(
                            f"{uri} has no column {missing[0]!r}; another version of MonkeyRay "
                            "wrote it: use that version, or score the images again"
                        )
                    for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                        # In the order asked for, which is not always the file's.
                        table = pa.Table.from_batches([batch]).select(columns)
                        if self.given_times is not None and "captured_at" in columns:
                            table = self.given_times(table)
                        yield table
                        done += batch.num_rows
                        if advance is not None:
                            advance(self.rows, {"ok": done})
            except MissingError as error:
                raise InputError(
                    f"{uri} was deleted while it was being read: wait for the scoring to finish, "
                    "then run "
                    "this command again"
                ) from error
            except pa.ArrowException as error:
                raise InputError(
                    f"{uri} cannot be read ({str(error).splitlines()[0]}): delete it and run "
                    "the scoring command again"
                ) from error

    def read_shard(self, shard: int) -> pa.Table:
        """All columns of one shard. Raises MissingError if its file was deleted meanwhile."""
        return read_parquet(self.run.storage, self.files[shard])


def root_of(images: str) -> Location:
    """The folder or prefix that contains images: of a manifest, its own."""
    place = Location.parse(images)
    return place.parent if is_table(images) else place


def open_predictions(
    uri: str | Location, storage: Storage, *, partial: bool = False
) -> Predictions:
    """The predictions in a place, of whatever model and options.

    Raises InputError if there are none, or if the run is not finished and `partial` is false.
    """
    place = Location.parse(uri)
    try:
        run = read_run(place, storage, "score the images again with this version")
    except RunError as error:
        raise InputError(str(error)) from error
    if run is None:
        raise InputError(
            f"no predictions in {place}: it has no _run.json; give the folder or prefix that was "
            "--predictions of `monkeyray score`, or --output of `monkeyray rescore`"
        )
    files = {shard: run.file_uri(shard, run_id) for shard, run_id in run.files().items()}
    predictions = Predictions(run, files)
    if not partial:
        there = f"{len(files)} of {len(run.plan.sizes)} files"
        if not run.is_finished():
            raise InputError(
                f"the predictions in {place} are not finished ({there}, no _SUCCESS): run the "
                "command that writes them again; export, events and review also take --partial"
            )
        if not predictions.is_complete:
            raise InputError(
                f"{place} has {there}, others were deleted: run the command that wrote them again; "
                "export, events and review also take --partial"
            )
    if not files:
        raise InputError(f"{place} has no rows yet: run the scoring command again")
    return predictions
