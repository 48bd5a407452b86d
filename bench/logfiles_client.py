"""The Python client programs of the logfiles benchmark, as those of bench.client:

    python -m bench.logfiles_client '{"work": "append", "system": "SQLite", "path": "…", …}'

What is timed is the same code for all systems; they differ only in the calls of Swarm…, Sqlite…, Redis… and DuckdbLogs
below. What a system takes is made of the records before the clock starts, in the form in which it takes it fastest;
what it gives is compared with what was put when the clock has stopped.
"""

import gc
import json
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from bench.client import CHANNEL, TIMEOUT_S, Task, cut, freeze
from bench.log_lines import Record, begin_ns, records, substring

BATCH = 1_000
DISTINCT_RANGES = 16  # of 1 % each, gone through again and again
FOUND_TENANT = 417  # any


@dataclass(frozen=True)
class LogJob(Task):
    module = "bench.logfiles_client"

    work: str
    """A name in WORKS."""
    system: str
    """A name in SYSTEMS."""
    records: int
    """That there are; of append, that are put."""
    port: int = 0
    """Of a server."""
    path: str = ""
    """The file of a store without one."""
    first: int = 0
    """Number of the first record that is put, or of those that are read newest."""
    seconds: float = 1.0
    """How long reading a part is repeated."""
    lines: str = ""
    """A file that keeps the records: to make a million takes longer than most of what is measured."""

    def made(self) -> list[Record]:
        """The records, so many, from the first on."""
        kept = Path(self.lines) if self.lines else None
        if kept is None or not kept.exists():
            found = list(records(self.records, self.first))
            if kept is not None:
                kept.write_bytes(pickle.dumps(found))
            return found
        gc.disable()
        found = pickle.loads(kept.read_bytes())
        gc.enable()
        return found


class Logs(Protocol):
    """What a client can do. What it gives is in the order of time."""

    def prepare(self, batch: list[Record]) -> Any:
        """What append takes."""
        ...

    @property
    def append(self) -> Callable[[Any], object]: ...

    def read(self, start: int | None = None, end: int | None = None) -> Any:
        """Everything from start on and before end, in whatever form the system gives much of it fastest."""
        ...

    def pairs(self, found: Any) -> Iterable[Record]:
        """Of what read and find have given."""
        ...

    def each(self) -> Iterator[Record]:
        """All, record by record."""
        ...

    def find(self, text: str) -> Any:
        """What contains it."""
        ...

    def close(self) -> None: ...


class SwarmLogs:
    def __init__(self, job: LogJob) -> None:
        from swarm.blocking import LogfilesClient

        self._client = LogfilesClient(f"127.0.0.1:{job.port}", timeout=TIMEOUT_S).__enter__()
        self.append: Any = partial(self._client.put_many, CHANNEL)
        self.each: Any = partial(self._client.get_range, CHANNEL)

    def prepare(self, batch: list[Record]) -> list[Record]:
        return batch

    def read(self, start: int | None = None, end: int | None = None) -> Any:
        return list(self._client.get_range(CHANNEL, start, end).blocks())

    def pairs(self, found: Any) -> Iterator[Record]:
        return chain.from_iterable(zip(*block, strict=True) for block in found)

    def find(self, text: str) -> Any:
        return list(self._client.get_range(CHANNEL, substring=text).blocks())

    def close(self) -> None:
        self._client.__exit__(None, None, None)


class SqliteLogs:
    """Lines are TEXT: in many builds LIKE finds nothing in BLOBs, and all else takes as long."""

    def __init__(self, job: LogJob) -> None:
        import sqlite3

        self._db = sqlite3.connect(job.path, isolation_level=None)
        for setting in SQLITE_SETTINGS:
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE IF NOT EXISTS log (time INTEGER, value TEXT)")
        self._db.execute("CREATE INDEX IF NOT EXISTS log_time ON log (time)")

    def prepare(self, batch: list[Record]) -> list[tuple[int, str]]:
        return [(timestamp, value.decode()) for timestamp, value in batch]

    def append(self, rows: Any) -> None:
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO log VALUES (?, ?)", rows)
        self._db.execute("COMMIT")

    def read(self, start: int | None = None, end: int | None = None) -> Any:
        if start is None:
            return self._db.execute(ALL).fetchall()
        return self._db.execute(f"{ALL} WHERE time >= ? AND time < ? ORDER BY time", (start, end)).fetchall()

    def pairs(self, found: Any) -> Iterator[Record]:
        return ((timestamp, value.encode()) for timestamp, value in found)

    def each(self) -> Iterator[Any]:
        return self._db.execute(ALL)

    def find(self, text: str) -> Any:
        return self._db.execute(f"{ALL} WHERE value LIKE ?", (f"%{text}%",)).fetchall()

    def close(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


class RedisLogs:
    """A record's id is its timestamp in ns."""

    def __init__(self, job: LogJob) -> None:
        import redis

        self._client: Any = redis.Redis("127.0.0.1", job.port)

    def prepare(self, batch: list[Record]) -> list[tuple[dict[str, bytes], int]]:
        return [({"v": value}, timestamp) for timestamp, value in batch]

    def append(self, entries: Any) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for fields, key in entries:
            pipeline.xadd(CHANNEL, fields, key)
        pipeline.execute()

    def read(self, start: int | None = None, end: int | None = None) -> Any:
        return list(self._pages("-" if start is None else start, "+" if end is None else f"({end}"))

    def _pages(self, start: Any, end: Any) -> Iterator[Any]:
        while page := self._client.xrange(CHANNEL, start, end, BATCH):
            yield page
            start = b"(" + page[-1][0]

    def pairs(self, found: Any) -> Iterator[Record]:
        return ((int(key.partition(b"-")[0]), fields[b"v"]) for page in found for key, fields in page)

    def each(self) -> Iterator[Any]:
        return chain.from_iterable(self._pages("-", "+"))

    def close(self) -> None:
        self._client.close()


class DuckdbLogs:
    """A batch comes as two lists, since executemany takes some hundred times as long."""

    def __init__(self, job: LogJob) -> None:
        import duckdb

        self._db: Any = duckdb.connect(job.path)
        for setting in DUCKDB_SETTINGS:
            self._db.execute(f"SET {setting}")
        self._db.execute("CREATE TABLE IF NOT EXISTS log (time BIGINT, value VARCHAR)")

    def prepare(self, batch: list[Record]) -> list[Any]:
        return [[timestamp for timestamp, _ in batch], [value.decode() for _, value in batch]]

    def append(self, columns: Any) -> None:
        self._db.execute("INSERT INTO log SELECT unnest(?), unnest(?)", columns)

    def read(self, start: int | None = None, end: int | None = None) -> Any:
        if start is None:
            return self._db.execute(ALL).fetchall()
        return self._db.execute(f"{ALL} WHERE time >= ? AND time < ? ORDER BY time", (start, end)).fetchall()

    def pairs(self, found: Any) -> Iterator[Record]:
        return ((timestamp, value.encode()) for timestamp, value in found)

    def each(self) -> Iterator[Any]:
        cursor = self._db.execute(ALL)
        while rows := cursor.fetchmany(BATCH):
            yield from rows

    def find(self, text: str) -> Any:
        return self._db.execute(f"{ALL} WHERE value LIKE ?", [f"%{text}%"]).fetchall()

    def close(self) -> None:
        self._db.execute("CHECKPOINT")
        self._db.close()


ALL = "SELECT time, value FROM log"  # in the order in which they were appended, which is that of time
SQLITE_SETTINGS = ("journal_mode=WAL", "synchronous=NORMAL", "case_sensitive_like=ON")
DUCKDB_SETTINGS = ("threads=1",)

SYSTEMS: dict[str, Callable[[LogJob], Any]] = {
    "ours": SwarmLogs,
    "SQLite": SqliteLogs,
    "Redis": RedisLogs,
    "DuckDB": DuckdbLogs,
}


# The works.


def append(job: LogJob, logs: Any) -> dict[str, float]:
    put = job.made()
    batches = [logs.prepare(batch) for batch in cut(put, BATCH)]
    freeze()
    begun = time.perf_counter()
    for batch in batches:
        logs.append(batch)
    taken_s = time.perf_counter() - begun
    return {"append": job.records / taken_s, "raw": sum(len(value) for _, value in put)}


def read(job: LogJob, logs: Any) -> dict[str, float]:
    freeze()
    begun = time.perf_counter()
    found = logs.read()
    taken_s = time.perf_counter() - begun
    check(logs.pairs(found), job.made())
    return {"read": job.records / taken_s}


def read_each(job: LogJob, logs: Any) -> dict[str, float]:
    freeze()
    count = 0
    begun = time.perf_counter()
    for _timestamp, _value in logs.each():
        count += 1
    taken_s = time.perf_counter() - begun
    assert count == job.records, count
    return {"read": count / taken_s}


def read_part(job: LogJob, logs: Any) -> dict[str, float]:
    """1 % of the range, from some place on, again and again."""
    part = job.records // 100
    chance = random.Random(1)
    starts = [chance.randrange(job.records - part) for _ in range(DISTINCT_RANGES)]
    ranges = [(begin_ns(first), begin_ns(first + part)) for first in starts]
    found = logs.read(*ranges[0])
    check(logs.pairs(found), job.made()[starts[0] : starts[0] + part])
    freeze()
    done = 0
    taken_s = 0.0
    while taken_s < job.seconds:
        begun = time.perf_counter()
        for start, end in ranges:
            found = logs.read(start, end)
        taken_s += time.perf_counter() - begun
        done += len(ranges)
    return {"read": done * part / taken_s}


def read_newest(job: LogJob, logs: Any) -> dict[str, float]:
    """The last records that were put."""
    check(logs.pairs(logs.read(begin_ns(job.first))), job.made())
    return {}


def find(job: LogJob, logs: Any) -> dict[str, float]:
    """What one tenant's records contain: records looked through per second."""
    text = substring(FOUND_TENANT)
    found: Any = None
    freeze()
    searches = 0
    taken_s = 0.0
    while taken_s < job.seconds:
        begun = time.perf_counter()
        found = logs.find(text)
        taken_s += time.perf_counter() - begun
        searches += 1
    check(logs.pairs(found), (each for each in job.made() if text.encode() in each[1]))
    return {"find": searches * job.records / taken_s}


def check(found: Iterable[Record], put: Iterable[Record]) -> None:
    if list(found) != list(put):
        raise AssertionError("what was read is not what was put")


WORKS: dict[str, Callable[[LogJob, Any], dict[str, float]]] = {
    "append": append,
    "read": read,
    "read each": read_each,
    "read part": read_part,
    "read newest": read_newest,
    "find": find,
}


def main() -> None:
    job = LogJob(**json.loads(sys.argv[1]))
    if job.work == "append" and job.path:
        for left in Path(job.path).parent.glob(Path(job.path).name + "*"):  # of the round before
            left.unlink()
    logs = SYSTEMS[job.system](job)
    figures = WORKS[job.work](job, logs)
    logs.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
