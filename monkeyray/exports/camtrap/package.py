"""The description of a Camtrap DP package: datapackage.json."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from monkeyray import __version__
from monkeyray.exports.deployments import Deployment
from monkeyray.exports.job import Job
from monkeyray.exports.taxonomy import RANKS, Taxon

VERSION = "1.0.2"

_SCHEMAS = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{VERSION}"


def describe_package(job: Job, names: Mapping[str, Taxon]) -> dict[str, Any]:
    """The content of a datapackage.json. `names`: the taxa observed, by scientific name."""
    assert job.source.deployments is not None
    assert job.project is not None
    deployments = job.source.deployments.rows
    given = dict(job.project.package)
    level = job.config.observation_level
    levels = sorted({"media", level}, reverse=True)
    given["project"] = {**given["project"], "observationLevel": levels}
    known = {
        taxon.get("scientificName"): taxon
        for taxon in given.pop("taxonomic", [])
        if isinstance(taxon, dict)
    }
    sources = [*given.pop("sources", []), {"title": "MonkeyRay", "version": __version__}]
    resources = [
        {
            "name": name,
            "path": f"{name}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": f"{_SCHEMAS}/{name}-table-schema.json",
        }
        for name in ("deployments", "media", "observations")
    ]
    return {
        "resources": resources,
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sources": sources,
        # Values in the project file take precedence.
        "spatial": _spatial(deployments),
        "temporal": _temporal(deployments),
        # Otherwise GBIF takes observations of events alone, and there may be none.
        "gbifIngestion": {"observationLevel": level},
        **given,
        "taxonomic": [
            known.get(name) or {"scientificName": name, **_taxon_properties(taxon)}
            for name, taxon in sorted(names.items())
        ],
    }


def _taxon_properties(taxon: Taxon) -> dict[str, Any]:
    """A taxon's properties, without a rank that the standard lacks, such as a tribe."""
    rest = dict(taxon.rest)
    rank = str(rest.pop("taxonRank", "")).lower()
    return rest | ({"taxonRank": rank} if rank in (*RANKS, "species", "subspecies") else {})


def _spatial(rows: list[Deployment]) -> dict[str, Any]:
    """GeoJSON: the rectangle around the deployments, or the point of all of them."""
    longitudes = [row.longitude for row in rows if row.longitude is not None]
    latitudes = [row.latitude for row in rows if row.latitude is not None]
    west, east, south, north = min(longitudes), max(longitudes), min(latitudes), max(latitudes)
    if (west, south) == (east, north):
        return {"type": "Point", "coordinates": [west, south]}
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def _temporal(rows: list[Deployment]) -> dict[str, str]:
    """The first and the last day, in each deployment's local time."""
    starts = [row.start.date() for row in rows if row.start is not None]
    ends = [row.end.date() for row in rows if row.end is not None]
    return {"start": min(starts).isoformat(), "end": max(ends).isoformat()}
