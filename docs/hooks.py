"""What is generated in the documentation.

MkDocs fills in the options and the comparison of tools when it builds. Tables that people also read
in the repository are between markers: python docs/hooks.py README.md docs/pages/formats.md
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def columns_table(*, boxes: bool) -> str:
    """The columns of predictions, or those that boxes add, as a Markdown table."""
    from monkeyray.scoring.schema import BOX_COLUMNS, describe_columns

    ours = {each.name for each in BOX_COLUMNS}
    # Writers differ in the name of a list's field.
    rows = [
        [f"`{name}`", f"`{kind.replace('item: ', '')}`", meaning]
        for name, kind, meaning in describe_columns()
        if (name in ours) == boxes
    ]
    return _table(["column", "type", "meaning"], rows)


def filled(text: str) -> str:
    """A page with its tables between markers as the code and the data have them."""
    tables: dict[str, Callable[[], str]] = {
        "tools": partial(tools_table, short=True),
        "columns": partial(columns_table, boxes=False),
        "box columns": partial(columns_table, boxes=True),
    }
    for name, table in tables.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if end:
            text = f"{before}{start}{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    import sys

    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
