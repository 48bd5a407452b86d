"""Where a client finds its nodes: in its arguments or in a nodes file."""

import codecs
from collections.abc import Sequence
from pathlib import Path

from swarm.core.config import Address, parse_address
from swarm.core.errors import BadArgument


def node_addresses(nodes: str | Sequence[str] | None, nodes_file: str | Path | None) -> list[Address]:
    """The addresses of all nodes. nodes: host:port, one or several; nodes_file: a file with one a line, # begins a
    comment.

    Raises BadArgument, naming file and line.
    """
    if (nodes is None) == (nodes_file is None):
        raise BadArgument("a client needs either nodes or nodes_file")
    if nodes_file is not None:
        places = _read(Path(nodes_file))
    else:
        places = [(node, "nodes") for node in ([nodes] if isinstance(nodes, str) else nodes or ())]
    addresses: dict[Address, None] = {}
    for text, place in places:
        try:
            address = parse_address(text)
        except ValueError as error:
            raise BadArgument(f"{place}: {text!r} is no address: {error}") from error
        if address in addresses:
            raise BadArgument(f"{place}: {text} is named twice")
        addresses[address] = None
    if not addresses:
        raise BadArgument(f"{nodes_file or 'nodes'}: no node is named")
    return list(addresses)


def _read(path: Path) -> list[tuple[str, str]]:
    """Each address in the file, with its place."""
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise BadArgument(f"cannot read the nodes file {path}: {error.strerror or error}") from error
    found: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().partition("#")[0].strip()
        except UnicodeDecodeError as error:
            raise BadArgument(f"{path}:{number}: not UTF-8: {error}") from error
        if text:
            found.append((text, f"{path}:{number}"))
    return found
