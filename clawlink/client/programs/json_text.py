"""JSON of other programs as text: read without a loss, and written as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

_SURROGATE = re.compile("[\ud800-\udfff]")
_SECOND_SLASH = re.compile("(?<=/)/")
_INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)


class Unmergeable(Exception):
    """The settings have a form that no entry can be put into without a risk; the message says which."""


class _Number(NamedTuple):
    """A number as its text, so that it is written as it was: ``1.0``, ``1e400`` or a long one."""

    text: str


def _parsed(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=_object, parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise Unmergeable(f"an object has the key {json.dumps(double)} more than once; keep one of them")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise Unmergeable(f"it is no plain JSON: {name} is no number there")


def as_read(value: Mapping[str, Any]) -> Any:
    """Return a value as ``read`` has it."""
    return _parsed(json.dumps(value))


def read(text: str | None, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a text; ``head`` for none. Raises Unmergeable."""
    if text is None or not text.strip():
        settings = as_read(head)
    else:
        try:
            settings = _parsed(text)
        except (ValueError, RecursionError) as error:
            raise Unmergeable(f"it is no plain JSON, as with comments ({error})") from None
    if not isinstance(settings, dict):
        raise Unmergeable("it is no JSON object")
    return settings


def within(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object of that name, a new one where there is none. Raises Unmergeable."""
    found = settings.setdefault(name, {})
    if not isinstance(found, dict):
        raise Unmergeable(f"{name} is no object")
    return found


def written(settings: dict[str, Any], text: str | None) -> str:
    """Write settings as the text was: its indentation, its line ends, and its last one. Equal settings stay as text."""
    found = _INDENT.search(text or "")
    one_line = text is not None and text.strip() != "" and "\n" not in text.strip()
    try:
        if text is not None and text.strip() and _parsed(text) == settings:
            return text
        written = _json(settings, None if one_line else found[1] if found else "  ", "\n")
    except RecursionError:
        raise Unmergeable("its values are too deep in each other") from None
    if text is None or not text.strip() or text.endswith("\n"):
        written += "\n"
    return written.replace("\n", "\r\n") if text is not None and "\r\n" in text else written


def without_double_slashes(text: str) -> str:
    """Return the same JSON with an escape between two slashes, for a reader that takes them for a comment."""
    return _SECOND_SLASH.sub(r"\\/", text)


def _json(value: Any, indent: str | None, line: str) -> str:
    """Write a value as ``json.dumps`` does, with numbers as they were. ``line`` begins a line at this depth."""
    if isinstance(value, _Number):
        return value.text
    if not isinstance(value, (dict, list)) or not value:
        # Half of a pair of code units is no UTF-8 and stays escaped.
        return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(value, ensure_ascii=False))
    inner = line + (indent or "")
    if isinstance(value, dict):
        parts = [f"{_json(name, None, '')}: {_json(one, indent, inner)}" for name, one in value.items()]
    else:
        parts = [_json(one, indent, inner) for one in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return first + (", ".join(parts) if indent is None else inner + f",{inner}".join(parts) + line) + last
