"""What the programs of queue_programs.py have noted, and what must be true of it, note by note and at the end.

A push that was acknowledged is given to every subscriber, one that was refused to none, and one that nobody knows of
comes once or not at all. A record has one place in each queue, and the records of a producer have theirs in their
order. It is given unmarked once at most, not after it was given at all, and not at all after somebody's acknowledgement
of it was confirmed. What is popped is popped once; of what was stored only so much may be missing as was asked for by
pops that were not answered.
"""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.crash.queue_programs import CHANNELS, SUBSCRIBERS

PATIENCE_S = 60.0

Name = tuple[int, int]
"""Of a record: its producer, and its number there."""


@dataclass
class Request:
    """The records of one push: their producer's, from `first` on."""

    producer: int
    first: int
    count: int
    channels: list[str]

    @property
    def names(self) -> list[Name]:
        return [(self.producer, number) for number in range(self.first, self.first + self.count)]


@dataclass
class Queue:
    """What is known of one queue that is consumed."""

    name: str
    places: dict[int, Name] = field(default_factory=dict)
    """By sequence; of all records that anybody was given."""
    sequences: dict[Name, int] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=set)
    unmarked: dict[int, int] = field(default_factory=dict)
    """By program: the last sequence that it was given unmarked."""
    again: int = 0
    """Deliveries of a record that had been given before."""

    def got(self, program: int, redelivered: bool, records: list[tuple[int, int, int]]) -> None:
        for sequence, *rest in records:
            name = (rest[0], rest[1])
            where = f"{self.name}: record {sequence}, {name}"
            given = sequence in self.places
            assert self.places.setdefault(sequence, name) == name, f"{where} was {self.places[sequence]} before"
            assert self.sequences.setdefault(name, sequence) == sequence, f"{where} was {self.sequences[name]} before"
            assert sequence not in self.confirmed, f"{where} has come again after its acknowledgement was confirmed"
            if redelivered:
                self.again += given
            else:
                assert not given, f"{where} has come again, and is not marked"
                last = self.unmarked.get(program, -1)
                assert sequence > last, f"{where} has come to program {program} after {last}"
                self.unmarked[program] = sequence

    def check_order(self) -> None:
        last: dict[int, int] = {}
        for sequence in sorted(self.places):
            producer, number = self.places[sequence]
            assert number > last.get(producer, -1), f"{self.name}: {producer}'s {number} is behind {last[producer]}"
            last[producer] = number

    def check_whole(self, request: Request) -> None:
        """Of a push whose answer did not come the first records may be there, and the others not."""
        there = [name in self.sequences for name in request.names]
        assert there == sorted(there, reverse=True), f"{self.name}: {request} is there in pieces"


class Account:
    def __init__(self) -> None:
        self.queues = {
            (channel, each): Queue(f"{channel} {each}") for channel in SUBSCRIBERS for each in SUBSCRIBERS[channel]
        }
        self.requests: list[Request] = []
        self.sent: dict[Name, list[str]] = {}
        """The channels of each record."""
        self.stored: set[Name] = set()
        self.refused: set[Name] = set()
        self.popped: dict[Name, int] = {}
        """By whom."""
        self.unanswered = 0
        """Records that pops have asked for of which nobody knows what has become."""
        self.idle: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self._consumes: dict[int, Queue] = {}
        self._asked: Counter[int] = Counter()
        self._last_popped: dict[tuple[int, int], int] = defaultdict(lambda: -1)
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    # For whom runs the programs.

    def consumes(self, program: int, channel: str, subscriber: str) -> None:
        self._consumes[program] = self.queues[channel, subscriber]

    def killed(self, program: int) -> None:
        """And all of its notes were taken."""
        with self._changed:
            self.unanswered += self._asked.pop(program, 0)

    def take_all(self, lines: Any) -> None:
        """In a thread of its own: takes notes as long as there are any."""
        try:
            for line in lines:
                with self._changed:
                    self.take(*json.loads(line))
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - wait_for raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()
            for _ in lines:  # so that nobody waits for the pipe to have room
                pass

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Raises what is wrong with a note."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._error is not None or reached(), PATIENCE_S)
            if self._error is not None:
                raise self._error
            assert there, f"the programs make no progress: {self.counts}"

    def wait_for_more(self, what: str, more: int) -> None:
        """Until there are so many more of these notes."""
        before = self.counts[what]
        self.wait_for(lambda: self.counts[what] >= before + more)

    # The notes.

    def take(self, what: str, program: int, *more: Any) -> None:
        self.counts[what] += 1
        getattr(self, f"_take_{what}")(program, *more)

    def _take_marker(self, number: int) -> None:
        """Whoever waits for its count knows that all notes before it were taken."""

    def _take_wrong(self, program: int, text: str) -> None:
        raise AssertionError(f"program {program}: {text}")

    def _take_send(self, program: int, first: int, count: int, channels: list[str]) -> None:
        request = Request(program, first, count, channels)
        self.requests.append(request)
        self.sent.update(dict.fromkeys(request.names, channels))

    def _take_stored(self, program: int, first: int, count: int) -> None:
        self.stored.update((program, number) for number in range(first, first + count))

    def _take_refused(self, program: int, first: int, count: int) -> None:
        self.refused.update((program, number) for number in range(first, first + count))

    def _take_got(self, program: int, redelivered: bool, records: list[tuple[int, int, int]]) -> None:
        self._consumes[program].got(program, redelivered, records)

    def _take_confirmed(self, program: int, sequences: list[int]) -> None:
        queue = self._consumes[program]
        assert not queue.confirmed.intersection(sequences), f"{queue.name}: acknowledged twice"
        queue.confirmed.update(sequences)

    def _take_idle(self, program: int) -> None:
        self.idle[program] += 1

    def _take_asked(self, program: int, count: int) -> None:
        self._asked[program] = count

    def _take_popped(self, program: int, records: list[list[int]]) -> None:
        self._asked[program] -= len(records)
        for producer, number in records:
            name = producer, number
            assert name not in self.popped, f"{name} was popped by {self.popped[name]}, and now by {program}"
            self.popped[name] = program
            last = self._last_popped[program, producer]
            assert number > last, f"program {program} has popped {name} after {last}"
            self._last_popped[program, producer] = number

    def _take_answered(self, program: int) -> None:
        self._asked[program] = 0

    def _take_failed(self, program: int) -> None:
        self.unanswered += self._asked.pop(program)

    # When all of it is over and the queues are empty.

    def check(self) -> None:
        for (channel, _), queue in self.queues.items():
            self._check_sent(queue.name, channel, queue.sequences.keys())
            lost = [name for name in self._stored_in(channel) if name not in queue.sequences]
            assert not lost, f"{queue.name}: {len(lost)} records are lost ({lost[:5]} …)"
            queue.check_order()
            for request in self.requests:
                queue.check_whole(request)
        self._check_sent("jobs", "jobs", self.popped.keys())
        lost = [name for name in self._stored_in("jobs") if name not in self.popped]
        assert len(lost) <= self.unanswered, f"jobs: {len(lost)} records are lost, for {self.unanswered} in pops"
        self.counts["lost in pops"] = len(lost)

    def _stored_in(self, channel: str) -> list[Name]:
        return [name for name in self.stored if channel in self.sent[name]]

    def _check_sent(self, where: str, channel: str, found: Any) -> None:
        assert channel in CHANNELS
        never = [name for name in found if name in self.refused or channel not in self.sent.get(name, ())]
        assert not never, f"{where}: {len(never)} records were never sent there, or were refused ({never[:5]} …)"
