"""The command line: parse, call, print."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from monkeyray.cluster import Terminated, heed_sigterm
from monkeyray.config import (
    BurstsConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    RescoreConfig,
    ReviewConfig,
    ScoreConfig,
    TrainConfig,
    TuneConfig,
)
from monkeyray.errors import MonkeyRayError

#: Each command's options. What it does is a function of that name, in a module of that name.
_COMMANDS: dict[str, Callable[..., Any]] = {
    "train": TrainConfig,
    "tune": TuneConfig,
    "score": ScoreConfig,
    "rescore": RescoreConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "bursts": BurstsConfig,
    "review": ReviewConfig,
    "demo": DemoConfig,
}


def entry(command: str | None = None) -> NoReturn:
    """What the programs call: `main`, and then the end of the process without Python's own.

    Threads of Ray and TensorFlow that are still there while Python takes itself apart can abort
    the process, and a job that is done would be reported as failed.
    """
    code: object = 0
    try:
        main(command=command)
    except SystemExit as exit_:
        code = exit_.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def main(arguments: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run a command and exit: 0 when done, 2 for what the user can mend, 130 when interrupted,
    143 when terminated.

    `command`: the one that is meant; without it the first argument says which.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    heed_sigterm()
    try:
        _run(*_parse(arguments, command))
    except MonkeyRayError as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as end:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(143 if isinstance(end, Terminated) else 130)


def _parse(arguments: list[str], command: str | None) -> tuple[str, Any]:
    """The command and its options."""
    import tyro

    options = (tyro.conf.OmitArgPrefixes,)
    if command is not None:
        kind = _COMMANDS[command]
        return command, tyro.cli(kind, args=arguments, prog=f"{command}.py", config=options)
    parsed = tyro.extras.subcommand_cli_from_dict(
        _COMMANDS, args=arguments, prog="monkeyray", config=options
    )
    return next(name for name, kind in _COMMANDS.items() if kind is type(parsed)), parsed


def _run(command: str, config: Any) -> None:
    # Late, so that --help loads nothing heavy.
    module = importlib.import_module(f"monkeyray.{command}")
    print(getattr(module, command)(config))
