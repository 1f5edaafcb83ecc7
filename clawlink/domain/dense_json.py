"""JSON of very many parts, which the relay passes on without building it.

A megabyte of empty arrays takes 90 ms to build as objects, and 2 ms to read over. So such a value stays as it came, as
``msgspec.Raw`` without white space. A string is never such a value.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from clawlink.errors import BadRequest

T = TypeVar("T")

MAX_PARTS = 30_000
"""The arrays, objects and commas of a value that the relay builds."""
MAX_LARGE_NUMBERS = 1_000
"""The numbers that may be too large for a double, and are therefore read, of a value that the relay does not build."""

_object = msgspec.json.Decoder(dict[str, Any])
_fields = msgspec.json.Decoder(dict[str, Raw])
# Digits and points become 0, the parts between numbers a space: a large exponent is an e with three digits.
_SHAPES = bytes.maketrans(b"123456789.E", b"0" * 10 + b"e").translate(
    bytes(c if c in b"0123456789.eE+" else ord(" ") for c in range(256))
)
_SPACES = (b" ", b"\n", b"\t", b"\r")
# With an exponent of two digits, 210 digits may be too many.
_LARGE = (b"e000", b"e+000", b"0" * 209)


def is_dense(text: bytes) -> bool:
    """Return True if a JSON text may have more than MAX_PARTS parts."""
    if len(text) <= MAX_PARTS:
        return False
    return text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_PARTS


def split(body: bytes) -> tuple[bytes, dict[str, Raw]]:
    """Part an object: return it without its dense values, and these. Raises msgspec.DecodeError."""
    fields = _fields.decode(body)
    dense = {name: fields.pop(name) for name, value in list(fields.items()) if _stays(bytes(value))}
    return msgspec.json.encode(fields), {name: _without_space(value) for name, value in dense.items()}


def read_object(body: bytes) -> dict[str, Any]:
    """Read an object. Its dense values stay ``msgspec.Raw``. Raises msgspec.DecodeError."""
    if not is_dense(body):
        return _object.decode(body)
    light, dense = split(body)
    return _object.decode(light) | dense


def _stays(value: bytes) -> bool:
    return not value.startswith(b'"') and is_dense(value)


def _without_space(value: Raw) -> Raw:
    text = bytes(value)
    return Raw(msgspec.json.format(text, indent=-1)) if any(space in text for space in _SPACES) else value


def built(value: Any) -> Any:
    """Return a value that stayed as it came as objects, and any other as it is."""
    return msgspec.json.decode(value) if isinstance(value, Raw) else value


def as_text(value: Any) -> str:
    """Return contents as text for people: a string as it is, any other value as JSON."""
    if isinstance(value, str):
        return value
    return bytes(value).decode() if isinstance(value, Raw) else json.dumps(value, ensure_ascii=False)


def read(decoder: msgspec.json.Decoder[T], body: bytes, names: frozenset[str]) -> T:
    """Decode a struct of the relay's own, whose fields ``names`` may be dense."""
    fields = _fields.decode(body)
    dense = {name: value for name, value in fields.items() if name in names and _stays(bytes(value))}
    fields.update(dict.fromkeys(dense, Raw(b"true")))
    found: Any = decoder.decode(msgspec.json.encode(fields))
    made: T = msgspec.structs.replace(found, **dense)
    return made


def require_sound(value: Raw, field: str) -> None:
    """Refuse what no reader of the message could build. Raises BadRequest."""
    text = bytes(value)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"{field} is not JSON in UTF-8", field=field) from None
    shapes = text.translate(_SHAPES)
    if not any(large in shapes for large in _LARGE):
        return
    # Without escaped backslashes and quotes, every second piece between two quotes is the inside of a string.
    outside = b" ".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    shapes = outside.translate(_SHAPES)
    for large in _LARGE:
        if large in shapes:
            _require_readable(outside, shapes, large, field)


def _require_readable(text: bytes, shapes: bytes, large: bytes, field: str) -> None:
    end = -1
    for _ in range(MAX_LARGE_NUMBERS):
        at = shapes.find(large, end + 1)
        if at < 0:
            return
        end = shapes.find(b" ", at) % (len(text) + 1)
        if text[end : end + 1] == b"-":  # of an exponent
            end = shapes.find(b" ", end + 1) % (len(text) + 1)
        try:
            msgspec.json.decode(text[shapes.rfind(b" ", 0, at) + 1 : end])
        except (msgspec.DecodeError, ValueError):
            raise BadRequest(f"{field} has a number that is out of range", field=field) from None
    raise BadRequest(
        f"{field} may have {MAX_LARGE_NUMBERS} numbers of 1e100 and more; share large data as a file",
        field=field,
        limit=MAX_LARGE_NUMBERS,
    )


_NOT_MARKS = bytes(set(range(256)) - set(b'[{,"'))


def parts_in(text: bytes) -> int:
    """Return the number of arrays, objects and commas of a JSON text, without those in its strings."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = text.translate(None, _NOT_MARKS)
    # Of the pieces between two quotes, every second is the inside of a string.
    return sum(map(len, marks.split(b'"')[::2]))


def has_too_many(text: bytes) -> bool:
    """Return True if a JSON text has more than MAX_PARTS parts."""
    return is_dense(text) and parts_in(text) > MAX_PARTS


def built_if_light(value: Any) -> Any:
    """Return JSON that stayed as it came as objects, unless it has more than MAX_PARTS parts."""
    if not isinstance(value, Raw):
        return value
    text = bytes(value)
    return value if has_too_many(text) else msgspec.json.decode(text)
