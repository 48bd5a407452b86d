"""An interrupt (Ctrl-C) at the worst moment of a blocking stream."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from swarm.blocking import DhtClient
from swarm.core.blocking_client import BlockingStream
from swarm.core.client_session import Call
from swarm.core.errors import SwarmError
from swarm.core.protocol import BATCH
from swarm.dht import protocol
from swarm.testing import DhtProcess


class InterruptOnce:
    """Raises KeyboardInterrupt where a line begins at which a condition holds of the local names of a function."""

    def __init__(self, function: str, condition: Callable[[dict[str, Any]], bool]) -> None:
        self._function = function
        self._condition = condition
        self.done = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._at_line if frame.f_code.co_name == self._function else self

    def _at_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if not self.done and event == "line" and self._condition(frame.f_locals):
            self.done = True
            raise KeyboardInterrupt
        return self._at_line


def read_all(stream: BlockingStream) -> None:
    while stream.next() is not None:
        pass


def test_batches_are_not_missing_when_their_handing_out_was_interrupted(tmp_path: Path) -> None:
    """Whoever goes on is told that the connection broke."""
    with DhtProcess(tmp_path) as node, DhtClient([node.address]) as dht:
        dht.put_many("a", {b"%d" % number: bytes(1000) for number in range(3000)})
        stream = BlockingStream(dht, Call(0, protocol.GET_ALL, ("a", b"", b"", b"", 4)))
        stream.open()
        interrupt = InterruptOnce("_take", lambda names: names.get("status") == BATCH)
        sys.settrace(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                read_all(stream)
        finally:
            sys.settrace(None)
        assert interrupt.done
        with pytest.raises(SwarmError, match="connection"):
            read_all(stream)
        assert len(dict(dht.get_all("a"))) == 3000
