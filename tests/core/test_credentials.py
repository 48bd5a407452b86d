"""Credentials files, of nodes and of clients: what is wrong with one is told with its place, and never with a key."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logins import ALL, KEY, OTHER_KEY, line

from swarm.core import limits
from swarm.core.channel_patterns import ChannelSet
from swarm.core.config import ConfigError
from swarm.core.credentials import (
    Credentials,
    KnownClient,
    Permissions,
    parse_known_clients,
    read_credentials,
    read_known_clients,
)
from swarm.core.errors import BadArgument

HEX = KEY.hex()


def written(directory: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path = directory / "credentials"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


# A node's.


def test_a_file_of_a_node(tmp_path: Path) -> None:
    content = f"""
# who may what
alice:{HEX}:read=* write=orders-*,tmp admin=*   # her laptop
  bob.2_x-y:{OTHER_KEY.hex().upper()}:read=logs\t\r
"""
    assert read_known_clients(written(tmp_path, content)) == {
        "alice": KnownClient(
            Credentials("alice", KEY),
            Permissions(ChannelSet.of(["*"]), ChannelSet.of(["tmp", "orders-*"]), ChannelSet.of(["*"])),
        ),
        "bob.2_x-y": KnownClient(Credentials("bob.2_x-y", OTHER_KEY), Permissions(read=ChannelSet.of(["logs"]))),
    }


@pytest.mark.parametrize("content", ["", "\n\n", "# nobody\n"])
def test_a_file_of_a_node_may_name_nobody(content: str, tmp_path: Path) -> None:
    assert read_known_clients(written(tmp_path, content)) == {}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (f":{HEX}:read=*", "begins with the name of a client"),
        (f"al ice:{HEX}:read=*", "begins with the name of a client"),
        (f"älice:{HEX}:read=*", "1 to 64 characters out of A-Z a-z 0-9 _ . -"),
        (f"{'a' * 65}:{HEX}:read=*", "1 to 64 characters"),
        ("alice", "and a colon"),
        ("alice:", "64 hexadecimal digits; 0 characters are there"),
        (f"alice:{HEX[:-1]}:read=*", "64 hexadecimal digits; 63 characters are there"),
        (f"alice:{HEX}0:read=*", "64 hexadecimal digits; 65 characters are there"),
        (f"alice:{HEX[:-1]}g:read=*", "64 hexadecimal digits"),
        (f"alice: {HEX}:read=*", "64 hexadecimal digits; 65 characters"),
        (f"alice:{HEX}", "client alice has no permissions: name:key:permissions is expected"),
        (f"alice:{HEX}:", "client alice: a client needs a permission at least"),
        (f"alice:{HEX}:read", "'read' is no permission: allowed are read=, write=, admin="),
        (f"alice:{HEX}:Read=*", "'Read=*' is no permission"),
        (f"alice:{HEX}:all=*", "'all=*' is no permission"),
        (f"alice:{HEX}:read=* read=a", "read= is there twice"),
        (f"alice:{HEX}:read=", "the name of a channel is expected"),
        (f"alice:{HEX}:read=a,,b", "the name of a channel is expected"),
        (f"alice:{HEX}:read=a, b", "the name of a channel is expected"),
        (f"alice:{HEX}:read=*a", "the name of a channel is expected"),
        (f"alice:{HEX}:read=a**", "the name of a channel is expected"),
        (f"alice:{HEX}:read=a/b", "the name of a channel is expected"),
        (f"alice:{HEX}:read={'a' * 129}", "the name of a channel is expected"),
        (f"alice:{HEX}:read={','.join(map(str, range(65)))}", "at most 64"),
        (f"alice:{HEX}:read=*:write=*", "the name of a channel is expected"),
        (line("first"), "client first is there a second time"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_place(wrong: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"# comment\n{line('first')}\n{wrong}\n{line('last')}")
    with pytest.raises(ConfigError) as error:
        read_known_clients(path)
    assert str(error.value).startswith(f"{path}:4: ")
    assert told in str(error.value)
    assert HEX[:20] not in str(error.value), "a key is shown to nobody"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"credentials:2: not UTF-8"):
        read_known_clients(written(tmp_path, line().encode() + b"\xff\n"))


def test_as_many_clients_as_there_may_be_and_one_more(tmp_path: Path) -> None:
    lines = [line(f"c{number}", "read=a") for number in range(limits.CREDENTIALS_MAX)]
    assert len(read_known_clients(written(tmp_path, "".join(lines)))) == limits.CREDENTIALS_MAX
    with pytest.raises(ConfigError, match=r":1001: 1000 clients are the most"):
        read_known_clients(written(tmp_path, "".join([*lines, line("more")])))


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        read_known_clients(written(tmp_path, b"#" * (limits.CREDENTIALS_FILE_BYTES_MAX + 1)))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100))
def test_arbitrary_text_is_read_or_told(text: str) -> None:
    try:
        parse_known_clients(Path("file"), text.encode(errors="surrogatepass"))
    except ConfigError as error:
        assert str(error).startswith("file:")


@pytest.mark.parametrize("text", ["read=*", "read=a write=b,c* admin=*", "admin=x"])
def test_permissions_are_written_as_they_are_read(text: str) -> None:
    assert Permissions.parse(str(Permissions.parse(text))) == Permissions.parse(text)


# Who may read it.


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700, 0o750])
def test_modes_that_are_safe(mode: int, tmp_path: Path) -> None:
    path = written(tmp_path, line(), mode)
    assert set(read_known_clients(path)) == {"alice"}
    path.chmod(0o600)
    assert read_credentials(written(tmp_path, f"alice:{HEX}", mode)) == Credentials("alice", KEY)


@pytest.mark.parametrize(
    ("mode", "who", "chmod"),
    [
        (0o644, "others can read it", "640"),
        (0o604, "others can read it", "600"),
        (0o602, "others can use it", "600"),
        (0o601, "others can use it", "600"),
        (0o660, "its group can write it", "640"),
        (0o620, "its group can write it", "600"),
        (0o777, "others can read it", "750"),
    ],
)
@pytest.mark.parametrize("read", [read_known_clients, read_credentials])
def test_files_that_others_can_read_are_refused_with_what_to_do(
    read: object, mode: int, who: str, chmod: str, tmp_path: Path
) -> None:
    path = written(tmp_path, line(), mode)
    with pytest.raises(ConfigError) as error:
        read(path)  # type: ignore[operator]
    assert f"{path}: {who}" in str(error.value)
    assert f"mode {mode:04o}" in str(error.value)
    assert str(error.value).endswith(f"chmod {chmod} {path}")


@pytest.mark.parametrize("read", [read_known_clients, read_credentials])
def test_what_is_no_file(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, told in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/null"), "no regular file"),
    ):
        with pytest.raises(ConfigError, match=told):
            read(path)  # type: ignore[operator]


# A client's.


@pytest.mark.parametrize("content", [f"alice:{HEX}", f"# mine\n\n alice:{HEX.upper()} # laptop\r\n"])
def test_a_file_of_a_client(content: str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    assert read_credentials(path) == read_credentials(str(path)) == Credentials("alice", KEY)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "it is empty: a line name:key is needed"),
        ("# nothing\n", "it is empty"),
        (line() + line("bob"), ":1: permissions belong into the file of a node"),
        (f"alice:{HEX}\nbob:{HEX}\n", ":2: a second client"),
        (f"alice:{HEX[1:]}", ":1: the key of client alice has 64 hexadecimal digits; 63"),
        (f"alice:{HEX}:", ":1: permissions belong into the file of a node"),
    ],
)
def test_what_is_wrong_with_a_file_of_a_client(content: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_credentials(written(tmp_path, content))
    assert told in str(error.value)
    assert HEX[:20] not in str(error.value)


def test_credentials_that_a_program_gives() -> None:
    assert read_credentials(None) is None
    assert read_credentials(Credentials("alice", KEY)) == Credentials("alice", KEY)
    for name, key in (("alice", KEY[:-1]), ("alice", KEY + b"x"), ("", KEY), ("a b", KEY)):
        with pytest.raises(BadArgument, match="32 bytes"):
            read_credentials(Credentials(name, key))
    assert HEX not in repr(Credentials("alice", KEY))
    assert repr(KEY) not in repr(parse_known_clients(Path("file"), line(permissions=ALL).encode()))
