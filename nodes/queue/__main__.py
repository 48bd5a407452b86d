"""The `queuenode` command."""

from dataclasses import replace
from pathlib import Path

import click

from nodes.queue.config import QueueConfig
from nodes.queue.node import make_node
from swarm import __version__
from swarm.core.command_line import parsed_by
from swarm.core.config import Address, ConfigError, load, override, parse_address
from swarm.core.node_process import check_open_network, exit_with_config_error, run_node


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="INI file (etc/swarm/queue.ini shows every key)."
)
@click.option(
    "--address", callback=parsed_by(parse_address), metavar="HOST:PORT", help="Where to listen.  [127.0.0.1:10101]"
)
@click.option("--data", type=click.Path(path_type=Path), help="Directory of queues and logs.  [queue-data]")
@click.option("--accept-damage", is_flag=True, help="Put queues aside that cannot be read, and begin empty ones.")
@click.version_option(__version__, prog_name="queuenode")
def main(config_file: Path | None, address: Address | None, data: Path | None, accept_damage: bool) -> None:
    """Runs a queue node: a buffer of fixed size for each channel, first in, first out.

    Options given here take precedence over the configuration file.
    """
    try:
        config = load(QueueConfig, config_file)
        config = replace(config, node=override(config.node, address=address, data=data))
        check_open_network(config.node)
    except ConfigError as error:
        exit_with_config_error("queuenode", error)
    run_node(
        "queuenode",
        config,
        lambda logs: make_node(config, logs, accept_damage=accept_damage),
        lambda node: f"{len(node.channels)} channels",
    )


if __name__ == "__main__":
    main()
