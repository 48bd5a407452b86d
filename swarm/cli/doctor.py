"""`swarm doctor`: looks at a swarm from outside, and says what is wrong and what to do about it."""

import dataclasses
import json
import logging
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from swarm.cli.nodes import parse_timeout
from swarm.cli.terminal import show_once
from swarm.cli.watched import Watched, look, takes_watched
from swarm.core.command_line import parsed_by
from swarm.monitor.checks import Check, check_nodes
from swarm.monitor.local_checks import check_machine

_MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "yellow")}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@takes_watched
@click.option(
    "--local",
    "prefix",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value="/",
    metavar="[PREFIX]",
    help="Look at this machine too, where the nodes run: units, files' permissions, room on the disk. PREFIX: as it "
    "was given to `swarm install-units`.  [/]",
)
@click.option(
    "--timeout",
    "timeout_s",
    callback=parsed_by(parse_timeout),
    metavar="DURATION",
    default="5s",
    show_default=True,
    help="A node that takes longer to answer is not reachable.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_context
def doctor(ctx: click.Context, watched: Watched, prefix: Path | None, timeout_s: float, as_json: bool) -> None:
    """Looks whether a swarm is well, and says what to do where it is not.

    Every node is reachable, all have the version of this command, the hash ranges of the dht nodes have no gap and no
    overlap, dumps are fresh, and no node finds anything wrong with itself. Nothing is changed.

    Exit status: 0 if all is well, 1 if there are findings, 2 for a wrong call.
    """
    logging.getLogger("swarm").setLevel(logging.CRITICAL)  # what its clients would warn of is in the table
    watch = watched.watch(timeout_s=timeout_s)
    look(watch, watch.first_round)
    checks = check_nodes(watch.views())
    if prefix is not None:
        checks += check_machine(prefix)
    healthy = not any(check.ok is False for check in checks)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "checks": [dataclasses.asdict(check) for check in checks]}))
    else:
        _print(checks)
    ctx.exit(0 if healthy else 1)


def _print(checks: list[Check]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for check in checks:
        mark, style = _MARKS[check.ok]
        said = Text(check.found, style="" if check.ok else style)
        if check.advice:
            said.append(f"\n→ {check.advice}", "default not bold")
        table.add_row(Text(mark, style), Text(check.name), Text(check.subject), said)
    show_once(table)
    findings = sum(check.ok is False for check in checks)
    click.echo(f"{findings} findings" if findings != 1 else "1 finding")
