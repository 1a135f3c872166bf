"""Which site and camera an image is from, by its path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from monkeyray.errors import ConfigError

#: What a pattern may ask for.
FIELDS = ("site", "camera", "deployment")

_TOKEN = re.compile(r"\{([^{}]*)\}|(\*)|(\?)|([{}])|([^{}*?]+)", re.DOTALL)


@dataclass(frozen=True)
class SitePattern:
    """A rule such as `{site}/{camera}/*` for the path of an image below the images' folder.

    A name in braces stands for a folder's name or a part of it, `*` for anything, folders too, and
    `?` for one character of a name. Raises ConfigError for a pattern that cannot be read.

    >>> SitePattern("{site}/cam{camera}/*").match("A1/cam7/100MEDIA/IMG_1.JPG")
    {'site': 'A1', 'camera': '7'}
    """

    text: str

    def __post_init__(self) -> None:
        names = re.findall(r"\{([^{}]*)\}", self.text)
        strange = [name for name in names if name not in FIELDS]
        braces = re.sub(r"\{[^{}]*\}", "", self.text)
        if strange or "{" in braces or "}" in braces:
            what = f"{{{strange[0]}}}" if strange else "a brace without its other one"
            raise ConfigError(
                f"--site-pattern {self.text} has {what}: it knows {{site}}, {{camera}} and "
                "{deployment}"
            )
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"--site-pattern {self.text} must have {{site}}, {{camera}} or {{deployment}}, "
                "each once at most, as in {site}/{camera}/*"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """What the pattern finds, in the order of FIELDS."""
        return tuple(name for name in FIELDS if f"{{{name}}}" in self.text)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = []
        for name, star, question, _, literal in _TOKEN.findall(self.text):
            if name:
                parts.append(f"(?P<{name}>[^/]+?)")
            else:
                parts.append(".*" if star else "[^/]" if question else re.escape(literal))
        return re.compile("".join(parts), re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """What the pattern finds in a path; None where it does not fit the whole of it."""
        match = self._regex.fullmatch(path)
        return match.groupdict() if match else None
