"""Any name of a file is one plain name here, and a path of others stays below its folder."""

from __future__ import annotations

import ntpath
import os
import posixpath
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawlink.client.files.safe_paths import link_within, parts_within, safe_name
from tests.client.attacks import NAMES
from tests.tables import each

_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"}
_NUMBERED = {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"}


def require_plain(name: str) -> None:
    """Fail unless a name is one anywhere, and nothing but a name."""
    assert name
    assert posixpath.basename(name) == ntpath.basename(name) == name
    assert not posixpath.isabs(name)
    assert not ntpath.isabs(name)
    assert not ntpath.splitdrive(name)[0]
    assert not set(name) & set('<>:"/\\|?*')
    assert name[0] not in ".-~ "
    assert name[-1] not in ". "
    assert name.partition(".")[0].strip().lower() not in _DEVICES | _NUMBERED
    assert len(name.encode()) <= 220
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


def test_there_are_many_attacks() -> None:
    assert len(set(NAMES)) >= 60


@each("name", NAMES, ids=ascii)
def test_no_name_is_more_than_a_name(name: str, tmp_path: Path) -> None:
    made = safe_name(name)
    require_plain(made)
    inside = tmp_path / "inside"
    inside.mkdir(exist_ok=True)
    (inside / made).write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in inside.iterdir()] == [made]
    (inside / made).unlink()


@given(st.text(max_size=300))
def test_no_text_at_all_is_more_than_a_name(name: str) -> None:
    require_plain(safe_name(name))


@given(st.text(max_size=50))
def test_a_safe_name_stays_as_it_is(name: str) -> None:
    made = safe_name(name)
    assert safe_name(made) == made


KEPT = [
    "report.pdf",
    "Bericht für März.odt",
    "\u6587\u66f8.txt",
    "a.tar.gz",
    "x",
    "no suffix",
    "CONTENT",
    "com10",
    "a'b",
]


@each("name", KEPT)
def test_a_harmless_name_is_kept(name: str) -> None:
    assert safe_name(name) == name
    assert safe_name(f"some/folder/{name}") == name
    assert safe_name(f"some\\folder\\{name}") == name


def test_what_is_cut_keeps_its_suffix() -> None:
    made = safe_name("x" * 300 + ".pdf")
    assert made.endswith("x.pdf")
    assert safe_name("", "attachment") == "attachment"


@each("windows", [False, True])
@each("path", NAMES, ids=ascii)
def test_a_path_stays_inside_or_is_refused(path: str, windows: bool, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    try:
        parts = parts_within(path, windows=windows)
    except ValueError:
        return
    joined = os.path.normpath(os.path.join(inside, *parts))
    assert joined == str(inside) or joined.startswith(str(inside) + os.sep)
    as_windows = ntpath.normpath(ntpath.join("C:\\inside", *parts))
    if windows:
        assert as_windows == "C:\\inside" or as_windows.startswith("C:\\inside\\")
        for part in parts:
            assert part.partition(".")[0].strip().lower() not in _DEVICES | _NUMBERED


REFUSED = [
    "",
    "/x",
    "\\x",
    "..",
    "a/../b",
    "../a",
    "C:x",
    "c:/x",
    "a\x00",
    "a/\x1b[m",
    "a\\..\\b",
    "x" * 256,
    "a\u202eb",
]


@each("windows", [False, True])
@each("path", REFUSED, ids=ascii)
def test_a_path_that_nobody_gives_in_good_faith_is_refused_everywhere(path: str, windows: bool) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|leads|ends) "):
        parts_within(path, windows=windows)


@each("path", ["ab:c", "aux.c", "x.", "x ", "a\\b", "lpt1/x"])
def test_what_is_dangerous_on_windows_only_is_refused_there_only(path: str) -> None:
    assert parts_within(path, windows=False) == tuple(path.split("/"))
    with pytest.raises(ValueError, match=r"^(is|has|leads|ends) "):
        parts_within(path, windows=True)


def test_a_path_is_read_as_everywhere() -> None:
    assert parts_within("./a//b/./c/") == ("a", "b", "c")
    assert parts_within("./") == ()
    assert parts_within("...", windows=False) == ("...",)


LINKS = [
    ("/etc/passwd", 1),
    ("../x", 1),
    ("../../x", 2),
    ("a/../../x", 1),
    ("..", 1),
    ("", 3),
    ("a\x00", 2),
    ("C:\\x", 3),
]


@each(("target", "depth"), LINKS)
def test_a_link_that_leads_out_is_refused(target: str, depth: int) -> None:
    with pytest.raises(ValueError, match="link"):
        link_within(("d",) * depth, target, windows=False)
    with pytest.raises(ValueError, match="link"):
        link_within(("d",) * depth, target, windows=True)


@each(("target", "depth"), [("x", 1), ("../x", 2), ("a/../b", 1), ("../../x/y", 3), (".", 1)])
def test_a_link_that_stays_inside_is_taken(target: str, depth: int) -> None:
    link_within(("d",) * depth, target)


def test_on_windows_a_backslash_in_a_link_is_a_step() -> None:
    with pytest.raises(ValueError, match="leads out"):
        link_within(("d",), "a\\..\\..\\x", windows=True)
