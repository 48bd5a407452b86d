"""Reading a range from several nodes, without I/O: what they give is merged by time, whole and in order.

The nodes of these tests are lists of records, cut into blocks and batches at random places.
"""

from collections.abc import Iterator
from itertools import cycle
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.errors import BadArgument, BadChannel, ProtocolError
from swarm.core.protocol import DEFAULT_LIMITS
from swarm.core.session import NodeHello
from swarm.logfiles import payload
from swarm.logfiles.operations import LogfilesNodes
from swarm.logfiles.payload import Codec
from swarm.logfiles.protocol import ANY_TIME, OLDEST_FIRST
from swarm.logfiles.ranges import Range

Records = list[tuple[int, bytes]]


def known_nodes(count: int) -> LogfilesNodes:
    known = LogfilesNodes([f"127.0.0.1:{10_001 + number}" for number in range(count)])
    for number in range(count):
        known.learn(number, NodeHello("logfiles", "test", DEFAULT_LIMITS))
    return known


def range_of(nodes: int, **options: Any) -> Range:
    every: dict[str, Any] = {
        "start": None,
        "end": None,
        "substring": None,
        "regex": None,
        "ignore_case": False,
        "limit": None,
        "newest_first": False,
        "credit": 4,
    }
    return Range(known_nodes(nodes), "channel", **(every | options))


def asked(reading: Range) -> list[int]:
    """The nodes that are asked; as a client does."""
    steps = reading.nodes()
    with pytest.raises(StopIteration) as stop:
        next(steps)
    return stop.value.value  # type: ignore[no-any-return]


def block_of(records: Records, skip: int = 0, take: int | None = None, codec: Codec = Codec.NONE) -> list[Any]:
    """As it travels: records in the order of time."""
    timestamps, values = map(list, zip(*records, strict=True))
    raw = payload.encode(timestamps, values)
    take = len(records) - skip if take is None else take
    stored = payload.compress(codec, raw)
    return [int(codec), len(records), timestamps[0], timestamps[-1], skip, take, len(raw), stored]


def read_all(reading: Range, batches: dict[int, Iterator[list[Any]]]) -> list[tuple[list[int], list[bytes]]]:
    """Gives each node's batches when they are wanted."""
    blocks = []
    while True:
        block = reading.next()
        if block is not None:
            assert len(block[0]) == len(block[1]) > 0
            blocks.append(block)
        elif (node := reading.wanted()) is None:
            return blocks
        elif reading.call(node) is None:
            continue
        elif (batch := next(batches[node], None)) is None:
            reading.node_ended(node, ["end", 0])
        else:
            reading.took(node, batch)


def records_of(blocks: list[tuple[list[int], list[bytes]]]) -> Records:
    return [record for timestamps, values in blocks for record in zip(timestamps, values, strict=True)]


TIMES = [payload.TIMESTAMP_MIN, *range(-8, 8), payload.TIMESTAMP_MAX]


Node = list[list[Records]]
"""Batches, which are blocks, which are records in the order of time."""


def node_of(number: int, timestamps: list[int], blocks: list[int], batches: list[int]) -> Node:
    """Each value is another. blocks, batches: how many records, and how many blocks, are in one; taken in turn."""
    records = [(timestamp, b"%d-%d" % (number, each)) for each, timestamp in enumerate(sorted(timestamps))]
    made: Node = []
    block_sizes, batch_sizes = cycle(blocks), cycle([*batches, 1])
    while records:
        batch = []
        for _ in range(next(batch_sizes)):
            size = next(block_sizes)
            batch += [records[:size]] if records else []
            records = records[size:]
        made.append(batch)
    return made


STORES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(TIMES), max_size=20),
        st.lists(st.integers(1, 6), min_size=1, max_size=3),
        st.lists(st.integers(0, 2), max_size=3),
    ),
    min_size=1,
    max_size=4,
).map(lambda nodes: [node_of(number, *node) for number, node in enumerate(nodes)])


def as_batches(node: Node, newest_first: bool) -> Iterator[list[Any]]:
    if newest_first:
        node = [batch[::-1] for batch in node[::-1]]
    return iter([[b"cursor", [block_of(block) for block in batch]] for batch in node])


def everything(store: list[Node], newest_first: bool) -> Records:
    """In the order of time; of the same time node after node, each in its own order."""
    records = [record for node in store for batch in node for block in batch for record in block]
    return sorted(records, key=itemgetter(0), reverse=newest_first)


@given(STORES, st.booleans())
def test_everything_is_given_once_in_the_order_of_time(store: list[Node], newest_first: bool) -> None:
    reading = range_of(len(store), newest_first=newest_first)
    assert asked(reading) == list(range(len(store)))
    given_ = records_of(
        read_all(reading, {number: as_batches(node, newest_first) for number, node in enumerate(store)})
    )
    expected = everything(store, newest_first)
    assert [timestamp for timestamp, _ in given_] == [timestamp for timestamp, _ in expected]
    assert sorted(given_) == sorted(expected)
    for number, node in enumerate(store):  # each node's records in its own order, those of the same time too
        prefix = b"%d-" % number
        own = [value for batch in node for block in batch for _, value in block]
        given_of_it = [value for _, value in given_ if value.startswith(prefix)]
        assert given_of_it == (own[::-1] if newest_first else own)


@given(STORES, st.booleans(), st.integers(1, 40))
def test_a_limit_gives_the_first_of_them(store: list[Node], newest_first: bool, limit: int) -> None:
    reading = range_of(len(store), newest_first=newest_first, limit=limit)
    asked(reading)
    given_ = records_of(
        read_all(reading, {number: as_batches(node, newest_first) for number, node in enumerate(store)})
    )
    expected = [timestamp for timestamp, _ in everything(store, newest_first)][:limit]
    assert [timestamp for timestamp, _ in given_] == expected
    assert len(set(given_)) == len(given_)


def test_blocks_of_one_node_pass_as_they_are() -> None:
    reading = range_of(1)
    asked(reading)
    blocks = [[(1, b"a"), (2, b"b")], [(2, b"c")], [(3, b"d")]]
    given_ = read_all(reading, {0: iter([[b"", [block_of(each) for each in blocks]]])})
    assert [list(zip(*each, strict=True)) for each in given_] == blocks


def test_blocks_that_do_not_overlap_pass_as_they_are() -> None:
    reading = range_of(2)
    asked(reading)
    zero, one = [(1, b"a"), (2, b"b")], [(3, b"c"), (9, b"d")]
    two, three = [(4, b"e"), (5, b"f")], [(9, b"g")]
    batches = {0: iter([[b"", [block_of(zero), block_of(two)]]]), 1: iter([[b"", [block_of(one), block_of(three)]]])}
    given_ = [list(zip(*each, strict=True)) for each in read_all(reading, batches)]
    assert given_[0] == zero
    assert [record for block in given_ for record in block] == [*zero, one[0], *two, one[1], *three]


@pytest.mark.parametrize("codec", list(Codec))
def test_of_a_block_only_what_belongs_to_the_range_is_given(codec: Codec) -> None:
    records = [(number, b"value %d" % number) for number in range(100)]
    for newest_first in (False, True):
        reading = range_of(1, newest_first=newest_first)
        asked(reading)
        given_ = records_of(read_all(reading, {0: iter([[b"", [block_of(records, 10, 20, codec)]]])}))
        assert given_ == (records[29:9:-1] if newest_first else records[10:30])


def test_a_new_request_goes_on_behind_the_last_batch() -> None:
    reading = range_of(1, limit=5, start=0, end=100, substring=b"x", ignore_case=True)
    asked(reading)
    first = reading.call(0)
    assert first is not None
    assert first.arguments == ("channel", 0, 100, b"", OLDEST_FIRST, 5, [0, b"x", True], 4)
    cursor = bytes(range(16))
    reading.took(0, [cursor, [block_of([(1, b"a"), (2, b"b")], 1), block_of([(2, b"c"), (3, b"d")])]])
    again = reading.call(0)
    assert again is not None
    assert again.arguments == ("channel", 0, 100, cursor, OLDEST_FIRST, 2, [0, b"x", True], 4)
    assert records_of([block for block in iter(reading.next, None) if block]) == [(2, b"b"), (2, b"c"), (3, b"d")]


def test_a_node_that_has_given_the_limit_is_not_asked_again() -> None:
    reading = range_of(2, limit=2)
    asked(reading)
    reading.took(0, [b"", [block_of([(1, b"a"), (5, b"b")])]])
    assert reading.call(0) is None
    assert reading.wanted() == 1
    reading.took(1, [b"", []])
    assert reading.wanted() == 1
    reading.node_ended(1, ["end", 3])
    assert records_of([reading.next() or ([], [])]) == [(1, b"a"), (5, b"b")]
    assert (reading.next(), reading.wanted()) == (None, None)
    assert reading.damaged_blocks == 3


def test_at_the_limit_a_node_is_still_heard_about_damage() -> None:
    reading = range_of(2, limit=1)
    asked(reading)
    reading.took(0, [b"", [block_of([(1, b"a")])]])
    reading.took(1, [b"", [block_of([(5, b"b")])]])
    assert records_of([reading.next() or ([], [])]) == [(1, b"a")]
    assert reading.next() is None
    assert reading.wanted() == 0
    reading.node_ended(0, ["end", 1])
    assert reading.wanted() is None  # the other has not given what it would have
    assert reading.damaged_blocks == 1


GOOD = block_of([(1, b"a"), (2, b"b")])


@pytest.mark.parametrize(
    "batch",
    [
        None,
        [],
        [b"cursor"],
        ["cursor", []],
        [b"cursor", None],
        [b"cursor", [None]],
        [b"cursor", [GOOD[:-1]]],
        [b"cursor", [[*GOOD[:4], -1, *GOOD[5:]]]],
        [b"cursor", [[*GOOD[:5], 3, *GOOD[6:]]]],
        [b"cursor", [[*GOOD[:5], 0, *GOOD[6:]]]],
        [b"cursor", [[*GOOD[:7], "text"]]],
    ],
)
def test_a_batch_that_is_none_is_an_error_that_names_the_node(batch: Any) -> None:
    reading = range_of(1)
    asked(reading)
    with pytest.raises(ProtocolError, match=r"127\.0\.0\.1:10001 sent"):
        reading.took(0, batch)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 3),  # no such codec
        (0, 2),  # not compressed with this one
        (1, 3),  # more records than there are
        (2, payload.TIMESTAMP_MAX),  # so that the last is out of bounds
        (6, 0),
        (6, payload.RAW_BYTES_MAX + 1),
        (6, 1),
        (7, b"\xc1"),
        (7, GOOD[7] + b"\x00"),
    ],
)
def test_a_payload_that_is_none_is_an_error_that_names_the_node(position: int, value: Any) -> None:
    reading = range_of(1)
    asked(reading)
    block = list(GOOD)
    block[position] = value
    reading.took(0, [b"", [block]])
    with pytest.raises(ProtocolError, match=r"127\.0\.0\.1:10001 sent a block of channel channel that is none"):
        reading.next()


@pytest.mark.parametrize("result", [None, "end", ["end"], ["end", "1"], [0, 0]])
def test_a_final_reply_that_is_none_is_an_error(result: Any) -> None:
    reading = range_of(1)
    asked(reading)
    with pytest.raises(ProtocolError, match=r"127\.0\.0\.1:10001 ended a range with"):
        reading.node_ended(0, result)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": 0}, "limit is"),
        ({"limit": True}, "limit is"),
        ({"limit": 1.5}, "limit is"),
        ({"start": 2, "end": 1}, "above"),
        ({"start": "yesterday"}, "a timestamp is"),
        ({"end": True}, "a timestamp is"),
        ({"start": float("nan")}, "finite"),
        ({"substring": b"a", "regex": b"b"}, "not both"),
        ({"substring": b""}, "filter"),
        ({"regex": b"x" * 100_000}, "filter"),
        ({"substring": 5}, "substring is bytes or str"),
        ({"regex": "\ud800"}, "surrogate"),
    ],
)
def test_bad_arguments(options: dict[str, Any], text: str) -> None:
    with pytest.raises(BadArgument, match=text):
        range_of(1, **options)


def test_a_bad_channel() -> None:
    with pytest.raises(BadChannel):
        Range(
            known_nodes(1),
            "../x",
            None,
            None,
            substring=None,
            regex=None,
            ignore_case=False,
            limit=None,
            newest_first=False,
            credit=1,
        )


def test_bounds_beyond_what_a_timestamp_can_be_mean_everything() -> None:
    reading = range_of(1, start=-(10**30), end=1e300)
    asked(reading)
    call = reading.call(0)
    assert call is not None
    assert call.arguments[1:3] == ANY_TIME


def test_text_is_utf_8() -> None:
    reading = range_of(1, regex="é+")
    asked(reading)
    call = reading.call(0)
    assert call is not None
    assert call.arguments[6] == [1, "é+".encode(), False]
