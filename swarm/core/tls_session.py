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
IDLE_STEP_BYTES = 4 * limits.KIB  # instead, while nothing comes out of it: what it costs is looked at so often
IDLE_BYTES_MAX = 32 * limits.KIB  # that nothing comes out of: two records; new keys (TLS 1.3) cost 0.7 us for each byte
SEALED_PER_BYTE = 32  # that a byte which comes out accounts for: in a record of its own it takes 23
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
        self._idle_bytes = 0  # received, beyond what is accounted for by what came out
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

        Raises ssl.SSLError, also where TLS has much to say and little comes out: it would take the time of others.
        """
        self.unread = False
        size = start = 0
        step = RECORD_BYTES_MAX
        try:
            while True:
                self._incoming.write(data[start : start + step])
                fed, before = min(step, len(data) - start), size
                start += fed
                try:
                    while got := self._read(STEP_BYTES, into[size:]):
                        size += got
                        if start >= len(data) and not self._incoming.pending and not self._tls.pending():
                            self._account(fed, size - before)
                            return size  # what this saves is the most expensive part of a small answer: the exception
                    return size
                except ssl.SSLWantReadError:
                    self._account(fed, size - before)
                    if start >= len(data):
                        return size or None
                    step = STEP_BYTES if size - before > fed // 2 else IDLE_STEP_BYTES
        except ssl.SSLZeroReturnError:
            return size

    def _account(self, sealed: int, plain: int) -> None:
        self._idle_bytes = max(0, self._idle_bytes + sealed - SEALED_PER_BYTE * plain)
        if self._idle_bytes > IDLE_BYTES_MAX:
            raise ssl.SSLError(f"{self._idle_bytes} bytes have come, and next to no data in them")

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
