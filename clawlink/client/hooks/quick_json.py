"""JSON for a hook with nothing new, by the parts in C of ``json``: that itself loads regular expressions and ``enum``.

These parts are private to CPython, and differ between its versions. ``json`` does it where they are missing or fail.
"""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # pragma: no cover
    encode_basestring_ascii = make_scanner = None  # type: ignore[assignment,misc]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


class _Context:
    """The settings of the scanner, as ``json.JSONDecoder`` has them."""

    strict = True
    array_hook = None  # since Python 3.15
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def read(data: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError, and RecursionError for one that nests too deep."""
    text = data.decode("utf-8", "surrogatepass").strip(_SPACE)
    try:
        said, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return said
    except Exception:  # noqa: S110  # of text that is no JSON: up to Python 3.11 even a SystemError
        pass
    import json

    return json.loads(text)


def written(said: Any) -> bytes:
    """Return something as JSON in ASCII."""
    texts = isinstance(said, dict) and all(isinstance(value, str) for value in said.values())
    if not texts or encode_basestring_ascii is None:
        import json

        return json.dumps(said).encode()
    fields = (f"{encode_basestring_ascii(name)}: {encode_basestring_ascii(said[name])}" for name in said)
    return f"{{{', '.join(fields)}}}".encode("ascii")
