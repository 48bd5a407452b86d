"""Which records of a block a filter takes. In a worker thread; no I/O.

A block is looked at as a whole first: one search through the bytes of its payload, in C. Nearly always there is nothing
in it, and then its records are not even unpacked. A hit may lie across the end of a value, or in what is between two,
so the records of a block with one are looked at each for itself.

Regular expressions are RE2's: their time grows with the length of what is searched, whatever the expression, and their
memory is bounded. While they search they let other threads run.
"""

from collections.abc import Sequence
from typing import Protocol

import re2

from swarm.core.errors import BadArgument
from swarm.core.limits import MIB
from swarm.logfiles.protocol import FilterKind

EXPRESSION_BYTES_MAX = 1 * MIB  # memory of one: its program and its automata. Past it RE2 refuses, or is slower
CLASSES_MAX = 8  # of Unicode, such as \\pL: each takes up to 0.3 ms to compile

# What an expression says of the place where it matches. One without them matches a value if, and only if, it matches
# somewhere inside of more. (They are found where they mean something else, too: then only a search is lost.)
_ASSERTIONS = (b"^", b"$", b"\\A", b"\\z", b"\\b", b"\\B")


class Filter(Protocol):
    def may_match(self, raw: bytes) -> bool:
        """False: no value in this payload is taken."""

    def select(self, values: Sequence[bytes]) -> list[int]:
        """The numbers of those that are taken, in order."""


class Substring:
    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern

    def may_match(self, raw: bytes) -> bool:
        return self._pattern in raw

    def select(self, values: Sequence[bytes]) -> list[int]:
        pattern = self._pattern
        return [number for number, value in enumerate(values) if pattern in value]


class SubstringIgnoringCase:
    """Of ASCII's letters."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern.lower()

    def may_match(self, raw: bytes) -> bool:
        return self._pattern in raw.lower()

    def select(self, values: Sequence[bytes]) -> list[int]:
        pattern = self._pattern
        return [number for number, value in enumerate(values) if pattern in value.lower()]


class Expression:
    def __init__(self, pattern: bytes, *, ignore_case: bool) -> None:
        """Raises BadArgument where it is not one."""
        classes = pattern.count(b"\\p") + pattern.count(b"\\P")
        if classes > CLASSES_MAX:
            raise BadArgument(f"the regular expression has {classes} classes of Unicode, {CLASSES_MAX} are allowed")
        options = re2.Options()
        # An expression in ASCII is about bytes, and \xff is one. Where there are other characters, text is meant.
        # (RE2 takes seconds for \pL among bytes.)
        is_text = classes > 0 or not pattern.isascii()
        options.encoding = re2.Options.Encoding.UTF8 if is_text else re2.Options.Encoding.LATIN1
        options.never_capture = True  # only whether it matches is asked, and that is quicker
        options.case_sensitive = not ignore_case
        options.max_mem = EXPRESSION_BYTES_MAX
        options.log_errors = False
        try:
            self._search = re2.compile(pattern, options).search
        except re2.error as error:
            why = error.args[0] if error.args else b""
            text = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
            raise BadArgument(f"the regular expression is not understood: {text}") from error
        finally:
            re2.purge()  # or the module would keep the last 128, with all their memory
        self._is_anywhere = not any(assertion in pattern for assertion in _ASSERTIONS)

    def may_match(self, raw: bytes) -> bool:
        return not self._is_anywhere or self._search(raw) is not None

    def select(self, values: Sequence[bytes]) -> list[int]:
        search = self._search
        return [number for number, value in enumerate(values) if search(value) is not None]


def make_filter(kind: int, pattern: bytes, *, ignore_case: bool) -> Filter:
    """Of what a get range gives as a filter. Raises BadArgument."""
    if kind == FilterKind.REGEX:
        return Expression(pattern, ignore_case=ignore_case)
    return SubstringIgnoringCase(pattern) if ignore_case else Substring(pattern)
