# ruff: noqa: RUF001
"""Characters that hide in names and ids, and letters of other scripts that look like Latin letters.

The table holds the letters that Unicode's list of confusable characters (UTS #39) maps to one letter of a to z, each in
its folded form. Two names of ASCII alone never look alike here: ``agent-1`` and ``agent-l`` are two names.
"""

from __future__ import annotations

import unicodedata

_LETTERS = {
    "a": "ɑαаᎪᗅꓮ𐊠𖽀",
    "b": "ƅβвьᏏᏴᑲᖯᗷꓐꞵ𐊂𐊡𐌁",
    "c": "сᏟᴄⲥꓚ𐊢𐌂𐐽𐔜",
    "d": "ԁᎠᏧᑯᗞᗪꓒꓓ",
    "e": "εеҽᎬⴹꓰꬲ𐊆𑣆𑣎",
    "f": "ϝքᖴẝꓝꞙꬵ𐊇𐊥𐔥𑣂",
    "g": "ƍɡԍցᏀᏳᶃꓖ",
    "h": "ηнһհᎻᏂᕼⲏꓧ𐋏",
    "i": "ıɩɪιіӏᎥꙇ𑣃",
    "j": "ʝϳјᎫᒍꓙ",
    "k": "κкᏦᛕⲕꓗ𐔘",
    "l": "ǀᏞᒪᛁᣳⲓⳑⵏꓡꓲ𐊊𐌉𐑃𐔦𑣒𖼖𖼨",
    "m": "μϻмᎷᗰᛖⲙꓟ𐊰𐌑",
    "n": "ոռⲛꓠ𐔓",
    "o": "οσоօଠഠဝჿዐᴏᴑⲟⵔꓳꬽ𐊒𐊫𐐬𐓪𐔖𑣈𑣕𑣗",
    "p": "ρрᏢᑭᣖⲣꓑ𐊕",
    "q": "ԛգզⵕ",
    "r": "ʀгᎡᎱᏒᖇᣴᴦⲅꓣꭇꭈ𐓜𖼵",
    "s": "ƽѕտᏕᏚᣵꓢꜱ𐊖𐑈𑣁𖼺",
    "t": "τтᎢⲧꓔ𐊗𐊱𐌕𖼊",
    "u": "ʋυսሀᑌᴜꓴꞟꭎꭒ𐓶𑣘𖽂",
    "v": "νѵᏙᐯᴠⴸꓦꛟ𐔝𑜆𑣀𖼈",
    "w": "ɯѡԝաᎳᏔᴡꓪ𑜊𑜎𑜏",
    "x": "χхᕁᕽᚷⲭⵝꓫꭓ𐊐𐊴𐌗𐔧",
    "y": "ɣʏγуүყᎩᎽᶌỿⲩꓬꭚ𐊲𑣜𖽃",
    "z": "ζᏃᙆᴢꓜ𑣄𑣉",
}
_LATIN = str.maketrans({sign: letter for letter, signs in _LETTERS.items() for sign in signs})
_JOINERS = "\u200c\u200d"
# Hangul fillers and the blank Braille pattern count as letters and signs, and show nothing.
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
# Variation selectors and the grapheme joiner count as marks, and show nothing alone.
_UNSEEN = frozenset("\u034f\u17b4\u17b5" + _BLANK) | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def seen(text: str) -> str:
    """Leave out the characters that show nothing."""
    return "".join(sign for sign in text if sign not in _UNSEEN and unicodedata.category(sign) != "Cf")


def skeleton(folded: str) -> str:
    """Bring a folded name into the form that all names have which look like it."""
    if folded.isascii():
        return folded
    return unicodedata.normalize("NFD", folded).translate(_LATIN)


def fault(text: str, *, spaces: bool) -> str | None:
    """Say what a new name may not have, or an id, which has no ``spaces``; None if nothing is wrong with it."""
    if text.isascii():
        return None
    for at, sign in enumerate(text):
        if not spaces and sign.isspace():
            return f"may not have white space (U+{ord(sign):04X})"
        if sign in _BLANK or (unicodedata.category(sign) == "Cf" and not _joins(text, at)):
            return f"may not have characters that cannot be seen (U+{ord(sign):04X})"
    return None if seen(text).strip() else "needs a character that can be seen"


def _joins(text: str, at: int) -> bool:
    """Return True for a joiner between two letters or two emoji, where scripts and emoji need it."""
    if text[at] not in _JOINERS:
        return False
    return 0 < at < len(text) - 1 and _joinable(text[at - 1]) and _joinable(text[at + 1])


def _joinable(sign: str) -> bool:
    return unicodedata.category(sign) in ("Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Sk", "Sm", "So")
