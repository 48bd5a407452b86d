"""The `dhtdump` command."""

import logging
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import trio

from dhtdump.config import DumpConfig, parse_period
from dhtdump.cycle import DumpClient, Progress
from dhtdump.schedule import NODE_TIMEOUT_S, Schedule
from swarm import __version__
from swarm.core.command_line import parsed_by
from swarm.core.config import EX_CONFIG, Address, ConfigError, load, override, parse_address
from swarm.core.credentials import read_credentials
from swarm.core.errors import SwarmError
from swarm.core.logs import Logs, open_logs
from swarm.core.node import NodeError, lock_directory, prepare_process
from swarm.core.service_manager import ServiceManager

log = logging.getLogger("dhtdump")

STATUS_PERIOD_S = 2.0  # between two lines for the service manager


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="INI file (etc/swarm/dhtdump.ini shows every key)."
)
@click.option("--node", callback=parsed_by(parse_address), metavar="HOST:PORT", help="The node.  [127.0.0.1:10001]")
@click.option("--credentials", metavar="FILE", help="Its name and key, where the node asks for a login.")
@click.option("--dump-dir", type=click.Path(path_type=Path), help="Where dumps are written.  [dht-data/dump]")
@click.option("--period", callback=parsed_by(parse_period), metavar="DURATION", help="From dump to dump.  [6h]")
@click.option("--oneshot", is_flag=True, help="One dump, at once; exit status 1 if it fails.")
@click.version_option(__version__, prog_name="dhtdump")
def main(
    config_file: Path | None,
    node: Address | None,
    credentials: str | None,
    dump_dir: Path | None,
    period: float | None,
    oneshot: bool,
) -> None:
    """Writes what a dht node holds to disk, again and again, for the node to start from.

    One runs for each node. Options given here take precedence over the configuration file.
    """
    try:
        config = load(DumpConfig, config_file)
        given = override(config.dump, node=node, credentials=credentials, dump_dir=dump_dir, period=period)
        config = replace(config, dump=given)
        read_credentials(config.dump.credentials or None)  # a mistake in it is told before anything is done
        tls = config.tls.context()
    except ConfigError as error:
        click.echo(f"dhtdump: {error}", err=True)
        sys.exit(EX_CONFIG)
    try:
        with lock_directory(config.dump.dump_dir, "dump directory"):
            failed = _dump(config, tls, oneshot)
    except NodeError as error:
        failed = str(error)
    if failed is not None:
        click.echo(f"dhtdump: {failed}", err=True)
        sys.exit(1)


def _dump(config: DumpConfig, tls: ssl.SSLContext | None, oneshot: bool) -> str | None:
    """Runs until a signal, or once; why it failed."""
    directory = Path(config.logs.directory) if config.logs.directory else config.dump.dump_dir
    shown = oneshot and sys.stderr.isatty()
    try:
        logs = open_logs(directory, console=config.logs.console and not oneshot)
    except OSError as error:
        raise NodeError(f"cannot write logs in {directory}: {error.strerror or error}") from error
    try:
        return trio.run(_run, config, tls, logs, oneshot, shown, strict_exception_groups=True)
    except Exception:
        log.exception("dhtdump crashed")
        raise
    finally:
        logs.close()


async def _run(config: DumpConfig, tls: ssl.SSLContext | None, logs: Logs, oneshot: bool, shown: bool) -> str | None:
    prepare_process()
    manager = ServiceManager()
    failed: str | None = "stopped before the dump was complete" if oneshot else None
    async with trio.open_nursery() as nursery:
        node, credentials = str(config.dump.node), config.dump.credentials or None
        async with DumpClient(node, timeout=NODE_TIMEOUT_S, credentials=credentials, tls=tls) as client:
            schedule = Schedule(config.dump, client, logs, once=oneshot)
            await nursery.start(_handle_signals, logs, manager, nursery.cancel_scope, schedule.begin_now)
            log.info("dumps %s to %s", config.dump.node, config.dump.dump_dir)
            nursery.start_soon(manager.keep_watchdog)
            nursery.start_soon(manager.keep_status, STATUS_PERIOD_S, lambda: schedule.status)
            if oneshot:
                failed = await _dump_once(client, schedule, shown)
            else:
                await schedule.run()
        nursery.cancel_scope.cancel()
    log.info("stopped")
    return failed


async def _handle_signals(
    logs: Logs,
    manager: ServiceManager,
    stop: trio.CancelScope,
    begin_now: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """SIGTERM and SIGINT stop it, SIGHUP reopens its logs, SIGUSR1 begins a dump."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                with manager.reloading():
                    logs.reopen()
                    log.info("%s: logs reopened", name)
            elif number == signal.SIGUSR1:
                log.info("%s: the next dump begins now", name)
                begin_now()
            else:
                log.info("%s: stopping", name)
                manager.tell("STOPPING=1")
                stop.cancel()


async def _dump_once(client: DumpClient, schedule: Schedule, shown: bool) -> str | None:
    records = 0
    if shown:
        try:
            records, _ = await client.size()
        except SwarmError as error:
            return str(error)
    with _progress_bar(records, shown) as progress:
        failed = await schedule.dump(progress)
    if schedule.journal_kept:
        click.echo(f"dhtdump: {schedule.journal_kept}", err=True)
    return failed


@contextmanager
def _progress_bar(records: int, shown: bool) -> Iterator[Progress]:
    if not shown:
        yield lambda channel, count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("dump", total=records)
        yield lambda channel, count: bar.update(task, description=f"dump {channel}", advance=count)


if __name__ == "__main__":
    main()
