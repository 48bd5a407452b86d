"""`swarm top`: all nodes of a swarm at a glance, live on a terminal.

look        signals                                       end last
  watch     a task for each node that asks it
  live      draws every interval, and when a key was pressed
"""

import json
import logging
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click
import trio
from rich.console import Console, RenderableType
from rich.live import Live

from swarm.cli.terminal import show_once, write_output
from swarm.cli.top_table import SORTED_BY, draw
from swarm.cli.watched import Watched, look, takes_watched
from swarm.core.command_line import parsed_by
from swarm.core.config import parse_duration
from swarm.monitor import Watch

INTERVAL_S_MIN = 0.1
INTERVAL_S_MAX = 3600.0
KEYS_BYTES_MAX = 64  # read at a time


def _parse_interval(text: str) -> float:
    interval_s = parse_duration(text)
    if not INTERVAL_S_MIN <= interval_s <= INTERVAL_S_MAX:
        raise ValueError("an interval is from 100ms to 1h")
    return interval_s


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@takes_watched
@click.option(
    "--interval",
    "interval_s",
    callback=parsed_by(_parse_interval),
    metavar="DURATION",
    default="1s",
    show_default=True,
    help="Between two questions to a node: 500ms, 1s, 1m.",
)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each look, for programs.")
def top(watched: Watched, interval_s: float, once: bool, as_json: bool) -> None:
    """Shows all nodes of a swarm, live: who is up, what it holds, how much it has to do.

    \b
    Without options the nodes are those that the environment names, or those of the `swarm up` whose data directory is
    swarm-data. Requests per second and the 99th percentile of their times are those of the last interval; what asking
    for them takes does not count. Where the output is no terminal the table is shown once.

    \b
    Keys: q ends it; the rows are sorted by s state, r requests/s, b bytes, m memory, f fullest queue, e errors,
    n as they were named.
    """
    logging.getLogger("swarm").setLevel(logging.CRITICAL)  # what its clients would warn of is in the table
    console = Console()
    watch = watched.watch(interval_s=interval_s)
    if as_json:
        look(watch, lambda: _write_json(watch, interval_s, once))
    elif once or not console.is_terminal or console.is_dumb_terminal:
        look(watch, lambda: _print_once(watch, console))
    else:
        look(watch, lambda: _Screen(watch, console, interval_s).show())


async def _write_json(watch: Watch, interval_s: float, once: bool) -> None:
    await (watch.second_round() if once else watch.first_round())
    while True:
        due = trio.current_time() + interval_s
        snapshot = {"time": round(time.time(), 3), "nodes": [view.to_json() for view in watch.views()]}
        write_output(json.dumps(snapshot).encode() + b"\n")
        if once:
            return
        await trio.sleep_until(due)


async def _print_once(watch: Watch, console: Console) -> None:
    await watch.second_round()
    show_once(draw(watch.views(), columns=console.width if console.is_terminal else None))


class _Screen:
    """The terminal while the table is on it."""

    def __init__(self, watch: Watch, console: Console, interval_s: float) -> None:
        self._watch = watch
        self._console = console
        self._interval_s = interval_s
        self._sorted_by = "n"
        self._has_keys = sys.stdin.isatty()
        self._quit = trio.CancelScope()

    async def show(self) -> None:
        """Until q is pressed, or it is cancelled."""
        with (
            Live(get_renderable=self._draw, console=self._console, auto_refresh=False, screen=True) as live,
            _keys_at_once(),
            self._quit,
        ):
            while True:
                live.refresh()
                with trio.move_on_after(self._interval_s):
                    await self._key_pressed()

    def _draw(self) -> RenderableType:
        return draw(
            self._watch.views(),
            columns=self._console.width,
            lines=self._console.height,
            sorted_by=self._sorted_by,
            with_keys=self._has_keys,
        )

    async def _key_pressed(self) -> None:
        if not self._has_keys:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(sys.stdin)
        pressed = os.read(sys.stdin.fileno(), KEYS_BYTES_MAX)
        self._has_keys = pressed != b""
        for key in pressed.decode(errors="replace"):
            if key == "q":
                self._quit.cancel()
            elif key in SORTED_BY:
                self._sorted_by = key


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Keys come as they are pressed, and are not shown. Where standard input is no terminal there are none."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
