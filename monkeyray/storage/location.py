"""The names of files and places, in one form everywhere.

A path without a scheme is a local one. An `s3://bucket/key` is taken literally, so that keys with
spaces, `%`, `#`, `?` or `+` keep their names; only `file://` is percent-decoded, as its standard
says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlsplit

from monkeyray.errors import ConfigError
from monkeyray.redact import _PARAMETER, masked

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+)://")
_HALF_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+:/?[^/]")


def scheme(uri: str) -> str:
    """The scheme of a URI, `file` for a path.

    >>> scheme("s3://bucket/key"), scheme("/data/x.jpg"), scheme("photos")
    ('s3', 'file', 'file')
    """
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def is_local(uri: str) -> bool:
    """Whether a URI is on this machine's own file system."""
    return scheme(uri) == "file"


def normalise(uri: str) -> str:
    """A URI in the one form used everywhere: absolute path, or scheme://… with no end slash.

    Raises ConfigError for a URI that is malformed or that carries a password.
    """
    if not uri.strip():
        raise ConfigError("a URI is empty: give a path or something like s3://bucket/prefix")
    kind = scheme(uri)
    if kind == "file":
        if _HALF_SCHEME.match(uri) and not Path(uri).exists():
            raise ConfigError(f"malformed URI {masked(uri)!r}: write it as scheme://bucket/path")
        parts = urlsplit(uri) if _SCHEME.match(uri) else None
        if parts is not None and parts.netloc not in ("", "localhost"):
            raise ConfigError(
                f"malformed URI {masked(uri)!r}: a file URI has three slashes, file:///path"
            )
        if parts is not None:
            path = Path(os.fsdecode(unquote_to_bytes(uri[len("file://") + len(parts.netloc) :])))
        else:
            path = _at_home(uri)
        # Not resolve(): a link keeps the name under which it was given.
        return os.path.abspath(path)  # noqa: PTH100
    authority, slash, rest = uri[len(kind) + 3 :].partition("/")
    if masked(uri) != uri:
        where = "before the @" if _PARAMETER.search(uri) is None else "in its query"
        raise ConfigError(
            f"a {kind}:// URI carries credentials {where}: take them out, and give them through "
            "the environment or a role"
        )
    if not authority and kind != "memory":
        raise ConfigError(f"malformed URI {uri!r}: no bucket, write {kind}://bucket/path")
    return f"{kind}://{authority}{slash}{rest}".rstrip("/")


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path} is in the home of a user that is not there: write the path in full"
        ) from None


def local_uri(path: str) -> str:
    """The URI of a local path: the path itself, or where its bytes are no UTF-8, which no string
    column can hold, file:// with those bytes percent-encoded.

    >>> local_uri("/a/100%.jpg"), local_uri("/a/\\udcff.jpg")
    ('/a/100%.jpg', 'file:///a/%FF.jpg')
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"file://{quote(os.fsencode(path))}"
    return path


def local_path(uri: str) -> str:
    """The path of a local URI.

    >>> local_path("/a/100%.jpg"), local_path("file:///a/b%20c.jpg")
    ('/a/100%.jpg', '/a/b c.jpg')
    """
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri[len("file://") :]))
    return uri


def join(uri: str, *names: str) -> str:
    """A URI below another one.

    >>> join("s3://bucket/a", "b", "c.jpg"), join("/", "x")
    ('s3://bucket/a/b/c.jpg', '/x')
    """
    return "/".join([uri.rstrip("/"), *names])


def bucket_and_key(uri: str, *, need_key: bool = True) -> tuple[str, str]:
    """The two halves of an s3:// URI. Raises ConfigError where a key is needed and there is none.

    >>> bucket_and_key("s3://bucket/a/b.jpg")
    ('bucket', 'a/b.jpg')
    """
    bucket, _, key = uri[len("s3://") :].partition("/")
    if need_key and not key:
        raise ConfigError(f"{uri} is a bucket, not a file: write s3://{bucket}/path")
    return bucket, key
