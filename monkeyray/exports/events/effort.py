"""Sampling effort: the days for which cameras were working."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from monkeyray.exports.deployments import Deployment

#: Starts and ends are inclusive and whole seconds.
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


def trap_days(deployments: Iterable[Deployment]) -> dict[str, float | None]:
    """The days for which cameras were working, by site; each camera of a site counts.

    None for a site with a deployment that lacks its start or end.
    """
    days: dict[str, float | None] = {}
    for each in deployments:
        site = each.site or each.id
        so_far = days.get(site, 0.0)
        if so_far is None or each.start is None or each.end is None:
            days[site] = None
            continue
        working = each.end + _SECOND - each.start - _down(each, each.start, each.end)
        days[site] = so_far + working / _DAY
    return days


def _down(deployment: Deployment, start: datetime, end: datetime) -> timedelta:
    """How long the camera was down between start and end; overlapping failures count once."""
    down, since = timedelta(0), start
    for first, last in sorted(deployment.failures):
        first, after = max(first, since), min(last, end) + _SECOND
        if after > first:
            down += after - first
            since = after
    return down
