"""What a client knows of its nodes: their addresses, and what their hellos have told. No I/O."""

from collections.abc import Sequence

from swarm.core.protocol import DEFAULT_LIMITS, Limits
from swarm.core.session import NodeHello


class KnownNodes:
    def __init__(self, nodes: Sequence[str]) -> None:
        """nodes: their addresses, for what is told to people."""
        self.nodes = list(nodes)
        self.several = len(self.nodes) > 1
        self.limits: Limits = DEFAULT_LIMITS
        """The narrowest of all nodes that were reached."""
        self._limits: dict[int, Limits] = {}

    @property
    def complete(self) -> bool:
        """Whether every node was reached."""
        return len(self._limits) == len(self.nodes)

    @property
    def any(self) -> bool:
        """Whether at least one node was reached."""
        return bool(self._limits)

    def learn(self, number: int, hello: NodeHello) -> None:
        """A node was reached. number: its place in the list."""
        self._limits[number] = hello.limits
        told = self._limits.values()
        self.limits = Limits(
            min(each.value_bytes for each in told),
            min(each.key_bytes for each in told),
            min(each.batch_bytes for each in told),
            min(each.batch_records for each in told),
            min(each.streams for each in told),
        )

    def in_order(self) -> list[int]:
        """The nodes that were reached."""
        return sorted(self._limits)
