"""What programs that use the clients need for their own tests: real nodes, not imitations of them.

    with running_dht(nodes=2) as dht:                     nodes in a thread of this process; any kind of program
        with swarm.blocking.DhtClient(dht.addresses) as client: …

    async with dht_in_memory(nodes=2) as dht:             nodes beside the test in its own trio.run: no socket, no
        async with DhtClient(dht.addresses, connect=dht.connect) as client: …      thread, and the autojump clock works

    with DhtProcess(tmp_path) as node:                    a process, for tests that kill, pause and restart it
        node.kill()
        node.start()

running_queue, queue_in_memory and QueueProcess are the same for the queue. Nodes of the first two kinds hold nothing
when they start, and are gone at the end with what they have held; a queue's is on disk meanwhile. A process has a
data directory with logs, and journal or queues: started again, it holds what it has acknowledged.
"""

from swarm.testing.dht import dht_in_memory, running_dht
from swarm.testing.memory import MemoryTransport, connect_in_memory
from swarm.testing.nodes import MemoryNodes, RunningNodes
from swarm.testing.process import DhtProcess, QueueProcess
from swarm.testing.queue import queue_in_memory, running_queue

__all__ = [
    "DhtProcess",
    "MemoryNodes",
    "MemoryTransport",
    "QueueProcess",
    "RunningNodes",
    "connect_in_memory",
    "dht_in_memory",
    "queue_in_memory",
    "running_dht",
    "running_queue",
]
