"""Pushes, pops and sizes (docs/protocol.md §5, queue node): what is carried out, and what is refused."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from core.raw_client import at_work, frame
from queue_node.raw_queue import (
    BAD_ARGUMENT,
    BAD_CHANNEL,
    BATCH_TOO_BIG,
    CHANNEL_SIZE,
    CHANNELS,
    CONSUME,
    DISK_FULL,
    DONE,
    DROP_SUBSCRIBER,
    EMPTY_VALUE,
    HEALTH,
    KIB,
    MIB,
    POP,
    POP_MANY,
    PUSH,
    PUSH_MANY,
    QUEUE_FULL,
    QUEUES,
    REMOVE_CHANNEL,
    RING_BYTES,
    SIZE,
    STATS,
    TOO_MANY_CHANNELS,
    UNKNOWN_REQUEST,
    VALUE_TOO_BIG,
    QueueConnection,
    open_node,
    pack,
    unpack,
)

from nodes.queue import served_queue
from nodes.queue.config import ChannelSection
from swarm.core.node import LimitsSection, Node

BAD_CHANNELS = ["../x", "a/b", "@x", "", "x" * 129, "ä", "a\0", "a\n", b"a", None, 1, [], {}, ["a"]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with open_node(tmp_path, limits=LimitsSection(value_bytes=32 * KIB)) as node:
        yield node


@pytest.fixture
def client(node: Node) -> QueueConnection:
    return QueueConnection(node)


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


# What is carried out.


def test_what_is_pushed_is_popped_in_order(client: QueueConnection) -> None:
    client.push("c", b"1")
    client.push("c", b"2", b"3", b"4")
    client.push("c", b"5")
    assert client.result(POP, "c") == b"1"
    assert client.pop("c", 2) == [b"2", b"3"]
    assert client.pop("c") == [b"4", b"5"]
    assert client.result(POP, "c") is None
    assert client.pop("c") == []


def test_many_in_one_frame_are_carried_out_in_order(client: QueueConnection) -> None:
    requests = [[1, PUSH, "c", b"a"], [2, POP, "c"], [3, POP, "c"], [4, PUSH, "c", b"b"], [5, PUSH, "c", b"c"]]
    requests += [[6, POP_MANY, "c", 9], [7, POP, "c"]]
    answers = {number: result for number, status, result in client.ask(*requests) if status == DONE}
    assert answers.pop(6) == list(pack(b"b", b"c"))
    assert answers == {1: None, 2: b"a", 3: None, 4: None, 5: None, 7: None}


def test_a_push_to_several_channels(client: QueueConnection) -> None:
    client.push("a", b"before")
    client.result(PUSH_MANY, ["a", "b", "c"], *pack(b"1", b"2"))
    assert client.pop("a") == [b"before", b"1", b"2"]
    assert client.pop("b") == client.pop("c") == [b"1", b"2"]


def test_a_pop_ends_with_the_record_that_passes_1_mib(tmp_path: Path) -> None:
    with open_node(tmp_path, ring_bytes=8 * MIB) as node:
        client = QueueConnection(node)
        for _ in range(40):
            client.push("c", bytes(100 * KIB))
        assert len(client.pop("c")) == 11
        client.push("big", bytes(4 * MIB))
        assert client.pop("big") == [bytes(4 * MIB)]


def test_records_of_every_length_come_back(client: QueueConnection) -> None:
    for size in (1, 2, 255, 256, 4095, 4096, 4097, 32 * KIB):
        record = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        client.push("c", record)
        assert client.result(POP, "c") == record


def test_reading_a_channel_that_does_not_exist_creates_nothing(client: QueueConnection, tmp_path: Path) -> None:
    assert client.result(POP, "c") is None
    assert client.pop("c") == []
    assert client.result(CHANNEL_SIZE, "c") == [0, 0]
    assert client.result(QUEUES, "c") == []
    assert client.result(REMOVE_CHANNEL, "c") is False
    assert client.result(CHANNELS) == []
    assert files(tmp_path) == []


async def test_sizes(node: Node, client: QueueConnection) -> None:
    client.push("a", b"123", b"4567")
    client.push("b", b"1")
    assert client.result(CHANNELS) == ["a", "b"]
    assert client.result(CHANNEL_SIZE, "a") == [2, 7]
    assert client.result(SIZE) == [2, 3, 8]
    (queue,) = client.queues("a")
    fullness = queue.pop("fullness")
    assert 0 < fullness < 1
    assert type(fullness) is float
    expected = {"records": 2, "bytes": 7, "unacknowledged": 0, "consumers": 0, "dropped": 0, "damaged": 0}
    assert queue == {"subscriber": ""} | expected
    async with at_work(node):
        stats = client.result(STATS)
    told = stats["channel"]["a"]
    assert told == expected | {"fullness": told["fullness"]}
    assert stats["channels"] == 2
    assert stats["records"] == 3
    client.pop("a")
    assert client.result(SIZE) == [2, 1, 1]


def test_a_channel_that_is_removed_is_gone_with_its_files(client: QueueConnection, tmp_path: Path) -> None:
    client.push("a", b"1")
    client.push("b", b"2")
    assert client.result(REMOVE_CHANNEL, "a") is True
    assert client.result(REMOVE_CHANNEL, "a") is False
    assert client.result(CHANNELS) == ["b"]
    assert client.result(POP, "a") is None
    assert files(tmp_path) == ["channels/b/own.ring"]
    client.push("a", b"new")
    assert client.pop("a") == [b"new"]


# What is refused.


@pytest.mark.parametrize("channel", BAD_CHANNELS, ids=repr)
def test_a_bad_channel_is_refused_before_any_file_is_touched(
    client: QueueConnection, tmp_path: Path, channel: object
) -> None:
    for request in ([PUSH, channel, b"x"], [PUSH_MANY, [channel], *pack(b"x")], [POP, channel], [POP_MANY, channel, 1]):
        assert client.error(*request)[0] == BAD_CHANNEL
    assert client.error(QUEUES, channel)[0] == BAD_CHANNEL
    assert client.error(PUSH_MANY, ["good", channel], *pack(b"x"))[0] == BAD_CHANNEL
    assert files(tmp_path) == []


@pytest.mark.parametrize("record", [None, "text", 1, [b"x"], {}, True])
def test_a_record_of_another_type(client: QueueConnection, record: object) -> None:
    assert client.error(PUSH, "c", record) == (BAD_ARGUMENT, {"position": 1})
    assert client.result(SIZE) == [0, 0, 0]


def test_an_empty_record(client: QueueConnection) -> None:
    client.push("c", b"there")
    for _ in range(2):
        assert client.error(PUSH, "c", b"")[0] == EMPTY_VALUE
        assert client.error(PUSH_MANY, ["c"], *pack(b"x", b"", b"y"))[0] == EMPTY_VALUE
    assert client.pop("c") == [b"there"]


@pytest.mark.parametrize("channel", ["there", "new"])
def test_a_record_at_the_limit_and_past_it(client: QueueConnection, channel: str) -> None:
    client.push("there", b"x")
    client.pop("there")
    most = 32 * KIB
    assert client.error(PUSH, channel, bytes(most + 1)) == (VALUE_TOO_BIG, {"position": 1, "limit": most})
    assert client.error(PUSH_MANY, [channel], *pack(b"x", bytes(most + 1)))[0] == VALUE_TOO_BIG
    client.push(channel, bytes(most))
    assert client.pop(channel) == [bytes(most)]


def test_what_is_larger_than_the_ring_leaves_no_channel_behind(client: QueueConnection, tmp_path: Path) -> None:
    status, details = client.error(PUSH_MANY, ["new"], *pack(*[bytes(30 * KIB)] * 3))
    assert status == VALUE_TOO_BIG
    assert 0 < details["limit"] <= RING_BYTES
    assert client.result(CHANNELS) == []
    assert files(tmp_path) == []


def test_a_batch_at_the_limit_and_past_it(client: QueueConnection) -> None:
    client.push("c", *[b"x"] * 4096)
    assert len(client.pop("c")) == 4096
    assert client.error(PUSH_MANY, ["c"], *pack(*[b"x"] * 4097)) == (BATCH_TOO_BIG, {"limit": 4096})
    assert client.pop("c") == []


@pytest.mark.parametrize(
    ("lengths", "data"),
    [
        (b"", b""),
        (b"", b"x"),
        (b"\1\0\0", b"x"),
        (b"\1\0\0\0\0", b"x"),
        (b"\1\0\0\0", b""),
        (b"\1\0\0\0", b"xy"),
        (b"\xff\xff\xff\x7f", b"x"),
        (b"\xff\xff\xff\xff" * 2, b"x"),
        ("text", b"x"),
        (b"\1\0\0\0", "x"),
        (None, None),
        ([1], b"x"),
    ],
)
def test_lengths_that_do_not_belong_to_the_data(client: QueueConnection, lengths: object, data: object) -> None:
    assert client.error(PUSH_MANY, ["c"], lengths, data)[0] in (BAD_ARGUMENT, VALUE_TOO_BIG)
    assert client.result(SIZE) == [0, 0, 0]


@pytest.mark.parametrize("channels", [[], ["c"] * 65, ["a", "b", "a"], "c", None, 1, {"c": 1}])
def test_channels_of_a_push(client: QueueConnection, channels: object) -> None:
    assert client.error(PUSH_MANY, channels, *pack(b"x"))[0] == BAD_ARGUMENT
    assert client.result(SIZE) == [0, 0, 0]


@pytest.mark.parametrize("records", [0, -1, 4097, 2**64 - 1, None, "1", 1.0, True, b"1"])
def test_number_of_records_of_a_pop(client: QueueConnection, records: object) -> None:
    client.push("c", b"x")
    assert client.error(POP_MANY, "c", records) == (BAD_ARGUMENT, {"position": 1})
    assert client.pop("c") == [b"x"]


@pytest.mark.parametrize("code", range(32, 41))
@pytest.mark.parametrize("arguments", [[], ["c"] * 9])
def test_a_wrong_number_of_arguments(client: QueueConnection, code: int, arguments: list[str]) -> None:
    if (code, len(arguments)) == (POP, 1):
        return
    assert client.error(code, *arguments)[0] == BAD_ARGUMENT


def test_an_unknown_request(client: QueueConnection) -> None:
    for code in (16, 31, 41, -1, "push", None):
        assert client.error(code, "c", b"x")[0] == UNKNOWN_REQUEST  # type: ignore[arg-type]


def test_one_channel_too_many(tmp_path: Path) -> None:
    with open_node(tmp_path, limits=LimitsSection(channels_max=2)) as node:
        client = QueueConnection(node)
        client.push("a", b"1")
        assert client.error(PUSH_MANY, ["a", "b", "c"], *pack(b"x")) == (TOO_MANY_CHANNELS, {"limit": 2})
        assert client.result(SIZE) == [1, 1, 1]
        client.push("b", b"1")
        assert client.error(PUSH, "c", b"x") == (TOO_MANY_CHANNELS, {"limit": 2})
        assert files(tmp_path) == ["channels/a/own.ring", "channels/b/own.ring"]
        client.result(REMOVE_CHANNEL, "a")
        client.push("c", b"x")


def test_one_queue_too_many(tmp_path: Path) -> None:
    with open_node(tmp_path, queues_max=3) as node:
        client = QueueConnection(node)
        client.consume(1, "a", "s")
        client.consume(2, "a", "t")
        client.push("b", b"1")
        for code, *arguments in ((PUSH, "c", b"x"), (CONSUME, "a", "u", 1, 1), (CONSUME, "d", "s", 1, 1)):
            assert client.error(code, *arguments) == (TOO_MANY_CHANNELS, {"limit": 3})
        assert client.error(PUSH_MANY, ["a", "c"], *pack(b"x")) == (TOO_MANY_CHANNELS, {"limit": 3})
        assert len(files(tmp_path)) == 3
        assert client.result(SIZE) == [2, 1, 1]
        assert [77, DONE, True] in client.ask([77, DROP_SUBSCRIBER, "a", "t"])
        client.push("c", b"x")


# Full.


def fill(client: QueueConnection, channel: str, size: int = KIB) -> int:
    """Until it is refused; how many records went in."""
    for number in range(10_000):
        ((_, status, result),) = client.ask([1, PUSH, channel, bytes(size)])
        if status != DONE:
            assert status == QUEUE_FULL
            assert result[1] == {"channel": channel, "subscriber": ""}
            return number
    raise AssertionError("it does not become full")


def test_a_full_queue_refuses_and_takes_again(client: QueueConnection) -> None:
    count = fill(client, "c")
    assert 50 < count <= 64
    assert client.queues("c")[0]["fullness"] > 95
    assert client.error(PUSH, "c", bytes(KIB))[0] == QUEUE_FULL
    assert client.result(POP, "c") == bytes(KIB)
    client.push("c", b"x" * KIB)
    assert len(client.pop("c")) == count


def test_a_push_to_several_channels_is_stored_in_all_or_in_none(client: QueueConnection, tmp_path: Path) -> None:
    fill(client, "full")
    client.push("there", b"x")
    before = client.result(SIZE)
    for channels in (["there", "full"], ["full", "there"], ["there", "new", "full"], ["new", "full"]):
        status, details = client.error(PUSH_MANY, channels, *pack(bytes(KIB)))
        assert (status, details) == (QUEUE_FULL, {"channel": "full", "subscriber": ""})
    assert client.result(SIZE) == before
    assert files(tmp_path) == ["channels/full/own.ring", "channels/there/own.ring"]
    assert client.pop("there") == [b"x"]


def test_drop_oldest(tmp_path: Path) -> None:
    with open_node(tmp_path, full="drop-oldest") as node:
        client = QueueConnection(node)
        for number in range(1000):
            client.push("c", struct.pack("<I", number) * 256)
        (queue,) = client.queues("c")
        assert queue["dropped"] == 1000 - queue["records"] > 900
        left = [struct.unpack_from("<I", record)[0] for record in client.pop("c")]
        assert left == list(range(1000 - len(left), 1000))


def test_nothing_is_dropped_for_a_push_that_another_channel_refuses(tmp_path: Path) -> None:
    dropping, small = ChannelSection(full="drop-oldest"), ChannelSection(full="drop-oldest", ring_bytes=64 * KIB)
    sections = {"dropping": dropping, "small": small}
    with open_node(tmp_path, channel=sections, ring_bytes=128 * KIB) as node:
        client = QueueConnection(node)
        fill(client, "firm")
        while not client.queues("dropping") or client.queues("dropping")[0]["fullness"] < 98:
            client.push("dropping", bytes(KIB))
        client.push("small", b"x")
        before = client.queues("dropping")
        for channels in (["dropping", "firm"], ["firm", "dropping"]):
            assert client.error(PUSH_MANY, channels, *pack(bytes(KIB)))[0] == QUEUE_FULL
        too_big = pack(*[bytes(KIB)] * 80)
        assert client.error(PUSH_MANY, ["dropping", "small"], *too_big)[0] == VALUE_TOO_BIG
        assert client.queues("dropping") == before


def test_nothing_is_dropped_for_a_push_that_a_channel_with_overflow_left_refuses(tmp_path: Path) -> None:
    """It drops the oldest, but what waits on disk since it was configured otherwise has to go first."""
    with open_node(tmp_path, full="overflow") as node:
        for _ in range(200):
            QueueConnection(node).push("left", bytes(KIB))
    left = ChannelSection(full="drop-oldest", overflow_bytes=64 * KIB)
    with open_node(tmp_path, channel={"left": left, "*": ChannelSection(full="drop-oldest")}) as node:
        client = QueueConnection(node)
        for number in range(60):
            client.push("drops", b"%d" % number * 512)
        there = client.queues("drops")
        assert client.error(PUSH_MANY, ["drops", "left"], *pack(bytes(30 * KIB)))[0] == QUEUE_FULL
        assert client.queues("drops") == there


def test_overflow_keeps_the_order_and_is_bounded(tmp_path: Path) -> None:
    with open_node(tmp_path, full="overflow", overflow_bytes=256 * KIB) as node:
        client = QueueConnection(node)
        pushed = 0
        while client.ask([1, PUSH, "c", struct.pack("<I", pushed) * 256])[0][1] == DONE:
            pushed += 1
        assert 250 < pushed < 330
        assert client.error(PUSH, "c", bytes(KIB))[0] == QUEUE_FULL
        popped: list[int] = []
        while records := client.pop("c", 7):
            popped += [struct.unpack_from("<I", record)[0] for record in records]
        assert popped == list(range(pushed))


def test_a_disk_that_is_full_leaves_no_channel_behind(tmp_path: Path) -> None:
    """A ring that is larger than any disk cannot be allocated."""
    with open_node(tmp_path, channel={"huge": ChannelSection(ring_bytes=1 << 60)}) as node:
        client = QueueConnection(node)
        for _ in range(2):
            status, _ = client.error(PUSH, "huge", b"x")
            assert status == DISK_FULL
            assert client.error(PUSH_MANY, ["other", "huge"], *pack(b"x"))[0] == DISK_FULL
        assert client.result(CHANNELS) == []
        assert files(tmp_path) == []
        client.push("other", b"x")


def test_what_the_longest_pattern_says_holds(tmp_path: Path) -> None:
    sections = {
        "*": ChannelSection(full="drop-oldest"),
        "a*": ChannelSection(ring_bytes=128 * KIB),
        "ab": ChannelSection(ring_bytes=192 * KIB),
        "ab*": ChannelSection(ring_bytes=256 * KIB),
    }
    with open_node(tmp_path, channel=sections) as node:
        client = QueueConnection(node)
        for channel, size in [("x", 64), ("a", 128), ("ax", 128), ("ab", 192), ("abx", 256)]:
            client.push(channel, b"x")
            assert (tmp_path / "channels" / channel / "own.ring").stat().st_size == (size + 4) * KIB


def test_garbage_harms_nobody_else(node: Node) -> None:
    client, bad = QueueConnection(node), QueueConnection(node)
    client.push("c", b"x")
    bad.give(b"\xff" * 100)
    assert bad.closing
    bad = QueueConnection(node)
    bad.give(frame([0, PUSH, "c", b"y"]))
    assert bad.closing
    assert client.pop("c") == [b"x"]


def test_health_tells_of_queues_that_are_nearly_full(tmp_path: Path) -> None:
    def found(client: QueueConnection) -> list[tuple[str, str]]:
        return [(rule, text) for rule, text in client.result(HEALTH)]

    sections = {"ring": ChannelSection(full="drop-oldest")}
    with open_node(tmp_path, channel=sections) as node:
        client = QueueConnection(node)
        client.push("c", b"x")
        for _ in range(100):
            client.push("ring", bytes(KIB))
        assert client.queues("ring")[0]["fullness"] > 90
        assert found(client) == []
        count = fill(client, "c")
        ((rule, text),) = found(client)
        assert rule == "queue_nearly_full"
        assert text.startswith("the queue of c is 100 % full: ")
        assert "more are nearly full" not in text
    with open_node(tmp_path, channel=sections) as node:  # found also when nothing was pushed yet
        client = QueueConnection(node)
        ((_, text),) = found(client)
        assert text.startswith("the queue of c is 100 % full: ")
        fill(client, "d")
        ((_, text),) = found(client)
        assert "(1 more are nearly full)" in text
        client.result(REMOVE_CHANNEL, "d")
        client.pop("c", count // 10)
        assert len(found(client)) == 1, "it is less than 90 % full, and more than 75"
        client.pop("c", count // 2)
        assert found(client) == []


def test_it_is_told_once_that_a_queue_becomes_full(
    client: QueueConnection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(served_queue, "monotonic", lambda: now[0])

    def told() -> int:
        return sum("nearly full" in record.message for record in caplog.records)

    count = fill(client, "c")
    assert told() == 1
    client.pop("c", count // 10)
    fill(client, "c")
    assert told() == 1
    client.pop("c", count // 2)
    assert told() == 1
    fill(client, "c")
    assert told() == 1  # not that soon again
    now[0] += 60
    client.pop("c", 1)
    assert told() == 2
    assert unpack(*client.result(POP_MANY, "c", 1)) == [bytes(KIB)]
