"""The export job: predictions in the formats of other programs of the field."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace

from monkeyray.exports.camtrap.profile import FILES, read_project
from monkeyray.exports.job import Export, Job, open_source
from monkeyray.exports.options import ExportConfig
from monkeyray.exports.taxonomy import read_taxa
from monkeyray.options_file import write_options_beside
from monkeyray.storage.location import Location

#: The module and the function of each format. The function writes `job.output`.
_FORMATS = {
    "camtrap-dp": ("monkeyray.exports.camtrap.tables", "export_camtrap"),
    "megadetector": ("monkeyray.exports.megadetector", "export_megadetector"),
    "csv": ("monkeyray.exports.csv", "export_csv"),
    "failures": ("monkeyray.exports.failures", "export_failures"),
}


def export(config: ExportConfig) -> Export:
    """Write predictions in another format.

    Raises MonkeyRayError.
    """
    storage = config.store.storage()
    output = Location.parse(config.output)
    targets = [output / name for name in FILES] if config.format == "camtrap-dp" else [output]
    source = open_source(config, storage, targets)
    project = read_project(config.project, storage) if config.project else None
    taxa = read_taxa(
        config.taxonomy, storage, config.kinds(), dict(project.labels) if project else None
    )
    module, name = _FORMATS[config.format]
    write = getattr(importlib.import_module(module), name)
    with config.store.reporter().bar("exporting") as bar:
        job = Job(config, source, taxa, project, output, bar)
        done: Export = write(job)
    # Beside it, not in it: a package is given to others and holds nothing but the standard's files.
    write_options_beside(output, config, storage)
    notes = (*done.notes, *_notes(job), *source.notes())
    return replace(done, notes=notes, boxes=bool(source.predictions.box_columns))


def _notes(job: Job) -> Iterator[str]:
    """Notes about images and labels that the given tables lack."""
    # The notes of a Camtrap DP name the labels without a scientific name anyway.
    if job.config.taxonomy and job.config.format != "camtrap-dp":
        yield from job.taxa.notes()
