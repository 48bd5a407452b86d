"""A data directory stays that of one kind of node, whatever a configuration says."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

EX_DATAERR = 65


def start(kind: str, data: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"nodes.{kind}", "--address", "127.0.0.1:0", "--data", str(data)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def use(kind: str, data: Path, how_it_ends: signal.Signals = signal.SIGTERM) -> None:
    with start(kind, data) as node:
        assert node.stderr is not None
        assert any(f"{kind}node serves on" in line for line in node.stderr)
        node.send_signal(how_it_ends)
        node.stderr.read()


@pytest.mark.parametrize("how_it_ended", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("first", "second"), [("dht", "queue"), ("queue", "logfiles"), ("logfiles", "dht")])
def test_another_kind_of_node_does_not_start_in_it(
    tmp_path: Path, first: str, second: str, how_it_ended: signal.Signals
) -> None:
    use(first, tmp_path, how_it_ended)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with start(second, tmp_path) as node:
        _, said = node.communicate(timeout=PATIENCE_S)
    assert node.returncode == EX_DATAERR
    assert said == (
        f"{second}node: the data directory {tmp_path} is that of a {first}node, and this is a {second}node: "
        "give each its own\n"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    use(first, tmp_path)
