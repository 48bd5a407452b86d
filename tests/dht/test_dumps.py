"""Files of dumps, byte by byte (docs/formats/dump.md).

The one allowed outcome of opening a file that is not whole is DumpDamaged, which names it: no crash, no records.
"""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from xxhash import xxh3_64_intdigest

from swarm.core.limits import KEY_BYTES_MAX, MIB
from swarm.dht.dump_format import TRAILER_BYTES, ChannelSize, Manifest, Trailer, channel_of, stored_key
from swarm.dht.dumps import (
    READ_RECORDS,
    TRANSACTION_BYTES,
    DumpDamaged,
    DumpFile,
    DumpNotWritten,
    DumpWriter,
    read_manifest,
    read_trailer,
    write_manifest,
)
from swarm.dht.hash_range import HASH_MAX, HashRange, hash_key

DOCUMENT = (Path(__file__).parents[2] / "docs" / "formats" / "dump.md").read_text(encoding="utf-8")


def write(path: Path, records: dict[bytes, bytes], first_segment: int = 3, batch: int = 100) -> Trailer:
    writer = DumpWriter(path)
    stored = sorted((stored_key(key), value) for key, value in records.items())
    for start in range(0, len(stored), batch):
        writer.append(stored[start : start + batch])
    trailer = writer.finish(first_segment, HashRange())
    writer.close()
    return trailer


def read(path: Path, hashes: HashRange = HashRange()) -> dict[bytes, bytes]:
    with DumpFile(path) as dump:
        found = [
            (stored, value) for keys, values in dump.batches(hashes) for stored, value in zip(keys, values, strict=True)
        ]
    assert found == sorted(found)
    assert all(stored == stored_key(stored[8:]) for stored, _ in found)
    return {stored[8:]: value for stored, value in found}


RECORDS = {b"key %d" % number: b"value %d" % number for number in range(1000)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sound dump of few records."""
    path = tmp_path / "channel.lmdb"
    write(path, {b"key": b"value", b"other": b"one"})
    return path


def test_the_trailer_is_as_the_document_says(small: Path) -> None:
    data = small.read_bytes()
    trailer = data[-TRAILER_BYTES:]
    fields = dict(re.findall(r"^\| (\d+) \| (\d+) \| ", DOCUMENT, re.MULTILINE))
    assert fields == {str(offset): "8" for offset in range(0, TRAILER_BYTES, 8)}

    def number(offset: int) -> int:
        return int.from_bytes(trailer[offset : offset + 8], "big")

    assert trailer[:8] == b"SWARMD\0\1"
    assert [number(offset) for offset in (8, 16, 24, 32, 40)] == [2, 16, 3, 0, HASH_MAX]
    assert number(48) == len(data) - TRAILER_BYTES
    assert number(56) == xxh3_64_intdigest(data[:-TRAILER_BYTES])
    assert number(64) == xxh3_64_intdigest(trailer[:64])
    assert Trailer.decode(trailer, len(data)).encode() == trailer


def test_lmdb_itself_reads_it(small: Path) -> None:
    with lmdb.open(str(small), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        assert dict(transaction.cursor()) == {
            hash_key(key).to_bytes(8, "big") + key: value for key, value in {b"key": b"value", b"other": b"one"}.items()
        }


@pytest.mark.parametrize("count", [0, 1, 2, 1000, READ_RECORDS, READ_RECORDS + 1])
def test_what_was_written_is_read(tmp_path: Path, count: int) -> None:
    records = {b"%d" % number: b"value %d" % number for number in range(count)}
    trailer = write(tmp_path / "dump", records)
    assert read(tmp_path / "dump") == records
    assert read_trailer(tmp_path / "dump") == trailer
    assert (trailer.records, trailer.first_segment) == (count, 3)
    assert trailer.record_bytes == sum(len(key) + len(value) for key, value in records.items())


def test_large_keys_and_values_and_many_transactions(tmp_path: Path) -> None:
    records = {
        b"%d" % number + bytes(KEY_BYTES_MAX - 5): os.urandom(size)
        for number, size in enumerate([1, 1000, 2000, 4096, MIB, 16 * MIB, TRANSACTION_BYTES] * 2)
    }
    write(tmp_path / "dump", records, batch=3)
    assert read(tmp_path / "dump") == records


def test_a_record_can_be_looked_up(tmp_path: Path) -> None:
    write(tmp_path / "dump", RECORDS)
    with DumpFile(tmp_path / "dump") as dump:
        assert dump.get(b"key 7") == b"value 7"
        assert dump.get(b"no such key") is None


def test_a_part_of_the_hashes(tmp_path: Path) -> None:
    write(tmp_path / "dump", RECORDS)
    hashes = sorted(map(hash_key, RECORDS))
    for part in (
        HashRange(hashes[10], hashes[20]),
        HashRange(hashes[10] + 1, hashes[20] - 1),
        HashRange(0, hashes[0] - 1),
        HashRange(hashes[-1] + 1, HASH_MAX),
        HashRange(hashes[-1], HASH_MAX),
        HashRange(0, hashes[0]),
    ):
        assert read(tmp_path / "dump", part) == {key: value for key, value in RECORDS.items() if hash_key(key) in part}
    with DumpFile(tmp_path / "dump") as dump:
        assert dump.hashes() == HashRange(hashes[0], hashes[-1])


def damaged(path: Path) -> str:
    """What is said of a damaged file."""
    with pytest.raises(DumpDamaged) as caught:
        DumpFile(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    return caught.value.what


def test_cut_anywhere(small: Path) -> None:
    data = small.read_bytes()
    cuts = {*range(0, len(data), 97), *range(len(data) - 200, len(data)), 1, 4095, 4096, 8192}
    for cut in cuts:
        small.write_bytes(data[:cut])
        assert damaged(small)
        small.write_bytes(data[cut:] if cut else b"")
        assert damaged(small)


def test_the_end_is_zeros(small: Path) -> None:
    data = small.read_bytes()
    for zeros in (*range(1, 200), 4096, len(data)):
        small.write_bytes(data[:-zeros] + bytes(zeros))
        if small.read_bytes() != data:
            assert damaged(small)
    small.write_bytes(data + bytes(TRAILER_BYTES))
    assert damaged(small) == "its end is zeros, where its trailer should be"


def test_something_behind_the_end(small: Path) -> None:
    data = small.read_bytes()
    for more in (b"x", bytes(1), bytes(4096), data):
        small.write_bytes(data + more)
        assert damaged(small)


def test_every_bit_of_the_trailer(small: Path) -> None:
    data = small.read_bytes()
    for bit in range(8 * TRAILER_BYTES):
        flipped = bytearray(data)
        flipped[len(data) - TRAILER_BYTES + bit // 8] ^= 1 << bit % 8
        small.write_bytes(flipped)
        assert damaged(small)


def test_a_bit_of_any_page(small: Path) -> None:
    data = small.read_bytes()
    seed = random.randrange(2**32)
    sys.stderr.write(f"seed {seed}\n")
    source = random.Random(seed)
    for _ in range(500):
        flipped = bytearray(data)
        flipped[source.randrange(len(data) - TRAILER_BYTES)] ^= 1 << source.randrange(8)
        small.write_bytes(flipped)
        assert damaged(small) == "its content does not have the checksum that its trailer says"


def test_a_later_version_is_told(small: Path) -> None:
    data = bytearray(small.read_bytes())
    data[-65] = 2
    data[-8:] = xxh3_64_intdigest(bytes(data[-72:-8])).to_bytes(8, "big")
    small.write_bytes(data)
    assert damaged(small) == "its format has version 2, and this program reads version 1"


def test_another_number_of_records_than_the_trailer_says(small: Path) -> None:
    trailer = read_trailer(small)
    data = small.read_bytes()[:-TRAILER_BYTES]
    wrong = Trailer(3, 16, 3, HashRange(), trailer.lmdb_bytes, trailer.lmdb_checksum)
    small.write_bytes(data + wrong.encode())
    assert damaged(small) == "it holds 2 records, and by its trailer 3"


@pytest.mark.parametrize("content", [b"", b"no lmdb", bytes(8192), os.urandom(12288)])
def test_a_sound_trailer_behind_something_that_is_no_lmdb(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dump"
    trailer = Trailer(1, 1, 1, HashRange(), len(content), xxh3_64_intdigest(content))
    path.write_bytes(content + trailer.encode())
    assert damaged(path).startswith("LMDB cannot read it: ")


def test_a_file_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    write(path, RECORDS)
    with DumpFile(path) as dump:
        write(tmp_path / "other", {b"other": b"one"})
        (tmp_path / "other").replace(path)
        assert dump.get(b"key 1") == b"value 1"


def test_no_file_is_not_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DumpFile(tmp_path / "dump")
    assert read_manifest(tmp_path) is None


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    assert damaged(tmp_path).startswith("it cannot be read: ")


def test_what_was_not_finished_is_no_dump(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "dump")
    writer.append([(stored_key(b"key"), b"value")])
    writer.close()
    assert damaged(tmp_path / "dump")


def test_records_out_of_order_are_a_bug(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "dump")
    with pytest.raises(AssertionError, match="out of order"):
        writer.append([(b"B" * 9, b"value"), (b"A" * 9, b"value")])
    writer.close()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DumpNotWritten, match="No such file or directory"):
        DumpWriter(tmp_path / "missing" / "dump")


NODE = "9f86d081884c7d659a2feaa0c55ad015"
MANIFEST = Manifest(
    12, 7, "2026-11-22T06:00:00Z", "2026-11-22T06:00:05Z", {"name": ChannelSize(10, 1160)}, NODE, 21600.0
)


def test_the_manifest_is_as_the_document_says(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    example = re.search(r'\{"format": 1.*\}', DOCUMENT)
    assert example is not None
    documented = json.loads(example[0])
    assert json.loads((tmp_path / "manifest.json").read_bytes()) == documented | {
        "begun": MANIFEST.begun,
        "finished": MANIFEST.finished,
    }
    assert read_manifest(tmp_path) == MANIFEST
    assert list(tmp_path.iterdir()) == [tmp_path / "manifest.json"]


def test_a_damaged_manifest(tmp_path: Path) -> None:
    data = MANIFEST.encode()
    path = tmp_path / "manifest.json"
    for cut in range(len(data) - 2):
        path.write_bytes(data[:cut])
        with pytest.raises(DumpDamaged, match=r"manifest\.json is damaged: "):
            read_manifest(tmp_path)
    for wrong in (
        b'{"format": 2}',
        b"[" * 100_000,
        b"null",
        b"\xff",
        data.replace(b'"name"', b'"../name"'),
        data.replace(b"10", b'"10"'),
        data.replace(b'"keep_from": 7', b'"keep_from": 13'),
        data.replace(b'"keep_from": 7', b'"keep_from": 0'),
        data.replace(NODE.encode(), b"../other"),
        data.replace(b'"node"', b'"nodes"'),
    ):
        path.write_bytes(wrong)
        with pytest.raises(DumpDamaged):
            read_manifest(tmp_path)


def test_names() -> None:
    assert channel_of("a.lmdb") == ("a", ".lmdb")
    assert channel_of("a-B_1.lmdb.backup") == ("a-B_1", ".lmdb.backup")
    for name in (".lmdb", "a.lmdb.tmp", "a", "a.b.lmdb", "manifest.json", "a.lmdb.backup.tmp", "x" * 129 + ".lmdb"):
        assert channel_of(name) is None


def test_damage_that_would_kill_a_program_that_does_not_look(tmp_path: Path) -> None:
    """Why everything is checked first: LMDB alone dies of a file that is too short."""
    path = tmp_path / "dump"
    write(path, {b"%d" % number: bytes(500) for number in range(10_000)})
    os.truncate(path, path.stat().st_size // 2)
    naive = "import lmdb, sys; e = lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False)"
    naive += "; len(list(e.begin().cursor()))"
    assert subprocess.run([sys.executable, "-c", naive, str(path)], check=False, capture_output=True).returncode < 0
    assert damaged(path)


def test_a_map_for_which_there_is_no_room_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    write(path, {b"%d" % number: bytes(MIB) for number in range(64)})
    program = "import resource, sys, pathlib; from swarm.dht.dumps import DumpFile, DumpUnreadable\n"
    program += "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    program += "resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20,) * 2)\n"
    program += "try: DumpFile(pathlib.Path(sys.argv[1]))\nexcept DumpUnreadable as error: print(error)"
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    assert f"{path} cannot be mapped into memory: " in done.stdout
