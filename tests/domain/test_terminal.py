"""Texts of others become harmless, and lose nothing else."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from clawlink.domain.terminal import cell, lines
from tests.tables import each

EVERYTHING = st.text(st.characters(codec=None), max_size=60)


def acts(text: str) -> list[str]:
    """Return the characters that a terminal would act on or a reader would not see."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in INVISIBLE]


INVISIBLE = {chr(c) for c in [0xAD, 0x61C, 0x200B, 0x200F, 0x202E, 0x2066, 0x2069, 0xFEFF, 0xE0041]}


@given(EVERYTHING)
def test_a_cell_is_one_harmless_line(text: str) -> None:
    shown = cell(text)
    assert not acts(shown)
    assert len(shown.splitlines()) <= 1


@given(EVERYTHING)
def test_lines_are_harmless_but_for_tabs(text: str) -> None:
    for line in lines(text):
        assert not acts(line.replace("\t", ""))


@each(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\r\nc\rd", "a␤b␤c␍d"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x00\x07\x7f", "␀␇␡"),
        ("\x9b31m", "<U+009B>31m"),
        ("a\u202eb\u2066c", "a<U+202E>b<U+2066>c"),
        ("a\u2028b\u2029c", "a<U+2028>b<U+2029>c"),
        ("a\u200bb\ufeff", "a<U+200B>b<U+FEFF>"),
        ("\ud800", "<U+D800>"),
        ("\ufffe\ufdd0\U0010ffff", "<U+FFFE><U+FDD0><U+10FFFF>"),
        ("a\u200db\u200d, \u200c\u200d", "a<U+200D>b<U+200D>, <U+200C><U+200D>"),
        ("👩🏽\u200d💻 ❤\ufe0f\u200d🔥 می\u200cخواهم क्\u200dष", "👩🏽\u200d💻 ❤\ufe0f\u200d🔥 می\u200cخواهم क्\u200dष"),
        ("👩\u200d\u200d💻", "👩<U+200D><U+200D>💻"),
        ("\U000e0041", "<U+E0041>"),
        ("tab\there", "tab␉here"),
        ("[bold]not markup[/bold] :smile:", "[bold]not markup[/bold] :smile:"),
        ("Grüße, 日本, 👍🏽", "Grüße, 日本, 👍🏽"),
    ],
)
def test_each_character_is_shown_as_itself(text: str, shown: str) -> None:
    assert cell(text) == shown


def test_lines_keep_their_structure() -> None:
    assert lines("a\n\tb\r\n\nc\x0b") == ["a", "\tb", "", "c␋"]
