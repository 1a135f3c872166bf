"""Which images there are: folders, prefixes and manifests to Arrow tables, and their labels.

Every table has the columns `uri` (string), `size_bytes` (int64) and `version` (string: ETag or time
of modification), the last two null where a manifest does not tell; then what else a manifest had.
"""

from __future__ import annotations

import csv
import functools
import io
import os.path
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from monkeyray.errors import InputError
from monkeyray.storage import Storage
from monkeyray.uris import is_local, join, normalise

PLAN_SCHEMA = pa.schema(
    [("uri", pa.string()), ("size_bytes", pa.int64()), ("version", pa.string())]
)

#: Files that lie beside photographs and are none. Everything else is taken for an image, whatever
#: its name: the decoder decides.
_SIDECARS = frozenset(
    [
        "csv",
        "tsv",
        "txt",
        "json",
        "jsonl",
        "xml",
        "xmp",
        "yaml",
        "yml",
        "toml",
        "ini",
        "cfg",
        "md",
        "html",
        "htm",
        "log",
        "db",
        "sqlite",
        "parquet",
        "pq",
        "arrow",
        "dat",
        "xls",
        "xlsx",
        "ods",
        "doc",
        "docx",
        "pdf",
        "py",
        "r",
        "ipynb",
        "sha256",
        "md5",
        "h5",
        "safetensors",
        "thm",
        "tmp",
    ]
)
_HIDDEN = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "_SUCCESS"})
_SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_CHUNK = 8_192


def is_manifest(uri: str) -> bool:
    """Whether a URI names a table of images rather than a place with images."""
    return uri.lower().endswith((".csv", ".parquet", ".pq"))


def list_images(
    uri: str,
    storage: Storage,
    skipped: Counter[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """All images below a folder or prefix, or in a manifest, in tables of some thousand rows.

    `include` and `exclude` are globs of the path below a folder, or of the URI in a manifest, in
    which * goes through folders too: one of the first must match, where there are any, and none of
    the second. Counts into `skipped` what is no image by its name, "hidden" and "side-car" files,
    and what is "excluded".
    Raises InputError when there is no such place, or a manifest without the column `uri`.
    """
    uri = normalise(uri)
    if is_manifest(uri):
        tables, start = _read_manifest(uri, storage), 0
    else:
        tables, start = _list_folder(uri, storage, skipped), len(uri.rstrip("/")) + 1
    for table in tables:
        if include or exclude:
            keep = _matches(pc.utf8_slice_codeunits(table["uri"], start), include, exclude)
            skipped["excluded"] += table.num_rows - pc.sum(keep).as_py()
            table = table.filter(keep)
        yield table


def _matches(names: pa.ChunkedArray, include: Sequence[str], exclude: Sequence[str]) -> Any:
    def any_of(globs: Sequence[str]) -> Any:
        matches = [pc.match_like(names, _like(glob)) for glob in globs]
        return functools.reduce(pc.or_, matches)

    keep = any_of(include) if include else any_of(["*"])
    return pc.and_not(keep, any_of(exclude)) if exclude else keep


def _like(glob: str) -> str:
    """A glob as the pattern of SQL's LIKE, which Arrow matches without Python.

    >>> _like("*/IMG_?.jpg")
    '%/IMG\\\\__.jpg'
    """
    escaped = re.sub(r"([\\%_])", r"\\\1", glob)
    return escaped.replace("*", "%").replace("?", "_")


def list_labelled(uri: str, storage: Storage, skipped: Counter[str]) -> pa.Table:
    """All labelled images, with the columns `label` and, where given, `split` and `group`.

    In a folder the label is the first sub-folder; single folders around the labels, as unpacked
    archives have them, are passed through. Raises InputError for no images, a URI with two labels,
    a manifest without `label`, a label that is empty, or an unknown split.
    """
    uri = normalise(uri)
    chunks = list(list_images(uri, storage, skipped))
    table = pa.concat_tables(chunks) if chunks else PLAN_SCHEMA.empty_table()
    if table.num_rows == 0:
        raise InputError(f"no images in {uri}: give a folder whose sub-folders are the labels")
    if is_manifest(uri):
        if "label" not in table.column_names:
            raise InputError(
                f"manifest {uri} has no column 'label', only {', '.join(table.column_names)}"
            )
        for name in ("label", "split", "group"):
            if name in table.column_names:
                text = pc.utf8_trim_whitespace(table[name].cast(pa.string()))
                table = table.set_column(table.column_names.index(name), name, text)
    else:
        table = _label_by_folder(uri, table, skipped)
    empty = pc.sum(pc.or_kleene(pc.is_null(table["label"]), pc.equal(table["label"], ""))).as_py()
    if empty:
        raise InputError(f"manifest {uri} has {empty} rows with no label: fill them or drop them")
    if "split" in table.column_names:
        table = _check_splits(uri, table)
    return _drop_duplicates(uri, table)


def drop_duplicate_uris(table: pa.Table) -> pa.Table:
    """The first row of each URI, in order."""
    index = pa.array(range(table.num_rows), pa.int64())
    keys = pa.table({"uri": table["uri"], "index": index})
    first = keys.group_by("uri").aggregate([("index", "min")])["index_min"]
    if len(first) == table.num_rows:
        return table
    return table.take(first.take(pc.sort_indices(first)))


def read_label_names(uri: str, storage: Storage) -> dict[str, str]:
    """Label to name out of any table: CSV or Parquet, also Kaggle's padded monkey_labels.txt.

    The label is the column `label`, else the first; the name is `common_name`, `name`, or else the
    second column.
    """
    uri = normalise(uri)
    data = storage.read(uri).data
    if uri.lower().endswith((".parquet", ".pq")):
        table = pq.read_table(io.BytesIO(data))
        header = table.column_names
        rows = [[str(value) for value in row.values()] for row in table.to_pylist()]
    else:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"))))
        header, *rows = [line for line in lines if line] or [[]]
    keys = [name.strip().lower().replace(" ", "_") for name in header]
    if len(keys) < 2:
        raise InputError(f"label names {uri} need two columns, label and name; found {len(keys)}")
    label = keys.index("label") if "label" in keys else 0
    wanted = [keys.index(name) for name in ("common_name", "name") if name in keys]
    name = wanted[0] if wanted else (1 if label == 0 else 0)
    return {
        row[label].strip(): row[name].strip()
        for row in rows
        if len(row) > max(label, name) and row[label].strip()
    }


def _list_folder(uri: str, storage: Storage, skipped: Counter[str]) -> Iterator[pa.Table]:
    entries: list[tuple[str, int | None, str | None]] = []
    start = len(uri.rstrip("/")) + 1
    if is_local(uri) and not Path(uri).exists():
        raise InputError(f"no such folder of images: {uri}")
    for entry in storage.list(uri):
        # A URI that is one file names it on purpose, so its name is not judged.
        why = _no_image(entry.uri.removeprefix("file://")[start:]) if entry.uri != uri else None
        if why:
            skipped[why] += 1
            continue
        entries.append((entry.uri, entry.size_bytes, entry.version))
        if len(entries) == _CHUNK:
            yield _plan_table(entries)
            entries = []
    if entries:
        yield _plan_table(entries)


def _plan_table(entries: list[tuple[str, int | None, str | None]]) -> pa.Table:
    columns = [list(column) for column in zip(*entries, strict=True)]
    return pa.table(columns, schema=PLAN_SCHEMA)


def _no_image(relative: str) -> str | None:
    folders, _, name = relative.rpartition("/")
    if any(part.startswith(".") or part in _HIDDEN for part in [*folders.split("/"), name] if part):
        return "hidden"
    return "side-car" if name.lower().rpartition(".")[2] in _SIDECARS and "." in name else None


def _read_manifest(uri: str, storage: Storage) -> Iterator[pa.Table]:
    if not storage.exists(uri):
        raise InputError(f"no such manifest: {uri}")
    try:
        if uri.lower().endswith(".csv"):
            with storage.open(uri) as stream:
                head = io.StringIO(stream.read(1 << 20).decode("utf-8-sig", "replace"))
            # All columns as text: types guessed from the first rows may fail at the millionth.
            types = {name: pa.string() for name in next(csv.reader(head), [])}
            with storage.open(uri) as stream:
                reader = pyarrow.csv.open_csv(
                    stream,
                    parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                    convert_options=pyarrow.csv.ConvertOptions(column_types=types),
                )
                for batch in reader:
                    yield _absolute(uri, pa.Table.from_batches([batch]))
        else:
            with storage.open(uri) as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=_CHUNK):
                    yield _absolute(uri, pa.Table.from_batches([batch]))
    except pa.ArrowInvalid as error:
        raise InputError(f"manifest {uri} cannot be read: {str(error).splitlines()[0]}") from error


def _absolute(manifest: str, table: pa.Table) -> pa.Table:
    """A manifest's rows with full URIs and the columns of a plan first."""
    if "uri" not in table.column_names:
        raise InputError(
            f"manifest {manifest} has no column 'uri', only {', '.join(table.column_names)}"
        )
    uris = table["uri"].cast(pa.string())
    bad = pc.sum(pc.or_kleene(pc.is_null(uris), pc.equal(uris, ""))).as_py()
    if bad:
        raise InputError(f"manifest {manifest} has {bad} rows with no uri: fill them or drop them")
    folder = manifest.rpartition("/")[0]
    full = pc.match_substring_regex(uris, r"^(/|[A-Za-z][A-Za-z0-9+.\-]+://)")
    uris = pc.if_else(full, uris, pc.binary_join_element_wise(pa.scalar(folder), uris, "/"))
    odd = pc.match_substring_regex(uris, r"^file://|(^|/)\.{1,2}(/|$)")
    if pc.any(odd).as_py():
        mended = [
            _clean(value) if flag else value
            for value, flag in zip(uris.to_pylist(), odd.to_pylist(), strict=True)
        ]
        uris = pa.chunked_array([pa.array(mended, pa.string())])
    columns: dict[str, Any] = {"uri": uris}
    for name, kind in (("size_bytes", pa.int64()), ("version", pa.string())):
        columns[name] = pa.nulls(table.num_rows, kind)
    for name in table.column_names:
        if name not in columns:
            columns[name] = table[name]
    return pa.table(columns)


def _clean(uri: str) -> str:
    if is_local(uri):
        return normalise(uri)
    head, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    return join(f"{head}://{bucket}", os.path.normpath(key))


def _label_by_folder(uri: str, table: pa.Table, skipped: Counter[str]) -> pa.Table:
    start = len(uri.rstrip("/")) + 1
    paths = [path.removeprefix("file://")[start:].split("/") for path in table["uri"].to_pylist()]
    while all(len(path) >= 3 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    labelled = [len(path) >= 2 for path in paths]
    skipped["not in a label's folder"] += labelled.count(False)
    if not any(labelled):
        raise InputError(
            f"{uri} has images but no sub-folders: the sub-folders are the labels; or give a "
            "manifest with the columns uri and label"
        )
    labels = [path[0] for path in paths if len(path) >= 2]
    return table.filter(pa.array(labelled)).append_column("label", pa.array(labels, pa.string()))


def _check_splits(uri: str, table: pa.Table) -> pa.Table:
    values = [(value or "").lower() for value in table["split"].to_pylist()]
    unknown = sorted(set(values) - set(_SPLITS))
    if unknown:
        raise InputError(
            f"manifest {uri} has the split {unknown[0]!r}: write train, validation or test in "
            "every row, or drop the column"
        )
    column = pa.array([_SPLITS[value] for value in values], pa.string())
    return table.set_column(table.column_names.index("split"), "split", column)


def _drop_duplicates(uri: str, table: pa.Table) -> pa.Table:
    pairs = table.group_by(["uri", "label"]).aggregate([])
    twice = pairs.group_by("uri").aggregate([("label", "count")])
    clash = twice.filter(pc.greater(twice["label_count"], 1))
    if clash.num_rows:
        raise InputError(
            f"manifest {uri} gives {clash['uri'][0].as_py()} two labels"
            f" ({clash.num_rows} such images): keep one"
        )
    return drop_duplicate_uris(table)
