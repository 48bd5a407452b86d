"""Which records of a block a filter takes. In a worker thread; no I/O.

A block is looked at as a whole first: one search through the bytes of its payload, in C. Nearly always there is nothing
in it, and then its records are not even unpacked. A hit may lie across the end of a value, or in what is between two:
it says where to look, and the value itself decides.

Blocks are searched by RE2, for substrings too, which it finds in a fifth of the time of bytes.find. Its time grows with
the length of what is searched, whatever the expression, its memory is bounded, and meanwhile other threads run.

Considered and rejected: searching on in the whole block behind each hit of an expression. `a.*b` would reach to the end
of the block from every record, so the time would grow with the square of the block's length.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import re2

from swarm.core.errors import BadArgument
from swarm.core.limits import MIB
from swarm.logfiles.protocol import FilterKind

EXPRESSION_BYTES_MAX = 1 * MIB  # memory of one: its program and its automata. Past it RE2 refuses, or is slower
RARE = 32  # a search from hit to hit costs as much as looking at so many values, about
CLASSES_MAX = 8  # of Unicode, such as \pL: each takes up to 0.3 ms to compile
PROGRAM_MAX = 256  # RE2's steps: one that has to try them all takes 1 to 2 ms of each for a block of 256 KiB

# What an expression says of the place where it matches. One without them matches a value if, and only if, it matches
# somewhere inside of more. (They are found where they mean something else, too: then only a search is lost.)
_ASSERTIONS = (b"^", b"$", b"\\A", b"\\z", b"\\b", b"\\B")
_CLASS = re.compile(rb"\\[pP](\{[^}]*\}|.)", re.DOTALL)


class Filter:
    """One of a get range."""

    def __init__(self, kind: int, pattern: bytes, *, ignore_case: bool) -> None:
        """Raises BadArgument where a regular expression is not one."""
        self._is_substring = kind == FilterKind.SUBSTRING
        self._pattern = pattern.lower() if ignore_case else pattern
        self._ignore_case = ignore_case
        options = re2.Options()
        options.case_sensitive = not ignore_case
        options.max_mem = EXPRESSION_BYTES_MAX
        options.never_capture = True  # only whether it matches is asked, and that is quicker
        options.log_errors = False
        # An expression in ASCII is about bytes, and \xff is one. Where there are other characters, text is meant.
        options.encoding = re2.Options.Encoding.LATIN1
        if self._is_substring:
            pattern = _substring(pattern, options, ignore_case=ignore_case)
        elif (classes := _classes(pattern)) or not pattern.isascii():  # RE2 takes seconds for \pL among bytes
            if classes > CLASSES_MAX:
                raise BadArgument(f"the regular expression has {classes} classes of Unicode, {CLASSES_MAX} are allowed")
            options.encoding = re2.Options.Encoding.UTF8
        expression = _compiled(pattern, options)
        if expression.programsize > PROGRAM_MAX and not self._is_substring:
            _check_program(pattern, options)
        self._search = expression.search
        self._is_anywhere = self._is_substring or not any(assertion in pattern for assertion in _ASSERTIONS)

    def first(self, raw: bytes) -> int | None:
        """Where in a payload a match may begin: values that end before are not taken. None: none is."""
        if not self._is_anywhere:
            return 0
        match = self._search(raw)
        return None if match is None else int(match.start())

    def select(self, raw: bytes, values: Sequence[bytes], first: int) -> list[int]:
        """The numbers of the values that are taken, in order. raw: the payload that they are from; first: as `first`
        has told."""
        if first == 0:
            return self._each(values, 0)
        starts = _starts(raw, values)
        begin = max(0, bisect_right(starts, first) - 1)
        return self._from_hit_to_hit(raw, values, starts, begin) if self._is_substring else self._each(values, begin)

    def _each(self, values: Sequence[bytes], begin: int) -> list[int]:
        """Of the values from the one with this number on."""
        numbers = range(begin, len(values))
        if not self._is_substring:
            search = self._search
            return [number for number in numbers if search(values[number]) is not None]
        pattern = self._pattern
        if self._ignore_case:
            return [number for number in numbers if pattern in values[number].lower()]
        return [number for number in numbers if pattern in values[number]]

    def _from_hit_to_hit(self, raw: bytes, values: Sequence[bytes], starts: list[int], number: int) -> list[int]:
        """The same, of a substring: quicker where few values have it."""
        search, size, found = self._search, len(self._pattern), []
        while number < len(values) and (match := search(raw, starts[number])) is not None:
            number = bisect_right(starts, match.start()) - 1
            if match.start() + size <= starts[number] + len(values[number]):
                found.append(number)
                if len(found) * RARE > len(values):
                    return found + self._each(values, number + 1)
            number += 1  # also where it reaches out of the value: none that is in there begins behind it
        return found


def _classes(pattern: bytes) -> int:
    return pattern.count(b"\\p") + pattern.count(b"\\P")


def _substring(pattern: bytes, options: "re2.Options", *, ignore_case: bool) -> bytes:
    """An expression for it; only ASCII's letters have a case."""
    if not ignore_case or pattern.isascii():
        options.literal = True
        return pattern
    options.case_sensitive = True  # among bytes RE2 would take others for letters of Latin-1
    return b"".join(
        b"[%c%c]" % (each, each ^ 0x20) if chr(each).isascii() and chr(each).isalpha() else b"\\x%02x" % each
        for each in pattern
    )


def _compiled(pattern: bytes, options: "re2.Options") -> "re2._Regexp":
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        text = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        raise BadArgument(f"the regular expression is not understood: {text}") from error
    finally:
        re2.purge()  # or the module would keep the last 128, with all their memory


def _check_program(pattern: bytes, options: "re2.Options") -> None:
    """RE2 is linear in what it searches, and in this. A class of Unicode is a thousand steps, of which few are tried at
    a time: it counts as one character, and what is about text as if it were about bytes. Raises BadArgument."""
    options.encoding = re2.Options.Encoding.LATIN1
    steps = _compiled(_CLASS.sub(b"x", pattern), options).programsize
    if steps > PROGRAM_MAX:
        raise BadArgument(
            f"the regular expression is too large: {steps} steps, {PROGRAM_MAX} are allowed; what it repeats by "
            "number, as in x{100}, counts so many times",
            {"limit": PROGRAM_MAX},
        )


def _starts(raw: bytes, values: Sequence[bytes]) -> list[int]:
    """Where in a payload each value begins: it ends with the last one, and each has msgpack's shortest header."""
    sizes = list(map(len, values))
    headers = [2 if size < 0x100 else 3 if size < 0x10000 else 5 for size in sizes]
    steps = [header + size for header, size in zip(headers[1:], sizes[:-1], strict=True)]
    return list(accumulate(steps, initial=len(raw) - sum(sizes) - sum(headers[1:])))
