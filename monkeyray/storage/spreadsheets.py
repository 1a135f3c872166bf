"""Formula injection: spreadsheets evaluate a cell that starts like a formula.

Labels and folders come from strangers and may be called `=HYPERLINK("http://…")`. A `'` in front
keeps such a cell a text, and is removed when a table is read, so that labels survive the round
trip. URIs and absolute paths never start like formulas. See OWASP, CSV Injection.
"""

from __future__ import annotations

import functools
import re

import pyarrow as pa
import pyarrow.compute as pc

#: In RE2 syntax; includes the full-width forms, which spreadsheets accept too.
_FORMULA = r"^'*[=+\-@\t\r\n\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]"
_GUARDED = _FORMULA.replace("'*", "'+")
_NUMBER = r"[+\-]?[0-9]*([.,][0-9]+)?"


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would evaluate a text that is not a number.

    >>> is_formula("=1+1"), is_formula("-1.5"), is_formula("red fox")
    (True, False, False)
    """
    return _python(_FORMULA).match(text) is not None and re.fullmatch(_NUMBER, text) is None


def guard(texts: pa.Array) -> pa.Array:
    """A column of texts (string) with a ' before each that looks like a formula.

    >>> guard(pa.array(["=1+1", "fox", "'=1", None])).to_pylist()
    ["'=1+1", 'fox', "''=1", None]
    """
    computed = pc.and_not(
        pc.match_substring_regex(texts, _FORMULA), pc.match_substring_regex(texts, f"^{_NUMBER}$")
    )
    if not pc.any(computed).as_py():
        return texts
    return pc.if_else(computed, pc.binary_join_element_wise("'", texts, ""), texts)


def unguard(texts: pa.Array) -> pa.Array:
    """A column of texts as it was before `guard`.

    >>> unguard(pa.array(["'=1+1", "fox", "''=1", "'fox'", None])).to_pylist()
    ['=1+1', 'fox', "'=1", "'fox'", None]
    """
    guarded = pc.match_substring_regex(texts, _GUARDED)
    return pc.if_else(guarded, pc.utf8_slice_codeunits(texts, 1), texts)


def unguarded(text: str) -> str:
    """One text as it was before `guard`."""
    return text[1:] if _python(_GUARDED).match(text) else text


@functools.cache
def _python(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\x\{(....)\}", r"\\u\1", pattern))
