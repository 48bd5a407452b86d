"""What programs that use the clients need for their own tests: real nodes, not imitations of them.

    with running_dht(nodes=2) as dht:                     nodes in a thread of this process; any kind of program
        with swarm.blocking.DhtClient(dht.addresses) as client: …

    async with dht_in_memory(nodes=2) as dht:             nodes beside the test in its own trio.run: no socket, no
        async with DhtClient(dht.addresses, connect=dht.connect) as client: …      thread, and the autojump clock works

    with DhtProcess(tmp_path) as node:                    a process, for tests that kill, pause and restart it
        node.kill()
        node.start()

Nodes of the first two hold nothing when they start, write nothing to disk and are gone at the end. A DhtProcess has a
data directory with logs and journal: started again, it holds what it has acknowledged.
"""

from swarm.testing.dht import MemoryDht, RunningDht, dht_in_memory, running_dht
from swarm.testing.memory import MemoryTransport, connect_in_memory
from swarm.testing.process import DhtProcess

__all__ = [
    "DhtProcess",
    "MemoryDht",
    "MemoryTransport",
    "RunningDht",
    "connect_in_memory",
    "dht_in_memory",
    "running_dht",
]
