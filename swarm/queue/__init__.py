"""The queue's requests, its records on the wire, and its client for trio and asyncio."""
