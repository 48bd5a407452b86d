"""Listening to a channel, for programs without an event loop."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from swarm.core.blocking_client import BlockingClient
from swarm.core.blocking_streams import BlockingStreams
from swarm.core.errors import checked_timeout
from swarm.dht.events import Event, Listening

Step = TypeVar("Step", Event, Event | None)


class Events(Generic[Step]):
    """What changes in a channel, from DhtClient.listen; close() stops it, so does `with`.

    `batches` gives the same in lists, as they have come; an empty one when nothing has come within the timeout.
    """

    def __init__(self, client: BlockingClient, listening: Listening, timeout: float | None) -> None:
        self._timeout_s: float | None = timeout if timeout in (None, 0) else checked_timeout(timeout)
        self._events: Iterator[Event] = iter(())
        self._listening = listening
        self._streams = BlockingStreams(client)
        calls = client._run(self._listening.begin())
        try:
            self._streams.open(calls)
        except BaseException:
            self._streams.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        event: Any = next(self._events, None)
        while event is None:
            batch = self._next_batch()
            if batch is None:
                break
            self._events = iter(batch)
            event = next(self._events, None)
        return cast(Step, event)

    def batches(self) -> Iterator[list[Event]]:
        while True:
            batch = [*self._events] or self._next_batch()
            if batch is None or batch:
                yield batch or []

    def close(self) -> None:
        """Stops listening."""
        self._streams.close()

    def __del__(self) -> None:
        if hasattr(self, "_streams"):  # what is wrong with the arguments may have been raised before
            self.close()

    def _next_batch(self) -> list[Event] | None:
        """None if nothing has come within the timeout."""
        answer = self._streams.next(self._timeout_s)
        return None if answer is None else self._listening.took(self._streams, *answer)
