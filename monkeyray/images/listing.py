"""Which images there are: folders, prefixes and manifests to Arrow tables, and their labels.

Every table has the columns `uri` (string), `size_bytes` (int64) and `version` (string: ETag or time
of modification), the last two null in a manifest's; then what else a manifest had, under another
name where it is one of these or of boxes.BOX_COLUMNS.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from monkeyray.errors import ConfigError, InputError, ObjectError
from monkeyray.images.boxes import BOX_COLUMNS
from monkeyray.redact import has_secret, masked
from monkeyray.storage.keys import first_of_each, string_keys
from monkeyray.storage.local import local_errors
from monkeyray.storage.location import is_local, join, local_path, local_uri, normalise
from monkeyray.storage.spreadsheets import unguard, unguarded
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import delimiter_of
from monkeyray.terminal import has_control

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

#: In RE2's syntax, for Arrow.
_FULL = r"^(/|[A-Za-z][A-Za-z0-9+.\-]+://)"
_LOCAL = r"(?i)^(/|file://)"
_HALF_FULL = r"^[A-Za-z][A-Za-z0-9+.\-]+:/([^/]|$)"
_DOTS = r"(^|/)\.{1,2}(/|$)"
_S3 = r"(?i)^s3://"
_S3_NAME = r"(?is)^s3://[a-z0-9][a-z0-9._\-]{1,254}/."
_OTHER_NAME = r"(?is)^([^:]+://[^/]+/|memory://)."
_MAYBE_SECRET = r"(?is)^[a-z][a-z0-9+.\-]+://.*(@|[?&;].*=)"
_MAYBE_A_SECRET_IN_IT = r"(?is)[a-z][a-z0-9+.\-]+:/.*(@|[?&;].*=)"


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
        tables, start = _read_manifest(uri, storage), None
    else:
        tables, start = _list_folder(uri, storage, skipped), _start(uri)
    for table in tables:
        if include or exclude:
            keep = _matches(_names(table["uri"], start), include, exclude)
            skipped["excluded"] += table.num_rows - _count(keep)
            table = table.filter(keep)
        yield table


def _count(mask: Any) -> int:
    return pc.sum(mask).as_py() or 0  # of no rows the sum is null


def _start(root: str) -> int:
    """Where in the path of an image below a place the part below it begins."""
    return len(root.rstrip("/")) + 1


def _names(uris: pa.ChunkedArray, start: int | None) -> pa.ChunkedArray:
    """What globs are matched with."""
    if start is None:
        return uris
    if not pc.any(pc.starts_with(uris, "file://")).as_py():
        return pc.utf8_slice_codeunits(uris, start)
    # Names that are no UTF-8: Arrow holds none, so what is none of it becomes U+FFFD.
    names = [
        local_path(uri)[start:].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for uri in uris.to_pylist()
    ]
    return pa.chunked_array([pa.array(names, pa.string())])


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
    a manifest without `label`, a label that is empty or has control characters, or an unknown
    split. A blank `group` is null. Of a label in a CSV, a ' before a formula is taken off.
    """
    uri = normalise(uri)
    chunks = list(list_images(uri, storage, skipped))
    table = pa.concat_tables(chunks) if chunks else PLAN_SCHEMA.empty_table()
    if table.num_rows == 0:
        raise InputError(f"no images in {uri}: give a folder whose sub-folders are the labels")
    if is_manifest(uri):
        if "label" not in table.column_names:
            its = [name for name in table.column_names if name not in PLAN_SCHEMA.names[1:]]
            raise InputError(f"manifest {uri} has no column 'label', only {', '.join(its)}")
        for name in ("label", "split", "group"):
            if name in table.column_names:
                text = pc.utf8_trim_whitespace(_text(uri, table, name))
                if name == "group":
                    text = pc.if_else(pc.equal(text, ""), None, text)
                elif name == "label" and uri.lower().endswith(".csv"):
                    text = unguard(text)
                table = table.set_column(table.column_names.index(name), name, text)
    else:
        table = _label_by_folder(uri, table, skipped)
    empty = _count(pc.or_kleene(pc.is_null(table["label"]), pc.equal(table["label"], "")))
    if empty:
        raise InputError(f"manifest {uri} has {empty} rows with no label: fill them or drop them")
    strange = [label for label in pc.unique(table["label"]).to_pylist() if has_control(label)]
    if strange:
        raise InputError(
            f"{uri} has the label {min(strange)!r}, and a label has no control characters: "
            + ("correct it" if is_manifest(uri) else "rename the folder")
        )
    if "split" in table.column_names:
        table = _check_splits(uri, table)
    return _drop_duplicates(uri, table)


def drop_duplicate_uris(table: pa.Table) -> pa.Table:
    """The first row of each URI, in order."""
    return table.filter(pa.array(first_of_each(string_keys(table["uri"]))))


def read_label_names(uri: str, storage: Storage) -> dict[str, str]:
    """Label to name out of any table: CSV or Parquet, also Kaggle's padded monkey_labels.txt.

    The label is the column `label`, else the first; the name is `common_name`, `name`, or else the
    second column. Raises InputError for what is no such table, or has control characters.
    """
    uri = normalise(uri)
    try:
        data = storage.read(uri).data
        if uri.lower().endswith((".parquet", ".pq")):
            table = pq.read_table(io.BytesIO(data))
            header = table.column_names
            columns = [column.to_pylist() for column in table.columns]
            lines = zip(*columns, strict=True)
            rows = [["" if value is None else str(value) for value in line] for line in lines]
        else:
            text = data.decode("utf-8-sig", "replace")
            delimiter = delimiter_of(text.partition("\n")[0])
            read = csv.reader(io.StringIO(text), delimiter=delimiter)
            header, *rows = [line for line in read if line] or [[]]
    except (ObjectError, pa.ArrowException, OSError, csv.Error) as error:
        raise InputError(
            f"--label-names {uri} cannot be read: {_first_line(error)}: give a CSV or Parquet file "
            "with the columns label and name"
        ) from error
    keys = [name.strip().lower().replace(" ", "_") for name in header]
    if len(keys) < 2:
        raise InputError(
            f"--label-names {uri} needs two columns, label and name; it has {len(keys)}"
        )
    label = keys.index("label") if "label" in keys else 0
    wanted = [keys.index(name) for name in ("common_name", "name") if name in keys]
    name = wanted[0] if wanted else (1 if label == 0 else 0)
    names = {
        unguarded(row[label].strip()): " ".join(row[name].split())
        for row in rows
        if len(row) > max(label, name) and row[label].strip()
    }
    for text in (*names, *names.values()):
        if has_control(text):
            raise InputError(
                f"--label-names {uri} has {text!r}, which has control characters: correct it"
            )
    return names


def _list_folder(uri: str, storage: Storage, skipped: Counter[str]) -> Iterator[pa.Table]:
    entries: list[tuple[str, int | None, str | None]] = []
    start = _start(uri)
    if is_local(uri):
        with local_errors(uri):
            there = Path(uri).exists()
        if not there:
            raise InputError(f"no such folder of images: {uri}")
    for entry in storage.list(uri):
        # A URI that is one file names it on purpose, so its name is not judged.
        why = _no_image(local_path(entry.uri)[start:]) if entry.uri != uri else None
        if why:
            skipped[why] += 1
            continue
        entries.append((local_uri(entry.uri), entry.size_bytes, entry.version))
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
    if local_uri(uri) != uri:
        raise InputError(f"the path of manifest {uri!r} is no UTF-8: move it to one that is")
    tried: set[str] = set()
    try:
        for table in _read_tables(uri, storage):
            yield _absolute(uri, table, storage, tried)
    except (pa.ArrowException, csv.Error) as error:
        raise InputError(f"manifest {uri} cannot be read: {_first_line(error)}") from error
    except OSError as error:
        if error.errno is not None:
            with local_errors(uri):
                raise
        # Arrow's own, for bytes that are no Parquet, has no number.
        raise InputError(f"manifest {uri} cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _read_tables(uri: str, storage: Storage) -> Iterator[pa.Table]:
    if uri.lower().endswith(".csv"):
        with storage.open(uri) as stream:
            head = io.StringIO(stream.read(1 << 20).decode("utf-8-sig", "replace"))
        # All columns as text: types guessed from the first rows may fail at the millionth.
        delimiter = delimiter_of(head.readline())
        head.seek(0)
        types = {name: pa.string() for name in next(csv.reader(head, delimiter=delimiter), [])}
        with storage.open(uri) as stream:
            reader = pyarrow.csv.open_csv(
                stream,
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True
                ),
                convert_options=pyarrow.csv.ConvertOptions(column_types=types),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])
    else:
        with storage.open(uri) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_CHUNK):
                yield pa.Table.from_batches([batch])


def _absolute(manifest: str, table: pa.Table, storage: Storage, tried: set[str]) -> pa.Table:
    """A manifest's rows with full URIs and the columns of a plan first."""
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise InputError(f"manifest {manifest} has two columns {twice[0]!r}: rename one")
    if "uri" not in table.column_names:
        raise InputError(
            f"manifest {manifest} has no column 'uri', only {', '.join(table.column_names)}"
        )
    uris = _text(manifest, table, "uri")
    bad = _count(pc.or_kleene(pc.is_null(uris), pc.equal(uris, "")))
    if bad:
        raise InputError(f"manifest {manifest} has {bad} rows with no uri: fill them or drop them")
    columns: dict[str, Any] = {"uri": _full_uris(manifest, uris, storage, tried)}
    for name, kind in (("size_bytes", pa.int64()), ("version", pa.string())):
        columns[name] = pa.nulls(table.num_rows, kind)
    ours = {*columns, *BOX_COLUMNS}
    taken = {*ours, *table.column_names}
    for name in table.column_names:
        if name == "uri":
            continue
        mine = name
        while mine in ours or mine in columns or (mine != name and mine in taken):
            mine = f"input_{mine}"
        _check_no_secret(manifest, name, table[name])
        columns[mine] = table[name]
    return pa.table(columns)


def _check_no_secret(manifest: str, name: str, column: pa.ChunkedArray) -> None:
    """Raise InputError for a column that would carry credentials into every row of predictions."""
    if pa.types.is_dictionary(column.type):  # pandas' categories
        column = column.cast(column.type.value_type)
    while pa.types.is_nested(column.type):
        if pa.types.is_struct(column.type):
            for index, field in enumerate(column.type):
                _check_no_secret(manifest, f"{name}.{field.name}", pc.struct_field(column, index))
            return
        column = pc.list_flatten(column)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_kind(column.type) for is_kind in kinds):
        return
    column = column.cast(pa.large_string())
    maybe = column.filter(pc.match_substring_regex(column, _MAYBE_A_SECRET_IN_IT))
    count = sum(map(has_secret, maybe.to_pylist()))
    if count:
        raise InputError(
            f"manifest {manifest} has credentials in {count} rows of its column {name!r}, and the "
            "predictions would hold them: drop the column"
        )


def _text(manifest: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column as text; what is no number in a column of floats is null, as pandas writes it."""
    column = table[name]
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        text = column.cast(pa.string())
        text.validate(full=True)  # of bytes that are no UTF-8 no str can be made
    except pa.ArrowException as error:
        raise InputError(
            f"manifest {manifest} has a column {name!r} ({table[name].type}) that is no text: "
            "write one text in UTF-8 in each row"
        ) from error
    return text


def _full_uris(
    manifest: str, written: pa.ChunkedArray, storage: Storage, tried: set[str]
) -> pa.ChunkedArray:
    full = pc.match_substring_regex(written, _FULL)
    folder = pa.scalar(manifest.rpartition("/")[0])
    uris = pc.if_else(full, written, pc.binary_join_element_wise(folder, written, "/"))
    local = pc.match_substring_regex(uris, _LOCAL)
    _check_uris(manifest, written, pc.and_not(full, local))
    _try_schemes(manifest, uris.filter(pc.invert(local)), storage, tried)
    # A full URI of another store is one name as it is, dots and all.
    dots = pc.and_(pc.match_substring_regex(uris, _DOTS), pc.or_(local, pc.invert(full)))
    odd = pc.or_(pc.match_substring_regex(uris, "(?i)^file://"), dots)
    if not pc.any(odd).as_py():
        return uris
    mended = [
        _clean(manifest, value) if flag else value
        for value, flag in zip(uris.to_pylist(), odd.to_pylist(), strict=True)
    ]
    return pa.chunked_array([pa.array(mended, pa.string())])


def _check_uris(manifest: str, uris: pa.ChunkedArray, remote: Any) -> None:
    """Raise InputError for URIs that no store can have: one of them would stop a job that runs."""

    def match(pattern: str) -> Any:
        return pc.match_substring_regex(uris, pattern)

    secret = match(_MAYBE_SECRET)
    if pc.any(secret).as_py():
        looked_at = zip(uris.to_pylist(), secret.to_pylist(), strict=True)
        exact = [maybe and masked(uri) != uri for uri, maybe in looked_at]
        secret = pa.chunked_array([pa.array(exact, pa.bool_())])
    formed = pc.if_else(match(_S3), match(_S3_NAME), match(_OTHER_NAME))
    bad = pc.or_(pc.or_(secret, match(_HALF_FULL)), pc.and_not(remote, formed))
    count = _count(bad)
    if not count:
        return
    first = pc.index(bad, True).as_py()
    if secret[first].as_py():
        why = (
            "it carries credentials, before the @ or in its query: give them through the "
            "environment or a role"
        )
    else:
        why = "write a path, or scheme://bucket/path as s3://bucket/photos/1.jpg"
    raise InputError(
        f"manifest {manifest} has {count} malformed URIs, the first is "
        f"{masked(uris[first].as_py())!r}: {why}"
    )


def _try_schemes(manifest: str, uris: pa.ChunkedArray, storage: Storage, tried: set[str]) -> None:
    kinds = pc.utf8_lower(pc.replace_substring_regex(uris, "(?s)://.*", ""))
    for kind in set(pc.unique(kinds).to_pylist()) - {"s3"} - tried:
        example = uris[pc.index(kinds, kind).as_py()].as_py()
        try:
            storage.arrow(example)
        except Exception as error:  # each file system has its own
            count = _count(pc.equal(kinds, kind))
            raise InputError(
                f"manifest {manifest} has {count} URIs that cannot be opened, the first is "
                f"{example!r}: {_first_line(error)}"
            ) from error
        tried.add(kind)


def _clean(manifest: str, uri: str) -> str:
    if is_local(uri):
        try:
            return local_uri(normalise(uri))
        except ConfigError as error:
            raise InputError(f"manifest {manifest} has a {error}") from error
    head, _, path = uri.partition("://")
    bucket, *names = path.split("/")
    kept: list[str] = []
    for name in names:
        if name == "..":
            del kept[-1:]
        elif name != ".":
            kept.append(name)
    return join(f"{head}://{bucket}", *kept)


def _label_by_folder(uri: str, table: pa.Table, skipped: Counter[str]) -> pa.Table:
    root, start = uri, _start(uri)
    paths = [local_path(path)[start:].split("/") for path in table["uri"].to_pylist()]
    while all(len(path) >= 3 for path in paths) and len({path[0] for path in paths}) == 1:
        root = join(root, paths[0][0])
        paths = [path[1:] for path in paths]
    labelled = [len(path) >= 2 for path in paths]
    skipped["not in a label's folder"] += labelled.count(False)
    if not any(labelled):
        raise InputError(
            f"{uri} has images but no sub-folders: the sub-folders are the labels; or give a "
            "manifest with the columns uri and label"
        )
    labels = [path[0] for path in paths if len(path) >= 2]
    _check_label_folders(root, sorted(set(labels)))
    return table.filter(pa.array(labelled)).append_column("label", pa.array(labels, pa.string()))


def _check_label_folders(root: str, labels: list[str]) -> None:
    for label in labels:
        if local_uri(label) != label:
            raise InputError(
                f"the label {label!r} in {root!r} is no UTF-8: rename the folder, or give a "
                "manifest with the columns uri and label"
            )
    splits = {_SPLITS.get(label.lower()): label for label in labels}
    if None not in splits:
        train, test = splits.get("train", "train"), splits.get("test", "test")
        raise InputError(
            f"the sub-folders {', '.join(labels)} of {root} look like splits, not labels: give "
            f"--images {join(root, train)} --test {join(root, test)}"
        )


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
