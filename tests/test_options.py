"""Options as the configuration classes declare them."""

from __future__ import annotations

import dataclasses

import pytest

from monkeyray.cli.commands import COMMANDS
from monkeyray.exports.options import ExportConfig
from monkeyray.options import EVERY_COMMAND, options_of
from monkeyray.training.options import TrainConfig, TuneConfig


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_text_and_a_heading(command: str) -> None:
    options = options_of(COMMANDS[command])
    names = [each.name for each in options]
    assert len(set(names)) == len(names)
    assert all(each.text.endswith((".", "?")) and each.brief for each in options)
    grouped = [
        name for names in getattr(COMMANDS[command], "GROUPS", {}).values() for name in names
    ]
    fields = {each.name for each in dataclasses.fields(COMMANDS[command]) if each.init} - {"store"}
    if grouped:
        assert fields <= set(grouped), "an option that GROUPS does not list"
    assert {each.name for each in options if each.heading != EVERY_COMMAND} == fields
    assert names[-1] == "debug"


def test_what_an_option_is() -> None:
    train = {each.name: each for each in options_of(TrainConfig)}
    assert train["images"].required
    assert (train["images"].flag, train["images"].value) == ("--images", "PLACE")
    assert train["weights"].place is not None
    assert train["weights"].place.words == ("imagenet", "none")
    assert (train["augment"].flag, train["augment"].shown_default) == ("--[no-]augment", "on")
    assert (train["folds"].shown_default, train["gpu"].shown_default) == ("0", "")
    assert train["limit"].optional
    corrections = train["corrections"]
    assert (corrections.kind, corrections.value) == (tuple[str, ...], "PLACE…")
    assert corrections.place is not None
    assert train["l2"].brief == "L2 penalty on the kernels of the new head"
    tune = {each.name: each for each in options_of(TuneConfig)}
    assert not tune.keys() & {"head", "head_seed"}
    assert tune["l2_range"].value == "N N"
    assert tune["epochs"] == train["epochs"]
    export = {each.name: each for each in options_of(ExportConfig)}
    assert export["format"].value == "camtrap-dp|megadetector|csv"
