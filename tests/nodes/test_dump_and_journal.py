"""A node with its dhtdump: what it starts from is the last dump, and the journal from there on."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from nodes.dht.config import DhtConfig, DumpSection, JournalSection
from nodes.dht.journal_format import HEADER_BYTES
from swarm.blocking import DhtClient
from swarm.dht.dumps import read_manifest
from swarm.testing import DhtProcess


def dump(node: DhtProcess, directory: Path) -> None:
    command = [sys.executable, "-m", "dhtdump", "--oneshot", "--node", node.address, "--dump-dir", str(directory)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_a_dump_and_what_was_written_behind_it(tmp_path: Path) -> None:
    journal = tmp_path / "data" / "journal"
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        dht.put_many("a", {b"%d" % number: b"old" for number in range(1000)})
        dht.put("gone", b"key", b"value")
        for cycle in range(1, 4):
            dht.remove_channel("gone")
            dump(node, tmp_path / "data" / "dump")
            dht.put("a", b"%d" % cycle, b"new")
            dht.remove("a", b"%d" % (cycle + 100))
            dht.put("gone", b"key", b"%d" % cycle)
            node.kill()
            node.start()
            found = dict(dht.get_all("a"))
            assert len(found) == 1000 - cycle
            assert {key for key, value in found.items() if value == b"new"} == {
                b"%d" % each for each in range(1, cycle + 1)
            }
            assert dict(dht.get_all("gone")) == {b"key": b"%d" % cycle}
        assert not (journal / f"{1:016}.journal").exists()
        for _ in range(2):  # nothing was written behind the dump: its segment is empty, and still there
            dump(node, tmp_path / "data" / "dump")
            node.kill()
            node.start()
        assert len(dict(dht.get_all("a"))) == 997


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DhtProcess]:
    """Not started; ended with the test, however that ends."""
    process = DhtProcess(tmp_path)
    with ExitStack() as stack:
        stack.push(process.__exit__)
        yield process


def dumped_twice(node: DhtProcess, directory: Path) -> Path:
    """Leaves it killed, after a dump behind which nothing was written: that dump's first segment."""
    node.start()
    with DhtClient(node.address) as dht:
        for value in (b"1", b"2"):
            dht.put("a", b"key", value)
            dump(node, directory / "data" / "dump")
        node.kill()
        node.start()
        node.kill()
        manifest = read_manifest(directory / "data" / "dump")
        assert manifest is not None
        assert manifest.keep_from < manifest.first_segment
        first = directory / "data" / "journal" / f"{manifest.first_segment:016}.journal"
        assert first.exists()
        return first


def let_be(path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))


def only_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:HEADER_BYTES])


@pytest.mark.parametrize("left", [let_be, Path.unlink, empty, zeros, only_header])
def test_nothing_was_written_since_the_dump(tmp_path: Path, node: DhtProcess, left: Callable[[Path], None]) -> None:
    """Whatever the end of the process or of the machine's power leaves of the segment that the dump begins with."""
    first = dumped_twice(node, tmp_path)
    for value in (b"2", b"3", b"4"):
        if value == b"2":
            left(first)
        for _ in range(3):
            node.start()
            with DhtClient(node.address) as dht:
                assert dict(dht.get_all("a")) == {b"key": value}
            node.kill()
        node.start()
        assert first.exists()
        with DhtClient(node.address) as dht:
            dht.put("a", b"key", b"%d" % (int(value) + 1))
        node.stop()


def test_nothing_was_written_since_the_dump_and_again_a_dump(tmp_path: Path, node: DhtProcess) -> None:
    first = dumped_twice(node, tmp_path)
    first.unlink()
    for _ in range(3):
        node.start()
        dump(node, tmp_path / "data" / "dump")
        node.kill()
    manifest = read_manifest(tmp_path / "data" / "dump")
    assert manifest is not None
    assert first.name == f"{manifest.keep_from:016}.journal"
    first.unlink()  # the only one there was
    for value in (b"2", b"3"):
        node.start()
        with DhtClient(node.address) as dht:
            assert dict(dht.get_all("a")) == {b"key": value}
            dht.put("a", b"key", b"3")
        node.kill()


def test_a_journal_that_is_gone_with_what_the_dump_has_kept(tmp_path: Path, node: DhtProcess) -> None:
    first = dumped_twice(node, tmp_path)
    for path in first.parent.glob("*.journal"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"the segment {first} is missing"):
            node.start()


def test_the_first_segment_is_missing_behind_a_dump_that_has_begun_with_it(tmp_path: Path) -> None:
    journal = tmp_path / "data" / "journal"
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        dump(node, tmp_path / "data" / "dump")
        dht.put("a", b"key", b"value")
        node.kill()
        (segment,) = journal.iterdir()
        segment.unlink()
        for _ in range(2):
            with pytest.raises(RuntimeError, match=rf"the segment {segment} is missing"):
                node.start()
        node.start("--accept-damage")
        assert dht.channels() == []
        node.kill()
        node.start()


def test_a_journal_is_turned_on_after_a_dump(tmp_path: Path) -> None:
    with DhtProcess(tmp_path, DhtConfig(journal=JournalSection(enabled=False))) as node, DhtClient(node.address) as dht:
        dht.put("a", b"key", b"value")
        dump(node, tmp_path / "data" / "dump")
    with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
        assert dict(dht.get_all("a")) == {b"key": b"value"}
        dht.put("a", b"key", b"new")
        node.kill()
        node.start()
        assert dict(dht.get_all("a")) == {b"key": b"new"}


def test_a_gap_behind_the_dump(tmp_path: Path, node: DhtProcess) -> None:
    first = dumped_twice(node, tmp_path)
    node.start()
    with DhtClient(node.address) as dht:
        dht.put("a", b"key", b"3")
    for _ in range(2):
        node.kill()
        node.start()
    with DhtClient(node.address) as dht:
        dht.put("a", b"key", b"4")
    node.kill()
    assert max(first.parent.glob("*.journal")) > first
    first.unlink()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"the segment {first} is missing"):
            node.start()
    node.start("--accept-damage")
    with DhtClient(node.address) as dht:
        assert dict(dht.get_all("a")) == {b"key": b"4"}
    node.stop()


@pytest.mark.parametrize("cycles", [0, 1, 2])
@pytest.mark.parametrize("complete", [True, False])
def test_a_new_channel_whose_dump_is_damaged(tmp_path: Path, node: DhtProcess, cycles: int, complete: bool) -> None:
    """After so many dumps without it. Its records are those that the journal has, all of it or the node refuses."""
    dump_dir = tmp_path / "data" / "dump"
    node.start()
    with DhtClient(node.address) as dht:
        for cycle in range(cycles):
            dht.put("a", b"%d" % cycle, b"value")
            dht.put("new", b"removed", b"value")
            dht.remove_channel("new")
            dump(node, dump_dir)
        dht.put_many("new", {b"%d" % number: b"1" for number in range(100)})
        dht.put("a", b"key", b"value")
        node.kill()
        node.start()
        dht.put("new", b"1", b"2")
        dump(node, dump_dir)
        dht.put("new", b"2", b"2")
        dht.remove("new", b"3")
        expected = dict(dht.get_all("new"))
    node.kill()
    (dump_dir / "new.lmdb").write_bytes(b"")
    manifest = read_manifest(dump_dir)
    assert manifest is not None
    assert manifest.channels["new"].new
    if not complete:
        (tmp_path / "data" / "journal" / f"{manifest.keep_from:016}.journal").unlink()
        with pytest.raises(RuntimeError, match=f"{manifest.keep_from:016}.journal is missing"):
            node.start()
        return
    for _ in range(2):
        node.start()
        with DhtClient(node.address) as dht:
            assert dict(dht.get_all("new")) == expected
            assert dht.exists("a", b"key")
        node.kill()
    node.start()
    dump(node, dump_dir)
    node.stop()
    manifest = read_manifest(dump_dir)
    assert manifest is not None
    assert not manifest.channels["new"].new


def records(node: DhtProcess) -> dict[bytes, bytes]:
    with DhtClient(node.address) as dht:
        return dict(dht.get_all("channel"))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("[!rsl]*") if path.is_file()}


def test_a_dump_of_another_node_is_left_alone(tmp_path: Path) -> None:
    with DhtProcess(tmp_path / "a") as a, DhtProcess(tmp_path / "b") as b:
        for name, node in ((b"a", a), (b"b", b)):
            with DhtClient(node.address) as dht:
                dht.put("channel", b"key", b"of " + name)
        dump_of_b = tmp_path / "b" / "data" / "dump"
        for _ in range(2):
            dump(b, dump_of_b)
        (dump_of_b / "other.lmdb.tmp").write_bytes(b"being written")
        before = files(dump_of_b)
        for _ in range(2):
            with pytest.raises(subprocess.CalledProcessError) as failed:
                dump(a, dump_of_b)
            assert failed.value.returncode == 1
            message = failed.value.stderr.decode()
            assert f"dhtdump: {dump_of_b} holds the dump of another node, " in message
            assert a.address in message
            assert "move what is there away first" in message
        assert files(dump_of_b) == before
        assert "holds the dump of another node" in (dump_of_b / "root.log").read_text()
        assert "failures:1 failed:1" in (dump_of_b / "stats.log").read_text()
        b.kill()
        b.start()
        assert records(b) == {b"key": b"of b"}


def test_a_node_that_came_back_with_another_data_directory(tmp_path: Path) -> None:
    """Its dhtdump does not put the little that it holds in the place of what it has held."""
    dump_dir = tmp_path / "dump"
    with DhtProcess(tmp_path / "node", DhtConfig(dump=DumpSection(dump_dir=str(dump_dir)))) as node:
        with DhtClient(node.address) as dht:
            dht.put("channel", b"key", b"value")
        dump(node, dump_dir)
    before = files(dump_dir)
    with DhtProcess(tmp_path / "elsewhere") as node, pytest.raises(subprocess.CalledProcessError):
        dump(node, dump_dir)
    assert files(dump_dir) == before


def test_an_identity_stays(tmp_path: Path) -> None:
    node = DhtProcess(tmp_path)
    node.start()
    identity = (tmp_path / "data" / "identity").read_text()
    node.kill()
    node.start()
    dump(node, tmp_path / "data" / "dump")
    node.stop()
    assert (tmp_path / "data" / "identity").read_text() == identity
    manifest = read_manifest(tmp_path / "data" / "dump")
    assert manifest is not None
    assert f"{manifest.node}\n" == identity


def dumped_node(directory: Path) -> DhtProcess:
    """That was stopped; one record is in its dump, another behind it."""
    with DhtProcess(directory) as node, DhtClient(node.address) as dht:
        for value in (b"1", b"2"):
            dht.put("channel", value, value)
            dump(node, directory / "data" / "dump")
        dht.put("channel", b"3", b"3")
    return node


@pytest.mark.parametrize("accepted", [(), ("--accept-damage",)])
def test_a_node_does_not_start_from_the_dump_of_another(tmp_path: Path, accepted: tuple[str, ...]) -> None:
    dumped_node(tmp_path / "a")
    b = dumped_node(tmp_path / "b")
    rmtree(tmp_path / "b" / "data" / "dump")
    copytree(tmp_path / "a" / "data" / "dump", tmp_path / "b" / "data" / "dump")
    with pytest.raises(RuntimeError, match="holds the dump of another node"):
        b.start(*accepted)


def test_a_dump_is_brought_to_another_machine(tmp_path: Path) -> None:
    dumped_node(tmp_path / "a")
    copytree(tmp_path / "a" / "data" / "dump", tmp_path / "b" / "data" / "dump")
    b = DhtProcess(tmp_path / "b")
    with pytest.raises(RuntimeError, match="--accept-damage"):  # what was written behind the dump is lost
        b.start()
    assert not (tmp_path / "b" / "data" / "identity").exists()
    b.start("--accept-damage")
    assert records(b) == {b"1": b"1", b"2": b"2"}
    identity = "data/identity"
    assert (tmp_path / "b" / identity).read_text() == (tmp_path / "a" / identity).read_text()
    dump(b, tmp_path / "b" / "data" / "dump")
    b.kill()
    b.start()
    assert records(b) == {b"1": b"1", b"2": b"2"}
    b.stop()


@pytest.mark.parametrize("left", [None, b"", b"0" * 31, bytes(33)])
def test_an_identity_that_is_lost_or_damaged(tmp_path: Path, left: bytes | None) -> None:
    node = dumped_node(tmp_path)
    path = tmp_path / "data" / "identity"
    identity = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(RuntimeError, match=r"identity.*--accept-damage"):
        node.start()
    node.start("--accept-damage")
    assert records(node) == {b"1": b"1", b"2": b"2", b"3": b"3"}
    node.stop()
    assert path.read_bytes() == identity


@pytest.mark.parametrize("before", [True, False])
def test_a_journal_that_is_turned_on_after_a_dump_without_one(tmp_path: Path, before: bool) -> None:
    """Segments of the time before are older than that dump, and those that are missing were not needed for it."""
    without = DhtConfig(journal=JournalSection(enabled=False))
    if before:
        dumped_node(tmp_path)
        dumped = read_manifest(tmp_path / "data" / "dump")
        assert dumped is not None
        assert dumped.first_segment > 2
        (tmp_path / "data" / "journal").rename(tmp_path / "away")  # as the node asks for
    with DhtProcess(tmp_path, without) as node, DhtClient(node.address) as dht:
        for value in (b"a", b"b"):
            dht.put("channel", b"1", value)
            dht.put("channel", b"3", value)
            dht.put("new", value, value)
            dump(node, tmp_path / "data" / "dump")
        expected = records(node)
    for cycle in range(3):
        with DhtProcess(tmp_path) as node, DhtClient(node.address) as dht:
            assert records(node) == expected
            assert dict(dht.get_all("new")) == {b"a": b"a", b"b": b"b"}
            dht.put("channel", b"cycle", b"%d" % cycle)
            expected[b"cycle"] = b"%d" % cycle
            if cycle == 1:
                dump(node, tmp_path / "data" / "dump")
                dht.put("channel", b"behind", b"value")
                expected[b"behind"] = b"value"
    (tmp_path / "data" / "dump" / "channel.lmdb").write_bytes(b"")
    with DhtProcess(tmp_path) as node:
        assert records(node) == expected


def test_a_damaged_dump_of_a_node_without_a_journal(tmp_path: Path) -> None:
    """No segment of the time before has what it held."""
    dumped_node(tmp_path)
    rmtree(tmp_path / "data" / "dump")
    (tmp_path / "data" / "journal").rename(tmp_path / "away")  # as the node asks for
    with DhtProcess(tmp_path, DhtConfig(journal=JournalSection(enabled=False))) as node, DhtClient(node.address) as dht:
        dht.put("new", b"key", b"value")
        dump(node, tmp_path / "data" / "dump")
    (tmp_path / "data" / "dump" / "new.lmdb").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"new\.lmdb is damaged"):
        DhtProcess(tmp_path).start()
