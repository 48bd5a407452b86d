"""Which node a key belongs to, as far as the hellos of the nodes have told."""

import logging
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from swarm.core.errors import ProtocolError
from swarm.core.known_nodes import KnownNodes
from swarm.core.protocol import DEFAULT_LIMITS, Limits
from swarm.core.session import NodeHello
from swarm.dht.hash_range import HASH_MAX, HashRange, hash_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RingProblem:
    """Hashes that no node is responsible for, or more than one."""

    kind: str
    """gap or overlap."""
    hashes: HashRange
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} in the hash ranges: {self.hashes} ({', '.join(self.nodes) or 'no node'})"


def _range_of(hello: NodeHello) -> HashRange:
    match hello.facts.get("hash_range"):
        case [int(lowest), int(highest)] if 0 <= lowest <= highest <= HASH_MAX:
            return HashRange(lowest, highest)
    raise ProtocolError("in the node's hello hash_range is not an array of the lowest and the highest hash")


class Ring(KnownNodes):
    def __init__(self, nodes: list[str]) -> None:
        super().__init__(nodes)
        self.ranges: dict[int, HashRange] = {}
        """By the node's number; those that were reached."""
        self.part_bytes = _part_bytes(DEFAULT_LIMITS)
        """Of keys and values, that one request of a batch has at most, if it has more than one record."""
        self.only: int | None = None
        """The node that is responsible for everything, if one is: then no key needs to be hashed."""
        self._starts: list[int] = []
        self._order: list[int] = []

    def learn(self, number: int, hello: NodeHello) -> None:
        known = self.ranges.get(number)
        self.ranges[number] = _range_of(hello)
        if known not in (None, self.ranges[number]):
            log.warning("%s: its hash range has changed from %s to %s", self.nodes[number], known, self.ranges[number])
        super().learn(number, hello)
        self.part_bytes = _part_bytes(self.limits)
        self._order = sorted(self.ranges, key=lambda each: (self.ranges[each], each))
        self._starts = [self.ranges[each].lowest for each in self._order]
        self.only = number if len(self.nodes) == 1 and self.ranges[number] == HashRange() else None
        if self.complete and known != self.ranges[number]:
            for problem in self.problems():
                log.warning("%s", problem)

    def node_of(self, key: bytes) -> int | None:
        """The number of the node that is responsible for the key, None if none is known to be."""
        return self.place(hash_key(key)) if self.only is None else self.only

    def place(self, key_hash: int) -> int | None:
        """The number of the node that is responsible for the hash, None if none is known to be."""
        for position in range(bisect_right(self._starts, key_hash) - 1, -1, -1):  # the first, unless ranges overlap
            number = self._order[position]
            if key_hash <= self.ranges[number].highest:
                return number
        return None

    def in_order(self) -> list[int]:
        """The nodes that were reached, in the order of their ranges."""
        return self._order

    def problems(self) -> list[RingProblem]:
        """Gaps and overlaps between the ranges of the nodes that were reached."""
        return problems_between([(self.ranges[number], self.nodes[number]) for number in self._order])


def problems_between(ranges: Iterable[tuple[HashRange, str]]) -> list[RingProblem]:
    """Gaps and overlaps, in the order of the hashes. ranges: each with the name of its node."""
    found: list[RingProblem] = []
    covered = -1
    by = ""
    for each, name in sorted(ranges):
        if each.lowest > covered + 1:
            found.append(RingProblem("gap", HashRange(covered + 1, each.lowest - 1), ()))
        elif each.lowest <= covered:
            found.append(RingProblem("overlap", HashRange(each.lowest, min(covered, each.highest)), (by, name)))
        if each.highest > covered:
            covered, by = each.highest, name
    if covered < HASH_MAX:
        found.append(RingProblem("gap", HashRange(covered + 1, HASH_MAX), ()))
    return found


def _part_bytes(limits: Limits) -> int:
    """What a batch should have, without what msgpack adds, which is less than 8 bytes to a record."""
    return max(limits.batch_bytes - 8 * limits.batch_records, limits.batch_bytes // 2)
