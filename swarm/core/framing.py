"""Frames: bytes in, lists of messages out, and back. docs/protocol.md §1. No I/O.

A frame is a 4-byte header and a msgpack array of messages. That length comes before anything is decoded, so
a frame that is too long is refused before memory is taken for it; and since a whole array is decoded or
encoded by one call into C, fifty requests cost hardly more than one.

msgpack turns few bytes into many objects: an empty array is one byte on the wire and 56 bytes in memory; and it takes
memory for as many elements as an array announces, at each of 1024 levels. So what a stranger may send is bounded to
next to nothing, and for others depth and length of arrays are, of larger bodies their number too. Bodies above 1 MiB
are decoded with maps forbidden: what they legitimately hold is a few big values.

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
_EXTENSION = msgpack.ExtType(0, b"")
_EMPTY_BIN = b"\xc4\x00"  # as msgpack encodes it
_BIN_32 = b"\xc6"  # before the length, as four bytes, of a bin of 64 KiB or more


Message = Any  # what a peer sent: an array if it keeps to the protocol


_DEPTH_OF_MSGPACK = 1024  # its stack; more is refused
_LEVELS = b"\x91" * (_DEPTH_OF_MSGPACK - limits.DEPTH_MAX)


def decode_body(body: bytes | memoryview, counted: bool) -> list[Message]:
    """The messages of one frame's body. ProtocolError unless it is exactly one non-empty array.

    counted: bound depth, length and number of arrays as far as requests allow, and allow no maps in a body that is not
    small. Clients do not: to look at the depth takes 10 us for an answer of 100 KB.
    """
    size = len(body)
    try:
        if size <= limits.DEPTH_BYTES_MIN or not counted:
            messages = unpackb(body)
        else:
            messages = _decode_longer(body, size)
    except ValueError as error:
        raise undecodable(error) from error
    if type(messages) is list and messages:
        return messages
    raise undecodable(None)


def _decode_longer(body: bytes | memoryview, size: int) -> Any:
    _check_depth(body)
    if size <= limits.FRAME_BYTES_UNCOUNTED:
        return unpackb(body, max_array_len=limits.ARRAY_ELEMENTS_MAX, ext_hook=_extension)
    return unpackb(
        body,
        list_hook=_ArrayCounter(size),
        object_hook=_refuse_map,
        max_array_len=limits.ARRAY_ELEMENTS_MAX,
        max_ext_len=0,
    )


def _extension(_code: int, _data: bytes) -> msgpack.ExtType:
    """One for all, as no request has any: to make each takes 1 us."""
    return _EXTENSION


def decode_of_stranger(body: bytes | memoryview) -> list[Message]:
    """The same for who was not greeted yet, or has not logged in."""
    most = limits.ARRAY_ELEMENTS_STRANGER
    try:
        messages = unpackb(body, max_array_len=most, max_map_len=most, max_ext_len=0)
    except ValueError as error:
        raise undecodable(error) from error
    if type(messages) is list and messages:
        return messages
    raise undecodable(None)


def _check_depth(body: bytes | memoryview) -> None:
    """ProtocolError if there are more than DEPTH_MAX arrays and maps in each other.

    msgpack skips what it need not build in 3 ms for 1 MiB, and its own stack is what ends it: part of it is taken
    before.
    """
    unpacker = msgpack.Unpacker(read_size=len(_LEVELS) + len(body), max_buffer_size=0)  # else it takes 1 MiB
    unpacker.feed(_LEVELS)
    unpacker.feed(body)
    try:
        unpacker.skip()
    except msgpack.StackError as error:
        raise ProtocolError(
            f"a frame's body holds more than {limits.DEPTH_MAX} arrays or maps in each other"
        ) from error
    except msgpack.OutOfData as error:
        raise undecodable(ValueError("it ends too early")) from error


def undecodable(error: ValueError | None) -> ProtocolError:
    """What a body that cannot be decoded is answered with."""
    why = (str(error) or type(error).__name__) if error else "it is another value, or empty"
    return ProtocolError(f"a frame's body is not one msgpack array of messages: {why}")


class _ArrayCounter:
    def __init__(self, size: int) -> None:
        """size: of the body."""
        self._seen = -1  # the one around all others does not count
        self._large = size > FRAME_BYTES_PLAIN
        self._most = limits.FRAME_ARRAYS_LARGE if self._large else limits.FRAME_ARRAYS_MAX

    def __call__(self, array: list[Any]) -> list[Any]:
        self._seen += 1
        if self._seen > self._most:
            least = FRAME_BYTES_PLAIN if self._large else limits.FRAME_BYTES_UNCOUNTED
            raise ProtocolError(
                f"a body above {least} bytes holds more than {self._most} arrays: "
                + ("send each large request in a frame of its own" if self._large else "send it in several frames")
            )
        return array


def _refuse_map(_: dict[Any, Any]) -> None:
    raise ProtocolError(f"a body above {limits.FRAME_BYTES_UNCOUNTED} bytes holds a map")


class Frames:
    """What is checked of the frames of one peer, and how they are decoded."""

    def __init__(self, frame_bytes_max: int, counted: bool) -> None:
        """frame_bytes_max: longest body accepted; HELLO_BYTES_MAX: the other end is a stranger. counted: as for
        decode_body; nodes count, clients trust their nodes."""
        self.frame_bytes_max = frame_bytes_max
        self.compression = False  # whether compressed frames are accepted
        self._counted = counted

    def length(self, header: bytes | bytearray) -> int:
        """Length of the body that a header announces, checked."""
        length = int.from_bytes(header, "big") & ~_COMPRESSED
        if header[0] >= 0x80 and not self.compression:
            raise ProtocolError("a compressed frame (or no frame at all), though compression was not agreed to")
        if self._counted and self.frame_bytes_max == limits.HELLO_BYTES_MAX and header.startswith(_TLS):
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

    def _decode_body(self, body: bytes | memoryview) -> list[Message]:
        if self.frame_bytes_max == limits.HELLO_BYTES_MAX:
            return decode_of_stranger(body)
        return decode_body(body, self._counted)

    def decode(self, body: memoryview, *, compressed: bool) -> list[Message]:
        if not compressed:
            return self._decode_body(body)
        raw_size = int.from_bytes(body[:4], "big")
        if not 0 < raw_size <= self.frame_bytes_max:
            raise ProtocolError(f"a compressed frame announces {raw_size} raw bytes, at most {self.frame_bytes_max}")
        try:
            raw = lz4.block.decompress(body[4:], uncompressed_size=raw_size)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise ProtocolError(f"a compressed frame does not decompress: {error}") from error
        if len(raw) != raw_size:
            raise ProtocolError(f"a compressed frame announces {raw_size} raw bytes and has {len(raw)}")
        return self._decode_body(raw)


class FrameDecoder(Frames):
    """Cuts what a node receives into frames and decodes them.

    A whole frame is decoded where it lies. One that is not complete yet is copied,
    and grows as its bytes arrive, never in advance.
    """

    def __init__(self, *, frame_bytes_max: int) -> None:
        super().__init__(frame_bytes_max, counted=True)
        self.partial = bytearray()
        """What was taken and not decoded, behind _start."""
        self._start = 0  # of the first frame in it that is not decoded

    def feed(self, data: memoryview) -> list[Message] | None:
        """Takes data, which may be overwritten afterwards; returns what next_frame would."""
        size = len(data) - HEADER_BYTES
        if 0 < size <= self.frame_bytes_max and not self.partial and read_header(data)[0] == size:
            return self._decode_body(data[HEADER_BYTES:])  # just one frame: decoded where it lies
        self.partial += data
        return self.next_frame()

    def next_frame(self) -> list[Message] | None:
        """The messages of the next frame, None if it is not complete. Decodes no frame before it is asked for."""
        start = self._start + HEADER_BYTES
        if len(self.partial) >= start:
            header = self.partial[self._start : start]
            end = start + self.length(header)
            if len(self.partial) >= end:
                with memoryview(self.partial) as view, view[start:end] as body:
                    messages = self.decode(body, compressed=header[0] >= 0x80)
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
        self._forget(size)
        if self.compression:
            compressed = lz4.block.compress(body, store_size=False)
            if len(compressed) + 4 < size:
                return b"".join((pack_header(len(compressed) + 4 | _COMPRESSED), pack_header(size), compressed))
        return pack_header(size) + body

    def encode_parts(self, messages: list[Message]) -> list[bytes]:
        """The same, in one frame or several, cut into pieces: each message that ends with what is large ends a frame,
        and that is a piece of its own, which is not copied."""
        if self.compression:
            return [self.encode(messages)]
        pieces: list[bytes] = []
        begin = 0
        for end, message in enumerate(messages, 1):
            if ends_large(message):
                pieces += self._encode_apart(messages[begin:end])
                begin = end
        if begin < len(messages):
            pieces.append(self.encode(messages[begin:]))
        return pieces

    def _encode_apart(self, messages: list[Message]) -> tuple[bytes, bytes]:
        """One frame, of messages that end with a large bin: what is before that, and it."""
        cut, end = _cut(messages)
        head: bytes = self._packer.pack(cut)
        self._forget(len(head))
        head = head[: -len(_EMPTY_BIN)] + _BIN_32 + pack_header(len(end))
        return pack_header(len(head) + len(end)) + head, end

    def _forget(self, size: int) -> None:
        """A packer that has packed much keeps the memory for ever."""
        if size > FRAME_BYTES_PLAIN:
            self._packer = _new_packer()
