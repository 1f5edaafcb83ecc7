"""Rules for new names and ids: forbidden characters, comparison, and letters that look alike."""

from __future__ import annotations

import itertools
import unicodedata

from clawlink.domain import skeletons
from clawlink.domain.agent import by_looks, fold, look_alike
from clawlink.domain.confusables import prototypes

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
        assert (skeletons.fault(text, spaces=True) is None) is in_name, ascii(text)
        assert (skeletons.fault(text, spaces=False) is None) is in_id, ascii(text)


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


def test_folding_twice_changes_nothing_more_in_any_order_of_signs() -> None:
    signs = "\u0345\u0301\u034f\u0327\u03b1\u0399\u1fb4\u1100\u1161\u11a8\u200d\u0130\u00df\ufb03\u00a0\u1e9e i"
    for some in itertools.product(signs, repeat=3):
        text = "".join(some)
        assert fold(fold(text)) == fold(text), ascii(text)


def test_names_that_look_like_each_other_are_known_in_both_directions() -> None:
    for one, other, alike in [
        # Letters of other scripts, small and capital
        ("Robert", "R\u043ebert", True),
        ("ROBERT", "\u13a1\u041e\u0412\u0395\u13a1\u0422", True),
        ("NASA", "\u039dASA", True),
        ("nasa", "\u039dASA", True),
        ("Nasa", "\u039d\u0391S\u0391", True),
        ("VASA", "\u03bdasa", True),
        ("lna", "\u13de\u039da", True),
        ("coca", "\u0421\u041e\u0421\u0410", True),
        ("Mia", "\u041cI\u0410", True),
        ("Alice", "A\u04cfice", True),
        ("ALICE", "A\u04cfice", True),
        ("AIice", "A\u04cfice", True),
        ("AIice", "A\u04c0ice", True),
        ("Bob", "B\u0585b", True),
        ("Alice", "\u1d00\u029f\u026a\u1d04\u1d07", True),
        ("Robert", "Robe\u0433\u0442", True),
        ("tim", "\u0442i\u043c", True),
        ("\u00eb", "\u0451", True),
        ("\u00f8re", "\u01ffre", False),
        # Not only Latin letters
        ("\u03a1\u03bf", "\u0420\u043e", True),
        ("\u53e3", "\u30ed", True),
        ("\u0641", "\ufed1", True),
        # Signs and digits
        ("agent-1", "agent\u20101", True),
        ("agent-1", "agent\u22121", True),
        ("node 5", "node \u0665", False),
        ("no", "n\u0665", True),
        ("2nd", "\ua75and", True),
        ("O'Neil", "O\u2019Neil", True),
        # ASCII
        ("Alice", "A1ice", True),
        ("Alice", "AIice", True),
        ("Alice", "A|ice", True),
        ("ALICE", "AIice", True),
        ("ICE", "lCE", True),
        ("ICE", "1CE", True),
        ("Bob", "B0b", True),
        ("BOB", "B0B", True),
        ("modern", "modem", True),
        ("modern", "MODEM", True),
        ("Wendy", "vvendy", True),
        # White space
        ("Ann Lee", "Ann  Lee", True),
        ("Ann Lee", "Ann \u2003\u00a0Lee", True),
        ("Ann Lee", "Ann\u1680Lee", True),
        ("Ann Lee", "AnnLee", False),
        # Other names
        ("HAL", "HAI", False),
        ("MAIL", "MALL", False),
        ("mail", "mall", False),
        ("Jurgen", "J\u00fcrgen", False),
        ("Robert", "R\u00f3bert", False),
        ("worker-1", "worker-2", False),
        ("worker-1", "worker-11", False),
        ("clawd", "dawd", False),
        ("\u0411\u043e\u0431", "bob", False),
    ]:
        case = (ascii(one), ascii(other))
        assert look_alike(one, other) is look_alike(other, one) is alike, case
        assert not alike or not set(by_looks(one)).isdisjoint(by_looks(other)), case


def test_what_is_added_that_cannot_be_seen_changes_no_look() -> None:
    """Variation selectors, fillers and whatever else is refused or ignored in new names."""
    every = [chr(code) for code in range(0x80, 0xE1000) if not 0xD800 <= code < 0xE000]
    hidden = [sign for sign in every if skeletons.seen(sign) == ""]
    assert {"\u034f", "\u115f", "\u180b", "\u2065", "\u2800", "\u3164", "\ufe0f", "\U000e0100", "\U0001d159"} <= {
        *hidden
    }
    for sign in hidden:
        text = f"Bo{sign}b"
        assert skeletons.fault(text, spaces=True) is not None or fold(text) == "bob", ascii(sign)
        assert by_looks(text) == by_looks("Bob"), ascii(sign)


def test_the_table_maps_no_ascii_letter_and_no_character_to_itself() -> None:
    table = prototypes()
    assert len(table) > 2500
    for sign, prototype in table.items():
        assert len(sign) == 1, ascii(sign)
        assert prototype not in ("", sign), ascii(sign)
        assert not sign.isalnum() or not sign.isascii() or sign == "0", ascii(sign)


def test_the_keys_of_names_that_are_stored_stay_as_they_are() -> None:
    """A relay with --data keeps these keys. A change of them must index the stored agents again."""
    for name, keys in [
        ("Ann  Lee", ["looks:ann \x01ee", "looks:ann 1ee"]),
        ("Mia", ["looks:rnia"]),
        ("ICE-0", ["looks:1ce-o", "looks:ice-o"]),
        ("\u039dASA", ["looks:nasa", "looks:vasa"]),
    ]:
        assert by_looks(name) == keys, name
