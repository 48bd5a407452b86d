"""Watch with real nodes that are killed, stopped and restarted, and with servers that are none."""

import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from nodes.dht.config import DhtConfig, NodeSection
from swarm import __version__
from swarm.blocking import DhtClient, QueueClient
from swarm.core.config import Address, parse_address
from swarm.core.limits import MIB
from swarm.dht.hash_range import HashRange
from swarm.monitor import NodeView, Reason, Target, Watch
from swarm.monitor.node_view import read_events
from swarm.testing import DhtProcess, LogfilesProcess, QueueProcess
from tests.monitor.hostile import EVENTS, HEALTH, STATS, UNKNOWN, for_stats, hello, hostile_node
from tests.waiting import PATIENCE_S

LOOK_S = 0.05


def target(kind: str, address: str) -> Target:
    return Target(kind, parse_address(address))


@asynccontextmanager
async def watching(*targets: Target, timeout_s: float = PATIENCE_S, interval_s: float = LOOK_S) -> AsyncIterator[Watch]:
    watch = Watch(targets, interval_s=interval_s, timeout_s=timeout_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await watch.first_round()
        yield watch
        tasks.cancel_scope.cancel()


async def view_that(watch: Watch, condition: Callable[[NodeView], object], number: int = 0) -> NodeView:
    """The first view of a node that fulfils the condition."""
    with anyio.fail_after(PATIENCE_S):
        while not condition(view := watch.views()[number]):
            await anyio.sleep(LOOK_S)
    return view


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs an async function under each event loop."""
    return lambda function: anyio.run(function, backend=request.param)


def test_nodes_of_all_kinds_tell_how_they_are(tmp_path: Path, run: Callable[..., Any]) -> None:
    with (
        DhtProcess(tmp_path / "dht") as dht,
        QueueProcess(tmp_path / "queue") as queue,
        LogfilesProcess(tmp_path / "logfiles") as logfiles,
    ):
        with DhtClient(dht.address) as client:
            client.put_many("channel", {f"key {number}": b"value" for number in range(10)})
        with QueueClient(queue.address) as client:
            client.push("channel", b"record")

        async def look() -> list[NodeView]:
            nodes = {"dht": dht, "queue": queue, "logfiles": logfiles}
            async with watching(*(target(kind, node.address) for kind, node in nodes.items())) as watch:
                return watch.views()

        views = run(look)
    assert [(view.kind, view.state, view.error, view.reason) for view in views] == [
        (kind, "up", None, None) for kind in ("dht", "queue", "logfiles")
    ]
    assert [view.version for view in views] == [f"{kind}node {__version__}" for kind in ("dht", "queue", "logfiles")]
    assert [view.hash_range for view in views] == [HashRange(), None, None]
    assert [(view.channels, view.records, view.bytes) for view in views] == [(1, 10, 100), (1, 1, 6), (0, 0, 0)]
    assert all(view.rss_bytes > 0 and view.memory_limit > 0 for view in views)
    assert [[name for name, _ in view.fullest] for view in views] == [[], ["channel"], []]
    assert views[1].channel["channel"]["records"] == 1


async def test_requests_per_second_come_from_what_was_counted_between_two_answers(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        async with watching(target("dht", node.address)) as watch:
            with anyio.fail_after(PATIENCE_S):
                while not (view := watch.views()[0]).requests_per_s:
                    dht.put("channel", "key", b"value")
                    await anyio.sleep(0.01)
            assert list(view.requests) == ["put"]
            assert view.latency_s is not None
            assert 0 < view.latency_s[0] <= view.latency_s[1] <= 0.1
            quiet = await view_that(watch, lambda view: view.requests_per_s == 0)
            assert (quiet.requests, quiet.latency_s) == ({}, None)


async def test_a_node_that_was_killed_is_down_and_back_when_it_is_restarted(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        dht.put("channel", "key", b"value")
        async with watching(target("dht", node.address), timeout_s=0.5) as watch:
            node.kill()
            down = await view_that(watch, lambda view: view.state == "down")
            assert down.reason in (Reason.REFUSED, Reason.OTHER)  # other: it was being asked
            down = await view_that(watch, lambda view: view.reason == Reason.REFUSED)
            assert down.error == "Connection refused"
            assert (down.records, down.hash_range, down.requests_per_s) == (1, HashRange(), None)
            node.start()
            up = await view_that(watch, lambda view: view.state == "up")
            assert up.error is None
            rates = [sample.requests_per_s for sample in watch.history("dht", node.address)]
            assert all(rate is None or rate >= 0 for rate in rates)
            assert {sample.up for sample in watch.history("dht", node.address)} == {True, False}


async def test_a_node_that_hangs_delays_no_other(tmp_path: Path) -> None:
    with DhtProcess(tmp_path / "1") as hangs, DhtProcess(tmp_path / "2") as other:
        async with watching(target("dht", hangs.address), target("dht", other.address), timeout_s=0.5) as watch:
            with hangs.paused():
                down = await view_that(watch, lambda view: view.state == "down")
                assert (down.reason, down.error) == (Reason.TIMEOUT, "it does not answer")
                uptime_s = watch.views()[1].uptime_s
                await view_that(watch, lambda view: view.uptime_s > uptime_s, 1)
                assert watch.views()[0].state == "down"
            await view_that(watch, lambda view: view.state == "up")


@pytest.fixture
def free_address() -> Iterator[str]:
    """Where nobody listens, nor will as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def test_why_a_node_is_down(tmp_path: Path, free_address: str) -> None:
    with QueueProcess(tmp_path) as queue, socket.create_server(("127.0.0.1", 0)) as silent:
        targets = [
            target("dht", free_address),
            target("dht", queue.address),
            Target("dht", Address("127.0.0.1", silent.getsockname()[1])),
            Target("dht", Address("no-such-host.invalid", 1)),
            Target("dht", Address.unix(str(tmp_path / "nothing.sock"))),
        ]
        async with watching(*targets, timeout_s=1.0) as watch:
            views = watch.views()
    assert [(view.state, view.reason) for view in views] == [
        ("down", reason) for reason in (Reason.REFUSED, Reason.KIND, Reason.TIMEOUT, Reason.UNREACHABLE, Reason.REFUSED)
    ]
    assert views[1].error == "this is a queue node, not 'dht'"


@contextmanager
def answering_once(data: bytes) -> Iterator[str]:
    """The address of a server that says this to whoever connects, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as connections:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.enter_context(connection)
                with suppress(OSError):  # the client has gone
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 1000,
        struct.pack(">I", 3) + b"abc",
        hello("dht")[:20],
        hello("dht", hash_range=[5, 1]),
        hello("dht", hash_range="\x1b[2J"),
    ],
    ids=["http", "noise", "no hello", "half a hello", "backwards", "escape"],
)
async def test_what_is_no_node_is_down(data: bytes) -> None:
    with answering_once(data) as address:
        async with watching(target("dht", address), timeout_s=0.5) as watch:
            [view] = watch.views()
    assert view.state == "down"
    assert view.reason in (Reason.PROTOCOL, Reason.TIMEOUT)
    assert view.error
    assert view.error.isprintable()


HOSTILE = {
    "nothing": None,
    "text": "\x1b[2J",
    "negative": {"records": -1},
    "not a number": {"records": float("nan")},
    "endless": {"lag_s": float("inf")},
    "too large": {"bytes": 2**64 - 1, "memory_used": 1e300},
    "escape for a number": {"uptime_s": "\x1b[2J"},
    "truth for a number": {"request": {"get": {"handled": [1]}}},
    "requests": {"request": [1, 2]},
    "a request": {"request": {"get": 5}},
    "many requests": {"request": {f"r{number}": {} for number in range(1000)}},
    "escape for a channel": {"channel": {"\x1b[2J": {}}},
    "channels": {"channel": "\x1b]0;title\x07"},
    "a channel": {"channel": {"channel": "\x1b[2J"}},
    "many channels": {"channel": {f"c{number}": {} for number in range(20_000)}},
    "escape for a figure": {"channel": {"channel": {"\x1b[2J": 1}}},
    "a number for subscribers": {"channel": {"channel": {"subscriber": 5}}},
    "escape for a subscriber": {"channel": {"channel": {"subscriber": {"\x1b[2J": {}}}}},
}


@pytest.mark.parametrize("statistics", HOSTILE.values(), ids=HOSTILE)
async def test_statistics_that_are_none_are_an_error_of_the_node(statistics: object) -> None:
    with hostile_node("dht", for_stats(statistics)) as address:
        async with watching(target("dht", address)) as watch:
            [view] = watch.views()
    assert (view.state, view.reason) == ("down", Reason.PROTOCOL)
    assert view.error is not None
    assert view.error.isprintable()
    assert len(view.error) < 400


async def test_an_answer_that_cannot_be_decoded_is_an_error_of_the_node() -> None:
    with hostile_node("dht", for_stats({"channel": {5: {}}})) as address:
        async with watching(target("dht", address), timeout_s=0.5) as watch:
            assert watch.views()[0].state == "down"


async def test_a_fault_in_reading_an_answer_takes_nobody_else_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_and_trip(answer: object) -> Any:
        if answer == [[1.5, "WARNING", "trip"]]:
            raise AttributeError("\x1b[2J unforeseen")
        return read_events(answer)

    monkeypatch.setattr("swarm.monitor.watch.read_events", read_and_trip)
    answers = {STATS: {}, HEALTH: [], EVENTS: [[1.5, "WARNING", "trip"]]}
    with hostile_node("dht", lambda code: answers[code]) as evil, DhtProcess(tmp_path) as node:
        async with watching(target("dht", evil), target("dht", node.address)) as watch:
            uptime_s = watch.views()[1].uptime_s
            await view_that(watch, lambda view: view.uptime_s > uptime_s, 1)
            await view_that(watch, lambda _: len(watch.history("dht", evil)) > 2)
            down = watch.views()[0]
    assert (down.state, down.reason) == ("down", Reason.PROTOCOL)
    assert down.error == r"its answer cannot be read: AttributeError: \x1b[2J unforeseen"
    [record] = [each for each in caplog.records if each.name == "swarm.monitor.watch"]  # once, not with every question
    assert f"dht {evil}: {down.error}\n" in record.getMessage()
    assert "in read_and_trip" in record.getMessage()
    assert "\x1b" not in record.getMessage()


async def test_what_a_node_calls_itself_is_printable_and_short() -> None:
    with hostile_node("dht", for_stats({}), software="\x1b[2J" + "x" * 3000) as address:
        async with watching(target("dht", address)) as watch:
            [view] = watch.views()
    assert view.state == "up"
    assert view.version == "\\x1b[2J" + "x" * 60 + "…"


async def test_an_error_of_the_node_is_printable() -> None:
    with hostile_node("dht", lambda code: ValueError("\x1b[2J\n\rgone")) as address:
        async with watching(target("dht", address)) as watch:
            [view] = watch.views()
    assert (view.state, view.error) == ("down", r"\x1b[2J\n\rgone")


async def test_a_node_of_another_version_lacks_figures_and_has_others() -> None:
    statistics = {"records": 5, "invention": {"deep": ["x"]}, "channel": {"a": {"records": 5, "new": 1, "odd": "x"}}}
    with hostile_node("queue", for_stats(statistics)) as address:
        async with watching(target("queue", address)) as watch:
            [view] = watch.views()
    assert (view.state, view.records, view.bytes, view.fullest) == ("up", 5, 0, ())
    assert view.channel == {"a": {"records": 5, "new": 1}}


async def test_what_its_health_rules_find(tmp_path: Path) -> None:
    config = DhtConfig(node=NodeSection(memory_limit=2 * MIB))
    with DhtProcess(tmp_path, config) as node, DhtClient(node.address) as dht:
        for number in range(11):
            dht.put("channel", f"key {number}", b"x" * 180_000)
        async with watching(target("dht", node.address)) as watch:
            view = watch.views()[0]
            assert [rule for rule, _ in view.findings] == ["memory_nearly_full"]
            assert "% of memory_limit" in view.findings[0][1]
            assert view.memory_used > 0.9 * view.memory_limit
            node.kill()
            down = await view_that(watch, lambda view: view.state == "down")
            assert down.findings == ()


async def test_what_it_has_logged(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:
        host, port = node.address.split(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        async with watching(target("dht", node.address)) as watch:
            view = await view_that(watch, lambda view: view.events)
    at_s, level, text = view.events[-1]
    assert at_s > 1_700_000_000
    assert level == "WARNING"
    assert "127.0.0.1" in text
    assert view.errors == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (HEALTH, "\x1b[2J"),
        (HEALTH, [5]),
        (HEALTH, [["rule"]]),
        (HEALTH, [["rule", 5]]),
        (HEALTH, {"a": 1}),
        (EVENTS, None),
        (EVENTS, [[1.5, "WARNING"]]),
        (EVENTS, [["now", "WARNING", "text"]]),
        (EVENTS, [[float("nan"), "WARNING", "text"]]),
        (EVENTS, [[-1, "WARNING", "text"]]),
        (EVENTS, [[1e18, "WARNING", "text"]]),
    ],
)
async def test_findings_and_events_that_are_none_are_an_error_of_the_node(code: int, said: object) -> None:
    with hostile_node("dht", lambda asked: said if asked == code else {} if asked == STATS else []) as address:
        async with watching(target("dht", address)) as watch:
            [view] = watch.views()
    assert (view.state, view.reason) == ("down", Reason.PROTOCOL)
    assert view.error is not None
    assert view.error.isprintable()


async def test_findings_and_events_are_printable_and_bounded() -> None:
    evil = "\x1b[2J\r\n" + "x" * 10_000
    answers = {STATS: {}, HEALTH: [[evil, evil]] * 1000, EVENTS: [[5, evil, evil]] * 1000}
    with hostile_node("dht", lambda code: answers[code]) as address:
        async with watching(target("dht", address)) as watch:
            [view] = watch.views()
    assert (len(view.findings), len(view.events)) == (64, 50)
    for texts in (*view.findings, *(event[1:] for event in view.events)):
        assert all(text.isprintable() and len(text) < 400 for text in texts)


async def test_what_a_node_refuses_is_not_asked_again_on_this_connection() -> None:
    asked: list[int] = []

    def answer(code: int) -> object:
        asked.append(code)
        return {} if code == STATS else UNKNOWN

    with hostile_node("dht", answer) as address:
        async with watching(target("dht", address)) as watch:
            await view_that(watch, lambda view: asked.count(STATS) >= 3)
            assert watch.views()[0].state == "up"
    assert (asked.count(HEALTH), asked.count(EVENTS)) == (1, 1)


async def test_counters_that_go_backwards_give_no_negative_rate() -> None:
    counts = iter([100, 50, 7, 7, 3, *[10] * 10_000])

    def answer(code: int) -> object:
        if code != STATS:
            return UNKNOWN
        count = next(counts)
        return {"uptime_s": 5.0, "request": {"get": {"handled": count, "times": {"10us": count}}}}

    with hostile_node("dht", answer) as address:
        async with watching(target("dht", address)) as watch:
            await view_that(watch, lambda view: len(watch.history("dht", address)) >= 5)
            rates = [sample.requests_per_s for sample in watch.history("dht", address)]
    assert rates[:5] == [None, None, None, 0.0, None]
    assert all(rate is None or rate >= 0 for rate in rates)


async def test_the_history_is_bounded() -> None:
    with hostile_node("dht", for_stats({})) as address:
        watch = Watch([target("dht", address)], interval_s=0.001, history_s=0.01)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.run)
            await watch.second_round()
            with anyio.fail_after(PATIENCE_S):
                while len(watch.history("dht", address)) < 10:
                    await anyio.sleep(0.001)
            before = watch.history("dht", address)[-1]
            while watch.history("dht", address)[-1] is before:
                await anyio.sleep(0.001)
            assert len(watch.history("dht", address)) == 10
            tasks.cancel_scope.cancel()
