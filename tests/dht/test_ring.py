"""Hash ranges, and which node a hash belongs to."""

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.protocol import DEFAULT_LIMITS, Limits
from swarm.core.session import NodeHello
from swarm.dht.hash_range import HASH_MAX, HashRange, hash_key, split_evenly
from swarm.dht.ring import Ring

edges = st.one_of(st.integers(0, HASH_MAX), st.integers(0, 20), st.integers(HASH_MAX - 20, HASH_MAX))
ranges = st.tuples(edges, edges).map(lambda pair: HashRange(min(pair), max(pair)))


def hello(hash_range: HashRange, limits: Limits = DEFAULT_LIMITS) -> NodeHello:
    return NodeHello("dht", "test", limits, None, {"hash_range": [hash_range.lowest, hash_range.highest]})


def ring_of(*some: HashRange) -> Ring:
    ring = Ring([f"node-{number}:1" for number in range(len(some))])
    for number, each in enumerate(some):
        ring.learn(number, hello(each))
    return ring


# Hash ranges.


def test_the_hash_of_a_key() -> None:
    """docs/protocol.md: XXH3-64 with seed 0; the first is the test vector of its authors for no input."""
    assert hash_key(b"") == 0x2D06800538D394C2
    assert hash_key(b"key") == hash_key(b"key")
    assert 0 <= hash_key(b"another key") <= HASH_MAX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-18446744073709551615", HashRange()),
        ("0x0-0xffffffffffffffff", HashRange()),
        ("0-0", HashRange(0, 0)),
        ("17-42", HashRange(17, 42)),
        (" 17 - 0x2A ", HashRange(17, 42)),
        ("0x11-42", HashRange(17, 42)),
        ("0017-042", HashRange(17, 42)),
        ("0x0000000000000011-0x000000000000002a", HashRange(17, 42)),
    ],
)
def test_parse(text: str, expected: HashRange) -> None:
    assert HashRange.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "5",
        "5-",
        "-5",
        "1-2-3",
        "1,2",
        "ff-fff",
        "0x-0x1",
        "0b1-0b11",
        "1e3-2e3",
        "1_0-2_0",
        "1 2-3",
        "٣-٥",
        "2-1",
        "0-18446744073709551616",
        "0-0x10000000000000000",
        "0-" + "9" * 5000,
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="hash range"):
        HashRange.parse(text)


@given(ranges)
def test_parse_reads_what_str_writes(some: HashRange) -> None:
    assert HashRange.parse(str(some)) == some
    assert HashRange.parse(f"{some.lowest}-{some.highest}") == some


@given(ranges, edges)
def test_in(some: HashRange, key_hash: int) -> None:
    assert (key_hash in some) == (some.lowest <= key_hash <= some.highest)
    assert some.lowest in some
    assert some.highest in some


@pytest.mark.parametrize(("lowest", "highest"), [(-1, 5), (5, 4), (0, HASH_MAX + 1)])
def test_impossible_ranges(lowest: int, highest: int) -> None:
    with pytest.raises(ValueError, match="hash range"):
        HashRange(lowest, highest)


@given(st.integers(1, 300))
def test_split_evenly(parts: int) -> None:
    some = split_evenly(parts)
    assert len(some) == parts
    assert some[0].lowest == 0
    assert some[-1].highest == HASH_MAX
    assert all(before.highest + 1 == after.lowest for before, after in pairwise(some))
    sizes = [each.highest - each.lowest for each in some]
    assert max(sizes) - min(sizes) <= 1
    assert sum(each.share for each in some) == pytest.approx(1)


# Rings.


@given(st.integers(1, 20), edges, st.randoms())
def test_every_hash_has_the_one_node_whose_range_it_is_in(parts: int, key_hash: int, random: Any) -> None:
    some = split_evenly(parts)
    random.shuffle(some)
    ring = ring_of(*some)
    assert ring.complete
    assert ring.problems() == []
    node = ring.place(key_hash)
    assert node is not None
    assert key_hash in some[node]
    assert [some[each] for each in ring.in_order()] == sorted(some)


@given(st.lists(ranges, min_size=1, max_size=6), edges)
def test_a_hash_has_a_node_where_there_is_one(some: list[HashRange], key_hash: int) -> None:
    """Whatever gaps and overlaps there are."""
    ring = ring_of(*some)
    for each in (key_hash, *(edge for one in some for edge in (one.lowest, one.highest))):
        node = ring.place(each)
        if node is None:
            assert not any(each in one for one in some)
        else:
            assert each in some[node]


@given(st.lists(ranges, min_size=1, max_size=6), edges)
def test_problems_are_the_gaps_and_overlaps(some: list[HashRange], key_hash: int) -> None:
    ring = ring_of(*some)
    problems = ring.problems()
    hashes = {key_hash, 0, HASH_MAX}
    hashes |= {each for one in some for each in (one.lowest - 1, one.lowest, one.highest, one.highest + 1)}
    for each in hashes - {-1, HASH_MAX + 1}:
        responsible = sum(each in one for one in some)
        told = {problem.kind for problem in problems if each in problem.hashes}
        assert told == ({"gap"} if responsible == 0 else {"overlap"} if responsible > 1 else set())
    for problem in problems:
        names = {f"node-{number}:1": one for number, one in enumerate(some)}
        for name in problem.nodes:
            assert problem.hashes.lowest in names[name]
            assert problem.hashes.highest in names[name]
        assert str(problem.hashes) in str(problem)
        assert str(problem).startswith(problem.kind)


def test_only() -> None:
    assert ring_of(HashRange()).only == 0
    assert ring_of(HashRange(0, HASH_MAX - 1)).only is None
    assert ring_of(*split_evenly(2)).only is None
    assert ring_of(HashRange(), HashRange()).only is None
    ring = ring_of(HashRange())
    ring.learn(0, hello(HashRange(5, 6)))
    assert ring.only is None


def test_a_ring_that_nothing_is_known_of() -> None:
    ring = Ring(["node-0:1", "node-1:1"])
    assert not ring.complete
    assert ring.place(5) is None
    assert ring.in_order() == []
    ring.learn(1, hello(split_evenly(2)[1]))
    assert not ring.complete
    assert ring.place(5) is None
    assert ring.place(HASH_MAX) == 1


def test_limits_are_the_narrowest_of_all_nodes() -> None:
    ring = Ring(["node-0:1", "node-1:1"])
    assert ring.limits == DEFAULT_LIMITS
    low, high = split_evenly(2)
    ring.learn(0, hello(low, Limits(value_bytes=1000)))
    ring.learn(1, hello(high, Limits(value_bytes=2000, batch_records=10)))
    assert ring.limits == Limits(value_bytes=1000, batch_records=10)


def test_limits_of_a_node_that_was_configured_anew() -> None:
    ring = Ring(["node-0:1"])
    ring.learn(0, hello(HashRange(), Limits(value_bytes=1000)))
    ring.learn(0, hello(HashRange(), Limits(value_bytes=2000)))
    assert ring.limits.value_bytes == 2000


def test_what_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Problems once all nodes are known, and again when something has changed; not at every reconnect."""
    low, middle, high = split_evenly(3)
    ring = Ring(["node-0:1", "node-1:1"])
    ring.learn(0, hello(low))
    assert caplog.messages == []
    ring.learn(1, hello(high))
    assert caplog.messages == [f"gap in the hash ranges: {middle} (no node)"]
    ring.learn(1, hello(high))
    assert len(caplog.messages) == 1
    caplog.clear()
    ring.learn(1, hello(HashRange(low.highest, HASH_MAX)))
    assert caplog.messages == [
        f"node-1:1: its hash range has changed from {high} to {HashRange(low.highest, HASH_MAX)}",
        f"overlap in the hash ranges: {HashRange(low.highest, low.highest)} (node-0:1, node-1:1)",
    ]
    caplog.clear()
    ring.learn(1, hello(HashRange(middle.lowest, HASH_MAX)))
    assert len(caplog.messages) == 1
    assert ring.problems() == []
    assert all(record.levelno == logging.WARNING for record in caplog.records)
