"""Copies of a data folder: of one moment, whole, and made while a relay writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from clawlink.domain.delivery import Delivery
from clawlink.domain.file import Content, SharedFile
from clawlink.domain.task import Task
from clawlink.store.base import Put
from clawlink.store.sqlite import writer
from clawlink.store.sqlite.backup import copy_folder
from clawlink.store.sqlite.check import findings
from clawlink.store.sqlite.contents import file_name, place_of
from clawlink.store.sqlite.database import NAME, DataFolderError
from clawlink.store.sqlite.folder import DataFolder
from tests.store.contract import NOW, delivery, file, newer, put, task, written


async def share(data: DataFolder, key: str, content: bytes, scope: str = "") -> SharedFile:
    """Write a file as the relay does."""
    draft = data.blobs.draft()
    await draft.write(content)
    await draft.flush()
    kept = draft.keep(scope)
    shared = replace(file(key), versions=(replace_content(written(content), kept),))
    await put(data.store, shared)
    return shared


def replace_content(version: object, content: Content) -> object:
    return replace(version, content=content)  # type: ignore[type-var]


async def forget(data: DataFolder, shared: SharedFile) -> None:
    """Delete a file as the relay does."""
    await put(data.store, newer(shared, versions=()))
    data.blobs.release(shared.newest.content)


def looked_at(path: Path, how: str) -> str:
    """Return the first line of a check by SQLite."""
    db = sqlite3.connect(path)
    try:
        return str(db.execute(f"PRAGMA {how}(1)").fetchone()[0])
    finally:
        db.close()


async def content_of(data: DataFolder, content: Content) -> bytes:
    with data.blobs.open(content) as reading:
        found = b""
        while piece := await reading.read(len(found), 1 << 20):
            found += piece
        return found


async def test_a_copy_made_while_others_write_is_of_one_moment(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data", sync="normal")
    (data.path / "secret").write_text("s3cret")
    kept = await share(data, "kept", os.urandom(300_000), scope="kept")
    stop = asyncio.Event()

    async def write(box: str) -> None:
        """Move a message and a task together, and share a file that goes again."""
        n = 0
        while not stop.is_set():
            d, t = delivery(f"{box}{n}", box), task(f"{box}{n}", box)
            await data.store.commit(box, Put(d), Put(t))
            shared = await share(data, f"{box}{n}", f"{box} {n}".encode() * 100)
            await data.store.commit(box, Put(newer(d)), Put(newer(t)))
            await forget(data, shared)
            n += 1

    writing = [asyncio.create_task(write(box)) for box in ("mia", "eve", "otto")]
    copies = []
    for n in range(4):
        copies.append(tmp_path / f"copy{n}")
        copied = await asyncio.to_thread(copy_folder, data.path, copies[-1])
        assert copied.damaged == (), n
    stop.set()
    await asyncio.gather(*writing)
    data.close()
    counts = []
    for copy in copies:
        assert {found.status for found in findings(copy)} <= {"ok", "warn"}, list(findings(copy))
        assert (copy / "secret").read_text() == "s3cret"
        restored = copy.with_name(copy.name + "-restored")
        copy_folder(copy, restored)
        again = DataFolder(restored, sync="normal")
        assert again.blobs.missing == []
        assert await content_of(again, kept.newest.content)
        messages = {d.id: d.version for d in again.store.all(Delivery)}
        assert messages == {t.id: t.version for t in again.store.all(Task)}, "a commit is in the copy by half"
        counts.append(len(messages))
        again.close()
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_a_copy_needs_a_data_folder_and_a_place(tmp_path: Path) -> None:
    DataFolder(tmp_path / "data").close()
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    for source, target, why in (
        (full, tmp_path / "new", "is no data folder"),
        (tmp_path / "data", full, "is not empty"),
        (tmp_path / "data", full / "mine.txt", "is not empty"),
    ):
        with pytest.raises(DataFolderError, match=why):
            copy_folder(source, target)
    assert sorted(os.listdir(tmp_path)) == ["data", "full"]
    (tmp_path / "empty").mkdir()
    copy_folder(tmp_path / "data", tmp_path / "empty")
    DataFolder(tmp_path / "empty").close()


async def test_a_copy_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data", sync="normal")
    await share(data, "kept", b"kept")
    copy_folder(data.path, tmp_path / "copy")
    data.close()
    # Bytes 18 and 19 of a database say whether a reader needs a log beside it: 1 for no, 2 for yes.
    assert (tmp_path / "copy" / "clawlink.db").read_bytes()[18:20] == b"\1\1"
    assert sorted(os.listdir(tmp_path / "copy")) == ["clawlink.db", "contents"]
    copy_folder(tmp_path / "copy", tmp_path / "again")
    DataFolder(tmp_path / "again").close()


def test_a_copy_is_made_in_the_folder_itself_which_may_be_a_link_or_a_disk(tmp_path: Path) -> None:
    DataFolder(tmp_path / "data", sync="normal").close()
    (tmp_path / "empty").mkdir()
    if os.name == "posix":  # Windows makes links for administrators alone
        (tmp_path / "link").symlink_to(tmp_path / "empty")
        copy_folder(tmp_path / "data", tmp_path / "link")
        assert (tmp_path / "empty" / "clawlink.db").is_file()
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    number = disk.stat().st_ino
    copy_folder(tmp_path / "data", disk)
    assert disk.stat().st_ino == number, "where a disk begins, the folder cannot be replaced"
    DataFolder(disk).close()
    with pytest.raises(DataFolderError, match="is not empty"):
        copy_folder(tmp_path / "data", Path(tmp_path.anchor))


async def test_a_copy_that_was_broken_off_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataFolder(tmp_path / "data", sync="normal")
    await share(data, "kept", b"kept" * 1000)
    data.close()
    copy, empty = tmp_path / "copy", tmp_path / "empty"
    copy_folder(data.path, copy)
    os.rename(copy / "clawlink.db", copy / "clawlink.db.unfinished")  # as a kill leaves it
    before = sorted(os.listdir(copy))
    for use in (
        lambda: copy_folder(copy, tmp_path / "restored"),
        lambda: copy_folder(data.path, copy),
        lambda: DataFolder(copy),
    ):
        with pytest.raises(DataFolderError, match="broken off before it was whole; delete all that is in it"):
            use()
    (finding,) = findings(copy)
    assert (finding.status, "broken off" in finding.detail) == ("FAIL", True)
    assert sorted(os.listdir(copy)) == before
    assert not (tmp_path / "restored").exists()

    def failing(source: Path, target: Path) -> str:
        raise OSError(5, "the disk failed")

    empty.mkdir()
    monkeypatch.setattr("clawlink.store.sqlite.backup._copy_file", failing)
    for target in (empty, tmp_path / "new"):
        with pytest.raises(DataFolderError, match="the disk failed"):
            copy_folder(data.path, target)
    assert (os.listdir(empty), (tmp_path / "new").exists()) == ([], False), "what failed was not cleared away"


@pytest.mark.skipif(os.name != "posix", reason="Windows has access lists in place of modes")
async def test_all_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        data = DataFolder(tmp_path / "data")
        await share(data, "kept", b"kept")
        for name in ("clawlink.db", "clawlink.db-wal", "clawlink.db-shm"):
            (data.path / name).chmod(0o644)  # as an earlier version made them
        copy_folder(data.path, tmp_path / "copy")
        data.close()
        data = DataFolder(tmp_path / "data")
        await share(data, "more", b"more")
        for folder in (data.path, tmp_path / "copy"):
            modes = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
            assert {mode & 0o077 for mode in modes.values()} == {0}, modes
        assert {"clawlink.db-wal", "clawlink.db-shm", "lock"} <= set(os.listdir(data.path))
        data.close()
    finally:
        os.umask(before)


def test_a_relay_time_that_is_ahead_is_told_with_the_way_back(tmp_path: Path) -> None:
    for ahead, status, shown in ((0.0, "ok", "not ahead"), (60.0, "warn", "60 s ahead"), (3e8, "warn", "days ahead")):
        data = DataFolder(tmp_path / "data", sync="normal")
        data.store.keep_time(lambda ahead=ahead: time.time() + ahead)  # type: ignore[misc]
        data.close()  # notes the time
        (found,) = [one for one in findings(tmp_path / "data") if one.name == "time"]
        assert (found.status, shown in found.detail) == (status, True), (ahead, found)
        assert ahead == 0 or (found.fix is not None and "backup from before" in found.fix)


async def test_a_copy_of_several_moments_is_refused_and_one_of_a_stopped_relay_goes_on(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data", sync="normal")
    await put(data.store, *(delivery(f"d{n}", f"m{n % 7}", body=b"x" * 500) for n in range(100)))
    data.close()
    shutil.copytree(data.path, tmp_path / "before")
    data = DataFolder(tmp_path / "data", sync="normal")
    await put(data.store, *(newer(delivery(f"d{n}", f"m{n % 7}"), visible_at=NOW + n) for n in range(0, 100, 3)))
    data.close()
    before, after = (bytearray((tmp_path / name / NAME).read_bytes()) for name in ("before", "data"))
    refused = 0
    for page in range(4096, min(len(before), len(after)), 4096):
        mixed = after[:page] + before[page : page + 4096] + after[page + 4096 :]
        if mixed == after:
            continue
        folder = tmp_path / str(page)
        folder.mkdir()
        (folder / NAME).write_bytes(mixed)
        if looked_at(folder / NAME, "quick_check") != "ok":  # SQLite itself would notice
            continue
        if looked_at(folder / NAME, "integrity_check") == "ok":
            DataFolder(folder).close()
            continue
        for use in (
            lambda folder=folder: DataFolder(folder),
            lambda folder=folder: copy_folder(folder, tmp_path / "c"),
        ):
            with pytest.raises(DataFolderError, match="is damaged"):
                use()
        assert (folder / NAME).read_bytes() == mixed
        refused += 1
    assert refused, "no mixture has a damage that a quick look misses"
    shutil.copytree(data.path, tmp_path / "moved")
    for _ in range(2):
        moved = DataFolder(tmp_path / "moved")
        assert len(list(moved.store.all(Delivery))) == 100
        moved.close()


@pytest.mark.skipif(os.name != "posix", reason="on Windows a copy keeps the time of its file")
async def test_a_copy_that_is_put_back_over_the_old_file_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay was here two minutes ago by what the copy says, and the file changed just now."""
    monkeypatch.setattr(writer, "time", lambda: time.time() - 120)
    moments: list[bytes] = []
    for number in (0, 1):
        data = DataFolder(tmp_path / "data", sync="normal")
        data.store.keep_time(time.time)
        changed = [delivery(f"d{n}", f"m{n % 7}", body=b"x" * 500) for n in range(100)]
        await put(data.store, *(changed if number == 0 else [newer(d, visible_at=NOW + 1) for d in changed[::3]]))
        data.close()
        moments.append((data.path / NAME).read_bytes())
    before, after = moments
    database, refused = tmp_path / "data" / NAME, 0
    for page in range(4096, len(before), 4096):
        mixed = after[:page] + before[page : page + 4096] + after[page + 4096 :]
        database.write_bytes(mixed)
        if looked_at(database, "quick_check") == "ok" != looked_at(database, "integrity_check"):
            with pytest.raises(DataFolderError, match="is damaged"):
                DataFolder(database.parent)
            refused += 1
    assert refused, "no mixture has a damage that a quick look misses"
    database.write_bytes(after)
    data = DataFolder(database.parent)
    assert len(list(data.store.all(Delivery))) == 100
    data.close()


async def test_damage_is_found_and_named(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data", sync="normal")
    gone, cut, whole = [await share(data, key, key.encode() * 50_000) for key in ("gone", "cut", "whole")]
    await put(data.store, *(delivery(f"d{n}", body=b"x" * 500) for n in range(200)))
    data.close()
    contents = data.path / "contents"

    def place(shared: SharedFile) -> Path:
        return contents / place_of(file_name(shared.newest.content))

    def found(name: str) -> tuple[str, str]:
        (finding,) = [one for one in findings(data.path) if one.name == name]
        return finding.status, finding.detail

    assert [one.status for one in findings(data.path) if one.name != "sqlite"] == ["ok"] * 5
    orphan = contents / "ff" / ("ff" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    assert found("contents") == ("warn", "3 are there, and 1 more that no file has")
    place(gone).unlink()
    place(cut).write_bytes(b"cut")
    status, detail = found("contents")
    assert (status, "2 contents of files are missing" in detail) == ("FAIL", True), detail
    copied = copy_folder(data.path, tmp_path / "copy")
    assert set(copied.damaged) == {file_name(gone.newest.content), file_name(cut.newest.content)}
    opened = DataFolder(data.path)
    assert len(opened.blobs.missing) == 2
    assert any("2 contents of files are missing" in warning for warning in opened.warnings)
    with pytest.raises(KeyError), opened.blobs.open(gone.newest.content):
        pass
    draft = opened.blobs.draft()  # shared again, it is there again
    await draft.write(b"gone" * 50_000)
    await draft.flush()
    assert await content_of(opened, draft.keep()) == b"gone" * 50_000
    assert await content_of(opened, whole.newest.content) == b"whole" * 50_000
    opened.close()
    database = data.path / "clawlink.db"
    intact = database.read_bytes()
    database.write_bytes(intact[: 4096 * 6] + b"\xff" * 4096 + intact[4096 * 7 :])
    assert found("database")[0] == "FAIL"
    with pytest.raises(DataFolderError, match="damaged"):
        copy_folder(data.path, tmp_path / "another")
    assert not (tmp_path / "another").exists()
