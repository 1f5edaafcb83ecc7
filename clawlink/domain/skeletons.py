"""Characters that hide in names and ids, and names that look like others.

Names are compared by their skeletons, as UTS #39 defines them: by the shown letters, and by those of the folded name. A
name in capitals may look like another in its first form only.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import msgspec

from clawlink.domain.confusables import prototypes

_JOINERS = "\u200c\u200d"
# These count as letters and signs, and show nothing: Hangul fillers, the blank Braille pattern, a musical null head,
# hieroglyphic blanks, the Khitan filler; also the sign for an object that is not there.
_BLANK = "\u115f\u1160\u2800\u3164\uffa0\ufffc\U0001d159\U00013441\U00013442\U00016fe4"
# The rest that Unicode calls default ignorable. Variation selectors and joiners count as marks, and show nothing alone.
_IGNORABLE = (
    (0x034F, 0x0350),
    (0x17B4, 0x17B6),
    (0x180B, 0x1810),
    (0x2065, 0x2066),
    (0xFE00, 0xFE10),
    (0xFFF0, 0xFFF9),
    (0xE0000, 0xE1000),
)
_UNSEEN = frozenset(_BLANK) | {chr(code) for start, end in _IGNORABLE for code in range(start, end)}

# The ASCII characters that look like others. The shown capital I looks like small l; capital L does not.
_AS_SHOWN = str.maketrans({"I": "1", "l": "1", "L": "\x01"})
_AS_FOLDED = str.maketrans({"l": "1", "|": "1", "0": "o", "m": "rn", "w": "vv", '"': "''", "`": "'"})


class Skeletons(msgspec.Struct, frozen=True, gc=False):
    """The forms of a name for comparison: as it is ``shown``, and without letter case."""

    shown: str
    folded: frozenset[str]
    capitals: bool

    @property
    def all(self) -> frozenset[str]:
        return self.folded | {self.shown}


@lru_cache(4096)
def skeletons(text: str, folded: str) -> Skeletons:
    """Return the skeletons of a name and of its folded form."""
    shown = _letters(text)
    return Skeletons(
        _skeleton(shown.translate(_AS_SHOWN)),
        frozenset((_skeleton(shown), _skeleton(_letters(folded)))),
        text.isupper(),
    )


def alike(one: Skeletons, other: Skeletons) -> bool:
    """Return True if two names look like each other.

    Of two names in capitals the letters I and L differ, as in HAI and HAL.
    """
    if one.capitals and other.capitals:
        return one.shown == other.shown or not one.folded.isdisjoint(other.folded)
    return not one.all.isdisjoint(other.all)


def _letters(text: str) -> str:
    """Return the ASCII letters, or else the prototypes, that the text looks like."""
    if text.isascii():
        return text
    table = prototypes()
    return "".join(table.get(sign) or _decomposed(sign) for sign in unicodedata.normalize("NFD", seen(text)))


def _decomposed(sign: str) -> str:
    table = prototypes()
    return "".join(table.get(part, part) for part in unicodedata.normalize("NFKD", sign))


def _skeleton(letters: str) -> str:
    """Leave out letter case, and how much white space there is."""
    plain = " ".join(letters.casefold().translate(_AS_FOLDED).split())
    return plain if plain.isascii() else unicodedata.normalize("NFD", plain)


def seen(text: str) -> str:
    """Leave out the characters that show nothing."""
    return "".join(sign for sign in text if sign not in _UNSEEN and unicodedata.category(sign) != "Cf")


def fault(text: str, *, spaces: bool) -> str | None:
    """Return the fault of a new name, or of an id, which may have no ``spaces``; None if there is none."""
    if text.isascii():
        return None
    for at, sign in enumerate(text):
        if not spaces and sign.isspace():
            return f"may not have white space (U+{ord(sign):04X})"
        if _hides(sign) or (unicodedata.category(sign) == "Cf" and not _joins(text, at)):
            return f"may not have characters that cannot be seen (U+{ord(sign):04X})"
    return None if seen(text).strip() else "needs a character that can be seen"


def _hides(sign: str) -> bool:
    """Return True for a blank letter, a code that is kept for characters that show nothing, and no character at all."""
    if sign in _BLANK:
        return True
    code = ord(sign)
    return unicodedata.category(sign) == "Cn" and (
        sign in _UNSEEN or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    )


def _joins(text: str, at: int) -> bool:
    """Return True for a joiner between two letters or two emoji, where scripts and emoji need it."""
    if text[at] not in _JOINERS:
        return False
    return 0 < at < len(text) - 1 and _joinable(text[at - 1]) and _joinable(text[at + 1])


def _joinable(sign: str) -> bool:
    return unicodedata.category(sign) in ("Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Sk", "Sm", "So")
