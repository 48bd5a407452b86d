"""Programs that use a queue node with all their might, each a process, and note what they do and are told.

All notes go into one pipe, each in one write that the kernel does not divide: a note is there or not, whenever its
program is killed, and the notes of all programs have one order, in which a cause stands before what came of it. A note
is a JSON array in a line of its own; queue_account.py says what must be true of them.

    send PRODUCER FIRST COUNT CHANNELS     a request is about to be sent, with the records of these numbers
    stored PRODUCER FIRST COUNT            these were acknowledged
    refused PRODUCER FIRST COUNT           these were certainly not stored
    got PROGRAM REDELIVERED RECORDS        a consumer was given [sequence, producer, number] each
    confirmed PROGRAM SEQUENCES            the node has answered that these are acknowledged
    idle PROGRAM                           nothing has come to a consumer for a while, or it has no stream
    asked PROGRAM COUNT                    a pop is about to be sent
    popped PROGRAM RECORDS                 [producer, number] each: some of what came
    answered PROGRAM                       that was all of it
    failed PROGRAM                         nobody knows what has become of the pop
    wrong PROGRAM TEXT                     what may never be

Each runs until it is killed: python queue_programs.py ADDRESS SEED PROGRAM ROLE CHANNEL SUBSCRIBER, with the pipe as
its standard output.
"""

import json
import os
import random
import struct
import sys
from collections.abc import Sequence
from hashlib import shake_128
from select import PIPE_BUF
from typing import Any

from swarm.blocking import QueueClient
from swarm.core.errors import ConnectionLost, DiskFull, NodeUnreachable, OutOfMemory, QueueFull, RequestTimeout
from swarm.queue import Record

CHANNELS = ("events", "mail", "jobs")
SUBSCRIBERS = {"events": ("audit", "billing"), "mail": ("",)}
"""Of the channels that are consumed; jobs are popped."""

PATIENCE_S = 60.0  # so long a program waits for its node to be there again
CONSUMER_PATIENCE_S = 1.0  # the same of a consumer: so it is soon known that it has nothing more of a dead node's
IDLE_S = 0.05
PUSH_MANY_MAX = 300
POP_MANY_MAX = 50
HELD_MAX = 400  # records that a consumer is at: in one acknowledgement no more than one request takes
NOTED_MAX = 100  # records in one note
RECORD_BYTES_MAX = 2000
LARGE_RECORD_BYTES = 50_000
BROKE = (ConnectionLost, NodeUnreachable)
_NAME = struct.Struct("<HI")

Names = list[tuple[int, int]]


def record(seed: int, producer: int, number: int) -> bytes:
    """Nobody has to remember what was in a record that has this name."""
    name = _NAME.pack(producer, number)
    (chance,) = struct.unpack("<I", shake_128(b"%d" % seed + name).digest(4))
    size = LARGE_RECORD_BYTES if chance % 500 == 0 else chance % RECORD_BYTES_MAX
    return name + shake_128(name).digest(size)


def name_of(seed: int, value: bytes) -> tuple[int, int]:
    """Its producer and number. ValueError if it is not, byte for byte, what they have sent."""
    producer, number = _NAME.unpack_from(value.ljust(_NAME.size))
    if value != record(seed, producer, number):
        raise ValueError(f"nobody has sent {len(value)} bytes {value[:20]!r} …")
    return producer, number


class Program:
    def __init__(self, client: QueueClient, seed: int, number: int) -> None:
        self.client = client
        self.seed = seed
        self.number = number
        self.chance = random.Random(f"{seed} {number}")

    def note(self, what: str, *more: Any) -> None:
        line = json.dumps([what, self.number, *more], separators=(",", ":")).encode() + b"\n"
        assert len(line) <= PIPE_BUF
        os.write(sys.stdout.fileno(), line)

    def names(self, values: Sequence[bytes]) -> Names:
        return [name_of(self.seed, value) for value in values]


class Producing(Program):
    def run(self) -> None:
        first, wait_for_room = 0, False
        while True:
            channels = self.chance.sample(CHANNELS, self.chance.choice([1, 1, 2, 3]))
            how = "produce" if wait_for_room else self.chance.choice(["push", "push many", "produce"])
            count = self.chance.randint(1, PUSH_MANY_MAX) if how != "push" else 1
            records = [record(self.seed, self.number, number) for number in range(first, first + count)]
            self.note("send", first, count, channels)
            wait_for_room = False
            try:
                self._send(how, channels, records)
                self.note("stored", first, count)
            except (QueueFull, OutOfMemory, DiskFull) as error:
                stored = error.details.get("stored", 0)
                self.note("stored", first, stored)
                self.note("refused", first + stored, count - stored)
                wait_for_room = True
            except BROKE as error:
                self.note("stored", first, error.details.get("stored", 0))
            first += count

    def _send(self, how: str, channels: list[str], records: list[bytes]) -> None:
        if how == "push":
            self.client.push(channels[0] if len(channels) == 1 else channels, *records)
        elif how == "push many":
            self.client.push_many(channels, records)
        else:
            with self.client.produce(channels) as producer:
                for each in records:
                    producer.push(each)


class Consuming(Program):
    """As long as it runs it begins anew now and then, and so gives back what it holds."""

    def run(self, channel: str, subscriber: str) -> None:
        ways = [self._one_by_one, self._in_batches, self._by_hand, self._by_hand]
        while True:
            try:
                self.chance.choice(ways)(channel, subscriber)
            except (NodeUnreachable, RequestTimeout):
                self.note("idle")

    def _consume(self, channel: str, subscriber: str, *, manual: bool = False) -> Any:
        return self.client.consume(
            channel,
            subscriber=subscriber,
            manual=manual,
            batch_records=self.chance.choice([1, 10, NOTED_MAX]),
            credit=self.chance.choice([1, 4, 16]),
            timeout=IDLE_S,
        )

    def _one_by_one(self, channel: str, subscriber: str) -> None:
        with self._consume(channel, subscriber) as consumer:
            for _ in range(self.chance.randint(1, 2000)):
                got = next(consumer)
                self.note_got([got] if got else [])

    def _in_batches(self, channel: str, subscriber: str) -> None:
        with self._consume(channel, subscriber) as consumer:
            batches = consumer.batches()
            for _ in range(self.chance.randint(1, 200)):
                self.note_got(next(batches))

    def _by_hand(self, channel: str, subscriber: str) -> None:
        """Acknowledges in any order; what it has not acknowledged comes again."""
        held: dict[Any, list[Record]] = {}
        with self._consume(channel, subscriber, manual=True) as consumer:
            batches = consumer.batches()
            for _ in range(self.chance.randint(1, 200)):
                got = next(batches)
                self.note_got(got)
                for each in got:
                    held.setdefault(each.stream, []).append(each)
                for stream, records in list(held.items()):
                    all_of_them = not got or len(records) + NOTED_MAX > HELD_MAX
                    if all_of_them or self.chance.random() < 0.5:
                        held[stream] = self._acknowledge(consumer, records, all_of_them)
                held = {stream: records for stream, records in held.items() if records}

    def _acknowledge(self, consumer: Any, records: list[Record], all_of_them: bool) -> list[Record]:
        """Those of one stream; what it still holds of them."""
        self.chance.shuffle(records)
        count = len(records) if all_of_them else self.chance.randint(1, len(records))
        done = consumer.acknowledge(*records[:count])
        if done == count:
            self.note("confirmed", [each.sequence for each in records[:count]])
            return records[count:]
        assert not done, f"of {count} records that are acknowledged at once {done} are"
        return []  # the connection that they have come with broke: they come again

    def note_got(self, records: list[Record]) -> None:
        """Those that have come together."""
        if records:
            names = self.names([each.value for each in records])
            got = [[each.sequence, *name] for each, name in zip(records, names, strict=True)]
            self.note("got", records[0].redelivered, got)
        else:
            self.note("idle")


class Popping(Program):
    def run(self, channel: str) -> None:
        while True:
            wait = self.chance.choice([0.0, IDLE_S, 1.0])
            count = self.chance.choice([1, self.chance.randint(2, POP_MANY_MAX)])
            self.note("asked", count)
            try:
                if count == 1:
                    popped = self.client.pop(channel, wait=wait)
                    values = [] if popped is None else [popped]
                else:
                    values = self.client.pop_many(channel, count, wait=wait)
            except BROKE:
                self.note("failed")
                continue
            self.note("popped", self.names(values))
            self.note("answered")


def main(address: str, seed: str, number: str, role: str, channel: str, subscriber: str) -> None:
    with QueueClient(address, timeout=CONSUMER_PATIENCE_S if role == "consume" else PATIENCE_S) as client:
        program = client, int(seed), int(number)
        try:
            match role:
                case "produce":
                    Producing(*program).run()
                case "consume":
                    Consuming(*program).run(channel, subscriber)
                case "pop":
                    Popping(*program).run(channel)
        except BaseException as error:
            Program(*program).note("wrong", repr(error))
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
