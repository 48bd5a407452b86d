"""[http] of every node's configuration: an address on which the node tells how it is, for Prometheus and for people.

What serves it is only imported where an address is configured: it takes 10 MiB of memory, and packages that a node
does not need otherwise.
"""

import logging
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Annotated

from swarm.core.config import Address, ConfigError, parse_address
from swarm.core.node import Node, NodeError, listen

log = logging.getLogger(__name__)

INSTALL_HTTP = "pip install 'PATH-OF-THE-CHECKOUT[http]', as swarm itself was installed"


def _parse_http_address(text: str) -> Address | None:
    return parse_address(text) if text else None


@dataclass(frozen=True)
class HttpSection:
    """address: None for no HTTP."""

    address: Annotated[Address | None, _parse_http_address] = None
    allow_open_network: bool = False


def check_http(section: HttpSection) -> None:
    """ConfigError if HTTP is configured and cannot be, or should not be, served."""
    if section.address is None:
        return
    if not (section.address.is_loopback or section.allow_open_network):
        raise ConfigError(
            f"{section.address} in section [http] is not known to be loopback: whoever reaches it may read the node's "
            "figures and the names of its channels. Listen on 127.0.0.1, or set allow_open_network = yes in section "
            "[http] if that is what you want"
        )
    try:
        for module in ("http_pages", "http_server"):
            import_module(f"swarm.core.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"section [http] needs the package {error.name}, which is not installed: {INSTALL_HTTP}"
        ) from error


def add_http(node: Node, section: HttpSection) -> None:
    """The node serves HTTP while it runs, if that is configured. NodeError if it cannot listen."""
    if section.address is None:
        return
    from swarm.core.http_pages import node_pages
    from swarm.core.http_server import HttpServer

    try:
        sock = listen(section.address)
    except NodeError as error:
        raise NodeError(f"HTTP (address in section [http]): {error}") from error
    server = HttpServer(node_pages(node, section.address), sock)
    node.service.background.append(server.run)
    node.service.more_statistics.append(server.statistics)
    bound = section.address if section.address.is_unix else replace(section.address, port=sock.getsockname()[1])
    log.info("HTTP on %s: /metrics, /health, /ready, /stats", bound)
