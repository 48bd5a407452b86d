"""The client programs of bench.security, as those of bench.client:

python -m bench.security_client '{"work": "dht batches", "port": 10001, "ca": "ca.pem", …}'
"""

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from bench.client import CHANNEL, CHUNK, KEY_BYTES, TIMEOUT_S, WARM_UP_S, Task, cut, freeze, repeat
from bench.queue_client import BATCH, check_batch, make_records
from swarm.blocking import DhtClient, QueueClient
from swarm.core.tls import client_context


@dataclass(frozen=True)
class SecurityJob(Task):
    module = "bench.security_client"

    work: str
    """A name in WORKS."""
    port: int
    records: int
    value_bytes: int
    seconds: float
    """How long each thing is repeated."""
    ca: str = ""
    """File with the node's authority; empty: without TLS."""
    credentials: str = ""
    """File with the client's name and key; empty: without a login."""

    def client(self, kind: Callable[..., Any]) -> Any:
        return kind(
            f"127.0.0.1:{self.port}",
            timeout=TIMEOUT_S,
            tls=client_context(self.ca) if self.ca else None,
            credentials=self.credentials or None,
        )


def dht_batches(job: SecurityJob) -> dict[str, float]:
    """Puts all records batch by batch, and gets them in the same way; again until the time is over."""
    keys = list(cut(make_records(job.records, KEY_BYTES), BATCH))
    parts = [dict(zip(part, make_records(len(part), job.value_bytes), strict=True)) for part in keys]
    with job.client(DhtClient) as dht:
        dht.put_many(CHANNEL, parts[0])
        freeze()
        put_s = get_s = 0.0
        rounds = 0
        while put_s + get_s < 2 * job.seconds:
            begun = time.perf_counter()
            for part in parts:
                dht.put_many(CHANNEL, part)
            put = time.perf_counter()
            for part_keys in keys:
                found = dht.get_many(CHANNEL, part_keys)
            get_s += time.perf_counter() - put
            put_s += put - begun
            rounds += 1
            if found != parts[-1]:
                raise AssertionError("what was got is not what was put")
    return {"put": rounds * job.records / put_s, "get": rounds * job.records / get_s}


def queue_batches(job: SecurityJob) -> dict[str, float]:
    """The same with pushes and pops."""
    parts = list(cut(make_records(job.records, job.value_bytes), BATCH))
    with job.client(QueueClient) as queue:
        queue.push_many(CHANNEL, parts[0])
        check_batch(queue.pop_many(CHANNEL, BATCH), parts[0])
        freeze()
        push_s = pop_s = 0.0
        rounds = 0
        while push_s + pop_s < 2 * job.seconds:
            begun = time.perf_counter()
            for part in parts:
                queue.push_many(CHANNEL, part)
            pushed = time.perf_counter()
            for _ in parts:
                popped = queue.pop_many(CHANNEL, BATCH)
            pop_s += time.perf_counter() - pushed
            push_s += pushed - begun
            check_batch(popped, parts[-1])
            rounds += 1
    return {"push": rounds * job.records / push_s, "pop": rounds * job.records / pop_s}


def one_at_a_time(job: SecurityJob) -> dict[str, float]:
    keys = list(cut(make_records(job.records, KEY_BYTES), CHUNK))
    random.shuffle(keys)
    value = random.randbytes(job.value_bytes)
    with job.client(DhtClient) as dht:

        def puts(chunk: list[bytes]) -> None:
            for key in chunk:
                dht.put(CHANNEL, key, value)

        def gets(chunk: list[bytes]) -> None:
            for key in chunk:
                dht.get(CHANNEL, key)

        repeat(puts, cycle(keys), WARM_UP_S)
        freeze()
        return {"put": repeat(puts, cycle(keys), job.seconds), "get": repeat(gets, cycle(keys), job.seconds)}


def connect(job: SecurityJob) -> dict[str, float]:
    """ms until a new client has the answer to its first request, a ping."""
    taken_s = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < job.seconds or len(taken_s) < CHUNK:
        with job.client(DhtClient) as dht:  # what it reads from files is read once in a client's life
            before = time.perf_counter()
            dht.ping()
            taken_s.append(time.perf_counter() - before)
    return {"ms": 1e3 * sorted(taken_s)[len(taken_s) // 2]}


WORKS: dict[str, Callable[[SecurityJob], dict[str, float]]] = {
    "dht batches": dht_batches,
    "queue batches": queue_batches,
    "one at a time": one_at_a_time,
    "connect": connect,
}


if __name__ == "__main__":
    given = SecurityJob(**json.loads(sys.argv[1]))
    print(json.dumps(WORKS[given.work](given)))
