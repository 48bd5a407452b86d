"""Configuration of a process: an INI file becomes checked, typed values.

A configuration is a frozen dataclass; its fields are the sections, frozen dataclasses with a default for every key:

    @dataclass(frozen=True)
    class NodeSection:
        address: Annotated[Address, parse_address] = Address("127.0.0.1", 10001)
        data: Path = Path("dht-data")
        fsync: Literal["never", "interval", "always"] = "interval"

    @dataclass(frozen=True)
    class DhtConfig:
        node: NodeSection = NodeSection()

    config = load(DhtConfig, path)

A field that is a Mapping stands for sections of the same form with names, [channel NAME] for

        channel: Mapping[Annotated[str, parse_pattern], ChannelSection] = field(default_factory=dict)

whose keys are the names as their function gives them.

The type of a key is str, int, float, bool, Path, a Literal of strings, or Annotated with a function that takes the
text and raises ValueError with a sentence saying what is allowed; or one of these and None. The grammar is
configparser's, without interpolation, without a [DEFAULT] section, and with nothing after the closing bracket of a
section. A comment has a line of its own: after a value it would be a part of it.
"""

import configparser
import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

EX_CONFIG = 78  # exit status of a process whose configuration is wrong, from sysexits.h
UNIX_PATH_BYTES_MAX = 107  # sun_path of unix(7), less its terminating zero

_MEASURE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)")
_SIZE_UNITS: dict[str, int | Fraction] = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DURATION_UNITS: dict[str, int | Fraction] = {"": 1, "ms": Fraction(1, 1000), "s": 1, "m": 60, "h": 3600, "d": 86400}
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^]]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,9})")


class ConfigError(Exception):
    """The configuration is wrong: the text names file, line, section and key, what is wrong and what is allowed."""


@dataclass(frozen=True)
class Address:
    """Where a node listens: a host and a TCP port (0: any free one), or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def unix(cls, path: str) -> "Address":
        return cls("", 0, path)

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this machine only."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name: where it leads is not known here

    def __str__(self) -> str:
        """As parse_address takes it."""
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_size(text: str) -> int:
    """Bytes: "64 MiB", "1.5GiB", "4096"; never negative."""
    size = _measure(text, _SIZE_UNITS)
    if size is None or size.denominator != 1:
        raise ValueError("a size is a number of B, KiB, MiB, GiB or TiB that gives whole bytes, such as 64 MiB")
    return int(size)


def parse_duration(text: str) -> float:
    """Seconds: "250ms", "6h", "1.5 d", "30"; never negative."""
    duration = _measure(text, _DURATION_UNITS)
    if duration is None:
        raise ValueError("a duration is a number of ms, s, m, h or d, such as 6h; without a unit it is in seconds")
    return float(duration)


def parse_address(text: str) -> Address:
    """host:port, [IPv6]:port, or unix:path."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.isprintable() or not 0 < len(path.encode()) <= UNIX_PATH_BYTES_MAX:
            raise ValueError(f"unix: is followed by a printable path of 1 to {UNIX_PATH_BYTES_MAX} bytes")
        return Address.unix(path)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError(
            "an address is host:port such as 127.0.0.1:10001, [IPv6]:port such as [::1]:10001, or unix:path"
        )
    if (port := int(match["port"])) > 65535:
        raise ValueError("a port is a number from 0 to 65535")
    if match["ipv6"]:
        IPv6Address(match["ipv6"])
    return Address(match["ipv6"] or match["host"], port)


def parse_addresses(text: str) -> tuple[Address, ...]:
    """One address or more, separated by commas, none of them twice; a Unix path in a list has no comma."""
    addresses = tuple(parse_address(part.strip()) for part in text.split(","))
    for address in addresses:
        if addresses.count(address) > 1:
            raise ValueError(f"each address may be given once, {address} is there more often")
    return addresses


def load(cls: type[T], path: Path | None) -> T:
    """The configuration in the file, with defaults for what it does not name; None: the defaults.

    Relative paths in it are relative to the current directory. Raises ConfigError.
    """
    config = cls()
    if path is None:
        return config
    text = _read(path)
    sections = _split(path, text)
    lines = _line_numbers(text)
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    named = _named_sections(cls)
    known |= {section: {} for section in named}
    parsers = {
        section: _parsers(named[section][1] if section in named else type(default))
        for section, default in known.items()
    }
    for header, keys in sections.items():
        section, _, name = header.partition(" ")
        here = f"{path}:{lines[header, '']}: "
        if section not in known or bool(name) != (section in named):
            headers = [f"{each} NAME" if each in named else each for each in known]
            raise ConfigError(here + _unknown("section", f"[{header}]", header, headers))
        values = {}
        for key, value in keys.items():
            where = f"{path}:{lines[header, key]}: section [{header}], "
            if key not in parsers[section]:
                raise ConfigError(where + _unknown("key", key, key, parsers[section]))
            try:
                values[key] = parsers[section][key](value)
            except ValueError as error:
                raise ConfigError(f"{where}key {key}: {value!r} is refused: {error}") from error
        if section in named:
            parse_name, form = named[section]
            try:
                parsed = parse_name(name.strip())
            except ValueError as error:
                raise ConfigError(f"{here}section [{header}] is refused: {error}") from error
            if parsed in known[section]:
                raise ConfigError(f"{here}section [{header}] is there a second time, once is allowed")
            known[section][parsed] = form(**values)
        else:
            known[section] = replace(known[section], **values)
    return cls(**known)


def override(section: T, **values: Any) -> T:
    """The section with those values that are not None, as command line options that were not given are."""
    return replace(section, **{key: value for key, value in values.items() if value is not None})


class _Parser(configparser.RawConfigParser):
    # The stock expression ignores whatever follows the bracket, even a whole "key = value".
    SECTCRE = re.compile(r"\[(?P<header>[^]]+)\]$")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8: {error.reason}") from error


def _split(path: Path, text: str) -> dict[str, dict[str, str]]:
    parser = _Parser(strict=True, default_section="")  # a section has at least one character: there is no default one
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ConfigError(f"{path}:{_syntax_problem(error)}") from error
    return {name: {key: value.strip() for key, value in parser.items(name)} for name in parser.sections()}


def _syntax_problem(error: configparser.Error) -> str:
    match error:
        case configparser.DuplicateSectionError():
            return f"{error.lineno}: section [{error.section}] is there a second time, once is allowed"
        case configparser.DuplicateOptionError():
            where = f"{error.lineno}: section [{error.section}], key {error.option}"
            return f"{where} is there a second time, once is allowed"
        case configparser.MissingSectionHeaderError():
            return f"{error.lineno}: {error.line!r} is in no section: before it a line such as [section] is needed"
        case configparser.ParsingError():
            line, text = error.errors[0]  # of the text there is the repr
            return f"{line}: {text} is not understood: allowed are [section], key = value and # comment"
    raise error


def _line_numbers(text: str) -> dict[tuple[str, str], int]:
    """Where each (section, key) and (section, "") is, in a text accepted by configparser, which forgets it."""
    lines = {}
    section, key, indent = "", "", 0
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        if not content or content.startswith(("#", ";")):
            continue
        depth = len(line) - len(line.lstrip())
        if key and depth > indent:
            continue  # the value of the key goes on
        indent = depth
        if header := _Parser.SECTCRE.match(content):
            section, key = header["header"], ""
        elif option := _Parser.OPTCRE.match(content):
            key = option["option"].rstrip().lower()
        lines[section, key] = number
    return lines


def _named_sections(cls: "type[DataclassInstance]") -> dict[str, tuple[Callable[[str], Any], Any]]:
    """Of the fields that are mappings: what parses a name, and the class of a section."""
    hints = get_type_hints(cls, include_extras=True)
    named = {
        field.name: get_args(hints[field.name]) for field in fields(cls) if get_origin(hints[field.name]) is Mapping
    }
    return {section: (_parser(of_name), form) for section, (of_name, form) in named.items()}


def _parsers(section: "type[DataclassInstance]") -> dict[str, Callable[[str], Any]]:
    hints = get_type_hints(section, include_extras=True)
    return {field.name: _parser(hints[field.name]) for field in fields(section)}


def _parser(hint: Any) -> Callable[[str], Any]:
    if get_origin(hint) in (Union, UnionType):  # with None, which a key has that is not given
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Annotated:
        parser: Callable[[str], Any] = get_args(hint)[1]
        return parser
    if get_origin(hint) is Literal:
        return lambda text: _one_of(text, get_args(hint))
    plain: dict[Any, Callable[[str], Any]] = {str: str, int: _int, float: _float, bool: _bool, Path: _path}
    return plain[hint]


def _one_of(text: str, allowed: Collection[str]) -> str:
    if text not in allowed:
        raise ValueError(f"allowed are {', '.join(allowed)}")
    return text


def _int(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError("a whole number is needed")
    return int(text)


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a number is needed, such as 0.5")
    return number


def _bool(text: str) -> bool:
    states = configparser.RawConfigParser.BOOLEAN_STATES
    if text.lower() not in states:
        raise ValueError(f"allowed are {', '.join(states)}")
    return states[text.lower()]


def _path(text: str) -> Path:
    if not text or not text.isprintable():
        raise ValueError("a path is needed, without control characters")
    return Path(text)


def _measure(text: str, units: dict[str, int | Fraction]) -> Fraction | None:
    match = _MEASURE.fullmatch(text)
    return Fraction(match[1]) * units[match[2]] if match and match[2] in units else None


def _unknown(what: str, shown: str, name: str, known: Collection[str]) -> str:
    closest = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" (did you mean {closest[0]}?)" if closest else ""
    return f"unknown {what} {shown}{hint}; known are: {', '.join(known)}"
