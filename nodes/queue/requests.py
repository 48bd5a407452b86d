"""What the queue node answers to each of its requests. docs/protocol.md §5.

The usual case is tested in line; the definitions in swarm.queue.protocol then say what is wrong with the others.

A push makes room in every queue that it goes to before it changes one: so it is stored in all of them, or in none.
"""

from collections.abc import Sequence
from typing import Any

from nodes.queue.channel import Lines, QueueChannel, has_subscribers
from nodes.queue.consumers import Consumer, Consumers
from nodes.queue.served_queue import Changes, ServedQueue
from nodes.queue.waiting_pops import NOTHING, WaitingPop, WaitingPops
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.errors import QueueFull, SwarmError
from swarm.core.limits import BATCH_RECORDS_MAX, POP_BYTES_MAX
from swarm.core.protocol import DONE
from swarm.core.request_handler import Service
from swarm.core.storage_channels import StorageChannels
from swarm.queue import protocol
from swarm.queue.batch import pack_length
from swarm.queue.protocol import OWN_QUEUE, records_count


class QueueRequests:
    def __init__(
        self, service: Service, channels: StorageChannels[QueueChannel], lines: Lines, changes: Changes
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._value_bytes = service.limits.value_bytes
        self._channels = channels
        self._engine = channels.get
        self._lines = lines
        self._changed = changes.queues
        self._consumers = Consumers(service)
        self._pops = WaitingPops(service)
        service.background.append(self._pops.expire)
        service.more_statistics += [self._consumers.statistics, self._pops.statistics]
        service.handle(protocol.PUSH, self._push)
        service.handle(protocol.PUSH_MANY, self._push_many, "batch")
        service.handle(protocol.POP, self._pop)
        service.handle(protocol.POP_MANY, self._pop_many, "batch")
        service.handle(protocol.WAIT_POP, self._wait_pop, "direct")
        service.handle(protocol.CONSUME, self._consume, "direct")
        service.handle(protocol.ACKNOWLEDGE, self._acknowledge, "batch")
        service.handle(protocol.QUEUES, self._queues, "batch")
        service.handle(protocol.DROP_SUBSCRIBER, self._drop_subscriber, "batch")

    # Pushes.

    def _push(self, channel: Any, record: Any) -> None:
        try:
            if type(record) is not bytes or not 0 < len(record) <= self._value_bytes:
                raise TypeError
            engine = self._engine(channel)
            if engine is None or (queue := engine.only) is None:
                raise TypeError
        except TypeError:
            protocol.PUSH.check((channel, record), self._limits)
            self._push_to([channel], 1, pack_length(len(record)), record)
            return
        try:
            queue.storage.push_one(record)
        except QueueFull as error:
            raise _of_queue(error, queue) from None
        if not queue.changed:
            queue.changed = True
            self._changed.append(queue)

    def _push_many(self, _: ConnectionHandler, channels: Any, lengths: Any, data: Any) -> None:
        protocol.PUSH_MANY.check((channels, lengths, data), self._limits)
        count = records_count(lengths, data, self._limits)
        self._push_to(channels, count, lengths, data)

    def _push_to(self, channels: Sequence[str], count: int, lengths: bytes, data: bytes) -> None:
        """All of it to all of them, or nothing. What may refuse it comes before what drops records for it."""
        there = [queue for name in channels if (engine := self._engine(name)) for queue in engine.queues.values()]
        firm = [queue for queue in there if not queue.storage.drops]
        dropping = [queue for queue in there if queue.storage.drops]
        dropping.sort(key=_capacity)  # too big is it for the smallest
        made: list[QueueChannel] = []
        try:
            _make_room(firm, count, len(data))
            for name in channels:
                if name not in self._channels:
                    with self._channels.create(name) as engine:
                        engine.begin()
                    made.append(engine)
                    new = list(engine.queues.values())
                    _make_room(new, count, len(data))
                    firm += new
            _make_room(dropping, count, len(data))
        except SwarmError:
            for engine in made:
                engine.undo()
                self._channels.remove(engine.name, self._service.in_steps)
            raise
        for queue in firm + dropping:
            queue.storage.push(count, lengths, data)
            queue.note_change()

    # Pops.

    def _pop(self, channel: Any) -> bytes | None:
        try:
            engine = self._engine(channel)
            if engine is None:
                raise TypeError
        except TypeError:
            protocol.POP.check((channel,), self._limits)
            return None
        queue = engine.own
        if queue is None:
            raise has_subscribers(channel)
        if queue.line.ready:
            queue.hand_out()
        record = queue.storage.pop_one()
        if record is not None and not queue.changed:
            queue.changed = True
            self._changed.append(queue)
        return record

    def _pop_many(self, _: ConnectionHandler, channel: Any, records: Any) -> tuple[bytes, bytes]:
        engine = self._engine(channel) if type(channel) is str else None
        if engine is None or type(records) is not int or not 0 < records <= BATCH_RECORDS_MAX:
            protocol.POP_MANY.check((channel, records), self._limits)
            return NOTHING
        return self._pop_some(engine, records)

    def _pop_some(self, engine: QueueChannel, records: int) -> tuple[bytes, bytes]:
        queue = engine.own
        if queue is None:
            raise has_subscribers(engine.name)
        if queue.line.ready:
            queue.hand_out()
        popped = queue.storage.pop(records, POP_BYTES_MAX)
        if popped[0]:
            queue.note_change()
        return popped

    def _wait_pop(
        self, connection: ConnectionHandler, request_id: int, channel: str, records: int, wait_ms: int
    ) -> WaitingPop | None:
        engine = self._engine(channel)
        popped = NOTHING if engine is None else self._pop_some(engine, records)
        if popped[0]:
            send = connection.hold_reply if self._service.holds_writes else connection.send_reply
            send(request_id, DONE, popped, len(popped[0]) + len(popped[1]))
            return None
        if wait_ms == 0:
            connection.send_reply(request_id, DONE, NOTHING)
            return None
        line = self._lines.line(channel) if engine is None or engine.own is None else engine.own.line
        return self._pops.add(line, connection, request_id, records, wait_ms / 1000)

    # Consumers and subscribers.

    def _consume(
        self, connection: ConnectionHandler, request_id: int, channel: str, subscriber: str, records: int, credit: int
    ) -> Consumer:
        self._consumers.check_room()
        engine = self._engine(channel)
        if subscriber != OWN_QUEUE:
            if engine is None:
                with self._channels.create(channel) as engine:
                    line = engine.subscribe(subscriber).line
            else:
                line = engine.subscribe(subscriber).line
        elif engine is None:
            line = self._lines.line(channel)
        elif engine.own is not None:
            line = engine.own.line
        else:
            raise has_subscribers(channel)
        return self._consumers.add(line, connection, request_id, records, credit)

    def _acknowledge(self, connection: ConnectionHandler, stream: Any, ranges: Any) -> int:
        protocol.ACKNOWLEDGE.check((stream, ranges), self._limits)
        consumer = connection.running(stream)
        return consumer.acknowledge(ranges) if isinstance(consumer, Consumer) else 0

    def _drop_subscriber(self, _: ConnectionHandler, channel: Any, subscriber: Any) -> bool:
        protocol.DROP_SUBSCRIBER.check((channel, subscriber), self._limits)
        engine = self._engine(channel)
        if engine is None or subscriber not in engine.queues:
            return False
        if len(engine.queues) == 1:
            self._channels.remove(channel, self._service.in_steps)
        else:
            self._service.in_steps(engine.drop(subscriber))
        return True

    def _queues(self, _: ConnectionHandler, channel: Any) -> list[tuple[str | int | float, ...]]:
        protocol.QUEUES.check((channel,), self._limits)
        engine = self._engine(channel)
        if engine is None:
            return []
        return [(name, *queue.figures().values()) for name, queue in sorted(engine.queues.items())]


def _capacity(queue: ServedQueue) -> int:
    return queue.storage.capacity


def _make_room(queues: Sequence[ServedQueue], count: int, data_bytes: int) -> None:
    for queue in queues:
        try:
            queue.storage.make_room(count, data_bytes)
        except QueueFull as error:
            raise _of_queue(error, queue) from None


def _of_queue(error: QueueFull, queue: ServedQueue) -> QueueFull:
    error.details |= {"channel": queue.channel, "subscriber": queue.subscriber}
    return error
