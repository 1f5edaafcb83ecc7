"""Text that others wrote, made harmless for a terminal and a log.

The result has no character that moves a cursor, changes colours, hides or reorders text, or ends a line. Each such
character is shown as itself. A joiner stays between emoji, and between letters of scripts that need it.
"""

from __future__ import annotations

import re
import unicodedata

# Controls, soft hyphen, invisible fillers, zero-width and joining characters, line and paragraph separators, text
# direction, lone surrogates, interlinear marks, the plane of tags and invisible variation selectors, and codes that are
# no characters.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    + "".join(chr(plane << 16 | 0xFFFE) + "-" + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)
_JOINERS = "\u200c\u200d"
# Letters without capitals, and emoji; before a joiner also the marks that belong to them.
_JOINED_TO = ("Lo", "So")
_JOINED_FROM = ("Lo", "So", "Mn", "Mc", "Sk")
_LINE_END = re.compile("\r\n|\n")
_PICTURES = 0x2400
_DELETE = 0x7F


def cell(text: str) -> str:
    """Return the text as one harmless line; a line end becomes ``␤``."""
    return UNSAFE.sub(_shown, text.replace("\r\n", "\n").replace("\n", "\u2424"))


def lines(text: str) -> list[str]:
    """Return the text as harmless lines. Tabs stay."""
    return ["\t".join(UNSAFE.sub(_shown, part) for part in line.split("\t")) for line in _LINE_END.split(text)]


def escaped(text: str) -> str:
    """Return JSON with each such character as ``\\uXXXX``. It says the same."""
    if text.isascii() and text.isprintable():
        return text
    return UNSAFE.sub(_as_units, text)


def _as_units(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _joins(text: str, at: int) -> bool:
    """Return True for a joiner that emoji need, or letters of a script without capitals."""
    if text[at] not in _JOINERS or not 0 < at < len(text) - 1:
        return False
    category = unicodedata.category
    return category(text[at - 1]) in _JOINED_FROM and category(text[at + 1]) in _JOINED_TO


def _shown(found: re.Match[str]) -> str:
    if _joins(found.string, found.start()):
        return found[0]
    code = ord(found[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == _DELETE:
        return "\u2421"
    return f"<U+{code:04X}>"
