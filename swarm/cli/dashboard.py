"""`swarm dashboard`: the web page that shows a whole swarm, served until a signal ends it."""

import logging
from dataclasses import replace

import click

from swarm.cli import Failure
from swarm.cli.watched import Watched, look, takes_watched
from swarm.core.command_line import parsed_by
from swarm.core.config import Address, parse_address
from swarm.core.http import INSTALL_HTTP
from swarm.core.node import NodeError, listen

ADDRESS = Address("127.0.0.1", 8080)


def _parse_http_address(text: str) -> Address:
    address = parse_address(text)
    if address.is_unix:
        raise ValueError("browsers reach host:port only, such as 127.0.0.1:8080")
    return address


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@takes_watched
@click.option(
    "--address",
    callback=parsed_by(_parse_http_address),
    metavar="HOST:PORT",
    default=str(ADDRESS),
    show_default=True,
    help="Where browsers reach it; port 0 is any that is free.",
)
@click.option(
    "--allow-open-network",
    is_flag=True,
    help="Serve at an address that other machines reach. Whoever reaches it sees all that the page shows.",
)
def dashboard(watched: Watched, address: Address, allow_open_network: bool) -> None:
    """Serves a web page that shows the whole swarm, live, until Ctrl-C or SIGTERM.

    \b
    The hash ring, requests per second and their times, channels, queues, dumps, memory, what is wrong, and
    what the nodes have warned of. The page needs nothing from any network but this address.

    \b
    Without options the nodes are those that the environment names, or those of the `swarm up` whose data
    directory is swarm-data.
    """
    if not (address.is_loopback or allow_open_network):
        raise click.UsageError(
            f"{address} is not known to be loopback: whoever reaches it sees the swarm. "
            "Serve at 127.0.0.1, or say --allow-open-network if that is what you want"
        )
    try:
        from swarm.dashboard.board import Board
        from swarm.dashboard.server import serve
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("starlette", "hypercorn"):
            raise
        raise Failure(f"the dashboard needs {package}: {INSTALL_HTTP}") from error
    logging.getLogger("swarm").setLevel(logging.CRITICAL)  # what its clients would warn of is on the page
    logging.getLogger("swarm.monitor").setLevel(logging.ERROR)  # a fault in reading an answer is not, as a whole
    try:
        sock = listen(address)
    except NodeError as error:
        raise Failure(str(error)) from error
    with sock:
        place = replace(address, port=sock.getsockname()[1])
        watch, board = watched.watch(), Board(str(place))

        async def show() -> None:
            click.echo(f"the dashboard is at http://{place}/ (Ctrl-C ends it)")
            await serve(sock, board, watch, place)

        look(watch, show)
