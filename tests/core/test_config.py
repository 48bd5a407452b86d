import re
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.config import (
    UNIX_PATH_BYTES_MAX,
    Address,
    ConfigError,
    load,
    override,
    parse_address,
    parse_addresses,
    parse_duration,
    parse_size,
)

LOOPBACK = Address("127.0.0.1", 10001)


@dataclass(frozen=True)
class NodeSection:
    address: Annotated[Address, parse_address] = LOOPBACK
    data: Path = Path("dht-data")
    memory_limit: Annotated[int, parse_size] = 0
    name: str = ""
    workers: int = 1
    load_factor: float = 0.5
    open: bool = False


@dataclass(frozen=True)
class JournalSection:
    fsync: Literal["never", "interval", "always"] = "interval"
    interval: Annotated[float, parse_duration] = 1.0


@dataclass(frozen=True)
class SampleConfig:
    node: NodeSection = NodeSection()
    journal: JournalSection = JournalSection()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sample.ini"


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(SampleConfig, path)
    return str(raised.value)


def test_no_file_gives_the_defaults() -> None:
    assert load(SampleConfig, None) == SampleConfig()


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "[node]\n", "[node]\n\n[journal]\n; nothing\n"])
def test_what_is_not_named_has_its_default(path: Path, text: str) -> None:
    path.write_text(text)
    assert load(SampleConfig, path) == SampleConfig()


def test_every_type(path: Path) -> None:
    path.write_text(
        "[node]\naddress = [::1]:7\ndata = var/dht\nMemory_Limit: 64 MiB\nname = größer = 100 %(x)s\n"
        "workers = -3\nload_factor = 2.5e-1\nopen = Yes\n[journal]\nfsync = always\ninterval = 250ms\n",
        encoding="utf-8",
    )
    assert load(SampleConfig, path) == SampleConfig(
        NodeSection(Address("::1", 7), Path("var/dht"), 64 * 2**20, "größer = 100 %(x)s", -3, 0.25, True),
        JournalSection("always", 0.25),
    )


def test_byte_order_mark_and_dos_line_ends_are_no_problem(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf[node]\r\nname = a\r\nworkers = 2\r\n")
    assert load(SampleConfig, path).node == NodeSection(name="a", workers=2)


@pytest.mark.parametrize("text", ["1", "yes", "True", "ON"])
def test_true(path: Path, text: str) -> None:
    path.write_text(f"[node]\nopen = {text}\n")
    assert load(SampleConfig, path).node.open is True


@pytest.mark.parametrize("text", ["0", "no", "False", "OFF"])
def test_false(path: Path, text: str) -> None:
    path.write_text(f"[node]\nopen = {text}\n")
    assert load(SampleConfig, path).node.open is False


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("node.address", "127.0.0.1", "host:port"),
        ("node.address", "127.0.0.1:65536", "0 to 65535"),
        ("node.data", "", "a path is needed"),
        ("node.memory_limit", "64 MB", "KiB, MiB, GiB or TiB"),
        ("node.memory_limit", "64 MiB ; half of it", "KiB, MiB, GiB or TiB"),
        ("node.workers", "2.5", "a whole number"),
        ("node.workers", "", "a whole number"),
        ("node.workers", "1_000", "a whole number"),
        ("node.load_factor", "half", "a number is needed"),
        ("node.load_factor", "nan", "a number is needed"),
        ("node.load_factor", "inf", "a number is needed"),
        ("node.open", "maybe", "yes"),
        ("journal.fsync", "often", "never, interval, always"),
        ("journal.fsync", "Always", "never, interval, always"),
        ("journal.interval", "6 weeks", "ms, s, m, h or d"),
    ],
)
def test_a_bad_value_is_told_with_its_place_and_what_is_allowed(path: Path, key: str, value: str, allowed: str) -> None:
    section, key = key.split(".")
    path.write_text(f"# a sample\n\n[{section}]\n# {key} = {value}\n{key} = {value}\n")
    text = problem(path)
    assert text.startswith(f"{path}:5: section [{section}], key {key}: {value!r} is refused: ")
    assert allowed in text.partition("is refused")[2]


@pytest.mark.parametrize("header", ["[nodes]", "[Node]", "[ node ]", "[nod]"])
def test_unknown_section(path: Path, header: str) -> None:
    path.write_text(f"[journal]\n\n{header}\nname = x\n")
    assert problem(path) == f"{path}:3: unknown section {header} (did you mean node?); known are: node, journal"


@pytest.mark.parametrize("name", ["DEFAULT", "dump"])
def test_unknown_section_that_resembles_none(path: Path, name: str) -> None:
    path.write_text(f"[{name}]\n")
    assert problem(path) == f"{path}:1: unknown section [{name}]; known are: node, journal"


def test_unknown_key(path: Path) -> None:
    path.write_text("[journal]\nfsync = never\n[node]\n\n  Memory-Limit : 3\n")
    assert problem(path) == (
        f"{path}:5: section [node], unknown key memory-limit (did you mean memory_limit?); "
        "known are: address, data, memory_limit, name, workers, load_factor, open"
    )


def test_key_of_another_section_is_unknown(path: Path) -> None:
    path.write_text("[node]\nfsync = never\n")
    assert problem(path).startswith(f"{path}:2: section [node], unknown key fsync")


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("[node]\nname = a\n[journal]\n[node]\n", 4, "section [node] is there a second time"),
        ("[node]\nname = a\n\nNAME: b\n", 4, "section [node], key name is there a second time"),
        ("# x\nname = a\n[node]\n", 2, "'name = a\\n' is in no section"),
        ("[node]\nname\n", 2, "'name\\n' is not understood"),
        ("[node]\nname = a\n= b\n", 3, "'= b\\n' is not understood"),
        ("[node\n", 1, "'[node\\n' is in no section"),
        ("[journal]\n[node] # mine\n", 2, "'[node] # mine\\n' is not understood"),
        ("[journal]\n[node] name = a\n", 2, "section [journal], unknown key [node] name"),
    ],
)
def test_syntax_error(path: Path, text: str, line: int, expected: str) -> None:
    path.write_text(text)
    assert problem(path).startswith(f"{path}:{line}: {expected}")


def test_missing_file(path: Path) -> None:
    assert problem(path) == f"{path}: cannot be read: No such file or directory"


def test_directory(tmp_path: Path) -> None:
    assert problem(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_not_utf8(path: Path, start: bytes) -> None:
    path.write_bytes(start + b"[node]\n\nname = gr\xf6\xdfer\n")
    assert problem(path).startswith(f"{path}:3: is not UTF-8")


@pytest.mark.parametrize(
    "before",
    [
        "name = first\n  second\n  workers = 5\n\n  [journal]\n  last\n",
        "name =\n  a\n# workers = 5\n  b\n",
        "  name = a\n    workers = 5\n",
        "\tname = a\n\tdata = x\n",
        "name: a\n\n\n; workers = 5\n",
        "name = a\u2028workers = 5\n",
        "name = a\x0cworkers = 5\n",
    ],
)
def test_line_after_a_value_of_many_lines(path: Path, before: str) -> None:
    text = f"[journal]\n[node]\n{before}workers = many\n"
    path.write_text(text, encoding="utf-8")
    line = text.count("\n")
    assert problem(path).startswith(f"{path}:{line}: section [node], key workers: 'many'")


def refuse_bad(text: str) -> str:
    if text.startswith("bad"):
        raise ValueError("good is allowed")
    return text


Keys = make_dataclass("Keys", [(f"k{number}", Annotated[str, refuse_bad], "") for number in range(10)], frozen=True)
Random = make_dataclass("Random", [("a", Keys, Keys()), ("b", Keys, Keys())], frozen=True)
INDENTS = st.sampled_from(["", " ", "  ", "\t"])
SHAPES = st.sampled_from(["{key} = {value}", "{key}:{value}", "# {key} = bad", "; [b]", "", "{key} =\n\n    {value}"])


@settings(deadline=None)  # it writes files, on a machine that may be busy
@given(st.lists(st.tuples(INDENTS, SHAPES), min_size=10, max_size=10), st.integers(0, 9), st.integers(0, 9))
def test_line_of_the_bad_value_in_random_files(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[str, str]], bad: int, second: int
) -> None:
    lines = ["[a]"]
    line_of_bad = 0
    for number, (indent, shape) in enumerate(shapes):
        if number == second:
            lines.append(f"{indent}[b]")
        if number == bad:
            line_of_bad = len(lines) + 1
        value = "bad" if number == bad else "good"
        lines += (indent + shape.format(key=f"k{number}", value=value)).split("\n")
    path = tmp_path_factory.getbasetemp() / "random.ini"
    path.write_text("\n".join(lines))
    told = ""
    try:
        load(Random, path)
    except ConfigError as error:
        told = str(error)
    indent, shape = shapes[bad]
    is_key = shape.startswith("{key}")  # but where it is indented it may go on with the value before it
    assert told or indent or not is_key
    assert not told or re.match(rf"{path}:{line_of_bad}: section \[[ab]\], key k{bad}: 'bad", told)


def test_override_replaces_what_is_given() -> None:
    section = NodeSection(name="a", workers=2)
    assert override(section, name=None, workers=0, data=Path("x")) == NodeSection(name="a", workers=0, data=Path("x"))
    assert override(section, name=None) == section


def test_override_of_an_unknown_key_is_a_bug() -> None:
    with pytest.raises(TypeError):
        override(NodeSection(), nmae="a")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17 B", 17),
        ("1KiB", 2**10),
        ("64 MiB", 2**26),
        ("1.5 GiB", 3 * 2**29),
        ("2  TiB", 2**41),
        ("999999999999999 TiB", 999999999999999 * 2**40),
    ],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "0.3 B", "1 mib", "1 MB", "1 M", "1e3", "1,5 GiB", "1 2", "1" * 16, "٣"]
)
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a size is .* such as 64 MiB$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("30", 30.0), ("9ms", 0.009), ("1.5 s", 1.5), ("10 m", 600.0), ("6h", 21600.0), ("0.5d", 43200.0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 H", "1 min", "inf", "nan", "1h30m", ".5 s", "9" * 400])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a duration is .* such as 6h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10001", Address("127.0.0.1", 10001)),
        ("localhost:0", Address("localhost", 0)),
        ("node-1.example.org:65535", Address("node-1.example.org", 65535)),
        ("[::1]:10001", Address("::1", 10001)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("unix:/run/dht.sock", Address.unix("/run/dht.sock")),
        ("unix:dht:1 a.sock", Address.unix("dht:1 a.sock")),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_unix == text.startswith("unix:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":10001",
        "10001",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:65536",
        "localhost:" + "1" * 5000,
        "::1:10001",
        "[::1]",
        "[]:1",
        "[localhost]:1",
        "[127.0.0.1]:1",
        "a b:1",
        "a/b:1",
        "localhost:1 ",
        "unix:",
        "unix:a\nb",
        "unix:/" + "x" * UNIX_PATH_BYTES_MAX,
    ],
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w \w"):
        parse_address(text)


def test_longest_unix_path() -> None:
    path = "/" + "x" * (UNIX_PATH_BYTES_MAX - 1)
    assert parse_address(f"unix:{path}").path == path


def test_addresses() -> None:
    assert parse_addresses("a:1") == (Address("a", 1),)
    assert parse_addresses("a:1 ,[::1]:2,\nunix:/x") == (Address("a", 1), Address("::1", 2), Address.unix("/x"))


@pytest.mark.parametrize("text", ["", "a:1,", ",a:1", "a:1 b:2", "a:1, b", "a:1, b:1, a:1"])
def test_not_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_addresses(text)


# Sections with names.


@dataclass(frozen=True)
class RoomSection:
    size: int = 1
    kind: Literal["dark", "light"] | None = None


def _lower(text: str) -> str:
    if not text.islower():
        raise ValueError("a name in lower case is expected")
    return text


@dataclass(frozen=True)
class HouseConfig:
    house: RoomSection = field(default_factory=RoomSection)
    room: Mapping[Annotated[str, _lower], RoomSection] = field(default_factory=dict)


def test_sections_with_names(path: Path) -> None:
    path.write_text("[room a]\nsize = 2\n[house]\nsize = 3\n[room  b c ]\nkind = dark\n[room d]\n")
    config = load(HouseConfig, path)
    assert config.house == RoomSection(3)
    assert config.room == {"a": RoomSection(2), "b c": RoomSection(1, "dark"), "d": RoomSection()}
    assert load(HouseConfig, None) == HouseConfig()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\n[room A]\n", ":2: section [room A] is refused: a name in lower case is expected"),
        ("[room]\n", ":1: unknown section [room] (did you mean room NAME?); known are: house, room NAME"),
        ("[house a]\n", ":1: unknown section [house a]"),
        ("[rooms a]\n", ":1: unknown section [rooms a]"),
        ("[room a]\n\nsizes = 1\n", ":3: section [room a], unknown key sizes (did you mean size?)"),
        ("[room a]\nsize = x\n", ":2: section [room a], key size: 'x' is refused: a whole number is needed"),
        ("[room a]\nkind = None\n", ":2: section [room a], key kind: 'None' is refused: allowed are dark, light"),
        ("[room a]\n[room a]\n", ":2: section [room a] is there a second time, once is allowed"),
        ("[room a]\n[room  a]\n", ":2: section [room  a] is there a second time, once is allowed"),
    ],
)
def test_what_is_wrong_with_sections_with_names(path: Path, text: str, told: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(HouseConfig, path)
    assert str(raised.value).startswith(f"{path}{told}")
