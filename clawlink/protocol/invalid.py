"""The faults that msgspec finds in a request, as sentences for people."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from enum import EnumMeta
from functools import cache
from typing import Any, Literal

import msgspec

from clawlink.errors import BadRequest
from clawlink.protocol.requests import PATTERNS

_PATH = re.compile(r" - at (?:`key` in )?`(?:key in )?\$\.?([^`]*)`$")
_REQUIRED_FIELD = re.compile(r"missing required field `([^`]+)`")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]+)`")
_KINDS = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?")
_BOUND = re.compile(r"Expected `(?:int|float)` (<=|>=|<|>) (\S+)")
_LENGTH = re.compile(
    r"Expected `(str|bytes|array|object)` of (?:length (<=|>=)|at (least|most) length) (\d+)(?:, got \d+)?"
)
_PATTERN = re.compile(r"Expected `str` matching regex (.+)", re.DOTALL)
_CHOICE = re.compile(r"Invalid (?:enum )?value (.+)", re.DOTALL)

_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_PARTS = {"str": ("characters", "character"), "bytes": ("bytes", "byte")}
_ENTRIES = ("entries", "entry")
_BOUNDS = {
    "<=": "may be at most {}",
    ">=": "must be {} or more",
    "<": "must be less than {}",
    ">": "must be more than {}",
}
_MEANINGS = {repr(pattern): meaning for pattern, meaning in PATTERNS.items()}


def bad_field(error: msgspec.ValidationError, kind: Any = None, texts: Mapping[str, str] | None = None) -> BadRequest:
    """Return the refusal of a field, with its name, its type and the given value.

    ``kind`` is the struct that was asked for, and ``texts`` are the parameters of a query, which are all strings.
    """
    text = str(error)
    path = _PATH.search(text)
    said = _PATH.sub("", text)
    missing = _REQUIRED_FIELD.search(said) or _UNKNOWN_FIELD.fullmatch(said)
    name = ((path[1] + "." if path and path[1] else "") + missing[1]) if missing else (path[1] if path else None)
    if missing:
        # The words after it name the values that are allowed.
        what = "is missing" if missing.re is _REQUIRED_FIELD else "is not known"
        return BadRequest(f"{name} {what}{said[missing.end() :]}", field=name)
    words, limit = _in_words(said)
    if words is None or (path and "key` in" in path[0]):
        # An unknown form, or a fault in the name of an entry instead of its value.
        return BadRequest(f"{said[0].lower()}{said[1:]}" + (f" (field {name})" if name else ""), field=name or None)
    if (allowed := _choices(kind, name)) and (found := _CHOICE.fullmatch(said)):
        words = f"must be {' or '.join(filter(None, (', '.join(allowed[:-1]), allowed[-1])))}, not {found[1]}"
    elif name and texts is not None and name in texts and words.endswith(", not a string"):
        words = f"{words.removesuffix('a string')}{texts[name][:64]!r}"
    return BadRequest(f"{name or 'what was sent'} {words}", field=name or None, limit=limit)


@cache
def _choices(kind: Any, name: str | None) -> tuple[str, ...]:
    """Return the words that a field of a struct takes; none if it takes others."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return ()
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    return tuple(_words(fields.get(name or "")))


def _words(kind: Any) -> list[str]:
    if isinstance(kind, EnumMeta):
        members: Mapping[str, Any] = kind.__members__
        return [str(member.value) for member in members.values()]
    if typing.get_origin(kind) is Literal:
        return [str(word) for word in typing.get_args(kind)]
    return [word for part in typing.get_args(kind) for word in _words(part)]


def _in_words(said: str) -> tuple[str | None, float | None]:
    """Return msgspec's complaint about a value as the rest of a sentence, and the limit that the value exceeds."""
    if found := _BOUND.fullmatch(said):
        limit = _number(found[2])
        return (None, None) if limit is None else (_BOUNDS[found[1]].format(limit), limit)
    if found := _LENGTH.fullmatch(said):
        return _length(found[1], found[2] == ">=" or found[3] == "least", int(found[4])), int(found[4])
    if found := _PATTERN.fullmatch(said):
        meaning = _MEANINGS.get(found[1])
        return (None if meaning is None else f"must be {meaning}"), None
    if found := _KINDS.fullmatch(said):
        return _kinds(found[1].split(" | "), found[2]), None
    if found := _CHOICE.fullmatch(said):
        return f"may not be {found[1]}", None
    if said in ("Integer value out of range", "Number out of range"):
        return "is out of range", None
    return None, None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


def _length(kind: str, least: bool, length: int) -> str:
    many, one = _PARTS.get(kind, _ENTRIES)
    if not least:
        return f"may have {length} {one if length == 1 else many} at most"
    return "may not be empty" if length == 1 else f"must have {length} {many} at least"


def _kinds(taken: list[str], got: str | None) -> str | None:
    # Null is no advice to a client that gave another value.
    wanted = [kind for kind in taken if kind != "null"] or taken
    if any(kind not in _WORDS for kind in wanted) or (got is not None and got not in _WORDS):
        return None
    must = f"must be {' or '.join(_WORDS[kind] for kind in wanted)}"
    if got is None:
        return must
    return f"{must}, not {'one with a fraction' if got == 'float' and 'int' in wanted else _WORDS[got]}"
