"""The `dhtnode` command."""

import logging
from dataclasses import replace
from pathlib import Path

import click

from nodes.dht.config import DhtConfig
from nodes.dht.node import make_node
from swarm import __version__
from swarm.core.command_line import parsed_by
from swarm.core.config import Address, ConfigError, load, override, parse_address, parse_size
from swarm.core.logs import Logs
from swarm.core.node import Node
from swarm.core.node_process import check_open_network, exit_with_config_error, run_node
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
        check_open_network(config.node)
    except ConfigError as error:
        exit_with_config_error("dhtnode", error)

    def load_node(logs: Logs) -> Node:
        node = make_node(config, logs, accept_damage=accept_damage, loads_dump=True)
        if not config.journal.enabled:
            log.warning(
                "there is no journal (enabled = no in section [journal]): the content is gone when the node ends"
            )
        return node

    def describe(node: Node) -> str:
        return f"hash range {config.node.hash_range}, memory limit {node.budget.limit >> 20} MiB"

    run_node("dhtnode", config, load_node, describe)


if __name__ == "__main__":
    main()
