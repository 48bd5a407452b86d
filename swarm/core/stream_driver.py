"""Drives a ConnectionHandler over any trio stream: memory streams, and what epoll cannot watch."""

import logging
import math
from time import perf_counter

import trio

from swarm.core import limits
from swarm.core.connection_handler import ConnectionHandler
from swarm.core.request_handler import Service

log = logging.getLogger(__name__)

SEND_BYTES = limits.RECEIVE_BYTES  # at once: so long may the other end take to read them


async def serve_stream(service: Service, stream: trio.abc.Stream, peer: str = "unknown address") -> None:
    """Serves one connection until either side ends it; closes the stream. peer: the client's host:port, for logs."""
    begun = trio.current_time()
    output = trio.Event()

    def flush_soon() -> None:
        output.set()

    async def send() -> None:
        nonlocal output
        while True:
            while handler.output:
                piece = handler.output[0][:SEND_BYTES]
                with trio.move_on_after(limits.STALLED_OUTPUT_TIMEOUT_S) as waiting:
                    await stream.send_all(piece)
                if waiting.cancelled_caught:
                    log.warning("connection closed: no answer was read for %.0f s", limits.STALLED_OUTPUT_TIMEOUT_S)
                    nursery.cancel_scope.cancel()
                    return
                handler.sent(len(piece))
                if handler.closing:
                    end_within(limits.CLOSING_TIMEOUT_S)
            if handler.closing and not handler.owes:
                nursery.cancel_scope.cancel()
            output = trio.Event()
            await output.wait()

    def end_within(seconds: float) -> None:
        scope = nursery.cancel_scope
        scope.deadline = min(scope.deadline, trio.current_time() + seconds)

    async def limit_stranger() -> None:
        """Whether or not it reads, and whatever it sends."""
        await trio.sleep_until(begun + limits.HELLO_TIMEOUT_S)
        if handler.stranger:
            handler.refuse(handler.overdue())
            output.set()
            end_within(limits.LAST_NOTICE_S)

    async def receive() -> None:
        while not handler.closing:
            with trio.move_on_after(
                limits.UNFINISHED_FRAME_TIMEOUT_S if handler.unfinished_bytes and not handler.stranger else math.inf
            ) as waiting:
                data = await stream.receive_some(limits.RECEIVE_BYTES)
            if waiting.cancelled_caught:
                handler.refuse(handler.overdue())
            elif not data:
                handler.end_of_input()
            else:
                service.bytes_in += len(data)
                now = perf_counter()
                service.in_pass = True
                handler.receive(memoryview(data), now, now + limits.PASS_SECONDS_MAX)
            await finish()

    async def finish() -> None:
        while True:
            service.end_pass()
            output.set()
            service.flush_others()
            if not handler.pending:
                return
            await trio.lowlevel.checkpoint()
            await handler.room_for_output()
            now = perf_counter()
            service.in_pass = True
            handler.work(now, now + limits.PASS_SECONDS_MAX)

    handler = ConnectionHandler(service, flush_soon, peer)
    try:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
            nursery.start_soon(limit_stranger)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the peer is gone, as peers may be at any time
    finally:
        handler.end()
