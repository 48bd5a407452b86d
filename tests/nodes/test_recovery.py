"""What a node finds in its journal when it starts: everything that is sound, and it says what is not.

A torn tail of the last segment is cut. All else that is not as it was written is damage: the node does not start, says
where it is, and with accept_damage starts with all that is sound; and then starts again without it.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from journaled import Content, JournaledNode, content_after_restart, segments

from nodes.dht.journal import STEP_BYTES
from nodes.dht.journal_format import HEADER_BYTES, Header, entries
from swarm.core.errors import WrongNode
from swarm.core.node import NodeError
from swarm.core.protocol import REMOVE_CHANNEL
from swarm.dht.hash_range import HashRange, hash_key, split_evenly
from swarm.dht.protocol import GET, PUT, PUT_MANY, REMOVE, UPDATE


def write_everything(data: Path) -> Content:
    """A segment with changes of every kind, each committed; what a restart finds then."""
    with JournaledNode(data) as node:
        node.acknowledged(PUT.code, "a", b"put", b"1")
        node.acknowledged(PUT.code, "a", b"put", b"2")
        node.acknowledged(PUT.code, "a", b"removed", b"1")
        assert node.acknowledged(REMOVE.code, "a", b"removed")
        assert not node.acknowledged(REMOVE.code, "a", b"never there")
        node.acknowledged(PUT_MANY.code, "many", [b"x", b"y", b"x"], [b"1", b"2", b"3"], 0)
        node.acknowledged(UPDATE.code, "a", b"updated", None, b"1")
        node.acknowledged(UPDATE.code, "a", b"updated", b"1", b"2" * 1000)
        node.acknowledged(UPDATE.code, "new", b"updated away", None, b"1")
        node.acknowledged(UPDATE.code, "new", b"updated away", b"1", None)
        assert node.ask(UPDATE.code, "a", b"put", b"other", b"3")[0] == 25
        node.acknowledged(PUT.code, "gone", b"key", b"value")
        assert node.acknowledged(REMOVE_CHANNEL.code, "gone")
        node.acknowledged(PUT.code, "gone-and-back", b"key", b"value")
        assert node.acknowledged(REMOVE_CHANNEL.code, "gone-and-back")
        node.acknowledged(PUT.code, "gone-and-back", b"other", b"value")
        return node.content()


def write_segments(data: Path, number: int = 3) -> list[Path]:
    """Segments that end without zeros, each with four puts."""
    with JournaledNode(data) as node:
        for segment in range(number):
            for each in range(4):
                node.acknowledged(PUT.code, "a", b"%d-%d" % (segment, each), b"value")
            node.journal.rotate()
    found = segments(data)[:number]
    for path in found:
        path.write_bytes(path.read_bytes().rstrip(b"\0"))
    segments(data)[number].unlink()
    return found


def keys(content: Content) -> set[str]:
    return {key.decode() for key in content.get("a", {})}


ALL = {f"{segment}-{each}" for segment in range(3) for each in range(4)}


def ends(path: Path) -> list[int]:
    data = path.read_bytes()
    return [HEADER_BYTES, *(entry.end for entry in entries(data, Header.unpack(data[:HEADER_BYTES]).seed))]


def test_every_kind_of_change(tmp_path: Path) -> None:
    content = write_everything(tmp_path)
    assert content["a"] == {b"put": b"2", b"updated": b"2" * 1000}
    assert content["many"] == {b"x": b"3", b"y": b"2"}
    assert "gone" not in content
    for _ in range(3):
        assert content_after_restart(tmp_path) == content


def test_what_is_loaded_counts_as_memory_and_not_for_the_limit(tmp_path: Path) -> None:
    write_everything(tmp_path)
    with JournaledNode(tmp_path) as node:
        again = node.node.budget.used
        assert again == sum(
            128 + len(key) + len(value) for records in node.content().values() for key, value in records.items()
        )


def test_a_refused_request_leaves_nothing(tmp_path: Path) -> None:
    with JournaledNode(tmp_path) as node:
        assert node.ask(PUT_MANY.code, "new", [b"x"], [b""], 0)[0] == 20
        assert node.ask(PUT_MANY.code, "new", [b"x"], [b"value"], 1 << 60)[0] == 24
        assert node.ask(REMOVE.code, "new", b"x") == (0, False)
        assert node.journal.statistics()["journal_bytes"] == HEADER_BYTES
    assert content_after_restart(tmp_path) == {}


def test_the_last_segment_cut_at_every_offset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    *_, last = write_segments(tmp_path)
    whole, places = last.read_bytes(), ends(last)
    for size in range(len(whole) + 1):
        for zeros in (0, 100, 4096) if size >= HEADER_BYTES else (0,):
            last.write_bytes(whole[:size] + bytes(zeros))
            caplog.clear()
            found = keys(content_after_restart(tmp_path))
            complete = max(sum(end <= size for end in places) - 1, 0)
            assert found == ALL - {f"2-{each}" for each in range(complete, 4)}, (size, zeros)
            torn = "torn tail" in caplog.text
            assert torn == (size > HEADER_BYTES and size not in places), (size, zeros)
            for path in segments(tmp_path)[2:]:
                path.unlink()


def test_the_last_segment_cut_within_its_header_and_filled_with_zeros(tmp_path: Path) -> None:
    """Such a header is no beginning that a write can leave: the header is written at once, into an empty file."""
    *_, last = write_segments(tmp_path)
    whole = last.read_bytes()
    for size in range(1, len(whole[:HEADER_BYTES].rstrip(b"\0"))):
        last.write_bytes(whole[:size] + bytes(4096))
        with pytest.raises(NodeError, match=rf"{last}, offset 0: bad header"):
            content_after_restart(tmp_path)


@pytest.mark.parametrize("left", [b"", b"SWARMJ", bytes(10), bytes(HEADER_BYTES), bytes(5000)])
def test_a_segment_that_was_just_begun(tmp_path: Path, left: bytes) -> None:
    write_segments(tmp_path)
    (tmp_path / "journal" / f"{4:016}.journal").write_bytes(left)
    with JournaledNode(tmp_path) as node:
        assert keys(node.content()) == ALL
        assert node.journal.number == 4
        node.acknowledged(PUT.code, "a", b"more", b"value")
    assert keys(content_after_restart(tmp_path)) == {*ALL, "more"}


def test_a_number_is_used_again_when_nothing_was_written(tmp_path: Path) -> None:
    write_segments(tmp_path)
    for _ in range(3):
        with JournaledNode(tmp_path) as node:
            assert node.journal.number == 4
            assert keys(node.content()) == ALL
    assert len(segments(tmp_path)) == 4


def damaged(change: Callable[[bytes], bytes]) -> Callable[[list[Path]], Path]:
    def damage(paths: list[Path]) -> Path:
        paths[1].write_bytes(change(paths[1].read_bytes()))
        return paths[1]

    return damage


def flip(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def missing(paths: list[Path]) -> Path:
    paths[1].unlink()
    return paths[1]


def exchanged(paths: list[Path]) -> Path:
    paths[1].write_bytes(paths[0].read_bytes())
    return paths[1]


SECOND = {f"1-{each}" for each in range(4)}

DAMAGES: dict[str, tuple[Callable[[list[Path]], Path], set[str]]] = {
    "missing": (missing, SECOND),
    "another segment's content": (exchanged, SECOND),
    "empty": (damaged(lambda _: b""), SECOND),
    "all zeros": (damaged(lambda data: bytes(len(data))), SECOND),
    "header": (damaged(lambda data: flip(data, 10)), SECOND),
    "first entry": (damaged(lambda data: flip(data, HEADER_BYTES + 20)), {"1-0"}),
    "last entry": (damaged(lambda data: flip(data, len(data) - 1)), {"1-3"}),
    "lost its end, in an entry": (damaged(lambda data: data[:-1]), {"1-3"}),
    "lost its end, between entries": (damaged(lambda data: data[: HEADER_BYTES + 33 * 2]), {"1-2", "1-3"}),
    "lost its end, zeros instead": (damaged(lambda data: data[: HEADER_BYTES + 33] + bytes(500)), SECOND - {"1-0"}),
    "garbage behind it": (damaged(lambda data: data + b"garbage"), set()),
    "zeros and garbage behind it": (damaged(lambda data: data + bytes(5000) + b"x"), set()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    damage, lost = DAMAGES[name]
    paths = write_segments(tmp_path)
    assert (ends(paths[1])[1], ends(paths[1])[2]) == (HEADER_BYTES + 33, HEADER_BYTES + 33 * 2)
    path = damage(paths)
    before = {each: each.read_bytes() for each in segments(tmp_path)}
    for _ in range(2):
        with pytest.raises(NodeError, match=rf"{path}.*--accept-damage"):
            content_after_restart(tmp_path)
    assert {each: each.read_bytes() for each in segments(tmp_path)} == before
    with JournaledNode(tmp_path, accept_damage=True) as node:
        assert keys(node.content()) == ALL - lost
        node.acknowledged(PUT.code, "a", b"more", b"value")
    assert caplog.text.count("is damaged") == 1
    if name != "missing":
        (aside,) = (tmp_path / "journal" / "damaged").iterdir()
        assert aside.read_bytes() == before[path]
    caplog.clear()
    for _ in range(2):
        assert keys(content_after_restart(tmp_path)) == {*ALL - lost, "more"}
    assert "damage" not in caplog.text


def test_damage_in_the_middle_of_the_last_segment(tmp_path: Path) -> None:
    *_, last = write_segments(tmp_path)
    last.write_bytes(flip(last.read_bytes(), ends(last)[1] + 3))
    with pytest.raises(NodeError, match=rf"{last}, offset {ends(last)[-1]}: damage"):
        content_after_restart(tmp_path)
    assert keys(content_after_restart(tmp_path, accept_damage=True)) == ALL - {"2-1"}
    assert keys(content_after_restart(tmp_path)) == ALL - {"2-1"}


def aside(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "journal" / "damaged").iterdir()}


def test_a_torn_tail_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    *_, last = write_segments(tmp_path)
    whole, end = last.read_bytes(), ends(last)[3]
    for each in range(2):
        last.write_bytes(whole[:-5] + bytes(1000))
        assert keys(content_after_restart(tmp_path)) == ALL - {"2-3"}
        kept = f"{last.name}.from-{end}.{each}"
        assert f"set aside as {tmp_path / 'journal' / 'damaged' / kept}" in caplog.text
        assert aside(tmp_path)[kept] == whole[end:-5]
        segments(tmp_path)[3].unlink()


def test_what_is_left_of_a_header_is_set_aside(tmp_path: Path) -> None:
    *_, last = write_segments(tmp_path)
    whole = last.read_bytes()
    last.write_bytes(whole[:30])
    assert keys(content_after_restart(tmp_path)) == ALL - {f"2-{each}" for each in range(4)}
    assert aside(tmp_path) == {f"{last.name}.from-0.0": whole[:30]}


def test_the_last_entry_of_a_segment_that_was_cut_to_its_length(tmp_path: Path) -> None:
    """It is not a torn one: behind a write that was under way there are zeros."""
    *_, last = write_segments(tmp_path)
    whole = last.read_bytes()
    last.write_bytes(flip(whole, len(whole) - 1))
    with pytest.raises(NodeError, match=rf"{last}, offset {ends(last)[3]}: damage"):
        content_after_restart(tmp_path)
    assert keys(content_after_restart(tmp_path, accept_damage=True)) == ALL - {"2-3"}
    assert keys(content_after_restart(tmp_path)) == ALL - {"2-3"}


def test_a_last_segment_of_zeros_that_had_entries(tmp_path: Path) -> None:
    """The first entry makes a segment grow; so one of this length had entries."""
    with JournaledNode(tmp_path) as node:
        (segment,) = segments(tmp_path)
        assert segment.stat().st_size == HEADER_BYTES + STEP_BYTES
        node.acknowledged(PUT.code, "a", b"key", b"value")
        size = segment.stat().st_size
        assert size > HEADER_BYTES + STEP_BYTES
    segment.write_bytes(bytes(size))
    with pytest.raises(NodeError, match=rf"{segment}, offset 0: bad header"):
        content_after_restart(tmp_path)
    segment.write_bytes(bytes(HEADER_BYTES + STEP_BYTES))
    assert content_after_restart(tmp_path) == {}


def closed_in_order(data: Path) -> tuple[Path, bytes]:
    """The last segment of a journal that was closed, and its content; there is one before it."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.node.run, [])
            node.acknowledged(PUT.code, "a", b"0-0", b"value")
            node.journal.rotate()
            for each in range(4):
                node.acknowledged(PUT.code, "a", b"1-%d" % each, b"value")
            node.node.stop()

    with JournaledNode(data) as node:
        trio.run(main)
    *_, last = segments(data)
    assert (data / "journal" / "closed").read_text() == f"2 {last.stat().st_size}\n"
    return last, last.read_bytes()


@pytest.mark.parametrize("left", [None, 0, 1, HEADER_BYTES, HEADER_BYTES + 33, HEADER_BYTES + 40, -1])
@pytest.mark.parametrize("zeros", [0, 5000])
def test_a_last_segment_that_was_shortened_after_an_ordered_stop(tmp_path: Path, left: int | None, zeros: int) -> None:
    last, whole = closed_in_order(tmp_path)
    if left is None:
        last.unlink()
    else:
        last.write_bytes(whole[:left] + bytes(zeros))
    for _ in range(2):
        with pytest.raises(NodeError, match=rf"{last}.*--accept-damage"):
            content_after_restart(tmp_path)
    found = keys(content_after_restart(tmp_path, accept_damage=True))
    assert found == {"0-0", *(f"1-{each}" for each in range(max(0, (len(whole[: left or 0]) - HEADER_BYTES) // 33)))}
    assert not (tmp_path / "journal" / "closed").exists()
    assert keys(content_after_restart(tmp_path)) == found


@pytest.mark.parametrize("noted", [b"", b"\0\0\0", b"2 10", b"2 x\n"])
def test_what_an_ordered_stop_has_noted_is_not_whole(
    tmp_path: Path, noted: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    closed_in_order(tmp_path)
    (tmp_path / "journal" / "closed").write_bytes(noted)
    assert len(keys(content_after_restart(tmp_path))) == 5
    assert "closed says nothing" in caplog.text
    assert "is no segment" not in caplog.text


def test_every_bit_of_a_header_flipped(tmp_path: Path) -> None:
    first, *_ = write_segments(tmp_path, 1)
    whole = first.read_bytes()
    for bit in range(8 * HEADER_BYTES):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        first.write_bytes(changed)
        with pytest.raises(NodeError, match=rf"{first}, offset 0: bad header"):
            content_after_restart(tmp_path)


def test_several_damages_at_once(tmp_path: Path) -> None:
    paths = write_segments(tmp_path)
    paths[0].write_bytes(flip(paths[0].read_bytes(), 0))
    paths[1].write_bytes(paths[1].read_bytes()[:-3])
    paths[2].write_bytes(flip(paths[2].read_bytes(), ends(paths[2])[1] + 3))
    assert keys(content_after_restart(tmp_path, accept_damage=True)) == {"1-0", "1-1", "1-2", "2-0", "2-2", "2-3"}
    assert keys(content_after_restart(tmp_path)) == {"1-0", "1-1", "1-2", "2-0", "2-2", "2-3"}


def test_a_number_far_away_is_not_filled_up_to(tmp_path: Path) -> None:
    paths = write_segments(tmp_path)
    paths[1].rename(paths[1].with_name("9999999999999999.journal"))
    with pytest.raises(NodeError, match=r"segments before .*9999999999999999.* are missing"):
        content_after_restart(tmp_path, accept_damage=True)


def test_segments_are_missing_at_the_front(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a node whose dumps have trimmed its journal often, when their manifest is damaged."""
    paths = write_segments(tmp_path)
    for number, path in enumerate(paths, 1300):
        header = Header.unpack(path.read_bytes()[:HEADER_BYTES])
        data = Header(number, header.previous_bytes, header.seed).pack() + path.read_bytes()[HEADER_BYTES:]
        path.unlink()
        path.with_name(f"{number:016}.journal").write_bytes(data)
    with pytest.raises(NodeError, match=rf"the segments {paths[0]} to .*1299.journal are missing.*--accept-damage"):
        content_after_restart(tmp_path)
    with JournaledNode(tmp_path, accept_damage=True) as node:
        assert keys(node.content()) == ALL
        assert node.journal.number == 1303
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert len(segments(tmp_path)) == 4


def test_unknown_files_are_named_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_segments(tmp_path)
    stranger = tmp_path / "journal" / "notes.txt"
    stranger.write_text("mine")
    assert keys(content_after_restart(tmp_path)) == ALL
    assert f"{stranger} is no segment" in caplog.text
    assert stranger.read_text() == "mine"


def test_more_than_the_memory_limit_is_loaded_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = write_everything(tmp_path)
    with JournaledNode(tmp_path, memory_limit=100) as node:
        assert node.content() == content
        assert "memory limit" in caplog.text
        assert node.ask(PUT.code, "a", b"more", b"value")[0] == 24
        assert node.acknowledged(REMOVE.code, "a", b"updated")


HALVES = pytest.mark.parametrize("half", split_evenly(2))
SOME = {b"%d" % number: b"old" for number in range(5000)}


def write_much(data: Path) -> Content:
    """A journal of changes of all kinds, of 5000 records and more: the shards are cut on the way."""
    with JournaledNode(data) as node:
        for number in range(0, len(SOME), 1000):
            part = dict(list(SOME.items())[number : number + 1000])
            node.acknowledged(PUT_MANY.code, "a", list(part), list(part.values()), 0)
        node.acknowledged(PUT.code, "gone", b"key", b"value")
        for number in range(0, 1000, 10):
            node.acknowledged(PUT.code, "a", b"%d" % number, b"new")
            node.acknowledged(REMOVE.code, "a", b"%d" % (number + 1))
            node.acknowledged(PUT.code, "gone", b"%d" % number, b"value")
        assert node.acknowledged(REMOVE_CHANNEL.code, "gone")
        return node.content()


@HALVES
def test_changes_outside_the_hash_range_are_fatal(tmp_path: Path, half: HashRange) -> None:
    content = write_much(tmp_path)
    with pytest.raises(NodeError, match=r"[0-9]+ changes in the journal are outside .*, [0-9]+ records .*out_of_range"):
        content_after_restart(tmp_path, hash_range=half)
    assert content_after_restart(tmp_path) == content


@HALVES
def test_changes_outside_the_hash_range_are_left_out(
    tmp_path: Path, half: HashRange, caplog: pytest.LogCaptureFixture
) -> None:
    content = write_much(tmp_path)
    inside = {key: value for key, value in content["a"].items() if hash_key(key) in half}
    assert content_after_restart(tmp_path, hash_range=half, out_of_range="ignore") == {"a": inside}
    outside = sum(hash_key(key) not in half for key in SOME)
    outside += sum(hash_key(b"%d" % (number + each)) not in half for number in range(0, 1000, 10) for each in (0, 0, 1))
    outside += hash_key(b"key") not in half
    assert f"{outside} changes in the journal are outside" in caplog.text
    assert "left out" in caplog.text


@HALVES
@pytest.mark.parametrize("part", [1, 100, 2**40])
def test_changes_outside_the_hash_range_are_made(
    tmp_path: Path, half: HashRange, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the node's range is a small part of it all."""
    content = write_much(tmp_path)
    known = max(hash_key(key) for key in content["a"] if hash_key(key) in half)
    hash_range = HashRange(max(half.lowest, known - half.highest // 2 // part), known)
    for _ in range(2):
        with JournaledNode(tmp_path, hash_range=hash_range, out_of_range="load") as node:
            assert node.content() == content
            assert node.node.channels.size() == (
                1,
                len(content["a"]),
                sum(len(k) + len(v) for k, v in content["a"].items()),
            )
            key = next(key for key in content["a"] if hash_key(key) not in hash_range)
            assert node.ask(GET.code, "a", key)[0] == WrongNode.code
            assert node.ask(PUT.code, "a", key, b"value")[0] == WrongNode.code
            assert node.ask(REMOVE.code, "a", key)[0] == WrongNode.code
            assert node.ask(PUT_MANY.code, "a", [key], [b"value"], 0)[0] == WrongNode.code
            mine = next(key for key in content["a"] if hash_key(key) in hash_range)
            node.acknowledged(PUT.code, "a", mine, b"newest")
            content["a"][mine] = b"newest"
    assert "they are made (out_of_range)" in caplog.text


@pytest.mark.parametrize("policy", ["fatal", "load", "ignore"])
def test_a_journal_of_another_node(tmp_path: Path, policy: str) -> None:
    content = write_much(tmp_path)
    free = max(map(hash_key, [*content["a"], b"key"])) + 1
    with pytest.raises(NodeError, match="is this the journal of another node"):
        content_after_restart(tmp_path, hash_range=HashRange(free, free + 10), out_of_range=policy)


@pytest.mark.parametrize("level", [logging.INFO])
def test_what_was_replayed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, level: int) -> None:
    caplog.set_level(level)
    write_segments(tmp_path)
    content_after_restart(tmp_path)
    assert "12 records written, 0 removed" in caplog.text
