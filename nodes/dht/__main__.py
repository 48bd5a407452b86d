"""The `dhtnode` command."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import trio

from nodes.dht.config import DhtConfig
from nodes.dht.node import make_node
from swarm import __version__
from swarm.core.config import EX_CONFIG, Address, ConfigError, load, override, parse_address
from swarm.core.logs import open_logs
from swarm.core.node import Node, NodeError, listen, lock_directory, prepare_process
from swarm.dht.hash_range import HashRange

log = logging.getLogger("nodes.dht")


class _Parsed(click.ParamType[Any]):
    def __init__(self, name: str, parse: object) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return self._parse(value) if isinstance(value, str) and callable(self._parse) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="INI file (etc/swarm/dht.ini shows every key)."
)
@click.option("--address", type=_Parsed("HOST:PORT", parse_address), help="Where to listen.  [127.0.0.1:10001]")
@click.option("--data", type=click.Path(path_type=Path), help="Directory of data and logs.  [dht-data]")
@click.option("--hash-range", type=_Parsed("MIN-MAX", HashRange.parse), help="Hashes it is responsible for.  [all]")
@click.version_option(__version__, prog_name="dhtnode")
def main(config_file: Path | None, address: Address | None, data: Path | None, hash_range: HashRange | None) -> None:
    """Runs a dht node: an in-memory key/value store with many channels.

    Options given here take precedence over the configuration file.
    """
    try:
        config = load(DhtConfig, config_file)
        config = replace(config, node=override(config.node, address=address, data=data, hash_range=hash_range))
        if not (config.node.address.is_loopback or config.node.allow_open_network):
            raise ConfigError(
                f"{config.node.address} can be reached from other machines, and whoever reaches it may read and write. "
                "Listen on 127.0.0.1, or set allow_open_network = yes in section [node] if that is what you want"
            )
    except ConfigError as error:
        click.echo(f"dhtnode: {error}", err=True)
        sys.exit(EX_CONFIG)
    try:
        with lock_directory(config.node.data):
            logs = open_logs(
                Path(config.logs.directory) if config.logs.directory else config.node.data, console=config.logs.console
            )
            try:
                trio.run(_run, config, make_node(config, logs), strict_exception_groups=True)
            except Exception:
                log.exception("the node crashed")
                raise
            finally:
                logs.close()
    except NodeError as error:
        click.echo(f"dhtnode: {error}", err=True)
        sys.exit(1)


async def _run(config: DhtConfig, node: Node) -> None:
    prepare_process()
    sock = listen(config.node.address)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.handle_signals, lambda: None)
        host, port = sock.getsockname()[:2] if not config.node.address.is_unix else (str(config.node.address), 0)
        log.info(
            "dhtnode serves on %s, hash range %s, memory limit %d MiB, data in %s",
            f"{host}:{port}" if port else host,
            config.node.hash_range,
            node.budget.limit >> 20,
            config.node.data,
        )
        await node.run([sock])
        log.info("stopped")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
