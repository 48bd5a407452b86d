"""Bytes in lines of JSON: as text where they are UTF-8, else base64 encoded in a member whose name says so."""

import base64
import json
from typing import Any

BASE64_SUFFIX = "_base64"


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """ValueError"""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{text!r:.40} is not base64 ({error})") from error


def member(name: str, data: bytes) -> tuple[str, str]:
    """A member of an object: its name, with BASE64_SUFFIX where that is needed, and its text."""
    try:
        return name, data.decode()
    except UnicodeDecodeError:
        return name + BASE64_SUFFIX, to_base64(data)


def encode(members: dict[str, str]) -> bytes:
    """The line."""
    return json.dumps(members, ensure_ascii=False).encode() + b"\n"


def decode(line: bytes, *names: str) -> tuple[bytes, ...]:
    """The bytes of these members, which are all that the line has. ValueError says what is wrong with it."""
    try:
        members = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (column {error.colno}: {error.msg})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if type(members) is not dict:
        raise ValueError(f"is not a JSON object: {line!r:.40}")
    found = tuple(_bytes_of(name, members) for name in names)
    if members:
        known = " and ".join(names)
        are = "are" if len(names) > 1 else "is"
        raise ValueError(f"unknown member {next(iter(members))!r:.40}; known {are} {known}, or with {BASE64_SUFFIX}")
    return found


def _bytes_of(name: str, members: dict[str, Any]) -> bytes:
    """Takes what has this name out of the members."""
    found = [each for each in (name, name + BASE64_SUFFIX) if each in members]
    if len(found) != 1:
        raise ValueError(
            f"either {name} or {name}{BASE64_SUFFIX} is needed, " + ("and not both" if found else "not there")
        )
    content = members.pop(found[0])
    if type(content) is not str:
        raise ValueError(f"{found[0]} is a JSON string, not {content!r:.40}")
    try:
        return content.encode() if found[0] == name else from_base64(content)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half of a surrogate pair, which is no text") from error
