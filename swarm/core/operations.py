"""What the clients of every kind of node do: the requests that all nodes answer. No I/O.

An operation is a generator. It yields what it wants done (a Call, a list of Calls to carry out side by side, or
WAIT_FOR_NODES), is sent the results, and returns its own. The asynchronous and the blocking client differ only in
how they carry out these steps.
"""

from functools import lru_cache
from typing import Any

from swarm.core import protocol
from swarm.core.client_session import WAIT_FOR_NODES, Call, Steps
from swarm.core.errors import SwarmError
from swarm.core.known_nodes import KnownNodes
from swarm.core.protocol import Request

_check_name = lru_cache(maxsize=1024)(protocol.check_channel)


def check_channel(name: object) -> None:
    """BadChannel unless it is the name of a channel; names are remembered."""
    if type(name) is str:
        _check_name(name)
    else:
        protocol.check_channel(name)


def all_nodes(known: KnownNodes) -> Steps[list[int]]:
    """Their numbers, when every node was reached."""
    while not known.complete:
        yield WAIT_FOR_NODES
    return list(known.in_order())


def ask_all(known: KnownNodes, request: Request, *arguments: Any) -> Steps[list[Any]]:
    """The answers of all nodes, in their order."""
    nodes = yield from all_nodes(known)
    answers = yield [Call(node, request, arguments) for node in nodes]
    raise_first(answers)
    return answers  # type: ignore[no-any-return]


def raise_first(results: list[Any]) -> None:
    """Results of Calls side by side: raises the first error among them."""
    for result in results:
        if isinstance(result, SwarmError):
            raise result


def channels(known: KnownNodes) -> Steps[list[str]]:
    answers = yield from ask_all(known, protocol.CHANNELS)
    return sorted(set().union(*answers))


def channel_size(known: KnownNodes, channel: str) -> Steps[tuple[int, int]]:
    check_channel(channel)
    answers = yield from ask_all(known, protocol.CHANNEL_SIZE, channel)
    return sum(records for records, _ in answers), sum(size for _, size in answers)


def size(known: KnownNodes) -> Steps[tuple[int, int]]:
    answers = yield from ask_all(known, protocol.SIZE)
    return sum(records for _, records, _ in answers), sum(size for _, _, size in answers)


def remove_channel(known: KnownNodes, channel: str) -> Steps[bool]:
    check_channel(channel)
    return any((yield from ask_all(known, protocol.REMOVE_CHANNEL, channel)))


def node_statistics(known: KnownNodes) -> Steps[dict[str, dict[str, Any]]]:
    answers = yield from ask_all(known, protocol.STATS)
    return {known.nodes[node]: answer for node, answer in zip(known.in_order(), answers, strict=True)}


def node_health(known: KnownNodes) -> Steps[dict[str, list[tuple[str, str]]]]:
    answers = yield from ask_all(known, protocol.HEALTH)
    return {known.nodes[node]: list(map(tuple, each)) for node, each in zip(known.in_order(), answers, strict=True)}


def node_events(known: KnownNodes) -> Steps[dict[str, list[tuple[float, str, str]]]]:
    answers = yield from ask_all(known, protocol.EVENTS)
    return {known.nodes[node]: list(map(tuple, each)) for node, each in zip(known.in_order(), answers, strict=True)}


def ping(known: KnownNodes) -> Steps[None]:
    yield from ask_all(known, protocol.PING)
