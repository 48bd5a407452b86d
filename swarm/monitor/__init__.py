"""A swarm seen from outside: what each node says of itself, once a second, and what that comes to."""

from swarm.monitor.node_view import NodeView, Reason
from swarm.monitor.watch import KINDS, Sample, Target, Watch

__all__ = ["KINDS", "NodeView", "Reason", "Sample", "Target", "Watch"]
