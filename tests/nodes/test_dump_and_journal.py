"""A node with its dhtdump: what it starts from is the last dump, and the journal from there on."""

import subprocess
import sys
from pathlib import Path

from swarm.blocking import DhtClient
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
