"""Names of images in what is published: short, different, and nothing of the machine."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monkeyray.storage.location import Location
from monkeyray.training.findings import display_names


@pytest.mark.parametrize(
    ("uris", "images", "test", "names"),
    [
        # folders
        (["/h/me/all/n0/a.jpg", "/h/me/test/n9/a.jpg"], "/h/me/all", "/h/me/test",
         ["n0/a.jpg", "test/n9/a.jpg"]),
        (["s3://b/all/n0/a.jpg", "s3://c/new/test/a.jpg"], "s3://b/all", "s3://c/new/test",
         ["n0/a.jpg", "test/a.jpg"]),
        (["/all/a.jpg", "s3://b/n0/a.jpg"], "/all", "s3://b", ["a.jpg", "b/n0/a.jpg"]),
        (["/all/test/a.jpg", "/test/a.jpg"], "/all", "/test", ["test/a.jpg", "test/a.jpg (2)"]),
        (["/all/n0/a.jpg", "/all/test/n0/a.jpg"], "/all", "/all/test",
         ["n0/a.jpg", "test/n0/a.jpg"]),
        (["/allover/a.jpg", "/all/a.jpg"], "/all", None, ["a.jpg", "a.jpg (2)"]),
        # bytes that are not UTF-8
        (["/h/ä b/n0/a.jpg", "file:///h/%C3%A4%20b/n0/%FF.jpg"], "/h/ä b", None,
         ["n0/a.jpg", "n0/%FF.jpg"]),
        # manifests
        (["/h/me/1/a.jpg", "/h/me/2/a.jpg"], "/x/list.csv", None, ["1/a.jpg", "2/a.jpg"]),
        (["/h/me/1/a.jpg", "/h/me/12/a.jpg"], "/x/list.csv", None, ["1/a.jpg", "12/a.jpg"]),
        (["/h/me/1/a.jpg"], "/x/list.csv", "/x/test.csv", ["a.jpg"]),
        (["s3://b/x/1/a.jpg", "s3://b/x/a.jpg"], "s3://b/list.csv", None, ["1/a.jpg", "a.jpg"]),
        (["s3://b/x/1.jpg", "s3://c/x/1.jpg", "s3://c/y/1.jpg", "/h/me/1.jpg"], "/l.csv", None,
         ["1.jpg", "x/1.jpg", "y/1.jpg", "1.jpg (2)"]),
        (["/h/me/1/a.jpg", "/h/t/n0/a.jpg"], "/x/list.csv", "/h/t", ["a.jpg", "t/n0/a.jpg"]),
    ],
)  # fmt: skip
def test_names(uris: list[str], images: str, test: str | None, names: list[str]) -> None:
    second = None if test is None else Location.of(test)
    assert display_names(uris, Location.of(images), second) == names


FOLDERS = st.sampled_from(["/d", "/d/all", "/d/test", "/e/test", "s3://b", "s3://b/d", "/d/l.csv"])
FILES = st.sampled_from(["a", "a (2)", "a (3)", "test/a", "all/a", "n0/a", "n0/a (2)"])


@given(
    st.lists(st.tuples(FOLDERS, FILES), unique_by="/".join, max_size=20),
    FOLDERS,
    st.none() | FOLDERS,
)
@example([("/d", "a"), ("/e/test", "a"), ("s3://b", "a"), ("/d", "a (2)")], "/d", None)
def test_they_are_different(files: list[tuple[str, str]], images: str, test: str | None) -> None:
    uris = ["/".join(each) for each in files]
    names = display_names(uris, Location.of(images), Location.of(test) if test else None)
    assert len(names) == len(uris) == len(set(names))
    assert not any(name.startswith("/") or "://" in name for name in names)
