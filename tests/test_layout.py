"""The structure holds: what may run code, what starting up may load, and what tests import."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "monkeyray"
HEAVY = ("tensorflow", "keras", "ray", "pyarrow", "numpy")


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """The syntax of a file."""
    return list(ast.walk(ast.parse(path.read_text())))


def importers(package: str) -> set[str]:
    """The modules that import a package, at their top or inside their functions."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == package for name in names):
                found.add(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    return found


def test_no_input_can_run_code() -> None:
    # Between processes of one job alone.
    assert importers("pickle") == {"runs.workers.supervisor", "runs.workers.pools"}
    for package in ("marshal", "shelve", "dill", "cloudpickle", "torch"):
        assert not importers(package)
    assert importers("joblib") == {
        "runs.workers.worker_count"
    }  # for nothing but the number of cores
    risky = {"eval", "exec", "load_model", "unsafe_load", "full_load", "model_from_json"}
    for path in PACKAGE.rglob("*.py"):
        ours = {
            alias.name
            for node in nodes(path)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monkeyray")
            for alias in node.names
        }
        for node in nodes(path):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                owner = getattr(getattr(node.func, "value", None), "id", None)
                is_ours = isinstance(node.func, ast.Name) and called in ours
                assert is_ours or called not in risky, path
                assert (owner, called) not in {("np", "load"), ("yaml", "load")}, path
                assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, path


def test_names_with_an_underscore_stay_in_their_module() -> None:
    for path in (*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monkeyray."):
                assert not [name for name in node.names if name.name.startswith("_")], path


def test_no_test_module_imports_another() -> None:
    for path in TESTS.rglob("*.py"):
        shared = {"support", path.relative_to(TESTS).parts[0]} & {"support", "benchmarks"}
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert not node.level, path
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                first, *rest = name.split(".")
                assert first != "tests" or rest[0] in shared, (path, name)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["completion", "bash"],
        *([name, "--help"] for name in ("train", "tune", "score", "export", "events", "review")),
    ],
)
def test_starting_up_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, monkeyray\n"
        f"arguments = {arguments!r}\n"
        "if arguments:\n"
        "    from monkeyray.cli.main import main\n"
        "    try:\n        main(arguments)\n"
        "    except SystemExit as error:\n        assert not error.code, error.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
