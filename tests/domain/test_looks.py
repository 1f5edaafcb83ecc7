"""Rules for new names and ids: forbidden characters, comparison, and letters that look alike."""

from __future__ import annotations

import unicodedata

from clawlink.domain import looks
from clawlink.domain.agent import fold

FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"


def test_a_new_name_shows_all_that_it_has_and_an_id_has_no_white_space() -> None:
    for text, in_name, in_id in [
        ("Mia", True, True),
        ("J\u00fcrgen", True, True),
        ("\u30dc\u30d6", True, True),
        ("a\u00a0b", True, False),
        ("a\u3000b", True, False),
        ("a\u2003b", True, False),
        ("Mi\u200ba", False, False),
        ("Mi\u00ada", False, False),
        ("\u202eaiM", False, False),
        ("Mia\u2066", False, False),
        ("\ufeffMia", False, False),
        ("Mi\u2060a", False, False),
        ("Mia\u3164", False, False),
        ("\u2800", False, False),
        ("\ufe0f", False, False),
        (FAMILY, True, True),
        ("\u2764\ufe0f\u200d\U0001f525", True, True),
        ("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc", True, True),
        ("\u0915\u094d\u200d\u0937", True, True),
        ("Mia\u200d", False, False),
        ("\u200cMia", False, False),
        ("a\u200d\u200db", False, False),
        ("1\u200d2", False, False),
    ]:
        assert (looks.fault(text, spaces=True) is None) is in_name, ascii(text)
        assert (looks.fault(text, spaces=False) is None) is in_id, ascii(text)


def test_names_are_compared_without_case_width_composition_and_what_shows_nothing() -> None:
    for one, other, same in [
        ("Bob", "BOB", True),
        ("Bob", " bob ", True),
        ("Bob", "\uff22\uff4f\uff42", True),
        ("J\u00fcrgen", "Ju\u0308rgen", True),
        ("Stra\u00dfe", "STRASSE", True),
        ("Bo\u200db", "bob", True),
        ("Bo\u00adb", "bob", True),
        ("a\u00a0b", "a b", True),
        ("\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3", True),
        ("Jurgen", "J\u00fcrgen", False),
        ("Bob", "\u0412ob", False),
    ]:
        assert (fold(one) == fold(other)) is same, (ascii(one), ascii(other))


def test_folding_twice_changes_nothing_more() -> None:
    every = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    changed = [letter for letter in every if unicodedata.normalize("NFKC", letter.casefold()) != letter]
    assert len(changed) > 5000
    for letter in changed:
        assert fold(fold(letter)) == fold(letter), ascii(letter)


def test_letters_of_other_scripts_look_like_latin_ones() -> None:
    for one, other, alike in [
        ("Robert", "R\u043ebert", True),
        ("ROBERT", "\u13a1\u041e\u0412\u0395\u13a1\u0422", True),
        ("coca", "\u0441\u043e\u0441\u0430", True),
        ("\u00eb", "\u0451", True),
        ("Mia", "M\u0456\u0430", True),
        ("agent-1", "agent-l", False),
        ("rn", "m", False),
        ("Robert", "R\u00f3bert", False),
        ("\u0411\u043e\u0431", "bob", False),
    ]:
        assert (looks.skeleton(fold(one)) == looks.skeleton(fold(other))) is alike, (ascii(one), ascii(other))
