"""What a queue has acknowledged is given to every subscriber, and what it was told is done never comes again, whenever
kill -9 strikes.

Several programs use a real node, each a process of its own: producers, consumers of several subscribers, and some that
pop. The node, consumers and those that pop, or both are killed when a random number of answers has come. What all of
them were told is compared, note by note and at the end, when the queues were emptied (queue_account.py).

SWARM_CRASH_KILLS: how many in all, by default 60. SWARM_CRASH_SEED: prints itself, and repeats a run's choices.
"""

import json
import os
import random
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.queue.config import QueueConfig, QueueSection
from swarm.blocking import QueueClient
from swarm.core.limits import KIB, MIB
from swarm.queue import Record
from swarm.testing import QueueProcess
from tests.crash import queue_programs
from tests.crash.queue_account import PATIENCE_S, Account
from tests.crash.queue_programs import SUBSCRIBERS, name_of

KILLS = int(os.environ.get("SWARM_CRASH_KILLS", "60"))
SEED = int(os.environ.get("SWARM_CRASH_SEED", secrets.randbelow(2**32)))
NOTES_MAX = {"stored": 40, "got": 400, "confirmed": 40, "popped": 60}  # between two kills, of one of these kinds
PRODUCERS = 3
CONSUMERS = 2  # of each subscriber
POPPERS = 2
QUEUES = [  # small, so that they wrap and fill
    QueueSection(ring_bytes=4 * MIB),
    QueueSection(ring_bytes=256 * KIB, fsync_interval=0.02),
    QueueSection(ring_bytes=256 * KIB, full="overflow", fsync_interval=0.02),
    QueueSection(ring_bytes=256 * KIB, full="overflow", overflow_bytes=1 * MIB, fsync_interval=0.02),
    QueueSection(ring_bytes=256 * KIB, fsync="always"),
]

Place = tuple[str, str]
"""What a program consumes or pops: channel and subscriber."""


class Programs:
    """The processes, and the account of what they note."""

    def __init__(self, address: str, seed: int) -> None:
        self.account = Account()
        self.takers: dict[int, tuple[str, Place]] = {}
        """Consumers and those that pop, that run: their role, and what they take."""
        self._address = address
        self._seed = seed
        self._count = 0
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._read_end, self._pipe = os.pipe()
        self._markers = 0
        self._thread = threading.Thread(target=self._take_notes)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            for process in self._running.values():
                process.kill()
                process.wait()
            os.close(self._pipe)
            self._thread.join()

    def _take_notes(self) -> None:
        with os.fdopen(self._read_end, "rb") as notes:
            self.account.take_all(notes)

    def start(self, role: str, place: Place = ("", "")) -> None:
        self._count += 1
        number = self._count
        if role == "consume":
            self.account.consumes(number, *place)
        command = [sys.executable, queue_programs.__file__, self._address, str(self._seed), str(number), role, *place]
        self._running[number] = subprocess.Popen(command, stdout=self._pipe)
        if role != "produce":
            self.takers[number] = role, place

    def kill(self, numbers: list[int]) -> None:
        for number in numbers:
            process = self._running[number]
            assert process.poll() is None, f"program {number} has ended by itself, status {process.returncode}"
            process.kill()
        for number in numbers:
            self._running.pop(number).wait()
        self.take_notes()
        for number in numbers:
            self.account.killed(number)
            self.takers.pop(number, None)

    def kill_all(self) -> None:
        self.kill(list(self._running))

    def take_notes(self) -> None:
        """Returns when those were taken that are there."""
        self._markers += 1
        self.note("marker", self._markers)
        self.account.wait_for(lambda: self.account.counts["marker"] >= self._markers)

    def note(self, *note: object) -> None:
        os.write(self._pipe, json.dumps(note).encode() + b"\n")

    def take_what_was_sent(self) -> None:
        """While the node is dead: returns when its consumers have noted all that it had sent them."""
        self.take_notes()
        idle = self.account.idle
        consumers = [number for number, (role, _) in self.takers.items() if role == "consume"]
        before = {number: idle[number] for number in consumers}
        # That a consumer is idle may have been on its way before; the second time it has looked after the death.
        self.account.wait_for(lambda: all(idle[number] >= before[number] + 2 for number in consumers))


def empty(programs: Programs, address: str, seed: int) -> None:
    """Takes, as one more program, all that is left in the queues."""
    account = programs.account
    with QueueClient(address, timeout=PATIENCE_S) as queue:
        for number, (channel, subscriber) in enumerate(account.queues):
            account.consumes(-number, channel, subscriber)
            with queue.consume(channel, subscriber=subscriber, manual=True, timeout=0.1) as consumer:
                batches = consumer.batches()
                while records_left(queue, channel, subscriber):
                    records: list[Record] = next(batches)
                    got = [(each.sequence, *name_of(seed, each.value)) for each in records]
                    if got:
                        account.take("got", -number, records[0].redelivered, got)
                        assert consumer.acknowledge(*records) == len(records)
                        account.take("confirmed", -number, [each.sequence for each in records])
        account.take("asked", 0, 0)
        while values := queue.pop_many("jobs", 1000):
            account.take("popped", 0, [name_of(seed, value) for value in values])


def records_left(queue: QueueClient, channel: str, subscriber: str) -> int:
    return sum(each.records for each in queue.queues(channel) if each.subscriber == subscriber)


def check_empty(address: str) -> None:
    """All that there is was given, and no queue had to pass over anything."""
    with QueueClient(address, timeout=PATIENCE_S) as queue:
        for channel, subscribers in [*SUBSCRIBERS.items(), ("jobs", ("",))]:
            queues = queue.queues(channel)
            assert [each.subscriber for each in queues] == list(subscribers)
            assert [(each.records, each.bytes, each.dropped, each.damaged) for each in queues] == [(0, 0, 0, 0)] * len(
                queues
            )


@pytest.mark.parametrize("run", range(len(QUEUES)))
def test_nothing_is_lost_and_nothing_comes_again_when_it_is_killed(run: int, tmp_path: Path) -> None:
    seed = SEED + run
    print(f"SWARM_CRASH_SEED={SEED}, run {run}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    with QueueProcess(tmp_path, QueueConfig(queue=QUEUES[run])) as node:
        with QueueClient(node.address) as queue:
            for subscriber in SUBSCRIBERS["events"]:  # before the first push: every record is for both
                queue.consume("events", subscriber=subscriber).close()
        programs = Programs(node.address, seed)
        with programs.running():
            for _ in range(PRODUCERS):
                programs.start("produce")
            for channel, subscribers in SUBSCRIBERS.items():
                for subscriber in CONSUMERS * subscribers:
                    programs.start("consume", (channel, subscriber))
            for _ in range(POPPERS):
                programs.start("pop", ("jobs", ""))
            for _ in range(max(1, KILLS // len(QUEUES))):
                what = chance.choice(list(NOTES_MAX))
                programs.account.wait_for_more(what, chance.randint(1, NOTES_MAX[what]))
                kill(chance.choice(["node", "node", "programs", "both"]), node, programs, chance)
            programs.account.wait_for_more("stored", 1)
            programs.kill_all()
            empty(programs, node.address, seed)
            node.kill()
            node.start()
            check_empty(node.address)
            account = programs.account
            account.check()
            print(dict(account.counts), "again:", {each.name: each.again for each in account.queues.values()})  # noqa: T201
            assert account.counts["confirmed"] > 0


def kill(victims: str, node: QueueProcess, programs: Programs, chance: random.Random) -> None:
    """And starts again. Those of the other programs that live on wait for the node."""
    dying = chance.sample(list(programs.takers), chance.randint(1, len(programs.takers)))
    again = [programs.takers[number] for number in dying]
    if victims != "programs":
        node.kill()
    if victims != "node":
        programs.kill(dying)
    if victims != "programs":
        programs.take_what_was_sent()
        node.start()
    if victims != "node":
        for role, place in again:
            programs.start(role, place)
