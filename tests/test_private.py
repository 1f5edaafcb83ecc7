"""Files for their owner only are written in one step, and a failure leaves nothing but what was there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from clawlink import private
from tests.restarting import Restarting
from tests.server.blobs import content, saved


def test_a_private_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    for data in (b"first, and longer", b"second"):
        private.write(path, data)
        assert path.read_bytes() == data
        assert sys.platform == "win32" or path.stat().st_mode & 0o777 == 0o600
    with private.Replacement(tmp_path, bytes(4096)) as new:
        new.fill(b"third")
        assert path.read_bytes() == b"second", "not in its place before it is told"
        new.put(path)
    with private.Replacement(tmp_path, b"given up"):
        pass

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="disk is full"):
                private.write(path, b"fourth")
        assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [("secret", b"third")], step


def test_windows_gets_time_to_let_go_of_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, path = tmp_path / "new", tmp_path / "path"
    new.write_bytes(b"new")
    refusals = [PermissionError("in use"), PermissionError("in use")]
    really = os.replace

    def refuse(*places: Path) -> None:
        if refusals:
            raise refusals.pop()
        really(*places)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(PermissionError):
            private.replace(new, path)
        patch.setattr(private, "_MAY_BE_IN_USE", True)
        private.replace(new, path)
    assert path.read_bytes() == b"new"


async def test_a_file_is_shared_though_another_program_reads_it_when_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarting = Restarting(tmp_path / "data")
    refusals = [PermissionError("in use"), PermissionError("in use")]
    really = os.replace

    def refuse(temporary: Path, path: Path) -> None:
        if "incoming" in temporary.parts and refusals:
            raise refusals.pop()
        really(temporary, path)

    try:
        relay = await restarting.begin()
        await relay.register("Ann", agent_id="a")
        monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(private, "_MAY_BE_IN_USE", True)
        assert await saved(relay, "k", b"x" * 100_000) == 1
        assert await content(relay, "k") == b"x" * 100_000
        assert not refusals
    finally:
        await restarting.end()


def test_all_moves_of_files_give_windows_that_time() -> None:
    """Moves on the event loop do not wait: ``patiently`` repeats the move of a whole content, one to be left stays."""
    code = Path(private.__file__).parent
    found = {
        file.relative_to(code).as_posix(): count
        for file in code.rglob("*.py")
        if (count := len(re.findall(r"\bos\.(?:replace|rename)\(", file.read_text("utf-8"))))
    }
    assert found == {"private.py": 1, "store/sqlite/contents.py": 3}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_no_other_account_may_write_to_a_new_folder_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private.make_folder(tmp_path / "a" / "b" / "c")
        private.make_folder(tmp_path / "a" / "b" / "c")
        private.make_folder(tmp_path / "d" / "e", 0o755)
    finally:
        os.umask(before)
    made = [tmp_path.joinpath(*names) for names in ("a", "ab", "abc", "d", "de")]
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o755, 0o755, 0o700, 0o755, 0o755]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        private.make_folder(tmp_path / "file" / "below")


def test_all_folders_are_made_that_way() -> None:
    """``mkdir(parents=True)`` gives the folders above the mode of the umask."""
    sources = Path(private.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if "parents=True" in path.read_text("utf-8")] == []
