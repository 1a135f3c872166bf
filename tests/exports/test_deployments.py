"""Deployments, site patterns, and the deployment and time of an image."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import ConfigError, InputError
from monkeyray.exports.deployments import (
    REASONS,
    Deployments,
    origin,
    read_deployments,
)
from monkeyray.exports.times import stamp
from monkeyray.images.site_pattern import SitePattern
from monkeyray.storage.keys import nfc
from monkeyray.storage.store import Storage

HEAD = "deployment_id,site,camera,latitude,longitude,start,end,time_zone,clock_offset\n"
PATTERN = "{site}/{camera}/*"


def table(folder: Path, text: str, pattern: str | None = PATTERN) -> Deployments:
    path = folder / "deployments.csv"
    path.write_text(text)
    return read_deployments(str(path), Storage(), SitePattern(pattern) if pattern else None)


@pytest.fixture
def two(tmp_path: Path) -> Deployments:
    """One camera twice, with a clock that was an hour slow at first; and one without a zone."""
    return table(
        tmp_path,
        HEAD + "d1,A,1,51.5,4.7,2021-03-01,2021-06-01T12:00,Europe/Brussels,1:00:00\n"
        "d2,A,1,51.5,4.7,2021-06-01T12:00:01,2021-12-01,Europe/Brussels,\n"
        "d3,B,1,-1.3,36.8,2021-01-01T00:00Z,2021-12-31T00:00Z,,-60\n"
        "d4,C,1,-1.3,36.8,2021-01-01,2021-02-01,+03:00,\n"
        "d5,C,1,-1.3,36.8,2021-02-01,2021-03-01,+03:00,\n",
    )


@pytest.mark.parametrize(
    ("path", "captured_at", "deployment", "time"),
    [
        ("A/1/x.jpg", "2021-05-31T08:25:38", "d1", "2021-05-31T09:25:38+02:00"),
        ("A/1/DCIM/x.jpg", "2021-07-01T08:25:38", "d2", "2021-07-01T08:25:38+02:00"),
        # With its own clock offset, only one of the two deployments contains the time.
        ("A/1/x.jpg", "2021-06-01T11:30:00", None, "outside_deployment"),
        ("A/1/x.jpg", "2021-06-01T12:00:01", "d2", "2021-06-01T12:00:01+02:00"),
        ("A/1/x.jpg", "2021-03-28T01:30:00", None, "nonexistent_time"),
        ("A/1/x.jpg", "2021-10-31T02:30:00", None, "ambiguous_time"),
        ("A/1/x.jpg", "2000-01-01T00:00:00", None, "outside_deployment"),
        ("A/1/x.jpg", None, None, "no_time"),
        ("A/1/x.jpg", "0000-00-00T00:00:00", None, "no_time"),
        ("A/2/x.jpg", "2021-07-01T08:25:38", None, "no_deployment"),
        ("x.jpg", "2021-07-01T08:25:38", None, "no_deployment"),
        ("B/1/x.jpg", "2021-07-01T08:25:38", "d3", "no_time_zone"),
        ("B/1/x.jpg", "2021-07-01T08:25:38+03:00", "d3", "2021-07-01T08:24:38+03:00"),
        ("B/1/x.jpg", "2022-07-01T08:25:38+03:00", "d3", "outside_deployment"),
        ("B/1/x.jpg", "2021-07-01T08:25:38+25:00", "d3", "no_time"),
        ("C/1/x.jpg", "2021-02-01T08:00:00", None, "several_deployments"),
    ],
)
def test_dating(
    two: Deployments, path: str, captured_at: str | None, deployment: str | None, time: str
) -> None:
    dated = two.date(path, captured_at)
    assert (stamp(dated.time) if dated.time else dated.reason) == time
    assert (dated.deployment.id if dated.deployment else None) == deployment
    assert dated.time is not None or dated.reason in REASONS


@pytest.mark.parametrize("site", ["\u00c9tang", "E\u0301tang"])
def test_sites_are_compared_in_either_unicode_form(tmp_path: Path, site: str) -> None:
    rows = table(tmp_path, f"site,camera,lat,lon,tz\n{site},1,1,2,UTC\nB,1,1,2,UTC\n")
    for path in ("\u00c9tang/1/x.jpg", "E\u0301tang/1/x.jpg"):
        dated = rows.date(path, "2021-07-01T08:25:38")
        assert dated.deployment is not None
        assert dated.deployment.site == "\u00c9tang"


def test_the_time_zone_of_the_table_overrides_exif(two: Deployments) -> None:
    dated = two.date("A/1/x.jpg", "2021-07-01T08:25:38+08:00")
    assert dated.time is not None
    assert (stamp(dated.time), dated.contradicted) == ("2021-07-01T08:25:38+02:00", True)
    assert not two.date("A/1/x.jpg", "2021-07-01T08:25:38+02:00").contradicted


def test_single_deployment_needs_no_pattern(tmp_path: Path) -> None:
    one = table(tmp_path, "site,lat,lon,start,end,tz\nA,1,2,2021-01-01,2021-12-31,UTC\n", None)
    dated = one.date("anything.jpg", "2021-07-01T08:25:38")
    assert dated.deployment is not None
    assert dated.deployment.id == "A-2021-01-01"
    with pytest.raises(ConfigError, match=r"2 rows.*--site-pattern"):
        table(tmp_path, "deploymentID,tz\na,UTC\nb,UTC\n", None)


def test_names_of_camtrap_dp_are_read(tmp_path: Path) -> None:
    text = (
        "deploymentID,locationID,cameraID,latitude,longitude,deploymentStart,deploymentEnd,habitat\n"
        "00a2c20d,e254a13c,320,51.496,4.774,2020-05-30T04:57:37+02:00,2020-07-01T11:41:41Z,marsh\n"
    )
    row = table(tmp_path, text).rows[0]
    assert (row.id, row.site, row.camera, row.latitude) == ("00a2c20d", "e254a13c", "320", 51.496)
    assert row.start is not None
    assert stamp(row.start) == "2020-05-30T04:57:37+02:00"
    assert row.columns["habitat"] == "marsh"


def test_a_pattern_needs_its_columns(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a camera, but the deployment d1 has none"):
        table(tmp_path, HEAD + "d1,A,,1,2,,,UTC,\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("d1,A,1,51,5,4,,UTC,", "row 1: '4' is not a time: use ISO 8601"),
        ("d1,A,1,95,4,,,UTC,", "row 1: invalid latitude '95'"),
        ("d1,A,1,5,NAN,,,UTC,", "row 1: invalid longitude 'NAN'"),
        ("d1,A,1,5,4,2021-05-02,2021-05-01,UTC,", "ends .* before it starts"),
        ("d1,A,1,5,4,2021-05-02,,,", "'2021-05-02' has no time zone"),
        ("d1,A,1,5,4,,,Mars,", "time zone 'Mars'"),
        ("d1,A,1,5,4,,,UTC,soon", "clock offset 'soon'"),
        ("NA,,,5,4,,,UTC,", "'' cannot be"),
        ("d1,A,1,5,4,,,UTC,\nd1,B,1,5,4,,,UTC,", "'d1' in rows 1 and 2"),
    ],
)
def test_mistakes_in_the_table(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        table(tmp_path, HEAD + row + "\n")


NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)


@given(NAMES, NAMES, st.lists(NAMES, min_size=1))
def test_any_names_are_found(site: str, camera: str, rest: list[str]) -> None:
    pattern = SitePattern("{site}/{camera}/*")
    found = pattern.match("/".join([site, camera, *rest]))
    assert found == {"site": nfc(site), "camera": nfc(camera)}


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


def test_a_deployment_overrides_the_pattern(tmp_path: Path) -> None:
    table = tmp_path / "deployments.csv"
    table.write_text(
        "deployment_id,site,camera,time_zone,clock_offset,start,end\n"
        "d1,A,1,UTC,1:00:00,2025-01-01,2025-04-30\n"
        "d2,A,1,UTC,,2025-05-01,2025-12-31\n"
    )
    pattern = SitePattern("{site}/{camera}/*")
    deployments = read_deployments(str(table), Storage(), pattern)
    found = origin("A/1/x.jpg", "2025-03-04T05:06:07", pattern, deployments)
    assert (found.site, found.camera) == ("A", ("deployment", "d1"))
    assert found.clock_offset == timedelta(hours=1)
    # After both it has no deployment, only the site and camera of its path.
    later = origin("A/1/x.jpg", "2026-03-04T05:06:07", pattern, deployments)
    assert (later.site, later.camera) == ("A", ("camera", "A", "1"))
    assert later.clock_offset == timedelta(0)


def test_pattern_matches() -> None:
    camera = origin("7/x.jpg", None, SitePattern("{camera}/*"), None)
    assert (camera.site, camera.camera) == ("7", ("camera", "7"))
    nowhere = origin("x.jpg", None, SitePattern("{camera}/*"), None)
    assert (nowhere.site, nowhere.camera) == (None, ())
