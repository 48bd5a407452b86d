"""Runs every row of queue_conformance with each client, over memory, over loopback and with real processes."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from conformance_runs import Kind, Places, Row, cases
from queue_conformance import ROWS, AwaitableQueueClient

import swarm.blocking
import swarm.queue
from swarm.testing import QueueProcess, queue_in_memory, running_queue

KIND = Kind(
    "queue",
    QueueProcess,
    running_queue,
    queue_in_memory,
    swarm.queue.QueueClient,
    swarm.blocking.QueueClient,
    AwaitableQueueClient,
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with closing(Places(KIND, tmp_path_factory)) as opened:
        yield opened


@pytest.mark.parametrize(("row", "client", "place", "nodes"), list(cases(ROWS)))
def test_row(row: Row, client: str, place: str, nodes: int, places: Places) -> None:
    places.run(row, client, place, nodes)
