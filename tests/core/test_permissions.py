"""What a client with some permissions may ask for, request by request, at each kind of node. docs/protocol.md §8."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from logins import ALL, asks_for_logins, line, logged_in
from raw_client import (
    BAD_ARGUMENT,
    BAD_CHANNEL,
    BATCH,
    DONE,
    GET,
    NOT_ALLOWED,
    PUT,
    STATS,
    UNKNOWN_REQUEST,
    DirectConnection,
    at_work,
    frame,
    make_dht,
)

from nodes.logfiles.config import LogfilesConfig
from nodes.logfiles.config import NodeSection as LogfilesNodeSection
from nodes.logfiles.node import make_node as make_logfiles_node
from nodes.queue.config import NodeSection, QueueConfig, QueueSection
from nodes.queue.node import make_node as make_queue_node
from swarm.core import protocol
from swarm.core.channel_patterns import ChannelSet
from swarm.core.credentials import Permissions
from swarm.core.limits import KIB
from swarm.core.node import Node
from swarm.core.protocol import Request
from swarm.core.restrictions import restricted
from swarm.dht import protocol as dht_protocol
from swarm.logfiles import protocol as logfiles_protocol
from swarm.logfiles.payload import encode
from swarm.queue import protocol as queue_protocol

RECORD = (pack("<I", 1), b"x")

# The arguments of each request, about channel "here" where it is about one.
EVERY_NODE: dict[str, list[Any]] = {
    "ping": [],
    "stats": [],
    "channels": [],
    "channel size": ["here"],
    "size": [],
    "remove channel": ["here"],
    "health": [],
    "events": [],
}
OF_KIND: dict[str, dict[str, list[Any]]] = {
    "dht": {
        "put": ["here", b"k", b"v"],
        "put many": ["here", [b"k"], [b"v"], 0],
        "get": ["here", b"k"],
        "get many": ["here", [b"k"]],
        "exists": ["here", b"k"],
        "remove": ["here", b"k"],
        "update": ["here", b"new", None, b"v"],
        "get all": ["here", b"", b"", b"", 4],
        "get all keys": ["here", b"", b"", b"", 4],
        "hash range": [],
        "listen": ["here", b"", False, 4],
        "begin dump": [],
        "end dump": [1],
    },
    "queue": {
        "push": ["here", b"x"],
        "push many": [["here"], *RECORD],
        "pop": ["here"],
        "pop many": ["here", 5],
        "wait pop": ["here", 5, 0],
        "consume": ["here", "", 5, 4],
        "acknowledge": [1, [0, 1]],
        "queues": ["here"],
        "drop subscriber": ["here", "somebody"],
    },
    "logfiles": {
        "put": ["here", 1, b"x"],
        "put many": ["here", encode([1], [b"x"])],
        "get range": ["here", 0, 9, b"", 0, 0, None, 4],
        "time span": ["here"],
    },
}
MODULES = {"dht": dht_protocol, "queue": queue_protocol, "logfiles": logfiles_protocol}
NOT_ASKED = {protocol.GRANT_CREDIT, protocol.STOP, protocol.AUTHENTICATE}


def requests_of(module: object) -> dict[str, Request]:
    requests = [value for value in vars(module).values() if isinstance(value, Request)]
    return {request.name: request for request in requests if request not in NOT_ASKED}


ROWS = [
    (kind, request)
    for kind, module in MODULES.items()
    for request in [*requests_of(protocol).values(), *requests_of(module).values()]
]
each_request = pytest.mark.parametrize(
    ("kind", "request_"), ROWS, ids=[f"{kind}-{request.name}" for kind, request in ROWS]
)


def arguments_of(kind: str, request: Request) -> list[Any]:
    return EVERY_NODE[request.name] if request.name in requests_of(protocol) else OF_KIND[kind][request.name]


def test_each_request_has_a_row() -> None:
    """A new request is to be added above."""
    assert set(EVERY_NODE) == set(requests_of(protocol))
    for kind, module in MODULES.items():
        assert set(OF_KIND[kind]) == set(requests_of(module))


def make_node(kind: str, directory: Path) -> Node:
    if kind == "queue":
        queue = QueueSection(ring_bytes=64 * KIB, fsync="never")
        return make_queue_node(QueueConfig(node=NodeSection(data=directory), queue=queue))
    if kind == "logfiles":
        return make_logfiles_node(LogfilesConfig(node=LogfilesNodeSection(data=directory)))
    return make_dht()


@asynccontextmanager
async def node_with(
    kind: str, directory: Path, *permissions: str
) -> AsyncIterator[tuple[Node, list[DirectConnection]]]:
    """A node that does its work, and a connection for a client of each of these permissions."""
    node = make_node(kind, directory)
    asks_for_logins(node, *(line(f"client-{number}", each) for number, each in enumerate(permissions)))
    async with at_work(node):
        yield node, [logged_in(node, f"client-{number}") for number in range(len(permissions))]


def is_about_a_channel(request: Request) -> bool:
    return bool({"channel", "channels"} & {parameter.name for parameter in request.parameters})


def enough(request: Request) -> list[str]:
    """Permissions of which each allows this request, and no other request more than it must."""
    access = request.access
    if is_about_a_channel(request):
        return [f"{access}=here", f"{access}=her*", f"{access}=x,here,y*", f"{access}=*", ALL]
    return ["write=elsewhere", "admin=elsewhere", "read=*"] if access == "read" else [f"{access}=*", ALL]


def not_enough(request: Request) -> list[str]:
    """Permissions of which none allows it, though each is near."""
    access, others = request.access, [each for each in ("read", "write", "admin") if each != request.access]
    if is_about_a_channel(request):
        near = [f"{access}=there", f"{access}=here-*", f"{access}=her,heres,Here", f"{access}=heree*,x"]
        return [*near, " ".join(f"{each}=*" for each in others)]
    if access == "read":
        return []
    return [f"{access}=here,a*", " ".join(f"{each}=*" for each in others)]


@each_request
async def test_who_has_the_permission_may(kind: str, request_: Request, tmp_path: Path) -> None:
    for number, permissions in enumerate(enough(request_)):
        async with node_with(kind, tmp_path / str(number), permissions) as (_, (client,)):
            client.give(frame([7, request_.code, *arguments_of(kind, request_)]))
            for request_id, status, result in client.take():
                assert (request_id, status in (DONE, BATCH)) == (7, True), (permissions, result)
            assert client.usable()


@each_request
async def test_who_has_not_may_not_and_the_connection_stays_usable(
    kind: str, request_: Request, tmp_path: Path
) -> None:
    refusals = not_enough(request_)
    async with node_with(kind, tmp_path, ALL, *refusals) as (node, (owner, *clients)):
        arguments = arguments_of(kind, request_)
        for client, permissions in zip(clients, refusals, strict=True):
            ((request_id, status, (text, details)),) = client.ask([7, request_.code, *arguments])
            assert (request_id, status) == (7, NOT_ALLOWED), permissions
            about = {"channel": "here"} if is_about_a_channel(request_) else {}
            assert details == {"access": request_.access} | about
            missing = f"{request_.access}={'here' if about else '*'}"
            assert missing in text
            assert client.usable()
            assert client.ask([7, request_.code, *arguments, None])[0][1] in (BAD_ARGUMENT, NOT_ALLOWED)
        assert node.channels.size() == (0, 0, 0), "nothing was carried out"
        statistics = owner.result(STATS)
        assert statistics["not_allowed"] >= len(refusals)
        if refusals:
            assert statistics["request"][request_.name]["failed"] >= len(refusals)


@each_request
async def test_many_in_one_frame_are_refused_one_by_one(kind: str, request_: Request, tmp_path: Path) -> None:
    """Also where the node carries several requests of the same kind out together."""
    if "channel" not in {parameter.name for parameter in request_.parameters}:
        return
    async with node_with(kind, tmp_path, f"{request_.access}=here") as (_, (client,)):
        arguments = arguments_of(kind, request_)
        there = ["there", *arguments[1:]]
        client.give(frame(*([number, request_.code, *(arguments if number % 2 else there)] for number in range(1, 11))))
        answers = {number: status for number, status, _ in client.take()}
        assert [number for number, status in answers.items() if status == NOT_ALLOWED] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("code", [PUT, GET])
async def test_many_of_one_channel_in_one_frame(code: int, tmp_path: Path) -> None:
    """The node would carry these out together, as one batch."""
    async with node_with("dht", tmp_path, ALL, "read=here write=here") as (_, (owner, client)):
        for channel, status in (("there", NOT_ALLOWED), ("here", DONE)):
            owner.result(PUT, channel, b"key", b"before")
            rest = [b"key", b"after"][: 2 if code == PUT else 1]
            answers = client.ask(*([number, code, channel, *rest] for number in range(1, 51)))
            assert [answer[1] for answer in answers] == [status] * 50
            written = code == PUT and status == DONE
            assert owner.result(GET, channel, b"key") == (b"after" if written else b"before")


@pytest.mark.parametrize(
    ("channels", "status"),
    [
        (["a", "b"], DONE),
        (["a", "b", "c"], NOT_ALLOWED),
        (["c"], NOT_ALLOWED),
        (["a", 5], BAD_ARGUMENT),
        (["a", "b c"], BAD_CHANNEL),
        ([], BAD_ARGUMENT),
        ("a", BAD_ARGUMENT),
        (None, BAD_ARGUMENT),
        ([["a"]], BAD_ARGUMENT),
    ],
    ids=repr,
)
async def test_a_push_to_several_channels_needs_the_permission_for_each(
    channels: object, status: int, tmp_path: Path
) -> None:
    async with node_with("queue", tmp_path, "write=a,b read=*") as (node, (client,)):
        ((_, answered, _),) = client.ask([7, queue_protocol.PUSH_MANY.code, channels, *RECORD])
        assert answered in ((BAD_ARGUMENT, BAD_CHANNEL) if status in (BAD_ARGUMENT, BAD_CHANNEL) else (status,))
        assert node.channels.size()[0] == (2 if status == DONE else 0)


@pytest.mark.parametrize("channel", [None, 5, b"here", ["here"], {}, "", "a b", "x" * 129, "../x"], ids=repr)
def test_what_is_no_channel_is_told_as_such(channel: object) -> None:
    node = make_dht()
    asks_for_logins(node, line(permissions="read=here write=here"))
    client = logged_in(node)
    for code, *rest in ((PUT, b"k", b"v"), (GET, b"k")):
        assert client.error(code, channel, *rest)[0] == BAD_CHANNEL


def test_an_unknown_request_is_told_as_such() -> None:
    node = make_dht()
    asks_for_logins(node, line(permissions="read=here"))
    assert logged_in(node).error(200)[0] == UNKNOWN_REQUEST


async def test_only_channels_with_any_permission_are_told(tmp_path: Path) -> None:
    permissions = [ALL, "read=a*", "write=b", "admin=c,a-1", "read=none", "read=*"]
    async with node_with("dht", tmp_path, *permissions) as (_, (owner, *clients)):
        for name in ("a-1", "a-2", "b", "c"):
            owner.result(PUT, name, b"key", b"value")
        seen = [["a-1", "a-2"], ["b"], ["a-1", "c"], [], ["a-1", "a-2", "b", "c"]]
        for client, names in zip(clients, seen, strict=True):
            assert client.result(protocol.CHANNELS.code) == names
            statistics = client.result(STATS)
            assert sorted(statistics["channel"]) == names
            assert statistics["channels"] == 4, "what is told of the node as a whole counts all"
            assert client.result(protocol.SIZE.code)[0] == 4


async def test_what_health_rules_find_names_nothing_to_who_may_not_read_all(tmp_path: Path) -> None:
    permissions = [ALL, "read=*", "read=other", "read=pay* write=* admin=*"]
    async with node_with("queue", tmp_path, *permissions) as (_, (owner, reader, *others)):
        for _ in range(60):
            owner.result(queue_protocol.PUSH.code, "payroll", b"x" * 1000)
        for client in (owner, reader):
            ((rule, text),) = client.result(protocol.HEALTH.code)
            assert rule == "queue_nearly_full"
            assert "the queue of payroll is" in text
        for client in others:
            ((rule, text),) = client.result(protocol.HEALTH.code)
            assert (rule, text) == (
                "queue_nearly_full",
                "ask with credentials that may read all channels (read=*) for details",
            )


async def test_consumers_need_to_read_and_nothing_else(tmp_path: Path) -> None:
    push, consume, acknowledge = (
        each.code for each in (queue_protocol.PUSH, queue_protocol.CONSUME, queue_protocol.ACKNOWLEDGE)
    )
    async with node_with("queue", tmp_path, "write=q", "read=q") as (_, (producer, consumer)):
        producer.result(push, "q", b"one")
        ((_, status, batch),) = consumer.ask([5, consume, "q", "", 10, 4])
        assert (status, batch[2:]) == (BATCH, [pack("<I", 3), b"one"])
        assert consumer.result(acknowledge, 5, [batch[0], 1]) == 1
        assert consumer.error(push, "q", b"two")[0] == producer.error(consume, "q", "", 1, 1)[0] == NOT_ALLOWED


def test_who_may_do_everything_has_the_nodes_own_tables() -> None:
    """So their requests cost what those of a node without credentials do."""
    node = make_dht()
    asks_for_logins(node)
    connection = logged_in(node)
    assert connection.handler._at_once is node.service.at_once
    assert connection.handler._handlers is node.service.handlers
    tables = restricted(node.service, Permissions.parse("read=* write=a"), refuse=pytest.fail)  # type: ignore[arg-type]
    assert tables.handlers[GET] is node.service.handlers[GET], "nor do requests for which nothing is missing"


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        ([], [], ["a", "", "*"]),
        (["*"], ["a", "", "-"], []),
        (["a"], ["a"], ["", "b", "ab", "A", "a*"]),
        (["a*"], ["a", "ab", "a-b"], ["", "b", "ba"]),
        (["a*", "b-*", "c"], ["a", "b-", "b-x", "c"], ["b", "cc"]),
        (["a*", "*", "b"], ["x"], []),
    ],
)
def test_sets_of_channels(patterns: list[str], inside: list[str], outside: list[str]) -> None:
    channels = ChannelSet.of(patterns)
    assert all(name in channels for name in inside)
    assert not any(name in channels for name in outside)
    assert channels.is_every == ("*" in patterns)
    assert bool(channels) == bool(patterns)
    assert ChannelSet.of(str(channels).split(",") if patterns else []) == channels == ChannelSet.of(reversed(patterns))
