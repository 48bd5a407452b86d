"""Health rules: what each finds, when it begins and ends, and that it is told once."""

import logging
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from core.raw_client import EVENTS, HEALTH, MIB, PUT, REMOVE_CHANNEL, STATS, DirectConnection, at_work, make_dht
from trio.testing import MockClock, wait_all_tasks_blocked

from swarm.blocking import DhtClient
from swarm.core.errors import ProtocolError
from swarm.core.health import GIB, Finding, Health, certificate_expires, disk_nearly_full, loop_lags, memory_nearly_full
from swarm.core.logs import Logs, open_logs
from swarm.core.node import Node
from swarm.core.tls import NodeTls
from tests.certificates import EXPIRED, NOT_YET, Authority
from tests.monitor.hostile import hostile_node

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
LIMIT = 100 * MIB


def test_memory() -> None:
    used = 0
    rule = memory_nearly_full(lambda: used, LIMIT)
    for used, begins, goes_on in [
        (0, False, False),
        (84 * MIB, False, False),
        (85 * MIB, False, True),
        (90 * MIB - 1, False, True),
        (90 * MIB, True, True),
        (200 * MIB, True, True),  # what was loaded may be more than the limit
    ]:
        assert (bool(rule(False)), bool(rule(True))) == (begins, goes_on), used
    assert rule(False) == (
        "200 % of memory_limit (100 MiB) are used; at the limit writes are refused: remove records, spread them over "
        "more nodes, or raise the limit"
    )


def test_lag() -> None:
    lag_s = 0.0
    rule = loop_lags(lambda: lag_s)
    for lag_s, begins, goes_on in [
        (0.0, False, False),
        (0.05, False, False),
        (0.06, False, True),
        (0.1, False, True),
        (0.123, True, True),
    ]:
        assert (bool(rule(False)), bool(rule(True))) == (begins, goes_on), lag_s
    assert "lags 123 ms behind" in (rule(False) or "")


def disk(size: int, free: int) -> os.statvfs_result:
    block = 4096
    return os.statvfs_result((block, block, size // block, free // block * 2, free // block, 0, 0, 0, 0, 255))


@pytest.mark.parametrize(
    ("size", "least"),
    [
        (1 * GIB, 1 * GIB),
        (10 * GIB, 1 * GIB),
        (100 * GIB, 5 * GIB),
        (400 * GIB, 20 * GIB),
        (16384 * GIB, 20 * GIB),
    ],
)
def test_disk(size: int, least: int) -> None:
    free = 0
    rule = disk_nearly_full([Path("/data")], lambda path: disk(size, free))
    for free, begins, goes_on in [
        (0, True, True),
        (least - MIB, True, True),
        (least, False, True),
        (least * 1.09, False, True),
        (least * 1.11, False, False),
    ]:
        free = int(free)
        assert (bool(rule(False)), bool(rule(True))) == (begins, goes_on), free


def test_the_disk_that_is_nearly_full_is_named() -> None:
    def statvfs(path: Path) -> os.statvfs_result:
        match path.name:
            case "data":
                return disk(100 * GIB, 50 * GIB)
            case "logs":
                return disk(100 * GIB, 3 * GIB)
        raise FileNotFoundError(path)

    assert disk_nearly_full([Path("/data"), Path("/gone"), Path("/logs")], statvfs)(False) == (
        "the disk of /logs is nearly full, 3072 of 102400 MiB are free: make room before writes are refused"
    )
    assert disk_nearly_full([Path("/data"), Path("/gone")], statvfs)(False) is None


def test_certificate() -> None:
    end = datetime(2030, 5, 1, 12, 30, tzinfo=UTC)
    left = timedelta()
    rule = certificate_expires("node.pem", lambda: end, lambda: (end - left).timestamp())
    for left, found in [
        (timedelta(days=365), ""),
        (timedelta(days=14), ""),
        (timedelta(days=14, seconds=-1), "node.pem expires on 2030-05-01 at 12:30 UTC"),
        (timedelta(seconds=1), "expires on"),
        (timedelta(), "has expired on"),
        (timedelta(days=-1000), "node.pem has expired on 2030-05-01 at 12:30 UTC"),
    ]:
        text = rule(False) or ""
        assert bool(text) == bool(found), left
        assert found in text
        assert not text or "renew it and send SIGHUP" in text
    left = timedelta(days=1)
    assert rule(True)
    end += timedelta(days=30)
    left = timedelta(days=31)
    assert rule(True) is None, "it was renewed"


def test_what_begins_and_ends_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wrong: dict[str, str] = {}
    health = Health({name: lambda _, name=name: wrong.get(name) for name in ("a", "b")})  # type: ignore[misc]

    def told() -> list[tuple[str, str]]:
        health.look()
        lines = [(record.levelname, record.message) for record in caplog.records]
        caplog.clear()
        return lines

    assert told() == []
    wrong["b"] = "do this"
    assert health.findings() == [Finding("b", "do this")]
    assert told() == [("WARNING", "b: do this")]
    wrong["b"] = "do that"
    assert health.findings() == [("b", "do that")]
    assert told() == []
    wrong["a"] = "it burns"
    assert told() == [("WARNING", "a: it burns")]
    assert told() == []
    wrong.clear()
    assert sorted(told()) == [("INFO", "a: is over"), ("INFO", "b: is over")]
    assert told() == []
    wrong["b"] = "do this"
    assert told() == [("WARNING", "b: do this")]


def test_asking_does_not_change_what_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that ask every second make a finding neither begin nor end."""
    asked: list[bool] = []

    def rule(holds: bool) -> str | None:
        asked.append(holds)
        return "wrong"

    health = Health({"rule": rule})
    health.findings()
    health.findings()
    health.look()
    health.findings()
    assert asked == [False, False, False, True]
    assert len(caplog.records) == 1


# A node.


def fill(node: Node) -> DirectConnection:
    """Until it is above 90 % of its memory limit."""
    client = DirectConnection(node.service)
    client.result(PUT, "c", b"key", bytes(node.budget.limit * 9 // 10))
    return client


def test_a_node_answers_what_is_wrong() -> None:
    node = make_dht(memory_limit=10 * MIB)
    assert DirectConnection(node.service).result(HEALTH) == []
    client = fill(node)
    ((rule, text),) = client.result(HEALTH)
    assert rule == "memory_nearly_full"
    assert text.startswith("90 % of memory_limit (10 MiB) are used; ")
    client.result(REMOVE_CHANNEL, "c")
    assert client.result(HEALTH) == []


async def test_it_is_told_with_the_line_of_statistics(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    node = make_dht(memory_limit=10 * MIB)

    def told() -> int:
        return sum("memory_nearly_full" in record.message for record in caplog.records)

    async with at_work(node):
        client = fill(node)
        assert told() == 0
        await wait_for_lines(1)
        assert told() == 1
        await wait_for_lines(3)
        assert told() == 1
        assert [rule for rule, _ in client.result(HEALTH)] == ["memory_nearly_full"]


async def wait_for_lines(count: int) -> None:
    await trio.sleep(30 * count + 1)
    await wait_all_tasks_blocked()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    logs = open_logs(tmp_path, console=False)
    yield logs
    logs.close()


async def test_a_node_answers_its_last_warnings_and_errors(logs: Logs) -> None:
    log = logging.getLogger("test")
    node = make_dht()
    assert DirectConnection(node.service).result(EVENTS) == [], "it has no logs"
    node = Node(node.service.__class__("dht", "node"), node.channels, node.budget, logs=logs)
    client = DirectConnection(node.service)
    assert client.result(EVENTS) == []
    for number in range(60):
        log.info("nothing")
        log.warning("event %d", number)
    log.error("the last")
    events = client.result(EVENTS)
    assert [text for _, _, text in events] == [*(f"event {number}" for number in range(11, 60)), "the last"]
    assert [level for _, level, _ in events] == ["WARNING"] * 49 + ["ERROR"]
    times = [time for time, _, _ in events]
    assert times == sorted(times)
    assert type(times[0]) is float
    async with at_work(node):
        assert "request" in client.result(STATS)


async def test_a_node_whose_certificate_ends_soon(tmp_path: Path, autojump_clock: MockClock) -> None:
    authority = Authority(tmp_path)
    section = authority.node(not_after=datetime.now(UTC) + timedelta(days=13))
    tls = NodeTls(section)
    node = make_dht()
    node.tls = tls
    async with at_work(node):
        client = DirectConnection(node.service)
        ((rule, text),) = client.result(HEALTH)
        assert rule == "certificate_expires"
        assert section.certificate in text
        authority.write(Path(section.certificate))
        tls.reload()
        assert client.result(HEALTH) == []


@pytest.mark.parametrize(("times", "said"), [(EXPIRED, "has expired"), (NOT_YET, "is not valid before")])
async def test_a_node_tells_at_its_start_that_its_certificate_is_out_of_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock, times: dict[str, datetime], said: str
) -> None:
    node = make_dht()
    node.tls = NodeTls(Authority(tmp_path).node(**times))
    async with at_work(node):
        (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert said in line


def test_every_rule_is_documented() -> None:
    table = DOCUMENT.partition("### Health rules")[2].partition("\n#")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert documented == {
        "memory_nearly_full",
        "loop_lags",
        "disk_nearly_full",
        "queue_nearly_full",
        "dump_too_old",
        "certificate_expires",
    }


WRONG = [5, "text", None, {"a": 1}, [5], [None], ["rule", "text"], [[]], [["rule"]], [["rule", "text", "more", "more"]]]


@pytest.mark.parametrize("said", [*WRONG, [["rule", 5]], [["now", "WARNING", "text"]], [[1.5, "WARNING", b"text"]]])
@pytest.mark.parametrize("code", [HEALTH, EVENTS], ids=["health", "events"])
def test_what_is_no_answer_is_an_error_that_names_the_node(code: int, said: object) -> None:
    with hostile_node("dht", lambda _: said) as address, DhtClient(address) as client:
        ask = client.node_health if code == HEALTH else client.node_events
        with pytest.raises(ProtocolError) as raised:
            ask()
    assert (raised.value.node, raised.value.request) == (address, "health" if code == HEALTH else "events")
    assert address in str(raised.value)


def test_what_is_an_answer_is_given() -> None:
    answers = {HEALTH: [["rule", "text"]], EVENTS: [[5, "WARNING", "a"], [6.5, "ERROR", "b"]]}
    with hostile_node("dht", answers.get) as address, DhtClient(address) as client:
        assert client.node_health() == {address: [("rule", "text")]}
        assert client.node_events() == {address: [(5.0, "WARNING", "a"), (6.5, "ERROR", "b")]}
