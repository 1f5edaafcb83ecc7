"""Two changes in one text: what only one side changed is taken, what both changed is asked, and nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawlink.client.files.merge import END, OURS, THEIRS, has_markers, merge, split
from tests.effort import size
from tests.tables import each

BASE = "one\ntwo\nthree\nfour\nfive\n"
CLEAN = {
    "only ours": ("one\nTWO\nthree\nfour\nfive\n", BASE, "one\nTWO\nthree\nfour\nfive\n"),
    "only theirs": (BASE, "one\ntwo\nthree\nfour\n5\n", "one\ntwo\nthree\nfour\n5\n"),
    "nobody": (BASE, BASE, BASE),
    "apart": ("ONE\ntwo\nthree\nfour\nfive\n", "one\ntwo\nthree\nfour\nFIVE\n", "ONE\ntwo\nthree\nfour\nFIVE\n"),
    "the same": ("one\n2\nthree\nfour\nfive\n", "one\n2\nthree\nfour\nfive\n", "one\n2\nthree\nfour\nfive\n"),
    "the same and more": (
        "one\n2\nthree\nfour\nfive\n",
        "one\n2\nthree\nfour\nfive\nsix\n",
        "one\n2\nthree\nfour\nfive\nsix\n",
    ),
    "added at both ends": ("zero\n" + BASE, BASE + "six\n", "zero\n" + BASE + "six\n"),
    "removed and added": ("one\nthree\nfour\nfive\n", BASE + "six\n", "one\nthree\nfour\nfive\nsix\n"),
    "the last line loses its end": (BASE[:-1], "ONE\n" + BASE[4:], "ONE\ntwo\nthree\nfour\nfive"),
    "all removed by one": ("", BASE, ""),
}


@each(("ours", "theirs", "both"), CLEAN.values(), ids=CLEAN)
def test_what_only_one_side_changed_is_taken(ours: str, theirs: str, both: str) -> None:
    assert merge(BASE, ours, theirs) == (both, 0)
    assert merge(BASE, theirs, ours) == (both, 0)


def test_what_both_changed_stands_between_markers() -> None:
    text, conflicts = merge(BASE, "one\nII\nthree\nfour\nfive\n", "one\n2\nthree\nfour\nFIVE\n", names=("me", "her"))
    assert text == f"one\n{OURS} me\nII\n{THEIRS}\n2\n{END} her\nthree\nfour\nFIVE\n"
    assert conflicts == 1
    assert has_markers(text, ("me", "her"))


def test_a_conflict_is_no_larger_than_it_must_be() -> None:
    text, _ = merge("a\nb\nc\n", "a\nsame\nmine\nend\n", "a\nsame\nhers\nend\n")
    assert text == f"a\nsame\n{OURS} ours\nmine\n{THEIRS}\nhers\n{END} theirs\nend\n"


def test_markers_begin_a_line_of_their_own_even_after_a_last_line_without_an_end() -> None:
    text, conflicts = merge("a", "b", "c")
    assert text == f"{OURS} ours\nb\n{THEIRS}\nc\n{END} theirs\n"
    assert conflicts == 1


def test_markers_end_as_the_lines_around_them() -> None:
    text, _ = merge("a\r\n", "b\r\n", "c\r\n")
    assert text.count("\r\n") == text.count("\n") == 5


def test_changed_and_removed_is_a_conflict() -> None:
    assert merge(BASE, "one\nthree\nfour\nfive\n", "one\nTWO\nthree\nfour\nfive\n").conflicts == 1


def test_a_text_about_conflicts_is_not_taken_for_one() -> None:
    about = f"{OURS} HEAD\na\n{THEIRS}\nb\n{END} main\n"
    assert not has_markers(about, ("yours", "version 3"))
    text, conflicts = merge(about, about + "x\n", "y\n" + about)
    assert (text, conflicts) == ("y\n" + about + "x\n", 0)
    assert not has_markers(text, ("ours", "theirs"))


@each("text", ["a\x0bb\x0cc\x85d\u2028e", "a\rb", "\n\n", "x", ""])
def test_only_a_line_feed_ends_a_line(text: str) -> None:
    assert "".join(split(text)) == text
    assert len(split(text)) == text.count("\n") + (not text.endswith("\n") and text != "")


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n", "\n", "}\n"]), max_size=12)


@st.composite
def edited(draw: st.DrawFn, base: list[str], mark: str) -> list[str]:
    """Change a text as an editor would: some lines go, others come, each new one like no other."""
    result: list[str] = []
    for number, line in enumerate([*base, ""]):
        for extra in range(draw(st.integers(0, 2)) if draw(st.booleans()) else 0):
            result.append(f"{mark}{number}.{extra}\n")
        if line and draw(st.integers(0, 4)) != 0:
            result.append(line)
    return result


@st.composite
def three(draw: st.DrawFn) -> tuple[list[str], list[str], list[str]]:
    base = draw(LINES)
    return base, draw(edited(base, "mine")), draw(edited(base, "hers"))


@given(three())
@settings(max_examples=size(100, 400))
def test_no_line_that_someone_added_is_lost(texts: tuple[list[str], list[str], list[str]]) -> None:
    base, mine, hers = texts
    merged = Counter(split(merge("".join(base), "".join(mine), "".join(hers)).text))
    for line in (set(mine) | set(hers)) - set(base):
        assert merged[line] == 1
    # And what neither took out is there still.
    for line in set(mine) & set(hers):
        if base.count(line) == 1:
            assert merged[line] >= 1


@given(three())
@settings(max_examples=size(50, 200))
def test_who_merges_with_whom_makes_no_difference(texts: tuple[list[str], list[str], list[str]]) -> None:
    base, mine, hers = ("".join(lines) for lines in texts)
    one, other = merge(base, mine, hers), merge(base, hers, mine)
    assert one.conflicts == other.conflicts
    if not one.conflicts:
        assert one.text == other.text


@given(three())
@settings(max_examples=size(50, 200))
def test_merging_again_changes_nothing(texts: tuple[list[str], list[str], list[str]]) -> None:
    base, mine, hers = ("".join(lines) for lines in texts)
    merged = merge(base, mine, hers)
    if not merged.conflicts:
        assert merge(hers, merged.text, hers).text == merged.text
        assert merge(mine, merged.text, mine).text == merged.text


@given(st.text("ab\n", max_size=30), st.text("ab\n", max_size=30), st.text("ab\n", max_size=30))
def test_any_three_texts_merge(base: str, mine: str, hers: str) -> None:
    merged = merge(base, mine, hers)
    assert (merged.conflicts > 0) == has_markers(merged.text, ("ours", "theirs"))


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git, to compare with")
@pytest.mark.parametrize(("ours", "theirs", "both"), CLEAN.values(), ids=CLEAN)
def test_it_is_as_git_does(tmp_path: Path, ours: str, theirs: str, both: str) -> None:
    paths = []
    for name, text in (("ours", ours), ("base", BASE), ("theirs", theirs)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(text.encode())
    done = subprocess.run(["git", "merge-file", "-p", *map(str, paths)], capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, both)


ALIKE = {
    "the same after a line like it": (
        "c\nl1\n}\na\n",
        "}\nc\nm\nl1\n}\n\n}\na\n",
        "c\nl1\n}\n\n}\na\n",
    ),
    "both at the end, after a blank line": ("a\n\n\n", "b\na\n\n\nx\n", "a\n}\n\n\n}\n\n"),
    "a blank line added before others": ("a\n\nb\n", "\na\n\n\nb\n", "a\n\n\nb\nc\n"),
    "one of two removed": ("a\nd\nd\nc\ne\n", "a\nd\nc\ne\nf\n", "b\na\nd\nc\ne\n"),
    "removed by one, added to by the other": ("a\n}\n}\nb\n", "a\n}\nb\n", "a\n}\n}\n}\nb\n"),
}


def as_git(folder: Path, base: str, ours: str, theirs: str) -> tuple[bool, str]:
    """Have git merge: whether that went without a conflict, and what came of it."""
    paths = []
    for name, text in (("ours", ours), ("base", base), ("theirs", theirs)):
        paths.append(folder / name)
        paths[-1].write_bytes(text.encode())
    labels = ["-L", "ours", "-L", "base", "-L", "theirs"]
    done = subprocess.run(["git", "merge-file", "-p", *labels, *map(str, paths)], capture_output=True, check=False)
    return done.returncode == 0, done.stdout.decode()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git, to compare with")
@pytest.mark.parametrize(("base", "ours", "theirs"), ALIKE.values(), ids=ALIKE)
def test_lines_that_are_alike_are_taken_for_the_same_as_git_does(
    tmp_path: Path, base: str, ours: str, theirs: str
) -> None:
    merged = merge(base, ours, theirs)
    assert (merged.conflicts == 0, merged.text) == as_git(tmp_path, base, ours, theirs)


def test_a_blank_line_that_both_added_comes_once() -> None:
    base, ours, theirs = ALIKE["the same after a line like it"]
    assert merge(base, ours, theirs) == (ours, 0)
