"""How a logfiles node's figures are told to Prometheus, besides those that every node has."""

from swarm.core.stats import Metric

METRICS = {
    "buckets": Metric("buckets", "Files for spans of time, of all channels."),
    "open_tails": Metric("open_tails", "Buckets that are written to."),
    "tail_bytes": Metric("tail_bytes", "Memory of records that are in no block yet."),
    "ranges": Metric("ranges", "Get range requests that run."),
    "sealed": Metric("sealed_buckets", "Buckets that were sealed.", counter=True),
    "dropped": Metric(
        "dropped_buckets", "Buckets that were dropped for their age or the channel's size.", counter=True
    ),
    "damages": Metric("damages", "How often damage was met.", counter=True),
    "failures": Metric("failures", "How often the disk did not let it make blocks, seal or drop.", counter=True),
    "syncs": Metric("syncs", "Syncs of the store's files.", counter=True),
    "longest_sync_s": Metric("longest_sync_seconds", "The longest of them."),
    "channel.buckets": Metric("channel_buckets", "Files of the channel."),
    "channel.damaged": Metric("channel_damaged_places", "Places in its files that are damaged."),
}
