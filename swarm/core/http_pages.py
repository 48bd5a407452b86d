"""What a node tells over HTTP.

    /metrics   for Prometheus
    /health    what the health rules have found, as JSON; always 200, for a node that warns serves as well as it can.
               With ?strict the status is 503 where something was found, for programs that look at nothing else
    /ready     200 while the node serves, 503 from the moment on at which it is told to stop
    /stats     all figures, as JSON
    /          a page for people, with links to these

What a health rule finds is for people to act on: a balancer or a supervisor that takes a node away because its disk is
nearly full makes it worse. So only /ready tells them anything, and /health?strict whoever has read this.
"""

import json
from collections.abc import Awaitable, Callable
from html import escape
from math import inf

import trio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from swarm.core.config import Address
from swarm.core.http_hosts import check_of_host
from swarm.core.limits import HTTP_SHARED_S
from swarm.core.metrics import exposition
from swarm.core.node import Node

NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def node_pages(node: Node, address: Address) -> Starlette:
    """address: where they are served."""

    async def health(request: Request) -> Response:
        findings = [{"rule": rule, "text": text} for rule, text in node.health.findings()]
        failed = findings and "strict" in request.query_params
        said = {"status": "warning" if findings else "ok", "kind": node.service.kind, "findings": findings}
        return JSONResponse(said, 503 if failed else 200, NO_STORE)

    async def ready(_: Request) -> Response:
        said, status = ("stopping", 503) if node.stopping else ("ready", 200)
        return PlainTextResponse(f"{said}\n", status, NO_STORE)

    async def index(_: Request) -> Response:
        return HTMLResponse(_INDEX.format(software=escape(node.service.software)), headers=NO_STORE)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", _shared(lambda: exposition(node), CONTENT_TYPE_LATEST)),
            Route("/stats", _shared(lambda: _stats(node), "application/json")),
        ],
        middleware=check_of_host(address),
    )


def _shared(make: Callable[[], Awaitable[bytes]], media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """A page that is made once for all who ask for it within HTTP_SHARED_S."""
    making = trio.Lock()
    page, made = b"", -inf

    async def answer(_: Request) -> Response:
        nonlocal page, made
        async with making:
            if trio.current_time() - made >= HTTP_SHARED_S:
                page = await make()
                made = trio.current_time()
        return Response(page, headers=NO_STORE, media_type=media_type)

    return answer


async def _stats(node: Node) -> bytes:
    """Node.statistics(), made in steps: a node may have many channels."""
    parts = []
    for some in node.channel_counts():
        parts.append(json.dumps(some)[1:-1])
        await trio.lowlevel.checkpoint()
    return f'{json.dumps(node.counts())[:-1]}, "channel": {{{", ".join(parts)}}}}}\n'.encode()


_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{software}</title></head><body style="font-family: sans-serif">
<h1>{software}</h1>
<ul>
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/health">/health</a>: what is wrong, and what to do
<li><a href="/ready">/ready</a>: whether it serves
<li><a href="/stats">/stats</a>: all figures, as JSON
</ul>
</body></html>
"""
