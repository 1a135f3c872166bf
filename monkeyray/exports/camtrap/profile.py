"""What Camtrap DP 1.0.2 requires of people: a project file and a table of deployments.

Both are checked against the standard's own schemas, which are in the folder `schemas`. A project
file is JSON or TOML with the properties of a `datapackage.json`: contributors and project, and
optionally name, title, licenses, spatial, taxonomic and so on. It may also have `labels`, the taxa
of labels, and `filePublic`, whether anybody may see the images.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from monkeyray.errors import InputError, ObjectError
from monkeyray.exports.deployments import NOTHING, Deployment
from monkeyray.exports.times import stamp
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import key

#: The files of a package; left-out.csv is not part of the standard.
FILES = ("datapackage.json", "deployments.csv", "media.csv", "observations.csv", "left-out.csv")

#: Properties that the export itself writes.
_WRITTEN = ("resources", "profile", "created")
#: The schemas that the profile refers to, by URL.
_REFERENCES = {
    "https://specs.frictionlessdata.io/schemas/data-package.json": "data-package.json",
    "http://json.schemastore.org/geojson.json": "geojson.json",
}
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "y", "1"), "true"),
    **dict.fromkeys(("false", "no", "n", "0"), "false"),
}


@dataclass(frozen=True)
class Project:
    """A project file. `package`: properties of datapackage.json. `labels`: for each label, the
    columns of a taxonomy table. `public`: media.filePublic. `method`: media.captureMethod, if the
    project has only one."""

    package: Mapping[str, Any]
    labels: Mapping[str, Any]
    public: bool
    method: str | None


def read_project(uri: str, storage: Storage) -> Project:
    """Read a project file and check it against the standard's profile.

    Raises InputError with the property that is missing or wrong.
    """
    place = Location.parse(uri)
    try:
        text = storage.read(place).data.decode("utf-8-sig")
        content = tomllib.loads(text) if place.path.lower().endswith(".toml") else json.loads(text)
    except (ObjectError, ValueError, RecursionError) as error:
        raise InputError(
            f"--project {place} cannot be read: {error}. Give a JSON or TOML file with the "
            "properties contributors and project of Camtrap DP"
        ) from error
    content = json.loads(json.dumps(content, default=str))  # TOML has dates
    problem = _problem(content)
    if problem:
        raise InputError(
            f"--project {place}: {textwrap.shorten(problem, 300, placeholder=' …')}. See "
            "https://camtrap-dp.tdwg.org/metadata"
        )
    labels, public = content.pop("labels", {}), content.pop("filePublic", False)
    methods = content["project"]["captureMethod"]
    return Project(content, labels, public, methods[0] if len(methods) == 1 else None)


def _problem(content: Any) -> str | None:
    """The most relevant violation of the profile, None if there is none.

    Sets project.observationLevel, which the export decides.
    """
    from jsonschema import Draft4Validator, FormatChecker
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.jsonschema import DRAFT4

    if not isinstance(content, dict):
        return "not an object with contributors and project"
    for name in _WRITTEN:
        if name in content:
            return f"{name} is written by the export: remove it"
    if isinstance(content.get("project"), dict):
        content["project"]["observationLevel"] = ["media"]
    profile = _schema("camtrap-dp-profile.json")
    # The export writes the other required properties.
    profile["allOf"][1]["required"] = ["contributors", "project"]
    profile["properties"] = {"labels": {"type": "object"}, "filePublic": {"type": "boolean"}}
    resources = [(url, DRAFT4.create_resource(_schema(n))) for url, n in _REFERENCES.items()]
    validator = Draft4Validator(
        profile,
        registry=Registry().with_resources(resources),
        format_checker=FormatChecker(),
    )
    error = best_match(validator.iter_errors(content))
    if error is None:
        # The one rule that the profile states only in words.
        scopes = {each["scope"] for each in content.get("licenses", [])}
        if len(scopes) == 1:
            return "licenses: need one with the scope data and one with the scope media"
        return None
    path = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in error.path)
    message = error.message
    if error.validator == "anyOf":
        message = "needs a " + " or a ".join(each["required"][0] for each in error.validator_value)
    return f"{path[1:]}: {message}" if path else message


def _schema(name: str) -> Any:
    return json.loads((files("monkeyray.exports.camtrap") / "schemas" / name).read_bytes())


@functools.cache
def table_fields(name: str) -> list[dict[str, Any]]:
    """The fields of the table `deployments`, `media` or `observations`, in order, as the standard
    describes them: `name`, `type`, `constraints`."""
    fields: list[dict[str, Any]] = _schema(f"{name}-table-schema.json")["fields"]
    return fields


def deployments_csv(rows: list[Deployment]) -> bytes:
    """The standard's `deployments.csv`.

    Raises InputError for a deployment that lacks a required value or has an invalid one.
    """
    sink = io.StringIO()
    fields = table_fields("deployments")
    writer = csv.DictWriter(sink, [field["name"] for field in fields], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for name in ("latitude", "longitude", "start", "end"):
            if getattr(row, name) is None:
                raise InputError(
                    f"the deployment {row.id} has no {name}, which Camtrap DP requires: fill the "
                    f"column {name} of --deployments"
                )
        assert row.start is not None
        assert row.end is not None
        columns = {field["name"]: _cell(row, field) for field in fields}
        columns |= {
            "deploymentID": row.id,
            "locationID": columns["locationID"] or ("" if columns["locationName"] else row.site),
            "latitude": str(row.latitude),
            "longitude": str(row.longitude),
            "deploymentStart": stamp(row.start),
            "deploymentEnd": stamp(row.end),
            "cameraID": row.camera,
        }
        writer.writerow(columns)
    return sink.getvalue().encode()


def _cell(row: Deployment, field: Mapping[str, Any]) -> str:
    name, kind, limits = field["name"], field["type"], field["constraints"]
    text = row.columns.get(key(name), "")
    if not text or text in NOTHING:
        return ""
    found: str | None = text
    need = ""
    if kind in ("integer", "number"):
        found, need = _number(text, kind == "integer", limits)
    elif kind == "boolean":
        found, need = _BOOLEANS.get(text.lower()), "true or false"
    elif "enum" in limits:
        found = next((each for each in limits["enum"] if key(each) == key(text)), None)
        need = f"one of {', '.join(limits['enum'])}"
    if found is None:
        raise InputError(
            f"the deployment {row.id} has the {name} {text!r}, but Camtrap DP requires {need}: "
            f"correct the column {name} of --deployments, or leave it empty"
        )
    return found


def _number(text: str, whole: bool, limits: Mapping[str, Any]) -> tuple[str | None, str]:
    """A number as text, None if it is not valid, and what it must be."""
    low, high = limits.get("minimum", -math.inf), limits.get("maximum", math.inf)
    need = f"a {'whole ' if whole else ''}number from {low:g}"
    if high < math.inf:
        need += f" to {high:g}"
    try:
        value = float(text)
    except ValueError:
        return None, need
    if not math.isfinite(value) or not low <= value <= high or (whole and value != int(value)):
        return None, need
    return str(int(value)) if whole else f"{value:.12g}", need
