"""Contents below a folder: as those in memory, and there after a restart."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from clawlink.domain.file import Content
from clawlink.store.bodies import PIECE_BYTES
from clawlink.store.sqlite.contents import FolderBlobs, listed
from clawlink.store.sqlite.drafts import FolderDraft
from tests.waiting import until

SIZES = (0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 17)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[FolderBlobs]:
    blobs = FolderBlobs(tmp_path)
    yield blobs
    blobs.close()


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def write(draft: FolderDraft, data: bytes, step: int = 50_000) -> None:
    for at in range(0, len(data), step):
        await draft.write(data[at : at + step])


async def keep(blobs: FolderBlobs, data: bytes, scope: str = "", step: int = 50_000) -> Content:
    draft = blobs.draft()
    await write(draft, data, step)
    await draft.flush()
    return draft.keep(scope)


async def read(blobs: FolderBlobs, content: Content, step: int = 100_000) -> bytes:
    with blobs.open(content) as body:
        found = b""
        while piece := await body.read(len(found), step):
            assert len(piece) <= step
            found += piece
        return found


async def test_what_was_written_is_read_and_is_there_after_a_restart(blobs: FolderBlobs, tmp_path: Path) -> None:
    kept = []
    for size in SIZES:
        for step in (7_001, PIECE_BYTES, 10 * PIECE_BYTES):
            content = await keep(blobs, some(size), step=step)
            assert content == Content(hashlib.sha256(some(size)).hexdigest(), size), (size, step)
            assert await read(blobs, content) == some(size), (size, step)
            kept.append(content)
    assert blobs.used == sum(SIZES)
    assert os.listdir(tmp_path / "incoming") == []
    again = FolderBlobs(tmp_path, kept)
    assert again.used == sum(SIZES)
    for content in kept:
        assert await read(again, content) == some(content.size)
        again.release(content)
    assert (again.used, listed(tmp_path)) == (0, {})


async def test_equal_contents_of_a_scope_are_one_file_and_a_reader_has_it_to_the_end(
    blobs: FolderBlobs, tmp_path: Path
) -> None:
    data = some(2 * PIECE_BYTES)
    first, second, apart = [await keep(blobs, data, scope) for scope in ("", "", "mine")]
    assert (first == second, len(listed(tmp_path)), blobs.used) == (True, 2, 2 * len(data))
    assert list(blobs.freeing([first, apart, second])) == [0, len(data), len(data)]
    with blobs.open(first) as body:
        blobs.release(first)
        blobs.release(second)
        assert await body.read(PIECE_BYTES, 10) == data[PIECE_BYTES : PIECE_BYTES + 10]
    with pytest.raises(KeyError), blobs.open(first):
        pass
    assert await read(blobs, apart) == data
    assert len(listed(tmp_path)) == 1


async def test_a_draft_goes_back_is_given_up_or_is_cancelled_and_stays_true(blobs: FolderBlobs, tmp_path: Path) -> None:
    for size, more in ((1000, 2000), (1000, 2 * PIECE_BYTES), (2 * PIECE_BYTES, 10), (2 * PIECE_BYTES, PIECE_BYTES)):
        draft = blobs.draft()
        await write(draft, some(size))
        mark = draft.mark()
        await write(draft, some(more, seed=2))
        draft.back_to(mark)
        assert draft.size == blobs.used == size
        await write(draft, some(more, seed=3))
        await draft.flush()
        content = draft.keep()
        assert await read(blobs, content) == some(size) + some(more, seed=3), (size, more)
        blobs.release(content)
    draft = blobs.draft()
    await write(draft, some(2 * PIECE_BYTES))
    draft.discard()
    assert blobs.used == 0
    await until(lambda: not os.listdir(tmp_path / "incoming"))  # a thread removes large contents
    for turns in range(4):  # cancelled while a thread writes: what is on the disk is what is counted
        draft = blobs.draft()
        await write(draft, some(100))
        writing = asyncio.ensure_future(draft.write(some(PIECE_BYTES, seed=4)))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        there = some(100) + some(PIECE_BYTES, seed=4) * (draft.size > 100)
        assert (draft.size, draft.digest) == (len(there), hashlib.sha256(there).hexdigest())
        await draft.flush()
        content = draft.keep()
        assert await read(blobs, content) == there, turns
        blobs.release(content)
    assert blobs.used == 0


class _Full:
    """Stands for a file on a disk that has no room left after some bytes."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self._file = file
        self.room = room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._file.write(data[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


async def test_several_pieces_are_one_write_which_takes_all_or_nothing(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[_Full] = []
    real = os.fdopen

    def opened(*given: Any) -> _Full:
        files.append(_Full(real(*given), 3 * PIECE_BYTES))
        return files[-1]

    monkeypatch.setattr(os, "fdopen", opened)
    draft = blobs.draft()
    await draft.write(b"a", b"", b"b" * 9)
    await draft.write(some(PIECE_BYTES), some(100, seed=2))
    there = b"a" + b"b" * 9 + some(PIECE_BYTES) + some(100, seed=2)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            await draft.write(some(PIECE_BYTES), some(2 * PIECE_BYTES, seed=3))
        assert (draft.size, draft.digest, blobs.used) == (len(there), hashlib.sha256(there).hexdigest(), len(there))
    files[0].room = 3 * PIECE_BYTES
    await draft.write(some(PIECE_BYTES, seed=4), some(PIECE_BYTES, seed=5))
    there += some(PIECE_BYTES, seed=4) + some(PIECE_BYTES, seed=5)
    await draft.flush()
    assert await read(blobs, content := draft.keep()) == there
    assert content.digest == hashlib.sha256(there).hexdigest()


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice about files")
async def test_bytes_begin_to_go_to_the_disk_while_more_of_them_come(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def advise(handle: int, start: int, size: int, advice: int) -> None:
        begun.append((start, size))
        real(handle, start, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    mib = 1024 * 1024
    draft = blobs.draft()
    for _ in range(6):
        await draft.write(some(mib // 2))
    assert begun == [(0, mib), (mib, mib), (2 * mib, mib)]
    await draft.write(some(mib // 2))
    await draft.flush()  # what is there is clean: an advice about it would drop it from the cache
    await draft.write(some(mib))
    assert begun[3:] == [(3 * mib + mib // 2, mib)]
    mark = draft.mark()
    await draft.write(some(mib))
    draft.back_to(mark)
    await draft.write(some(mib, seed=2))
    assert begun[4:] == [(4 * mib + mib // 2, mib)] * 2
    assert await read(blobs, draft.keep()) == some(mib // 2) * 7 + some(mib) + some(mib, seed=2)


async def test_a_disk_without_room_leaves_the_draft_as_it_was(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = blobs.draft()
    await write(draft, some(PIECE_BYTES))
    before = (draft.size, draft.digest)
    incoming = blobs.draft()
    os.mkdir(incoming._path)  # to the draft the same as a disk without room: its file cannot be made
    with pytest.raises(OSError, match="exists"):
        await incoming.write(some(PIECE_BYTES))
    assert (incoming.size, blobs.used) == (0, PIECE_BYTES)
    incoming.discard()
    assert (draft.size, draft.digest) == before
    draft.discard()


async def test_names_are_put_on_the_disk_before_a_commit(blobs: FolderBlobs) -> None:
    assert blobs._unsynced
    blobs.sync_names()
    content = await keep(blobs, b"x")
    assert {folder.name for folder in blobs._unsynced} == {"contents", content.digest[:2]}
    blobs.sync_names()
    assert blobs._unsynced == set()
