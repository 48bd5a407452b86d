"""Values on the command lines of all programs are read by the functions that read those of configuration files."""

import click
import pytest
from click.testing import CliRunner

from dhtdump.__main__ import main as dhtdump
from nodes.dht.__main__ import main as dhtnode
from swarm.cli.main import main as swarm


@pytest.mark.parametrize(
    ("command", "arguments", "reason"),
    [
        (dhtnode, ["--address", "nowhere"], "Invalid value for '--address': an address is host:port"),
        (dhtnode, ["--hash-range", "5"], "Invalid value for '--hash-range': '5' is not a hash range MIN-MAX"),
        (dhtnode, ["--memory-limit", "much"], "Invalid value for '--memory-limit': a size is a number of"),
        (dhtdump, ["--node", "nowhere"], "Invalid value for '--node': an address is host:port"),
        (dhtdump, ["--period", "0"], "Invalid value for '--period': a duration longer than 0 is expected"),
        (swarm, ["up", "--memory-limit", "much"], "Invalid value for '--memory-limit': a size is a number of"),
        (swarm, ["dht", "--timeout", "0", "channels"], "Invalid value for '--timeout': a timeout is longer than 0"),
    ],
)
def test_a_value_that_is_not_understood(command: click.Command, arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.replace("│", " ").split())
