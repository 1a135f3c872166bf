"""Images that were not scored, each with the cause, as a manifest to score elsewhere."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from monkeyray.exports.job import Export, Job
from monkeyray.images.boxes import PASSED
from monkeyray.scoring.schema import SCORED
from monkeyray.storage.spreadsheets import guard

SCHEMA = pa.schema([(name, pa.string()) for name in ("uri", "captured_at", "failure", "reason")])


def export_failures(job: Job) -> Export:
    """Write the images that have neither a score nor people, vehicles or nothing in them, each
    once."""
    kinds: Counter[str] = Counter()
    done = pa.array([*SCORED, *PASSED])
    last: str | None = None
    with job.storage.writing(job.output) as file, pyarrow.csv.CSVWriter(file, SCHEMA) as writer:
        columns = ["uri", "captured_at", "status", "error"]
        for table in job.predictions.tables(columns, job.advance):
            table = table.filter(pc.invert(pc.is_in(table["status"], done)))
            # The rows of an image's boxes follow each other.
            uris = [last, *table["uri"].to_pylist()]
            last = uris[-1]
            table = table.filter(pa.array([a != b for a, b in pairwise(uris)], pa.bool_()))
            kinds.update(table["status"].to_pylist())
            arrays = [*table.columns[:3], guard(table["error"])]
            writer.write_table(pa.table(arrays, schema=SCHEMA))
    return Export(str(job.output), kinds)
