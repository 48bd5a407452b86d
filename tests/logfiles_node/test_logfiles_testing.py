"""swarm.testing's logfiles nodes: real ones, in a thread, and in a trio.run whose clock jumps."""

from pathlib import Path

import trio
import trio.testing
from core.raw_client import RawClient
from logfiles_node.raw_logs import NOON, LogsClient, lines
from trio.testing import MockClock

from swarm.core.config import parse_address
from swarm.core.stream_driver import serve_stream
from swarm.testing import logfiles_in_memory, running_logfiles


async def test_nodes_in_a_thread_hold_what_they_have_in_a_directory(tmp_path: Path) -> None:
    for run in range(2):
        with running_logfiles(2, data=tmp_path) as logfiles:
            for number, address in enumerate(map(parse_address, logfiles.addresses)):
                raw = await RawClient.connect((address.host, address.port))
                logs = LogsClient(raw)
                if run == 0:
                    await logs.put("a", NOON, b"%d" % number)
                assert (await logs.range("a")).values == [b"%d" % number]
                await raw.close()


async def test_in_memory_time_passes_only_when_nothing_is_to_be_done(autojump_clock: MockClock) -> None:
    records = lines(20_000)
    async with logfiles_in_memory() as logfiles:
        with trio.fail_after(3600):
            await trio.sleep(3000)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(serve_stream, logfiles.nodes[0].service, theirs)
            raw = RawClient(ours)
            await raw.greet()
            logs = LogsClient(raw)
            await logs.put_all("a", records)
            assert (await logs.range("a")).records == records
            assert (await logs.range("a", filter=[1, b"^0001999", False])).records == records[19990:]
            await raw.close()
        assert trio.current_time() - begun < 1.0
