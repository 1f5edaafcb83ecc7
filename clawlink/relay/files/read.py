"""Reads of shared files: find, send, list, wait, and burn after the read of a single reader."""

from __future__ import annotations

import asyncio
import base64
import codecs
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import ExitStack, asynccontextmanager

import msgspec

from clawlink.domain import file as rules
from clawlink.domain import file_access
from clawlink.domain.agent import Agent
from clawlink.domain.file import PRESENT, SharedFile, Version
from clawlink.domain.limits import MAX_JSON_FILE_BYTES, MAX_REPLY_BYTES
from clawlink.domain.readers import holds, party
from clawlink.errors import TooLarge, UnknownFile
from clawlink.protocol import file_replies, file_requests
from clawlink.protocol.file_paths import GET_BLOB
from clawlink.relay import wait_loop
from clawlink.relay.core import Core
from clawlink.relay.files.quota import FileQuota
from clawlink.relay.files.read_once import Reading, ReadOnce, being_read
from clawlink.relay.files.views import file_history, file_info
from clawlink.relay.files.write import Files
from clawlink.relay.pages import page_within
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.time_slices import Turns
from clawlink.store.contents import Reader

# Where a list goes on: behind the files for everyone come those for the asker.
_OWN = "own."
_TICK_SECONDS = 5.0
_PIECE_BYTES = 256 * 1024


class Opened:
    """A version under transfer: ``at`` is the next offset, ``done`` is True once the requested part has gone out."""

    def __init__(self, body: Reader, reading: Reading | None, start: int) -> None:
        self.reading = reading
        self.at = start
        self.done = False
        self._body = body
        self._start = start

    def sent(self) -> None:
        """Note that all of the reply is written. The peer may not have it yet."""
        if self.reading is not None:
            self.reading.reply_sent(self._start, self.at)

    async def read(self, size: int) -> bytes:
        """Return the next bytes, ``size`` at most, and some unless it is at its end."""
        piece = await self._body.read(self.at, size)
        self.at += len(piece)
        return piece


class FileReads:
    """Reads of shared files."""

    def __init__(self, core: Core, files: Files, file_quota: FileQuota) -> None:
        self._core = core
        self._files = files
        self._quota = file_quota
        self._read_once = ReadOnce()

    async def find(
        self, key: str, revision: int | None = None, *, asker: Agent | None = None
    ) -> tuple[SharedFile, Version]:
        """Return a file and one of its versions, the newest unless said otherwise.

        Raises UnknownFile, with the same sentence for a missing file and for a file that the asking agent may not see.
        """
        file = rules.present(await self._known(key, asker), self._core.clock())
        if file is None:
            # The sentence is the one ClawLink 1.0.x sends; the code and field are for newer clients.
            raise UnknownFile("file not found", field="file_key")
        return file, file.versions[0] if revision is None else self.version_of(file, revision)

    def version_of(self, file: SharedFile, revision: int | None) -> Version:
        """Return a version of a file, the newest unless said otherwise. Raises UnknownFile."""
        if revision is None:
            return file.newest
        for version in file.versions:
            if version.revision == revision:
                return version
        kept = ", ".join(str(version.revision) for version in reversed(file.versions))
        raise UnknownFile(f"version {revision} of {file.id!r} is not kept; kept are {kept}", field="version")

    async def any(self, key: str) -> SharedFile:
        """Return a file of any readers, for the operator. Raises UnknownFile."""
        file = rules.present(await self._core.store.get(SharedFile, key), self._core.clock())
        if file is None:
            raise UnknownFile("file not found", field="file_key")
        return file

    async def _known(self, key: str, asker: Agent | None) -> SharedFile | None:
        """Return a file, or its remains, if the asking agent may see it."""
        file = await self._core.store.get(SharedFile, key)
        if file is None or file.access is None or not file_access.hidden(file, asker):
            return file
        return file if asker is not None and await self._holds_task(asker, file.access.tasks) else None

    async def _holds_task(self, asker: Agent, tasks: Sequence[str]) -> bool:
        """Return True if the asker holds one of the tasks with a file, or has ended it."""
        turns = Turns()
        for id in reversed(tasks):
            task, _ = await read_task(self._core.store, id)
            if holds(task, asker):
                return True
            await turns.next()
        return False

    async def read(self, version: Version, start: int, end: int) -> bytes:
        """Return some bytes of a version of a file that does not burn. Raises UnknownFile if it has gone meanwhile."""
        pieces = []
        with ExitStack() as stack:
            body = self._body(stack, version)
            while start < end:
                piece = await body.read(start, end - start)
                pieces.append(piece)
                start += len(piece)
        return b"".join(pieces)

    def _body(self, stack: ExitStack, version: Version) -> Reader:
        """Open a content until the stack ends. Raises UnknownFile if it has gone meanwhile."""
        try:
            return stack.enter_context(self._quota.open(version.content))
        except KeyError:
            raise UnknownFile("file not found", field="file_key") from None

    @asynccontextmanager
    async def open(self, file: SharedFile, version: Version, reader: Hashable, start: int = 0) -> AsyncIterator[Opened]:
        """Open a version for one reply, from byte ``start`` on.

        Raises BeingRead, UnknownFile if it has gone meanwhile.
        """
        now = self._core.time
        with ExitStack() as stack:
            body = self._body(stack, version)
            size = version.content.size
            if file.burn:
                await self._require_this_relay(file.id)
            reading = self._read_once.begin(file.id, version.revision, size, reader, now()) if file.burn else None
            opened = Opened(body, reading, start)
            try:
                if reading is not None:  # it was found before anyone had it: it may have burned since
                    await self._require_kept(file.id, version.revision)
                yield opened
            finally:
                if reading is not None:
                    reading.reply_ended(start, opened.at, now(), done=opened.done)

    async def _require_this_relay(self, key: str) -> None:
        """Refuse a file that another relay over the same store hands out. Raises BeingRead."""
        if self._core.peers is not None and not await self._core.peers.hold(key):
            raise being_read(key, retry_after=1.0)

    async def _require_kept(self, key: str, revision: int) -> None:
        """Raise UnknownFile if a version of a file is gone."""
        file = rules.present(await self._core.store.get(SharedFile, key), self._core.clock())
        if file is None or all(version.revision != revision for version in file.versions):
            raise UnknownFile("file not found", field="file_key")

    async def confirm(self, key: str, reader: Hashable) -> SharedFile:
        """Burn a file that this reader has read. Raises UnknownFile if it is gone, or was not read by it."""
        reading = self._read_once.of(key, reader)
        if reading is None or not reading.all_sent:
            raise UnknownFile(f"there is no file {key!r} that you have read and that is to burn", field="file_key")
        gone = await self._core.finish(self._burn(reading))
        if gone is None:
            raise UnknownFile("file not found", field="file_key")
        return gone

    async def _burn(self, reading: Reading) -> SharedFile | None:
        by = reading.reader if isinstance(reading.reader, str) else None
        gone = await self._files.burn(reading.key, reading.revision, reader=by)
        await self._end(reading)  # not before: until it is gone, no other reader may begin
        return gone

    async def _end(self, reading: Reading) -> None:
        self._read_once.end(reading)
        if self._core.peers is not None and not self._read_once.reads(reading.key):
            await self._core.peers.let_go(reading.key)

    async def as_json(self, file: SharedFile, opened: Opened) -> list[bytes]:
        """Return an opened file as one JSON object in parts: text as text, other bytes as base64.

        The loop is free after each part. A thread would not free it: the encoders hold the interpreter's lock.
        """
        size = file.newest.content.size
        pieces = []
        while opened.at < size:
            pieces.append(await opened.read(min(_PIECE_BYTES, size - opened.at)))
            await asyncio.sleep(0)
        encoding, parts = "utf-8", await _text_of(pieces)
        if parts is None:
            encoding, parts = "base64", await _base64_of(pieces)
        facts = msgspec.structs.asdict(file_info(file, self._core.time))
        whole = msgspec.json.encode(file_replies.FileContent(**facts, content="", encoding=encoding))
        # Quotes within strings are escaped, so this stands nowhere else.
        before, quote, after = whole.partition(b'"content":"')
        return [before + quote, *parts, after]

    def require_small(self, file: SharedFile) -> SharedFile:
        """Return a file if JSON can carry it. Raises TooLarge."""
        key, size = file.id, file.newest.content.size
        if size > MAX_JSON_FILE_BYTES:
            blob = GET_BLOB.url(file_key=key)
            raise TooLarge(
                f"{key!r} has {size} bytes, and JSON carries {MAX_JSON_FILE_BYTES} at most; read it at {blob}",
                field="file_key",
                limit=MAX_JSON_FILE_BYTES,
                actual=size,
                current=blob,
            )
        return file

    def read_once(self) -> list[Reading]:
        """Return all readings. For the janitor."""
        return self._read_once.all()

    async def list(self, asker: Agent | None, ask: file_requests.FilesQuery) -> file_replies.FileList:
        """List the files without their contents: those for everyone, then those that the asker owns or reads."""
        store, now = self._core.store, self._core.clock()
        sources = [("", PRESENT)] if asker is None else [("", PRESENT), (_OWN, rules.by_reader(asker.id))]
        after = ask.after or ""
        if asker is not None and after.startswith(_OWN):
            del sources[0]
        files: list[file_replies.FileInfo] = []
        left, room = ask.limit, MAX_REPLY_BYTES
        for mark, index in sources:
            start = after.removeprefix(mark) if after.startswith(mark) else ""
            page = await page_within(store, SharedFile, index, start or None, left, room=room, size=_size_in_list)
            files += [
                file_info(file, self._core.time)
                for file in page.records
                if rules.present(file, now) is not None and not file_access.hidden(file, asker)
            ]
            left -= len(page.records)
            room -= sum(map(_size_in_list, page.records))
            if page.after is not None:
                return file_replies.FileList(files, len(files), mark + page.after)
            if asker is not None and mark != _OWN and (left <= 0 or room <= 0):
                return file_replies.FileList(files, len(files), _OWN)
        return file_replies.FileList(files, len(files), None)

    async def history(
        self, key: str, since: int | None, wait: float, *, asker: Agent | None = None
    ) -> file_replies.FileHistory:
        """Return the kept versions of a file; with ``wait`` once it has another version than ``since``.

        Raises UnknownFile if there is none and the request does not wait for one.
        """
        core = self._core
        if not wait:
            file, _ = await self.find(key, asker=asker)
            return file_history(key, file, core.time)
        found: SharedFile | None = None
        with core.watch(key) as watch:

            async def news() -> bool:
                nonlocal found, since, asker
                now = core.clock()
                if asker is not None:  # it may have left while it waits
                    now_there = await core.store.get(Agent, asker.id)
                    asker = now_there if party(asker).is_(now_there) else None
                found = await self._known(key, asker)
                at = rules.revision_of(found, now)
                if since is None:
                    since = at
                return at != since

            async def ends_at() -> float | None:
                there = rules.present(found, core.clock())
                return None if there is None else there.ends_at

            await wait_loop.first_of_relay(
                core, watch.signal, read=news, next_at=ends_at, wait=wait, tick=_TICK_SECONDS
            )
        return file_history(key, found, core.time)

    async def end_if_over(self, reading: Reading) -> None:
        """Burn a read file, if its reader had time enough to ask again. For the janitor."""
        if not reading.over(self._core.clock()):
            if self._core.peers is not None:
                await self._core.peers.hold(reading.key)
            return
        if reading.all_read:
            await self._burn(reading)
        else:
            await self._end(reading)


def _size_in_list(file: SharedFile) -> int:
    """Return about how many bytes a file takes in a list: every character may take six."""
    note = "" if file.lock is None else file.lock.note or ""
    size = 512 + 6 * (len(file.id) + len(note))
    if file.access is not None:
        size += sum(4 + 6 * len(one.agent_id) for one in file.access.parties)
    return size


async def _text_of(pieces: Sequence[bytes]) -> list[bytes] | None:
    """Return the inside of a JSON string, in parts; None if the bytes are not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    parts = []
    try:
        for piece in (*pieces, b""):
            parts.append(msgspec.json.encode(decoder.decode(piece, final=not piece))[1:-1])
            await asyncio.sleep(0)
    except UnicodeDecodeError:
        return None
    return parts


async def _base64_of(pieces: Sequence[bytes]) -> list[bytes]:
    """Return the bytes as base64, in parts. A part of three bytes each joins without padding."""
    parts, left = [], b""
    for piece in pieces:
        data = left + piece
        whole = len(data) - len(data) % 3
        left = data[whole:]
        parts.append(base64.b64encode(data[:whole]))
        await asyncio.sleep(0)
    return [*parts, base64.b64encode(left)]
