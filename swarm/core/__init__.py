"""What every node and every client shares: the protocol without I/O, and the thin shells that do the I/O."""
