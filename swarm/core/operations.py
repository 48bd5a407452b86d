"""What the clients of every kind of node do: the requests that all nodes answer. No I/O.

An operation is a generator. It yields what it wants done (a Call, a list of Calls to carry out side by side, or
WAIT_FOR_NODES), is sent the results, and returns its own. The asynchronous and the blocking client differ only in
how they carry out these steps.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from swarm.core import protocol
from swarm.core.client_session import WAIT_FOR_NODES, Call, Steps
from swarm.core.errors import ProtocolError, SwarmError
from swarm.core.known_nodes import KnownNodes
from swarm.core.protocol import Request, brief

Entry = TypeVar("Entry")

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
    return (yield from _ask_all_for_lists(known, protocol.HEALTH, _finding))


def node_events(known: KnownNodes) -> Steps[dict[str, list[tuple[float, str, str]]]]:
    return (yield from _ask_all_for_lists(known, protocol.EVENTS, _event))


def _ask_all_for_lists(
    known: KnownNodes, request: Request, read: Callable[[object], Entry | None]
) -> Steps[dict[str, list[Entry]]]:
    """The answers of all nodes, by their addresses. ProtocolError, which names the node, where `read` finds an entry to
    be none: what a node says is not believed."""
    answers = yield from ask_all(known, request)
    told: dict[str, list[Entry]] = {}
    for node, answer in zip(known.in_order(), answers, strict=True):
        entries = [read(each) for each in answer] if isinstance(answer, list | tuple) else [None]
        told[known.nodes[node]] = [entry for entry in entries if entry is not None]
        if None in entries:
            error = ProtocolError(f"the node's answer has another form than it must have: {brief(answer)}")
            error.node, error.request = known.nodes[node], request.name
            raise error
    return told


def _finding(said: object) -> tuple[str, str] | None:
    match said:
        case [str(rule), str(text)]:
            return rule, text
    return None


def _event(said: object) -> tuple[float, str, str] | None:
    match said:
        case [int(at_s) | float(at_s), str(level), str(text)]:
            return float(at_s), level, text
    return None


def ping(known: KnownNodes) -> Steps[None]:
    yield from ask_all(known, protocol.PING)
