"""The queue node: strictly first in, first out, in rings of fixed size on files."""
