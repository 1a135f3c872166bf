"""The project file: what a Camtrap DP says of a project beside its tables, written by people.

A JSON or TOML file with the properties of a `datapackage.json`: contributors and project, and if
you like name, title, licenses, spatial, taxonomic and so on. `labels` in it says what labels stand
for, and `filePublic` whether the images may be seen by everybody.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monkeyray.errors import InputError, ObjectError
from monkeyray.storage.location import normalise
from monkeyray.storage.store import Storage

#: What the profile wants of a project, with the values that it takes where they are few.
_DESIGNS = (
    "simpleRandom", "systematicRandom", "clusteredRandom", "experimental", "targeted",
    "opportunistic",
)  # fmt: skip
_METHODS = ("activityDetection", "timeLapse")
_ROLES = ("contact", "principalInvestigator", "rightsHolder", "publisher", "contributor")

_TEXTS = (
    "name", "id", "title", "description", "version", "homepage", "image", "bibliographicCitation",
)  # fmt: skip
_TEXTS_OF_PROJECT = ("id", "acronym", "description", "path")
#: Lists of objects, with what each of them has to have.
_LISTS = {
    "sources": ("title",),
    "relatedIdentifiers": ("relationType", "relatedIdentifier"),
    "taxonomic": ("scientificName",),
}
_GEOJSON = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon",
    "GeometryCollection", "Feature", "FeatureCollection",
)  # fmt: skip

_OURS = ("resources", "profile", "created")


@dataclass(frozen=True)
class Project:
    """A project file. `package`: properties of datapackage.json. `labels`: by label, what a
    taxonomy table says of it. `public`: media.filePublic. `method`: media.captureMethod, where the
    project has just one."""

    package: Mapping[str, Any]
    labels: Mapping[str, Any]
    public: bool
    method: str | None


def read_project(uri: str, storage: Storage) -> Project:
    """Read a project file and check what the standard requires of it.

    Raises InputError, naming what is missing or wrong.
    """
    uri = normalise(uri)
    try:
        text = storage.read(uri).data.decode("utf-8-sig")
        content = tomllib.loads(text) if uri.lower().endswith(".toml") else json.loads(text)
    except (
        ObjectError,
        ValueError,
        RecursionError,
    ) as error:  # of both readers, and of the decoding
        raise InputError(
            f"--project {uri} cannot be read: {error}: give a JSON or TOML file with the "
            "properties contributors and project of a Camtrap DP"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"--project {uri} holds no JSON object with contributors and project")
    content = json.loads(json.dumps(content, default=str))  # TOML has dates
    labels, public = content.pop("labels", {}), content.pop("filePublic", False)
    problem = _problem(content, labels, public)
    if problem:
        raise InputError(f"--project {uri}: {problem}")
    project = content["project"]
    # What is written here are observations of single media.
    project["observationLevel"] = ["media"]
    methods = project["captureMethod"]
    return Project(content, labels, public, methods[0] if len(methods) == 1 else None)


def _problem(content: dict[str, Any], labels: Any, public: Any) -> str | None:
    for name in _OURS:
        if name in content:
            return f"{name} is what the export writes: take it out"
    if not isinstance(labels, dict):
        return "labels must be an object with the labels as names"
    if not isinstance(public, bool):
        return "filePublic must be true or false"
    if problem := _problem_of_types(content):
        return problem
    contributors = content.get("contributors")
    if not isinstance(contributors, list) or not contributors:
        return "contributors is missing: a list of people and organisations, each with a title"
    for person in contributors:
        if not isinstance(person, dict) or not isinstance(person.get("title"), str):
            return "a contributor has no title, which is the name of a person or organisation"
        if "@" not in str(person.get("email", "@")):
            return f"the email {person['email']!r} is none"
        if person.get("role", "contributor") not in _ROLES:
            return f"the role {person['role']!r} is none of {', '.join(_ROLES)}"
    licenses = content.get("licenses")
    if licenses is not None:
        scopes = [x.get("scope") if isinstance(x, dict) else None for x in list(licenses)]
        if not {"data", "media"} <= set(scopes) <= {"data", "media"}:
            return "licenses must have one with the scope data and one with the scope media"
        if not all({"name", "path"} & x.keys() for x in licenses):
            return "a license has neither a name, as CC-BY-4.0, nor a path, which is its URL"
    return _problem_of_project(content.get("project"))


def _problem_of_types(content: dict[str, Any]) -> str | None:
    """What the profile has against properties that may be there."""
    project = content.get("project")
    inner = project if isinstance(project, dict) else {}
    texts = {name: content[name] for name in _TEXTS if name in content}
    texts |= {f"project.{name}": inner[name] for name in _TEXTS_OF_PROJECT if name in inner}
    for name, value in texts.items():
        if not isinstance(value, str):
            return f"{name} is {value!r}: it must be a text"
    if not re.fullmatch(r"[-a-z0-9._/]+", content.get("name", "-")):
        return f"name is {content['name']!r}: it has small letters, digits and . _ - / alone"
    for name, required in _LISTS.items():
        items = content.get(name, [])
        if not isinstance(items, list) or not all(isinstance(x, dict) for x in items):
            return f"{name} must be a list of objects"
        for key in required:
            if not all(isinstance(x.get(key), str) for x in items):
                return f"one of {name} has no {key}"
    words = content.get("keywords", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "keywords must be a list of texts"
    spatial = content.get("spatial", {"type": "Point"})
    if not isinstance(spatial, dict) or spatial.get("type") not in _GEOJSON:
        return "spatial must be GeoJSON"
    temporal = content.get("temporal", {"start": "2000-01-01", "end": "2000-01-01"})
    if not isinstance(temporal, dict) or not all(
        re.fullmatch(r"\d{4}-\d\d-\d\d", str(temporal.get(name))) for name in ("start", "end")
    ):
        return "temporal must have start and end, each a day as 2021-05-31"
    return None


def _problem_of_project(project: Any) -> str | None:
    if not isinstance(project, dict):
        return "project is missing: an object with title, samplingDesign, captureMethod and so on"
    methods = project.get("captureMethod")
    checks = {
        "title": (isinstance(project.get("title"), str), "a text"),
        "samplingDesign": (project.get("samplingDesign") in _DESIGNS, " or ".join(_DESIGNS)),
        "captureMethod": (
            isinstance(methods, list)
            and bool(methods)
            and all(method in _METHODS for method in methods)
            and len(set(methods)) == len(methods),
            f"a list of {' and '.join(_METHODS)}",
        ),
        "individualAnimals": (
            isinstance(project.get("individualAnimals"), bool),
            "true where animals are marked or known one by one, else false",
        ),
    }
    for name, (good, need) in checks.items():
        if not good:
            return f"project.{name} is {project.get(name)!r}: it must be {need}"
    return None
