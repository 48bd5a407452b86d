"""Which records of a block a filter takes. In a worker thread; no I/O.

A block is looked at as a whole first: one search through all its values, which lie one behind the other, in C. Where
there is nothing in it, its records are not even unpacked. A hit may lie across the end of a value: it says where to
look, and the value itself decides.

Blocks are searched by RE2, for substrings too. Its time grows with the length of what is searched, whatever the
expression, its memory is bounded, and meanwhile other threads run.

RE2 finds a substring by its first and its last byte, many at a time: in 210 ns for each 200 bytes if both are quotation
marks in a text full of them, in 30 ns if they are rare. So it is given the part of the substring whose ends are rarest
in the first block, and where that is found, the whole is compared.

Considered and rejected: searching on in the whole block behind each hit of an expression. `a.*b` would reach to the end
of the block from every record, so the time would grow with the square of the block's length.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import re2

from swarm.core.errors import BadArgument
from swarm.core.limits import KIB, MIB
from swarm.logfiles import payload
from swarm.logfiles.protocol import FilterKind

EXPRESSION_BYTES_MAX = 1 * MIB  # memory of one: its program and its automata. Past it RE2 refuses, or is slower
RARE = 32  # a search from hit to hit costs as much as looking at so many values, about
CLASSES_MAX = 8  # of Unicode, such as \pL: each takes up to 0.3 ms to compile
PART_BYTES_MIN = 4  # of a substring that is searched for in place of all of it: fewer are found too often
PART_LOOKED_AT = 32  # bytes of the substring that it is taken from: 500 pairs
SAMPLE_BYTES = 16 * KIB
FALSE_HITS_MAX = 64  # of a part, one behind the other: 1 us each; then the whole is searched for
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
        self._options = options
        expression = _compiled(pattern, options)
        if expression.programsize > PROGRAM_MAX and not self._is_substring:
            _check_program(pattern, options)
        self._search = expression.search
        self._is_anywhere = self._is_substring or not any(assertion in pattern for assertion in _ASSERTIONS)
        self._part: _Part | None = None
        self._may_have_part = self._is_substring and not ignore_case and len(pattern) > PART_BYTES_MIN

    def first(self, raw: bytes) -> int | None:
        """Where in a payload a match may begin: values that end before are not taken. None: none is. Raises
        BadPayload."""
        start = payload.values_start(raw)
        if self._may_have_part:
            self._may_have_part = False
            self._part = _Part.of(self._pattern, raw[start : start + SAMPLE_BYTES], self._options)
        return self._find(raw, start) if self._is_anywhere else start

    def select(self, raw: bytes, starts: list[int], first: int) -> list[int]:
        """The numbers of the values that are taken, in order. raw: the payload that they are from; starts: where in it
        each begins, and the last one ends; first: as `first` has told."""
        if self._is_substring:
            return self._from_hit_to_hit(raw, starts, first)
        return self._each(raw, starts, bisect_right(starts, first) - 1)

    def _find(self, raw: bytes, start: int) -> int | None:
        """The first hit from there on."""
        if self._part is not None:
            return self._part.find(raw, start, self._search)
        match = self._search(raw, start)
        return None if match is None else int(match.start())

    def _each(self, raw: bytes, starts: list[int], begin: int) -> list[int]:
        """Of the values from the one with this number on."""
        values = [raw[start:end] for start, end in pairwise(starts[begin:])]
        if not self._is_substring:
            search = self._search
            return [number for number, value in enumerate(values, begin) if search(value) is not None]
        pattern = self._pattern
        if self._ignore_case:
            return [number for number, value in enumerate(values, begin) if pattern in value.lower()]
        return [number for number, value in enumerate(values, begin) if pattern in value]

    def _from_hit_to_hit(self, raw: bytes, starts: list[int], hit: int | None) -> list[int]:
        """Those of a substring."""
        size, found = len(self._pattern), []
        while hit is not None:
            number = bisect_right(starts, hit) - 1
            if hit + size <= starts[number + 1]:
                found.append(number)
                if len(found) * RARE >= len(starts):
                    return found + self._each(raw, starts, number + 1)
            # Also where it reaches out of the value, none that is in there begins behind it.
            hit = self._find(raw, starts[number + 1])
        return found


class _Part(NamedTuple):
    """What of a substring is searched for. offset: in the substring."""

    whole: bytes
    offset: int
    search: Callable[[bytes, int], Any]

    @classmethod
    def of(cls, whole: bytes, sample: bytes, options: "re2.Options") -> "_Part | None":
        """The one whose ends are rarest in a sample of what is searched; None: that is the whole."""
        seen = whole[:PART_LOOKED_AT]
        often = {each: 1 + sample.count(each) for each in set(seen)}
        ends = combinations(range(len(seen)), 2)
        first, last = min(
            (each for each in ends if each[1] - each[0] >= PART_BYTES_MIN - 1),
            key=lambda each: (often[seen[each[0]]] * often[seen[each[1]]], each[0] - each[1]),
        )
        if last - first + 1 == len(whole):
            return None
        return cls(whole, first, _compiled(whole[first : last + 1], options).search)

    def find(self, raw: bytes, start: int, search_whole: Callable[[bytes, int], Any]) -> int | None:
        """The first of the whole substring from there on."""
        for _ in range(FALSE_HITS_MAX):
            match = self.search(raw, start + self.offset)
            if match is None:
                return None
            start = match.start() - self.offset
            if raw.startswith(self.whole, start):
                return start
            start += 1
        match = search_whole(raw, start)
        return None if match is None else int(match.start())


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
