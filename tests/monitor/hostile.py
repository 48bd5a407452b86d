"""A server on a raw socket that says what a test wants in place of a node. Shares no code with the swarm."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgpack

STATS, HEALTH, EVENTS = 4, 10, 11
DONE, OTHER_ERROR = 0, 99
UNKNOWN = LookupError("unknown request")
LIMITS = {"value_bytes": 2**24, "key_bytes": 480, "batch_bytes": 2**18, "batch_records": 1024, "streams": 64}


def frame(*messages: Any) -> bytes:
    body: bytes = msgpack.packb(messages)
    return struct.pack(">I", len(body)) + body


def hello(kind: str, *, software: str = "fake 1", **facts: Any) -> bytes:
    facts = {"kind": kind, "node": software, "hash_range": [0, 2**64 - 1], **facts}
    return frame(["swarm", 1, {**facts, "limits": LIMITS, "compression": None, "authentication": []}])


def reply(request_id: int, status: int, result: Any) -> bytes:
    return frame([request_id, status, result])


@contextmanager
def hostile_node(kind: str, answer: Callable[[int], object], *, software: str = "fake 1") -> Iterator[str]:
    """The address of a node that answers each request with what `answer` makes of its code; an exception is answered
    as an error with its text."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as open_now:

        def serve(connection: socket.socket) -> None:
            received, greeted = b"", False
            while data := _receive(connection):
                received += data
                while len(received) >= 4 and len(received) >= (end := 4 + struct.unpack(">I", received[:4])[0]):
                    for request in msgpack.unpackb(received[4:end]):
                        said = _answer(request[0], answer(request[1])) if greeted else hello(kind, software=software)
                        _send(connection, said)
                        greeted = True
                    received = received[end:]

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                open_now.enter_context(connection)
                thread = threading.Thread(target=serve, args=[connection])
                thread.start()
                threads.append(thread)

        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def for_stats(statistics: object) -> Callable[[int], object]:
    """Answers what asks for statistics, and nothing else."""
    return lambda code: statistics if code == STATS else UNKNOWN


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the client has gone
        connection.sendall(data)


def _answer(request_id: int, result: object) -> bytes:
    if isinstance(result, Exception):
        return reply(request_id, OTHER_ERROR, [str(result), {}])
    return reply(request_id, DONE, result)
