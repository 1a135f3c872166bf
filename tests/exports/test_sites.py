"""Sites and cameras by path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import ConfigError
from monkeyray.exports.sites import SitePattern

NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)


@given(NAMES, NAMES, st.lists(NAMES, min_size=1))
def test_any_names_are_found(site: str, camera: str, rest: list[str]) -> None:
    pattern = SitePattern("{site}/{camera}/*")
    assert pattern.match("/".join([site, camera, *rest])) == {"site": site, "camera": camera}


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        ("{site}/*", "A/b/c.jpg", {"site": "A"}),
        ("*/{site}/DCIM/*", "2021/may/A/DCIM/1.jpg", {"site": "A"}),
        ("{site}_{camera}_*", "A1_2_0001.jpg", {"site": "A1", "camera": "2"}),
        ("{site}/{camera}/*", "A/c.jpg", None),
        ("{deployment}/IMG_????.JPG", "x/IMG_0001.JPG", {"deployment": "x"}),
        ("{deployment}/IMG_????.JPG", "x/IMG_00/1.JPG", None),
        ("{site}.(x)/*", "A.(x)/1", {"site": "A"}),
        ("{site}.(x)/*", "Abx/1", None),
        ("{site}/*", "A/line\nbreak.jpg", {"site": "A"}),
    ],
)
def test_patterns(text: str, path: str, found: dict[str, str] | None) -> None:
    assert SitePattern(text).match(path) == found


@pytest.mark.parametrize("text", ["", "*", "{place}/*", "{site/*", "{site}/{site}/*", "site}/*"])
def test_no_patterns(text: str) -> None:
    with pytest.raises(ConfigError, match="site-pattern"):
        SitePattern(text)
