"""Where the commands that reach nodes find them: the same options for each kind of node."""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from swarm.core.blocking_client import BlockingClient
from swarm.core.command_line import parsed_by
from swarm.core.config import parse_duration
from swarm.core.tls import client_context

Client = TypeVar("Client", bound=BlockingClient)


@dataclass(frozen=True)
class Tls:
    """What the command line, or the environment, says of TLS with the nodes."""

    wanted: bool
    ca: Path | None
    certificate: Path | None
    key: Path | None

    def context(self) -> ssl.SSLContext | None:
        """For a client. Any of the files stands for --tls too. Raises BadArgument."""
        if self.wanted or self.ca or self.certificate or self.key:
            return client_context(self.ca, self.certificate, self.key)
        return None


_TLS_FILES = {
    "ca": "PEM file with the certificate of the authority that has signed the nodes'.",
    "certificate": "PEM file with the client's own certificate, for nodes that want one.",
    "key": "PEM file with its key, if that is not in the same.",
}


def takes_tls(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of TLS; it is called with `tls`, a Tls."""

    @wraps(function)
    def call(
        *arguments: Any,
        tls: bool,
        tls_ca: Path | None,
        tls_certificate: Path | None,
        tls_key: Path | None,
        **options: Any,
    ) -> Any:
        return function(*arguments, tls=Tls(tls, tls_ca, tls_certificate, tls_key), **options)

    decorated: Callable[..., Any] = call
    for name, described in reversed(_TLS_FILES.items()):
        variable = f"SWARM_TLS_{name.upper()}"
        decorated = click.option(
            f"--tls-{name}",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar=variable,
            help=f"{described} Stands for --tls too.  [environment: {variable}]",
        )(decorated)
    return click.option("--tls", is_flag=True, help="Reach the nodes with TLS; without a file by the system's CAs.")(
        decorated
    )


takes_credentials = click.option(
    "--credentials",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="SWARM_CREDENTIALS",
    help="The client's name and key, where nodes ask for a login: a file with the line that `swarm credentials "
    "add` gives.  [environment: SWARM_CREDENTIALS]",
)
"""Gives a command the option that says who the client is."""


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
    credentials: Path | None
    tls: Tls

    def client(self) -> Client:
        """A client of them, to be opened. Without options the environment names them; UsageError if that does not."""
        if self.file and self.addresses:
            raise click.UsageError("either --nodes or --node can be given, not both")
        options = {"timeout": self.timeout_s, "credentials": self.credentials, "tls": self.tls.context()}
        if self.file:
            return self.make(nodes_file=self.file, **options)
        named = self.addresses or [each.strip() for each in os.environ.get(self.variable, "").split(",")]
        if not any(named):
            raise click.UsageError(
                f"which nodes? Name their file with --nodes FILE (`swarm up` writes {self.written_by_up}), "
                f"each with --node HOST:PORT, or all in the environment variable {self.variable}"
            )
        return self.make(list(named), **options)


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
        @takes_credentials
        @takes_tls
        @click.pass_context
        def options(
            ctx: click.Context,
            addresses: tuple[str, ...],
            file: Path | None,
            timeout: float,
            credentials: Path | None,
            tls: Tls,
        ) -> None:
            ctx.obj = Nodes(make, variable, written_by_up, addresses, file, timeout, credentials, tls)

        options.__doc__ = function.__doc__
        options.__name__ = function.__name__
        return options

    return decorate


def parse_timeout(text: str) -> float:
    timeout_s = parse_duration(text)
    if timeout_s <= 0:
        raise ValueError("a timeout is longer than 0")
    return timeout_s
