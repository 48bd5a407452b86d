"""Listeners and mirrors over time: nodes that die, programs that are slow, ranges that change, listeners given up."""

import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from conformance import everything, records, until_nobody_listens

import swarm.blocking
from nodes.dht.config import DhtConfig, NodeSection
from swarm.core import limits
from swarm.core.config import Address
from swarm.core.errors import BadArgument, ClientClosed, ConnectionLost, NodeUnreachable
from swarm.core.limits import LISTENER_BYTES_MAX
from swarm.dht import DhtClient, Event
from swarm.dht.events import Copy
from swarm.dht.hash_range import HashRange, hash_key, split_evenly
from swarm.testing import DhtProcess, dht_in_memory, running_dht
from tests.waiting import wait_until

HANG_S = 30.0

every_client = pytest.mark.parametrize("kind", ["trio", "asyncio", "blocking"])
every_async_client = pytest.mark.parametrize("kind", ["trio", "asyncio"])


def run(kind: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    async def main() -> None:
        with anyio.fail_after(HANG_S):
            await work(*arguments)

    anyio.run(main, backend="asyncio" if kind == "asyncio" else "trio")


def content(nodes: list[str], channel: str = "c") -> dict[bytes, bytes]:
    with swarm.blocking.DhtClient(nodes) as dht:
        return dict(dht.get_all(channel))


def change_at_random(rng: random.Random, dht: swarm.blocking.DhtClient) -> None:
    keys = [b"%d" % rng.randrange(500) for _ in range(rng.choice([1, 1, 20, 300]))]
    value = b"%d" % rng.randrange(10**9) + bytes(rng.choice([1, 100, 3000]))
    match rng.choice(
        ["put", "put", "put many", "put many", "remove", "remove channel" if rng.random() < 0.1 else "put"]
    ):
        case "put":
            dht.put("c", keys[0], value)
        case "put many":
            dht.put_many("c", dict.fromkeys(keys, value))
        case "remove":
            with suppress(ConnectionLost):
                dht.remove("c", keys[0])
        case "remove channel":
            with suppress(ConnectionLost):
                dht.remove_channel("c")


@every_client
@pytest.mark.parametrize("seed", [1, 2])
def test_a_mirror_while_nodes_are_killed(kind: str, seed: int, tmp_path: Path) -> None:
    """Whatever happens, once nothing happens any more the mirror holds what the nodes hold."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(DhtProcess(tmp_path / f"{number}", DhtConfig(NodeSection(hash_range=part))))
            for number, part in enumerate(split_evenly(2))
        ]
        nodes = [process.address for process in processes]
        writer = stack.enter_context(swarm.blocking.DhtClient(nodes, timeout=10.0))

        def disturb() -> None:
            for _ in range(rng.randrange(60)):
                change_at_random(rng, writer)
            victim = rng.choice(processes)
            victim.kill()
            victim.start()
            for _ in range(rng.randrange(60)):
                change_at_random(rng, writer)

        if kind == "blocking":
            mirror = stack.enter_context(swarm.blocking.DhtClient(nodes)).mirror("c", timeout=HANG_S)
            for _ in range(5):
                disturb()
                held = content(nodes)
                assert next(dict(known) == held for known in mirror if dict(known) == held), f"seed {seed}"
            return

        async def work() -> None:
            async with DhtClient(nodes) as dht, dht.mirror("c") as mirror:
                for _ in range(5):
                    disturb()
                    held = content(nodes)
                    while not (mirror.complete and mirror.records == held):
                        await mirror.changed()

        run(kind, work)


@every_client
def test_a_node_that_dies_and_comes_back(kind: str, tmp_path: Path) -> None:
    """Its part is lost until it is back; the other node's changes are told all the time."""
    low, high = split_evenly(2)
    in_low, in_high = (
        next(key for key in (b"k%d" % number for number in range(99)) if hash_key(key) in part) for part in (low, high)
    )
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(DhtProcess(tmp_path / f"{part.lowest}", DhtConfig(NodeSection(hash_range=part))))
            for part in (low, high)
        )
        nodes = [one.address, two.address]
        with swarm.blocking.DhtClient(nodes) as writer:
            writer.put("c", in_low, b"1")
            writer.put("c", in_high, b"1")

        def put_in_high(value: bytes) -> None:
            with swarm.blocking.DhtClient([two.address]) as writer:
                writer.put("c", in_high, value)

        def told() -> Iterator[str]:
            """What is done, and what has to come of it; gives the last kind to wait for."""
            one.kill()
            yield "lost"
            put_in_high(b"2")
            yield "put"
            one.start()
            yield "refreshed"

        expected_last = Event("refreshed")
        events: list[Event] = []

        def check() -> None:
            assert events[0] == Event("lost", hashes=low)
            assert events[1] == Event("put", in_high, b"2")
            assert events[2] == Event("refresh begins", hashes=low)
            assert all(hash_key(event.key) in low for event in events[3:-1])
            assert events[-1] == expected_last

        if kind == "blocking":
            with swarm.blocking.DhtClient(nodes) as dht, dht.listen("c", timeout=HANG_S) as listening:
                for last in told():
                    for event in listening:
                        assert event is not None
                        events.append(event)
                        if event.kind == last:
                            break
            check()
            return

        async def work() -> None:
            async with DhtClient(nodes) as dht, dht.listen("c") as listening:
                for last in told():
                    async for event in listening:
                        events.append(event)
                        if event.kind == last:
                            break
            check()

        run(kind, work)


@every_client
def test_a_node_that_hangs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is silent because nothing changes is asked; one that does not answer is given up."""
    monkeypatch.setattr(limits, "CLIENT_ASK_S", 0.2)
    with DhtProcess(tmp_path) as node, swarm.blocking.DhtClient([node.address]) as writer:
        copy = Copy()
        kinds: list[str] = []

        def until_pinged(times: int) -> None:
            wait_until(
                lambda: writer.node_statistics()[node.address]["request"].get("ping", {}).get("handled", 0) >= times
            )

        give_up = time.monotonic() + HANG_S

        def take(event: Event | None) -> None:
            assert time.monotonic() < give_up, kinds
            if event is not None:
                kinds.append(event.kind)
                copy.apply(event)

        def hang() -> None:
            """It was silent, and was not given up."""
            until_pinged(3 if kind != "blocking" else 2)  # in the one second that it has waited
            writer.put("c", "key", b"1")

        def come_back() -> None:
            assert kinds[0] == "put"
            node.resume()
            writer.put("c", "key", b"2")

        def is_up_to_date() -> bool:
            return copy.complete and copy.records == {b"key": b"2"}

        def be_less_patient() -> None:
            monkeypatch.setattr(limits, "CLIENT_SILENCE_S", 0.5)
            node.pause()

        if kind == "blocking":
            with swarm.blocking.DhtClient([node.address]) as dht, dht.listen("c", timeout=1.0) as listening:
                assert next(listening) is None
                hang()
                while "put" not in kinds:
                    take(next(listening))
                be_less_patient()
                while "lost" not in kinds:
                    take(next(listening))
                come_back()
                while not is_up_to_date():
                    take(next(listening))
            return

        async def work() -> None:
            async with DhtClient([node.address], timeout=HANG_S) as dht, dht.listen("c") as listening:
                await anyio.to_thread.run_sync(hang)
                take(await anext(listening))
                be_less_patient()
                while "lost" not in kinds:
                    take(await anext(listening))
                come_back()
                while not is_up_to_date():
                    take(await anext(listening))

        run(kind, work)


@every_client
def test_nodes_that_swap_their_hash_ranges(kind: str, tmp_path: Path) -> None:
    """Then everything is void, and told anew by all nodes."""
    low, high = (DhtConfig(NodeSection(hash_range=part)) for part in split_evenly(2))
    nodes = [f"unix:{tmp_path}/dht-{number}.sock" for number in range(2)]
    some, others = records(100), {b"other-%d" % number: b"v" for number in range(100)}

    def steps() -> Iterator[dict[bytes, bytes]]:
        for configs, written in (([low, high], some), ([high, low], others), ([low, high], some)):
            with running_dht(configs, unix_directory=tmp_path):
                with swarm.blocking.DhtClient(nodes) as writer:
                    writer.put_many("c", written)
                yield written

    if kind == "blocking":
        with swarm.blocking.DhtClient(nodes) as dht:
            mirror: Iterator[Mapping[bytes, bytes]] | None = None
            for written in steps():
                mirror = mirror or dht.mirror("c", timeout=HANG_S)
                assert any(known == written for known in mirror)
        return

    async def work() -> None:
        async with DhtClient(nodes) as dht, ExitStackOf() as stack:
            mirror: Any = None
            for written in steps():
                if mirror is None:
                    mirror = await stack.enter(dht.mirror("c"))
                while not (mirror.complete and mirror.records == written):
                    await mirror.changed()

    run(kind, work)


class ExitStackOf:
    """One thing that is entered later than its block."""

    def __init__(self) -> None:
        self._entered: Any = None

    async def __aenter__(self) -> "ExitStackOf":
        return self

    async def enter(self, manager: Any) -> Any:
        self._entered = manager
        return await manager.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        if self._entered is not None:
            await self._entered.__aexit__(*error)


@every_client
def test_a_program_that_is_too_slow(kind: str) -> None:
    """It is told that it has lost changes; after the refresh it knows everything."""
    value = bytes(10_000)
    rounds = 20 * LISTENER_BYTES_MAX // (100 * len(value))
    with running_dht() as dht_nodes, swarm.blocking.DhtClient(dht_nodes.addresses) as writer:

        def write() -> None:
            for number in range(rounds):
                writer.put_many("c", {b"%d" % each: b"%d" % number + value for each in range(100)})
            writer.remove("c", b"0")

        kinds: list[str] = []
        copy = Copy()

        def take(event: Event | None) -> bool:
            assert event is not None
            copy.apply(event)
            kinds.append(event.kind)
            return event.kind == "refreshed"

        async def work() -> None:
            async with DhtClient(dht_nodes.addresses) as dht, dht.listen("c") as events:
                await anyio.to_thread.run_sync(write)
                async for event in events:
                    if take(event):
                        break

        if kind == "blocking":
            with swarm.blocking.DhtClient(dht_nodes.addresses) as dht, dht.listen("c", timeout=HANG_S) as events:
                write()
                assert any(take(event) for event in events)
        else:
            run(kind, work)
        assert [each for each in kinds if each not in ("put", "removed")] == ["lost", "refresh begins", "refreshed"]
        assert copy.records == content(dht_nodes.addresses)
        assert writer.node_statistics()[dht_nodes.addresses[0]]["listeners_lost"] == 1


# Mirrors.


@every_async_client
def test_a_mirror(kind: str) -> None:
    async def work(nodes: list[str]) -> None:
        async with DhtClient(nodes) as dht:
            await dht.put_many("c", records(3000))
            async with dht.mirror("c") as mirror, dht.mirror("c", key_prefix="key-00000") as part:
                await mirror.ready()
                await part.ready()
                assert mirror.complete
                assert mirror.records == records(3000)
                assert len(part.records) == 10
                with pytest.raises(TypeError):
                    mirror.records[b"key"] = b"value"  # type: ignore[index]
                await dht.put("c", "new", b"value")
                await mirror.changed()
                assert mirror.records[b"new"] == b"value"
                await dht.remove_channel("c")
                for each in (mirror, part):
                    while each.records:
                        await each.changed()
            await until_nobody_listens(dht)

    with running_dht(2) as dht_nodes:
        run(kind, work, dht_nodes.addresses)


def test_a_blocking_mirror() -> None:
    with running_dht(2) as dht_nodes, swarm.blocking.DhtClient(dht_nodes.addresses) as dht:
        dht.put_many("c", records(3000))
        mirror = dht.mirror("c", timeout=0.05)
        known = next(each for each in mirror if each)
        assert known == records(3000)
        assert next(mirror) is known  # nothing has changed
        dht.put("c", "new", b"value")
        assert b"new" in next(mirror)
        assert len(next(dht.mirror("c", key_prefix=b"key-00000", timeout=HANG_S))) == 10
        dht.remove_channel("c")
        assert any(not each for each in mirror)


def test_what_a_copy_holds_during_a_refresh() -> None:
    copy = Copy()
    for event in (Event("refresh begins"), Event("put", b"a", b"1"), Event("put", b"b", b"1"), Event("refreshed")):
        assert not copy.complete
        copy.apply(event)
    assert copy.complete
    half = replace(HashRange(), highest=hash_key(b"a"))
    in_half = [key for key in (b"a", b"b") if hash_key(key) in half]
    copy.apply(Event("lost", hashes=half))
    assert not copy.complete
    copy.apply(Event("refresh begins", hashes=half))
    assert copy.records == {b"a": b"1", b"b": b"1"}  # out of date is better than not there
    copy.apply(Event("put", b"c", b"2"))
    copy.apply(Event("refreshed"))
    assert copy.records == {key: b"1" for key in (b"a", b"b") if key not in in_half} | {b"c": b"2"}
    copy.apply(Event("refresh begins"))
    copy.apply(Event("removed", b"c"))
    copy.apply(Event("put", b"b", b"3"))
    copy.apply(Event("channel removed"))
    copy.apply(Event("put", b"d", b"4"))
    copy.apply(Event("refreshed"))
    assert copy.complete
    assert copy.records == {b"d": b"4"}


def test_which_keys_an_event_is_about() -> None:
    low, high = split_evenly(2)
    keys = list(records(100))
    for part in (low, high):
        assert Event("lost", hashes=part).among(keys) == [key for key in keys if hash_key(key) in part]
    assert Event("lost").among(keys) == keys


# Listeners that are given up.


@pytest.mark.parametrize("what", ["listen", "mirror"])
async def test_cancelling_at_every_step(what: str, autojump_clock: trio.testing.MockClock) -> None:
    async with dht_in_memory(2) as dht_nodes, DhtClient(dht_nodes.addresses, connect=dht_nodes.connect) as dht:
        await dht.put_many("c", records(100))

        async def enter() -> None:
            if what == "mirror":
                async with dht.mirror("c") as mirror:
                    await mirror.ready()
            else:
                async with dht.listen("c", refresh=True) as events:
                    async for event in events:
                        if event.kind == "refreshed":
                            break

        steps = 0
        cancelled = True
        while cancelled:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel_soon(scope: trio.CancelScope, steps: int) -> None:
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel_soon, scope, steps)
                    await enter()
                    nursery.cancel_scope.cancel()
            cancelled = scope.cancelled_caught
            steps += 1
            await until_nobody_listens(dht)
        assert steps > 3


@pytest.mark.parametrize("connected", [True, False])
async def test_closing_the_client_ends_its_listeners(connected: bool, autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []
    transports: list[Any] = []

    async def listen(dht: DhtClient) -> None:
        try:
            async with dht.listen("c") as events:
                async for _ in events:
                    pass
        except ClientClosed:
            ended.append("listen")

    async def mirror(dht: DhtClient) -> None:
        try:
            async with dht.mirror("c") as mirror:
                while True:
                    await mirror.changed()
        except ClientClosed:
            ended.append("mirror")

    async with dht_in_memory() as dht_nodes:

        async def connect(address: Address) -> Any:
            if transports and not connected:
                raise ConnectionRefusedError
            transports.append(await dht_nodes.connect(address))
            return transports[-1]

        async with trio.open_nursery() as nursery:
            async with DhtClient(dht_nodes.addresses, connect=connect) as dht:
                nursery.start_soon(listen, dht)
                nursery.start_soon(mirror, dht)
                await trio.testing.wait_all_tasks_blocked()
                if not connected:
                    transports[0].close()
                    await trio.sleep(1)
            with trio.fail_after(HANG_S):
                while len(ended) < 2:
                    await trio.sleep(0.1)


def test_closing_a_blocking_client_ends_its_listeners() -> None:
    with running_dht() as dht_nodes:
        with swarm.blocking.DhtClient(dht_nodes.addresses) as dht:
            events = dht.listen("c", timeout=0)
            assert next(events) is None
        with pytest.raises(ClientClosed):
            next(events)
        events.close()


@pytest.mark.parametrize("timeout", [-1, "", "1", float("nan")])
def test_timeouts_of_a_blocking_listener(timeout: Any) -> None:
    with (
        running_dht() as dht_nodes,
        swarm.blocking.DhtClient(dht_nodes.addresses) as dht,
        pytest.raises(BadArgument),
    ):
        dht.listen("c", timeout=timeout)


def test_threads_use_a_blocking_client_while_one_listens() -> None:
    with (
        running_dht(2) as dht_nodes,
        swarm.blocking.DhtClient(dht_nodes.addresses) as dht,
        dht.listen("c") as events,
    ):
        told: list[Event] = []

        def listen() -> None:
            for event in events:
                told.append(event)
                if len(told) == 50:
                    break

        thread = threading.Thread(target=listen)
        thread.start()
        for number in range(50):
            dht.put("c", b"%d" % number, b"v")
            assert dht.get("c", b"%d" % number) == b"v"
        thread.join(HANG_S)
        assert {event.key for event in told} == {b"%d" % number for number in range(50)}


@every_async_client
def test_entering_where_a_node_comes_late(kind: str, tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:

        async def work() -> None:
            async with DhtClient([node.address], timeout=0.3) as dht:
                await dht.ping()
                node.kill()
                with pytest.raises(NodeUnreachable):
                    async with dht.listen("c"):
                        pass
                node.start()
                await dht.ready()
                async with dht.listen("c", refresh=True) as events:
                    async for event in events:
                        assert event.kind == "refresh begins"
                        break
                await until_nobody_listens(dht)
                assert await everything(dht, "c") == {}

        run(kind, work)


@every_client
def test_a_node_that_restarts_while_another_keeps_the_entering_waiting(kind: str, tmp_path: Path) -> None:
    """It had begun to tell; what was changed after that must be told, or be told as lost."""
    low, high = split_evenly(2)
    key = next(key for key in (b"k%d" % number for number in range(99)) if hash_key(key) in low)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(DhtProcess(tmp_path / f"{part.lowest}", DhtConfig(NodeSection(hash_range=part))))
            for part in (low, high)
        )
        nodes = [one.address, two.address]

        def disturb() -> None:
            with swarm.blocking.DhtClient([one.address]) as other:
                wait_until(lambda: other.node_statistics()[one.address]["request"].get("listen", {}).get("in_flight"))
                other.put("c", key, b"1")
                one.kill()
                one.start()
                other.put("c", key, b"2")
            two.resume()

        kinds: list[str] = []

        def take(event: Event | None) -> bool:
            assert event is not None
            kinds.append(event.kind)
            return event.kind == "refreshed"

        async def work() -> None:
            async with DhtClient(nodes, timeout=HANG_S) as dht:
                await dht.ping()
                two.pause()
                thread.start()
                async with dht.listen("c") as events:
                    async for event in events:
                        if take(event):
                            break

        thread = threading.Thread(target=disturb)
        if kind == "blocking":
            with swarm.blocking.DhtClient(nodes, timeout=HANG_S) as dht:
                dht.ping()
                two.pause()
                thread.start()
                with dht.listen("c", timeout=HANG_S) as events:
                    assert any(take(event) for event in events)
        else:
            run(kind, work)
        thread.join()
        assert [each for each in kinds if each != "put"] == ["lost", "refresh begins", "refreshed"]
