"""The README holds: its commands are ones, its links lead somewhere, its example files are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.parsing import completion, parse
from monkeyray.exports.camtrap_profile import read_project
from monkeyray.exports.deployments import SitePattern, read_deployments
from monkeyray.exports.taxonomy import Taxa
from monkeyray.options import options_of
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import read_rows

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)

#: How MonkeyRay is called in a shell, with the command's name or before it.
_CALL = re.compile(
    r"(?:^|&& |-- |entrypoint: )(?:\S*/)?(?:monkeyray|python jobs/(?=\w+\.py)) ?(.*)"
)
_OURS = {option.flag for kind in COMMANDS.values() for option in options_of(kind)}
#: Of the benchmarks, of TensorBoard, and of the commands as well.
_OTHERS = {"--metrics-export-port", "--no-deps", "--photos", "--logdir", "--help"}


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def calls() -> list[tuple[str, ...]]:
    """The arguments of every call in the README, once, the command first."""
    found: dict[tuple[str, ...], None] = {}
    for text in [*blocks("sh"), *blocks("yaml")]:
        for line in text.replace("\\\n", " ").splitlines():
            if (match := _CALL.search(line.strip())) is not None:
                words = shlex.split(re.sub(r"\$\(.*", "", match[1]))
                found[(words[0].removesuffix(".py"), *words[1:])] = None
    return list(found)


@pytest.mark.parametrize("call", calls(), ids=" ".join)
def test_the_commands_are_ones(call: tuple[str, ...]) -> None:
    command, *arguments = call
    if command == "completion":
        assert completion(arguments)
        return
    if "…" in arguments:  # and what else the command needs
        arguments.remove("…")
        for option in options_of(COMMANDS[command]):
            if option.required and option.flag not in arguments:
                arguments += [option.flag, f"/of{option.flag}"]
    assert parse(command, arguments, "monkeyray").command == command


def test_there_are_commands() -> None:
    assert len(calls()) > 30
    assert {call[0] for call in calls()} >= {*COMMANDS}


def test_the_options_named_in_the_prose_are_ones() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", PROSE.replace("--[no-]", "--")))
    assert named - {flag.replace("--[no-]", "--") for flag in _OURS} == _OTHERS


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", PROSE, flags=re.M)
    anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    links = re.findall(r"\]\(([^)\s]+)\)", PROSE)
    assert [link for link in links if link[0] == "#" and link[1:] not in anchors] == []
    files = [link for link in links if link[0] != "#" and "://" not in link]
    assert len(files) >= 6
    assert [link for link in files if not (ROOT / link).is_file()] == []


def test_the_contents_have_every_section() -> None:
    contents = README.partition("\n## ")[0]
    sections = re.findall(r"^## (.*)$", PROSE, flags=re.M)
    assert [name for name in sections if f"[{name}](" not in contents] == ["Licence"]


def test_pictures_are_small_and_described() -> None:
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README)
    folder = ROOT / ".github" / "pictures"
    assert sorted(ROOT / path for _, path in pictures) == sorted(folder.iterdir())
    assert all(len(text) > 40 for text, _ in pictures)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000


def test_the_files_of_the_recipes_are_read(tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(*blocks("toml"))
    assert read_project(str(tmp_path / "project.toml"), Storage()).method == "activityDetection"
    places, taxa = tmp_path / "deployments.csv", tmp_path / "taxa.csv"
    for text in blocks("csv"):
        (places if text.startswith("deployment_id") else taxa).write_text(text)
    table = read_deployments(str(places), Storage(), SitePattern("{site}/{camera}/*"))
    # A clock that is an hour ahead, and on winter time while the first one is on summer time.
    times = [
        table.date(f"{path}/a.jpg", "2021-05-01T14:00:00").time for path in ("S1/CAM1", "S2/CAM2/1")
    ]
    assert [str(time) for time in times] == [
        "2021-05-01 14:00:00+02:00",
        "2021-05-01 13:00:00+01:00",
    ]
    rows = {row["label"]: row for row in read_rows(str(taxa), Storage(), "taxonomy")}
    named = Taxa(rows, {})
    assert named.of("n0").scientific_name == "Alouatta palliata"
    assert named.of("n0").rest["family"] == "Atelidae"
    assert named.of("empty").kind == "blank"
