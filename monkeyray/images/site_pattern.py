"""The site, camera or deployment of an image, by its path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from monkeyray.errors import ConfigError
from monkeyray.storage.keys import nfc

#: The names that a pattern may contain.
FIELDS = ("site", "camera", "deployment")

_TOKEN = re.compile(r"\{([^{}]*)\}|(\*)|(\?)|([{}])|([^{}*?]+)", re.DOTALL)


@dataclass(frozen=True)
class SitePattern:
    """A rule such as `{site}/{camera}/*` for the path of an image below the images' folder.

    A name in braces matches all or some of a folder's name, `*` anything including slashes, and
    `?` one character of a name. Raises ConfigError for an invalid pattern.

    >>> SitePattern("{site}/cam{camera}/*").match("A1/cam7/100MEDIA/IMG_1.JPG")
    {'site': 'A1', 'camera': '7'}
    """

    text: str

    def __post_init__(self) -> None:
        names = re.findall(r"\{([^{}]*)\}", self.text)
        strange = [name for name in names if name not in FIELDS]
        braces = re.sub(r"\{[^{}]*\}", "", self.text)
        if strange or "{" in braces or "}" in braces:
            what = f"{{{strange[0]}}}" if strange else "an unmatched brace"
            raise ConfigError(
                f"--site-pattern {self.text} has {what}: the names are {{site}}, {{camera}} and "
                "{deployment}"
            )
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"--site-pattern {self.text} must contain {{site}}, {{camera}} or {{deployment}}, "
                "each at most once, such as {site}/{camera}/*"
            )

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names in the pattern, in the order of FIELDS."""
        return tuple(name for name in FIELDS if f"{{{name}}}" in self.text)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = []
        for name, star, question, _, literal in _TOKEN.findall(nfc(self.text)):
            if name:
                parts.append(f"(?P<{name}>[^/]+?)")
            else:
                parts.append(".*" if star else "[^/]" if question else re.escape(literal))
        return re.compile("".join(parts), re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """The values of the names in a path, None if the pattern does not match the whole path."""
        match = self._regex.fullmatch(nfc(path))
        return match.groupdict() if match else None
