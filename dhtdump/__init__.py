"""Writes what a dht node holds to disk, again and again. Run it with `dhtdump` or `python -m dhtdump`."""
