"""What the logfiles node and its clients share."""
