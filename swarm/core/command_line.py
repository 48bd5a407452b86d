"""What the command lines of all programs share."""

from collections.abc import Callable
from typing import Any

import click


def parsed_by(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """For `callback=` of an option or argument: its value is what parse makes of the text, None if it was not given.

    Of an option that may be given several times it takes all texts. The sentence of a ValueError becomes that of the
    usage error.
    """

    def callback(ctx: click.Context, param: click.Parameter, text: Any) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback
