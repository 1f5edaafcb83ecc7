"""Parts of files in JSON: a body goes to the disk as it comes, and its base64 is decoded there in slices.

Such a body is 14 MB, and many come at once. Its fields stand in any order. So nothing of it is kept in memory, and
nothing is decided before all of it has come.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, Any, NamedTuple, TypeVar

import msgspec

from clawlink.domain.limits import KIB
from clawlink.doors.portal.wire.file_calls import Part
from clawlink.errors import BadRequest, StorageFull, TooLarge
from clawlink.server.http_files import parts
from clawlink.server.request import Request

T = TypeVar("T")

BLOCK_BYTES = 512 * KIB
_SLICE_BYTES = 256 * KIB  # of base64: decoding holds the interpreter
_MOST_FIELDS_BYTES = 64 * KIB
_DATA_OVERLAP = 256
_RETRY_SECONDS = 30.0
_DATA = re.compile(rb'"data"\s*:\s*"')


class Cut(NamedTuple):
    """A part that has come: its fields, the size of its bytes, and their MD5 in hexadecimal."""

    fields: Part
    size: int
    md5: str


class PartOnDisk:
    """A body on the disk; after ``cut`` its decoded bytes."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self._limit = limit
        self.size = 0

    async def take(self, pieces: AsyncIterator[bytes]) -> None:
        """Take the body as it comes. Raises TooLarge."""
        told = f"the body of a part may have {self._limit} bytes here, and this one has more"
        self.size = await to_disk(self._file, pieces, self._limit, told)

    async def cut(self) -> Cut:
        """Read the fields, and decode the bytes in their place. Raises BadRequest."""
        start, end = await _with_disk(self._find)
        if end - start > self._limit or self.size - (end - start) > _MOST_FIELDS_BYTES:
            raise BadRequest("the fields beside data are too long", limit=_MOST_FIELDS_BYTES)
        fields = await _with_disk(self._fields, start, end)
        size, md5 = await _with_disk(self._decode, start, end)
        return Cut(fields, size, md5)

    def _find(self) -> tuple[int, int]:
        """Return where the text of ``data`` begins and ends."""
        at, before = 0, b""
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            window = before + block
            found = _DATA.search(window)
            if found is not None:
                start = at - len(before) + found.end()
                return start, self._quote_after(start)
            at += len(block)
            before = window[-_DATA_OVERLAP:]
        raise BadRequest("a part has a field data, with its bytes as base64", field="data")

    def _quote_after(self, start: int) -> int:
        self._file.seek(start)
        at = start
        while block := self._file.read(BLOCK_BYTES):
            found = block.find(b'"')
            if found >= 0:
                return at + found
            at += len(block)
        raise BadRequest("the text of data does not end", field="data")

    def _fields(self, start: int, end: int) -> Part:
        self._file.seek(0)
        head = self._file.read(start)
        self._file.seek(end)
        try:
            return msgspec.json.decode(head + self._file.read(), type=Part)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadRequest(f"a part is a JSON object: {error}") from None

    def _decode(self, start: int, end: int) -> tuple[int, str]:
        """Write the decoded bytes over the body, from its beginning on: they are always behind the text."""
        sum = hashlib.md5(usedforsecurity=False)
        written = 0
        try:
            for at in range(start, end, _SLICE_BYTES):
                self._file.seek(at)
                text = self._file.read(min(_SLICE_BYTES, end - at))
                data = _decoded(text, last=at + _SLICE_BYTES >= end)
                sum.update(data)
                self._file.seek(written)
                self._file.write(data)
                written += len(data)
        except ValueError:
            raise BadRequest("data is not base64", field="data") from None
        self.size = written
        return written, sum.hexdigest()

    async def pieces(self, skip: int = 0, *, sum: Any = None) -> AsyncIterator[bytes]:
        """Give the decoded bytes from ``skip`` on, and add them to ``sum`` on the way."""
        at = skip
        while at < self.size:
            piece = await _with_disk(self._read, at, min(BLOCK_BYTES, self.size - at), sum)
            at += len(piece)
            yield piece

    def _read(self, at: int, size: int, sum: Any) -> bytes:
        self._file.seek(at)
        piece = self._file.read(size)
        if sum is not None:
            sum.update(piece)
        return piece


async def to_disk(file: IO[bytes], pieces: AsyncIterator[bytes], limit: int, told: str) -> int:
    """Write a body as it comes, and return its size. ``told`` is the sentence for a larger one. Raises TooLarge."""
    block, size = bytearray(), 0
    async for piece in pieces:
        block += piece
        size += len(piece)
        if size > limit:
            raise TooLarge(told, limit=limit, actual=size)
        if len(block) >= BLOCK_BYTES:
            await _with_disk(file.write, block)
            block = bytearray()
    await _with_disk(file.write, block)
    return size


async def _with_disk(work: Callable[..., T], *given: Any) -> T:
    """Run work in a thread. Raises StorageFull if the disk refuses it."""
    try:
        return await asyncio.to_thread(work, *given)
    except OSError as error:
        raise StorageFull(
            f"the portal could not write a part to its disk ({error.strerror or error}); make room on it",
            retry_after=_RETRY_SECONDS,
        ) from error


def _decoded(text: bytes, *, last: bool) -> bytes:
    """Decode a slice strictly: no other characters, no padding before the end. Raises ValueError."""
    data = binascii.a2b_base64(text)
    padding = text[-2:].count(b"=") if last else 0
    if len(text) % 4 or len(data) != len(text) // 4 * 3 - padding:
        raise ValueError("not base64")
    return data


async def _made(folder: str | None) -> IO[bytes]:
    """Make a file without a name. One that is made after its request has ended is closed."""
    making = asyncio.ensure_future(_with_disk(_nameless, folder))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: made.cancelled() or made.exception() or made.result().close())
        raise


def _nameless(folder: str | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder, prefix="clawlink-")


@asynccontextmanager
async def on_disk(request: Request, limit: int, folder: str | None) -> AsyncIterator[PartOnDisk]:
    """Take a body of at most ``limit`` bytes to a file without a name in ``folder``. Raises TooLarge, BodyTimeout."""
    length = request.content_length
    if length is not None and length > limit:
        raise TooLarge(
            f"the body of a part may have {limit} bytes here, and this one has {length}", limit=limit, actual=length
        )
    file = await _made(folder)
    try:
        body = PartOnDisk(file, limit)
        await body.take(parts(request))
        yield body
    finally:
        await asyncio.shield(asyncio.to_thread(file.close))


async def ahead(pieces: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Give pieces, and fetch the next one while the taker is busy with the one before."""
    fetching = asyncio.create_task(_next(pieces))
    try:
        while (piece := await fetching) is not None:
            fetching = asyncio.create_task(_next(pieces))
            yield piece
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        await pieces.aclose()


async def _next(pieces: AsyncGenerator[T, None]) -> T | None:
    return await anext(pieces, None)
