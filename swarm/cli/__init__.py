"""The `swarm` command, for people."""

from typing import IO, Any

import click


class Failure(click.ClickException):
    """Ends the command: one line on stderr and exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"swarm: {self.message}", err=True)


class WrongCall(Failure):
    """As Failure, where what the command line asks for can never be: exit status 2, as for wrong options."""

    exit_code = 2
