"""The `swarm` command itself: its sub commands, and how it ends.

Errors of the swarm and of files are one line on stderr and exit status 1, wrong arguments have status 2. Ctrl-C, and
a reader of the output that has gone (`| head`), end it without a word, by the signal that belongs to them: that is
how a shell learns of it.
"""

import logging
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from swarm import __version__
from swarm.cli import Failure, WrongCall
from swarm.core.config import ConfigError
from swarm.core.errors import BadArgument, SwarmError

_COMMANDS = {
    "credentials": "Say who may log in to nodes, and what each may do.",
    "dht": "Read and write the records of a dht.",
    "doctor": "Look whether a swarm is well, and what to do where it is not.",
    "dump": "Look into the dumps of a dht node.",
    "install-units": "Lay out systemd units, so that nodes start with the machine.",
    "logfiles": "Store records with a timestamp, and read ranges of time.",
    "queue": "Put records into queues, and take them out.",
    "stats": "Read a stats.log back, as a table or drawn.",
    "top": "Look at all nodes of a swarm, live.",
    "up": "Run a swarm on this machine.",
}
"""The module below swarm.cli and the command in it have the same name, with _ for -."""


class _Swarm(click.Group):
    """Imports a command when it is called: trio and rich take longer to import than `swarm dht get` takes in all."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"swarm.cli.{module}"), module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        if None in (sys.stdin, sys.stdout):  # `<&-` and `>&-`
            raise Failure("standard input and output have to be open")
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except SwarmError as error:
            raise (WrongCall if isinstance(error, BadArgument) else Failure)(str(error)) from error
        except ConfigError as error:
            raise WrongCall(str(error)) from error
        except KeyboardInterrupt:
            _die_by(signal.SIGINT)
        except BrokenPipeError:
            _die_by(signal.SIGPIPE)
        except OSError as error:
            raise Failure(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def _die_by(number: signal.Signals) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # only where the signal is blocked


@click.group(cls=_Swarm, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="swarm", message="%(prog)s %(version)s")
def main() -> None:
    """Runs a swarm, and reads and writes what is in it."""
    logging.basicConfig(format="swarm: %(message)s", level=logging.WARNING)


if __name__ == "__main__":
    main(prog_name="swarm")
