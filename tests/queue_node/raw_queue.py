"""A queue node with the test as its driver, and its requests as docs/protocol.md gives them."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.raw_client import DirectConnection, frame

from nodes.queue.config import ChannelSection, NodeSection, QueueConfig, QueueSection
from nodes.queue.node import close_queues, make_node
from nodes.queue.queue_files import Files
from swarm.core.node import LimitsSection, Node

KIB = 1024
MIB = 1024 * KIB

DONE, BATCH = 0, 1
UNKNOWN_REQUEST = 16
BAD_ARGUMENT = 17
BAD_CHANNEL = 18
EMPTY_VALUE = 20
VALUE_TOO_BIG = 21
BATCH_TOO_BIG = 22
CHANNEL_REMOVED = 26
TOO_MANY_REQUESTS = 27
TOO_MANY_CHANNELS = 28
DISK_FULL = 29
QUEUE_FULL = 30
HAS_SUBSCRIBERS = 31

CREDIT, STOP = 2, 3
STATS, CHANNELS, CHANNEL_SIZE, SIZE, REMOVE_CHANNEL = range(4, 9)
HEALTH = 10
PUSH, PUSH_MANY, POP, POP_MANY, WAIT_POP, CONSUME, ACKNOWLEDGE, QUEUES, DROP_SUBSCRIBER = range(32, 41)

RING_BYTES = 64 * KIB


def pack(*records: bytes) -> tuple[bytes, bytes]:
    return struct.pack(f"<{len(records)}I", *map(len, records)), b"".join(records)


def unpack(lengths: bytes, data: bytes) -> list[bytes]:
    records = []
    for (length,) in struct.iter_unpack("<I", lengths):
        records.append(data[:length])
        assert len(records[-1]) == length
        data = data[length:]
    assert not data
    return records


def make_config(
    directory: Path,
    *,
    channel: dict[str, ChannelSection] | None = None,
    limits: LimitsSection | None = None,
    **queue: Any,
) -> QueueConfig:
    """queue: of the [queue] section; rings are as small as they may be."""
    return QueueConfig(
        node=NodeSection(data=directory),
        queue=QueueSection(**{"ring_bytes": RING_BYTES, "fsync": "never"} | queue),
        channel=channel or {},
        limits=limits or LimitsSection(),
    )


@contextmanager
def open_node(directory: Path, *, files: Files | None = None, **options: Any) -> Iterator[Node]:
    """A real queue node without sockets, and without a loop; options: of make_config. What it holds stays."""
    node = make_node(make_config(directory, **options), files=files)
    try:
        yield node
    finally:
        close_queues(node)


class QueueConnection(DirectConnection):
    """A connection whose driver ends the pass with each message that the client sends."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.service)

    def push(self, channel: str, *records: bytes) -> None:
        if len(records) == 1:
            assert self.result(PUSH, channel, records[0]) is None
        else:
            assert self.result(PUSH_MANY, [channel], *pack(*records)) is None

    def pop(self, channel: str, records: int = 4096) -> list[bytes]:
        return unpack(*self.result(POP_MANY, channel, records))

    def consume(self, request_id: int, channel: str, subscriber: str, records: int = 100, credit: int = 64) -> None:
        """Begins; the batches come with `batches`."""
        self.give(frame([request_id, CONSUME, channel, subscriber, records, credit]))

    def batches(self, request_id: int) -> list[tuple[int, bool, list[bytes]]]:
        """What has come of a consume, and nothing else may have: first number, whether again, records."""
        found = []
        for message in self.take():
            assert message[:2] == [request_id, BATCH], message
            sequence, redelivered, lengths, data = message[2]
            found.append((sequence, redelivered, unpack(lengths, data)))
        return found

    def records(self, request_id: int) -> list[bytes]:
        return [record for _, _, records in self.batches(request_id) for record in records]

    def acknowledge(self, stream: int, *ranges: int) -> int:
        return int(self.result(ACKNOWLEDGE, stream, list(ranges)))

    def queues(self, channel: str) -> list[dict[str, Any]]:
        names = ("subscriber", "records", "bytes", "fullness", "unacknowledged", "consumers", "dropped", "damaged")
        return [dict(zip(names, row, strict=True)) for row in self.result(QUEUES, channel)]
