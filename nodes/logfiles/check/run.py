"""Looks at all pieces of work, several at a time, and mends them."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

from nodes.logfiles.check.bucket import Work, look
from nodes.logfiles.check.files import Files
from nodes.logfiles.check.findings import Report
from nodes.logfiles.check.mend import Mending, move
from nodes.logfiles.check.tree import Found, find_in_days
from swarm.core.limits import MIB

PROCESSES_BYTES_MIN = 64 * MIB  # less is looked at by one process sooner than others are started
CHUNK_MAX = 32  # buckets that a process is given at a time
MOVES_MAX = 3  # rounds: a file that was moved may show where another belongs

Advance = Callable[[int], None]
"""Is told so and so many bytes more."""


@dataclass(frozen=True)
class Options:
    """jobs: processes at a time."""

    fix: bool = False
    truncate: bool = False
    jobs: int = 1


def run(found: Found, options: Options, files: Files, advance: Advance) -> Report:
    report = Report()
    report.add(found.report)
    _run_all(report, found.work, options, files, advance)
    for _ in range(MOVES_MAX if options.fix else 0):
        changed = move(files, report)
        report.moves = []
        if changed:
            again = find_in_days(changed)
            second = Report()
            _run_all(second, again.work, options, files, lambda count: None)
            report.findings += [each for each in second.findings if each not in report.findings]
            report.errors += [each for each in second.errors if each not in report.errors]
            report.set_aside += second.set_aside
            report.moves = second.moves
    return report


def one(work: Work, options: Options, files: Files) -> Report:
    """A bucket."""
    bucket = look(work)
    if options.fix:
        Mending(bucket, files, truncate=options.truncate).run()
    return bucket.report


def _run_all(report: Report, work: list[Work], options: Options, files: Files, advance: Advance) -> None:
    jobs = min(options.jobs, len(work))
    if sum(each.bytes for each in work) < PROCESSES_BYTES_MIN:
        jobs = 1
    try:
        for each, found in zip(work, _reports(work, partial(one, options=options, files=files), jobs), strict=True):
            report.add(found)
            advance(each.bytes)
    except BrokenProcessPool:
        report.errors.append("a process that was looking at files was killed; not everything was looked at")


def _reports(work: list[Work], look_at: Callable[[Work], Report], jobs: int) -> Iterator[Report]:
    """In the order of the work."""
    if jobs <= 1:
        yield from map(look_at, work)
        return
    chunk = max(1, min(CHUNK_MAX, len(work) // (8 * jobs)))
    context = multiprocessing.get_context("spawn")  # the progress bar has a thread: a fork would copy half of it
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(look_at, work, chunksize=chunk)
