"""The dht node: an in-memory key/value store with many channels. Run it with `dhtnode` or `python -m nodes.dht`."""
