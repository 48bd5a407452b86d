"""The entries of a `.tail`.

An entry is whole if its mark and its checksum fit the tail's seed. Behind what is not, the next whole one goes on. If
the header is damaged, its seed is tried as it is; without the seed no entry can be told from what is none.
"""

import struct
from dataclasses import replace

from xxhash import xxh3_64_intdigest

from nodes.logfiles import tail_format
from nodes.logfiles.block_format import BadHeader
from nodes.logfiles.check.findings import Finding, Kind
from nodes.logfiles.check.reader import Reader
from nodes.logfiles.check.scanned import NO_SEED, Scan, header_damage
from nodes.logfiles.file_names import FileName
from nodes.logfiles.tail_format import ENTRY_HEADER_BYTES, Rest, TailHeader
from swarm.core.limits import MIB

TAIL_BYTES_MAX = 256 * MIB  # of a tail, which is read as a whole: several times the most that a node makes it
TAIL_MAGIC = b"SWARMT"
FIELDS_BYTES = 40  # of a tail's header in front of its checksum, the seed being the last

_ENTRY = struct.Struct("<4sIQ")  # mark, length and checksum of an entry


class TooLarge(Exception):
    """A tail of more than TAIL_BYTES_MAX; the text says so."""


def scan_tail(file: Reader, scan: Scan) -> None:
    if file.size > TAIL_BYTES_MAX:
        raise TooLarge(f"a tail of {file.size} bytes, {TAIL_BYTES_MAX} at most are read: this is not the node's")
    data = file.read(0, file.size)
    front = data[: tail_format.HEADER_BYTES]
    try:
        header = TailHeader.unpack(front)
    except BadHeader as error:
        is_begun = tail_format.only_zeros(data, tail_format.HEADER_BYTES)
        header_damage(scan, front, tail_format.HEADER_BYTES, TAIL_MAGIC, error, is_begun=is_begun)
        scan.seed = front[FIELDS_BYTES - len(NO_SEED) : FIELDS_BYTES]
        if scan.is_unknown or scan.unfinished or len(front) < tail_format.HEADER_BYTES:
            return
        first = tail_format.next_entry(data, scan.seed, FIELDS_BYTES)
        if first is None:
            scan.findings[0] = replace(scan.findings[0], length=scan.size)
            return
    else:
        first = None
        scan.seed = header.seed
        scan.found = FileName(header.span, header.generation, "tail", header.number)
    _scan_entries(data, scan, min(first.start, tail_format.HEADER_BYTES) if first else tail_format.HEADER_BYTES)


def _scan_entries(data: bytes, scan: Scan, offset: int) -> None:
    name = scan.found or scan.name
    assert name is not None
    while True:
        for entry in tail_format.entries(data, scan.seed, offset):
            offset = entry.end
            if min(entry.timestamps) < name.span.start or max(entry.timestamps) >= name.span.end:
                what = f"{len(entry.values)} records are outside of the time of this bucket"
                scan.damaged(entry.start, entry.end, Kind.OUTSIDE_BUCKET, what)
            else:
                scan.entries.append(entry)
        following = tail_format.next_entry(data, scan.seed, offset)
        if following is None:
            return _tail_end(data, scan, offset)
        kind = _entry_damage(data, scan.seed, offset)
        scan.damaged(offset, following.start, kind, "no sound entry is here, and there are some behind; it is not read")
        offset = following.start


def _tail_end(data: bytes, scan: Scan, offset: int) -> None:
    rest = tail_format.rest(data, scan.seed, offset)
    kind = Kind.TRUNCATED_PAYLOAD
    if rest is not Rest.NOTHING:
        kind = _entry_damage(data, scan.seed, offset)
    if rest is Rest.DAMAGED or kind is Kind.UNDECODABLE:
        scan.damaged(offset, len(data), kind, "an entry that was complete is not sound; it is not read")
    elif rest is Rest.TORN:
        what = "an entry that was not complete, and was not acknowledged"
        scan.unfinished = Finding(scan.path, offset, len(data) - offset, Kind.TRUNCATED_PAYLOAD, what)


def _entry_damage(data: bytes, seed: bytes, offset: int) -> Kind:
    """Why there is no sound entry here."""
    begin = offset + ENTRY_HEADER_BYTES
    if begin > len(data) or data[offset : offset + len(seed) // 2] != seed[: len(seed) // 2]:
        return Kind.BAD_MAGIC
    _, size, checksum = _ENTRY.unpack(data[offset:begin])
    payload = data[begin : begin + size]
    if len(payload) == size and xxh3_64_intdigest(payload, int.from_bytes(seed, "little")) == checksum:
        return Kind.UNDECODABLE
    return Kind.PAYLOAD_CHECKSUM
