"""The socket file of a node that listens on a Unix socket."""

import socket
from contextlib import closing
from pathlib import Path

import pytest

from swarm.core.config import Address
from swarm.core.node import NodeError, listen


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_socket_in_use_is_left_alone(tmp_path: Path, waiting: int) -> None:
    """Though nobody accepts, and more than wait already may not."""
    path = tmp_path / "socket"
    with closing(socket.socket(socket.AF_UNIX)) as other, closing(socket.socket(socket.AF_UNIX)) as client:
        other.bind(str(path))
        other.listen(0)
        if waiting:
            client.connect(str(path))
        with pytest.raises(NodeError, match="in use"):
            listen(Address.unix(str(path)))
        assert path.is_socket()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(path))
    with closing(listen(Address.unix(str(path)))), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))
