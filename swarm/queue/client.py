"""The queue client for programs under trio and under asyncio."""

import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio

import swarm.queue.operations as operations
import swarm.queue.protocol as protocol
from swarm.core.async_client import AsyncClient
from swarm.core.credentials import CredentialsOption
from swarm.core.limits import CLIENT_STREAM_CREDIT
from swarm.core.nodes_file import node_addresses
from swarm.core.transports import connect_socket
from swarm.queue.consume import Consumer
from swarm.queue.deliveries import CONSUME_BATCH_RECORDS, Consuming
from swarm.queue.operations import Channels, Queue, QueueNodes
from swarm.queue.produce import Producer
from swarm.queue.protocol import OWN_QUEUE

CLOSE_S = 1.0  # so long at most closing the client takes where a pop was cancelled, to give back what still comes of it


class QueueClient(AsyncClient):
    """Pushes records into queues that are spread over some nodes, and takes them out.

        async with QueueClient(["127.0.0.1:10011", "127.0.0.1:10012"]) as queue:
            await queue.push("channel", b"record")
            await queue.pop("channel", wait=2.0)

    Works under trio and under asyncio. May be used by many tasks at once, and is fastest when it is: what they ask
    for at the same moment leaves in one send. It connects in the background and reconnects for ever.

    Records are bytes, not empty. A channel at one node is strictly first in, first out; pushes go to one node after
    the other, so between nodes there is no order.

    Every method may raise (all are SwarmError, which tells whose fault it is and whether to try again):
        BadChannel, EmptyValue, ValueTooBig, BadArgument: the call is wrong; nothing was sent.
        NodeUnreachable: not connected within the timeout; nothing was sent.
        ConnectionLost, RequestTimeout: it may or may not have been carried out. Only requests that may be repeated
            safely are, until the timeout; pushes and pops are not.
    Those that push may also raise QueueFull, OutOfMemory, DiskFull and TooManyChannels: no node could take it.
    Those that pop may also raise HasSubscribers: the channel's records are consumed, and cannot be popped.
    """

    kind = protocol.KIND

    def __init__(
        self,
        nodes: str | Sequence[str] | None = None,
        *,
        nodes_file: str | Path | None = None,
        timeout: float = 5.0,
        compression: bool = False,
        credentials: CredentialsOption = None,
        tls: ssl.SSLContext | None = None,
        connect: Any = connect_socket,
    ) -> None:
        """nodes: addresses host:port, of all nodes; or nodes_file: a file with one a line, # begins a comment.
        timeout: seconds for each request, connecting included.
        compression: lz4 both ways; worth it over a network, not on one machine.
        credentials: for nodes that ask for them: name and key, or the path of a file with the line `name:hex key`.
        tls: for nodes that speak TLS; swarm.core.tls.client_context makes one. Not used for Unix sockets.
        connect: how an address is connected to; for tests.
        """
        addresses = node_addresses(nodes, nodes_file)
        self._queues = QueueNodes([str(address) for address in addresses])
        super().__init__(
            addresses,
            self._queues,
            timeout=timeout,
            compression=compression,
            credentials=credentials,
            tls=tls,
            connect=connect,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._give_back()
        finally:
            await super().__aexit__(kind, error, traceback)
        return None

    async def _give_back(self) -> None:
        """What was popped and is not wanted any more goes back to its node."""
        for connection in self._connections:
            for answer in connection.late_answers():
                await answer.wait()
        if self._queues.kept:
            await self._run(operations.give_back(self._queues))

    async def push(self, channel: Channels, record: bytes) -> None:
        """Adds a record to a channel; or to several (a list of names), to all of them at one node, or to none.

        Nodes take turns. Where one is not connected, or cannot take it, the next one is tried; the error is the last
        one's, and names all. A push whose connection broke is not repeated, since it may have been stored: that
        raises ConnectionLost.
        """
        await self._run(operations.push(self._queues, channel, record))

    async def push_many(self, channel: Channels, records: Iterable[bytes]) -> None:
        """Adds many records, in their order and, as far as it can take them, at one node.

        What is wrong with one of them is raised before anything is sent. Otherwise they leave in parts of some MiB at
        most, each when the one before was stored: an error's details["stored"] tells how many of the first were, and
        of the others none; but of a part that ends with ConnectionLost or RequestTimeout (4,096 records at most, 1 MiB
        if it is more than one) that is not known.
        """
        await self._run(operations.push_many(self._queues, channel, records))

    def produce(self, channel: Channels) -> Producer:
        """Pushes records one by one at the speed of batches, with flow control.

            async with queue.produce("channel") as producer:
                for record in …:
                    await producer.push(record)

        push() returns when the record has its place among those that leave together: while one batch is on its way
        the next is collected, and when that is full push() waits. Nodes take turns with the batches, as with pushes.
        Where all are full the batch is pushed again and again, until the timeout.
        `await producer.flush()`, and leaving the block, return when every record is stored.

        Errors are raised by the next push() or flush(), or by leaving the block; details["stored"] tells how many of
        the first records were stored. Of the others none was, but of the batch (1 MiB or 4,096 records at most) that
        was on its way when the connection broke.
        """
        return Producer(self, self._queues, channel)

    async def pop(self, channel: str, *, wait: float = 0.0) -> bytes | None:
        """Takes the oldest record out, None if there is none. wait: seconds to wait for one.

        Of several nodes, one after the other is asked, beginning with another each time; where none has a record, all
        of them together. What a cancelled pop was given after all the next one gives. A record that was on its way
        when the connection broke is lost, and so are the records of a program that dies: if that must not be, consume.
        64 pops of one client can wait at a time, one more raises TooManyRequests.
        """
        return await self._run(operations.pop(self._queues, channel, wait))

    async def pop_many(self, channel: str, records: int, *, wait: float = 0.0) -> list[bytes]:
        """Takes the oldest records out, as many as there are, at most `records`. wait: seconds to wait for the first.
        Otherwise as pop."""
        return await self._run(operations.pop_many(self._queues, channel, records, wait))

    def consume(
        self,
        channel: str,
        *,
        subscriber: str = OWN_QUEUE,
        manual: bool = False,
        batch_records: int = CONSUME_BATCH_RECORDS,
        credit: int = CLIENT_STREAM_CREDIT,
    ) -> Consumer:
        """The records of a channel, from all nodes, for ever; none is lost before the program is done with it.

            async with queue.consume("channel", subscriber="billing") as records:
                async for record in records:
                    print(record.value)

        Each subscriber is given all records, consumers of one subscriber share them; the first that a channel has takes
        over what is in it. Without a subscriber it is the channel's own queue that is consumed, which pops take from
        too. From entering the block on the subscriber exists at every node that can be reached.

        A record is done when the next one is asked for: then the node is told, when the event loop runs next. With
        `manual`, when `await records.acknowledge(record, …)` was called, in any order. What was not done when the block
        is left, or the program dies, is given again, first of all and with `redelivered` true; so is, after a
        connection broke or a node was restarted, what it had given and not heard of. It goes on by itself when a node
        was away.

        batch_records, credit: of each node, so many records (1 to 4,096) come at a time, and so many batches (1 to 64)
        may have come that were not asked for yet.

        Entering it raises NodeUnreachable if no node is reached within the timeout. Iterating raises ChannelRemoved
        when the channel is removed or the subscriber dropped, and HasSubscribers without one where there are some.
        """
        return Consumer(self, Consuming(self._queues, channel, subscriber, batch_records, credit), manual)

    async def queues(self, channel: str) -> list[Queue]:
        """The queues of a channel at each node: that of each subscriber, or the channel's own if there is none."""
        return await self._run(operations.queues(self._queues, channel))

    async def drop_subscriber(self, channel: str, subscriber: str) -> bool:
        """Removes a subscriber and its queue with all that is in it, on every node; whether any had it."""
        return await self._run(operations.drop_subscriber(self._queues, channel, subscriber))
