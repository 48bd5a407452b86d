"""What every dht client does, whichever it is and however it reaches its nodes. Each row is written once.

A row is a function `(dht, swarm)`: a client that is open, and what it is connected to, which holds nothing. Clients
without an event loop come as AwaitableClient, so rows await what all of them do. test_conformance runs the rows.
"""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from types import TracebackType
from typing import Any, Self

import anyio
import pytest

import swarm.blocking
from nodes.dht.config import DhtConfig, NodeSection
from swarm.core.errors import (
    BadArgument,
    BadChannel,
    BadKey,
    ChannelRemoved,
    ClientClosed,
    Conflict,
    EmptyValue,
    NodeUnreachable,
    OutOfMemory,
    SwarmError,
    TooManyChannels,
    TooManyRequests,
    ValueTooBig,
)
from swarm.core.limits import (
    BATCH_BYTES,
    BATCH_RECORDS_MAX,
    KEY_BYTES_MAX,
    RECORD_OVERHEAD_BYTES,
    REPLY_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from swarm.core.node import LimitsSection
from swarm.dht import Event
from swarm.dht.hash_range import hash_key, split_evenly

MIB = 1024 * 1024
PATIENCE_S = 10.0

DEFAULT = DhtConfig()
SMALL = DhtConfig(
    node=NodeSection(memory_limit=4 * MIB),
    limits=LimitsSection(value_bytes=100_000, streams_per_connection=4, channels_max=8),
)


@dataclass
class Swarm:
    """What the client of a row is connected to."""

    addresses: list[str]
    dead_address: str
    """Where no node is."""
    client: Callable[..., Any]
    """Makes another client of the same kind, not open yet; takes nodes, timeout, compression."""
    write_aside: Callable[[str, str, bytes | None], None]
    """Puts a record, or with None removes it, as another program would, while the client is in the middle of something:
    takes a channel, a key and a value, and does not await."""


@dataclass(frozen=True)
class Row:
    check: Callable[[Any, Swarm], Awaitable[None]]
    config: DhtConfig
    heavy: bool


ROWS: list[Row] = []


def row(config: DhtConfig = DEFAULT, *, heavy: bool = False) -> Callable[[Any], Any]:
    """Adds a function to the rows. config: that of the nodes. heavy: it takes long, as rows with many bytes do."""

    def add(check: Any) -> Any:
        ROWS.append(Row(check, config, heavy))
        return check

    return add


class AwaitableClient:
    """A blocking client whose methods can be awaited, from one task."""

    def __init__(self, client: swarm.blocking.DhtClient) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        self._client.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute) or name == "statistics":
            return attribute

        async def call(*arguments: Any, **options: Any) -> Any:
            return attribute(*arguments, **options)

        return call

    def get_all(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        return _AwaitableIterator(self._client.get_all(*arguments, **options))

    def get_all_keys(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        return _AwaitableIterator(self._client.get_all_keys(*arguments, **options))

    def listen(self, *arguments: Any, **options: Any) -> "_AwaitableEvents":
        return _AwaitableEvents(partial(self._client.listen, *arguments, timeout=PATIENCE_S, **options))


class _AwaitableEvents:
    def __init__(self, listen: Callable[[], Any]) -> None:
        self._listen = listen
        self._events: Any = None

    async def __aenter__(self) -> Self:
        self._events = self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._events.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._events is None:
            self._events = self._listen()
        event = next(self._events)
        assert event is not None, f"nothing was told within {PATIENCE_S} s"
        return event  # type: ignore[no-any-return]


class _AwaitableIterator:
    def __init__(self, records: Any) -> None:
        self._records = records

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._records)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        self._records.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._records.__exit__(*error)

    def batches(self) -> "_AwaitableIterator":
        return _AwaitableIterator(self._records.batches())


# What rows need again and again.


@cache
def records(count: int, value: bytes = b"v" * 100) -> dict[bytes, bytes]:
    """Always the same, for all that ask: not to be changed."""
    return {b"key-%06d" % number: value + b"%d" % number for number in range(count)}


def stored_bytes(some: dict[bytes, bytes]) -> int:
    return sum(map(len, some)) + sum(map(len, some.values()))


async def put_in_parts(dht: Any, channel: str, some: dict[Any, bytes]) -> None:
    """For what is more than half of a node's memory, which it does not take at once."""
    pairs = list(some.items())
    for start in range(3):
        await dht.put_many(channel, dict(pairs[start::3]))


async def everything(dht: Any, channel: str, **filters: Any) -> dict[bytes, bytes]:
    """A channel as get_all gives it; no record may come twice."""
    pairs = [pair async for pair in dht.get_all(channel, **filters)]
    assert len(dict(pairs)) == len(pairs), "a record was given more than once"
    return dict(pairs)


async def assert_usable(dht: Any) -> None:
    await dht.put("usable", "key", b"value")
    assert await dht.get("usable", "key") == b"value"
    assert await dht.remove_channel("usable")


async def memory_used(dht: Any) -> int:
    return sum(each["memory_used"] for each in (await dht.node_statistics()).values())


async def protocol_errors(dht: Any) -> int:
    """For which the nodes have closed a connection."""
    return sum(each["protocol_errors"] for each in (await dht.node_statistics()).values())


def keys_on_node(number: int, nodes: int) -> Iterator[str]:
    """Keys whose hashes are in the part of one of some nodes that share the hashes evenly."""
    part = split_evenly(nodes)[number]
    return (key for key in map(str, itertools.count()) if hash_key(key.encode()) in part)


async def call_all(dht: Any, channel: Any, key: Any, value: Any) -> list[SwarmError]:
    """What each of the methods that take this raises."""
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: dht.put(channel, key, value),
        lambda: dht.put_many(channel, [("good", b"good"), (key, value)]),
        lambda: dht.put_if_absent(channel, key, value),
        lambda: dht.update(channel, key, lambda _: value),
    ]
    if value == b"value":
        calls += [
            lambda: dht.get(channel, key),
            lambda: dht.exists(channel, key),
            lambda: dht.remove(channel, key),
            lambda: dht.get_many(channel, ["good", key]),
        ]
    errors = []
    for call in calls:
        with pytest.raises(SwarmError) as caught:
            await call()
        errors.append(caught.value)
    return errors


# Single records.


@row()
async def put_get_exists_remove(dht: Any, swarm: Swarm) -> None:
    assert await dht.get("a", "key") is None
    assert not await dht.exists("a", "key")
    assert not await dht.remove("a", "key")
    await dht.put("a", "key", b"value")
    assert await dht.get("a", "key") == b"value"
    assert await dht.exists("a", "key")
    assert await dht.get("a", "other") is None
    assert await dht.get("b", "key") is None, "channels have nothing to do with one another"
    assert await dht.remove("a", "key")
    assert not await dht.remove("a", "key")
    assert await dht.get("a", "key") is None
    assert not await dht.exists("a", "key")


@row()
async def put_overwrites(dht: Any, swarm: Swarm) -> None:
    for value in (b"first", b"second, which is longer", b"3"):
        await dht.put("a", "key", value)
        assert await dht.get("a", "key") == value
        assert await dht.channel_size("a") == (1, 3 + len(value))


@row()
async def many_single_records_reach_every_node(dht: Any, swarm: Swarm) -> None:
    for number in range(200):
        await dht.put("a", f"key {number}", b"%d" % number)
    for number in range(200):
        assert await dht.get("a", f"key {number}") == b"%d" % number
    statistics = await dht.node_statistics()
    assert sorted(statistics) == sorted(swarm.addresses)
    assert all(each["records"] > 0 for each in statistics.values())
    assert sum(each["records"] for each in statistics.values()) == 200


@row()
async def text_keys_are_utf_8(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "größe €", b"1")
    assert await dht.get("a", "größe €".encode()) == b"1"
    await dht.put_many("a", [("größe €".encode(), b"2")])
    assert await dht.get("a", "größe €") == b"2"
    assert await dht.get_many("a", ["größe €", "größe €".encode()]) == {"größe €": b"2", "größe €".encode(): b"2"}
    assert await dht.channel_size("a") == (1, 12)


@row()
async def any_bytes_are_keys_and_values(dht: Any, swarm: Swarm) -> None:
    all_bytes = bytes(range(256))
    for key in (b"\0", b"\xff" * 8, b" ", b"\xc1", all_bytes):
        await dht.put("a", key, all_bytes)
        assert await dht.get("a", key) == all_bytes
    await dht.put("a", b"one byte", b"\0")
    assert await dht.get("a", b"one byte") == b"\0"


@row()
async def keys_at_their_limit(dht: Any, swarm: Swarm) -> None:
    for key in ("k", b"k" * KEY_BYTES_MAX, "ß" * (KEY_BYTES_MAX // 2)):
        await dht.put("a", key, b"1")
        assert await dht.get("a", key) == b"1"
        assert await dht.get_many("a", [key]) == {key: b"1"}
        await dht.put_many("a", [(key, b"2")])
        assert await dht.update("a", key, lambda _: b"3") == b"3"
        assert await dht.exists("a", key)
    found = await everything(dht, "a")
    assert sorted(map(len, found)) == [1, KEY_BYTES_MAX, KEY_BYTES_MAX]
    assert await dht.remove("a", b"k" * KEY_BYTES_MAX)


@row()
async def keys_past_their_limits(dht: Any, swarm: Swarm) -> None:
    for key in ("", b"", b"k" * (KEY_BYTES_MAX + 1), "ß" * (KEY_BYTES_MAX // 2 + 1), 5, None, 1.5, ()):
        for error in await call_all(dht, "a", key, b"value"):
            assert type(error) is BadKey
            assert error.fault == "client"
            assert not error.try_again
    assert await dht.channels() == []
    await assert_usable(dht)


@row()
async def keys_that_have_no_utf_8(dht: Any, swarm: Swarm) -> None:
    """Half of a surrogate pair, as text from the command line or from JSON may hold it."""
    for key in ("\ud800", "key \udc80"):
        for error in await call_all(dht, "a", key, b"value"):
            assert type(error) is BadKey
            assert "no UTF-8" in error.text
        with pytest.raises(BadKey, match="no UTF-8"):
            await everything(dht, "a", key_prefix=key)
    assert await dht.channels() == []
    await assert_usable(dht)


@row()
async def values_past_their_limits(dht: Any, swarm: Swarm) -> None:
    for value, kind in (
        (b"", EmptyValue),
        (b"v" * (VALUE_BYTES_MAX + 1), ValueTooBig),
        ("text", BadArgument),
        (5, BadArgument),
        (bytearray(b"v"), BadArgument),
    ):
        for error in await call_all(dht, "a", "key", value):
            assert type(error) is kind
            assert error.details["key"] == b"key"
            assert error.fault == "client"
            if kind is ValueTooBig:
                assert error.details["limit"] == VALUE_BYTES_MAX
                assert str(VALUE_BYTES_MAX) in error.text
    with pytest.raises(BadArgument):
        await dht.put("a", "key", None)
    with pytest.raises(BadArgument):
        await dht.put_many("a", {"key": None})
    assert await dht.channels() == []
    await assert_usable(dht)


@row(SMALL)
async def values_past_the_limit_of_the_node(dht: Any, swarm: Swarm) -> None:
    """Told by the client once it has heard of the limit; until then by the node."""
    limit = SMALL.limits.value_bytes
    async with swarm.client() as fresh:
        with pytest.raises(ValueTooBig) as caught:
            await fresh.put("a", "key", b"v" * (limit + 1))
        assert caught.value.details["limit"] == limit
        await assert_usable(fresh)
    await dht.ping()
    for error in await call_all(dht, "a", "key", b"v" * (limit + 1)):
        assert type(error) is ValueTooBig
        assert error.details["limit"] == limit
    await dht.put("a", "key", b"v" * limit)
    assert await dht.get("a", "key") == b"v" * limit
    await assert_usable(dht)


@row()
async def channel_names(dht: Any, swarm: Swarm) -> None:
    for name in ("a", "Z", "0", "_", "-", "a" * 128, "Some_channel-7"):
        await dht.put(name, "key", b"1")
        assert await dht.get(name, "key") == b"1"
        assert await dht.remove_channel(name)
    for name in ("../x", "a/b", "@x", "", "a" * 129, "größe", "a\0", "a\n", " a", "a.b", None, 5, b"bytes"):
        for error in await call_all(dht, name, "key", b"value"):
            assert type(error) is BadChannel
            assert error.fault == "client"
        for call in (
            lambda name=name: dht.channel_size(name),
            lambda name=name: dht.remove_channel(name),
            lambda name=name: everything(dht, name),
        ):
            with pytest.raises(BadChannel):
                await call()
        with pytest.raises(BadChannel):
            async for _ in dht.get_all_keys(name):
                pass
    assert await dht.channels() == []
    await assert_usable(dht)


@row()
async def reading_an_unknown_channel_creates_none(dht: Any, swarm: Swarm) -> None:
    assert await dht.get("none", "key") is None
    assert not await dht.exists("none", "key")
    assert not await dht.remove("none", "key")
    assert await dht.get_many("none", ["key", "other"]) == {}
    assert await dht.channel_size("none") == (0, 0)
    assert await everything(dht, "none") == {}
    assert [key async for key in dht.get_all_keys("none")] == []
    assert not await dht.remove_channel("none")
    assert await dht.update("none", "key", lambda old: old) is None
    await dht.put_many("none", {})
    assert await dht.channels() == []
    assert await dht.size() == (0, 0)


# Many records at once.


@row()
async def put_many_takes_mappings_pairs_and_generators(dht: Any, swarm: Swarm) -> None:
    some = records(100)
    await dht.put_many("mapping", some)
    await dht.put_many("pairs", list(some.items()))
    await dht.put_many("iterator", iter(some.items()))
    await dht.put_many("generator", ((key.decode(), value) for key, value in some.items()))
    for channel in ("mapping", "pairs", "iterator", "generator"):
        assert await everything(dht, channel) == some
        assert await dht.get_many(channel, (key for key in some)) == some
    await dht.put_many("empty", [])
    await dht.put_many("empty", iter([]))
    assert "empty" not in await dht.channels()
    assert await dht.get_many("pairs", []) == {}


@row()
async def put_many_keeps_the_last_of_a_key(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "k", b"0")
    await dht.put_many("a", [("k", b"1"), ("other", b"x"), ("k", b"22"), (b"k", b"333")])
    assert await everything(dht, "a") == {b"k": b"333", b"other": b"x"}
    assert await dht.channel_size("a") == (2, 10)
    await dht.put_many("a", [(b"k", b"1"), ("k", b"4444")])
    assert await dht.get("a", "k") == b"4444"
    # Of keys in parts that are sent one after another, too.
    many = [(b"%d" % (number % 10_000), b"%d" % number) for number in range(20_000)]
    await dht.put_many("b", [*many, *((key.decode(), value + b"!") for key, value in many)])
    assert await everything(dht, "b") == {key: value + b"!" for key, value in many}
    count, size = await dht.size()
    assert count == 10_002
    assert await memory_used(dht) == size + RECORD_OVERHEAD_BYTES * count


@row(heavy=True)
async def put_many_and_get_many_of_100_000(dht: Any, swarm: Swarm) -> None:
    many = records(100_000)
    await dht.put_many("a", many)
    assert await dht.channel_size("a") == (len(many), stored_bytes(many))
    assert await dht.get_many("a", many) == many
    changed = dict.fromkeys(many, b"new")
    await dht.put_many("a", changed)
    assert await dht.channel_size("a") == (len(many), stored_bytes(changed))
    assert await memory_used(dht) == stored_bytes(changed) + RECORD_OVERHEAD_BYTES * len(changed)
    some = [*islice(many, 20_000), *(b"missing %d" % number for number in range(1000))]
    assert await dht.get_many("a", some) == dict.fromkeys(some[:20_000], b"new")


@row()
async def put_many_around_the_limits_of_a_batch(dht: Any, swarm: Swarm) -> None:
    for count in (1, 2, BATCH_RECORDS_MAX - 1, BATCH_RECORDS_MAX, BATCH_RECORDS_MAX + 1, 2 * BATCH_RECORDS_MAX + 1):
        some = {b"%d" % number: b"v" for number in range(count)}
        await dht.put_many("a", some)
        assert await dht.get_many("a", some) == some
        assert await everything(dht, "a") == some
        await dht.remove_channel("a")
    for size in range(BATCH_BYTES - 300, BATCH_BYTES + 20, 8):
        await dht.put_many("b", [("large", b"v" * size), ("small", b"1"), ("half", b"v" * (size // 2)), ("rest", b"2")])
        assert await dht.get_many("b", ["large", "half"]) == {"large": b"v" * size, "half": b"v" * (size // 2)}
    assert sorted(map(len, (await everything(dht, "b")).values())) == [1, 1, size // 2, size]


@row()
async def five_megabytes_of_values(dht: Any, swarm: Swarm) -> None:
    some = {b"%d" % number: bytes([number]) * 100_000 for number in range(50)}
    await dht.put_many("a", some)
    assert await dht.get_many("a", some) == some
    assert await everything(dht, "a") == some
    assert [await dht.get("a", key) for key in some] == list(some.values())


@row(heavy=True)
async def values_of_16_mib(dht: Any, swarm: Swarm) -> None:
    first, second = b"1" * VALUE_BYTES_MAX, b"2" * VALUE_BYTES_MAX
    await dht.put("a", "single", first)
    assert await dht.get("a", "single") == first
    assert await dht.update("a", "single", lambda _: second) == second
    await dht.put_many("a", {"x": first, "y": second})
    assert await dht.get_many("a", ["single", "x", "none", "y"]) == {"single": second, "x": first, "y": second}
    assert await everything(dht, "a") == {b"single": second, b"x": first, b"y": second}
    assert await dht.remove("a", "single")
    await assert_usable(dht)


@row()
async def huge_and_tiny_values_mixed(dht: Any, swarm: Swarm) -> None:
    sizes = [1, 10, 5 * MIB, 1, 300_000, 2, REPLY_BYTES_MAX, 3, BATCH_BYTES, 100, 2 * MIB, 1]
    some = {b"%d-%d" % (size, number): bytes([number + 1]) * size for number, size in enumerate(sizes)}
    some |= records(5000)
    await dht.put_many("a", some)
    assert await dht.channel_size("a") == (len(some), stored_bytes(some))
    assert await dht.get_many("a", some) == some
    assert await everything(dht, "a") == some
    assert {key async for key in dht.get_all_keys("a")} == set(some)


@row(heavy=True)
async def a_bad_record_in_a_large_batch(dht: Any, swarm: Swarm) -> None:
    """Nothing is stored, of the records before it neither."""
    good = records(100_000)
    for key, value, kind in (
        (b"bad", b"", EmptyValue),
        (b"bad", None, BadArgument),
        (b"bad", "text", BadArgument),
        (b"bad", b"v" * (VALUE_BYTES_MAX + 1), ValueTooBig),
        (b"k" * (KEY_BYTES_MAX + 1), b"v", BadKey),
        (b"", b"v", BadKey),
        (7, b"v", BadKey),
    ):
        batch: list[tuple[Any, Any]] = list(good.items() if kind in (EmptyValue, BadKey) else islice(good.items(), 100))
        batch[70_000 if len(batch) > 70_000 else 99] = (key, value)
        with pytest.raises(kind) as caught:
            await dht.put_many("a", batch)
        assert type(caught.value) is kind
        assert await dht.channels() == []
    assert await memory_used(dht) == 0
    await assert_usable(dht)


@row()
async def a_generator_that_fails(dht: Any, swarm: Swarm) -> None:
    def failing() -> Iterator[tuple[str, bytes]]:
        yield "key", b"value"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await dht.put_many("a", failing())
    with pytest.raises(ZeroDivisionError):
        await dht.get_many("a", (key for key, _ in failing()))
    assert await dht.channels() == []


@row(SMALL, heavy=True)
async def memory_limit_in_the_middle_of_a_large_batch(dht: Any, swarm: Swarm) -> None:
    """Nothing of it is stored, and the memory is free again."""
    await dht.put("a", "key", b"value")
    used = await memory_used(dht)
    assert used == 8 + RECORD_OVERHEAD_BYTES
    with pytest.raises(OutOfMemory) as caught:
        await dht.put_many("a", records(50_000))
    assert caught.value.node in swarm.addresses
    assert caught.value.details["limit"] == SMALL.node.memory_limit
    assert caught.value.try_again
    assert await everything(dht, "a") == {b"key": b"value"}
    assert await memory_used(dht) == used
    fits = records(9_000)
    await dht.put_many("a", fits)
    assert await everything(dht, "a") == fits | {b"key": b"value"}
    assert await memory_used(dht) == used + stored_bytes(fits) + RECORD_OVERHEAD_BYTES * len(fits)
    assert await dht.remove_channel("a")
    assert await memory_used(dht) == 0


@row(SMALL)
async def memory_limit_with_single_records(dht: Any, swarm: Swarm) -> None:
    """Writes are refused; reads and removes go on, and what they free can be used."""
    keys = keys_on_node(0, len(swarm.addresses))
    value = b"v" * 99_000
    stored: list[str] = []
    for key in keys:
        try:
            await dht.put("a", key, value)
        except OutOfMemory as error:
            assert error.fault == "node"
            refused = key
            break
        stored.append(key)
    assert len(stored) == SMALL.node.memory_limit // (99_000 + 130)
    assert await dht.get_many("a", stored) == dict.fromkeys(stored, value)
    with pytest.raises(OutOfMemory):
        await dht.put_if_absent("a", refused, value)
    with pytest.raises(OutOfMemory):
        await dht.put_many("a", {refused: value, stored[0]: value})
    with pytest.raises(OutOfMemory):
        await dht.update("a", refused, lambda _: value)
    assert await dht.get("a", refused) is None
    assert await dht.get("a", stored[0]) == value
    assert await dht.update("a", stored[0], lambda _: b"less") == b"less"
    assert await dht.remove("a", stored[1])
    await dht.put("a", refused, value)
    assert (await dht.channel_size("a"))[0] == len(stored)


@row(SMALL)
async def a_refused_write_creates_no_channel(dht: Any, swarm: Swarm) -> None:
    keys = keys_on_node(0, len(swarm.addresses))
    await put_in_parts(dht, "full", dict.fromkeys(islice(keys, 42), b"v" * 99_000))
    assert await dht.channels() == ["full"]
    key, value = next(keys), b"v" * 99_000
    for call in (
        lambda: dht.put("c", key, value),
        lambda: dht.put_many("d", {key: value}),
        lambda: dht.put_if_absent("e", key, value),
        lambda: dht.update("f", key, lambda _: value),
    ):
        with pytest.raises(OutOfMemory):
            await call()
    assert await dht.channels() == ["full"]


@row(SMALL)
async def channels_have_a_limit(dht: Any, swarm: Swarm) -> None:
    most = SMALL.limits.channels_max
    key = next(keys_on_node(0, len(swarm.addresses)))
    for number in range(most):
        await dht.put(f"c{number}", key, b"v")
    for call in (
        lambda: dht.put("more", key, b"v"),
        lambda: dht.put_many("more", {key: b"v"}),
        lambda: dht.put_if_absent("more", key, b"v"),
    ):
        with pytest.raises(TooManyChannels) as caught:
            await call()
        assert caught.value.details["limit"] == most
    assert await dht.get("more", key) is None
    await dht.put("c0", key, b"new")
    assert await dht.remove_channel("c1")
    await dht.put("more", key, b"v")


@row()
async def get_many_gives_what_exists(dht: Any, swarm: Swarm) -> None:
    some = {f"key {number}": b"%d" % number for number in range(3000)}
    await dht.put_many("a", {key: value for key, value in some.items() if value[-1:] in b"02468"})
    even = {key: value for key, value in some.items() if int(value) % 2 == 0}
    assert await dht.get_many("a", some) == even
    assert await dht.get_many("a", [*some, *some]) == even
    assert list(await dht.get_many("a", ["none"])) == []
    assert await dht.get_many("a", ["key 2", b"key 2", "key 3", b"key 4"]) == {
        "key 2": b"2",
        b"key 2": b"2",
        b"key 4": b"4",
    }


@row()
async def get_many_of_large_values(dht: Any, swarm: Swarm) -> None:
    """A node ends an answer behind 4 MiB; the client asks for the rest."""
    some = {f"large {number}": bytes([number]) * MIB for number in range(1, 25)}
    await dht.put_many("a", some)
    asked = [key for large in some for key in (large, f"none {large}")]
    assert await dht.get_many("a", asked) == some


@row()
async def keys_that_are_no_keys_at_all(dht: Any, swarm: Swarm) -> None:
    """Not even hashable."""
    for key in (bytearray(b"k"), ["k"], {}):
        for error in await call_all(dht, "a", key, b"value"):
            assert type(error) is BadKey
    await assert_usable(dht)


# Compare and swap.


@row()
async def update_computes_the_new_value(dht: Any, swarm: Swarm) -> None:
    def count(old: bytes | None) -> bytes:
        return b"%d" % (int(old or 0) + 1)

    for number in range(1, 4):
        assert await dht.update("a", "counter", count) == b"%d" % number
        assert await dht.get("a", "counter") == b"%d" % number
    assert await dht.update("a", "counter", lambda _: None) is None
    assert not await dht.exists("a", "counter")
    assert await dht.update("a", "counter", count) == b"1"


@row()
async def update_that_changes_nothing_writes_nothing(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"value")
    assert await dht.update("a", "key", lambda old: old) == b"value"
    assert await dht.update("a", "none", lambda _: None) is None
    assert await dht.channel_size("a") == (1, 8)
    assert "update" not in dht.statistics()


@row()
async def update_with_a_function_that_fails(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"value")
    for key in ("key", "none"):
        with pytest.raises(ZeroDivisionError):
            await dht.update("a", key, lambda _: b"%d" % (1 // 0))
        with pytest.raises(EmptyValue):
            await dht.update("a", key, lambda _: b"")
        with pytest.raises(BadArgument):
            await dht.update("a", key, lambda _: "text")
    with pytest.raises(BadArgument):
        await dht.update("a", "key", lambda _: b"new", attempts=0)
    assert await everything(dht, "a") == {b"key": b"value"}
    await assert_usable(dht)


def change_between(swarm: Swarm, value: bytes | None, times: int = 1) -> Callable[[bytes | None], bytes]:
    """For update: while it computes, for the first times, somebody else writes the record."""
    calls = itertools.count(1)

    def function(old: bytes | None) -> bytes:
        number = next(calls)
        if number <= times:
            swarm.write_aside("a", "key", value and value + b"%d" % number)
        return b"new after " + (old or b"nothing")

    return function


@row()
async def update_conflicts(dht: Any, swarm: Swarm) -> None:
    for before, meanwhile in ((b"old", b"changed"), (b"old", None), (None, b"created")):
        if before:
            await dht.put("a", "key", before)
        with pytest.raises(Conflict) as caught:
            await dht.update("a", "key", change_between(swarm, meanwhile))
        assert caught.value.fault == "other"
        assert caught.value.try_again
        assert await dht.get("a", "key") == (meanwhile and meanwhile + b"1")
        await dht.remove("a", "key")


@row()
async def update_conflicts_when_the_channel_goes(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"old")

    def function(_: bytes | None) -> bytes:
        swarm.write_aside("a", "key", None)
        return b"new"

    with pytest.raises(Conflict):
        await dht.update("a", "key", function)
    assert await dht.get("a", "key") is None


@row()
async def update_removes_only_what_it_has_read(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"old")

    def function(_: bytes | None) -> None:
        swarm.write_aside("a", "key", b"changed")

    with pytest.raises(Conflict):
        await dht.update("a", "key", function)
    assert await dht.get("a", "key") == b"changed"


@row()
async def update_tries_again(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"old")
    assert await dht.update("a", "key", change_between(swarm, b"changed", 2), attempts=3) == b"new after changed2"
    assert await dht.get("a", "key") == b"new after changed2"
    with pytest.raises(Conflict):
        await dht.update("a", "key", change_between(swarm, b"changed", 3), attempts=3)
    assert await dht.get("a", "key") == b"changed3"


@row()
async def put_if_absent(dht: Any, swarm: Swarm) -> None:
    assert await dht.put_if_absent("a", "key", b"first")
    assert not await dht.put_if_absent("a", "key", b"second")
    assert await dht.get("a", "key") == b"first"
    await dht.remove("a", "key")
    assert await dht.put_if_absent("a", "key", b"third")
    async with swarm.client() as other:
        assert not await other.put_if_absent("a", "key", b"fourth")


# Whole channels.


@row()
async def get_all_gives_everything(dht: Any, swarm: Swarm) -> None:
    for count in (1, 2, 20_000):
        some = records(count)
        await dht.put_many("a", some)
        assert await everything(dht, "a") == some
        keys = [key async for key in dht.get_all_keys("a")]
        assert len(keys) == count
        assert set(keys) == set(some)


@row()
async def get_all_in_batches(dht: Any, swarm: Swarm) -> None:
    some = records(20_000)
    await dht.put_many("a", some)
    pairs = [batch async for batch in dht.get_all("a").batches()]
    assert 1 < len(pairs) < 200
    assert all(pairs)
    assert sum(map(len, pairs)) == len(some)
    assert dict(itertools.chain.from_iterable(pairs)) == some
    keys = [batch async for batch in dht.get_all_keys("a", key_prefix="key-01").batches()]
    assert sorted(itertools.chain.from_iterable(keys)) == sorted(key for key in some if key.startswith(b"key-01"))
    assert [batch async for batch in dht.get_all("none").batches()] == []


@row()
async def get_all_filters(dht: Any, swarm: Swarm) -> None:
    some = {
        b"%s-%d" % (kind, number): (b"<%d>" % (number % 7)) * 20
        for kind in (b"user", b"user2", "größe".encode())
        for number in range(2000)
    }
    await dht.put_many("a", some)
    for prefix, substring in (
        (b"user", b""),
        (b"user-", b""),
        ("größe", b""),
        (b"", b"<3>"),
        (b"", b"><"),
        (b"user2-1", b"<5><5>"),
        (b"none", b""),
        (b"", b"none"),
        (b"user-17", b"none"),
        (next(iter(some)), b""),
        (b"", b""),
    ):
        encoded = prefix if isinstance(prefix, bytes) else prefix.encode()
        expected = {key: value for key, value in some.items() if key.startswith(encoded) and substring in value}
        assert await everything(dht, "a", key_prefix=prefix, substring=substring) == expected
        keys = [key async for key in dht.get_all_keys("a", key_prefix=prefix, substring=substring)]
        assert sorted(keys) == sorted(expected)


@row()
async def get_all_with_bad_filters(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"value")
    for filters in ({"key_prefix": b"k" * (KEY_BYTES_MAX + 1)}, {"key_prefix": 5}, {"substring": "text"}):
        with pytest.raises(BadArgument):
            await everything(dht, "a", **filters)
    await assert_usable(dht)


@row(SMALL)
async def leaving_the_loop_stops_get_all(dht: Any, swarm: Swarm) -> None:
    """More often than a connection may have streams, which are 4 here."""
    some = records(15_000)
    await put_in_parts(dht, "a", some)
    for number in range(12):
        seen = 0
        async for _, _ in dht.get_all("a"):
            seen += 1
            if seen > number * 50:
                break
        assert await dht.get("a", b"key-%06d" % number) == some[b"key-%06d" % number]
        async for _ in dht.get_all_keys("a"):
            break
    assert await everything(dht, "a") == some


@row(SMALL, heavy=True)
async def streams_have_a_limit(dht: Any, swarm: Swarm) -> None:
    some = records(20_000 if len(swarm.addresses) == 2 else 12_000)
    await put_in_parts(dht, "a", some)
    walks = [dht.get_all("a") for _ in range(SMALL.limits.streams_per_connection)]
    firsts = [await anext(walk) for walk in walks]
    with pytest.raises(TooManyRequests) as caught:
        await everything(dht, "a")
    assert caught.value.details["limit"] == SMALL.limits.streams_per_connection
    for first, walk in zip(firsts, walks, strict=True):
        rest = dict([pair async for pair in walk])
        assert rest | dict([first]) == some
    assert await everything(dht, "a") == some


@row(heavy=True)
async def two_get_alls_at_once(dht: Any, swarm: Swarm) -> None:
    first_channel, second_channel = records(30_000), records(20_000, b"other")
    await dht.put_many("a", first_channel)
    await dht.put_many("b", second_channel)
    walks = {"a": dht.get_all("a"), "b": dht.get_all("b"), "keys": dht.get_all_keys("a")}
    seen: dict[str, list[Any]] = {name: [] for name in walks}
    while walks:
        for name, walk in list(walks.items()):
            for _ in range(100):
                item = await anext(walk, None)
                if item is None:
                    del walks[name]
                    break
                seen[name].append(item)
    assert [len(seen[name]) for name in ("a", "b", "keys")] == [30_000, 20_000, 30_000]
    assert dict(seen["a"]) == first_channel
    assert dict(seen["b"]) == second_channel
    assert set(seen["keys"]) == set(first_channel)


@row(heavy=True)
async def get_all_while_others_write(dht: Any, swarm: Swarm) -> None:
    """Every record that exists throughout is given exactly once."""
    some = records(30_000)
    await dht.put_many("a", some)
    removed, kept, seen = list(some)[::3], set(some) - set(list(some)[::3]), []
    written = itertools.count()
    async with swarm.client() as other:
        async for key, value in dht.get_all("a"):
            seen.append(key)
            assert key not in kept or value in (some[key], b"overwritten")
            if len(seen) % 2000 == 0:
                await other.put_many("a", {b"new %d" % next(written): b"v" * 100 for _ in range(1000)})
                await other.put("a", next(iter(kept)), b"overwritten")
                for _ in range(30):
                    assert await other.remove("a", removed.pop())
    assert len(seen) == len(set(seen)), "a record was given more than once"
    assert kept <= set(seen)


@row()
async def get_all_of_a_channel_that_is_removed(dht: Any, swarm: Swarm) -> None:
    for method in ("get_all", "get_all_keys"):
        await dht.put_many("a", records(12_000, b"v" * 400))
        walk = getattr(dht, method)("a")
        await anext(walk)
        async with swarm.client() as other:
            assert await other.remove_channel("a")
        with pytest.raises(ChannelRemoved) as caught:
            async for _ in walk:
                pass
        assert caught.value.node in swarm.addresses
        assert caught.value.request == method.replace("_", " ")
        assert await dht.channels() == []
        await assert_usable(dht)


@row()
async def an_iteration_that_has_failed_stays_ended(dht: Any, swarm: Swarm) -> None:
    await dht.put_many("a", records(12_000, b"v" * 400))
    walk = dht.get_all("a")
    await anext(walk)
    await dht.remove_channel("a")
    with pytest.raises(ChannelRemoved):
        [pair async for pair in walk]
    with pytest.raises((StopAsyncIteration, ChannelRemoved)):
        await anext(walk)
    await assert_usable(dht)


@row()
async def hash_ranges(dht: Any, swarm: Swarm) -> None:
    ranges = await dht.hash_ranges()
    assert list(ranges) == swarm.addresses
    assert list(ranges.values()) == split_evenly(len(swarm.addresses))


@row()
async def channels_and_sizes(dht: Any, swarm: Swarm) -> None:
    assert await dht.channels() == []
    assert await dht.size() == (0, 0)
    some = records(1000)
    await dht.put_many("z", some)
    await dht.put("a", "key", b"value")
    await dht.put("B", "größe", b"v")
    assert await dht.channels() == ["B", "a", "z"]
    assert await dht.channel_size("z") == (1000, stored_bytes(some))
    assert await dht.channel_size("B") == (1, 8)
    assert await dht.size() == (1002, stored_bytes(some) + 16)
    await dht.remove("z", b"key-000000")
    assert await dht.channel_size("z") == (999, stored_bytes(some) - 10 - len(some[b"key-000000"]))
    assert await dht.remove_channel("z")
    assert await dht.channels() == ["B", "a"]
    assert await dht.size() == (2, 16)
    await dht.remove("a", "key")
    assert await dht.channel_size("a") == (0, 0)


@row()
async def remove_channel(dht: Any, swarm: Swarm) -> None:
    some = records(3000)
    await dht.put_many("a", some)
    await dht.put_many("b", some)
    assert await dht.remove_channel("a")
    assert not await dht.remove_channel("a")
    assert await dht.get("a", b"key-000001") is None
    assert await everything(dht, "a") == {}
    assert await everything(dht, "b") == some
    await dht.put("a", "key", b"again")
    assert await everything(dht, "a") == {b"key": b"again"}
    only = next(keys_on_node(len(swarm.addresses) - 1, len(swarm.addresses)))
    await dht.put("one", only, b"v")
    assert await dht.remove_channel("one"), "one of the nodes had it"


# Errors, statistics, the client itself.


@row()
async def node_statistics_and_ping(dht: Any, swarm: Swarm) -> None:
    await dht.ping()
    before = await dht.node_statistics()
    assert sorted(before) == sorted(swarm.addresses)
    for _ in range(10):
        await dht.put("a", "key", b"value")
    after = await dht.node_statistics()

    def puts(statistics: dict[str, Any]) -> int:
        return sum(each["request"].get("put", {"handled": 0})["handled"] for each in statistics.values())

    assert puts(after) == puts(before) + 10
    assert sum(each["bytes"] for each in after.values()) == 8
    assert sum(each["channel"].get("a", {"records": 0})["records"] for each in after.values()) == 1
    for each in after.values():
        assert each["memory_limit"] > 0
        assert each["request"]["ping"]["failed"] == 0


@row()
async def health_and_events_of_the_nodes(dht: Any, swarm: Swarm) -> None:
    health = await dht.node_health()
    assert sorted(health) == sorted(swarm.addresses)
    of_the_machine = {"disk_nearly_full", "loop_lags"}
    assert {rule for each in health.values() for rule, _ in each} <= of_the_machine
    events = await dht.node_events()
    assert sorted(events) == sorted(swarm.addresses)
    assert all(level in ("WARNING", "ERROR") for each in events.values() for _, level, _ in each)


@row()
async def client_statistics(dht: Any, swarm: Swarm) -> None:
    many = records(20_000)
    await dht.put("a", "key", b"value")
    with pytest.raises(Conflict):
        await dht.update("a", "key", change_between(swarm, b"changed"))
    await dht.put_many("a", many)
    await dht.get_many("a", many)
    statistics = dht.statistics()
    assert statistics["put"]["handled"] == 1
    assert statistics["put"]["failed"] == 0
    assert sum(statistics["put"]["times"].values()) == 1
    assert statistics["update"]["failed"] == 1
    for name in ("put many", "get many"):
        assert statistics[name]["handled"] >= 3
        assert statistics[name]["in_flight"] == 0


@row(SMALL)
async def errors_tell_where_and_what(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"old")
    with pytest.raises(Conflict) as conflict:
        await dht.update("a", "key", change_between(swarm, b"changed"))
    with pytest.raises(OutOfMemory) as full:
        await dht.put_many("a", records(50_000))
    for error, request in ((conflict.value, "update"), (full.value, "put many")):
        assert error.node in swarm.addresses
        assert error.request == request
        assert error.text
        assert str(error) == f"{request} at {error.node}: {error.text}"


@row(heavy=True)
async def compression(dht: Any, swarm: Swarm) -> None:
    some = records(20_000) | {b"large": b"compresses well " * 200_000, b"small": b"1"}
    async with swarm.client(compression=True) as other:
        await other.put_many("a", some)
        assert await dht.get_many("a", some) == some
        assert await other.get_many("a", some) == some
        assert await everything(other, "a") == some
        await other.put("a", "huge", b"0" * VALUE_BYTES_MAX)
        assert await other.get("a", "huge") == b"0" * VALUE_BYTES_MAX
        sent = sum(each["bytes_in"] for each in (await other.node_statistics()).values())
        await other.put_many("b", some)
        sent = sum(each["bytes_in"] for each in (await other.node_statistics()).values()) - sent
    assert sent < stored_bytes(some) / 3


@row()
async def nodes_that_are_not_there(dht: Any, swarm: Swarm) -> None:
    begun = time.perf_counter()
    async with swarm.client(nodes=[swarm.dead_address], timeout=0.1) as other:
        for call in (lambda: other.get("a", "key"), lambda: other.remove("a", "key"), other.ready, other.ping):
            with pytest.raises(NodeUnreachable) as caught:
                await call()
            assert swarm.dead_address in str(caught.value)
            assert caught.value.fault == "network"
            assert caught.value.try_again
        with pytest.raises(NodeUnreachable):
            await everything(other, "a")
        with pytest.raises(NodeUnreachable):
            await other.put_many("a", records(10))
    assert time.perf_counter() - begun < 5


@row()
async def a_dead_node_leaves_the_others_usable(dht: Any, swarm: Swarm) -> None:
    if len(swarm.addresses) == 1:
        return
    for alive, nodes in enumerate([[swarm.addresses[0], swarm.dead_address], [swarm.dead_address, swarm.addresses[1]]]):
        key, lost = next(keys_on_node(alive, 2)), next(keys_on_node(1 - alive, 2))
        async with swarm.client(nodes=nodes, timeout=0.3) as other:
            await other.put("a", key, b"value")
            assert await other.get("a", key) == b"value"
            assert await other.get_many("a", [key]) == {key: b"value"}
            for call in (partial(other.get_many, "a", [key, lost]), partial(everything, other, "a")):
                with pytest.raises(NodeUnreachable) as caught:
                    await call()
                assert swarm.dead_address in str(caught.value)
            assert await other.get("a", key) == b"value"


@row()
async def a_client_that_is_not_open(dht: Any, swarm: Swarm) -> None:
    await dht.put("a", "key", b"value")
    client = swarm.client()

    async def assert_closed() -> None:
        for call in (
            lambda: client.get("a", "key"),
            lambda: client.put_many("a", {"key": b"new"}),
            client.channels,
            client.ready,
            lambda: everything(client, "a"),
        ):
            with pytest.raises(ClientClosed):
                await call()

    await assert_closed()
    async with client:
        assert await client.get("a", "key") == b"value"
    await assert_closed()
    assert await dht.get("a", "key") == b"value"


@row()
async def a_client_that_is_closed_while_it_iterates(dht: Any, swarm: Swarm) -> None:
    await dht.put_many("a", records(12_000, b"v" * 400))
    async with swarm.client() as other:
        walk = other.get_all("a")
        await anext(walk)
    with pytest.raises(ClientClosed):
        async for _ in walk:
            pass


@row()
async def an_error_in_the_block_of_a_client_comes_out_as_it_is(dht: Any, swarm: Swarm) -> None:
    with pytest.raises(ZeroDivisionError):
        async with swarm.client():
            raise ZeroDivisionError
    with pytest.raises(BadKey):
        async with swarm.client() as other:
            await other.get("a", "")


@row()
async def fifty_tasks_at_once(dht: Any, swarm: Swarm) -> None:
    async def work(number: int) -> None:
        some = {b"%d %d" % (number, each): b"%d" % each * 10 for each in range(12)}
        for key, value in some.items():
            await dht.put("a", key, value)
            assert await dht.get("a", key) == value
        assert await dht.get_many("a", some) == some
        await dht.put_many("a", dict.fromkeys(some, b"new"))
        for key in some:
            assert await dht.remove("a", key) == (number % 2 == 0) or await dht.exists("a", key) is False
            if number % 2:
                await dht.put("a", key, b"back")

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(work, number)
    assert await everything(dht, "a") == {
        b"%d %d" % (number, each): b"back" for number in range(1, 50, 2) for each in range(12)
    }


@row(heavy=True)
async def many_large_requests_at_once(dht: Any, swarm: Swarm) -> None:
    """What tasks ask for at the same moment leaves together, but no frame becomes too long by it."""
    await put_much_at_once(dht)


@row(heavy=True)
async def many_large_requests_at_once_compressed(dht: Any, swarm: Swarm) -> None:
    async with swarm.client(compression=True) as other:
        await put_much_at_once(other)


async def put_much_at_once(dht: Any) -> None:
    batches = [{b"%d %d" % (number, each): b"v" * 100 for each in range(1500)} for number in range(20)]
    large = {f"large {number}": b"w" * (5 * MIB) for number in range(8)}
    errors = await protocol_errors(dht)
    async with anyio.create_task_group() as tasks:
        for batch in batches:
            tasks.start_soon(dht.put_many, "a", batch)
    assert await dht.channel_size("a") == (30_000, sum(map(stored_bytes, batches)))
    async with anyio.create_task_group() as tasks:
        for key, value in large.items():
            tasks.start_soon(dht.put, "b", key, value)
    assert await dht.get_many("b", large) == large
    assert await protocol_errors(dht) == errors


# Listening.


def carry_out(event: Event, records: dict[bytes, bytes]) -> None:
    """What the documentation tells a program to do that keeps a dict."""
    match event.kind:
        case "put":
            records[event.key] = event.value
        case "removed":
            records.pop(event.key, None)
        case "channel removed" | "refresh begins":
            for key in event.among(records):
                del records[key]


async def follow(events: AsyncIterator[Event], records: dict[bytes, bytes], keys: Iterable[bytes]) -> list[str]:
    """Carries out events until all of these keys were put; the kinds of the others."""
    missing = set(keys)
    others: list[str] = []
    async for event in events:
        carry_out(event, records)
        if event.kind == "put":
            missing.discard(event.key)
            if not missing:
                break
        else:
            others.append(event.kind)
    return others


async def listeners(dht: Any) -> int:
    return sum(each["listeners"] for each in (await dht.node_statistics()).values())


async def until_nobody_listens(dht: Any) -> None:
    with anyio.fail_after(PATIENCE_S):
        while await listeners(dht):
            await anyio.sleep(0.005)


async def put_marks(dht: Any, swarm: Swarm, channel: str, name: str) -> list[bytes]:
    """A record on each node: whoever has been told of all of them has been told of everything before."""
    candidates = [f"{name}-{number}" for number in range(100)]
    parts = split_evenly(len(swarm.addresses))
    keys = [next(key for key in candidates if hash_key(key.encode()) in part) for part in parts]
    await dht.put_many(channel, dict.fromkeys(keys, b"mark"))
    return [key.encode() for key in keys]


@row()
async def listen_tells_every_change(dht: Any, swarm: Swarm) -> None:
    await dht.put("c", "old", b"0")
    async with dht.listen("c") as events:
        await dht.put("c", "a", b"1")
        await dht.put_many("c", {"b": b"2", "d": b"3"})
        await dht.update("c", "a", lambda old: old + b"1")
        await dht.remove("c", "old")
        await dht.put("another", "a", b"no")
        end = await put_marks(dht, swarm, "c", "end")
        told: list[Event] = []
        async for event in events:
            told.append(event)
            if set(end) <= {each.key for each in told}:
                break
    by_key = {key: [(each.kind, each.value) for each in told if each.key == key] for key in (b"a", b"b", b"d", b"old")}
    assert by_key == {
        b"a": [("put", b"1"), ("put", b"11")],
        b"b": [("put", b"2")],
        b"d": [("put", b"3")],
        b"old": [("removed", b"")],
    }
    assert len(told) == 5 + len(end)
    await until_nobody_listens(dht)


@row(heavy=True)
async def listen_with_a_refresh(dht: Any, swarm: Swarm) -> None:
    await dht.put_many("c", records(20_000))
    known: dict[bytes, bytes] = {b"void": b"1"}
    async with dht.listen("c", refresh=True) as events:
        await dht.put("c", "key-000007", b"new")
        await dht.remove("c", "key-000008")
        others = await follow(events, known, await put_marks(dht, swarm, "c", "end"))
        if "refreshed" not in others:
            async for event in events:
                carry_out(event, known)
                if event.kind == "refreshed":
                    break
    assert others.count("refresh begins") == len(swarm.addresses)
    assert known == await everything(dht, "c")


@row()
async def listen_tells_that_the_channel_was_removed(dht: Any, swarm: Swarm) -> None:
    await dht.put_many("c", records(100))
    known = dict(await everything(dht, "c"))
    async with dht.listen("c") as events:
        await dht.remove_channel("c")
        await dht.put("c", "new", b"1")
        others = await follow(events, known, await put_marks(dht, swarm, "c", "end"))
        assert others == ["channel removed"] * len(swarm.addresses)
        assert known == await everything(dht, "c")
        await dht.remove_channel("c")
        others = await follow(events, known, await put_marks(dht, swarm, "c", "again"))
        assert others == ["channel removed"] * len(swarm.addresses)
        assert known == await everything(dht, "c")


@row()
async def listen_to_keys_with_a_prefix(dht: Any, swarm: Swarm) -> None:
    await dht.put_many("c", {f"{letter}{number}": b"1" for letter in "ab" for number in range(20)})
    known: dict[bytes, bytes] = {}
    async with dht.listen("c", key_prefix="a", refresh=True) as events:
        await dht.put_many("c", {f"{letter}{number}": b"2" for letter in "ab" for number in range(10, 30)})
        await follow(events, known, await put_marks(dht, swarm, "c", "a-end"))
    assert known == await everything(dht, "c", key_prefix="a")


@row()
async def listen_to_a_channel_that_does_not_exist(dht: Any, swarm: Swarm) -> None:
    kinds: list[str] = []
    async with dht.listen("c", refresh=True) as events:
        async for event in events:
            kinds.append(event.kind)
            if event.kind == "refreshed":
                break
        assert kinds == ["refresh begins"] * len(swarm.addresses) + ["refreshed"]
        assert await dht.channels() == []
        await dht.put("c", "key", b"value")
        async for event in events:
            assert event == Event("put", b"key", b"value")
            break


@row()
async def listening_without_entering_it(dht: Any, swarm: Swarm) -> None:
    await dht.put("c", "key", b"value")
    async for event in dht.listen("c", refresh=True):
        if event.key:
            assert event == Event("put", b"key", b"value")
            break
    await until_nobody_listens(dht)


@row()
async def a_listener_that_was_entered_misses_nothing(dht: Any, swarm: Swarm) -> None:
    await dht.ping()
    async with dht.listen("c") as events:
        swarm.write_aside("c", "key", b"value")
        async for event in events:
            assert event == Event("put", b"key", b"value")
            break


@row()
async def several_listeners(dht: Any, swarm: Swarm) -> None:
    async with dht.listen("c") as first, dht.listen("c") as second, dht.listen("d") as third:
        assert await listeners(dht) == 3 * len(swarm.addresses)
        end = await put_marks(dht, swarm, "c", "end")
        for events in (first, second):
            assert await follow(events, {}, end) == []
        await put_marks(dht, swarm, "d", "end")
        assert await follow(third, {}, end) == []
    await until_nobody_listens(dht)
    await assert_usable(dht)


@row()
async def what_listen_refuses(dht: Any, swarm: Swarm) -> None:
    for channel in (None, 5, "", "a b", "x" * 129, b"c"):
        with pytest.raises(BadChannel):
            async with dht.listen(channel):
                pass
    for options in (
        {"key_prefix": 5},
        {"key_prefix": None},
        {"key_prefix": b"x" * (KEY_BYTES_MAX + 1)},
        {"refresh": 1},
        {"refresh": None},
    ):
        with pytest.raises(BadArgument):
            async with dht.listen("c", **options):
                pass
    with pytest.raises(BadKey):
        async with dht.listen("c", key_prefix="\ud800"):
            pass
    assert await listeners(dht) == 0


@row()
async def listening_where_a_node_is_dead(dht: Any, swarm: Swarm) -> None:
    async with swarm.client([*swarm.addresses, swarm.dead_address], timeout=0.3) as other:
        with pytest.raises(NodeUnreachable):
            async with other.listen("c"):
                pass
    await until_nobody_listens(dht)


@row()
async def listening_with_a_client_that_is_not_open(dht: Any, swarm: Swarm) -> None:
    client = swarm.client()
    with pytest.raises(ClientClosed):
        async with client.listen("c"):
            pass


@row(SMALL)
async def more_listeners_than_streams(dht: Any, swarm: Swarm) -> None:
    """A blocking listener has connections of its own."""
    if isinstance(dht, AwaitableClient):
        return
    async with dht.listen("c"), dht.listen("c"), dht.listen("c"), dht.listen("c"):
        with pytest.raises(TooManyRequests):
            async with dht.listen("c"):
                pass
        await dht.put("c", "key", b"value")
    await until_nobody_listens(dht)
