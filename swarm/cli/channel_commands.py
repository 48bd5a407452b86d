"""What the commands of every kind of node share that has channels."""

import sys
from typing import Any

import click

from swarm.cli import Failure
from swarm.cli.nodes import Nodes
from swarm.cli.terminal import confirmed, counted

CHANNEL = click.argument("channel")


@click.command("remove-channel")
@CHANNEL
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove_channel(nodes: Nodes[Any], channel: str, yes: bool) -> None:
    """Removes a channel with all its records.

    Asks first if standard input is a terminal. Status 1 if there is no such channel.
    """
    with nodes.client() as client:
        if sys.stdin.isatty() and not yes:
            records, _ = client.channel_size(channel)
            if not confirmed(f"Remove channel {channel} with {counted(records, 'record')}?"):
                raise Failure("nothing was removed")
        if not client.remove_channel(channel):
            raise Failure(f"there is no channel {channel}")
