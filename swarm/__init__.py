"""Small TCP servers a fleet of machines keeps its data in, and the client libraries that reach them."""

__version__ = "0.1.0"
