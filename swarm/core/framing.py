"""Frames: bytes in, lists of messages out, and back. docs/protocol.md §1. No I/O.

A frame is a 4-byte header and a msgpack array of messages. That length comes before anything is decoded, so
a frame that is too long is refused before memory is taken for it; and since a whole array is decoded or
encoded by one call into C, fifty requests cost hardly more than one.

msgpack turns few bytes into many objects: an empty map is one byte on the wire and 64 bytes in memory. Bodies up to
1 MiB are decoded as they are, so the worst is some 64 MiB for a moment. Larger ones are decoded with each array
counted and maps forbidden: what they legitimately hold is a few big values.

Considered and rejected: a bare stream of msgpack messages. msgpack's streaming decoder keeps 44 KB a connection, cannot
tell whether it stands between two messages, and takes memory for what it has not seen the end of.
"""

import struct
from typing import Any

import lz4.block
import msgpack
from msgpack import unpackb

from swarm.core import limits
from swarm.core.errors import ProtocolError, TlsFailed
from swarm.core.limits import APART_BYTES_MIN, COMPRESS_BYTES_MIN, FRAME_BYTES_PLAIN

HEADER_BYTES = 4
PACKER_BYTES = 1024  # to begin with; msgpack would take 1 MiB for each connection
_HEADER = struct.Struct(">I")
read_header = _HEADER.unpack_from
pack_header = _HEADER.pack
_COMPRESSED = 1 << 31
_TLS = b"\x16\x03"  # with which TLS begins, where a frame would be far too long for a hello
_EMPTY_BIN = b"\xc4\x00"  # as msgpack encodes it
_BIN_32 = b"\xc6"  # before the length, as four bytes, of a bin of 64 KiB or more


def is_frame(buffer: memoryview, size: int) -> bool:
    """Whether buffer[:size], which has more bytes than a header, is just one frame that is not compressed."""
    return bool(read_header(buffer)[0] == size - HEADER_BYTES)


Message = Any  # what a peer sent: an array if it keeps to the protocol


def decode_body(body: bytes | memoryview, counted: bool) -> list[Message]:
    """The messages of one frame's body. ProtocolError unless it is exactly one non-empty array.

    counted: bound the number of arrays in a large body, and allow no maps there.
    """
    try:
        if counted and len(body) > FRAME_BYTES_PLAIN:
            messages = unpackb(
                body, list_hook=_ArrayCounter(), object_hook=_refuse_map, max_array_len=2 * limits.BATCH_RECORDS_MAX
            )
        else:
            messages = unpackb(body)
    except ValueError as error:
        raise undecodable(error) from error
    if type(messages) is list and messages:
        return messages
    raise undecodable(None)


def undecodable(error: ValueError | None) -> ProtocolError:
    """What a body that cannot be decoded is answered with."""
    why = (str(error) or type(error).__name__) if error else "it is another value, or empty"
    return ProtocolError(f"a frame's body is not one msgpack array of messages: {why}")


class _ArrayCounter:
    def __init__(self) -> None:
        self._seen = -1  # the one around all others does not count

    def __call__(self, array: list[Any]) -> list[Any]:
        self._seen += 1
        if self._seen > limits.FRAME_ARRAYS_LARGE:
            raise ProtocolError(
                f"a body above {FRAME_BYTES_PLAIN} bytes holds more than {limits.FRAME_ARRAYS_LARGE} arrays: "
                "send each large request in a frame of its own"
            )
        return array


def _refuse_map(_: dict[Any, Any]) -> None:
    raise ProtocolError(f"a body above {FRAME_BYTES_PLAIN} bytes holds a map")


class FrameDecoder:
    """Cuts what is received into frames and decodes them.

    Whole frames are decoded where they lie. Only a frame that is not complete yet is copied,
    and grows as its bytes arrive, never in advance.
    """

    def __init__(self, *, frame_bytes_max: int, counted: bool) -> None:
        """frame_bytes_max: longest body accepted. counted: as for decode_body; nodes count, clients trust their
        nodes."""
        self.frame_bytes_max = frame_bytes_max
        self.compression = False  # whether compressed frames are accepted
        self._counted = counted
        self.partial = bytearray()
        """What was taken and not decoded, behind _start."""
        self._start = 0  # of the first frame in it that is not decoded

    def feed(self, data: memoryview) -> list[Message] | None:
        """Takes data, which may be overwritten afterwards; returns what next_frame would."""
        size = len(data) - HEADER_BYTES
        if 0 < size <= self.frame_bytes_max and not self.partial and read_header(data)[0] == size:
            return decode_body(data[HEADER_BYTES:], self._counted)  # just one frame: decoded where it lies
        self.partial += data
        return self.next_frame()

    def next_frame(self) -> list[Message] | None:
        """The messages of the next frame, None if it is not complete. Decodes no frame before it is asked for."""
        start = self._start + HEADER_BYTES
        if len(self.partial) >= start:
            header = self.partial[self._start : start]
            end = start + self._length(header)
            if len(self.partial) >= end:
                with memoryview(self.partial) as view, view[start:end] as body:
                    messages = self._decode(body, compressed=header[0] >= 0x80)
                self._start = end
                if end == len(self.partial):
                    self.clear()
                return messages
        if self._start == len(self.partial):
            self.clear()
        else:
            del self.partial[: self._start]
            self._start = 0
        return None

    def clear(self) -> None:
        """Forgets what was not decoded."""
        self.partial = bytearray()  # and not clear(), which keeps the memory of the largest frame
        self._start = 0

    def _length(self, header: bytearray) -> int:
        """Length of the body that a header announces, checked."""
        length = int.from_bytes(header, "big") & ~_COMPRESSED
        if header[0] >= 0x80 and not self.compression:
            raise ProtocolError("a compressed frame (or no frame at all), though compression was not agreed to")
        if self.frame_bytes_max == limits.HELLO_BYTES_MAX and header.startswith(_TLS):
            raise TlsFailed(
                "the client speaks TLS, and this node does not: configure [tls] here, or reach it without TLS"
            )
        if not 0 < length <= self.frame_bytes_max:
            raise ProtocolError(
                f"a frame announces a body of {length} bytes; 1 to {self.frame_bytes_max} are accepted"
                + (
                    " before the hello, and the login if there is one,"
                    if self.frame_bytes_max == limits.HELLO_BYTES_MAX
                    else ""
                )
            )
        return length

    def _decode(self, body: memoryview, *, compressed: bool) -> list[Message]:
        if not compressed:
            return decode_body(body, self._counted)
        raw_size = int.from_bytes(body[:4], "big")
        if not 0 < raw_size <= self.frame_bytes_max:
            raise ProtocolError(f"a compressed frame announces {raw_size} raw bytes, at most {self.frame_bytes_max}")
        try:
            raw = lz4.block.decompress(body[4:], uncompressed_size=raw_size)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise ProtocolError(f"a compressed frame does not decompress: {error}") from error
        if len(raw) != raw_size:
            raise ProtocolError(f"a compressed frame announces {raw_size} raw bytes and has {len(raw)}")
        return decode_body(raw, self._counted)


def _cut(value: Any) -> tuple[Any, bytes]:
    """A value with an empty bin in the place of the bin that is its end, and that one."""
    if type(value) is bytes:
        return b"", value
    inner, end = _cut(value[-1])
    return [*value[:-1], inner], end


def ends_large(messages: Any) -> bool:
    """Whether the last thing in them is a bin that is better not copied."""
    last = messages
    while type(last) in (list, tuple) and last:
        last = last[-1]
    return type(last) is bytes and len(last) >= APART_BYTES_MIN


def _new_packer() -> msgpack.Packer:
    return msgpack.Packer(buf_size=PACKER_BYTES)


class FrameEncoder:
    """Encodes lists of messages as frames."""

    def __init__(self) -> None:
        self.compression = False
        self._packer = _new_packer()

    def encode(self, messages: list[Message], *, alone_above: int | None = None) -> bytes:
        """One frame with all the messages, its length is the caller's to bound; or, if they take more than alone_above
        bytes, one frame for each."""
        body: bytes = self._packer.pack(messages)
        size = len(body)
        if alone_above is not None and size > alone_above and len(messages) > 1:
            return b"".join(self.encode([message]) for message in messages)
        if size < COMPRESS_BYTES_MIN:
            return pack_header(size) + body
        if size > FRAME_BYTES_PLAIN:
            self._packer = _new_packer()  # one that has packed much keeps the memory for ever
        if self.compression:
            compressed = lz4.block.compress(body, store_size=False)
            if len(compressed) + 4 < size:
                return b"".join((pack_header(len(compressed) + 4 | _COMPRESSED), pack_header(size), compressed))
        return pack_header(size) + body

    def encode_parts(self, messages: list[Message]) -> list[bytes]:
        """The same frame, in one piece, or in two where what it ends with is large and need not be copied."""
        if self.compression or not ends_large(messages):
            return [self.encode(messages)]
        cut, end = _cut(messages)
        head: bytes = self._packer.pack(cut)
        head = head[: -len(_EMPTY_BIN)] + _BIN_32 + pack_header(len(end))
        return [pack_header(len(head) + len(end)) + head, end]
