"""Where a file, folder or prefix is: parsed once, then joined, compared and printed.

A path without a scheme is local. An `s3://bucket/key` is taken literally, so keys with spaces, `%`,
`#`, `?` or `+` keep their names; only `file://` is percent-decoded, as its standard says.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes

from monkeyray.errors import ConfigError
from monkeyray.redact import PARAMETER, masked

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+)://")
#: An archive and, after #, the name of a member.
_MEMBER = re.compile(r"(?is)(.*?\.(?:tar|zip))#(.+)")
_HALF_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+:/?[^/]")


@dataclass(frozen=True, order=True)
class Location:
    """A place in a store.

    `scheme`: lower case, `file` for this machine's file system. `bucket`: the authority of a URI,
    empty for local files. `path`: a local path, or the key below the bucket.

    >>> Location.parse("s3://bucket/a/") / "b" / "c.jpg"
    Location('s3://bucket/a/b/c.jpg')
    """

    scheme: str
    bucket: str
    path: str

    @classmethod
    def parse(cls, text: str | Location) -> Location:
        """A place as people write it: local paths become absolute, a final slash goes. One that is
        parsed already is returned as it is.

        Raises ConfigError for a malformed URI or one that contains credentials.
        """
        if isinstance(text, Location):
            return text
        if not text.strip():
            raise ConfigError("a URI is empty: give a path or something like s3://bucket/prefix")
        place = cls.of(text)
        if place.is_local:
            if text == place.path and _HALF_SCHEME.match(text) and not Path(text).exists():
                raise ConfigError(
                    f"malformed URI {masked(text)!r}: write it as scheme://bucket/path"
                )
            if place.bucket not in ("", "localhost"):
                raise ConfigError(
                    f"malformed URI {masked(text)!r}: a file URI has three slashes, file:///path"
                )
            path = _expand_home(text) if text == place.path else place.path
            # Not resolve(): a link keeps the name under which it was given.
            return cls("file", "", os.path.abspath(path))  # noqa: PTH100
        if masked(text) != text:
            where = "before the @" if PARAMETER.search(text) is None else "in its query"
            raise ConfigError(
                f"a {place.scheme}:// URI contains credentials {where}: remove them, and supply "
                "them through the environment or a role"
            )
        if not place.bucket and place.scheme != "memory":
            raise ConfigError(
                f"malformed URI {text!r}: no bucket, write {place.scheme}://bucket/path"
            )
        return replace(place, path=place.path.rstrip("/"))

    @classmethod
    def of(cls, uri: str | Location) -> Location:
        """A URI that a listing, a manifest or this class wrote, taken as it is and not checked."""
        if isinstance(uri, Location):
            return uri
        match = _SCHEME.match(uri)
        if match is None:
            return cls("file", "", uri)
        scheme = match.group(1).lower()
        bucket, slash, path = uri[match.end() :].partition("/")
        if scheme == "file":
            path = os.fsdecode(unquote_to_bytes(slash + path))
        return cls(scheme, bucket, path)

    @property
    def is_local(self) -> bool:
        """Whether this is on the machine's own file system."""
        return self.scheme == "file"

    @property
    def name(self) -> str:
        """The last name of the path, empty for a whole bucket."""
        return self.path.rpartition("/")[2]

    def __truediv__(self, name: str) -> Location:
        start = self.path.rstrip("/")
        joined = f"{start}/{name}" if start or self.is_local else name
        return Location(self.scheme, self.bucket, joined)

    @property
    def parent(self) -> Location:
        """The folder or prefix that this is in."""
        above = self.path.rpartition("/")[0]
        return replace(self, path=above or ("/" if self.is_local else ""))

    @functools.cached_property
    def prefix(self) -> str:
        """How everything below this begins: local paths, or URIs."""
        return f"{(self.path if self.is_local else str(self)).rstrip('/')}/"

    def relative(self, uri: str) -> str | None:
        """The path of a file below this, None if it is elsewhere. Names that are not UTF-8 are
        percent-encoded.

        >>> Location.of("s3://bucket/a").relative("s3://bucket/a/b c.jpg")
        'b c.jpg'
        """
        path = self.below(uri)
        return quote(os.fsencode(path)) if path and uri.startswith("file://") else path

    def below(self, uri: str) -> str | None:
        """The path of a file below this, None if it is elsewhere. Names that are not UTF-8 have
        surrogates, as from os.fsdecode. An archive counts as a folder.

        >>> Location.of("s3://bucket/a").below("s3://bucket/a/b.tar#c%201.jpg")
        'b.tar/c 1.jpg'
        """
        path = Location.of(uri).path if uri.startswith("file://") else uri
        # Regular expressions are slow, and few names have a #.
        if "#" in path and (match := _MEMBER.fullmatch(path)):
            path = f"{match[1]}/{unquote(match[2], errors='surrogateescape')}"
        if not path.startswith(self.prefix) or path == self.prefix:
            return None
        return path[len(self.prefix) :]

    def split_member(self) -> tuple[Location, str] | None:
        """The archive that this would be a member of, and the member's percent-encoded name; None
        for all other names.

        >>> Location.of("s3://bucket/a.zip#b/c.jpg").split_member()
        (Location('s3://bucket/a.zip'), 'b/c.jpg')
        """
        match = _MEMBER.fullmatch(self.path)
        return match and (replace(self, path=match[1]), match[2])

    def is_within(self, folder: Location) -> bool:
        """Whether this is a folder or lies below it.

        >>> Location.of("s3://b/ab").is_within(Location.of("s3://b/a"))
        False
        """
        return self.prefix.startswith(folder.prefix)

    def __str__(self) -> str:
        """The URI: a local path as it is, or where its bytes are not UTF-8, which no string column
        can hold, file:// with those bytes percent-encoded."""
        if not self.is_local:
            return f"{self.scheme}://{self.bucket}{'/' if self.path else ''}{self.path}"
        try:
            self.path.encode()
        except UnicodeEncodeError:
            return f"file://{quote(os.fsencode(self.path))}"
        return self.path

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"


def _expand_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path} is in the home of an unknown user: write the path in full"
        ) from None
