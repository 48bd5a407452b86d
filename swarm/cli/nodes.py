"""Where the commands that reach nodes find them: the same options for each kind of node."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from swarm.core.blocking_client import BlockingClient
from swarm.core.command_line import parsed_by
from swarm.core.config import parse_duration

Client = TypeVar("Client", bound=BlockingClient)


@dataclass(frozen=True)
class Nodes(Generic[Client]):
    """The nodes of one kind that the command line names, or the environment."""

    make: Callable[..., Client]
    variable: str
    """In the environment: HOST:PORT,HOST:PORT."""
    written_by_up: str
    """The file in which `swarm up` names them."""
    addresses: tuple[str, ...]
    file: Path | None
    timeout_s: float

    def client(self) -> Client:
        """A client of them, to be opened. Without options the environment names them; UsageError if that does not."""
        if self.file and self.addresses:
            raise click.UsageError("either --nodes or --node can be given, not both")
        if self.file:
            return self.make(nodes_file=self.file, timeout=self.timeout_s)
        named = self.addresses or [each.strip() for each in os.environ.get(self.variable, "").split(",")]
        if not any(named):
            raise click.UsageError(
                f"which nodes? Name their file with --nodes FILE (`swarm up` writes {self.written_by_up}), "
                f"each with --node HOST:PORT, or all in the environment variable {self.variable}"
            )
        return self.make(list(named), timeout=self.timeout_s)


def takes_nodes(make: Callable[..., BlockingClient], variable: str, written_by_up: str) -> Callable[[Any], Any]:
    """Gives a group the options that name its nodes; what they name is the `obj` of the context of its commands."""

    def decorate(function: Callable[[], None]) -> Callable[..., None]:
        @click.option("--node", "addresses", multiple=True, metavar="HOST:PORT", help="A node; repeat it for each.")
        @click.option(
            "--nodes",
            "file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"File that names all nodes, HOST:PORT a line, # begins a comment; `swarm up` writes {written_by_up}.",
        )
        @click.option(
            "--timeout",
            callback=parsed_by(parse_timeout),
            metavar="DURATION",
            default="5s",
            show_default=True,
            help="Of each request: 250ms, 5s, 1m.",
        )
        @click.pass_context
        def options(ctx: click.Context, addresses: tuple[str, ...], file: Path | None, timeout: float) -> None:
            ctx.obj = Nodes(make, variable, written_by_up, addresses, file, timeout)

        options.__doc__ = function.__doc__
        options.__name__ = function.__name__
        return options

    return decorate


def parse_timeout(text: str) -> float:
    timeout_s = parse_duration(text)
    if timeout_s <= 0:
        raise ValueError("a timeout is longer than 0")
    return timeout_s
