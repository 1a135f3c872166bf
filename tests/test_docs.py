"""README and documentation hold: commands parse, links resolve, example files are read."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.fields import options_of
from monkeyray.cli.parsing import completion, parse
from monkeyray.exports.camtrap.profile import read_project
from monkeyray.exports.deployments import read_deployments
from monkeyray.exports.taxonomy import Taxa
from monkeyray.images.site_pattern import SitePattern
from monkeyray.model.backbones import BACKBONES
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import read_rows

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"
README = ROOT / "README.md"
FILES = [README, *sorted(PAGES.glob("*.md")), ROOT / ".github" / "CONTRIBUTING.md"]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", flags=re.M | re.S)
#: How MonkeyRay is called in a shell, with the command's name or before it.
_CALL = re.compile(
    r"(?:^|&& |-- |entrypoint: )(?:\S*/)?(?:monkeyray|python jobs/(?=\w+\.py)) ?(.*)"
)
_OURS = {option.flag for kind in COMMANDS.values() for option in options_of(kind)}
#: Options of other programs, and --help.
_OTHERS = {
    "--entrypoint-num-cpus", "--metrics-export-port", "--no-deps", "--photos", "--logdir", "--help",
    "--help-all",
}  # fmt: skip


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def blocks(*languages: str) -> list[str]:
    """The fenced blocks in these languages, over all files."""
    found = []
    for path in FILES:
        for indent, language, text in _FENCE.findall(path.read_text(encoding="utf-8")):
            if language in languages:
                found.append(re.sub(f"^{indent}", "", text, flags=re.M))
    return found


def calls() -> list[tuple[str, ...]]:
    """The arguments of every different call, the command first."""
    found: dict[tuple[str, ...], None] = {}
    inline = re.findall(r"`(monkeyray \w+ --[^`]+)`", "\n".join(map(prose, FILES)))
    for text in [*blocks("sh", "yaml"), *inline]:
        for line in text.replace("\\\n", " ").splitlines():
            if (match := _CALL.search(line.strip())) is not None:
                words = shlex.split(re.sub(r"\$\(.*", "", match[1]))
                found[(words[0].removesuffix(".py"), *words[1:])] = None
    return list(found)


@pytest.mark.parametrize("call", calls(), ids=" ".join)
def test_commands_parse(call: tuple[str, ...]) -> None:
    command, *arguments = call
    if command == "completion":
        assert completion(arguments)
        return
    if "--config" in arguments or arguments == ["--help"]:
        assert command in COMMANDS  # the rest is in the file
        return
    if "…" in arguments:  # and what else the command needs
        arguments.remove("…")
        for option in options_of(COMMANDS[command]):
            if option.required and option.flag not in arguments:
                arguments += [option.flag, f"/of{option.flag}"]
    assert parse(command, arguments, "monkeyray").command == command


def test_every_command_is_shown() -> None:
    assert len(calls()) > 30
    assert {call[0] for call in calls()} >= {*COMMANDS}


def test_options_in_the_prose_exist() -> None:
    text = "\n".join(map(prose, FILES)).replace("--[no-]", "--")
    named = set(re.findall(r"(?<![\w\-<])--[a-z][\w-]+", text))
    assert named - {flag.replace("--[no-]", "--") for flag in _OURS} == _OTHERS


def slugs(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_links_resolve(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), link
            assert not anchor or anchor in slugs(target), link


def test_files_named_exist() -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|yml|yaml|md))`", "\n".join(map(prose, FILES)))
    assert len(named) > 20
    missing = [each for each in named if not (ROOT / each).is_file()]
    assert [each for each in missing if not (ROOT / "monkeyray" / each).is_file()] == []


def test_the_architecture_has_the_packages_in_order() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    packages = [
        name
        for name in reversed(layers["contracts"][0]["layers"])
        if (ROOT / "monkeyray" / name).is_dir()
    ]
    assert re.findall(r"^\| `(\w+)` \|", prose(PAGES / "architecture.md"), flags=re.M) == packages


def test_every_backbone_is_documented() -> None:
    text = (PAGES / "train.md").read_text(encoding="utf-8")
    for name, backbone in BACKBONES.items():
        (row,) = [
            line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line
        ]
        assert f" {backbone.size} |" in row
        assert f"{backbone.width:,}" in row


def test_every_page_is_linked() -> None:
    pages = {path.name for path in PAGES.glob("*.md")} - {"index.md"}
    for path, prefix in ((README, "docs/pages/"), (PAGES / "index.md", "")):
        linked = set(re.findall(rf"\]\({prefix}([\w-]+\.md)", path.read_text(encoding="utf-8")))
        # The example and the two details of exports are found from their pages.
        assert pages - linked <= {"monkeys.md", "comparison.md"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 300


def test_pictures_are_small_and_described() -> None:
    pictures = [
        (text, (path.parent / link).resolve())
        for path in FILES
        for text, link in re.findall(r"!\[(.*?)\]\((.*?)\)", path.read_text(encoding="utf-8"))
    ]
    files = sorted((PAGES / "pictures").iterdir())
    assert sorted({path for _, path in pictures}) == files
    assert all(len(text) > 40 for text, _ in pictures)
    assert sum(path.stat().st_size for path in files) < 400_000


def test_example_files_are_read(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("text", blocks("python"))
def test_python_examples_compile(text: str) -> None:
    compile(text, "example", "exec")


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_up_to_date() -> None:
    for path in (README, PAGES / "formats.md"):
        text = path.read_text(encoding="utf-8")
        assert "<!-- end of " in text
        assert text == hooks().filled(text), f"run: python docs/hooks.py {path.relative_to(ROOT)}"


def test_the_pages_are_filled_in() -> None:
    made = hooks()
    text = made.on_page_markdown((PAGES / "options.md").read_text(encoding="utf-8"))
    assert all(f"`{flag}" in text for flag in _OURS)
    text = made.on_page_markdown((PAGES / "comparison.md").read_text(encoding="utf-8"))
    assert all(each["name"] in text for each in made.tools())
