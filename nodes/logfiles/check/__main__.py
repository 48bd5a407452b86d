"""The `logfiles-check` command."""

import os
import sys
from pathlib import Path

import click

from nodes.logfiles.check.files import Files
from nodes.logfiles.check.findings import Report, Status
from nodes.logfiles.check.run import Options, run
from nodes.logfiles.check.show import progress_bar, show_json, show_text
from nodes.logfiles.check.tree import Impossible, data_directory, find, kept_from_nodes
from swarm import __version__

STATUS = "Exit status: 0 clean, 1 repaired, 4 damage left, 8 something could not be checked or mended, 16 wrong usage."


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=f"{STATUS} The sum of what happened.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--channel", help="The only channel of a data directory that is looked at.")
@click.option("--fix", is_flag=True, help="Mend: keep what is whole, set the rest aside.")
@click.option("--truncate", is_flag=True, help="With --fix: set aside all that is behind the first damage of a file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--verbose", "-v", is_flag=True, help="Tell too what a node recognises by itself.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes at a time.  [one for each core]")
@click.version_option(__version__, prog_name="logfiles-check")
def command(
    path: Path, channel: str | None, fix: bool, truncate: bool, as_json: bool, verbose: bool, jobs: int | None
) -> int:
    """Finds damage in the files of a logfiles node, and mends it with --fix.

    PATH is a node's data directory, the directory of a channel or of a day, or one file, which is looked at with the
    others of its bucket. Nothing is changed without --fix. No node may run on the directory. What --fix cuts out is
    kept in a .damaged file beside it.
    """
    if truncate and not fix:
        raise click.UsageError("--truncate goes with --fix")
    path = Path(os.path.abspath(path))  # noqa: PTH100  # a channel's directory may be a link to another disk
    data = data_directory(path)
    if channel is not None and path not in (data, data and data / "channels"):
        raise click.UsageError("--channel goes with a data directory")
    try:
        with kept_from_nodes(data, to_change=fix):
            found = find(path, channel)
            options = Options(fix, truncate, jobs or len(os.sched_getaffinity(0)))
            with progress_bar(sum(work.bytes for work in found.work), sys.stderr.isatty() and not as_json) as advance:
                report = run(found, options, Files(), advance)
    except Impossible as error:
        if not as_json:
            raise
        report = Report(errors=[str(error)])
    if as_json:
        show_json(report, verbose=verbose)
    else:
        show_text(report, verbose=verbose)
    return report.status


def main() -> None:
    """Ends the process with a status as that of fsck."""
    try:
        status = command(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        status = Status.USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("logfiles-check: stopped; what was mended until then is whole", err=True)
        status = Status.OPERATIONAL
    except Impossible as error:
        click.echo(f"logfiles-check: {error}", err=True)
        status = Status.OPERATIONAL
    sys.exit(int(status))


if __name__ == "__main__":
    main()
