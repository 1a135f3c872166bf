"""LILA's CSV of all its data sets: one row a label, each image on three clouds."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.labels.options import LabelOptions
from monkeyray.labels.schema import HUMAN, NOTE, binomial, has_column, labels_table, texts, times
from monkeyray.labels.source import Format, Source

#: The columns of URLs, the first of which is the default, and the web addresses of stores that are
#: read by their own protocol.
_CLOUDS = ("url_gcp", "url_aws", "url_azure", "url")
_STORES = {
    "https?://storage.googleapis.com/": "gs://",
    r"https?://us-west-2\.opendata\.source\.coop\.s3\.amazonaws\.com/": (
        "s3://us-west-2.opendata.source.coop/"
    ),
    r"https?://([a-z0-9.\-]+)\.s3(\.[a-z0-9\-]+)?\.amazonaws\.com/": r"s3://\1/",
}
#: Of names that begin with the data set: those of images whose place or sequence is not known.
_UNKNOWN = r" : unknown$"


def _read(source: Source, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    uri = options.uri_column or next((name for name in _CLOUDS if name in source.fields), "")
    if uri not in source.fields:
        raise InputError(
            f"{source.place} looks like LILA's table of all data sets, but lacks "
            f"{uri or ', '.join(_CLOUDS)}: give --uri-column the name of its column of URLs, such "
            "as url_gcp, url_aws or url_azure"
        )
    label = options.label_column if options.label_column in source.fields else "scientific_name"
    wanted = {
        uri, label, "dataset_name", "sequence_id", "location_id", "original_label", "common_name",
        "datetime", "annotation_level", options.group_column or "",
        *(("family", "genus", "species") if options.label_level else ()),
    }  # fmt: skip
    parts = []
    for table in source.tables(source.main, wanted):
        path, level = texts(table, uri), texts(table, "annotation_level")
        for pattern, start in _STORES.items():
            path = pc.replace_substring_regex(path, f"^{pattern}", start)
        unknown = pc.fill_null(pc.equal(level, "unknown"), True)
        notes[NOTE + "of images or sequences, which the table does not say"] += pc.sum(
            unknown
        ).as_py()
        has_column(options.label_column, table, notes)
        chosen = texts(table, label)
        if label == "scientific_name":
            # Images without animals have no scientific name.
            chosen = pc.coalesce(
                chosen, texts(table, "common_name"), texts(table, "original_label")
            )
        dataset = texts(table, "dataset_name")
        parts.append(
            labels_table(
                table.num_rows,
                path=path,
                label=chosen,
                group=texts(table, options.group_column),
                **(_taxa(table) if options.label_level else {}),
                location=_named(dataset, texts(table, "location_id")),
                sequence=_named(dataset, texts(table, "sequence_id")),
                time=times(texts(table, "datetime"), "%m-%d-%Y %H:%M:%S"),
                level=pc.if_else(unknown, None, level),
                by=HUMAN,
            )
        )
    return pa.concat_tables(parts)


def _taxa(table: pa.Table) -> dict[str, pa.Array]:
    genus, family = texts(table, "genus"), texts(table, "family")
    return {"species": binomial(genus, texts(table, "species")), "genus": genus, "family": family}


def _named(dataset: pa.Array, names: pa.Array) -> pa.Array:
    """Names that begin with their data set, in which alone they are unique."""
    whole = pc.binary_join_element_wise(dataset, names, " : ")
    names = pc.if_else(pc.match_substring(names, " : "), names, whole)
    return pc.if_else(pc.match_substring_regex(names, _UNKNOWN), None, names)


FORMATS = (
    Format(
        "LILA's table of all data sets",
        frozenset(
            ["datasetname", "imageid", "sequenceid", "locationid", "originallabel",
             "annotationlevel"]
        ),
        frozenset(["annotationlevel", "originallabel"]),
        "take the CSV from https://lila.science, or name the columns of a plain table by "
        "--uri-column and --label-column",
        _read,
    ),
)  # fmt: skip
