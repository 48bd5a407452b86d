"""The logfiles node: records with a timestamp, on disk, many channels."""
