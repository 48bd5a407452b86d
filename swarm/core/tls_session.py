"""TLS of one connection: bytes in, bytes out. No I/O; swarm.core.tls_socket and the blocking client do it.

    network ── receive(data) ──► what was encrypted, decrypted
    network ◄── encrypt(data) ── what is to be sent
            ◄── outgoing() ───── what TLS itself has to say: the handshake, an alert, the end

What is received is decrypted at once as far as it has come: nothing that can be read is left inside, so whoever waits
for input waits for the socket alone. Both buffers of OpenSSL keep the memory of the most they have ever held, so they
are given little at a time.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress

from swarm.core import limits

STEP_BYTES = 64 * limits.KIB  # of four records, so that few end in the next step
RECORD_BYTES_MAX = 17 * limits.KIB  # of TLS, encrypted
HANDSHAKE = 0x16  # the first byte of what begins TLS
ALERT = 0x15
SEALED_BYTES = limits.RECEIVE_BYTES - RECORD_BYTES_MAX
"""Most to be received at a time: with what there was of a record before, it fits into RECEIVE_BYTES when decrypted."""


class TlsSession:
    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool = False, server_hostname: str | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._read: Callable[[int, memoryview], int] = self._tls.read  # type: ignore[assignment]  # it gives a number
        self.unread = False
        """Whether something that came with the end of the handshake was not given to `receive` yet: call it once."""

    def shake_hands(self, data: bytes | memoryview) -> bool:
        """Goes on with the handshake; whether it is complete. Raises ssl.SSLError. In any case outgoing() is to be
        sent."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.unread = self._incoming.pending > 0
        return True

    def receive(self, data: memoryview, into: memoryview) -> int | None:
        """Decrypts SEALED_BYTES at most: how many bytes are in `into` now, 0 at the end, None if there are none yet.

        Raises ssl.SSLError.
        """
        self.unread = False
        size = start = 0
        try:
            while True:
                self._incoming.write(data[start : start + STEP_BYTES])
                start += STEP_BYTES
                try:
                    while got := self._read(STEP_BYTES, into[size:]):
                        size += got
                        if start >= len(data) and not self._incoming.pending and not self._tls.pending():
                            return size  # what this saves is the most expensive part of a small answer: the exception
                    return size
                except ssl.SSLWantReadError:
                    if start >= len(data):
                        return size or None
        except ssl.SSLZeroReturnError:
            return size

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """What is to be sent for it, with whatever else is to be sent."""
        if len(data) <= STEP_BYTES:
            self._tls.write(data)
            return self._outgoing.read()
        view = memoryview(data)
        pieces = []
        for start in range(0, len(view), STEP_BYTES):
            self._tls.write(view[start : start + STEP_BYTES])
            pieces.append(self._outgoing.read())
        return b"".join(pieces)

    def outgoing(self) -> bytes:
        return self._outgoing.read()

    def end(self) -> bytes:
        """What tells the other end that nothing more comes."""
        with suppress(ssl.SSLError):  # it wants the other end to tell the same, which nobody waits for
            self._tls.unwrap()
        return self._outgoing.read()
