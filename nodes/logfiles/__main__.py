"""The `logfilesnode` command."""

from dataclasses import replace
from pathlib import Path

import click

from nodes.logfiles.config import LogfilesConfig
from nodes.logfiles.node import make_node
from swarm import __version__
from swarm.core.command_line import parsed_by
from swarm.core.config import Address, ConfigError, load, override, parse_address
from swarm.core.node_process import check_open_network, exit_with_config_error, run_node


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="INI file (etc/swarm/logfiles.ini shows every key).",
)
@click.option(
    "--address", callback=parsed_by(parse_address), metavar="HOST:PORT", help="Where to listen.  [127.0.0.1:10201]"
)
@click.option("--data", type=click.Path(path_type=Path), help="Directory of records and logs.  [logfiles-data]")
@click.version_option(__version__, prog_name="logfilesnode")
def main(config_file: Path | None, address: Address | None, data: Path | None) -> None:
    """Runs a logfiles node: records with a timestamp, on disk, read by their time.

    Options given here take precedence over the configuration file.
    """
    try:
        config = load(LogfilesConfig, config_file)
        config = replace(config, node=override(config.node, address=address, data=data))
        check_open_network(config.node)
    except ConfigError as error:
        exit_with_config_error("logfilesnode", error)
    run_node(
        "logfilesnode",
        config,
        lambda logs: make_node(config, logs),
        lambda node: f"{len(node.channels)} channels",
    )


if __name__ == "__main__":
    main()
