"""Files that are named under another folder, and the rule that finds them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.images.prefixes import Rule, find_rule

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)


@given(st.sets(NAMES, min_size=1), st.sampled_from(["", "D:/cards/", "/a/b/", "c/"]), st.data())
def test_all_files_below_another_folder_are_found(
    names: set[str], there: str, data: st.DataObject
) -> None:
    files = sorted(f"{there}{name}/x.jpg" for name in names)
    here = data.draw(st.sampled_from(["/mnt/season/", "s3://bucket/", "/a/"]))
    uris = sorted(f"{here}{name}/x.jpg" for name in names)
    rule = find_rule(files, uris, "times", "give others")
    assert rule is not None
    assert sorted(filter(None, map(rule.uri, files))) == uris


@pytest.mark.parametrize(
    ("files", "uris", "rule"),
    [
        (["/p/A/1.jpg"], ["/p/A/1.jpg"], Rule("", "")),
        (["A/1.jpg", "B/1.jpg", "1.jpg"], ["/p/1.jpg"], Rule("", "/p/")),
        # A part of what the detector saw, and its folder is in the images' path.
        (["s/A/1.jpg", "s/B/1.jpg"], ["/p/s/B/1.jpg"], Rule("", "/p/")),
        # The same name in every folder: one beginning serves for all.
        (["o/A/1.jpg", "o/B/1.jpg", "o/C/1.jpg"], ["/p/A/1.jpg", "/p/C/1.jpg"], Rule("o/", "/p/")),
        (["A/2.jpg"], ["/p/A/1.jpg"], None),
    ],
)
def test_the_rule(files: Sequence[str], uris: Sequence[str], rule: Rule | None) -> None:
    assert find_rule(files, uris, "times", "give others") == rule


def test_two_equally_good_rules_are_refused() -> None:
    files, uris = ["A/1.jpg", "A/2.jpg", "B/1.jpg", "B/2.jpg"], ["/p/1.jpg", "/p/2.jpg"]
    with pytest.raises(InputError, match=r"those of the times in A/ or in B/: give others"):
        find_rule(files, uris, "times", "give others")
