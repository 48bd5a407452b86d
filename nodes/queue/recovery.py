"""What happens to a queue's files when its node starts. docs/formats/queue.md, *Opening*."""

import logging
from pathlib import Path

from nodes.queue.given_out import GivenOut
from nodes.queue.overflow import overflow_numbers
from nodes.queue.queue_files import Files
from nodes.queue.reader import Reader
from nodes.queue.ring import BadRing, Ring
from swarm.core.errors import DiskFull
from swarm.core.node import NodeError, WrongData
from swarm.queue.batch import LENGTH_BYTES

log = logging.getLogger(__name__)


def open_ring(path: Path, capacity: int, files: Files, *, sync: bool, accept_damage: bool) -> Ring:
    """With this capacity, if its content fits into that. Raises NodeError, or DiskFull."""
    try:
        ring = Ring.open(path, files)
    except BadRing as error:
        if not accept_damage:
            raise WrongData(
                f"{path} is damaged: {error}. --accept-damage renames it to {path.name}.damaged and starts the node "
                "with an empty queue in its place"
            ) from None
        kept = _set_aside(path, files)
        log.error("%s is damaged: %s. It is %s now, and an empty queue has taken its place", path, error, kept.name)
        return Ring.create(path, capacity, files, sync=sync)
    return ring if ring.capacity == capacity else _resized(ring, capacity, files, sync=sync)


def _set_aside(path: Path, files: Files) -> Path:
    kept, number = path.with_name(path.name + ".damaged"), 1
    while kept.exists():
        kept, number = path.with_name(f"{path.name}.damaged.{number}"), number + 1
    try:
        files.rename(path, kept)
    except OSError as error:
        raise NodeError(f"{path} cannot be renamed: {error}") from error
    return kept


def _resized(ring: Ring, capacity: int, files: Files, *, sync: bool) -> Ring:
    path, state = ring.path, ring.found
    why = ""
    if (taken := state.tail - state.head) > capacity:
        why = f"{taken} bytes are taken"
    elif capacity < ring.capacity and overflow_numbers(path):
        why = "what waits in overflow files may be too large for it"
    else:
        try:
            new = Ring.create(path, capacity, files, sync=sync, content_of=ring)
        except DiskFull as error:
            why = str(error)
        except NodeError:
            ring.close()
            raise
        else:
            log.info("%s has %d bytes now, before %d", path, capacity, ring.capacity)
            ring.close()
            return new
    log.warning("%s keeps its %d bytes, though configured is %d: %s", path, ring.capacity, capacity, why)
    return ring


def find_given(ring: Ring, reader: Reader, given: GivenOut) -> None:
    """What was given out before the ring was opened, and not acknowledged, is to be given out again."""
    state = ring.found
    position, sequence = state.head, state.head_sequence
    while position < state.given:
        entry = ring.entry(position)
        if entry is None or not entry.sequence <= sequence < entry.end_sequence:
            entry = ring.next_entry(position, sequence)
            found = min(entry.sequence, state.given_sequence) if entry else state.given_sequence
            if found > sequence:
                ring.damage(position, sequence, found - sequence, "no entry begins there")
            position, sequence = (entry.position, max(found, sequence)) if entry else (state.given, found)
            continue
        end = entry.end_sequence
        if not ring.is_sound(entry):
            ring.damage(position, sequence, end - sequence, "the entry is not what was written")
            if end > state.given_sequence:
                reader.go_to(entry.end, end, entry.before + entry.size)
        else:
            if sequence < state.given_sequence:
                lengths = ring.copy(entry.lengths_at, LENGTH_BYTES * entry.records)
                given.restore(entry, lengths, sequence, min(end, state.given_sequence) - sequence)
            if end > state.given_sequence:
                reader.open_cut(entry)
        position, sequence = entry.end, end
