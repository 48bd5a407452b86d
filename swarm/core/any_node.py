"""Requests that any node can carry out: nodes take turns, and where one cannot, the next is tried. No I/O.

A large batch is sent in parts, one after the other, so that what was stored when one fails is always the first of it.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from swarm.core.client_session import WAIT_FOR_NODES, Call, Steps
from swarm.core.errors import (
    BatchTooBig,
    DiskFull,
    EmptyValue,
    NodeUnreachable,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    SwarmError,
    TooManyChannels,
    ValueTooBig,
)
from swarm.core.known_nodes import KnownNodes
from swarm.core.operations import raise_first
from swarm.core.protocol import Limits

_ELSEWHERE = (NodeUnreachable, QueueFull, OutOfMemory, DiskFull, ShuttingDown, TooManyChannels)
"""Why a node did not take what another one may take."""


class Turns:
    """The numbers of all nodes, in the order in which they are tried; another one is the first each time."""

    def __init__(self, nodes: int) -> None:
        self._orders = [[(first + each) % nodes for each in range(nodes)] for first in range(nodes)]
        self._last = -1

    def next(self) -> list[int]:
        self._last = (self._last + 1) % len(self._orders)
        return self._orders[self._last]


def to_one_node(turn: list[int], call: Call, *, of_many: bool = False) -> Steps[list[int]]:
    """Sends a request to the first node, to the next where one cannot take it; all nodes, the one that did first.

    of_many: it is one of many parts, and has a timeout of its own.
    """
    while True:
        refusals: list[SwarmError] = []
        for position, node in enumerate(turn):
            try:
                to_node = call._replace(node=node)
                if of_many:
                    raise_first((yield [to_node]))
                else:
                    yield to_node
            except _ELSEWHERE as error:
                refusals.append(error)
            else:
                return turn[position:] + turn[:position]
        if not all(type(refusal) is NodeUnreachable for refusal in refusals):
            raise _refused(refusals)
        if not call.at_once:
            raise refusals[0]
        yield WAIT_FOR_NODES


def _refused(refusals: list[SwarmError]) -> SwarmError:
    """No node has taken it: the last reason of one that was reached, with those of all nodes."""
    last = [refusal for refusal in refusals if type(refusal) is not NodeUnreachable][-1]
    if len(refusals) == 1:
        return last
    error = type(last)("; ".join(f"{each.node}: {each.text}" for each in refusals), dict(last.details))
    error.request = last.request
    return error


def store_in_parts(
    known: KnownNodes,
    turn: list[int],
    sizes: list[int],
    overhead_bytes: int,
    bytes_max: int,
    call_of: Callable[[int, int], Call],
    smaller: Callable[[int, int], int] | None = None,
) -> Steps[None]:
    """Stores many records, each part when the one before was stored. An error's details["stored"] tells how many were.

    sizes, overhead_bytes, bytes_max: as for Parts. call_of: what stores the records from one number up to another.
    smaller: where a node has no place that is large enough for a part, is given what it has place for and the bytes_max
    that was; the bytes_max from now on. A part that is too big for other reasons, such as records of very many buckets,
    is sent in halves.
    """
    stored, count = 0, len(sizes)
    try:
        if not known.any:
            yield WAIT_FOR_NODES
            check_sizes(sizes, known.limits)  # with what the node's hello has told
        parts = Parts(sizes, overhead_bytes, known.limits.batch_records, bytes_max)
        while stored < count:
            stop = parts.end(stored)
            try:
                turn = yield from to_one_node(turn, call_of(stored, stop), of_many=stop - stored < count)
                stored = stop
            except ValueTooBig as error:
                if smaller is None or stop - stored == 1 or "limit" not in error.details:
                    raise
                parts.bytes_max = smaller(error.details["limit"], parts.bytes_max)
            except BatchTooBig:
                if stop - stored == 1:
                    raise
                parts.records_max = (stop - stored) // 2
    except SwarmError as error:
        error.details["stored"] = stored
        if stored:
            error.text += f"; the first {stored} of {count} records were stored"
        raise


class Parts:
    """Records cut into parts that one request takes."""

    def __init__(self, sizes: list[int], overhead_bytes: int, records_max: int, bytes_max: int) -> None:
        """sizes: of the records, each of which takes overhead_bytes more."""
        self.bytes_max = bytes_max
        """Of a part that has more than one record."""
        self._sizes = sizes
        self._overhead_bytes = overhead_bytes
        self.records_max = records_max
        self._ends: list[int] = []

    def end(self, start: int) -> int:
        """Where the part ends that begins there."""
        count = len(self._sizes)
        if not self._ends:
            if count <= self.records_max and sum(self._sizes) + self._overhead_bytes * count <= self.bytes_max:
                return count
            self._ends = list(accumulate(size + self._overhead_bytes for size in self._sizes))
        taken = self._ends[start - 1] if start else 0
        stop = bisect_right(self._ends, taken + self.bytes_max, start, min(start + self.records_max, count))
        return max(stop, start + 1)


def check_sizes(sizes: list[int], node_limits: Limits) -> None:
    """EmptyValue, ValueTooBig for the first record whose size is not right."""
    if not all(sizes):
        raise EmptyValue(f"empty value: record {sizes.index(0)} of {len(sizes)}; a record has at least 1 byte")
    if sum(sizes) > node_limits.value_bytes and max(sizes) > node_limits.value_bytes:
        raise ValueTooBig(
            f"value too big: record {sizes.index(max(sizes))} of {len(sizes)} has {max(sizes)} bytes, "
            f"the nodes accept {node_limits.value_bytes}",
            {"limit": node_limits.value_bytes},
        )
