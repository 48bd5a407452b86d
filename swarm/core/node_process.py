"""A node as a program: from its configuration to its exit status. What the commands of all nodes share."""

import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol

import click
import trio

from swarm.core.authentication import Authentication
from swarm.core.config import EX_CONFIG, Address, ConfigError
from swarm.core.credentials import KnownClients, read_known_clients
from swarm.core.health import disk_nearly_full
from swarm.core.http import HttpSection, add_http, check_http
from swarm.core.logs import Logs, open_logs
from swarm.core.node import (
    LogsSection,
    Node,
    NodeError,
    StoppedEarly,
    listen,
    lock_directory,
    prepare_process,
    raise_open_files,
    stopped_by_signals,
)
from swarm.core.tls import NodeTls, TlsSection, node_tls

log = logging.getLogger(__name__)


class NodeSection(Protocol):
    """What [node] of every node's configuration has."""

    @property
    def address(self) -> Address: ...

    @property
    def data(self) -> Path: ...

    @property
    def credentials(self) -> str: ...

    @property
    def allow_open_network(self) -> bool: ...


class NodeConfig(Protocol):
    """What every node's configuration has."""

    @property
    def node(self) -> NodeSection: ...

    @property
    def tls(self) -> TlsSection: ...

    @property
    def logs(self) -> LogsSection: ...

    @property
    def http(self) -> HttpSection: ...


def exit_with_config_error(program: str, error: ConfigError) -> NoReturn:
    click.echo(f"{program}: {error}", err=True)
    sys.exit(EX_CONFIG)


def check_open_network(section: NodeSection) -> None:
    """ConfigError if others could reach the node, and the configuration does not say that they shall."""
    if not (section.address.is_loopback or section.credentials or section.allow_open_network):
        raise ConfigError(
            f"{section.address} is not known to be loopback: whoever reaches it may read and write. "
            "Listen on 127.0.0.1, give the node a credentials file (credentials in section [node]), or set "
            "allow_open_network = yes there if that is what you want"
        )


def run_node(
    program: str,
    config: NodeConfig,
    make_node: Callable[[Logs], Node],
    describe: Callable[[Node], str],
) -> None:
    """Runs it until a signal stops it. Where it cannot start, or not go on, exits with status 1 and says why; with
    status 78 where its certificate cannot be used.

    make_node: loads what the node holds. describe: what is told with its address when it serves.
    """
    try:
        check_http(config.http)
        clients = read_known_clients(Path(config.node.credentials)) if config.node.credentials else None
        tls = node_tls(config.tls)
    except ConfigError as error:
        exit_with_config_error(program, error)
    try:
        with lock_directory(config.node.data):
            _serve(program, config, make_node, describe, clients, tls)
    except NodeError as error:
        click.echo(f"{program}: {error}", err=True)
        sys.exit(1)


def _serve(
    program: str,
    config: NodeConfig,
    make_node: Callable[[Logs], Node],
    describe: Callable[[Node], str],
    clients: KnownClients | None,
    tls: NodeTls | None,
) -> None:
    section = config.node
    directory = Path(config.logs.directory) if config.logs.directory else section.data
    try:
        logs = open_logs(directory, console=config.logs.console)
    except OSError as error:
        raise NodeError(f"cannot write logs in {directory}: {error.strerror or error}") from error
    try:
        with stopped_by_signals():
            raise_open_files()
            node = make_node(logs)
        node.service.health_rules["disk_nearly_full"] = disk_nearly_full([section.data, directory])
        reloads = [_ask_for_logins(node, Path(section.credentials), clients)] if clients is not None else []
        if tls is not None:
            node.tls = tls
            reloads.append(tls.reload)
        sock = listen(section.address)
        add_http(node, config.http)
        told = f"{program} serves on {_bound_address(section.address, sock)}, {describe(node)}, data in {section.data}"
        trio.run(_run, node, sock, told, reloads, strict_exception_groups=True)
    except StoppedEarly as name:
        log.info("%s: stopped while it was loading; nothing is lost", name)
    except NodeError as error:
        log.error("%s", error)
        raise
    except Exception as error:
        if reason := _node_error(error):
            log.error("the node stops: %s", reason)
            raise reason from None
        log.exception("the node crashed")
        raise
    finally:
        logs.close()


def _ask_for_logins(node: Node, path: Path, clients: KnownClients) -> Callable[[], None]:
    """path: of the credentials file. Returns what reads it anew."""
    authentication = Authentication(node.service, clients)

    def tell(clients: KnownClients) -> None:
        log.info("clients that may log in: %d (%s)", len(clients), path)
        if not clients:
            log.warning("%s names no client: nobody can log in; `swarm credentials add` adds one", path)

    def reload() -> None:
        try:
            clients = read_known_clients(path)
        except ConfigError as error:
            log.error("the credentials stay as they were: %s", error)
            return
        authentication.replace_clients(clients)
        tell(clients)

    tell(clients)
    return reload


async def _run(node: Node, sock: socket.socket, told: str, reloads: list[Callable[[], None]]) -> None:
    prepare_process()

    def reload() -> None:
        for each in reloads:
            each()

    async with trio.open_nursery() as nursery:
        await nursery.start(node.handle_signals, reload)
        log.info("%s", told)
        await node.run([sock])
        log.info("stopped")
        nursery.cancel_scope.cancel()


def _node_error(error: BaseException) -> NodeError | None:
    """Why the node cannot go on, if all that has ended it are reasons that its operator can mend."""
    if isinstance(error, BaseExceptionGroup):
        reasons = [_node_error(each) for each in error.exceptions]
        return reasons[0] if all(reasons) else None
    return error if isinstance(error, NodeError) else None


def _bound_address(address: Address, sock: socket.socket) -> Address:
    """As configured, with the port that port 0 has become."""
    return address if address.is_unix else replace(address, port=sock.getsockname()[1])
