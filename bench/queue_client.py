"""The Python client programs of the queue's benchmark, as those of bench.client:

    python -m bench.queue_client '{"work": "batches", "system": "redis", "port": 6379, …}'

What is timed is the same code for all systems; they differ only in the calls of Swarm…, Redis… and BeanstalkdQueue
below. Most works leave nothing behind them.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any, Protocol

from bench.client import (
    CHANNEL,
    CHUNK,
    SAMPLE,
    TIMEOUT_S,
    WARM_UP_S,
    Task,
    cut,
    freeze,
    raise_priority,
    repeat,
    spread_ms,
)

BATCH = 1_000
STAMP_BYTES = 8  # of time.monotonic_ns, at the begin of a record
SENT_TO_WARM_UP = 50
SUBSCRIBER = "bench"


@dataclass(frozen=True)
class QueueJob(Task):
    module = "bench.queue_client"

    work: str
    """A name in WORKS."""
    system: str
    """"ours", "redis" or "beanstalkd"."""
    port: int
    value_bytes: int
    records: int
    """That there are in the queue at a time; of send and receive in all."""
    seconds: float = 1.0
    """How long it is repeated."""
    every_s: float = 0.0
    """From one record of send to the next."""


class Queue(Protocol):
    """What a client can do. A system does not have all of it."""

    @property
    def push(self) -> Callable[[bytes], object]: ...

    @property
    def pop(self) -> Callable[[], bytes | None]:
        """None where there is nothing."""
        ...

    @property
    def push_many(self) -> Callable[[list[bytes]], object]: ...

    @property
    def pop_many(self) -> Callable[[int], list[bytes]]: ...

    def pipeline(self, records: list[bytes]) -> None:
        """A push for each record, without waiting for each answer."""

    def consume(self) -> Iterator[bytes]:
        """What comes, for ever; a record is done when the next one is asked for."""
        ...

    @property
    def wait(self) -> Callable[[], bytes | None]:
        """Gives the next record as soon as there is one; the queue does not have it any more."""
        ...


class SwarmQueue:
    def __init__(self, port: int) -> None:
        from swarm.blocking import QueueClient

        self._client = QueueClient(f"127.0.0.1:{port}", timeout=TIMEOUT_S).__enter__()
        self.push = partial(self._client.push, CHANNEL)
        self.pop = partial(self._client.pop, CHANNEL)
        self.push_many = partial(self._client.push_many, CHANNEL)
        self.pop_many = partial(self._client.pop_many, CHANNEL)
        self.wait = partial(self._client.pop, CHANNEL, wait=TIMEOUT_S)

    def pipeline(self, records: list[bytes]) -> None:
        with self._client.produce(CHANNEL) as producer:
            for record in records:
                producer.push(record)

    def consume(self) -> Iterator[bytes]:
        with self._client.consume(CHANNEL, subscriber=SUBSCRIBER) as records:
            for record in records:
                yield record.value

    def clear(self) -> None:
        self._client.remove_channel(CHANNEL)


class RedisQueue:
    def __init__(self, port: int) -> None:
        import redis

        self._client: Any = redis.Redis("127.0.0.1", port)
        self.push: Any = partial(self._client.rpush, CHANNEL)
        self.pop: Any = partial(self._client.lpop, CHANNEL)
        self.pop_many: Any = partial(self._client.rpop, CHANNEL)

    def push_many(self, records: list[bytes]) -> None:
        self._client.lpush(CHANNEL, *records)

    def pipeline(self, records: list[bytes]) -> None:
        for batch in cut(records, BATCH):
            pipeline = self._client.pipeline(transaction=False)
            for record in batch:
                pipeline.lpush(CHANNEL, record)
            pipeline.execute()

    def wait(self) -> bytes:
        record: bytes = self._client.brpop(CHANNEL)[1]
        return record

    def clear(self) -> None:
        self._client.delete(CHANNEL)


class BeanstalkdQueue:
    def __init__(self, port: int) -> None:
        import greenstalk

        self._empty = greenstalk.TimedOutError
        self._client: Any = greenstalk.Client(("127.0.0.1", port), encoding=None)
        self.push: Any = self._client.put

    def pop(self) -> bytes:
        job = self._client.reserve()
        self._client.delete(job)
        body: bytes = job.body
        return body

    def push_many(self, records: list[bytes]) -> None:
        for record in records:
            self.push(record)

    def consume(self) -> Iterator[bytes]:
        while True:
            job = self._client.reserve()
            try:
                yield job.body
            finally:  # the last one too
                self._client.delete(job)

    def clear(self) -> None:
        try:
            while True:
                self._client.delete(self._client.reserve(timeout=0))
        except self._empty:
            pass


SYSTEMS: dict[str, Callable[[int], Any]] = {"ours": SwarmQueue, "redis": RedisQueue, "beanstalkd": BeanstalkdQueue}


def make_records(count: int, size: int) -> list[bytes]:
    """All different."""
    data = random.randbytes(count * size)
    return [data[start : start + size] for start in range(0, len(data), size)]


# The works.


def batches(job: QueueJob, queue: Any) -> dict[str, float]:
    """Fills the queue batch by batch, and empties it in the same way; again until the time is over."""
    parts = list(cut(make_records(job.records, job.value_bytes), BATCH))
    push_many, pop_many = queue.push_many, queue.pop_many
    freeze()
    push_s = pop_s = 0.0
    rounds = 0
    while push_s + pop_s < 2 * job.seconds:
        begun = time.perf_counter()
        for part in parts:
            push_many(part)
        pushed = time.perf_counter()
        check_batch(pop_many(BATCH), parts[0])
        check_begun = time.perf_counter()
        popped: list[bytes] = []
        for _ in range(len(parts) - 1):
            popped = pop_many(BATCH)  # one batch at a time is kept
        pop_s += time.perf_counter() - check_begun
        push_s += pushed - begun
        check_batch(popped, parts[-1])
        rounds += 1
    return {"push": rounds * job.records / push_s, "pop": rounds * (job.records - BATCH) / pop_s}


def check_batch(popped: list[bytes], pushed: list[bytes]) -> None:
    if popped != pushed:
        raise AssertionError("what was popped is not what was pushed")


def one_at_a_time(job: QueueJob, queue: Any) -> dict[str, float]:
    records = make_records(SAMPLE, job.value_bytes)
    chunks = list(cut(records, CHUNK))
    push, pop = queue.push, queue.pop
    pushed = 0

    def pushes(chunk: list[bytes]) -> None:
        nonlocal pushed
        for record in chunk:
            push(record)
        pushed += len(chunk)

    def pops(_: int) -> None:
        for _ in range(CHUNK):
            assert pop()

    repeat(pushes, cycle(chunks), WARM_UP_S)
    freeze()
    push_rate = repeat(pushes, cycle(chunks), job.seconds)
    check_batch([pop() for _ in range(CHUNK)], chunks[0])
    return {"push": push_rate, "pop": repeat(pops, range(pushed // CHUNK - 1), job.seconds)}


def pipelined(job: QueueJob, queue: Any) -> dict[str, float]:
    records = make_records(job.records, job.value_bytes)
    freeze()
    taken_s = 0.0
    rounds = 0
    while taken_s < job.seconds:
        begun = time.perf_counter()
        queue.pipeline(records)
        taken_s += time.perf_counter() - begun
        check_batch([record for part in cut(records, BATCH) for record in queue.pop_many(len(part))], records)
        rounds += 1
    return {"push": rounds * job.records / taken_s}


def consume(job: QueueJob, queue: Any) -> dict[str, float]:
    """A record is done with before the next one is taken."""
    parts = list(cut(make_records(job.records, job.value_bytes), BATCH))
    consumed = queue.consume()
    queue.push_many(parts[0])
    next(consumed)  # subscribes
    for part in parts[1:]:
        queue.push_many(part)
    freeze()
    begun = time.perf_counter()
    for _record in islice(consumed, job.records - 1):
        pass
    taken_s = time.perf_counter() - begun
    consumed.close()
    check_batch([_record], parts[-1][-1:])
    return {"consume": (job.records - 1) / taken_s}


def send(job: QueueJob, queue: Any) -> dict[str, float]:
    """A record every now and then, with the time at which it was pushed at its begin."""
    rests = make_records(job.records + SENT_TO_WARM_UP, job.value_bytes - STAMP_BYTES)
    freeze()
    for rest in rests:
        time.sleep(job.every_s)
        queue.push(time.monotonic_ns().to_bytes(STAMP_BYTES) + rest)
    return {}


def receive(job: QueueJob, queue: Any, consuming: bool = False) -> dict[str, float]:
    """How long the records of send were on their way: from before push was called until this program had them."""
    take = queue.consume().__next__ if consuming else queue.wait
    clock = time.monotonic_ns
    times = []
    raise_priority()
    freeze()
    print("ready", flush=True)
    for _ in range(job.records + SENT_TO_WARM_UP):
        record = take()
        times.append(clock() - int.from_bytes(record[:STAMP_BYTES]))
    return spread_ms(times[SENT_TO_WARM_UP:])


def pass_through(job: QueueJob, queue: Any) -> dict[str, float]:
    """Pushes and pops so many records, some batches at a time."""
    parts = list(cut(make_records(SAMPLE, job.value_bytes), BATCH))
    passed = 0
    for part in cycle(parts):
        queue.push_many(part)
        assert len(queue.pop_many(BATCH)) == len(part)
        passed += len(part)
        if passed >= job.records:
            return {"passed": passed}
    raise AssertionError("unreachable")


WORKS: dict[str, Callable[[QueueJob, Any], dict[str, float]]] = {
    "batches": batches,
    "one at a time": one_at_a_time,
    "pipelined": pipelined,
    "consume": consume,
    "send": send,
    "receive": receive,
    "receive by consume": partial(receive, consuming=True),
    "pass through": pass_through,
}


LEAVING = ("send", "pass through")
"""Works that leave the channel there: for the one who receives, and to go on with."""


def main() -> None:
    job = QueueJob(**json.loads(sys.argv[1]))
    queue = SYSTEMS[job.system](job.port)
    figures = WORKS[job.work](job, queue)
    if job.work not in LEAVING:
        queue.clear()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
