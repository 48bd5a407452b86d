"""Where clients find their nodes; what is wrong with a nodes file is told with its name and the line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import swarm.blocking
import swarm.dht
from swarm.core.config import Address
from swarm.core.errors import BadArgument
from swarm.core.nodes_file import node_addresses


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nodes"


def problem(nodes: Any, nodes_file: Any) -> str:
    with pytest.raises(BadArgument) as caught:
        node_addresses(nodes, nodes_file)
    assert type(caught.value) is BadArgument
    return caught.value.text


def test_nodes_from_arguments() -> None:
    one, other = Address("127.0.0.1", 10001), Address("::1", 10002)
    assert node_addresses("127.0.0.1:10001", None) == [one]
    assert node_addresses(["127.0.0.1:10001", "[::1]:10002"], None) == [one, other]
    assert node_addresses(("[::1]:10002", "127.0.0.1:10001"), None) == [other, one]
    assert node_addresses("unix:/run/dht.sock", None) == [Address.unix("/run/dht.sock")]


def test_nodes_from_a_file(file: Path) -> None:
    file.write_text(
        "# the nodes of the fleet\n"
        "\n"
        "127.0.0.1:10001\n"
        "   node-2.example.org:10002   # in the cellar\n"
        "\t[::1]:10003\t\n"
        "#127.0.0.1:10004\n"
        "unix:/run/dht größe.sock\r\n"
        "127.0.0.1:10005",
        encoding="utf-8",
    )
    expected = [
        Address("127.0.0.1", 10001),
        Address("node-2.example.org", 10002),
        Address("::1", 10003),
        Address.unix("/run/dht größe.sock"),
        Address("127.0.0.1", 10005),
    ]
    assert node_addresses(None, file) == expected
    assert node_addresses(None, str(file)) == expected


def test_a_file_with_a_byte_order_mark(file: Path) -> None:
    """As configuration files may have one."""
    file.write_bytes(b"\xef\xbb\xbf127.0.0.1:10001\n")
    assert node_addresses(None, file) == [Address("127.0.0.1", 10001)]


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ("localhost\n", 1, "host:port"),
        ("127.0.0.1:1\n\n# x\n127.0.0.1:http\n", 4, "host:port"),
        ("127.0.0.1:1\n127.0.0.1:65536", 2, "65535"),
        ("127.0.0.1:1 127.0.0.1:2\n", 1, "host:port"),
        ("127.0.0.1:1, 127.0.0.1:2\n", 1, "host:port"),
        ("a:1\nb:2\n[localhost]:3\n", 3, ""),
        ("\n\n\nunix:\n", 4, "path"),
        ("a:1\nb:2\n\n  a:1  # again\n", 4, "twice"),
        ("[::1]:1\n[0:0:0:0:0:0:0:1]:1x\n", 2, ""),
    ],
)
def test_problems_name_file_and_line(file: Path, content: str, line: int, why: str) -> None:
    file.write_text(content, encoding="utf-8")
    told = problem(None, file)
    assert told.startswith(f"{file}:{line}: ")
    assert why in told


def test_a_file_that_is_not_utf_8(file: Path) -> None:
    file.write_bytes(b"127.0.0.1:1\n# gr\xf6\xdfe\n127.0.0.1:2\n")
    assert problem(None, file).startswith(f"{file}:2: ")


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n  # here\n"])
def test_files_without_a_node(file: Path, content: str) -> None:
    file.write_text(content)
    assert problem(None, file) == f"{file}: no node is named"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in problem(None, tmp_path / "none")
    assert "No such file" in problem(None, tmp_path / "none")
    assert str(tmp_path) in problem(None, tmp_path)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([], "no node"),
        ((), "no node"),
        ("", "host:port"),
        ("127.0.0.1", "host:port"),
        (["a:1", "b"], "host:port"),
        (["a:1", "b:2", "a:1"], "twice"),
        ("a:1,b:2", "host:port"),
    ],
)
def test_arguments_that_are_wrong(nodes: Any, why: str) -> None:
    told = problem(nodes, None)
    assert told.startswith("nodes: ")
    assert why in told


def test_either_nodes_or_a_file(file: Path) -> None:
    file.write_text("a:1\n")
    assert "either nodes or nodes_file" in problem(None, None)
    assert "either nodes or nodes_file" in problem("a:1", file)


@pytest.mark.parametrize("client", [swarm.dht.DhtClient, swarm.blocking.DhtClient])
def test_clients_take_both(client: Callable[..., object], file: Path) -> None:
    file.write_text("127.0.0.1:1\nnowhere\n")
    with pytest.raises(BadArgument, match=f"{file}:2: "):
        client(nodes_file=file)
    with pytest.raises(BadArgument, match="nodes: "):
        client(["127.0.0.1:1", "nowhere"])
    with pytest.raises(BadArgument, match="either"):
        client()
    file.write_text("127.0.0.1:1\n")
    client(nodes_file=str(file))
    client("127.0.0.1:1")
