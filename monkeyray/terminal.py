"""Text as a terminal, a log or a page may be shown it, whatever is in the names it repeats.

Names of files and labels come from whoever made the data, and may have characters that command a
terminal: to write over what it said before, to change its title, to turn the direction of writing.
Files of results hold the names as they are; what is printed shows such characters as escapes.
"""

from __future__ import annotations

import re
import sys
from io import TextIOWrapper

_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
#: What turns the direction of all that follows, which can make one name look like another; and
#: halves of characters, which stand for bytes that are no UTF-8.
_HIDDEN = re.compile(rf"[{_CONTROL}\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_A_NAME = re.compile(rf"[{_CONTROL}\t\n]")


def escape_control(text: str) -> str:
    """A text of one line or more, with an escape for each character that would command a terminal.

    >>> escape_control("a\\x1b[2J.jpg\\nb")
    'a\\\\x1b[2J.jpg\\nb'
    """
    return _HIDDEN.sub(_escape, text)


def escape_control_line(text: str) -> str:
    """A text in one line.

    >>> escape_control_line("a\\nerror: b")
    'a\\\\nerror: b'
    """
    return escape_control(text).replace("\n", "\\n")


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "backslashreplace").decode()


def has_control(name: str) -> bool:
    """Whether a name has characters that no line of text has.

    >>> has_control("red fox"), has_control("red\\tfox")
    (False, True)
    """
    return _IN_A_NAME.search(name) is not None


def print_any_character() -> None:
    """Let what this process prints have characters that its terminal does not know: they are
    escaped there, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
