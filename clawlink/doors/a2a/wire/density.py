"""JSON of very many parts, which takes a reader long: how many there are, told from the bytes."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from clawlink.domain.dense_json import MAX_PARTS, is_dense

_NOT_MARKS = bytes(set(range(256)) - set(b'[{,"'))


def count(text: bytes) -> int:
    """Return the number of arrays, objects and commas of a JSON text, without those in its strings."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = text.translate(None, _NOT_MARKS)
    # Of the pieces between two quotes, every second is the inside of a string.
    return sum(map(len, marks.split(b'"')[::2]))


def has_too_many(text: bytes) -> bool:
    """Return True if a JSON text has more than MAX_PARTS parts."""
    return is_dense(text) and count(text) > MAX_PARTS


def built_if_light(value: Any) -> Any:
    """Return JSON that stayed as it came as objects, unless it has more than MAX_PARTS parts."""
    if not isinstance(value, Raw):
        return value
    text = bytes(value)
    return value if has_too_many(text) else msgspec.json.decode(text)
