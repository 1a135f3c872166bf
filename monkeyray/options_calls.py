"""The options of a call, whichever command it is; they change nothing of what it makes."""

from __future__ import annotations

from dataclasses import dataclass

from monkeyray.options_shared import Place, require


@dataclass(frozen=True, kw_only=True)
class CallConfig:
    """Where else the options come from, and where the result is told to programs."""

    config: Place | None = None
    """TOML or YAML file with options, by their names here. What is given on the command line counts
    before the file. A file like this is written beside every result, to do the same again."""

    summary_json: Place | None = None
    """Write what the command did as JSON, to a file that ends in .json, or - for standard output.
    It is there only when the command was done; what is printed else goes to standard error."""

    def __post_init__(self) -> None:
        place = self.summary_json
        require(
            place is None or place == "-" or place.endswith(".json"),
            "summary-json", repr(place), "a file that ends in .json, or -",
        )  # fmt: skip
