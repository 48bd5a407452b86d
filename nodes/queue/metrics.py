"""How a queue node's figures are told to Prometheus, besides those that every node has."""

from swarm.core.stats import Metric

METRICS = {
    "consumers": Metric("consumers", "Consume requests that run."),
    "waiting_pops": Metric("waiting_pops", "Pops that wait for a record."),
    "redelivered": Metric("redelivered_records", "Records that were given again.", counter=True),
    "syncs": Metric("syncs", "Syncs of the queues' files.", counter=True),
    "longest_sync_s": Metric("longest_sync_seconds", "The longest of them."),
    "channel.fullness": Metric("queue_fullness_ratio", "How full the queue is.", scale=0.01, summed=False),
    "channel.unacknowledged": Metric("queue_unacknowledged_records", "Records that are given to consumers."),
    "channel.consumers": Metric("queue_consumers", "Consumers of the queue."),
    "channel.dropped": Metric("queue_dropped_records", "Records that were dropped to make room.", counter=True),
    "channel.damaged": Metric("queue_damaged_records", "Records that were lost to damage.", counter=True),
}
