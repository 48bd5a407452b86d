"""`swarm dump` on files, as a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.blocking import DhtClient
from swarm.dht.dump_format import ChannelSize, Manifest, stored_key
from swarm.dht.dumps import DumpWriter, write_manifest
from swarm.dht.hash_range import HashRange
from swarm.testing import running_dht
from tests.waiting import shown_on_terminal

SWARM = [sys.executable, "-m", "swarm.cli.main"]
RECORDS = {b"key": b"value", "Grüße".encode(): b"\xff\0", b"\x80": b"one"}


def write(path: Path, records: dict[bytes, bytes]) -> None:
    writer = DumpWriter(path)
    writer.append(sorted((stored_key(key), value) for key, value in records.items()))
    writer.finish(3, HashRange())
    writer.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path / "channel.lmdb", RECORDS)
    write(tmp_path / "channel.lmdb.backup", {b"key": b"old"})
    write(tmp_path / "other.lmdb", {})
    names = ("channel", "other")
    sizes = dict.fromkeys(names, ChannelSize(1, 1))
    write_manifest(tmp_path, Manifest(3, 1, "begun", "finished", sizes, "0" * 32))
    (tmp_path / "notes.txt").write_text("no dump")
    return tmp_path


def dump(*arguments: object) -> "subprocess.CompletedProcess[bytes]":
    done = subprocess.run([*SWARM, "dump", *map(str, arguments)], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    return done


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def test_list(directory: Path) -> None:
    done = dump("list", directory)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    size = sum(len(key) + len(value) for key, value in RECORDS.items())
    assert [row[:4] + row[5:] for row in rows] == [
        ["channel.lmdb", "3", str(size), str(HashRange()), "sound"],
        ["channel.lmdb.backup", "1", "6", str(HashRange()), "sound"],
        ["other.lmdb", "0", "0", str(HashRange()), "sound"],
    ]
    assert all(0 <= int(row[4]) < 600 for row in rows)


def test_list_on_a_terminal(directory: Path) -> None:
    damage(directory / "other.lmdb")
    status, shown = shown_on_terminal([*SWARM, "dump", "list", str(directory)])
    assert status == 1
    for part in ("check", "records", "channel.lmdb.backup", "sound", "damaged: "):
        assert part in shown


def test_export_and_get_on_a_terminal(directory: Path) -> None:
    assert shown_on_terminal([*SWARM, "dump", "get", str(directory), "channel", "key"]) == (0, "value\r\n")
    status, shown = shown_on_terminal([*SWARM, "dump", "export", str(directory), "channel"])
    assert status == 0
    assert len(shown.splitlines()) == len(RECORDS)


def test_list_tells_of_damage(directory: Path) -> None:
    damage(directory / "channel.lmdb")
    done = dump("list", directory)
    assert done.returncode == 1
    row, *others = done.stdout.decode().splitlines()
    assert row.startswith("channel.lmdb\t–\t–\t–\t")
    assert "\tdamaged: its end is zeros, where its trailer should be" in row
    assert all(other.endswith("sound") for other in others)


def test_list_tells_of_the_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text("{")
    done = dump("list", directory)
    assert done.returncode == 1
    assert b"manifest.json is damaged" in done.stderr
    (directory / "manifest.json").unlink()
    done = dump("list", directory)
    assert done.returncode == 0
    assert b"no dump was completed there" in done.stderr


def test_list_tells_of_what_is_missing(directory: Path) -> None:
    (directory / "other.lmdb").unlink()
    done = dump("list", directory)
    assert done.returncode == 1
    assert done.stderr.decode() == f"swarm: {directory / 'other.lmdb'} is missing\n"


def test_get(directory: Path) -> None:
    done = dump("get", directory, "channel", "Grüße")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xff\0", b"")
    assert dump("get", directory, "channel", "base64:gA==").stdout == b"one"


def test_get_without_a_record(directory: Path) -> None:
    done = dump("get", directory, "channel", "no such key")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"swarm: channel channel has no record with the key no such key\n"


def test_export_is_what_import_reads(directory: Path) -> None:
    done = dump("export", directory, "channel")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(next(line for line in done.stdout.splitlines() if b'"key": "key"' in line)) == {
        "key": "key",
        "value": "value",
    }
    with running_dht() as dht, DhtClient(dht.addresses) as client:
        command = [*SWARM, "dht", "--node", dht.addresses[0], "import", "channel"]
        subprocess.run(command, input=done.stdout, check=True)
        assert dict(client.get_all("channel")) == RECORDS
        command = [*SWARM, "dht", "--node", dht.addresses[0], "export", "channel"]
        exported = subprocess.run(command, capture_output=True, check=True).stdout
    assert sorted(exported.splitlines()) == sorted(done.stdout.splitlines())


@pytest.mark.parametrize("command", [("get", "channel", "key"), ("export", "channel")])
def test_a_damaged_dump_is_read_from_its_backup(directory: Path, command: tuple[str, ...]) -> None:
    damage(directory / "channel.lmdb")
    done = dump(command[0], directory, *command[1:])
    assert done.returncode == 0
    assert b"old" in done.stdout
    assert b"channel.lmdb is damaged: " in done.stderr
    assert b"this is from channel.lmdb.backup" in done.stderr
    damage(directory / "channel.lmdb.backup")
    done = dump(command[0], directory, *command[1:])
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"is damaged") == 2


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("list", "missing"), 1, "missing: No such file or directory"),
        (("list", "empty"), 1, "empty holds no dump"),
        (("get", "empty", "channel", "key"), 1, "empty holds no dump of channel channel"),
        (("export", "missing", "channel"), 1, "missing holds no dump of channel channel"),
        (("export", "empty", "../channel"), 2, "bad channel name '../channel'"),
        (("get", "empty", "channel", "base64:?"), 2, "is not base64"),
        (("get", "empty"), 2, "Missing argument 'CHANNEL'"),
    ],
)
def test_errors(tmp_path: Path, arguments: tuple[str, ...], status: int, error: str) -> None:
    (tmp_path / "empty").mkdir()
    command, directory, *rest = arguments
    done = dump(command, tmp_path / directory, *rest)
    assert done.returncode == status
    assert error in done.stderr.decode()
    assert done.stdout == b""


def test_help() -> None:
    assert b"list" in dump("--help").stdout
    assert b"dump " in subprocess.run([*SWARM, "--help"], capture_output=True, check=True).stdout


def test_what_cannot_be_read_is_not_damaged(directory: Path) -> None:
    (directory / "other.lmdb").unlink()
    (directory / "other.lmdb").symlink_to("other.lmdb")
    done = dump("export", directory, "other")
    assert done.returncode == 1
    assert (
        done.stderr.decode() == f"swarm: {directory / 'other.lmdb'} cannot be read: Too many levels of symbolic links\n"
    )
