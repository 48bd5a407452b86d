"""Dashboards to be tested: the command as a process, and a server in a thread that shows what a test wants."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from swarm.core.config import Address
from swarm.core.http_server import HttpServer
from swarm.core.node import listen
from swarm.dashboard.board import Board
from swarm.dashboard.server import make_app
from swarm.dht.hash_range import split_evenly
from swarm.monitor import NodeView
from tests.cli.commands import SWARM
from tests.waiting import PATIENCE_S, wait_until

NOW_S = 1_790_000_000.0


class Dashboard:
    """A running `swarm dashboard`."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.process = process
        self.url = url

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def data(self, query: str = "") -> dict[str, Any]:
        status, body = get(self.url, f"/data.json{query}")
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def node(self, number: int = 0) -> dict[str, Any]:
        """As it was last seen; empty before the first look."""
        now = self.data()["now"]
        return now["nodes"][number] if now else {}

    def wait_for_node(self, number: int, **figures: object) -> dict[str, Any]:
        """Until the dashboard has seen the node with these figures."""

        def seen() -> dict[str, Any] | None:
            node = self.node(number)
            return node if node and figures.items() <= node.items() else None

        return wait_until(seen)


@contextmanager
def running_dashboard(directory: Path, *options: str, port: int = 0) -> Iterator[Dashboard]:
    """directory: for what it says; port: 0 is any."""
    output = directory / "dashboard.log"
    with output.open("wb") as file:
        command = [*SWARM, "dashboard", "--address", f"127.0.0.1:{port}", *options]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    with process:
        try:
            wait_until(lambda: process.poll() is not None or "dashboard is at" in output.read_text())
            found = re.search(r"is at (http://\S+)", output.read_text())
            assert found, output.read_text()
            yield Dashboard(process, found[1])
        finally:
            process.terminate()
    assert "Traceback" not in output.read_text(), output.read_text()


@contextmanager
def serving(board: Board) -> Iterator[str]:
    """Serves a board as the dashboard does; where."""
    address = Address("127.0.0.1", 0)
    with listen(address) as sock:
        started = threading.Event()
        stop = trio.CancelScope()
        tokens: list[trio.lowlevel.TrioToken] = []

        async def run() -> None:
            tokens.append(trio.lowlevel.current_trio_token())
            started.set()
            with stop:
                await HttpServer(make_app(board, address), sock).run()

        thread = threading.Thread(target=trio.run, args=[run])
        thread.start()
        started.wait()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        finally:
            tokens[0].run_sync_soon(stop.cancel)
            thread.join()


def board_of(views: Sequence[NodeView], looks: int = 3) -> Board:
    """What a dashboard knows that has looked so often, and has always seen the same."""
    board = Board("test")
    for number in range(looks):
        board.take(views, NOW_S + number)
    return board


def dht_views(count: int) -> list[NodeView]:
    """Nodes that are up, and share all hashes."""
    return [
        NodeView("dht", f"127.0.0.1:{10001 + number}", "up", hash_range=each, requests_per_s=100.0 * number)
        for number, each in enumerate(split_evenly(count))
    ]


def get(url: str, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    """Status and body."""
    with asked(url, path, method, host) as response:
        return response.status, response.read().decode()


@contextmanager
def asked(url: str, path: str, method: str = "GET", host: str | None = None) -> Iterator[HTTPResponse]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        yield connection.getresponse()
    finally:
        connection.close()
