"""The `dhtnode` command."""

import logging
import socket
import sys
from dataclasses import replace
from pathlib import Path

import click
import trio

from nodes.dht.config import DhtConfig
from nodes.dht.node import make_node
from swarm import __version__
from swarm.core.command_line import parsed_by
from swarm.core.config import EX_CONFIG, Address, ConfigError, load, override, parse_address, parse_size
from swarm.core.logs import open_logs
from swarm.core.node import Node, NodeError, StoppedEarly, listen, lock_directory, prepare_process, stopped_by_signals
from swarm.dht.hash_range import HashRange

log = logging.getLogger("nodes.dht")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="INI file (etc/swarm/dht.ini shows every key)."
)
@click.option(
    "--address", callback=parsed_by(parse_address), metavar="HOST:PORT", help="Where to listen.  [127.0.0.1:10001]"
)
@click.option("--data", type=click.Path(path_type=Path), help="Directory of data and logs.  [dht-data]")
@click.option(
    "--hash-range", callback=parsed_by(HashRange.parse), metavar="MIN-MAX", help="Hashes it is responsible for.  [all]"
)
@click.option(
    "--memory-limit",
    callback=parsed_by(parse_size),
    metavar="SIZE",
    help="Of its records: 512 MiB.  [three quarters of the machine]",
)
@click.option("--accept-damage", is_flag=True, help="Start with what is sound of a damaged journal.")
@click.version_option(__version__, prog_name="dhtnode")
def main(
    config_file: Path | None,
    address: Address | None,
    data: Path | None,
    hash_range: HashRange | None,
    memory_limit: int | None,
    accept_damage: bool,
) -> None:
    """Runs a dht node: an in-memory key/value store with many channels.

    Options given here take precedence over the configuration file.
    """
    try:
        config = load(DhtConfig, config_file)
        given = override(config.node, address=address, data=data, hash_range=hash_range, memory_limit=memory_limit)
        config = replace(config, node=given)
        if not (config.node.address.is_loopback or config.node.allow_open_network):
            raise ConfigError(
                f"{config.node.address} is not known to be loopback: whoever reaches it may read and write. "
                "Listen on 127.0.0.1, or set allow_open_network = yes in section [node] if that is what you want"
            )
    except ConfigError as error:
        click.echo(f"dhtnode: {error}", err=True)
        sys.exit(EX_CONFIG)
    try:
        with lock_directory(config.node.data):
            _serve(config, accept_damage)
    except NodeError as error:
        click.echo(f"dhtnode: {error}", err=True)
        sys.exit(1)


def _serve(config: DhtConfig, accept_damage: bool) -> None:
    directory = Path(config.logs.directory) if config.logs.directory else config.node.data
    try:
        logs = open_logs(directory, console=config.logs.console)
    except OSError as error:
        raise NodeError(f"cannot write logs in {directory}: {error.strerror or error}") from error
    try:
        with stopped_by_signals():
            node = make_node(config, logs, accept_damage=accept_damage, loads_dump=True)
        trio.run(_run, config, node, listen(config.node.address), strict_exception_groups=True)
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


async def _run(config: DhtConfig, node: Node, sock: socket.socket) -> None:
    prepare_process()
    async with trio.open_nursery() as nursery:
        await nursery.start(node.handle_signals, lambda: None)
        if not config.journal.enabled:
            log.warning(
                "there is no journal (enabled = no in section [journal]): the content is gone when the node ends"
            )
        log.info(
            "dhtnode serves on %s, hash range %s, memory limit %d MiB, data in %s",
            _bound_address(config, sock),
            config.node.hash_range,
            node.budget.limit >> 20,
            config.node.data,
        )
        await node.run([sock])
        log.info("stopped")
        nursery.cancel_scope.cancel()


def _node_error(error: BaseException) -> NodeError | None:
    """Why the node cannot go on, if all that has ended it are reasons that its operator can mend."""
    if isinstance(error, BaseExceptionGroup):
        reasons = [_node_error(each) for each in error.exceptions]
        return reasons[0] if all(reasons) else None
    return error if isinstance(error, NodeError) else None


def _bound_address(config: DhtConfig, sock: socket.socket) -> Address:
    """As configured, with the port that port 0 has become."""
    if config.node.address.is_unix:
        return config.node.address
    return replace(config.node.address, port=sock.getsockname()[1])


if __name__ == "__main__":
    main()
