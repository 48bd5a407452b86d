"""What a client receives, decoded where it was received. docs/protocol.md §1. No I/O.

    buffer    │ decoded │ received, not decoded │ room              │
                        start                   end

A client trusts its node: as soon as the header of a frame has come there is room for all of it. The room is as long as
RECEIVE_BYTES at least; what was received is moved only where the rest of its frame finds no place behind it. A buffer
that has grown is kept up to RECEIVED_BYTES_KEPT: to take memory for each large frame costs a page fault every 4 KiB.
"""

from typing import Any

from msgpack import unpackb

from swarm.core.framing import HEADER_BYTES, Frames, Message, read_header
from swarm.core.limits import RECEIVE_BYTES, RECEIVED_BYTES_KEPT


class FrameReceiver(Frames):
    def __init__(self, *, frame_bytes_max: int) -> None:
        """frame_bytes_max: longest body accepted."""
        super().__init__(frame_bytes_max, counted=False)
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._start = self._end = 0
        self.room = self.buffer
        """What comes next is received into it. Another one when next_frame has given None."""

    def only_frame(self, size: int) -> Any:
        """What a frame holds that is all that has come, so many bytes into the room. None if it is anything else, or
        compressed: they are still to be taken with `received` then."""
        room = self.room
        if self._end or size <= HEADER_BYTES or read_header(room)[0] != size - HEADER_BYTES:
            return None
        try:
            return unpackb(room[HEADER_BYTES:size])
        except ValueError:
            return None

    def received(self, size: int) -> list[Message] | None:
        """So many bytes are in the room now; returns what next_frame would."""
        self._end += size
        return self.next_frame()

    def next_frame(self) -> list[Message] | None:
        """The messages of the next frame, None if it is not complete. To be called until then."""
        begin = self._start + HEADER_BYTES
        missing = RECEIVE_BYTES
        if self._end >= begin:
            header = bytes(self.buffer[self._start : begin])
            end = begin + self.length(header)
            if self._end >= end:
                messages = self.decode(self.buffer[begin:end], compressed=header[0] >= 0x80)
                self._start = end
                return messages
            missing += end - self._end  # so that there is room behind the frame until it is complete
        self._make_room(missing)
        return None

    def _make_room(self, size: int) -> None:
        received = self.buffer[self._start : self._end]
        needed = len(received) + size
        if needed > len(self.buffer):
            self.buffer = memoryview(bytearray(max(needed, min(2 * needed, RECEIVED_BYTES_KEPT))))
        elif not received and len(self.buffer) > RECEIVED_BYTES_KEPT:
            self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        elif received and len(self.buffer) - self._end >= size:
            self.room = self.buffer[self._end :]
            return
        self.buffer[: len(received)] = received
        self._start, self._end = 0, len(received)
        self.room = self.buffer[self._end :]
