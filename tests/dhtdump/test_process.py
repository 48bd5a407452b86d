"""dhtdump as a process: its command line, its signals, and what is left when it is killed or the disk is full."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.dht.config import DhtConfig, JournalSection
from nodes.dht.node import make_node
from nodes.dht.snapshot import load_snapshot
from swarm.blocking import DhtClient
from swarm.dht.dumps import DumpFile, read_manifest
from swarm.dht.hash_range import HashRange
from swarm.testing import DhtProcess
from tests.waiting import PATIENCE_S, shown_on_terminal, wait_until

DHTDUMP = [sys.executable, "-m", "dhtdump"]
KILLS = int(os.environ.get("SWARM_DUMP_KILLS", "12"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DhtProcess]:
    with DhtProcess(tmp_path_factory.mktemp("node")) as process:
        yield process


@pytest.fixture
def client(node: DhtProcess) -> Iterator[DhtClient]:
    """Of a node that holds nothing."""
    with DhtClient([node.address]) as dht:
        for name in dht.channels():
            dht.remove_channel(name)
        yield dht


def dhtdump(*options: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [*DHTDUMP, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=cwd)


@contextmanager
def running(directory: Path, node: DhtProcess, *options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [*DHTDUMP, "--node", node.address, "--dump-dir", str(directory), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: "next dump at" in log_of(directory))
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def log_of(directory: Path) -> str:
    path = directory / "root.log"
    return path.read_text() if path.exists() else ""


def test_once(tmp_path: Path, node: DhtProcess, client: DhtClient) -> None:
    client.put_many("channel", {b"%d" % number: b"value" for number in range(1000)})
    done = dhtdump("--node", node.address, "--dump-dir", tmp_path, "--oneshot")
    assert (done.returncode, done.stdout) == (0, "")
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.channels["channel"].records == 1000
    assert manifest.period_s is None, "nobody knows when the next follows"
    assert "dumped 1 channels with 1000 records" in log_of(tmp_path)
    stats = (tmp_path / "stats.log").read_text()
    for figure in (
        "dumps:1 failures:0 failed:0 duration_s:",
        f"last_success:{manifest.finished} ",
        "channel.channel.records:1000 channel.channel.bytes:7890",
    ):
        assert figure in stats


def test_once_on_a_terminal(tmp_path: Path, node: DhtProcess, client: DhtClient) -> None:
    client.put_many("channel", {b"%d" % number: b"value" for number in range(1000)})
    command = [*DHTDUMP, "--node", node.address, "--dump-dir", str(tmp_path), "--oneshot"]
    status, shown = shown_on_terminal(command)
    assert status == 0
    assert "dump channel" in shown
    assert "1000/1000" in shown


def test_once_without_a_node(tmp_path: Path) -> None:
    done = dhtdump("--node", "127.0.0.1:1", "--dump-dir", tmp_path, "--oneshot")
    assert done.returncode == 1
    assert re.fullmatch(
        r"dhtdump: begin dump at 127\.0\.0\.1:1: it was not reached within .*\n|.*not reached.*\n", done.stderr
    )
    assert "failed:1" in (tmp_path / "stats.log").read_text()
    assert "last_success:never" in (tmp_path / "stats.log").read_text()


def test_it_dumps_again_and_again(tmp_path: Path, node: DhtProcess, client: DhtClient) -> None:
    client.put("channel", b"key", b"value")
    with running(tmp_path, node, "--period", "50ms"):
        wait_until(lambda: log_of(tmp_path).count("dumped 1 channels") >= 3)
    assert (tmp_path / "channel.lmdb.backup").exists()
    assert re.search(r"next dump at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", log_of(tmp_path))


def test_it_tries_again_when_the_node_has_come_back(tmp_path: Path) -> None:
    (tmp_path / "dump.ini").write_text("[dump]\nperiod = 1h\nfirst_wait = 0\nretry_wait = 100ms\n")
    with DhtProcess(tmp_path / "node") as node:
        node.kill()
        with running(tmp_path / "dump", node, "--config", str(tmp_path / "dump.ini")):
            node.start()
            wait_until(lambda: "dumped 0 channels" in log_of(tmp_path / "dump"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it(tmp_path: Path, node: DhtProcess, number: signal.Signals) -> None:
    with running(tmp_path, node, "--period", "1h") as process:
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert log_of(tmp_path).endswith("dhtdump: stopped\n")


def test_a_signal_stops_it_in_the_middle_of_a_dump(tmp_path: Path, node: DhtProcess, client: DhtClient) -> None:
    client.put_many("channel", {b"%d" % number: bytes(1000) for number in range(50_000)})
    with running(tmp_path, node, "--period", "1ms") as process:
        wait_until(lambda: (tmp_path / "channel.lmdb.tmp").exists())
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert not list(tmp_path.glob("*.tmp"))
    assert log_of(tmp_path).endswith("dhtdump: stopped\n")


def test_sighup_reopens_its_logs(tmp_path: Path, node: DhtProcess) -> None:
    with running(tmp_path, node, "--period", "1h") as process:
        (tmp_path / "root.log").rename(tmp_path / "root.log.1")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP: logs reopened" in log_of(tmp_path))


def test_sigusr1_begins_a_dump(tmp_path: Path, node: DhtProcess, client: DhtClient) -> None:
    with running(tmp_path, node, "--period", "1h") as process:
        for count in (1, 2):
            client.put("channel", b"key", b"%d" % count)
            process.send_signal(signal.SIGUSR1)
            wait_until(lambda count=count: log_of(tmp_path).count("dumped 1 channels") == count)  # type: ignore[misc]
            with DumpFile(tmp_path / "channel.lmdb") as dump:
                assert dump.get(b"key") == b"%d" % count


def test_sigusr1_ends_the_wait_for_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "dump.ini").write_text("[dump]\nperiod = 1h\nfirst_wait = 0\nretry_wait = 1h\n")
    (tmp_path / "dump" / "x.tmp").mkdir(parents=True)  # cannot be removed as a file
    with (
        DhtProcess(tmp_path / "node") as node,
        running(tmp_path / "dump", node, "--config", str(tmp_path / "dump.ini")) as process,
    ):
        wait_until(lambda: "next attempt at" in log_of(tmp_path / "dump"))
        assert log_of(tmp_path / "dump").endswith(" UTC\n")  # the journal is not looked at meanwhile
        (tmp_path / "dump" / "x.tmp").rmdir()
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "dumped 0 channels" in log_of(tmp_path / "dump"))


def test_a_second_one_is_refused(tmp_path: Path, node: DhtProcess) -> None:
    with running(tmp_path, node, "--period", "1h") as process:
        done = dhtdump("--dump-dir", tmp_path, "--oneshot")
        assert done.returncode == 1
        assert (
            done.stderr == f"dhtdump: the dump directory {tmp_path} is in use by another process (pid {process.pid})\n"
        )


def loaded(directory: Path) -> dict[str, dict[bytes, bytes]]:
    """What a node would begin with."""
    node = make_node(DhtConfig(journal=JournalSection(enabled=False)))
    load_snapshot(directory, node.channels, HashRange(), node.budget, "fatal", False)
    return {
        name: {
            key: value
            for _, keys, values in channel.walk(b"", b"", b"")
            for key, value in zip(keys, values, strict=True)
        }
        for name, channel in node.channels.items()
    }


def test_killed_at_any_moment(
    tmp_path: Path, node: DhtProcess, client: DhtClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each channel is as it was in a dump before, or in the one that was killed: whole, and without its backup."""
    seed = random.randrange(2**32)
    sys.stderr.write(f"seed {seed}\n")
    source = random.Random(seed)
    keys = [b"%d" % number for number in range(20_000)]
    names = ("a", "b", "c")
    killed = 0
    for turn in range(KILLS):
        for name in names:
            client.put_many(name, dict.fromkeys(keys, b"turn %d" % turn))
        command = [*DHTDUMP, "--node", node.address, "--dump-dir", str(tmp_path), "--oneshot"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            if turn > 0:
                wait_until(lambda: list(tmp_path.glob("*.tmp")) or process.poll() is not None)
                try:
                    process.wait(source.uniform(0, 0.3))
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
        content = loaded(tmp_path)
        assert set(content) == set(names)
        for records in content.values():
            assert records.keys() == set(keys)
            assert len(set(records.values())) == 1
            assert int(records[b"0"].removeprefix(b"turn ")) <= turn
        assert not [each for each in caplog.records if each.levelname == "ERROR"]
    assert killed
    assert dhtdump("--node", node.address, "--dump-dir", tmp_path, "--oneshot").returncode == 0
    assert not list(tmp_path.glob("*.tmp"))
    assert {records[b"0"] for records in loaded(tmp_path).values()} == {b"turn %d" % (KILLS - 1)}


def test_a_dump_while_others_write_then_a_crash(tmp_path: Path) -> None:
    records = {b"%d" % number: b"first" * 50 for number in range(50_000)}
    with DhtProcess(tmp_path / "node") as node, DhtClient([node.address]) as client:
        client.put_many("channel", records)
        command = [*DHTDUMP, "--node", node.address, "--dump-dir", str(tmp_path / "node/data/dump"), "--oneshot"]
        changed: dict[bytes, bytes] = {}
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            number = 0
            while process.poll() is None:
                key = b"%d" % (number * 7919 % 60_000)
                client.put("channel", key, b"second")
                changed[key] = b"second"
                number += 1
        assert process.returncode == 0
        assert number > 100
        node.kill()
        node.start()
        found = dict(client.get_all("channel"))
    for key, value in records.items():
        assert found[key] in ({value, b"second"} if key in changed else {value})
    assert found.keys() <= records.keys() | changed.keys()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB in memory."""
    path = tmp_path / "small"
    path.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=False).returncode
    ):
        pytest.skip("may not mount")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk(small_disk: Path, node: DhtProcess, client: DhtClient) -> None:
    options = ("--node", node.address, "--dump-dir", small_disk, "--oneshot")
    client.put("channel", b"key", b"value")
    assert dhtdump(*options).returncode == 0
    before = {path.name: path.read_bytes() for path in small_disk.glob("*.lmdb")} | {
        "manifest.json": (small_disk / "manifest.json").read_bytes()
    }
    client.put_many("channel", {b"%d" % number: bytes(1000) for number in range(10_000)})
    done = dhtdump(*options)
    assert done.returncode == 1
    assert f"dhtdump: the disk is full: {small_disk / 'channel.lmdb.tmp'} cannot be written" in done.stderr
    assert {name: (small_disk / name).read_bytes() for name in before} == before
    assert not list(small_disk.glob("*.tmp"))
    assert "the dump failed, the one before stays: the disk is full" in log_of(small_disk)
    assert "failures:1 failed:1" in (small_disk / "stats.log").read_text()
    client.remove_channel("channel")
    client.put("channel", b"key", b"new")
    assert dhtdump(*options).returncode == 0
    with DumpFile(small_disk / "channel.lmdb") as dump:
        assert dump.get(b"key") == b"new"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[dump]\nperiods = 1h\n", "dump.ini:2: section [dump], unknown key periods (did you mean period?)"),
        ("[dump]\nperiod = 0\n", "dump.ini:2: section [dump], key period: '0' is refused"),
        ("[dump]\nfirst_wait = 2\n", "a number from 0 to 1 is expected"),
        ("[dump]\njournal_multiple = x\n", "a number from 0.1 to 1000000 is expected"),
        ("[node]\n", "unknown section [node]"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "dump.ini").write_text(text)
    done = dhtdump("--config", "dump.ini", cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith("dhtdump: ")
    assert error in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [("--period", "0"), ("--period", "soon"), ("--node", "nowhere"), ("more",)])
def test_wrong_options(options: tuple[str, ...]) -> None:
    assert dhtdump(*options).returncode == 2


def test_help_and_version() -> None:
    assert "--oneshot" in dhtdump("--help").stdout
    assert dhtdump("--version").stdout.startswith("dhtdump, version ")


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = dhtdump("--dump-dir", tmp_path / "file", "--oneshot")
    assert done.returncode == 1
    assert done.stderr.startswith(f"dhtdump: cannot use the dump directory {tmp_path / 'file'}: ")


def test_a_node_without_a_journal_is_told_of_once(tmp_path: Path) -> None:
    config = DhtConfig(journal=JournalSection(enabled=False))
    ini = tmp_path / "dhtdump.ini"
    ini.write_text("[dump]\nperiod = 50ms\nfirst_wait = 0\n")
    with DhtProcess(tmp_path, config) as node, running(tmp_path / "dump", node, "--config", str(ini)) as process:
        wait_until(lambda: log_of(tmp_path / "dump").count(" dumped ") >= 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    log = log_of(tmp_path / "dump")
    assert log.count("the node has no journal") == 1
    assert "did not trim" not in log


def test_a_node_that_loads_its_dump_from_elsewhere(tmp_path: Path, node: DhtProcess) -> None:
    for _ in range(2):
        done = dhtdump("--oneshot", "--node", node.address, "--dump-dir", tmp_path)
        assert done.returncode == 0
        assert done.stderr.startswith("dhtdump: the node did not trim its journal: ")
        assert f"{tmp_path} has to be the dump_dir of the node" in done.stderr
    assert log_of(tmp_path).count("the node did not trim its journal: ") == 2
    assert (tmp_path / "stats.log").read_text().count(" trimmed:0") == 2


def test_a_node_that_loads_its_dump_from_here(tmp_path: Path) -> None:
    with DhtProcess(tmp_path) as node:
        done = dhtdump("--oneshot", "--node", node.address, "--dump-dir", tmp_path / "data" / "dump")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert " trimmed:1" in (tmp_path / "data" / "dump" / "stats.log").read_text()
