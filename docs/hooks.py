"""Fills in what is generated when MkDocs builds: the options and the table of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

TOOLS = Path(__file__).parent / "tools.yaml"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's Markdown with its markers replaced; MkDocs calls it for every page."""
    if "<!-- options -->" in markdown:
        markdown = markdown.replace("<!-- options -->", options())
    return markdown.replace("<!-- tools -->", tools_table())


def options() -> str:
    """Every option of every command, a section a command."""
    from monkeyray.cli.reference import markdown

    return markdown()


def tools() -> list[dict[str, Any]]:
    """The entries of tools.yaml."""
    entries: list[dict[str, Any]] = yaml.safe_load(TOOLS.read_text(encoding="utf-8"))
    return entries


def tools_table(*, short: bool = False) -> str:
    """The tools of tools.yaml as a Markdown table; `short`: as the README has it."""
    if short:
        rows = [[_name(each), each["use_it_for"]] for each in tools() if each.get("in_readme")]
        return _table(["tool", "use it"], rows)
    rows = [
        [
            f"{_name(each)} ({each['kind']})",
            each["does"],
            each["use_it_for"],
            each["with_monkeyray"],
        ]
        for each in tools()
    ]
    return _table(["tool", "what it does", "use it", "together with MonkeyRay"], rows)


def _name(entry: dict[str, str]) -> str:
    return f"[{entry['name']}]({entry['url']})" if "url" in entry else entry["name"]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(x.split()) for x in row) + " |" for row in lines)


def readme(text: str) -> str:
    """The README with its table of tools as tools.yaml has it."""
    before, start, rest = text.partition("<!-- tools -->\n")
    _, end, after = rest.partition("<!-- end of tools -->")
    if not start or not end:
        raise ValueError("the README has no <!-- tools --> … <!-- end of tools -->")
    return f"{before}{start}{tools_table(short=True)}\n{end}{after}"


if __name__ == "__main__":
    import sys

    path = Path(sys.argv[1])
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
