"""What each method of a dht client does, once for all of them, as operations (swarm.core.operations). No I/O."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from operator import add
from typing import Any, TypeVar

import swarm.dht.protocol as protocol
from swarm.core.client_session import WAIT_FOR_NODES, Call, Steps
from swarm.core.errors import BadArgument, BadKey, Conflict, SwarmError
from swarm.core.limits import RECORD_OVERHEAD_BYTES
from swarm.core.operations import all_nodes, ask_all, check_channel, raise_first
from swarm.core.protocol import Limits, Request
from swarm.dht.hash_range import HashRange, hash_key
from swarm.dht.ring import Ring

Key = bytes | str
"""str is encoded as UTF-8."""
Pairs = Mapping[Key, bytes] | Iterable[tuple[Key, bytes]]

GET_PART_RECORDS = 2048  # parts of a large get many: small enough that node and client work at the same time
PUT_PART_RECORDS = 1024  # parts of a large put many: small enough that the node's other clients hardly notice


def encode_key(key: Key, node_limits: Limits) -> bytes:
    """The bytes of a key. Raises BadKey."""
    encoded = _utf8(key) if isinstance(key, str) else key
    protocol.check_key(encoded, node_limits)
    return encoded


def encode_prefix(key_prefix: Key) -> bytes:
    """The bytes of a key prefix; its length is not checked."""
    return _utf8(key_prefix) if isinstance(key_prefix, str) else key_prefix


def _utf8(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise BadKey(f"a key that is text has no UTF-8: {error}") from error


def put(ring: Ring, channel: str, key: Key, value: bytes) -> Steps[None]:
    check_channel(channel)
    key = encode_key(key, ring.limits)
    protocol.check_value(value, ring.limits, key)
    while (node := ring.node_of(key)) is None:
        yield WAIT_FOR_NODES
        protocol.check_key(key, ring.limits)  # with what a node's hello has told
        protocol.check_value(value, ring.limits, key)
    yield Call(node, protocol.PUT, (channel, key, value))


def get(ring: Ring, channel: str, key: Key) -> Steps[bytes | None]:
    check_channel(channel)
    key = encode_key(key, ring.limits)
    while (node := ring.node_of(key)) is None:
        yield WAIT_FOR_NODES
        protocol.check_key(key, ring.limits)  # with what a node's hello has told
    return (yield Call(node, protocol.GET, (channel, key)))  # type: ignore[no-any-return]


def exists(ring: Ring, channel: str, key: Key) -> Steps[bool]:
    check_channel(channel)
    key = encode_key(key, ring.limits)
    while (node := ring.node_of(key)) is None:
        yield WAIT_FOR_NODES
        protocol.check_key(key, ring.limits)  # with what a node's hello has told
    return (yield Call(node, protocol.EXISTS, (channel, key)))  # type: ignore[no-any-return]


def remove(ring: Ring, channel: str, key: Key) -> Steps[bool]:
    check_channel(channel)
    key = encode_key(key, ring.limits)
    while (node := ring.node_of(key)) is None:
        yield WAIT_FOR_NODES
        protocol.check_key(key, ring.limits)  # with what a node's hello has told
    return (yield Call(node, protocol.REMOVE, (channel, key)))  # type: ignore[no-any-return]


def put_if_absent(ring: Ring, channel: str, key: Key, value: bytes) -> Steps[bool]:
    check_channel(channel)
    key = encode_key(key, ring.limits)
    protocol.check_value(value, ring.limits, key)
    while (node := ring.node_of(key)) is None:
        yield WAIT_FOR_NODES
        protocol.check_key(key, ring.limits)  # with what a node's hello has told
        protocol.check_value(value, ring.limits, key)
    try:
        yield Call(node, protocol.UPDATE, (channel, key, None, value))
    except Conflict:
        return False
    return True


def update(
    ring: Ring, channel: str, key: Key, function: Callable[[bytes | None], bytes | None], attempts: int
) -> Steps[bytes | None]:
    check_channel(channel)
    key = encode_key(key, ring.limits)
    if attempts < 1:
        raise BadArgument(f"attempts is at least 1, not {attempts}")
    while (node := ring.node_of(key)) is None:
        yield WAIT_FOR_NODES
        protocol.check_key(key, ring.limits)  # with what a node's hello has told
    while True:
        old = yield Call(node, protocol.GET, (channel, key))
        new = function(old)
        if new is not None:
            protocol.check_value(new, ring.limits, key)
        if new == old:
            return new
        attempts -= 1
        try:
            yield Call(node, protocol.UPDATE, (channel, key, old, new))
        except Conflict:
            if attempts == 0:
                raise
        else:
            return new


def put_many(ring: Ring, channel: str, records: Pairs) -> Steps[None]:
    """Checks everything before anything is sent. A node's part that takes several requests sends its first alone,
    which makes the node keep memory aside for the others: so it is stored as a whole or not at all."""
    check_channel(channel)
    records = records if isinstance(records, Mapping) else _mapping(list(records), ring.limits)
    keys = _encode_keys(list(records), ring.limits)
    values = list(records.values())
    if not keys:
        return
    if ring.only is not None and len(keys) <= ring.limits.batch_records and set(map(type, values)) == {bytes}:
        size = sum(map(len, keys)) + sum(map(len, values))
        if size <= ring.part_bytes:  # one request: the node checks it as a whole
            yield Call(ring.only, protocol.PUT_MANY, (channel, keys, values, 0), size)
            return
    known = ring.limits
    _check_records(ring, keys, values)
    by_node = yield from _by_node(ring, keys)
    if ring.limits != known:  # nodes were reached meanwhile, whose hellos have told others
        _check_records(ring, keys, values)
    first: list[Call] = []
    rest: list[Call] = []
    for node, positions in by_node:
        parts = _put_parts(ring, _pick(keys, positions), _pick(values, positions))
        reserve = sum(size + RECORD_OVERHEAD_BYTES * len(part_keys) for part_keys, _, size in parts[1:])
        part_keys, part_values, size = parts[0]
        give_back: tuple[Any, ...] | None = (channel, [], [], reserve) if reserve else None
        first.append(Call(node, protocol.PUT_MANY, (channel, part_keys, part_values, reserve), size, give_back))
        for part_keys, part_values, size in parts[1:]:
            kept = size + RECORD_OVERHEAD_BYTES * len(part_keys)
            arguments = (channel, part_keys, part_values, None)
            rest.append(Call(node, protocol.PUT_MANY, arguments, size, unsent=(channel, [], [], kept)))
    results = yield first
    refused = {call.node for call, result in zip(first, results, strict=True) if isinstance(result, SwarmError)}
    rest = [call for call in rest if call.node not in refused]
    results += (yield rest) if rest else []
    raise_first(results)


def _mapping(pairs: list[tuple[Key, bytes]], node_limits: Limits) -> dict[Key, bytes]:
    try:
        return dict(pairs)
    except (TypeError, ValueError) as error:
        for pair in pairs:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise BadArgument(f"records are a mapping, or pairs of key and value, not {pair!r:.80}") from error
            encode_key(pair[0], node_limits)
        raise


def _check_records(ring: Ring, keys: list[bytes], values: list[bytes]) -> None:
    if not protocol.records_size(keys, values, ring.limits.value_bytes, ring.limits.key_bytes):
        protocol.check_records(keys, values, ring.limits)


def _put_parts(ring: Ring, keys: list[bytes], values: list[bytes]) -> list[tuple[list[bytes], list[bytes], int]]:
    """Records cut into batches: keys, values, and the bytes of both."""
    ends = list(accumulate(map(add, map(len, keys), map(len, values))))
    return [
        (keys[start:stop], values[start:stop], ends[stop - 1] - (ends[start - 1] if start else 0))
        for start, stop in _parts(ends, min(ring.limits.batch_records, PUT_PART_RECORDS), ring.part_bytes)
    ]


def get_many(ring: Ring, channel: str, keys: Iterable[Key]) -> Steps[dict[Key, bytes]]:
    check_channel(channel)
    asked = list(keys)
    encoded = _encode_keys(asked, ring.limits)
    known = ring.limits
    _check_lengths(encoded, known)
    by_node = (yield from _by_node(ring, encoded)) if encoded else []
    if ring.limits != known:
        _check_lengths(encoded, ring.limits)
    missing = [(node, _pick(asked, positions), _pick(encoded, positions)) for node, positions in by_node]
    found: dict[Key, bytes] = {}
    some_absent = False

    def take(names: list[Key], values: list[bytes]) -> int:
        """While the node works on the next part. How many of the names were answered."""
        nonlocal some_absent
        found.update(zip(names, values, strict=False))
        some_absent = some_absent or None in values
        return len(values)

    while missing:
        parts = [part for each in missing for part in _get_parts(ring, *each)]
        calls = [
            Call(node, protocol.GET_MANY, (channel, part_keys), ring.limits.batch_bytes, take=partial(take, names))
            for node, names, part_keys in parts
        ]
        answered = (yield calls) if len(calls) > 1 else [(yield calls[0])]
        raise_first(answered)
        missing = [  # the node ends an answer that becomes too large
            (node, names[count:], part_keys[count:])
            for (node, names, part_keys), count in zip(parts, answered, strict=True)
            if count < len(names)
        ]
    if some_absent:
        return {key: value for key, value in found.items() if value is not None}
    return found


def _get_parts(
    ring: Ring, node: int, names: list[Key], keys: list[bytes]
) -> Iterator[tuple[int, list[Key], list[bytes]]]:
    """Keys cut into requests: node, keys as the program gave them, keys."""
    most = min(ring.limits.batch_records, GET_PART_RECORDS)
    if len(keys) <= most and sum(map(len, keys)) <= ring.part_bytes:
        yield node, names, keys
        return
    for start, stop in _parts(list(accumulate(map(len, keys))), most, ring.part_bytes):
        yield node, names[start:stop], keys[start:stop]


def hash_ranges(ring: Ring) -> Steps[dict[str, HashRange]]:
    answers = yield from ask_all(ring, protocol.HASH_RANGE)
    return {ring.nodes[node]: HashRange(*answer) for node, answer in zip(ring.in_order(), answers, strict=True)}


def begin_dump(ring: Ring) -> Steps[tuple[int, str]]:
    """Of the one node that a dhtdump dumps: the segment that its journal has begun, and the node's identity."""
    segment, identity = (yield from ask_all(ring, protocol.BEGIN_DUMP))[0]
    return segment, identity


def end_dump(ring: Ring, segment: int) -> Steps[bool]:
    """Of the one node that a dhtdump dumps: whether it has trimmed its journal."""
    return (yield from ask_all(ring, protocol.END_DUMP, segment))[0]  # type: ignore[no-any-return]


class Walk:
    """Reading a whole channel: node after node, and on each from where the last batch ended."""

    def __init__(
        self, ring: Ring, request: Request, channel: str, key_prefix: Key, substring: bytes, credit: int
    ) -> None:
        check_channel(channel)
        prefix = encode_prefix(key_prefix)
        request.check((channel, b"", prefix, substring, credit), ring.limits)
        self._ring = ring
        self._request = request
        self._arguments = (channel, prefix, substring, credit)
        self._nodes: list[int] | None = None
        self._cursor = b""

    def next_call(self) -> Steps[Call | None]:
        """The request to send next, None when everything was read."""
        if self._nodes is None:
            self._nodes = yield from all_nodes(self._ring)
        if not self._nodes:
            return None
        channel, prefix, substring, credit = self._arguments
        return Call(self._nodes[0], self._request, (channel, self._cursor, prefix, substring, credit))

    def took(self, batch: Sequence[Any]) -> None:
        """A batch was received: after a broken connection the next request goes on behind it."""
        self._cursor = batch[0]

    def node_ended(self) -> None:
        assert self._nodes
        del self._nodes[0]
        self._cursor = b""


def _check_lengths(keys: list[bytes], node_limits: Limits) -> None:
    if keys and not (all(keys) and max(map(len, keys)) <= node_limits.key_bytes):
        for key in keys:
            protocol.check_key(key, node_limits)


def _encode_keys(keys: list[Any], node_limits: Limits) -> list[bytes]:
    """The bytes of all keys. Raises BadKey for the first that is neither bytes nor str; lengths are not checked."""
    kinds = set(map(type, keys))
    if kinds <= {bytes}:
        return keys
    encoded = [_utf8(key) if type(key) is str else key for key in keys]
    if not kinds <= {bytes, str}:
        for key in encoded:
            protocol.check_key(key, node_limits)
    return encoded


def _by_node(ring: Ring, keys: list[bytes]) -> Steps[list[tuple[int, list[int] | None]]]:
    """Each node with the positions of its keys; None stands for all."""
    if ring.only is not None:
        return [(ring.only, None)]
    positions: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        key_hash = hash_key(key)
        while (node := ring.place(key_hash)) is None:
            yield WAIT_FOR_NODES
        positions.setdefault(node, []).append(position)
    return list(positions.items())


Item = TypeVar("Item")


def _pick(items: list[Item], positions: list[int] | None) -> list[Item]:
    return items if positions is None else [items[position] for position in positions]


def _parts(ends: list[int], records_max: int, bytes_max: int) -> list[tuple[int, int]]:
    """Cuts records into batches: where each starts and stops. ends: of each record, the bytes of all up to it."""
    parts: list[tuple[int, int]] = []
    start = 0
    while start < len(ends):
        taken = ends[start - 1] if start else 0
        stop = bisect_right(ends, taken + bytes_max, start, min(start + records_max, len(ends)))
        stop = max(stop, start + 1)
        parts.append((start, stop))
        start = stop
    return parts
