"""Contents: equal ones once, kept while somebody holds or reads them, in memory or on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawlink.domain.file import Content
from clawlink.store.blobs import LocalBlobs, LocalDraft
from clawlink.store.bodies import PIECE_BYTES, OnDisk, require_folder

SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 17, 37 * PIECE_BYTES + 5]


@pytest.fixture(params=["memory", "disk"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBlobs]:
    blobs = LocalBlobs() if request.param == "memory" else LocalBlobs(str(tmp_path), spool_above=PIECE_BYTES)
    yield blobs
    blobs.close()
    assert os.listdir(tmp_path) == []


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def write(draft: LocalDraft, data: bytes, step: int = 50_000) -> None:
    for at in range(0, len(data), step):
        await draft.write(data[at : at + step])


async def keep(blobs: LocalBlobs, data: bytes, step: int = 50_000) -> Content:
    draft = blobs.draft()
    await write(draft, data, step)
    return draft.keep()


async def read(blobs: LocalBlobs, content: Content, step: int = 1 << 20) -> bytes:
    with blobs.open(content) as body:
        found = b""
        while piece := await body.read(len(found), step):
            assert len(piece) <= step
            found += piece
        return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [7_001, PIECE_BYTES, 10 * PIECE_BYTES])
async def test_what_was_written_is_read_and_is_named_by_its_digest(blobs: LocalBlobs, size: int, step: int) -> None:
    data = some(size)
    content = await keep(blobs, data, step)
    assert content == Content(hashlib.sha256(data).hexdigest(), size)
    assert await read(blobs, content) == data
    assert blobs.used == size


async def test_any_range_can_be_read(blobs: LocalBlobs) -> None:
    data = some(40 * PIECE_BYTES + 1_000)
    content = await keep(blobs, data, 99_999)
    chance = random.Random(2)
    with blobs.open(content) as body:
        for _ in range(300):
            start, size = chance.randrange(len(data) + 10), chance.randrange(1, PIECE_BYTES)
            piece = await body.read(start, size)
            assert piece == data[start : start + len(piece)]
            assert bool(piece) == (start < len(data))


async def test_equal_contents_are_kept_once(blobs: LocalBlobs) -> None:
    data = some(2 * PIECE_BYTES)
    first, second = await keep(blobs, data), await keep(blobs, data, 1_000)
    assert first == second
    assert blobs.used == len(data)
    blobs.release(first)
    assert await read(blobs, second) == data
    blobs.release(second)
    assert blobs.used == 0
    with pytest.raises(KeyError), blobs.open(second):
        pass


async def test_letting_go_frees_what_nobody_else_has(blobs: LocalBlobs) -> None:
    data, other = some(2 * PIECE_BYTES), some(1_000, seed=2)
    first, second, third = await keep(blobs, data), await keep(blobs, data), await keep(blobs, other)
    assert list(blobs.freeing([first])) == [0]
    assert list(blobs.freeing([third, first, second])) == [len(other), 0, len(data)]
    with blobs.open(third):
        assert list(blobs.freeing([third])) == [0]
    assert list(blobs.freeing([Content("0" * 64, 5)])) == [0]
    blobs.hold(third)
    assert list(blobs.freeing([third, third])) == [0, len(other)]


async def test_a_draft_that_was_kept_holds_none_of_it_itself(blobs: LocalBlobs) -> None:
    draft = blobs.draft()
    await write(draft, some(PIECE_BYTES - 1))
    content = draft.keep()
    assert draft._gathered == []
    assert draft.size == content.size == PIECE_BYTES - 1
    assert await read(blobs, content) == some(PIECE_BYTES - 1)


async def test_a_reader_has_it_to_the_end_even_if_it_is_let_go_of(blobs: LocalBlobs) -> None:
    data = some(2 * PIECE_BYTES)
    content = await keep(blobs, data)
    with blobs.open(content) as body:
        blobs.release(content)
        assert blobs.used == len(data)  # it still takes its room
        assert (await body.read(PIECE_BYTES, 10)) == data[PIECE_BYTES : PIECE_BYTES + 10]
    assert blobs.used == 0


async def test_memory_counts_whole_slabs_and_spare_ones_and_nothing_on_the_disk(tmp_path: Path) -> None:
    data = some(40 * PIECE_BYTES)
    blobs = LocalBlobs()
    small, large = await keep(blobs, some(100, seed=3)), await keep(blobs, data)
    slab = 4 * 2**20
    assert len(data) + 100 < blobs.memory < len(data) + slab + 10_000
    blobs.release(large)
    blobs.release(small)
    assert blobs.used == 0 < blobs.memory <= 8 * slab
    blobs.trim()
    assert blobs.memory == 0
    cut = blobs.draft()
    await write(cut, data)
    mark = cut.mark()
    await write(cut, data)
    cut.back_to(mark)
    assert len(data) <= blobs.memory < 2 * len(data) + 10 * slab
    cut.discard()
    blobs.trim()
    assert blobs.memory == 0

    spooling = LocalBlobs(str(tmp_path), spool_above=PIECE_BYTES)
    content, again = await keep(spooling, data), await keep(spooling, data)
    assert (spooling.used, spooling.spooled) == (len(data), len(data))
    assert spooling.memory < 1000 < spooling.memory_for(len(data)) < PIECE_BYTES + 1000
    spooling.release(content)
    spooling.release(again)
    half = spooling.draft()
    await write(half, data)
    mark = half.mark()
    await write(half, data)
    half.back_to(mark)
    half.discard()
    assert (spooling.used, spooling.spooled, spooling.memory) == (0, 0, 0)


async def test_a_draft_counts_from_its_first_byte_and_no_longer_than_it_lasts(blobs: LocalBlobs) -> None:
    draft = blobs.draft()
    await write(draft, some(PIECE_BYTES + 5))
    assert blobs.used == draft.size == PIECE_BYTES + 5
    draft.discard()
    draft.discard()
    assert blobs.used == 0


@pytest.mark.parametrize("before", SIZES)
@pytest.mark.parametrize("after", [1, PIECE_BYTES, 2 * PIECE_BYTES + 3, 40 * PIECE_BYTES])
async def test_a_draft_goes_back_to_a_mark(blobs: LocalBlobs, before: int, after: int) -> None:
    draft = blobs.draft()
    await write(draft, some(before))
    mark = draft.mark()
    await write(draft, some(after, seed=2))
    draft.back_to(mark)
    assert draft.size == blobs.used == before
    await write(draft, some(999, seed=3))
    content = draft.keep()
    assert await read(blobs, content) == some(before) + some(999, seed=3)
    assert content.digest == hashlib.sha256(some(before) + some(999, seed=3)).hexdigest()


async def test_a_body_sent_byte_by_byte_costs_no_more_than_it_has(blobs: LocalBlobs) -> None:
    draft = blobs.draft()
    for byte in some(2_000):
        await draft.write(bytes((byte,)))
    assert sum(len(part) for part in draft._gathered) == 2_000
    assert len(draft._gathered) < 64
    draft.discard()


async def test_large_contents_lie_on_the_disk_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    blobs = LocalBlobs(str(tmp_path), spool_above=PIECE_BYTES)
    small, large = await keep(blobs, some(PIECE_BYTES)), await keep(blobs, some(8 * PIECE_BYTES))
    assert isinstance(blobs._held[large.digest].body, OnDisk)
    assert not isinstance(blobs._held[small.digest].body, OnDisk)
    assert await read(blobs, large) == some(8 * PIECE_BYTES)
    assert await read(blobs, small) == some(PIECE_BYTES)
    blobs.close()
    assert os.listdir(tmp_path) == []
    assert blobs.used == 0


@pytest.mark.parametrize("size", [1_001, PIECE_BYTES, 2 * PIECE_BYTES + 99])
async def test_once_flushed_nothing_of_a_large_content_is_in_memory(tmp_path: Path, size: int) -> None:
    blobs = LocalBlobs(str(tmp_path), spool_above=1_000)
    draft = blobs.draft()
    await write(draft, some(size), 500)
    await draft.flush()
    content = draft.keep()
    assert blobs._held[content.digest].body.__class__.__name__ == "OnDisk"
    assert blobs.used == size
    assert await read(blobs, content) == some(size)
    small = blobs.draft()
    await write(small, some(1_000, seed=3))
    await small.flush()
    assert blobs._held[small.keep().digest].body.__class__.__name__ != "OnDisk"
    blobs.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there the file has a name until it is closed")
async def test_a_process_that_is_killed_leaves_no_file_behind(tmp_path: Path) -> None:
    blobs = LocalBlobs(str(tmp_path), spool_above=1)
    await keep(blobs, some(3 * PIECE_BYTES))
    assert os.listdir(tmp_path) == []  # it has no name even now
    blobs.close()


async def test_a_write_that_is_cancelled_leaves_the_draft_as_it_was_or_as_it_was_to_be(tmp_path: Path) -> None:
    blobs = LocalBlobs(str(tmp_path), spool_above=1)
    draft = blobs.draft()
    data = b""
    chance = random.Random(4)
    for turn in range(60):
        part = some(PIECE_BYTES, seed=turn)
        writing = asyncio.create_task(draft.write(part))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # a part that only went to memory was there at once
            await writing
        if draft.size > len(data):
            data += part
        assert draft.size == len(data)
    content = draft.keep()
    assert await read(blobs, content) == data
    assert content.digest == hashlib.sha256(data).hexdigest()
    blobs.close()


class FullDisk:
    """Stands for a file on a disk that takes so much and no more."""

    def __init__(self, file: object, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, data: memoryview) -> int:
        if self._room < len(data):
            raise OSError(28, "No space left on device")
        self._room -= len(data)
        return self._file.write(data)  # type: ignore[attr-defined,no-any-return]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


async def test_a_full_disk_refuses_a_part_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    real = tempfile.TemporaryFile
    monkeypatch.setattr(
        "clawlink.store.bodies.tempfile.TemporaryFile",
        lambda **options: FullDisk(real(**options), 3 * PIECE_BYTES),
    )
    blobs = LocalBlobs(str(tmp_path), spool_above=1)
    draft = blobs.draft()
    await write(draft, some(3 * PIECE_BYTES), PIECE_BYTES)
    with pytest.raises(OSError, match="No space"):
        await draft.write(some(PIECE_BYTES, seed=9))
    assert draft.size == blobs.used == 3 * PIECE_BYTES
    assert await read(blobs, draft.keep()) == some(3 * PIECE_BYTES)
    blobs.close()


def test_a_folder_is_made_and_tried(tmp_path: Path) -> None:
    require_folder(str(tmp_path / "new" / "folder"))
    assert os.listdir(tmp_path / "new" / "folder") == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"exists|directory"):
        require_folder(str(tmp_path / "file"))
