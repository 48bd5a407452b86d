"""The blocks of a `.log` or `.sealed` file.

A block is whole if its header is sound and its payload is what the header says. Behind one that is not, the next sound
header goes on: its checksum has the file's seed, so it is no client's value.

The seed stands in the file's header. If that is damaged, the seed's bytes are tried as they are. If no block fits them,
a block is taken where the one before it ends, if all is right that can be checked without the seed.
"""

import struct
from dataclasses import replace

from xxhash import xxh3_64_intdigest

from nodes.logfiles.block_format import (
    BLOCK_HEADER_BYTES,
    BLOCK_MAGIC,
    FILE_HEADER_BYTES,
    FILE_MAGIC,
    BadHeader,
    BlockHeader,
    FileHeader,
    check_stored,
    new_seed,
    read_payload,
)
from nodes.logfiles.check.findings import Kind
from nodes.logfiles.check.reader import Reader
from nodes.logfiles.check.scanned import NO_SEED, Block, Scan, header_damage
from nodes.logfiles.file_names import FileName, Span
from swarm.logfiles import payload
from swarm.logfiles.payload import BadPayload, Records

FIELDS_BYTES = 32  # of a file's header in front of its checksum, the seed being the last

_CHECKSUM = struct.Struct("<Q")  # the last field of a header


def scan_blocks(file: Reader, scan: Scan) -> None:
    front = file.read(0, FILE_HEADER_BYTES)
    try:
        header = FileHeader.unpack(front)
    except BadHeader as error:
        is_begun = scan.name is not None and scan.name.kind == "log" and file.only_zeros(0)
        header_damage(scan, front, FILE_HEADER_BYTES, FILE_MAGIC, error, is_begun=is_begun)
        if not scan.is_unknown and not is_begun and scan.name is not None and len(front) == FILE_HEADER_BYTES:
            _scan_without_header(file, scan, front[FIELDS_BYTES - len(NO_SEED) : FIELDS_BYTES])
        return
    scan.seed = header.seed
    _Blocks(file, scan, header.span, header.sealed).scan()
    totals = (scan.records, scan.value_bytes) if header.sealed else (0, 0)
    if scan.name is not None and scan.findings:  # it says how many there were, which need not be how many there are
        totals = (scan.name.records, scan.name.value_bytes)
    kind = "sealed" if header.sealed else "log"
    scan.found = FileName(header.span, header.generation, kind, 0, *totals)  # type: ignore[arg-type]


def _scan_without_header(file: Reader, scan: Scan, seed: bytes) -> None:
    """What the header does not say is taken from the name."""
    assert scan.name is not None
    damage = list(scan.findings)
    blocks = _Blocks(file, scan, scan.name.span, scan.name.kind == "sealed")
    scan.seed = seed
    first = blocks.next_sound(FIELDS_BYTES)
    if first is None:
        scan.seed = new_seed()
        blocks.scan_without_seed()
    else:
        blocks.scan(min(first, FILE_HEADER_BYTES))
    if not scan.blocks:  # one finding is enough where nothing is left
        whole = replace(damage[0], length=scan.size) if scan.size > FILE_HEADER_BYTES else damage[0]
        scan.findings, scan.unfinished = [whole], None


class _Blocks:
    """Goes through the blocks of a file."""

    def __init__(self, file: Reader, scan: Scan, span: Span, sealed: bool) -> None:
        self._file = file
        self._scan = scan
        self._span = span
        self._sealed = sealed
        self._seen: set[BlockHeader] = set()
        self._last_timestamp: int | None = None

    def scan(self, offset: int = FILE_HEADER_BYTES) -> None:
        while offset < self._file.size:
            offset = self._block(offset)

    def scan_without_seed(self) -> None:
        offset = FILE_HEADER_BYTES
        while (header := _header_without_seed(self._file, offset)) is not None:
            self._whole(offset, header)
            offset += header.bytes
        if offset < self._file.size:
            what = "without the seed in the file's header nothing behind this can be told from what it is not"
            self._scan.damaged(offset, self._file.size, Kind.HEADER_CHECKSUM, what)

    def next_sound(self, start: int) -> int | None:
        """Where the first sound header is that begins here or behind."""
        while (at := self._file.find(BLOCK_MAGIC, start)) is not None:
            if self._is_sound(at):
                return at
            start = at + 1
        return None

    def _is_sound(self, offset: int) -> bool:
        try:
            BlockHeader.unpack(self._file.read(offset, BLOCK_HEADER_BYTES), self._scan.seed)
        except BadHeader:
            return False
        return True

    def _block(self, offset: int) -> int:
        """Tells what is here; where to go on."""
        found = self._file.read(offset, BLOCK_HEADER_BYTES)
        try:
            header = BlockHeader.unpack(found, self._scan.seed)
        except BadHeader as error:
            return self._bad_header(offset, found, str(error))
        stored = self._file.read(offset + BLOCK_HEADER_BYTES, header.stored_bytes)
        try:
            read_payload(header, stored)
        except BadPayload as error:
            return self._bad_payload(offset, header, stored, str(error))
        self._whole(offset, header)
        return offset + header.bytes

    def _bad_header(self, offset: int, found: bytes, why: str) -> int:
        following = self.next_sound(offset + 1)
        end = self._file.size if following is None else following
        if following is None and self._file.only_zeros(offset):
            self._scan.damaged(offset, end, Kind.ZERO_END, "zeros up to the file's end; what is there is not read")
        elif len(found) < BLOCK_HEADER_BYTES and found[:4] == BLOCK_MAGIC[: len(found)]:
            self._cut_short(offset, Kind.TRUNCATED_HEADER, f"{why}; its records are not read")
        elif not found.startswith(BLOCK_MAGIC):
            self._scan.damaged(offset, end, Kind.BAD_MAGIC, "no block begins here; what is there is not read")
        else:
            kind = Kind.IMPOSSIBLE_HEADER
            if why.startswith("unknown version"):
                kind = Kind.UNKNOWN_VERSION
            elif why.startswith("checksum"):
                kind = Kind.HEADER_CHECKSUM
            self._scan.damaged(offset, end, kind, f"{why}; its records are not read")
        return end

    def _bad_payload(self, offset: int, header: BlockHeader, stored: bytes, why: str) -> int:
        end = offset + header.bytes
        lost = f"{why}; {_content(header)} are not read"
        kind = _payload_damage(header, stored)
        if (
            kind in (Kind.TRUNCATED_PAYLOAD, Kind.PAYLOAD_CHECKSUM)
            and end != self._file.size
            and not self._is_sound(end)
        ):
            following = self.next_sound(offset + BLOCK_HEADER_BYTES)  # bytes are missing, or there are too many
            if following is None and kind is Kind.TRUNCATED_PAYLOAD:
                self._cut_short(offset, kind, lost, header)
                return self._file.size
            end = min(end, self._file.size) if following is None else min(end, following)
            kind = Kind.PAYLOAD_CHECKSUM
        self._scan.damaged(offset, end, kind, lost)
        return end

    def _cut_short(self, offset: int, kind: Kind, what: str, header: BlockHeader | None = None) -> None:
        """The last block is not complete. In a `.log` the node may have been writing it."""
        finding = self._scan.damaged(offset, self._file.size, kind, what)
        if not self._sealed:
            self._scan.findings.remove(finding)
            self._scan.unfinished = finding
            self._scan.unfinished_records = header.records if header else 0

    def _whole(self, offset: int, header: BlockHeader) -> None:
        """What is wrong with a block though it is sound in itself."""
        scan, end = self._scan, offset + header.bytes
        before = self._last_timestamp
        if header.first < self._span.start or header.last >= self._span.end:
            what = f"{_content(header)}: they are outside of the time of this bucket"
            scan.damaged(offset, end, Kind.OUTSIDE_BUCKET, what)
        elif header in self._seen and (header.tail or (before is not None and header.first < before)):
            scan.damaged(
                offset, end, Kind.DOUBLED_BLOCK, f"{_content(header)} are in an earlier block of this file too"
            )
        else:
            if self._sealed and before is not None and header.first < before:
                what = (
                    f"{_content(header)}: they begin before the end of the block before; they are read in wrong order"
                )
                scan.damaged(offset, end, Kind.OUT_OF_ORDER, what)
            self._last_timestamp = header.last
            self._seen.add(header)
            scan.blocks.append(Block(offset, header))


def _content(header: BlockHeader) -> str:
    return f"{header.records} records with timestamps from {header.first} to {header.last}"


def _payload_damage(header: BlockHeader, stored: bytes) -> Kind:
    if len(stored) < header.stored_bytes:
        return Kind.TRUNCATED_PAYLOAD
    try:
        check_stored(header, stored)
    except BadPayload:
        return Kind.PAYLOAD_CHECKSUM
    return Kind.UNDECODABLE if _decoded(header, stored) is None else Kind.COUNT_OR_TIMES


def _decoded(header: BlockHeader, stored: bytes) -> Records | None:
    """The records of a payload, whatever the header says of them."""
    try:
        return payload.decode(payload.decompress(header.codec, stored, header.raw_bytes), header.first)
    except BadPayload:
        return None


def _header_without_seed(file: Reader, offset: int) -> BlockHeader | None:
    """Of a block that begins here, where another has ended, and whose payload is what it says; its own checksum is not
    looked at."""
    found = file.read(offset, BLOCK_HEADER_BYTES)
    if len(found) < BLOCK_HEADER_BYTES:
        return None
    fields = found[: -_CHECKSUM.size]
    try:
        header = BlockHeader.unpack(fields + _CHECKSUM.pack(xxh3_64_intdigest(fields)), NO_SEED)
        read_payload(header, file.read(offset + BLOCK_HEADER_BYTES, header.stored_bytes))
    except (BadHeader, BadPayload):
        return None
    return header
