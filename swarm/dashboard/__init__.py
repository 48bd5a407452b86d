"""A web page that shows a whole swarm as it is now."""
