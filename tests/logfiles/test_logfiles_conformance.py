"""Runs every row of logfiles_conformance with each client, over memory, over loopback and with real processes."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from conformance_runs import Kind, Places, Row, cases
from logfiles_conformance import ROWS, AwaitableLogfilesClient

import swarm.blocking
import swarm.logfiles
from swarm.testing import LogfilesProcess, logfiles_in_memory, running_logfiles

KIND = Kind(
    "logfiles",
    LogfilesProcess,
    running_logfiles,
    logfiles_in_memory,
    swarm.logfiles.LogfilesClient,
    swarm.blocking.LogfilesClient,
    AwaitableLogfilesClient,
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with closing(Places(KIND, tmp_path_factory)) as opened:
        yield opened


@pytest.mark.parametrize(("row", "client", "place", "nodes"), list(cases(ROWS)))
def test_row(row: Row, client: str, place: str, nodes: int, places: Places) -> None:
    places.run(row, client, place, nodes)
