"""Places: parsed once, then joined, compared and printed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from monkeyray.errors import ConfigError
from monkeyray.storage.location import Location


def test_a_place_has_one_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Location.parse("photos/../x")) == str(tmp_path / "x")
    assert str(Location.parse("file:///data/a%20b")) == "/data/a b"
    assert str(Location.parse("/data/a%20b/")) == "/data/a%20b"
    assert str(Location.parse("S3://bucket/a%20b #?+/")) == "s3://bucket/a%20b #?+"
    assert Location.parse("file://localhost/a") == Location.of("/a")
    assert Location.parse("gs://b/k").scheme == "gs"


@pytest.mark.parametrize(
    "uri",
    [
        "/a/b c%.jpg", "file:///a/%FF.jpg", "s3://bucket", "s3://bucket//a/./b//c.jpg", "memory://a",
        "memory:///a/b", "abfs://photos@account.dfs.core.windows.net/a", "hdfs://host:8020/a@b.jpg",
    ],
)  # fmt: skip
def test_a_uri_survives_the_round_trip(uri: str) -> None:
    place = Location.of(uri)
    assert str(place) == uri
    assert Location.parse(uri) == place == pickle.loads(pickle.dumps(place))
    assert str(place / "x").rpartition("/") == (uri, "/", "x")
    assert (place / "x").name == "x"
    assert (place / "x").is_within(place)
    assert place.is_within(place)


def test_the_root_joins_without_a_double_slash() -> None:
    assert str(Location.of("/") / "x") == "/x"
    assert Location.of("/x").is_within(Location.of("/"))


@pytest.mark.parametrize("uri", ["", " ", "s3:/bucket", "s3://", "file://host/x", "~nobody-here/x"])
def test_malformed_places_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError):
        Location.parse(uri)


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        Location.parse("s3://KEY:planted@bucket/x")
    assert "planted" not in str(error.value)
