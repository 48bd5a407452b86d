"""A filter takes the same values whether a block is looked at as a whole first or not: against Python's own search."""

import re
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodes.logfiles.filters import CLASSES_MAX, PROGRAM_MAX, RARE, Filter
from swarm.core.errors import BadArgument
from swarm.logfiles import payload
from swarm.logfiles.protocol import FilterKind

SMALL = st.binary(min_size=1, max_size=4) | st.text("ab\xe9K \n", min_size=1, max_size=3).map(str.encode)
VALUES = st.lists(
    st.one_of(
        st.text("aAbBk\xe9\xc9 \n", min_size=1, max_size=12).map(str.encode),
        st.binary(min_size=1, max_size=8),
        st.binary(min_size=250, max_size=260),
        st.just(b"\x02\xc4" * 40_000),
    ),
    min_size=1,
    max_size=40,
)


def taken(kind: FilterKind, pattern: bytes, values: list[bytes], *, ignore_case: bool = False) -> list[int]:
    """As a reader does it."""
    raw = payload.encode(range(len(values)), values)
    filter_ = Filter(kind, pattern, ignore_case=ignore_case)
    first = filter_.first(raw)
    return (
        []
        if first is None
        else filter_.select(raw, list(accumulate(map(len, values), initial=payload.values_start(raw))), first)
    )


@given(SMALL, VALUES, st.booleans())
@example(b"\xc4", [b"a", b"b" * 250, b"\xc4"], False)
@example(b"\xe9", [b"\xc9", b"\xe9", "é".encode()], True)
@example(b"aa", [b"a", b"a", b"aa", b"aaa"] * 20, False)
def test_substrings(pattern: bytes, values: list[bytes], ignore_case: bool) -> None:
    if ignore_case:
        expected = [number for number, value in enumerate(values) if pattern.lower() in value.lower()]
    else:
        expected = [number for number, value in enumerate(values) if pattern in value]
    assert taken(FilterKind.SUBSTRING, pattern, values, ignore_case=ignore_case) == expected


@pytest.mark.parametrize("every", [1, 2, RARE - 1, RARE, RARE + 1, 400])
def test_substrings_however_many_values_have_them(every: int) -> None:
    values = [b"needle %d" % number if number % every == 0 else b"hay" * (number % 100 + 1) for number in range(2000)]
    assert taken(FilterKind.SUBSTRING, b"needle", values) == list(range(0, 2000, every))
    assert taken(FilterKind.SUBSTRING, b"NEEDLE", values, ignore_case=True) == list(range(0, 2000, every))


EXPRESSIONS = [
    b"a",
    b"a+b",
    b"^a",
    b"b$",
    b"a.*b",
    b"(?s)a.+b",
    b"[^a]",
    b"\\xc4",
    b"a|^b",
    b"\\bk\\b",
    b"x*",
    b"(a+)+$",
]


@given(st.sampled_from(EXPRESSIONS), VALUES)
def test_expressions_on_bytes(pattern: bytes, values: list[bytes]) -> None:
    python = re.compile(pattern.replace(b"$", b"\\Z"))
    expected = [number for number, value in enumerate(values) if python.search(value)]
    assert taken(FilterKind.REGEX, pattern, values) == expected


@pytest.mark.parametrize("pattern", ["é", "É.", "^\\pL", "\\P{L}", "[à-ü]"])
def test_expressions_with_other_characters_are_about_text(pattern: str) -> None:
    texts = ["é", "É1", "e", "1", "ü", "z é", "", "日本"]
    values = [text.encode() for text in texts if text]
    python = re.compile(pattern.replace("\\pL", "[^\\W\\d_]").replace("\\P{L}", "[\\W\\d_]"))
    expected = [number for number, value in enumerate(values) if python.search(value.decode())]
    assert taken(FilterKind.REGEX, pattern.encode(), values) == expected


@pytest.mark.parametrize(
    "pattern",
    [b"(", b"[a", b"a**", b"(?<=a)b", b"\\1", b"a{1001}", b"\xff", "é(".encode(), b"\\pL" * (CLASSES_MAX + 1)],
)
def test_what_is_no_expression_is_refused(pattern: bytes) -> None:
    with pytest.raises(BadArgument, match="regular expression"):
        Filter(FilterKind.REGEX, pattern, ignore_case=False)


def test_an_expression_that_takes_too_much_memory_is_refused() -> None:
    with pytest.raises(BadArgument, match="too large"):
        Filter(FilterKind.REGEX, b"\\pL{1000}" * CLASSES_MAX, ignore_case=False)


@pytest.mark.parametrize("pattern", [b"(.*){1000}", b"(.*){1000}$", b"a.{300}b", b"(a?){300}b", b"(\\pL.*){8}a{300}"])
def test_an_expression_that_would_hold_a_thread_for_seconds_is_refused(pattern: bytes) -> None:
    with pytest.raises(BadArgument, match="is too large") as raised:
        Filter(FilterKind.REGEX, pattern, ignore_case=False)
    assert raised.value.details == {"limit": PROGRAM_MAX}


@pytest.mark.parametrize(
    "pattern",
    [
        b"(a+)+$",
        b"\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}\\.\\d{1,3} .*(GET|POST|PUT) /[a-z/]* 5\\d\\d",
        b"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        b"error.{0,70}timeout",
        b"|".join(b"host-%d" % number for number in range(100)),
        "ü.{0,70}é".encode(),
        b"[\\pL\\p{Nd}]+@\\pL+",
        b"\\pL" * CLASSES_MAX,
    ],
)
def test_an_ordinary_expression_is_taken(pattern: bytes) -> None:
    for ignore_case in (False, True):
        Filter(FilterKind.REGEX, pattern, ignore_case=ignore_case)


def test_values_of_all_lengths_are_found_in_their_payload() -> None:
    sizes = [1, 0xFE, 0xFF, 0x100, 0xFFFF, 0x10000, 2]
    values = [b"y" * size for size in sizes] + [b"x"]
    for place, (before, _) in enumerate(pairwise(values)):
        marked = [*values]
        marked[place] = b"x" + before[1:]
        assert taken(FilterKind.SUBSTRING, b"x", marked * 8) == sorted(
            [row * len(marked) + each for row in range(8) for each in (place, len(marked) - 1)]
        )
