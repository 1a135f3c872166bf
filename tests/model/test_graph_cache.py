from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from monkeyray.model.graph_cache import cached_graph


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "monkeyray" / "graphs"


def never() -> tuple[bytes, bytes]:
    raise AssertionError("built again")


def make(text: str) -> Callable[[], tuple[bytes, bytes]]:
    return lambda: (text.encode(), b"\0" * 100)


def test_a_graph_is_built_once() -> None:
    assert cached_graph("a", make("one")) == (b"one", b"\0" * 100)
    assert cached_graph("a", never) == (b"one", b"\0" * 100)
    assert cached_graph("b", make("two"))[0] == b"two"


_WRONG_SIZE = hashlib.sha256(b"\xff" * 8).digest() + b"\xff" * 8


@pytest.mark.parametrize("damage", [b"", b"short", _WRONG_SIZE, None])
def test_a_damaged_one_is_built_again(damage: bytes | None, folder: Path) -> None:
    cached_graph("a", make("one"))
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data) if damage is None else damage)
    assert cached_graph("a", make("new"))[0] == b"new"
    assert cached_graph("a", never)[0] == b"new"


def test_few_are_kept_and_the_last_used_among_them(folder: Path) -> None:
    for index in range(12):
        cached_graph(f"{index}", make("x"))
        if index:
            cached_graph("0", never)
    assert len(list(folder.iterdir())) == 8
    cached_graph("0", never)
    assert cached_graph("1", make("again"))[0] == b"again"


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_graph("a", make("one"))[0] == b"one"
    assert cached_graph("a", make("two"))[0] == b"two"
