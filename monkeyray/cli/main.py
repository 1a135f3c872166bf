"""The command line: parse, run, print."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import monkeyray
from monkeyray.console import (
    escape_control,
    escape_control_line,
    log_as_json,
    print_any_character,
    to_json,
)
from monkeyray.errors import MonkeyRayError
from monkeyray.redact import masked_anywhere

if TYPE_CHECKING:
    from monkeyray.cli.parsing import Call


def entry(command: str | None = None) -> NoReturn:
    """Run `main`, then end the process without Python's own shutdown.

    Threads of Ray and TensorFlow that outlive the interpreter can abort the process, and a finished
    job would be reported as failed.
    """
    code: object = 0
    print_any_character()
    try:
        main(command=command)
    except SystemExit as exit_:
        code = exit_.code
    except Exception:
        # A bug. Other libraries' messages may contain URLs with credentials.
        _say(traceback.format_exc())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def main(arguments: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run a command. Exits with 2 for an error that the user can fix, 3 if no image could be
    scored, 130 when interrupted and 143 when terminated.

    `command`: the command to run; by default the first argument names it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    shown = _Shown(arguments)
    try:
        with _sigterm_interrupts():
            _run(arguments, command, shown)
    except MonkeyRayError as error:
        kind = type(error).__name__
        shown.say(f"error: {error}", "error", with_traceback=shown.debug, kind=kind, exit_code=2)
        sys.exit(2)
    except KeyboardInterrupt as end:
        code = 143 if isinstance(end, _TerminatedError) else 130
        again = "interrupted; run the same command again to resume"
        shown.say(again, "interrupted", exit_code=code)
        sys.exit(code)
    except Exception as bug:
        if not shown.json:
            raise
        kind = type(bug).__name__
        shown.say(f"error: {bug}", "bug", with_traceback=True, kind=kind, exit_code=1)
        sys.exit(1)


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM asked this process to end, as `ray job stop` does."""


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end this process as cleanly as an interrupt does."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _say(text: str) -> None:
    print(escape_control(masked_anywhere(text)), file=sys.stderr, end="")


class _Shown:
    """How a command's end is reported; a file of options may change it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.debug = "--debug" in arguments
        # Before the arguments are parsed, since parsing may fail.
        words = " ".join(arguments).replace("--log_format", "--log-format").replace("=", " ")
        _, found, last = words.rpartition("--log-format ")
        self.json = bool(found) and last.startswith("json")

    def say(self, message: str, event: str, *, with_traceback: bool = False, **fields: Any) -> None:
        """Print a line to standard error, or the traceback in text form. `fields`: for JSON."""
        if self.json:
            if with_traceback:
                fields["traceback"] = traceback.format_exc()
            print(to_json(message, event, **fields), file=sys.stderr, flush=True)
        else:
            _say(traceback.format_exc() if with_traceback else f"{escape_control_line(message)}\n")


def _run(arguments: list[str], command: str | None, shown: _Shown) -> None:
    from monkeyray.cli.help import HELP_OF_COMPLETION, help_of, help_of_all
    from monkeyray.cli.parsing import check_arguments, completion, find_command, parse

    check_arguments(arguments)
    program = f"{command}.py"
    if command is None:
        if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
            print(help_of_all(), file=sys.stdout if arguments else sys.stderr)
            sys.exit(0 if arguments else 2)
        if arguments[0] == "--version":
            print(f"monkeyray {monkeyray.__version__}")
            return
        if arguments[0] == "completion":
            asked = {"-h", "--help", "--help-all"} & set(arguments)
            print(HELP_OF_COMPLETION if asked else completion(arguments[1:]))
            return
        command = find_command(arguments.pop(0))
        program = f"monkeyray {command}"
    full = "--help-all" in arguments
    if full or {"-h", "--help"} & set(arguments):
        print(help_of(command, full=full))
        return
    call = parse(command, arguments, program)
    shown.debug |= call.config.store.debug
    shown.json = call.config.store.log_format == "json"
    _do(call)


def _do(call: Call) -> None:
    from monkeyray.cli.commands import MODULES
    from monkeyray.cli.summaries import SummaryFile

    is_json = call.config.store.log_format == "json"
    summary = SummaryFile(call)
    with log_as_json() if is_json else contextlib.nullcontext():
        # Late, so that --help loads nothing heavy.
        module = importlib.import_module(MODULES[call.command])
        result = getattr(module, call.command)(call.config)
    if is_json:
        line = to_json(
            f"{call.command} is done", "done", command=call.command, result=result.to_json()
        )
    else:
        line = repr(result)
    print(line, file=summary.printed_to, flush=True)
    summary.write(result)
    if result.exit_code:
        sys.exit(result.exit_code)
