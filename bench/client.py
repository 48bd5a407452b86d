"""The Python client programs of the benchmark. Each measurement runs one of them in a process of its own:

    python -m bench.client '{"work": "one at a time", "system": "redis", "port": 6379, …}'

and prints its figures, rates in records per second, as one JSON object. What is timed is the same code for both
systems; they differ only in the calls of Swarm… and Redis… below. Keys and batches are made before the clock starts.
What exists by then is frozen for the garbage collector, which stays on.
"""

import gc
import json
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

CHANNEL = "bench"
KEY_BYTES = 16
VALUE_BYTES = 100
REDIS_BATCH = 1_000  # records of one MSET or MGET, and the COUNT of a SCAN
VALUES = 1_000  # different values; every process makes its own, so that what it writes is new
SAMPLE = 16_384  # random keys that single requests go through, again and again
CHUNK = 16  # single requests between two looks at the clock
WARM_UP_S = 0.1
TIMEOUT_S = 30.0  # of one request; nothing here may fail because the machine is busy
PROBER_PRIORITY = 10
PERCENTILES = (50, 99, 99.9)

Item = TypeVar("Item")
Records = dict[bytes, bytes]


@dataclass(frozen=True)
class Task:
    """What a client program is to do."""

    module: ClassVar[str]
    """The program."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Job(Task):
    module = "bench.client"

    work: str
    """A name in WORKS."""
    system: str
    """"ours" or "redis"."""
    port: int
    keys: str
    """File of the store's keys in loading order, one behind the other."""
    seconds: float = 1.0
    """How long single requests are repeated."""
    batch: int = 1_000
    """Records of a batch."""
    shuffled: bool = False
    """Batches of random keys instead of consecutive ones."""
    tasks: int = 1
    backend: str = "trio"
    every_s: float = 0.0
    """From one get of the prober to the next; 0: one after another."""
    single_connection: bool = False
    """redis-py without its pool of connections (single_connection_client)."""

    def load_keys(self) -> list[bytes]:
        return split_keys(Path(self.keys).read_bytes())


def split_keys(data: bytes) -> list[bytes]:
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def write_keys(path: Path, records: int) -> None:
    """The keys of loadgen.c: splitmix64 of 0, 1, 2 … in hexadecimal."""
    mask = 2**64 - 1
    with path.open("wb") as file:
        for number in range(records):
            z = (number + 0x9E3779B97F4A7C15) & mask
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
            file.write(b"%016x" % (z ^ (z >> 31)))


# The two systems.


class Store(Protocol):
    """What a blocking client can do."""

    @property
    def put(self) -> Callable[[bytes, bytes], object]: ...

    @property
    def get(self) -> Callable[[bytes], object]: ...

    @property
    def put_many(self) -> Callable[[Records], object]: ...

    @property
    def get_many(self) -> Callable[[list[bytes]], Any]: ...

    @property
    def get_all(self) -> Callable[[], Iterator[tuple[bytes, bytes]]]: ...

    def cut(self, keys: list[bytes]) -> list[list[bytes]]:
        """A batch in parts as large as they are given to put_many and get_many."""
        ...

    def values(self, found: Any) -> list[bytes]:
        """Of what get_many has returned, in the order of the keys."""
        ...


class SwarmStore:
    def __init__(self, port: int) -> None:
        from swarm.blocking import DhtClient

        self._client = DhtClient(f"127.0.0.1:{port}", timeout=TIMEOUT_S).__enter__()
        self.put = partial(self._client.put, CHANNEL)
        self.get = partial(self._client.get, CHANNEL)
        self.put_many = partial(self._client.put_many, CHANNEL)
        self.get_many = partial(self._client.get_many, CHANNEL)
        self.get_all = partial(self._client.get_all, CHANNEL)

    def cut(self, keys: list[bytes]) -> list[list[bytes]]:
        return [keys]  # the client cuts it by itself

    def values(self, found: Records) -> list[bytes]:
        return list(found.values())


class RedisStore:
    def __init__(self, port: int, single_connection: bool) -> None:
        import redis

        self._client = redis.Redis("127.0.0.1", port, single_connection_client=single_connection)
        self.put: Any = self._client.set
        self.get: Any = self._client.get
        self.put_many: Any = self._client.mset
        self.get_many: Any = self._client.mget

    def get_all(self) -> Iterator[tuple[bytes, bytes]]:
        client: Any = self._client
        cursor = -1
        while cursor:
            cursor, keys = client.scan(max(cursor, 0), count=REDIS_BATCH)
            yield from zip(keys, client.mget(keys), strict=True)

    def cut(self, keys: list[bytes]) -> list[list[bytes]]:
        return list(cut(keys, REDIS_BATCH))

    def values(self, found: list[bytes]) -> list[bytes]:
        return found


def open_store(job: Job) -> Store:
    store: Store = SwarmStore(job.port) if job.system == "ours" else RedisStore(job.port, job.single_connection)
    store.get(bytes(KEY_BYTES))  # connects
    return store


@dataclass
class AsyncStore:
    put: Callable[[bytes, bytes], Awaitable[object]]
    get: Callable[[bytes], Awaitable[object]]


@asynccontextmanager
async def open_async_store(job: Job) -> AsyncIterator[AsyncStore]:
    if job.system == "ours":
        from swarm.dht import DhtClient

        async with DhtClient(f"127.0.0.1:{job.port}", timeout=TIMEOUT_S) as dht:
            yield AsyncStore(partial(dht.put, CHANNEL), partial(dht.get, CHANNEL))
    else:
        from redis.asyncio import Redis

        async with Redis(host="127.0.0.1", port=job.port) as redis:
            yield AsyncStore(redis.set, redis.get)


# The works.


def one_at_a_time(job: Job) -> dict[str, float]:
    store = open_store(job)
    put, get = store.put, store.get
    keys, records = sample(job.load_keys())

    def puts(chunk: list[tuple[bytes, bytes]]) -> None:
        for key, value in chunk:
            put(key, value)

    def gets(chunk: list[bytes]) -> None:
        for key in chunk:
            assert get(key)

    figures = {}
    works: list[tuple[str, Any, list[Any]]] = [("put", puts, records), ("get", gets, keys)]
    for name, action, items in works:
        chunks = list(cut(items, CHUNK))
        repeat(action, cycle(chunks), WARM_UP_S)
        freeze()
        figures[name] = repeat(action, cycle(chunks), job.seconds)
    return figures


def repeat(action: Callable[[Any], None], chunks: Iterable[Any], seconds: float) -> float:
    """Items a second. Chunks have CHUNK items; it ends with the seconds, or with the chunks."""
    done = 0
    begun = now = time.perf_counter()
    for chunk in chunks:
        action(chunk)
        done += CHUNK
        now = time.perf_counter()
        if now - begun > seconds:
            break
    return done / (now - begun)


def tasks(job: Job) -> dict[str, float]:
    """One record at a time by each of some tasks, under trio or asyncio."""
    import anyio

    backend: dict[str, Any] = {"backend": job.backend}
    return anyio.run(_tasks, job, **backend)


async def _tasks(job: Job) -> dict[str, float]:
    keys, records = sample(job.load_keys())
    figures = {}
    async with open_async_store(job) as store:
        put, get = store.put, store.get

        async def puts(chunk: list[tuple[bytes, bytes]]) -> None:
            for key, value in chunk:
                await put(key, value)

        async def gets(chunk: list[bytes]) -> None:
            for key in chunk:
                assert await get(key)

        works: list[tuple[str, Any, list[Any]]] = [("put", puts, records), ("get", gets, keys)]
        for name, action, items in works:
            chunks = list(cut(items, CHUNK))
            await repeat_in_tasks(action, chunks, WARM_UP_S, job.tasks)
            freeze()
            figures[name] = await repeat_in_tasks(action, chunks, job.seconds, job.tasks)
    return figures


async def repeat_in_tasks(
    action: Callable[[Any], Awaitable[None]], chunks: list[Any], seconds: float, count: int
) -> float:
    """Items a second, of all tasks together."""
    import anyio

    done = 0
    begun = time.perf_counter()

    async def work(number: int) -> None:
        nonlocal done
        start = number * len(chunks) // count
        for chunk in cycle(chunks[start:] + chunks[:start]):
            await action(chunk)
            done += CHUNK
            if time.perf_counter() - begun > seconds:
                break

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(work, number)
    return done / (time.perf_counter() - begun)


def batches(job: Job) -> dict[str, float]:
    """Overwrites the whole store once, batch after batch; then reads it in the same way."""
    store = open_store(job)
    keys = job.load_keys()
    if job.shuffled:
        random.shuffle(keys)
    parts, records = make_batches(store, keys, job.batch)
    freeze()
    put_s = put_all(store, records)
    kept = []
    begun = time.perf_counter()
    for batch in parts:
        kept = [store.get_many(part) for part in batch]  # one batch at a time is kept
    get_s = time.perf_counter() - begun
    check_batch(store, kept, records[-1])
    check_batch(store, [store.get_many(part) for part in parts[0]], records[0])
    return {"put": len(keys) / put_s, "get": len(keys) / get_s}


def insert(job: Job) -> dict[str, float]:
    """Fills the store, batch after batch."""
    store = open_store(job)
    keys = job.load_keys()
    _, records = make_batches(store, keys, job.batch)
    freeze()
    begin_ns = time.monotonic_ns()
    seconds = put_all(store, records)
    return {"put": len(keys) / seconds, "begin_ns": begin_ns, "end_ns": time.monotonic_ns()}


def fill(job: Job) -> dict[str, float]:
    """Fills the store with batches that are made on the way: what is too much for this process is not for a node."""
    store = open_store(job)
    values = cycle(make_values())
    with Path(job.keys).open("rb") as file:
        while data := file.read(KEY_BYTES * job.batch):
            for part in store.cut(split_keys(data)):
                store.put_many(dict(zip(part, values, strict=False)))
    return {}


def put_all(store: Store, records: list[list[Records]]) -> float:
    begun = time.perf_counter()
    for batch in records:
        for part in batch:
            store.put_many(part)
    return time.perf_counter() - begun


def make_batches(store: Store, keys: list[bytes], size: int) -> tuple[list[list[list[bytes]]], list[list[Records]]]:
    """Batches of keys, and of records, each in the parts that the store takes."""
    values = cycle(make_values())
    parts = [store.cut(batch) for batch in cut(keys, size)]
    return parts, [[dict(zip(part, values, strict=False)) for part in batch] for batch in parts]


def check_batch(store: Store, found: list[Any], records: list[Records]) -> None:
    for part, expected in zip(found, records, strict=True):
        if store.values(part) != list(expected.values()):
            raise AssertionError("what was read is not what was written")


def get_all(job: Job) -> dict[str, float]:
    store = open_store(job)
    freeze()
    count = 0
    begin_ns = time.monotonic_ns()
    for _key, _value in store.get_all():
        count += 1
    end_ns = time.monotonic_ns()
    records = Path(job.keys).stat().st_size // KEY_BYTES
    if count < records:
        raise AssertionError(f"{count} records were read, there are {records}")
    return {"get": records * 1e9 / (end_ns - begin_ns), "begin_ns": begin_ns, "end_ns": end_ns}


def probe(job: Job) -> dict[str, float]:
    """Gets one record after another, or one whenever job.every_s has passed, until it is told, in a line on standard
    input, which span of time to report. Times are in ms.

    Runs at real-time priority where that is allowed, so that it need not wait for the other client on its core: what
    it waits for then is the server, and the machine.
    """
    store = open_store(job)
    keys = list(islice(job.load_keys(), VALUES))
    store.put_many(dict(zip(keys, make_values(), strict=True)))
    told: list[str] = []
    threading.Thread(target=lambda: told.append(sys.stdin.readline()), daemon=True).start()
    raise_priority()
    freeze()
    gc.disable()
    get = store.get

    def gets(chunk: list[bytes]) -> None:
        for key in chunk:
            get(key)

    repeat(gets, cycle(cut(keys, CHUNK)), WARM_UP_S)
    print("ready", flush=True)
    spans = gets_when_due(get, keys, job.every_s, told) if job.every_s else gets_in_a_row(get, keys, told)
    if not told[0]:
        raise SystemExit("the benchmark is gone")
    begin_ns, end_ns = map(int, told[0].split())
    times = [end - begin for begin, end in spans if end >= begin_ns and begin <= end_ns]
    return spread_ms(times)


def spread_ms(times: list[int]) -> dict[str, float]:
    """How times in ns are spread: their number, and in ms the longest and the percentiles."""
    times.sort()
    figures = {"number": len(times), "longest": times[-1] / 1e6}
    return figures | {f"{share:g}%": times[int(len(times) * share / 100)] / 1e6 for share in PERCENTILES}


def gets_in_a_row(get: Callable[[bytes], object], keys: list[bytes], told: list[str]) -> Iterable[tuple[int, int]]:
    """Begin and end of each get until told, by time.monotonic_ns."""
    clock = time.monotonic_ns
    ends = [clock()]
    for key in cycle(keys):
        assert get(key)
        ends.append(clock())
        if told:
            break
    return pairwise(ends)


def gets_when_due(
    get: Callable[[bytes], object], keys: list[bytes], every_s: float, told: list[str]
) -> Iterable[tuple[int, int]]:
    """The same, from when each was due: one that could not begin since the one before took too long has waited too."""
    clock = time.monotonic_ns
    spans = []
    due = clock()
    for key in cycle(keys):
        due += int(every_s * 1e9)
        time.sleep(max(due - clock(), 0) / 1e9)
        assert get(key)
        spans.append((due, clock()))
        if told:
            break
    return spans


def raise_priority() -> bool:
    """Whether it is allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PROBER_PRIORITY))
    except PermissionError:
        return False
    return True


# What they share.


def cut(items: list[Item], size: int) -> Iterable[list[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def make_values() -> list[bytes]:
    return [random.randbytes(VALUE_BYTES) for _ in range(VALUES)]


def sample(keys: list[bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Random keys, and records with random keys."""
    some = random.choices(keys, k=SAMPLE)
    return some, list(zip(some, cycle(make_values()), strict=False))


def freeze() -> None:
    gc.collect()
    gc.freeze()


WORKS: dict[str, Callable[[Job], dict[str, float]]] = {
    "one at a time": one_at_a_time,
    "tasks": tasks,
    "batches": batches,
    "insert": insert,
    "fill": fill,
    "get all": get_all,
    "probe": probe,
}

if __name__ == "__main__":
    asked = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORKS[asked.work](asked)))
