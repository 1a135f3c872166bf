"""The export job: predictions into the formats that other programs of the field read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from monkeyray.console import Advance
from monkeyray.exports.camtrap_profile import Project, read_project
from monkeyray.exports.deployments import Deployments, SitePattern, read_deployments
from monkeyray.exports.options import ExportConfig
from monkeyray.exports.rows import check_output, root_of
from monkeyray.exports.taxonomy import Taxa, read_taxa
from monkeyray.options import write_options_beside
from monkeyray.runs.reader import Predictions, open_predictions
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage


@dataclass(frozen=True)
class Export:
    """What an export did.

    `kinds`: rows written, by what they stand for. `left_out`: images that are not in it, or in a
    CSV have no time, by why. `notes`: what people should look at. `boxes`: whether the rows are of
    boxes, by detections.
    """

    uri: str
    kinds: Counter[str]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    boxes: bool = False

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `output`; how many `images` were written, by `kinds` (where
        `boxes` is true, rows of boxes and of images without one); those without a date or path,
        by sentences for people, in `left_out`; `notes` for people."""
        return {
            "output": self.uri,
            "images": self.kinds.total(),
            "boxes": self.boxes,
            "kinds": dict(self.kinds),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        rows = "boxes, and images without one," if self.boxes else "images"
        lines = [f"{self.kinds.total()} {rows} exported"]
        lines += [f"  {count:>9} {kind}" for kind, count in self.kinds.most_common()]
        if self.left_out:
            lines.append(f"{self.left_out.total()} images without a date or path")
            lines += [f"  {count:>9} {why}" for why, count in self.left_out.most_common()]
        return "\n".join([*lines, *self.notes, f"written to {self.uri}"])


def export(config: ExportConfig) -> Export:
    """Write predictions in another format.

    Raises a MonkeyRayError that says what to change.
    """
    storage = config.store.storage()
    uri = normalise(config.output)
    storage.check_reachable(normalise(config.predictions))
    predictions = open_predictions(config.predictions, storage, partial=config.partial)
    _check_output(config, uri, storage)
    project = read_project(config.project, storage) if config.project else None
    taxa = read_taxa(
        config.taxonomy, storage, config.kinds(), dict(project.labels) if project else None
    )
    pattern = SitePattern(config.site_pattern) if config.site_pattern else None
    deployments = (
        read_deployments(config.deployments, storage, pattern) if config.deployments else None
    )
    with config.store.reporter().bar("exporting") as bar:
        done = _FORMATS[config.format](
            _Job(config, predictions, uri, storage, taxa, deployments, project, bar)
        )
    # Beside it and not in it, since a package is given to others, and has no folders of ours.
    write_options_beside(uri, config, storage)
    done = replace(done, notes=(*done.notes, *_notes_of_tables(config, taxa, deployments)))
    if config.partial and not predictions.is_complete:
        note = f"partial: {predictions.rows} of {predictions.run.rows} images are scored so far"
        done = replace(done, notes=(*done.notes, note))
    return replace(done, boxes=bool(predictions.box_columns))


def _notes_of_tables(
    config: ExportConfig, taxa: Taxa, deployments: Deployments | None
) -> Iterator[str]:
    """What of the predictions is not in the tables that were given."""
    if deployments is not None and deployments.unknown is not None:
        yield f"of no deployment: {deployments.unknown}"
    # A data package names those without a scientific name anyway.
    if config.taxonomy and config.format != "camtrap-dp" and (note := taxa.note_of_unlisted()):
        yield note


@dataclass(frozen=True)
class _Job:
    config: ExportConfig
    predictions: Predictions
    uri: str
    storage: Storage
    taxa: Taxa
    deployments: Deployments | None
    project: Project | None
    bar: Advance


def _csv(job: _Job) -> Export:
    from monkeyray.exports.csv import export_csv
    from monkeyray.exports.deployments import REASONS

    root = normalise(job.config.relative_to) if job.config.relative_to else job.predictions.root
    kinds, undated = export_csv(
        job.predictions,
        job.uri,
        job.storage,
        root=root,
        taxa=job.taxa,
        rollup_threshold=job.config.rollup_threshold,
        deployments=job.deployments,
        advance=job.bar,
    )
    return Export(job.uri, kinds, Counter({REASONS[reason]: n for reason, n in undated.items()}))


def _megadetector(job: _Job) -> Export:
    from monkeyray.exports.megadetector import export_megadetector

    counts = export_megadetector(
        job.predictions,
        job.uri,
        job.storage,
        root=root_of(job.predictions, job.config.relative_to),
        taxa=job.taxa,
        advance=job.bar,
    )
    notes = (f"{counts.videos} videos, which are not scored, left out",) if counts.videos else ()
    return Export(job.uri, counts.kinds, notes=notes)


def _camtrap(job: _Job) -> Export:
    from monkeyray.exports.camtrap import WHY, Camtrap, default_paths, export_camtrap

    assert job.project is not None
    assert job.deployments is not None
    given = job.config.relative_to
    paths = normalise(given) if given else default_paths(job.predictions, job.uri)
    root = root_of(job.predictions, given)
    counts = export_camtrap(
        job.predictions,
        job.uri,
        job.storage,
        camtrap=Camtrap(
            job.project, job.deployments, job.taxa, root, paths, job.config.rollup_threshold
        ),
        advance=job.bar,
    )
    notes = []
    if counts.left_out:
        notes.append(f"what was left out is listed in {join(job.uri, 'left-out.csv')}")
    if counts.contradicted:
        notes.append(
            f"{counts.contradicted} images have another offset in their EXIF than their "
            "deployment's time zone, which was taken"
        )
    if counts.unnamed:
        some = ", ".join(sorted(counts.unnamed)[:5])
        notes.append(
            f"{len(counts.unnamed)} labels of animals have no scientific name ({some}): give them "
            "one with --taxonomy"
        )
    left_out = Counter({WHY[reason]: count for reason, count in counts.left_out.items()})
    return Export(job.uri, counts.kinds, left_out, tuple(notes))


_FORMATS = {"camtrap-dp": _camtrap, "megadetector": _megadetector, "csv": _csv}


def _check_output(config: ExportConfig, uri: str, storage: Storage) -> None:
    from monkeyray.exports.camtrap import FILES

    targets = [join(uri, name) for name in FILES] if config.format == "camtrap-dp" else [uri]
    inputs = {name: getattr(config, name) for name in ("deployments", "project", "taxonomy")}
    check_output(targets, inputs, storage, overwrite=config.overwrite)
