"""What msgspec finds wrong with a request, as the sentence that a person reads."""

from __future__ import annotations

import re

import msgspec

from clawlink.errors import BadRequest
from clawlink.protocol.requests import PATTERNS

_PATH = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_REQUIRED_FIELD = re.compile(r"missing required field `([^`]+)`")


def bad_field(error: msgspec.ValidationError) -> BadRequest:
    """Return the refusal of a field: which it is, what it takes, and what was found."""
    text = str(error)
    missing = _REQUIRED_FIELD.search(text)
    path = _PATH.search(text)
    name = ((path[1] + "." if path and path[1] else "") + missing[1]) if missing else (path[1] if path else None)
    sentence = _PATH.sub("", text)
    for pattern, meaning in PATTERNS.items():
        sentence = sentence.replace(f"`str` matching regex {pattern!r}", meaning)
    return BadRequest(f"{sentence[0].lower()}{sentence[1:]}" + (f" (field {name})" if name else ""), field=name or None)
