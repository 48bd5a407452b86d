"""What README.md shows, as it stands there, against a running swarm: the commands and programs do what it says.

Each is run twice, since readers do. Only the addresses are others.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from swarm.core.config import Address
from swarm.core.node import listen
from tests.waiting import PATIENCE_S, wait_until

README = (Path(__file__).parents[2] / "README.md").read_text()
ADDRESSES = ("127.0.0.1:10001", "127.0.0.1:10002")
QUEUE_ADDRESSES = ("127.0.0.1:10101",)
LOGFILES_ADDRESSES = ("127.0.0.1:10201",)
NODES_FILES = {"nodes": ADDRESSES, "nodes-queue": QUEUE_ADDRESSES, "nodes-logfiles": LOGFILES_ADDRESSES}


def blocks(language: str) -> list[str]:
    """The blocks of this language; of the indented text between fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where `swarm up` was called."""
    directory = tmp_path_factory.mktemp("readme")
    command = [sys.executable, "-m", "swarm.cli.main", "up", "--base-port", "0"]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) as process:
        try:
            for file in NODES_FILES:
                wait_until((directory / "swarm-data" / file).exists)
            yield directory
        finally:
            process.terminate()


def at_the_nodes_of(place: Path, text: str) -> str:
    for file, addresses in NODES_FILES.items():
        for shown, address in zip(addresses, (place / "swarm-data" / file).read_text().split(), strict=True):
            text = text.replace(shown, address)
    return text


def run(place: Path, *command: str, environment: dict[str, str] | None = None) -> str:
    """What it writes, to its output and to its standard error."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | {"PATH": path} | (environment or {}),
    ).stdout


@pytest.mark.parametrize(
    ("first", "variable", "addresses"),
    [
        ("swarm dht put", "SWARM_NODES", ADDRESSES),
        ("swarm queue push", "SWARM_QUEUE_NODES", QUEUE_ADDRESSES),
        ("swarm logfiles put", "SWARM_LOGFILES_NODES", LOGFILES_ADDRESSES),
    ],
)
def test_the_commands(place: Path, first: str, variable: str, addresses: tuple[str, ...]) -> None:
    (block,) = (each for each in blocks("console") if first in each)
    assert f"export {variable}={','.join(addresses)}\n" in block
    nodes = {variable: at_the_nodes_of(place, ",".join(addresses))}
    shown = [each.partition("\n") for each in block.removeprefix("$ ").split("\n$ ")]
    shown = [each for each in shown if re.search(r"swarm|>", each[0]) and f"export {variable}" not in each[0]]
    assert len(shown) > 5
    for command, _, output in shown * 2:
        assert run(place, "sh", "-c", command, environment=nodes).rstrip("\n") == output.rstrip("\n"), command


@pytest.mark.parametrize("event_loop", ["trio", "asyncio"])
def test_the_program(place: Path, event_loop: str) -> None:
    program, output = next(
        re.finditer(r"^```python\n(import trio.*?)^```\n\nprints\n\n```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    ).groups()
    if event_loop == "asyncio":
        assert "the same program with `asyncio.run(main())`" in README
        program = program.replace("import trio", "import asyncio").replace("trio.run(main)", "asyncio.run(main())")
    for _ in range(2):
        assert run(place, sys.executable, "-c", at_the_nodes_of(place, program)) == output


def test_the_programs_without_an_event_loop(place: Path) -> None:
    programs = [each for each in blocks("python") if "swarm.blocking" in each]
    assert len(programs) == 4
    of_queue, of_logfiles = (
        re.findall(rf"{client}\(.*?^```\n\nprints\n\n```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[0]
        for client in ("QueueClient", "LogfilesClient")
    )
    for program, output in zip(programs, ("b'world'\n", of_queue, of_logfiles, ""), strict=True):
        for _ in range(2):
            assert run(place, sys.executable, "-W", "error", "-c", program) == output


def test_a_node_by_itself(place: Path) -> None:
    (command,) = re.findall(r"^\$ dhtnode (.*)$", README, re.MULTILINE)
    options = command.replace(ADDRESSES[0], "127.0.0.1:0").split()
    node = subprocess.Popen(
        [sys.executable, "-m", "nodes.dht", *options], cwd=place, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    with node:
        assert node.stderr is not None
        assert "dhtnode serves on" in node.stderr.readline()
        node.terminate()
        assert node.wait(PATIENCE_S) == 0
        node.stderr.read()
    assert (place / "dht-data" / "root.log").exists()
    assert (place / "dht-data" / "stats.log").exists()


def test_a_node_that_asks_for_logins(place: Path) -> None:
    (block,) = (each for each in blocks("console") if "swarm credentials add" in each)
    with closing(listen(Address("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shown = [
        each.partition("\n") for each in block.replace("127.0.0.1:10301", address).removeprefix("$ ").split("\n$ ")
    ]
    for command, _, output in shown[:2]:
        said = run(place, "sh", "-c", command).replace(f"{place}/", "")
        assert said.rstrip("\n") == output.rstrip("\n"), command
    assert shown[2][0] == "queuenode --config queue.ini &"
    command = [sys.executable, "-m", "nodes.queue", "--config", "queue.ini"]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        assert any("queuenode serves on" in line for line in node.stderr)
        for asked, _, output in shown[3:]:
            assert run(place, "sh", "-c", asked).rstrip("\n") == output.rstrip("\n"), asked
        node.terminate()
        node.stderr.read()
    assert node.returncode == 0


def test_logfiles_by_themselves_are_checked(place: Path) -> None:
    assert "\n$ logfiles-check logfiles-data\n" in README
    command = [sys.executable, "-m", "nodes.logfiles", "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        assert "logfilesnode serves on" in node.stderr.readline()
        assert "is in use" in run(place, "logfiles-check", "logfiles-data")
        node.terminate()
        assert node.wait(PATIENCE_S) == 0
        node.stderr.read()
    assert run(place, "logfiles-check", "logfiles-data").endswith(": clean\n")
