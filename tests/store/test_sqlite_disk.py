"""Disks without room, and disks that fail: what is answered holds, and the rest is refused for the right reason."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.store.base import Conflict, Failed, Full, Put
from clawlink.store.contents import LostWrites
from clawlink.store.sqlite.contents import FolderBlobs
from clawlink.store.sqlite.database import NAME
from clawlink.store.sqlite.folder import DataFolder
from clawlink.store.sqlite.room import RESERVE, Room, is_full
from clawlink.store.sqlite.store import SqliteStore
from tests.store.contract import delivery, drop, newer, put
from tests.torture.operations import (
    IOERR_FSYNC,
    IOERR_WRITE,
    SQLITE_FULL,
    SYNC,
    SYNC_FOLDER,
    WRITE,
    Operation,
    Refused,
    can_watch,
    watched,
)
from tests.waiting import until

pytestmark = pytest.mark.skipif(
    not can_watch(), reason="only Linux, with an open SQLite, lets operations of the disk be watched"
)


class Disk:
    """A disk that fails as it is told: ``failing`` are the operations, as kind and beginning of the path."""

    def __init__(self) -> None:
        self.failing: tuple[str, str] | None = None
        self.result = 0
        self.errno = errno.EIO
        self.is_failing: Callable[[], bool] = lambda: True

    def __call__(self, operation: Operation) -> None:
        if self.failing is None or (operation.kind, operation.path[: len(self.failing[1])]) != self.failing:
            return
        if not self.is_failing():
            return
        if operation.path.startswith(NAME):
            raise Refused(self.result)
        raise OSError(self.errno, os.strerror(self.errno))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk()
    with watched(tmp_path / "data", disk):
        yield disk


def failure(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    vars(error)["sqlite_errorcode"] = code
    return error


def test_no_room_is_told_from_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_full(OSError(number, "")), number
        assert not is_full(LostWrites(number, "")), "a failed fsync is never only a disk without room"
    assert not is_full(OSError(errno.EIO, ""))
    room = Room(tmp_path)
    assert not room.refuses()
    assert os.listdir(tmp_path) == []
    assert [room.is_full(failure(code)) for code in (13, 13 | 1 << 8, IOERR_WRITE, IOERR_FSYNC)] == [
        True, True, False, False,
    ]  # fmt: skip
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):

        def write(handle: int, data: bytes, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patches:
            patches.setattr(os, "write", write)
            found = [room.is_full(failure(code)) for code in (IOERR_WRITE, IOERR_FSYNC, 1)]
        assert found == [number != errno.EIO, False, False], os.strerror(number)


async def test_a_quota_and_a_limit_of_file_size_refuse_and_end_nothing(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    data = DataFolder(tmp_path / "data")
    await put(data.store, delivery("before"))
    disk.failing, disk.result = (WRITE, NAME), IOERR_WRITE  # SQLite's word for EDQUOT

    def write(handle: int, written: bytes) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patches:
        patches.setattr(os, "write", write)
        with pytest.raises(Full):
            await put(data.store, delivery("refused"))
    disk.failing = None
    assert (data.store.broken, await data.store.get(Delivery, "refused")) == (None, None)
    await put(data.store, delivery("after"))

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(file.stat().st_size for file in data.path.iterdir() if file.name.startswith(NAME))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 4096, old[1]))
    try:
        with pytest.raises(Full):
            await put(data.store, delivery("refused", body=b"x" * 2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert data.store.broken is None
    await put(data.store, delivery("refused"))
    data.close()
    again = DataFolder(tmp_path / "data")
    assert {d.id for d in again.store.all(Delivery)} == {"before", "after", "refused"}
    again.close()


async def test_a_folder_that_was_copied_opens_on_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    data = DataFolder(tmp_path / "first")
    await put(data.store, delivery("d"))
    data.close()
    shutil.copytree(tmp_path / "first", tmp_path / "data")
    disk.failing, disk.result = (WRITE, NAME), SQLITE_FULL
    for _ in range(2):
        data = DataFolder(tmp_path / "data")
        assert (await data.store.get(Delivery, "d"), data.store.broken) == (delivery("d"), None)
        data.close()


async def test_work_that_makes_room_goes_on_with_the_reserve_and_new_work_waits_for_it(tmp_path: Path) -> None:
    now = [1.0]
    room = Room(tmp_path, reserve=100_000, clock=lambda: now[0])
    assert room.keep()
    store = SqliteStore(tmp_path / NAME, room=room)
    await store.open()
    first, large = delivery("d1"), delivery("large", body=b"x" * 50_000)
    await put(store, first, large)
    assert room.spend()
    assert (room.low, (tmp_path / RESERVE).stat().st_size) == (True, 0)
    with pytest.raises(Full, match="the rest of it is for work that makes room"):
        await put(store, delivery("new"))
    with pytest.raises(Full):
        await put(store, newer(first, body=b"x" * 50_000))
    results = await asyncio.gather(
        store.commit("mia", Put(newer(first))),
        store.commit("mia", Put(delivery("d1"))),
        store.commit("mia", Put(delivery("answer"), ends_work=True)),
        store.commit("mia", Put(delivery("newer"))),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), Conflict, type(None), Full]
    await drop(store, large)
    now[0] += 1
    await put(store, delivery("new"))
    assert (room.low, (tmp_path / RESERVE).stat().st_size) == (False, 100_000)
    await store.close()


async def test_the_reserve_is_given_to_an_ack_and_not_to_a_message(tmp_path: Path, disk: Disk) -> None:
    data = DataFolder(tmp_path / "data")
    reserve = data.path / RESERVE
    await put(data.store, delivery("d"), delivery("e"))
    disk.failing, disk.result = (WRITE, NAME), SQLITE_FULL
    disk.is_failing = lambda: reserve.stat().st_size > 0
    with pytest.raises(Full):
        await put(data.store, delivery("new"))
    assert reserve.stat().st_size > 0
    results = await asyncio.gather(
        data.store.commit("mia", Put(delivery("new"))),
        data.store.commit("mia", Put(newer(delivery("d")))),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Full, type(None)]
    assert (reserve.stat().st_size, data.room.low) == (0, True)
    data.close()


async def test_an_fsync_that_failed_ends_all_writing_and_the_log_stays_as_the_disk_has_it(
    tmp_path: Path, disk: Disk
) -> None:
    places = ((SYNC, NAME + "-wal"), (SYNC_FOLDER, "contents"))
    for number, failing in enumerate(places):
        data = DataFolder(tmp_path / "data")
        await put(data.store, delivery(f"before{number}"))
        draft = data.blobs.draft()
        await draft.write(b"x" * 100)
        await draft.flush()
        draft.keep()
        disk.failing, disk.result = failing, IOERR_FSYNC
        with pytest.raises(Failed) as raised:
            await put(data.store, delivery(f"doubtful{number}"))
        assert not isinstance(raised.value, Full), failing
        disk.failing = None
        assert data.store.broken is not None, failing
        assert await data.store.health() == data.store.broken, failing
        with pytest.raises(Failed, match="start the relay again"):
            await put(data.store, delivery(f"later{number}"))
        log = (data.path / (NAME + "-wal")).read_bytes()
        database = (data.path / NAME).read_bytes()
        data.close()
        assert ((data.path / (NAME + "-wal")).read_bytes(), (data.path / NAME).read_bytes()) == (log, database), failing
    again = DataFolder(tmp_path / "data")
    there = {d.id for d in again.store.all(Delivery)}
    assert there - {"doubtful0", "doubtful1"} == {"before0", "before1"}
    again.close()


async def test_a_log_that_does_not_reach_the_disk_later_ends_all_writing(tmp_path: Path, disk: Disk) -> None:
    data = DataFolder(tmp_path / "data", sync="normal")
    await put(data.store, delivery("answered"))
    disk.failing, disk.result = (SYNC, NAME + "-wal"), IOERR_FSYNC

    await until(lambda: data.store.broken is not None)  # within a second
    disk.failing = None
    with pytest.raises(Failed, match="the log failed"):
        await put(data.store, delivery("later"))
    data.close()


async def test_contents_that_the_disk_lost_are_never_taken_for_good(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    blobs = FolderBlobs(folder)
    for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
        draft = blobs.draft()
        await draft.write(b"x" * 400_000)
        disk.failing, disk.errno = (SYNC, "incoming"), number
        with pytest.raises(LostWrites):
            await draft.flush()
        disk.failing = None  # the second fsync of a lost page says that all is well
        for again in (draft.flush, lambda draft=draft: draft.write(b"y" * 400_000)):
            with pytest.raises(LostWrites):
                await again()
        with pytest.raises(LostWrites):
            draft.keep()
        draft.discard()
        assert (blobs.used, os.listdir(folder / "incoming"), os.listdir(folder / "contents")) == (0, [], []), number
    blobs.close()
