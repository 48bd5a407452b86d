"""What the command lines of all programs share."""

from collections.abc import Callable
from typing import Any

import click


def parsed_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """For `callback=` of an option or argument: its value is what parse makes of the text, None if it was not given.

    The sentence of a ValueError becomes that of the usage error.
    """

    def callback(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback
