"""A written file is there whole or not at all, in the place asked for and nowhere else."""

from __future__ import annotations

import errno
import io
import itertools
import linecache
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from clawlink.client.files import atomic_files
from clawlink.client.files.atomic_files import AtomicFile, Flow, Source
from clawlink.errors import BadRequest


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_it_is_there_once_it_is_kept(tmp_path: Path) -> None:
    atomic_files = AtomicFile(tmp_path / "target")
    atomic_files.write(b"so")
    assert "target" not in names(tmp_path)
    atomic_files.write(b" far")
    atomic_files.keep()
    atomic_files.drop()
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_bytes() == b"so far"


def interruptions(work: Callable[[], object], code: str) -> Iterator[str]:
    """Interrupt the work once at each line that it runs of a file of ours; yield the line."""
    for at in itertools.count():
        met: list[str] = []

        def trace(frame: FrameType, event: str, _: Any, met: list[str] = met, at: int = at) -> Any:
            if frame.f_code.co_filename != code:
                return None
            if event == "line":
                met.append(f"{frame.f_lineno}: {linecache.getline(code, frame.f_lineno).strip()}")
                if len(met) == at + 1:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        if len(met) <= at:
            return
        yield met[-1]


def test_an_interrupt_at_any_moment_leaves_the_whole_file_or_none(tmp_path: Path) -> None:
    held: list[AtomicFile] = []

    def work() -> None:
        held.append(AtomicFile(tmp_path / "target"))
        held[-1].write(b"whole")
        held[-1].keep()

    lines = 0
    for line in interruptions(work, atomic_files.__file__):
        for one in held:
            one.drop()
        there = names(tmp_path)
        assert there in ([], ["target"]), line
        if there:
            assert (tmp_path / "target").read_bytes() == b"whole", line
            (tmp_path / "target").unlink()
        held.clear()
        lines += 1
    assert lines > 30


def test_what_is_dropped_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    atomic_files = AtomicFile(tmp_path / "target")
    atomic_files.write(b"new")
    atomic_files.drop()
    atomic_files.drop()
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_bytes() == b"old"


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    AtomicFile(tmp_path / "target").keep()
    assert (tmp_path / "target").read_bytes() == b""


def test_it_can_begin_again(tmp_path: Path) -> None:
    atomic_files = AtomicFile(tmp_path / "target")
    atomic_files.write(b"a long beginning")
    assert atomic_files.restart()
    atomic_files.write(b"new")
    atomic_files.keep()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_failure_while_it_is_put_there_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    atomic_files = AtomicFile(target)
    atomic_files.write(b"new")

    def fail(*args: object) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="on fire"):
        atomic_files.keep()
    atomic_files.drop()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["target"]


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="name the file"):
        AtomicFile(tmp_path)
    with pytest.raises(FileNotFoundError):
        AtomicFile(tmp_path / "nowhere" / "target").write(b"")


@pytest.mark.skipif(os.name != "posix", reason="needs links, modes and devices")
def test_a_link_stays_a_link_a_mode_a_mode_and_a_device_a_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    atomic_files = AtomicFile(link)
    atomic_files.write(b"new")
    atomic_files.keep()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    device = AtomicFile(os.devnull)
    device.write(b"new")
    assert not device.restart()
    device.keep()
    device.drop()
    assert not os.path.isfile(os.devnull)


def test_a_file_object_is_written_from_where_it_is() -> None:
    file = io.BytesIO(b"before")
    file.seek(0, io.SEEK_END)
    flow = Flow(file)
    flow.write(b" a long beginning")
    assert flow.restart()
    flow.write(b" end")
    flow.keep()
    flow.drop()
    assert file.getvalue() == b"before end"


def test_what_cannot_be_taken_back_is_said() -> None:
    class Pipe:
        def write(self, data: bytes) -> None: ...

    flow = Flow(Pipe())
    assert not flow.restart()
    flow.keep()


def test_a_source_is_read_to_its_end_however_little_comes_at_once() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 3))

    source = Source(Slow(b"abcdefgh"))
    assert source.read(5) == b"abcde"
    assert source.read(5) == b"fgh"
    assert source.read(5) == b""


def test_a_source_that_gives_text_or_nothing_is_refused() -> None:
    with pytest.raises(BadRequest, match="for reading bytes"):
        Source(io.StringIO("text")).read(3)
    with pytest.raises(BadRequest, match="file object"):
        Source(b"bytes")


def test_a_source_begins_where_the_object_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"head|body")
    with open(tmp_path / "file", "rb") as file:
        file.seek(5)
        source = Source(file)
        assert source.measure().size == 4
        source.seek(2)
        assert source.read(9) == b"dy"
        source.close()
        assert not file.closed


def test_what_was_left_behind_by_who_was_killed_is_removed_a_day_later(tmp_path: Path) -> None:
    left = {
        "stale": ".target.0123456789ab.part",
        "of another target": ".other.0123456789ab.part",
        "of somebody who writes now": ".target.aaaaaaaaaaaa.part",
        "no such thing": ".target.notes.part",
    }
    for what, name in left.items():
        (tmp_path / name).write_bytes(b"half")
        if what != "of somebody who writes now":
            os.utime(tmp_path / name, (1, 1))
    atomic_files = AtomicFile(tmp_path / "target")
    atomic_files.write(b"new")
    atomic_files.keep()
    assert names(tmp_path) == sorted(["target", *list(left.values())[1:]])


def test_what_fails_names_the_path_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        AtomicFile("nowhere/target").write(b"")
    assert missing.value.filename == "nowhere/target"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    atomic_files = AtomicFile("target")
    with pytest.raises(OSError, match="space") as refused:
        atomic_files.keep()
    atomic_files.drop()
    assert refused.value.filename == "target"
