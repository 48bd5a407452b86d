"""A client and a node that talk over memory: every byte of the protocol, and no socket."""

import trio
import trio.testing

from swarm.core.request_handler import Service
from swarm.core.stream_driver import serve_stream

Ends = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


class MemoryTransport:
    """The client's end of a memory stream, as the clients for trio want it (swarm.core.transports.Transport).

    What is sent is at the other end at once and without bound: a peer that does not read is not modelled.
    """

    def __init__(self, ours: Ends, their_input: trio.testing.MemoryReceiveStream) -> None:
        self._ours = ours
        self._their_input = their_input

    def send_now(self, data: bytes) -> int:
        try:
            self._their_input.put_data(data)
        except trio.ClosedResourceError as error:
            raise BrokenPipeError("the node has closed the connection") from error
        return len(data)

    async def send_all(self, data: bytes | memoryview) -> None:
        try:
            await self._ours.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokenPipeError("the connection is closed") from error

    async def receive(self, into: memoryview) -> int:
        try:
            data = await self._ours.receive_some(len(into))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError("the connection is closed") from error
        into[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._ours.send_stream.close()
        self._ours.receive_stream.close()


def connect_in_memory(service: Service, nursery: trio.Nursery) -> MemoryTransport:
    """Connects to a node that runs in this trio.run; a task in the nursery serves the connection.

    service: that of the node, `node.service`; Node.run must be running (it needs no listening sockets).
    """
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(serve_stream, service, theirs)
    return MemoryTransport(ours, theirs.receive_stream)
