"""A node as a program: from its configuration to its exit status. What the commands of all nodes share."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
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
from swarm.core.service_manager import STOP_S_MAX, ServiceManager, inherited_sockets, status
from swarm.core.tls import TlsSection, node_tls

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


def check_open_network(section: NodeSection, address: Address | None = None) -> None:
    """ConfigError if others could reach the node, and the configuration does not say that they shall.

    address: where it listens, if that is not what is configured.
    """
    address = address or section.address
    if not (address.is_loopback or section.credentials or section.allow_open_network):
        raise ConfigError(
            f"{address} is not known to be loopback: whoever reaches it may read and write. "
            "Listen on 127.0.0.1, give the node a credentials file (credentials in section [node]), or set "
            "allow_open_network = yes there if that is what you want"
        )


def run_node(
    program: str,
    config: NodeConfig,
    make_node: Callable[[Logs], Node],
    describe: Callable[[Node], str],
) -> None:
    """Runs it until a signal stops it. Where it cannot start, or not go on, exits and says why: with status 78 if the
    configuration is wrong, 65 if what the data directory holds is, else 1.

    make_node: loads what the node holds. describe: what is told with its address when it serves.
    """
    try:
        with lock_directory(config.node.data, owner=program):
            _serve(program, config, make_node, describe)
    except ConfigError as error:
        exit_with_config_error(program, error)
    except NodeError as error:
        click.echo(f"{program}: {error}", err=True)
        sys.exit(error.exit_status)


def _serve(
    program: str,
    config: NodeConfig,
    make_node: Callable[[Logs], Node],
    describe: Callable[[Node], str],
) -> None:
    section = config.node
    directory = Path(config.logs.directory) if config.logs.directory else section.data
    logs = _open_logs(directory, console=config.logs.console)
    manager = ServiceManager()
    reloads: list[Callable[[], None]] = []  # what SIGHUP does besides opening the logs anew
    try:
        check_http(config.http)
        clients = read_known_clients(Path(section.credentials)) if section.credentials else None
        tls = node_tls(config.tls)
        inherited = _inherited_sockets(section)
        with stopped_by_signals(), manager.more_time(status("loading")):
            raise_open_files()
            node = make_node(logs)
        node.service.health_rules["disk_nearly_full"] = disk_nearly_full([section.data, directory])
        if clients is not None:
            reloads.append(_ask_for_logins(node, Path(section.credentials), clients))
        if tls is not None:
            node.tls = tls
            reloads.append(tls.reload)
        sockets = inherited or [listen(section.address)]
        add_http(node, config.http)
        addresses = [_address_of(sock) for sock in inherited] or [_bound_address(section.address, sockets[0])]
        told = f"{program} serves on {_listed(addresses)}, {describe(node)}, data in {section.data}"
        period_s = config.logs.stats_period
        trio.run(_run, node, sockets, told, reloads, manager, period_s, strict_exception_groups=True)
    except StoppedEarly as name:
        manager.tell("STOPPING=1")
        log.info("%s: stopped while it was loading; nothing is lost", name)
    except (NodeError, ConfigError) as error:
        manager.tell(status(str(error)))
        log.error("%s", error)
        raise
    except Exception as error:
        if reason := _node_error(error):
            manager.tell(status(str(reason)))
            log.error("the node stops: %s", reason)
            raise reason from None
        log.exception("the node crashed")
        raise
    finally:
        logs.close()


def _open_logs(directory: Path, *, console: bool) -> Logs:
    try:
        return open_logs(directory, console=console)
    except OSError as error:
        raise NodeError(f"cannot write logs in {directory}: {error.strerror or error}") from error


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


async def _run(
    node: Node,
    sockets: list[socket.socket],
    told: str,
    reloads: Sequence[Callable[[], None]],
    manager: ServiceManager,
    status_period_s: float,
) -> None:
    prepare_process()

    def reload() -> None:
        with manager.reloading():
            for each in reloads:
                each()

    async with trio.open_nursery() as background:
        await background.start(node.handle_signals, reload)
        async with trio.open_nursery() as serving:
            await serving.start(node.run, sockets)
            background.start_soon(_keep_told, node, manager, status_period_s)
            log.info("%s", told)
        log.info("stopped")
        background.cancel_scope.cancel()


async def _keep_told(node: Node, manager: ServiceManager, period_s: float) -> None:
    """Tells the service manager how the node is, until it has stopped."""

    def text() -> str:
        channels, records, _ = node.channels.size()
        return f"{records} records in {channels} channels, {node.listener.connections} connections"

    async with trio.open_nursery() as telling:
        telling.start_soon(manager.keep_watchdog)
        telling.start_soon(manager.keep_status, period_s, text)
        await node.stop_requested.wait()
        telling.cancel_scope.cancel()
    with manager.more_time("STOPPING=1", at_most_s=STOP_S_MAX):
        await trio.sleep_forever()


def _node_error(error: BaseException) -> NodeError | None:
    """Why the node cannot go on, if all that has ended it are reasons that its operator can mend."""
    if isinstance(error, BaseExceptionGroup):
        reasons = [_node_error(each) for each in error.exceptions]
        return reasons[0] if all(reasons) else None
    return error if isinstance(error, NodeError) else None


def _inherited_sockets(section: NodeSection) -> list[socket.socket]:
    """What the service manager listens on for the node, which takes the place of the configured address.

    To close them refuses no connection: the service manager has them open too, and the next process is given those
    that wait. Raises ConfigError.
    """
    sockets = inherited_sockets()
    addresses = [_address_of(sock) for sock in sockets]
    for address in addresses:
        check_open_network(section, address)
    if addresses and not set(addresses) & _places(section.address):
        log.warning(
            "the service manager listens on %s for this node: the configured address, %s, is not used",
            _listed(addresses),
            section.address,
        )
    return sockets


def _places(address: Address) -> set[Address]:
    """What a socket that is bound to the address may say that it is bound to."""
    if address.is_unix:
        return {Address.unix(str(Path(address.path).absolute()))}
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {Address(str(place[0]), int(place[1])) for _, _, _, _, place in found}


def _address_of(sock: socket.socket) -> Address:
    place = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address.unix("@" + os.fsdecode(place[1:]) if isinstance(place, bytes) else place)
    return Address(place[0], place[1])


def _bound_address(address: Address, sock: socket.socket) -> Address:
    """As configured, with the port that port 0 has become."""
    return address if address.is_unix else replace(address, port=sock.getsockname()[1])


def _listed(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses))
