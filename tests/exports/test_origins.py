"""Where images are from: deployments first, then what a pattern finds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from monkeyray.exports.deployments import read_deployments
from monkeyray.exports.origins import origin
from monkeyray.exports.sites import SitePattern
from monkeyray.storage.store import Storage


def test_the_deployment_counts_before_the_pattern(tmp_path: Path) -> None:
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
    # After both it is of no deployment, and what its path says is all that is known.
    later = origin("A/1/x.jpg", "2026-03-04T05:06:07", pattern, deployments)
    assert (later.site, later.camera) == ("A", ("camera", "A", "1"))
    assert later.clock_offset == timedelta(0)


def test_what_a_pattern_finds() -> None:
    camera = origin("7/x.jpg", None, SitePattern("{camera}/*"), None)
    assert (camera.site, camera.camera) == ("7", ("camera", "7"))
    nowhere = origin("x.jpg", None, SitePattern("{camera}/*"), None)
    assert (nowhere.site, nowhere.camera) == (None, ())
