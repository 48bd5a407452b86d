"""SIGTERM and SIGINT end a node that is still loading in order, and the next start finds everything."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.dht.journal_format import Encoder, Header, new_seed
from swarm.blocking import DhtClient
from swarm.dht.dump_format import ChannelSize, Manifest, stored_key
from swarm.dht.dumps import DumpWriter, write_manifest
from swarm.dht.hash_range import HashRange
from swarm.dht.protocol import PUT_MANY
from swarm.testing import DhtProcess
from tests.waiting import PATIENCE_S, wait_until

RECORDS = {b"%d" % number: b"value" for number in range(4096)}
ROUNDS = 400  # in which the journal has them all: a second of replaying, or two

NODE = "5a" * 16
every_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def write_dump(data: Path) -> None:
    (data / "dump").mkdir(parents=True)
    writer = DumpWriter(data / "dump" / "dumped.lmdb")
    writer.append(sorted((stored_key(key), value) for key, value in RECORDS.items()))
    writer.finish(1, HashRange())
    write_manifest(data / "dump", Manifest(1, 1, "begun", "finished", {"dumped": ChannelSize(1, 1)}, NODE))
    (data / "identity").write_text(f"{NODE}\n", encoding="ascii")


def write_journal(data: Path) -> Path:
    path = data / "journal" / f"{1:016}.journal"
    path.parent.mkdir(parents=True)
    seed = new_seed()
    entry = Encoder(seed).encode([(PUT_MANY.code, "written", list(RECORDS), list(RECORDS.values()))])
    path.write_bytes(Header(1, 0, seed).pack() + ROUNDS * entry)
    return path


@contextmanager
def loading(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "nodes.dht", "--data", str(directory / "data"), "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def check(directory: Path, process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    log = (directory / "data" / "root.log").read_text()
    assert f"{number.name}: stopped while it was loading" in log
    assert "Traceback" not in log
    assert "serves on" not in log
    with DhtProcess(directory) as node, DhtClient(node.address) as dht:
        assert dict(dht.get_all("dumped")) == RECORDS
        assert dict(dht.get_all("written")) == RECORDS


@every_signal
def test_while_the_dump_is_read(tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    write_dump(data)
    write_journal(data)
    manifest = data / "dump" / "manifest.json"
    manifest.rename(tmp_path / "manifest.json")
    os.mkfifo(manifest)
    with loading(tmp_path) as process:
        with manifest.open("wb", buffering=0) as pipe:  # waits until the node has opened it
            pipe.write(b"{")
            process.send_signal(signal.SIGHUP)  # which has to wait
            process.send_signal(number)
        process.wait(PATIENCE_S)
        (tmp_path / "manifest.json").replace(manifest)
        check(tmp_path, process, number)


@every_signal
def test_while_the_journal_is_replayed(tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    write_dump(data)
    segment = write_journal(data)
    before = segment.read_bytes()
    with loading(tmp_path) as process:
        maps = Path("/proc") / str(process.pid) / "maps"
        wait_until(lambda: str(segment) in maps.read_text())
        for each in (number, number, signal.SIGTERM):
            process.send_signal(each)
        check(tmp_path, process, number)
    assert segment.read_bytes() == before
