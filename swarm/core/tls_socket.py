"""A socket with TLS, used as any that does not block: by a node's listener and by the clients for trio and asyncio."""

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress

from swarm.core.tls_session import ALERT, HANDSHAKE, SEALED_BYTES, TlsSession

SEND_BYTES = 256 * 1024  # encrypted ahead of the network: so much memory a connection takes whose peer does not read
UNASKED_BYTES_MAX = 4096  # that TLS itself has to say and a peer does not read, who asks for it again and again


class NotTls(ConnectionError):
    """What came first is not TLS."""


class TlsSocket:
    """A non-blocking socket with TLS.

    send tells that bytes were taken when what they were encrypted to has left; until then it raises BlockingIOError,
    and has to be called with the same bytes again, more may have come behind them.
    """

    def __init__(self, sock: socket.socket, session: TlsSession, sealed: memoryview) -> None:
        """sealed: for what is received, SEALED_BYTES; several sockets may share it, it holds nothing between calls."""
        self.plain = sock
        self._session = session
        self._sealed = sealed[:SEALED_BYTES]
        self._unsent: bytes | memoryview = b""
        self._taken = 0  # of what was given to send, in _unsent
        self._begun = False
        self._established = False

    def fileno(self) -> int:
        return self.plain.fileno()

    @property
    def unread(self) -> bool:
        """Whether to receive at once: the socket itself may have nothing more."""
        return self._session.unread

    def shake_hands(self) -> None:
        """Goes on with the handshake, until it is complete. BlockingIOError: more has to come. ssl.SSLError, NotTls,
        ConnectionError: it has failed, and the other end was told why, if that is possible."""
        self._advance(b"")
        while not self._established:
            size = self.plain.recv_into(self._sealed)
            if size == 0:
                raise ConnectionResetError("the connection was closed in the middle of the TLS handshake")
            if not self._begun and self._sealed[0] not in (HANDSHAKE, ALERT):
                raise NotTls("what comes is not TLS")
            self._begun = True
            self._advance(self._sealed[:size])

    @property
    def begun(self) -> bool:
        """Whether the other end has sent anything."""
        return self._begun

    def _advance(self, data: bytes | memoryview) -> None:
        try:
            self._established = self._session.shake_hands(data)
        except ssl.SSLError:
            with suppress(OSError):
                self.plain.send(self._session.outgoing())
            raise
        # It is some KB for an empty socket, so it leaves at once.
        if (data := self._session.outgoing()) and self.plain.send(data) < len(data):
            raise ConnectionAbortedError("the TLS handshake is not read")

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """buffer: of RECEIVE_BYTES at least."""
        into = memoryview(buffer)
        if self._session.unread and (decrypted := self._session.receive(self._sealed[:0], into)) is not None:
            return decrypted
        received = self.plain.recv_into(self._sealed)
        if received == 0:
            return 0
        decrypted = self._session.receive(self._sealed[:received], into)
        self._answer()
        if decrypted is None:
            raise BlockingIOError
        return decrypted

    def _answer(self) -> None:
        """Sends what TLS itself has to say, in its turn."""
        if answer := self._session.outgoing():
            self._unsent = bytes(self._unsent) + answer
            if len(self._unsent) > SEND_BYTES + UNASKED_BYTES_MAX:
                raise ConnectionAbortedError("it asks for new TLS keys, and does not read the answers")
            if not self._taken:
                with suppress(BlockingIOError):
                    self._send_unsent()

    def send(self, data: bytes | memoryview) -> int:
        if not self._taken:
            piece = data if len(data) <= SEND_BYTES else memoryview(data)[:SEND_BYTES]
            encrypted = self._session.encrypt(piece)
            self._unsent = bytes(self._unsent) + encrypted if self._unsent else encrypted
            self._taken = len(piece)
        self._send_unsent()
        taken, self._taken = self._taken, 0
        return taken

    def _send_unsent(self) -> None:
        size = self.plain.send(self._unsent)
        if size < len(self._unsent):
            self._unsent = memoryview(self._unsent)[size:]
            raise BlockingIOError
        self._unsent = b""

    def sendmsg(self, pieces: Sequence[bytes | memoryview]) -> int:
        if len(pieces) == 1 or len(pieces[0]) >= SEND_BYTES or self._taken:
            return self.send(pieces[0])
        together, size = [], 0
        for piece in pieces:
            together.append(memoryview(piece)[: SEND_BYTES - size])
            size += len(together[-1])
        return self.send(b"".join(together))

    def shutdown(self, how: int) -> None:
        self._end()
        self.plain.shutdown(how)

    def close(self) -> None:
        self._end()
        self.plain.close()

    def _end(self) -> None:
        if self._established and not self._unsent:
            self._established = False
            with suppress(OSError):
                self.plain.send(self._session.end())
