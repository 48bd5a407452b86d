"""HTTP as bytes over a socket, so that tests may say whatever they like; and nodes that answer it."""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from nodes.dht.config import DhtConfig
from nodes.logfiles.config import LogfilesConfig
from nodes.queue.config import QueueConfig, QueueSection
from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from swarm.core.config import Address
from swarm.core.credentials import Credentials
from swarm.core.http import HttpSection
from swarm.testing import DhtProcess, LogfilesProcess, QueueProcess
from tests.waiting import PATIENCE_S

HTTP = HttpSection(address=Address("127.0.0.1", 0))
KINDS = ("dht", "queue", "logfiles")
AnyProcess = DhtProcess | QueueProcess | LogfilesProcess


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE_S)


def read_answer(sock: socket.socket, *, head_only: bool = False) -> Answer:
    """One answer, exactly; EOFError if the connection ends before one has begun."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            assert not data, f"the answer ends within its head: {data!r}"
            raise EOFError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = 0 if head_only else int(headers["content-length"])
    while len(body) < length:
        body += sock.recv(65536)
    assert len(body) == length, "there is more than the answer"
    return Answer(int(status.split()[1]), headers, body)


def ended(sock: socket.socket) -> bool:
    """Whether nothing more comes; waits for it."""
    try:
        return sock.recv(65536) == b""
    except ConnectionResetError:
        return True


def get(address: tuple[str, int], path: str, method: str = "GET", host: str = "localhost") -> Answer:
    """On a connection of its own."""
    with closing(connect(address)) as sock:
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = read_answer(sock, head_only=method == "HEAD")
        assert ended(sock)
        return answer


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: bytes) -> Samples:
    """By name and labels; no sample may be there twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def make_process(kind: str, directory: Path, http: HttpSection = HTTP, **sections: Any) -> AnyProcess:
    """sections: of the node's configuration."""
    match kind:
        case "dht":
            return DhtProcess(directory, replace(DhtConfig(http=http), **sections))
        case "queue":
            config = QueueConfig(http=http, queue=QueueSection(ring_bytes=64 * 1024))
            return QueueProcess(directory, replace(config, **sections))
    return LogfilesProcess(directory, replace(LogfilesConfig(http=http), **sections))


def http_address(process: AnyProcess) -> tuple[str, int]:
    """Where a process has said that it serves HTTP, since it was last started."""
    places = [found for line in process.output if (found := re.search(r"HTTP on ([0-9.]+):(\d+): ", line))]
    return places[-1][1], int(places[-1][2])


@contextmanager
def client_of(
    kind: str, process: AnyProcess, credentials: Credentials | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Any]:
    client = {"dht": DhtClient, "queue": QueueClient, "logfiles": LogfilesClient}[kind]
    with client([process.address], credentials=credentials, tls=tls) as each:
        yield each


def write(kind: str, client: Any, channel: str, count: int = 3) -> None:
    """Records of 100 bytes, keys included."""
    match kind:
        case "dht":
            client.put_many(channel, {b"%04d" % number: b"x" * 96 for number in range(count)})
        case "queue":
            client.push_many([channel], [b"x" * 100] * count)
        case _:
            client.put_many(channel, [(number, b"x" * 100) for number in range(count)])
