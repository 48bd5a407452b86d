"""What a node finds when it starts (docs/formats/queue.md, "Files"): all that was acknowledged, and leftovers."""

import errno
from pathlib import Path

import pytest
from queue_node.raw_queue import (
    ACKNOWLEDGE,
    CHANNELS,
    CREDIT,
    DROP_SUBSCRIBER,
    KIB,
    QUEUES,
    REMOVE_CHANNEL,
    QueueConnection,
    make_config,
    open_node,
    unpack,
)
from queue_node.stored import FailingFiles

from nodes.queue.node import close_queues, make_node
from nodes.queue.queue_files import Files
from swarm.core.node import LimitsSection, NodeError


def test_everything_is_there_again(tmp_path: Path) -> None:
    with open_node(tmp_path) as node:
        client, consumer = QueueConnection(node), QueueConnection(node)
        client.push("own", b"1", b"2")
        client.push("shared", b"1", b"2", b"3")
        consumer.consume(1, "shared", "s", records=2, credit=1)
        consumer.consume(2, "shared", "t", records=2, credit=1)
        client.push("shared", b"4")
        assert [message[0] for message in consumer.take()] == [1, 2]
        assert consumer.acknowledge(1, 0, 1) == 1
        before = {channel: client.result(QUEUES, channel) for channel in ("own", "shared")}
    with open_node(tmp_path) as node:
        client, consumer = QueueConnection(node), QueueConnection(node)
        assert client.result(CHANNELS) == ["own", "shared"]
        for channel, rows in before.items():
            # As before, but nobody consumes, and nothing is given out.
            assert client.result(QUEUES, channel) == [[*row[:4], 0, 0, *row[6:]] for row in rows]
        assert client.pop("own") == [b"1", b"2"]
        consumer.consume(1, "shared", "s")
        assert consumer.batches(1) == [(1, True, [b"2"]), (2, False, [b"3", b"4"])]
        consumer.consume(2, "shared", "t")
        assert consumer.batches(2) == [(0, True, [b"4"])]
        client.push("shared", b"5")
        assert [message[2][0] for message in consumer.take()] == [4, 1]


def test_overflow_is_there_again_and_is_taken_over_with_its_queue(tmp_path: Path) -> None:
    records = [b"%d" % number * 200 for number in range(1000)]
    with open_node(tmp_path, full="overflow") as node:
        client, consumer = QueueConnection(node), QueueConnection(node)
        for record in records:
            client.push("c", record)
        consumer.consume(1, "c", "s", records=10, credit=1)
        assert consumer.records(1) == records[:10]
        assert consumer.acknowledge(1, 0, 10) == 10
    names = {path.name.split(".")[0] for path in (tmp_path / "channels" / "c").iterdir()}
    assert names == {"subscriber-s"}
    with open_node(tmp_path, full="overflow") as node:
        consumer = QueueConnection(node)
        consumer.consume(1, "c", "s", records=4096)
        again: list[bytes] = []
        messages = consumer.take()
        while messages:
            number, _, result = messages.pop(0)
            if number == 1:
                again += unpack(*result[2:])
                messages += consumer.ask([9, ACKNOWLEDGE, 1, [0, 1000]], [1, CREDIT, 64])
        assert again == records[10:]


def test_what_was_removed_does_not_come_again(tmp_path: Path) -> None:
    with open_node(tmp_path) as node:
        client, consumer = QueueConnection(node), QueueConnection(node)
        client.push("a", b"1")
        client.push("b", b"1")
        consumer.consume(1, "b", "s")
        consumer.consume(2, "b", "t")
        client.result(REMOVE_CHANNEL, "a")
        client.result(DROP_SUBSCRIBER, "b", "s")
    with open_node(tmp_path) as node:
        client = QueueConnection(node)
        assert client.result(CHANNELS) == ["b"]
        assert [queue["subscriber"] for queue in client.queues("b")] == ["t"]


def test_leftovers_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_node(tmp_path) as node:
        QueueConnection(node).push("c", b"1")
    channels, removed = tmp_path / "channels", tmp_path / "removed"
    unfinished = channels / "c" / "own.ring.tmp"
    unfinished.write_bytes(bytes(KIB))
    (channels / "c.1").mkdir()
    empty = channels / "empty"
    empty.mkdir()
    (removed / "d.1").mkdir(parents=True, exist_ok=True)
    (removed / "d.1" / "own.ring").write_bytes(bytes(KIB))
    (removed / "subscriber-s.ring.2").write_bytes(bytes(KIB))
    orphan = channels / "e" / "subscriber-s.0000000000000001.overflow"
    orphan.parent.mkdir()
    orphan.write_bytes(bytes(KIB))
    with open_node(tmp_path) as node:
        client = QueueConnection(node)
        assert client.result(CHANNELS) == ["c"]
        assert client.pop("c") == [b"1"]
    assert not unfinished.exists()
    assert not empty.exists()
    assert not orphan.exists()
    assert list(removed.iterdir()) == []
    for name in ("own.ring.tmp", "subscriber-s.ring", "c.1"):
        assert any(name in record.message for record in caplog.records if record.levelname == "WARNING"), name


def test_unknown_files_are_named_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_node(tmp_path) as node:
        QueueConnection(node).push("c", b"1")
    directory = tmp_path / "channels" / "c"
    unknown = [tmp_path / "channels" / "notes.txt", directory / "core", directory / "subscriber-ä.ring"]
    for path in unknown:
        path.write_bytes(b"x")
    with open_node(tmp_path) as node:
        assert QueueConnection(node).pop("c") == [b"1"]
    for path in unknown:
        assert path.exists()
        assert any(str(path) in record.message for record in caplog.records), path


@pytest.mark.parametrize("renamed", ["overflow", "some overflow"])
def test_a_take_over_that_was_not_finished_is_finished(tmp_path: Path, renamed: str) -> None:
    with open_node(tmp_path, full="overflow") as node:
        client = QueueConnection(node)
        for _ in range(300):
            client.push("c", bytes(KIB))
    directory = tmp_path / "channels" / "c"
    behind = sorted(directory.glob("own.*.overflow"))
    assert behind
    for path in behind:
        path.rename(directory / path.name.replace("own.", "subscriber-s."))
    if renamed == "some overflow":
        (directory / "own.0000000000000099.overflow").write_bytes(b"")
    with open_node(tmp_path, full="overflow") as node:
        client = QueueConnection(node)
        (queue,) = client.queues("c")
        assert (queue["subscriber"], queue["records"]) == ("s", 300)


def test_a_damaged_ring_is_told_and_the_node_does_not_start(tmp_path: Path) -> None:
    with open_node(tmp_path) as node:
        client = QueueConnection(node)
        client.push("c", b"1")
        client.push("d", b"1")
    ring = tmp_path / "channels" / "c" / "own.ring"
    ring.write_bytes(bytes(ring.stat().st_size))
    with pytest.raises(NodeError, match=r"own\.ring is damaged.*accept-damage"):
        make_node(make_config(tmp_path))
    node = make_node(make_config(tmp_path), accept_damage=True)
    client = QueueConnection(node)
    client.push("c", b"new")
    assert client.pop("c") == [b"new"]
    assert client.pop("d") == [b"1"]
    close_queues(node)
    with open_node(tmp_path) as node:
        assert QueueConnection(node).result(CHANNELS) == ["c", "d"]
    assert (tmp_path / "channels" / "c" / "own.ring.damaged").exists()


def test_more_channels_than_allowed_are_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_node(tmp_path) as node:
        for channel in "abc":
            QueueConnection(node).push(channel, b"1")
    with open_node(tmp_path, limits=LimitsSection(channels_max=2)) as node:
        assert QueueConnection(node).result(CHANNELS) == ["a", "b", "c"]
    assert "3 channels were loaded" in caplog.text


def test_settings_that_have_changed(tmp_path: Path) -> None:
    with open_node(tmp_path) as node:
        QueueConnection(node).push("c", b"1")
    with open_node(tmp_path, ring_bytes=256 * KIB) as node:
        client = QueueConnection(node)
        client.push("c", bytes(200 * KIB))
        assert client.pop("c") == [b"1", bytes(200 * KIB)]


def test_a_queue_that_cannot_be_opened_for_want_of_room_is_told(tmp_path: Path) -> None:
    """Too many open files, for instance: with a limit that is lower than before."""
    with open_node(tmp_path) as node:
        QueueConnection(node).push("c", b"1")
    for number in range(1, 100):
        files = FailingFiles(number, errno.EMFILE)
        try:
            node = make_node(make_config(tmp_path), files=files)
        except NodeError as error:
            assert "Too many open files" in str(error)
            assert not files.open_now
        else:
            close_queues(node)
            break
    assert number > 3


def test_a_file_in_the_place_of_a_channel_stops_the_start_and_not_the_node_at_a_push(tmp_path: Path) -> None:
    with open_node(tmp_path):
        pass
    (tmp_path / "channels" / "c").write_bytes(b"x")
    with pytest.raises(NodeError, match=r"channels/c is no directory.*move it away"):
        make_node(make_config(tmp_path))


def test_an_own_queue_beside_that_of_a_subscriber_stops_the_start(tmp_path: Path) -> None:
    """As after a file was brought back from a backup: with both, a new subscriber would replace the others' files."""
    with open_node(tmp_path) as node:
        QueueConnection(node).push("c", b"1")
    own = tmp_path / "channels" / "c" / "own.ring"
    own.with_name("subscriber-s.ring").write_bytes(own.read_bytes())
    with pytest.raises(NodeError, match=r"channels/c has own\.ring beside rings of subscribers"):
        make_node(make_config(tmp_path))


class _Steps(Files):
    """What is done with names, in its order."""

    def __init__(self) -> None:
        self.renamed: list[Path] = []
        self.synced: list[Path] = []

    def rename(self, path: Path, to: Path) -> None:
        super().rename(path, to)
        self.renamed.append(path)
        self.synced.clear()

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.synced.append(path)


def test_names_are_synced_when_they_have_changed(tmp_path: Path) -> None:
    """So that what is acknowledged then is found after a loss of power."""
    files = _Steps()
    channels = tmp_path / "channels"
    with open_node(tmp_path, files=files, fsync="interval") as node:
        client = QueueConnection(node)
        client.push("c", b"1")
        assert files.synced == [channels / "c"]
        QueueConnection(node).consume(1, "c", "s")  # takes it over
        assert files.renamed[-1].name == "own.ring"
        assert files.synced == [channels / "c"]
        QueueConnection(node).consume(1, "c", "t")
        assert files.synced == [channels / "c"]
        assert client.result(DROP_SUBSCRIBER, "c", "s")
        assert files.synced == [channels / "c"]
        assert client.result(REMOVE_CHANNEL, "c")
        assert files.synced == [channels]


def test_the_directory_of_a_new_channel_is_synced(tmp_path: Path) -> None:
    files = _Steps()
    synced: list[Path] = []
    files.sync_directory = synced.append  # type: ignore[method-assign]
    with open_node(tmp_path, files=files, fsync="interval") as node:
        QueueConnection(node).push("c", b"1")
    assert synced == [tmp_path / "channels", tmp_path / "channels" / "c"]
