"""Serves the page, and the board that it shows, over HTTP.

    watch ──► board, each second ──► application ──► HttpServer ──► browsers

A browser asks for /data.json once a second, and names the last tick that it has (board). Nothing is kept for a browser
between two requests, so none can make this process grow, and one that slept has no stream to mend.

Whoever can send a request sees everything that the page shows, and can change nothing: there is only GET. On loopback
the name in the request's Host has to be one of loopback's, so that a page of somebody else's, in a browser on this
machine, cannot read the swarm under a name of its own that leads here (DNS rebinding). The policy in _HEADERS lets the
page load nothing from elsewhere and run no script but its own, even if a text of a node should become markup.
"""

import socket
import time
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

import trio
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swarm.core.config import Address
from swarm.core.http_hosts import check_of_host
from swarm.core.http_server import HttpServer
from swarm.dashboard.board import INTERVAL_S, Board
from swarm.monitor import Watch

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


async def serve(sock: socket.socket, board: Board, watch: Watch, address: Address) -> None:
    """Serves until it is cancelled.

    sock: it listens at the address. watch: it runs.
    """
    app = make_app(board, address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_look, watch, board)
        await HttpServer(app, sock).run()


async def _look(watch: Watch, board: Board) -> None:
    await watch.first_round()
    while True:
        due = trio.current_time() + INTERVAL_S
        board.take(watch.views(), time.time())
        await trio.sleep_until(due)


# The application.


def make_app(board: Board, address: Address) -> ASGIApp:
    """The page at /, its parts beside it, and the board at /data.json. address: where it is served."""
    pages = _read_static()

    # Both are async although they wait for nothing: others are run in threads.
    async def page(request: Request) -> Response:
        content = pages.get(request.url.path.removeprefix("/") or "index.html")
        if content is None:
            return PlainTextResponse("there is no such page\n", 404)
        body, media_type = content
        return Response(body, media_type=media_type)

    async def data(request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= 15):
            return PlainTextResponse("after is the number of the last tick that is known\n", 400)
        return Response(board.answer(request.query_params.get("run", ""), int(after)), media_type="application/json")

    middleware = [Middleware(_SafeHeaders), *check_of_host(address)]
    return Starlette(routes=[Route("/data.json", data), Route("/{path:path}", page)], middleware=middleware)


def _read_static() -> dict[str, tuple[bytes, str]]:
    """All files of the page, by their paths: read once, so that no request ever leads to the disk."""
    found: dict[str, tuple[bytes, str]] = {}

    def read(directory: Traversable, at: PurePosixPath) -> None:
        for each in directory.iterdir():
            path = at / each.name
            if each.is_dir():
                read(each, path)
            else:
                found[str(path)] = each.read_bytes(), _TYPES.get(path.suffix, "text/plain")

    read(resources.files("swarm.dashboard") / "static", PurePosixPath())
    return found


class _SafeHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_safely)
