"""What a node starts from: docs/formats/dump.md, *Loading* and *Which segments are needed*."""

import gc
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodes.dht import loading_progress
from nodes.dht.config import DhtConfig, DumpSection, JournalSection, NodeSection
from nodes.dht.node import make_node
from nodes.dht.snapshot import OutOfRange, load_snapshot
from nodes.dht.storage import DhtChannel
from swarm.blocking import DhtClient
from swarm.core.errors import TooManyChannels, WrongNode
from swarm.core.node import LimitsSection, NodeError, WrongData
from swarm.core.storage_channels import StorageChannels
from swarm.dht.dump_format import ChannelSize, Manifest, Trailer, stored_key
from swarm.dht.dumps import DumpWriter, write_manifest
from swarm.dht.hash_range import HashRange, hash_key, split_evenly
from swarm.testing import DhtProcess

Records = dict[bytes, bytes]

OLD = {b"%d" % number: b"old" for number in range(3000)}
NEW = {b"%d" % number: b"new" for number in range(1000, 4000)}
NODE = "0" * 32
OTHER = {b"other": b"channel"}
SIZE = ChannelSize(1, 1)


def write(path: Path, records: Records, first_segment: int) -> Trailer:
    writer = DumpWriter(path)
    writer.append(sorted((stored_key(key), value) for key, value in records.items()))
    trailer = writer.finish(first_segment, HashRange())
    writer.close()
    return trailer


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Two channels, one of which has a backup."""
    write(tmp_path / "channel.lmdb.backup", OLD, 7)
    write(tmp_path / "channel.lmdb", NEW, 12)
    write(tmp_path / "other.lmdb", OTHER, 12)
    write_manifest(
        tmp_path, Manifest(12, 5, "begun", "finished", dict.fromkeys(("channel", "other"), ChannelSize(1, 1)), NODE)
    )
    return tmp_path


@dataclass
class Loaded:
    first_segment: int
    channels: dict[str, Records]
    engines: StorageChannels[DhtChannel]
    progress: list[tuple[int, int]] = field(default_factory=list)


def load(
    directory: Path,
    *,
    hash_range: HashRange = HashRange(),
    policy: OutOfRange = "fatal",
    accept_damage: bool = False,
    memory_limit: int = 0,
    meanwhile: Callable[[], None] = lambda: None,
) -> Loaded:
    """meanwhile: done at the first sign of progress."""
    node = make_node(
        DhtConfig(NodeSection(hash_range=hash_range, memory_limit=memory_limit), JournalSection(enabled=False))
    )
    progress: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        if not progress:
            meanwhile()
        progress.append((done, total))

    first = load_snapshot(
        directory,
        node.channels,
        hash_range,
        node.budget,
        policy,
        accept_damage,
        tell,
    )
    channels = {
        name: {
            key: value
            for _, keys, values in channel.walk(b"", b"", b"")
            for key, value in zip(keys, values, strict=True)
        }
        for name, channel in node.channels.items()
    }
    return Loaded(first.replay_from, channels, node.channels, progress)


def test_the_last_complete_dump(dump: Path) -> None:
    loaded = load(dump)
    assert loaded.first_segment == 12
    assert loaded.channels == {"channel": NEW, "other": OTHER}


def test_progress_grows_to_the_end(dump: Path) -> None:
    progress = load(dump).progress
    assert progress == sorted(progress)
    done, total = progress[-1]
    assert 0.98 * total <= done <= total


def test_progress_is_told(dump: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    for bound in ("TOLD_EVERY_S", "LOOKED_AT_EVERY_S"):
        monkeypatch.setattr(loading_progress, bound, -1.0)
    with loading_progress.told_progress("loading the dump") as progress:
        progress(1, 2)
        progress(0, 0)
    assert [each.getMessage() for each in caplog.records] == ["loading the dump: 50%", "loading the dump: 0%"]


def test_progress_is_shown_on_a_terminal(dump: Path) -> None:
    program = "from nodes.dht import loading_progress as p; p.BAR_AFTER_S = p.LOOKED_AT_EVERY_S = -1.0\n"
    program += "with p.told_progress('loading the dump') as tell: tell(1, 2)"
    terminal, its_end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", program], stderr=its_end, check=True, env=environment)
    assert re.search(rb"loading the dump .* 50%", os.read(terminal, 65536))
    os.close(its_end)
    os.close(terminal)


def test_garbage_is_collected_as_before(dump: Path) -> None:
    load(dump)
    assert gc.isenabled()


@pytest.mark.parametrize("name", ["dump", "missing"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "dump").mkdir()
    loaded = load(tmp_path / name)
    assert (loaded.first_segment, loaded.channels) == (1, {})


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[: len(data) // 2],
                "zeros": bytes(len(data)),
                "zeros at its end": data[:-100] + bytes(100),
                "flipped": data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
            }[how]
        )


DAMAGES = ["missing", "empty", "cut", "zeros", "zeros at its end", "flipped"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_has_a_backup(dump: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    damage(dump / "channel.lmdb", how)
    loaded = load(dump)
    assert loaded.first_segment == 7
    assert loaded.channels == {"channel": OLD, "other": OTHER}
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"{dump / 'channel.lmdb'} is " in errors[0]
    assert "channel.lmdb.backup is loaded, and the journal replayed from where that begins" in errors[0]


def test_the_oldest_backup_that_was_loaded_says_where_the_journal_goes_on(dump: Path) -> None:
    write(dump / "other.lmdb.backup", OTHER, 9)
    write(dump / "third.lmdb", OTHER, 12)
    write(dump / "third.lmdb.backup", OTHER, 6)
    channels = dict.fromkeys(("channel", "other", "third"), SIZE)
    write_manifest(dump, Manifest(12, 1, "begun", "finished", channels, NODE))
    for damaged, expected in (("other", 9), ("channel", 7)):
        damage(dump / f"{damaged}.lmdb", "flipped")
        assert load(dump).first_segment == expected
    write(dump / "channel.lmdb.backup", OLD, 13)  # of a dump that was cut off before its manifest
    write(dump / "other.lmdb", OTHER, 12)
    assert load(dump).first_segment == 12


@pytest.mark.parametrize("how", DAMAGES)
def test_both_are_damaged(dump: Path, how: str) -> None:
    damage(dump / "channel.lmdb", "cut")
    damage(dump / "channel.lmdb.backup", how)
    with pytest.raises(NodeError, match=r"channel\.lmdb is damaged.*backup.*--accept-damage"):
        load(dump)
    loaded = load(dump, accept_damage=True)
    assert loaded.first_segment == 5
    assert loaded.channels == {"other": OTHER}


def test_without_a_manifest_everything_that_is_there_is_loaded(dump: Path) -> None:
    (dump / "manifest.json").unlink()
    damage(dump / "channel.lmdb", "missing")
    loaded = load(dump)
    assert loaded.first_segment == 1
    assert loaded.channels == {"channel": OLD, "other": OTHER}


def test_a_damaged_manifest(dump: Path) -> None:
    (dump / "manifest.json").write_text("{")
    with pytest.raises(NodeError, match=r"manifest\.json is damaged: .*--accept-damage"):
        load(dump)
    loaded = load(dump, accept_damage=True)
    assert loaded.first_segment == 1
    assert loaded.channels == {"channel": NEW, "other": OTHER}


def test_what_else_is_there_is_named_and_left(dump: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(dump / "later.lmdb", OTHER, 13)
    names = ["channel.lmdb.tmp", "manifest.json.tmp", "notes.txt", "bad name.lmdb", "lock", "root.log", "stats.log.1"]
    for name in names:
        (dump / name).write_text("something")
    (dump / "deleted").mkdir()
    assert load(dump).channels == {"channel": NEW, "other": OTHER}
    warnings = [each.getMessage().removeprefix(f"{dump}: ") for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == [
        "files of a dump that did not finish, which are not loaded: channel.lmdb.tmp, manifest.json.tmp",
        "files of channels that are not in the last complete dump, which are not loaded: later.lmdb",
        "unknown files, which are left alone: bad name.lmdb, notes.txt",
    ]
    assert all((dump / name).exists() for name in names)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_new_channel_is_in_the_journal(dump: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    damage(dump / "other.lmdb", how)
    sizes = {"channel": ChannelSize(1, 1), "other": ChannelSize(1, 1, new=True)}
    write_manifest(dump, Manifest(12, 5, "begun", "finished", sizes, NODE))
    loaded = load(dump)
    assert loaded.first_segment == 5
    assert loaded.channels == {"channel": NEW}
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "the channel is new, and begins with what the journal has" in caplog.text
    for manifest in (
        Manifest(12, 12, "begun", "finished", sizes, NODE),  # there may have been no journal
        Manifest(12, 5, "begun", "finished", dict.fromkeys(sizes, ChannelSize(1, 1)), NODE),
    ):
        write_manifest(dump, manifest)
        with pytest.raises(NodeError, match=r"other\.lmdb is .*--accept-damage"):
            load(dump)


@pytest.mark.parametrize("backup", [True, False])
def test_a_dump_that_is_completed_meanwhile(dump: Path, backup: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Of a channel that was removed, which the node had not come to yet; the one it had come to is removed as well."""
    if backup:
        write(dump / "other.lmdb.backup", OLD, 7)

    def complete() -> None:
        write_manifest(dump, Manifest(14, 12, "begun", "finished", {"new": ChannelSize(1, 1)}, NODE))
        (dump / "deleted").mkdir()
        for path in dump.glob("[co]*.lmdb*"):
            path.rename(dump / "deleted" / path.name)

    write(dump / "new.lmdb", OTHER, 14)
    loaded = load(dump, meanwhile=complete)
    assert loaded.first_segment == 14
    assert loaded.channels == {"new": OTHER}
    assert "is missing" not in caplog.text


FIRST, SECOND = split_evenly(2)


def inside(records: Records, hash_range: HashRange) -> Records:
    return {key: value for key, value in records.items() if hash_key(key) in hash_range}


def test_records_out_of_range_are_fatal(dump: Path) -> None:
    mine = len(inside(NEW | OTHER, FIRST))
    with pytest.raises(NodeError, match=rf"of 3001 records in the dump {3001 - mine} are outside .*out_of_range"):
        load(dump, hash_range=FIRST)


def test_records_out_of_range_are_ignored(dump: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load(dump, hash_range=FIRST, policy="ignore")
    assert loaded.channels == {"channel": inside(NEW, FIRST), "other": inside(OTHER, FIRST)}
    assert f"{3001 - len(inside(NEW | OTHER, FIRST))} are outside" in caplog.text
    assert "left out" in caplog.text


@pytest.mark.parametrize("hash_range", [FIRST, SECOND])
def test_records_out_of_range_are_loaded(dump: Path, hash_range: HashRange, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load(dump, hash_range=hash_range, policy="load")
    assert loaded.channels == {"channel": NEW, "other": OTHER}
    assert f"{3001 - len(inside(NEW | OTHER, hash_range))} are outside" in caplog.text
    outside = next(key for key in NEW if hash_key(key) not in hash_range)
    channel = loaded.engines.get("channel")
    assert channel is not None
    with pytest.raises(WrongNode):
        channel.get(outside)


@pytest.mark.parametrize("policy", ["fatal", "load", "ignore"])
def test_all_records_out_of_range_are_always_refused(dump: Path, policy: OutOfRange) -> None:
    free = max(map(hash_key, NEW | OTHER)) + 1
    with pytest.raises(NodeError, match="is this the dump of another node"):
        load(dump, hash_range=HashRange(free, free + 10), policy=policy)


def test_the_memory_limit_is_told_and_not_enforced(dump: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(dump, memory_limit=1000).channels == {"channel": NEW, "other": OTHER}
    assert "more than memory_limit allows: writes are refused" in caplog.text


@pytest.mark.parametrize("name", ["channel.lmdb", "manifest.json"])
@pytest.mark.parametrize("accept_damage", [True, False])
def test_what_cannot_be_read_is_not_damaged(dump: Path, name: str, accept_damage: bool) -> None:
    """A link to itself stands for all that the operating system refuses."""
    (dump / name).unlink()
    (dump / name).symlink_to(name)
    with pytest.raises(NodeError, match=f"{name} cannot be read: Too many levels of symbolic links") as refused:
        load(dump, accept_damage=accept_damage)
    assert "damage" not in str(refused.value)


@pytest.mark.parametrize("journal", [True, False])
def test_channels_max_is_told_and_not_enforced(dump: Path, tmp_path: Path, journal: bool) -> None:
    config = DhtConfig(
        journal=JournalSection(enabled=journal),
        dump=DumpSection(dump_dir=str(dump)),
        limits=LimitsSection(channels_max=1),
    )
    (tmp_path / "node").mkdir()
    node = DhtProcess(tmp_path / "node", config)
    node.start("--accept-damage")  # the journal is not there
    with DhtClient([node.address]) as client:
        assert client.channels() == ["channel", "other"]
        with pytest.raises(TooManyChannels):
            client.put("more", b"key", b"value")
        client.put("other", b"key", b"value")
    node.stop()
    assert "2 channels were loaded, channels_max is 1" in "".join(node.output)


def test_a_node_starts_with_its_dump(dump: Path, tmp_path: Path) -> None:
    config = DhtConfig(journal=JournalSection(enabled=False), dump=DumpSection(dump_dir=str(dump)))
    with DhtProcess(tmp_path / "node", config) as node, DhtClient([node.address]) as client:
        assert client.channel_size("channel")[0] == len(NEW)
        assert client.get_many("channel", NEW) == NEW
        client.put("channel", "more", b"value")
        assert dict(client.get_all("other")) == OTHER


@pytest.mark.parametrize("how", DAMAGES)
def test_a_node_that_cannot_load_its_dump_says_so(dump: Path, tmp_path: Path, how: str) -> None:
    damage(dump / "other.lmdb", how)
    (tmp_path / "dht.ini").write_text(f"[dump]\ndump_dir = {dump}\n")
    command = [sys.executable, "-m", "nodes.dht", "--config", "dht.ini", "--address", "127.0.0.1:0", "--data", "data"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == WrongData.exit_status
    assert f"{dump / 'other.lmdb'} is " in done.stderr
    assert "Traceback" not in done.stderr
    assert "other.lmdb" in (tmp_path / "data" / "root.log").read_text()
