"""The lines of a file or pipe, as they come."""

import os
import select
from collections.abc import Iterator

from swarm.core.limits import KIB

READ_BYTES = 256 * KIB  # at a time


class BadLine(Exception):
    """What a line holds is not a record."""


class LineTooLong(BadLine):
    """Nothing of it was given."""


def read_lines(descriptor: int, line_bytes_max: int) -> Iterator[list[bytes]]:
    """Lists of lines, without their newlines: at each step all that have come, as soon as there is one; the last needs
    no newline. Raises LineTooLong for one that is longer, after all that stands before it."""
    begun: list[bytes] = []
    begun_bytes = 0
    while data := os.read(descriptor, READ_BYTES):
        if b"\n" in data:
            *lines, data = (b"".join(begun) + data).split(b"\n")
            begun, begun_bytes = [], 0
            yield lines
        if data:
            begun.append(data)
            begun_bytes += len(data)
        if begun_bytes > line_bytes_max:
            raise LineTooLong(f"is longer than {line_bytes_max} bytes, which no record needs")
    if begun:
        yield [b"".join(begun)]


def more_within(descriptor: int, seconds: float) -> bool:
    """Whether something comes so soon; the end of the file too."""
    return bool(select.select([descriptor], [], [], seconds)[0])
