"""The form of a dump: its records' keys, the trailer of a file, the manifest. No I/O. docs/formats/dump.md."""

import json
import re
import struct
from dataclasses import asdict, dataclass

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from swarm.core.errors import BadChannel
from swarm.core.protocol import check_channel
from swarm.dht.hash_range import HASH_MAX, HashRange

MANIFEST = "manifest.json"
DUMP_SUFFIX = ".lmdb"
BACKUP_SUFFIX = ".lmdb.backup"
TEMPORARY_SUFFIX = ".tmp"
DELETED = "deleted"

MANIFEST_FORMAT = 1
PERIOD_S_MAX = 1e9  # what is said to be longer is no period
IDENTITY_BYTES = 16
HASH_BYTES = 8
TRAILER_BYTES = 72
_MAGIC = b"SWARMD\0\1"
_TRAILER = struct.Struct(">8s8Q")
_CHECKED_BYTES = TRAILER_BYTES - 8
_IDENTITY = re.compile(rf"[0-9a-f]{{{2 * IDENTITY_BYTES}}}")

assert _TRAILER.size == TRAILER_BYTES


def is_identity(text: str) -> bool:
    """Whether it may be that of a node: 16 bytes in hexadecimal."""
    return _IDENTITY.fullmatch(text) is not None


def stored_key(key: bytes) -> bytes:
    """The key under which LMDB has a record: so their order is that of (hash, key)."""
    return xxh3_64_digest(key) + key


@dataclass(frozen=True)
class Trailer:
    """What stands behind the LMDB part of a dump. Sizes in bytes; record_bytes: of keys and values."""

    records: int
    record_bytes: int
    first_segment: int
    hash_range: HashRange
    lmdb_bytes: int
    lmdb_checksum: int

    def encode(self) -> bytes:
        checked = _TRAILER.pack(
            _MAGIC,
            self.records,
            self.record_bytes,
            self.first_segment,
            self.hash_range.lowest,
            self.hash_range.highest,
            self.lmdb_bytes,
            self.lmdb_checksum,
            0,
        )[:_CHECKED_BYTES]
        return checked + xxh3_64_digest(checked)

    @classmethod
    def decode(cls, data: bytes, file_bytes: int) -> "Trailer":
        """The trailer in the last bytes of a file of this length. ValueError says what is wrong."""
        if len(data) != TRAILER_BYTES:
            raise ValueError(f"it has {len(data)} bytes, and its trailer alone should have {TRAILER_BYTES}")
        if not any(data):
            raise ValueError("its end is zeros, where its trailer should be")
        magic, records, record_bytes, segment, lowest, highest, lmdb_bytes, checksum, own = _TRAILER.unpack(data)
        if magic[:7] != _MAGIC[:7]:
            raise ValueError("it does not end in the trailer of a dump: it was cut short, or is none")
        if xxh3_64_intdigest(data[:_CHECKED_BYTES]) != own:
            raise ValueError("the checksum of its trailer is wrong")
        if magic != _MAGIC:
            raise ValueError(f"its format has version {magic[7]}, and this program reads version {_MAGIC[7]}")
        if lmdb_bytes + TRAILER_BYTES != file_bytes:
            raise ValueError(f"it has {file_bytes} bytes, and by its trailer {lmdb_bytes + TRAILER_BYTES}")
        if not lowest <= highest <= HASH_MAX:
            raise ValueError("the hash range in its trailer goes backwards")
        return cls(records, record_bytes, segment, HashRange(lowest, highest), lmdb_bytes, checksum)


@dataclass(frozen=True)
class ChannelSize:
    records: int
    bytes: int
    new: bool = False
    """It was not in the manifest before this one: all of its records are in the journal from keep_from on, too."""


@dataclass(frozen=True)
class Manifest:
    """The last complete dump. begun, finished: ISO 8601, UTC."""

    first_segment: int
    keep_from: int
    begun: str
    finished: str
    channels: dict[str, ChannelSize]
    node: str
    """Its identity."""
    period_s: float | None = None
    """After which the next dump is due; None where that is not known."""

    @property
    def record_bytes(self) -> int:
        """Of keys and values, in all channels."""
        return sum(each.bytes for each in self.channels.values())

    @property
    def records(self) -> int:
        return sum(each.records for each in self.channels.values())

    def encode(self) -> bytes:
        return json.dumps({"format": MANIFEST_FORMAT, **asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """ValueError says what is wrong."""
        members = json.loads(data)
        match members:
            case {
                "format": 1,
                "first_segment": int(first_segment),
                "keep_from": int(keep_from),
                "begun": str(begun),
                "finished": str(finished),
                "channels": dict(channels),
                "node": str(node),
                **others,
            } if 0 < keep_from <= first_segment and is_identity(node):
                sizes = dict(map(_channel, channels.items()))
                return cls(first_segment, keep_from, begun, finished, sizes, node, _period(others.get("period_s")))
        raise ValueError("it is not a manifest of format 1")


def _period(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < PERIOD_S_MAX else None


def _channel(item: tuple[str, object]) -> tuple[str, ChannelSize]:
    name, size = item
    try:
        check_channel(name)  # it becomes a part of a path
    except BadChannel as error:
        raise ValueError(str(error)) from error
    match size:
        case {"records": int(records), "bytes": int(record_bytes), **others}:
            return name, ChannelSize(records, record_bytes, others.get("new") is True)
    raise ValueError(f"its sizes of channel {name} are none")


def channel_of(file_name: str) -> tuple[str, str] | None:
    """The channel that the name of a dump's file stands for, and DUMP_SUFFIX or BACKUP_SUFFIX; None for other names."""
    for suffix in (BACKUP_SUFFIX, DUMP_SUFFIX):
        if file_name.endswith(suffix):
            name = file_name.removesuffix(suffix)
            try:
                check_channel(name)
            except BadChannel:
                return None
            return name, suffix
    return None
