"""How a dht node's figures are told to Prometheus, besides those that every node has."""

from swarm.core.stats import Metric

METRICS = {
    "journal_bytes": Metric("journal_bytes", "Size of all segments of the journal."),
    "journal_segments": Metric("journal_segments", "Segments of the journal."),
    "journal_undumped_bytes": Metric("journal_undumped_bytes", "Of the journal, what a start would replay."),
    "journal_disk_full": Metric("journal_disk_full", "1 while writes are refused because the journal's disk is full."),
    "journal_times_full": Metric("journal_times_full", "How often the journal's disk became full.", counter=True),
    "journal_syncs": Metric("journal_syncs", "Syncs of the journal.", counter=True),
    "journal_longest_sync_s": Metric("journal_longest_sync_seconds", "The longest of them."),
    "listeners": Metric("listeners", "Listen requests that run."),
    "listeners_lost": Metric("listeners_lost", "How often a listen request lost changes.", counter=True),
    "dump_age_s": Metric("dump_age_seconds", "Since the last complete dump was finished."),
}
