"""Connected byte streams, as the asynchronous client uses them: over a socket."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import anyio

from swarm.core import limits
from swarm.core.config import Address
from swarm.core.errors import TlsFailed
from swarm.core.tls import NOT_TLS, failed
from swarm.core.tls_session import TlsSession
from swarm.core.tls_socket import NotTls, TlsSocket


class Transport(Protocol):
    """A connected byte stream."""

    def send_now(self, data: bytes) -> int:
        """Sends without waiting; how many bytes were taken."""

    async def send_all(self, data: bytes | memoryview) -> None: ...

    async def receive(self, into: memoryview) -> int:
        """How many bytes have come into it, 0 at the end. It has room for RECEIVE_BYTES."""

    def close(self) -> None: ...


class SocketTransport:
    """A non-blocking socket, without layers in between."""

    def __init__(self, sock: socket.socket) -> None:
        self._plain = sock
        self._sock: socket.socket | TlsSocket = sock

    def send_now(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            await anyio.wait_writable(self._plain)
            with suppress(BlockingIOError, InterruptedError):
                view = view[self._sock.send(view) :]

    async def receive(self, into: memoryview) -> int:
        while True:
            await anyio.wait_readable(self._plain)
            with suppress(BlockingIOError, InterruptedError):
                return self._sock.recv_into(into)

    def close(self) -> None:
        anyio.notify_closing(self._plain)
        self._sock.close()


class TlsTransport(SocketTransport):
    """The same with TLS. Raises TlsFailed where it fails."""

    def __init__(self, sock: socket.socket, host: str, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        session = TlsSession(context, server_hostname=host)
        self._sock = self._tls = TlsSocket(sock, session, memoryview(bytearray(limits.RECEIVE_BYTES)))
        self._heard = False

    async def shake_hands(self) -> None:
        with self._errors():
            while True:
                with suppress(BlockingIOError, InterruptedError):
                    self._tls.shake_hands()
                    return
                await anyio.wait_readable(self._plain)

    async def receive(self, into: memoryview) -> int:
        with self._errors():
            while True:
                if not self._tls.unread:
                    await anyio.wait_readable(self._plain)
                with suppress(BlockingIOError, InterruptedError):
                    size = self._sock.recv_into(into)
                    self._heard = True
                    return size

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLError as error:
            if self._heard:
                raise  # the connection is lost
            raise failed(error) from error  # the node tells of what is wrong with a client first of all
        except NotTls as error:
            raise TlsFailed(NOT_TLS) from error


async def connect_socket(address: Address, tls: ssl.SSLContext | None = None) -> Transport:
    """Connects to a node; where a name has several addresses, to the first that answers. Raises OSError, TlsFailed.

    tls: not used for Unix sockets, which nobody listens in on.
    """
    sock = await _connect_to(address)
    if tls is None or address.is_unix:
        return SocketTransport(sock)
    transport = TlsTransport(sock, address.host, tls)
    try:
        await transport.shake_hands()
    except BaseException:
        transport.close()
        raise
    return transport


async def _connect_to(address: Address) -> socket.socket:
    if address.is_unix:
        return await _connect(socket.AF_UNIX, address.path)
    infos = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for family, _, _, _, place in infos[:-1]:
        with suppress(OSError):
            return await _connect(family, place)
    return await _connect(infos[-1][0], infos[-1][4])


async def _connect(family: int, place: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(place)
        if code in (errno.EINPROGRESS, errno.EAGAIN):
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
