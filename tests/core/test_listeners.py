"""What a node tells those who listen (docs/protocol.md §5, listen), with the test as the driver of its connections.

Whoever carries out the events one after the other has the state of the node, never an older one than before.
"""

import random
import tracemalloc
from typing import Any

import pytest
from raw_client import (
    BATCH,
    CHANNELS,
    CONFLICT,
    CREDIT,
    DONE,
    GET_ALL,
    KIB,
    LISTEN,
    MIB,
    OUT_OF_MEMORY,
    PUT,
    PUT_MANY,
    REMOVE,
    REMOVE_CHANNEL,
    STATS,
    STOP,
    TOO_MANY_REQUESTS,
    UPDATE,
    WRONG_NODE,
    DirectConnection,
    Message,
    at_work,
    frame,
    make_dht,
)
from trio.testing import wait_all_tasks_blocked
from xxhash import xxh3_64_intdigest

import nodes.dht.listeners
from swarm.core.errors import ShuttingDown
from swarm.core.limits import LISTENER_BYTES_MAX, LISTENER_CHANGES_MAX, LISTENERS_MAX
from swarm.core.node import Node
from swarm.dht.hash_range import HashRange

RECORDS, CHANNEL_REMOVED, LOST, REFRESH_BEGINS, REFRESHED = range(1, 6)

Event = list[Any]


class Listener:
    """A listen request on a connection of its own."""

    def __init__(self, node: Node, channel: str = "c", prefix: bytes = b"", *, refresh: bool = False, credit: int = 64):
        self.connection = DirectConnection(node.service)
        self.records: dict[bytes, bytes] = {}
        """What a client knows that carries out all events."""
        self.batches: list[list[Event]] = []
        self.final: Message = None
        self._take(self.connection.ask([5, LISTEN, channel, prefix, refresh, credit]))

    async def told(self) -> list[Event]:
        """What the node tells until it waits for something."""
        before = len(self.batches)
        await wait_all_tasks_blocked()
        while messages := self.connection.take():
            self._take(messages)
            await wait_all_tasks_blocked()
        return [event for batch in self.batches[before:] for event in batch]

    def grant(self, batches: int) -> None:
        self._take(self.connection.ask([5, CREDIT, batches]))

    def _take(self, messages: list[Message]) -> None:
        for request_id, status, result in messages:
            assert request_id == 5
            if status != BATCH:
                self.final = status, result
                continue
            self.batches.append(result)
            for event in result:
                self._carry_out(*event)

    def _carry_out(self, kind: int, *content: Any) -> None:
        if kind == RECORDS:
            keys, values = content
            assert len(keys) == len(values) > 0
            for key, value in zip(keys, values, strict=True):
                if value is None:
                    self.records.pop(key, None)
                else:
                    self.records[key] = value
        elif kind in (CHANNEL_REMOVED, REFRESH_BEGINS):
            self.records.clear()


async def content(connection: DirectConnection, channel: str = "c") -> dict[bytes, bytes]:
    """What the node holds."""
    messages = connection.ask([9, GET_ALL, channel, b"", b"", b"", 64])
    while messages[-1:] == [] or messages[-1][1] == BATCH:
        await wait_all_tasks_blocked()
        messages += [*connection.take(), *connection.ask([9, CREDIT, 1])]
    return {key: value for _, _, (_, *pairs) in messages[:-1] for key, value in zip(*pairs, strict=True)}


def listeners_of(node: Node) -> int:
    return int(node.statistics()["listeners"])


# What is told.


async def test_every_change_in_its_order() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        writer.result(PUT, "c", b"old", b"0")
        listener = Listener(node)
        assert await listener.told() == []
        assert listener.batches == [[]]  # it says that it has begun
        writer.result(PUT, "c", b"a", b"1")
        writer.result(PUT_MANY, "c", [b"b", b"c", b"b"], [b"2", b"3", b"4"], 0)
        writer.result(REMOVE, "c", b"old")
        writer.result(UPDATE, "c", b"a", b"1", b"5")
        writer.result(UPDATE, "c", b"c", b"3", None)
        writer.result(UPDATE, "c", b"d", None, b"6")
        assert await listener.told() == [
            [
                RECORDS,
                [b"a", b"b", b"c", b"b", b"old", b"a", b"c", b"d"],
                [b"1", b"2", b"3", b"4", None, b"5", None, b"6"],
            ]
        ]
        assert len(listener.batches) == 2  # what came together is told together
        writer.result(PUT, "c", b"e", b"7")
        assert writer.result(REMOVE_CHANNEL, "c")
        writer.result(PUT, "c", b"f", b"8")
        assert writer.result(REMOVE_CHANNEL, "c")
        assert await listener.told() == [
            [RECORDS, [b"e"], [b"7"]],
            [CHANNEL_REMOVED],
            [RECORDS, [b"f"], [b"8"]],
            [CHANNEL_REMOVED],
        ]


async def test_what_changes_nothing_is_not_told() -> None:
    lower = HashRange(0, 2**63 - 1)
    keys = [b"k%d" % number for number in range(100)]
    mine, absent, *_ = (key for key in keys if xxh3_64_intdigest(key) in lower)
    other = next(key for key in keys if xxh3_64_intdigest(key) not in lower)
    node = make_dht(hash_range=lower, memory_limit=10_000)
    async with at_work(node):
        writer = DirectConnection(node.service)
        writer.result(PUT, "c", mine, b"1")
        listener = Listener(node)
        elsewhere = Listener(node, "d")
        assert writer.error(PUT, "c", other, b"2")[0] == WRONG_NODE
        assert writer.error(PUT_MANY, "c", [mine, other], [b"2", b"2"], 0)[0] == WRONG_NODE
        assert writer.error(PUT, "c", mine, bytes(20_000))[0] == OUT_OF_MEMORY
        assert writer.error(PUT_MANY, "c", [mine], [bytes(20_000)], 0)[0] == OUT_OF_MEMORY
        assert writer.error(UPDATE, "c", mine, b"no", b"2")[0] == CONFLICT
        writer.error(PUT, "c", mine, b"")
        assert not writer.result(REMOVE, "c", absent)
        writer.result(PUT_MANY, "c", [], [], 0)
        writer.result(UPDATE, "c", absent, None, None)
        assert not writer.result(REMOVE_CHANNEL, "d")
        assert await listener.told() == []
        writer.result(PUT, "d", mine, b"3")
        assert await listener.told() == []
        assert await elsewhere.told() == [[RECORDS, [mine], [b"3"]]]


async def test_listening_creates_no_channel() -> None:
    node = make_dht()
    async with at_work(node):
        listener = Listener(node, "none", refresh=True)
        await listener.told()
        assert listener.batches == [[[REFRESH_BEGINS], [REFRESHED]]]
        assert listener.connection.result(CHANNELS) == []


async def test_a_key_prefix() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        writer.result(PUT_MANY, "c", [b"a1", b"b1", b"a2"], [b"1", b"2", b"3"], 0)
        listener = Listener(node, "c", b"a", refresh=True)
        await listener.told()
        assert listener.records == {b"a1": b"1", b"a2": b"3"}
        writer.result(PUT, "c", b"b3", b"4")
        writer.result(REMOVE, "c", b"b1")
        writer.result(PUT_MANY, "c", [b"b4", b"b5"], [b"4", b"4"], 0)
        assert await listener.told() == []
        writer.result(PUT, "c", b"a4", b"5")
        writer.result(REMOVE, "c", b"a1")
        writer.result(PUT_MANY, "c", [b"b6", b"a6"], [b"6", b"7"], 0)
        assert await listener.told() == [[RECORDS, [b"a4", b"a1", b"a6"], [b"5", None, b"7"]]]


async def test_a_refresh() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        for start in range(0, 20_000, 1000):
            keys = [b"%d" % number for number in range(start, start + 1000)]
            writer.result(PUT_MANY, "c", keys, [bytes(100)] * 1000, 0)
        listener = Listener(node, refresh=True)
        await listener.told()
        events = [event for batch in listener.batches for event in batch]
        assert events[0] == [REFRESH_BEGINS]
        assert events[-1] == [REFRESHED]
        given = [key for _, keys, _ in events[1:-1] for key in keys]
        assert len(given) == len(set(given)) == 20_000
        assert listener.records == await content(writer)


@pytest.mark.parametrize("again", [False, True])
async def test_a_channel_that_is_removed_during_a_refresh(again: bool) -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        for number in range(8):
            writer.result(PUT, "c", b"%d" % number, bytes(200 * KIB))
        listener = Listener(node, refresh=True, credit=2)
        await listener.told()
        assert 0 < len(listener.records) < 8
        assert writer.result(REMOVE_CHANNEL, "c")
        if again:
            writer.result(PUT_MANY, "c", [b"0", b"new"], [b"1", b"2"], 0)
        listener.grant(64)
        events = await listener.told()
        news = [[RECORDS, [b"0", b"new"], [b"1", b"2"]]] if again else []
        assert events == [[CHANNEL_REMOVED], *news, [REFRESHED]]
        assert listener.records == await content(writer)


@pytest.mark.parametrize("seed", range(8))
async def test_a_state_that_only_goes_forward(seed: int) -> None:
    """Values count the changes, so that a state from before shows itself."""
    rng = random.Random(seed)
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        now = 0
        history: dict[int, dict[bytes, bytes]] = {}
        model: dict[bytes, bytes] = {}
        size = rng.choice([10, 2000, 60_000])

        def change() -> None:
            nonlocal now
            now += 1
            keys = [b"%d" % rng.randrange(300) for _ in range(rng.choice([1, 1, 1, 50]))]
            value = b"%d " % now + bytes(rng.randrange(size))
            match rng.choice(["put", "put", "put many", "remove", "remove channel" if rng.random() < 0.1 else "put"]):
                case "put":
                    writer.result(PUT, "c", keys[0], value)
                    model[keys[0]] = value
                case "put many":
                    writer.result(PUT_MANY, "c", keys, [value] * len(keys), 0)
                    model.update(dict.fromkeys(keys, value))
                case "remove":
                    assert writer.result(REMOVE, "c", keys[0]) == (keys[0] in model)
                    model.pop(keys[0], None)
                case "remove channel":
                    writer.result(REMOVE_CHANNEL, "c")
                    model.clear()
            history[now] = dict(model)

        for _ in range(200):
            change()
        listener = Listener(node, refresh=True, credit=1)
        newest: dict[bytes, int] = {}
        seen = 0
        for _ in range(300):
            for _ in range(rng.choice([0, 1, 3, 30])):
                change()
            listener.grant(rng.choice([1, 1, 5]))
            await listener.told()
            for events in listener.batches[seen:]:
                for kind, *told in events:
                    for key, value in zip(*told, strict=True) if kind == RECORDS else ():
                        if value is not None:
                            assert int(value.split()[0]) >= newest.get(key, 0), f"seed {seed}: {key!r} went back"
                            newest[key] = int(value.split()[0])
            seen = len(listener.batches)
        for _ in range(20):
            listener.grant(64)
            await listener.told()
        assert listener.records == model == await content(writer), f"seed {seed}"


# Listeners that are too slow.


async def test_a_slow_listener_is_told_of_its_loss_and_refreshed() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        listener = Listener(node, credit=1)
        await listener.told()
        for number in range(LISTENER_CHANGES_MAX + 10):
            writer.result(PUT, "c", b"%d" % number, b"v")
        assert node.statistics()["listeners_lost"] == 1
        listener.grant(64)
        events = await listener.told()
        assert [event[0] for event in events if event[0] != RECORDS] == [LOST, REFRESH_BEGINS, REFRESHED]
        assert events[0] == [LOST]
        assert listener.records == await content(writer)
        writer.result(PUT, "c", b"x", b"v")
        assert await listener.told() == [[RECORDS, [b"x"], [b"v"]]]


@pytest.mark.parametrize("count", [LISTENER_CHANGES_MAX, LISTENER_CHANGES_MAX + 1])
async def test_the_bound_of_changes(count: int) -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        listener = Listener(node, credit=1)
        await listener.told()
        for number in range(count):
            writer.result(PUT, "c", b"k", b"%d" % number)
        listener.grant(64)
        events = await listener.told()
        assert ([LOST] in events) == (count > LISTENER_CHANGES_MAX)
        assert listener.records == {b"k": b"%d" % (count - 1)}


@pytest.mark.parametrize("over", [0, 1])
async def test_the_bound_of_bytes(over: int) -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        listener = Listener(node, credit=1)
        await listener.told()
        half = LISTENER_BYTES_MAX // 2
        writer.result(PUT, "c", b"k", bytes(half - 1))
        writer.result(PUT, "c", b"l", bytes(half - 1 + over))
        listener.grant(64)
        assert ([LOST] in await listener.told()) == bool(over)
        assert listener.records == await content(writer)


@pytest.mark.parametrize("shape", ["one record", "a batch"])
async def test_a_change_that_is_larger_than_the_bound(shape: str) -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        listener = Listener(node, credit=1)
        await listener.told()
        if shape == "one record":
            writer.result(PUT, "c", b"k", bytes(16 * MIB))
        else:
            writer.result(PUT_MANY, "c", [b"%d" % number for number in range(20)], [bytes(MIB)] * 20, 0)
        listener.grant(1)
        await listener.told()
        listener.grant(64)
        for _ in range(30):
            await listener.told()
        assert node.statistics()["listeners_lost"] == 0
        assert listener.records == await content(writer)
        sizes = [sum(len(value) for event in batch for value in event[2]) for batch in listener.batches]
        assert max(sizes) <= (16 * MIB if shape == "one record" else MIB)


async def test_a_refresh_waits_for_the_rest_of_a_large_change() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        for number in range(8):
            writer.result(PUT, "c", b"old-%d" % number, bytes(200 * KIB))
        listener = Listener(node, refresh=True, credit=1)
        await listener.told()
        changed = [b"new-%d" % number for number in range(5)]
        writer.result(PUT_MANY, "c", changed, [bytes(600 * KIB)] * 5, 0)
        told: list[int] = []
        for number in range(4):
            listener.grant(1)
            assert [key for _, keys, _ in await listener.told() for key in keys] == [b"new-%d" % number]
        for _ in range(10):
            listener.grant(64)
            told += [event[0] for event in await listener.told()]
        assert told[-1] == REFRESHED
        assert listener.records == await content(writer)


async def test_the_removal_of_a_channel_is_never_lost() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        for when in ("before the loss", "it is what is too much", "after the loss"):
            writer.result(PUT, "c", b"k", b"v")
            listener = Listener(node, credit=1)
            await listener.told()
            if when == "before the loss":
                assert writer.result(REMOVE_CHANNEL, "c")
            for number in range(LISTENER_CHANGES_MAX):
                writer.result(PUT, "c", b"k", b"%d" % number)
            if when == "after the loss":
                writer.result(PUT, "c", b"k", b"one more")
                assert writer.result(REMOVE_CHANNEL, "c")
                writer.result(PUT, "c", b"l", b"new")
            if when == "it is what is too much":
                assert writer.result(REMOVE_CHANNEL, "c")
            listener.grant(64)
            events = await listener.told()
            kinds = [event[0] for event in events if event[0] != RECORDS]
            assert kinds == [LOST, CHANNEL_REMOVED, REFRESH_BEGINS, REFRESHED], when
            assert listener.records == await content(writer)
            listener.connection.handler.end()
            await wait_all_tasks_blocked()


async def test_channels_that_are_removed_again_and_again_are_bounded_too() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        listener = Listener(node, credit=1)
        await listener.told()
        for _ in range(LISTENER_CHANGES_MAX):
            writer.result(PUT, "c", b"k", b"v")
            writer.result(REMOVE_CHANNEL, "c")
        assert node.statistics()["listeners_lost"] == 1
        listener.grant(64)
        assert await listener.told() == [[LOST], [CHANNEL_REMOVED], [REFRESH_BEGINS], [REFRESHED]]


async def test_a_loss_during_a_refresh_begins_it_anew() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        for number in range(8):
            writer.result(PUT, "c", b"%d" % number, bytes(200 * KIB))
        listener = Listener(node, refresh=True, credit=2)
        await listener.told()
        for number in range(LISTENER_CHANGES_MAX + 1):
            writer.result(PUT, "c", b"k", b"%d" % number)
        listener.grant(64)
        events = await listener.told()
        assert [event[0] for event in events if event[0] != RECORDS] == [LOST, REFRESH_BEGINS, REFRESHED]
        assert listener.records == await content(writer)


async def test_a_listener_that_never_reads_takes_no_memory() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        listeners = [Listener(node, refresh=refresh, credit=1) for refresh in (False, True)]
        await wait_all_tasks_blocked()
        tracemalloc.start()
        try:
            for number in range(300):  # 75 MiB
                writer.result(PUT, "c", b"k", b"%d" % number + bytes(256 * KIB))
            for start in range(0, 100_000, 1000):
                keys = [b"k%d" % (number % 1000) for number in range(start, start + 1000)]
                writer.result(PUT_MANY, "c", keys, [b"%d" % start] * 1000, 0)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 6 * MIB  # two listeners, and the records
        assert all(listener.connection.output_bytes < MIB for listener in listeners)


# Streams that only wait.


async def test_a_listener_that_waits_is_not_busy() -> None:
    node = make_dht()
    async with at_work(node):
        writer = DirectConnection(node.service)
        for credit in (64, 1):  # it waits for something to tell, or for credit
            listener = Listener(node, credit=credit)
            await listener.told()
            assert (node.service.streams_running, node.service.streams_busy) == (1, 0)
            writer.result(PUT, "c", b"k", b"v")
            assert node.service.streams_busy == (1 if credit == 64 else 0)  # at once, so that the turn ends
            await listener.told()
            assert node.service.streams_busy == 0
            listener.grant(1)
            assert node.service.streams_busy == (0 if credit == 64 else 1)
            assert await listener.told() == ([] if credit == 64 else [[RECORDS, [b"k"], [b"v"]]])
            listener.connection.ask([5, STOP])
            await wait_all_tasks_blocked()
            assert (node.service.streams_running, node.service.streams_busy) == (0, 0)


# The end of a listener.


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("end", ["stop", "end", "end of input", "notice", "protocol error"])
async def test_whatever_ends_it_nothing_is_put_down_for_it_any_more(end: str, begun: bool) -> None:
    node = make_dht()
    async with at_work(node):
        listener = Listener(node, refresh=True)
        connection = listener.connection
        assert listeners_of(node) == 1
        if begun:
            await listener.told()
        match end:
            case "stop":
                connection.give(frame([5, STOP]))
            case "end":
                connection.handler.end()
            case "end of input":
                connection.handler.end_of_input()
            case "notice":
                connection.handler.refuse(ShuttingDown("the node is shutting down"))
            case "protocol error":
                connection.give(frame([0, 0, 0]))
        await wait_all_tasks_blocked()
        assert listeners_of(node) == 0
        DirectConnection(node.service).result(PUT, "c", b"k", b"v")
        assert node.service.streams_running == node.service.streams_busy == 0


async def test_the_end_of_the_node_ends_it() -> None:
    node = make_dht()
    async with at_work(node):
        Listener(node)
        suspended = Listener(node, credit=1)
        await suspended.told()
        assert listeners_of(node) == 2
    assert listeners_of(node) == 0


async def test_several_listeners_of_a_connection_and_of_a_channel() -> None:
    node = make_dht()
    async with at_work(node):
        connection = DirectConnection(node.service)
        for request_id, channel in ((1, "c"), (2, "c"), (3, "d")):
            connection.ask([request_id, LISTEN, channel, b"", False, 64])
        await wait_all_tasks_blocked()
        connection.take()
        connection.ask([9, PUT, "c", b"k", b"v"])
        await wait_all_tasks_blocked()
        told = [RECORDS, [b"k"], [b"v"]]
        assert sorted(connection.take()) == [[1, BATCH, [told]], [2, BATCH, [told]]]
        connection.ask([1, STOP])
        await wait_all_tasks_blocked()
        assert connection.take() == [[1, DONE, "stopped"]]
        connection.ask([9, PUT, "c", b"k", b"v"])
        await wait_all_tasks_blocked()
        assert connection.take() == [[2, BATCH, [told]]]
        assert listeners_of(node) == 2


async def test_most_listeners_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LISTENERS_MAX > 64
    monkeypatch.setattr(nodes.dht.listeners, "LISTENERS_MAX", 3)
    node = make_dht()
    async with at_work(node):
        first, *_ = [Listener(node) for _ in range(3)]
        refused = Listener(node)
        assert refused.final[0] == TOO_MANY_REQUESTS
        assert refused.final[1][1] == {"limit": 3}
        first.connection.handler.end()
        await wait_all_tasks_blocked()
        assert Listener(node).final is None


async def test_what_is_counted() -> None:
    node = make_dht()
    async with at_work(node):
        listener = Listener(node)
        await listener.told()
        statistics = listener.connection.result(STATS)
        assert (statistics["listeners"], statistics["listeners_lost"]) == (1, 0)
        assert statistics["request"]["listen"]["in_flight"] == 1
