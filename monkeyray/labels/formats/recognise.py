"""The formats of labels that are recognised, by what a file contains."""

from __future__ import annotations

from monkeyray.errors import InputError
from monkeyray.labels.formats import camtrap_dp, coco, lila, timelapse, wildlife_insights
from monkeyray.labels.source import Format, Source
from monkeyray.storage.tables import key

FORMATS = (
    *camtrap_dp.FORMATS,
    *coco.FORMATS,
    *lila.FORMATS,
    *timelapse.FORMATS,
    *wildlife_insights.FORMATS,
)


def recognise(source: Source, uri_column: str | None) -> Format | None:
    """The format of a source; None for a plain table of images.

    A plain table has a column uri, or the one that is given. Raises InputError for what is nearly
    one of the formats, and for a format that is refused.
    """
    fields = set(map(key, source.fields))

    def share(each: Format) -> float:
        return len(each.marks & fields) / len(each.marks)

    best = max(FORMATS, key=share)
    missing = sorted(best.needed - fields)
    if share(best) < 0.5 or "uri" in source.fields or (missing and uri_column in source.fields):
        return None
    if missing:
        written = [name for name in source.fields if key(name) in best.marks]
        raise InputError(
            f"{source.place} looks like {best.called} (it has {', '.join(written)}), but "
            f"{source.main} lacks {', '.join(missing)}: {best.way_out}"
        )
    if best.read is None:
        raise InputError(f"{source.place} is {best.called}: {best.way_out}")
    return best
