"""Broadcasts and shared files for the operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from clawlink.domain import file as rules
from clawlink.domain.agent import fold
from clawlink.domain.broadcast import KNOWLEDGE, Knowledge, by_author, by_tag, by_topic, is_about
from clawlink.domain.file import PRESENT, RESTRICTED, SharedFile
from clawlink.errors import NotAllowed
from clawlink.protocol.admin_views import (
    AllBroadcasts,
    AllFiles,
    AllFilesQuery,
    BroadcastRow,
    BroadcastsQuery,
    FileQuery,
    OneFile,
)
from clawlink.protocol.file_replies import FileHistory, FileInfo
from clawlink.relay.admin.talk import NOTHING, shown
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.files.read import FileReads
from clawlink.relay.files.views import file_history, file_info
from clawlink.relay.pages import place_in
from clawlink.relay.time_slices import SLICE, Turns

# A list that leaves most of what it looks at stops here and goes on at the next request.
_LOOKED_AT = 5000
_SOURCES = (PRESENT, RESTRICTED)

Info = TypeVar("Info", FileInfo, FileHistory)


class _Told(Struct, gc=False):
    content: Raw | UnsetType = UNSET


_told = msgspec.json.Decoder(_Told)


class LibraryViews:
    """The kept broadcasts and the shared files. ``contents`` is False to withhold what agents wrote in them."""

    def __init__(self, core: Core, agents: Agents, reads: FileReads, *, contents: bool) -> None:
        self._core = core
        self._agents = agents
        self._reads = reads
        self._contents = contents

    async def broadcasts(self, ask: BroadcastsQuery) -> AllBroadcasts:
        """List the kept broadcasts, the newest first."""
        store, turns, now = self._core.store, Turns(), self._core.clock()
        if ask.author is not None:
            ask = replace(ask, author=await self._agents.id_of(ask.author))
        if ask.topic is not None and not ask.topic.endswith("*"):
            key = by_topic(ask.topic)
        elif ask.tag is not None:
            key = by_tag(ask.tag)
        else:
            key = KNOWLEDGE if ask.author is None else by_author(ask.author)
        found: list[BroadcastRow] = []
        after, looked_at = ask.after, 0
        while True:
            page = await store.page(Knowledge, key, after, min(ask.limit - len(found), SLICE), newest=True)
            for one in page.records:
                if one.ends_at > now and is_about(one, ask.topic, ask.tag, ask.author):
                    found.append(self._broadcast(one))
                await turns.next()
            looked_at += len(page.records)
            after = page.after
            if after is None or len(found) >= ask.limit or looked_at >= _LOOKED_AT:
                names = await self._agents.names(row.from_agent for row in found)
                return AllBroadcasts(found, len(found), after, names)

    def _broadcast(self, one: Knowledge) -> BroadcastRow:
        said = _told.decode(one.body).content if self._contents else UNSET
        text, cut = NOTHING if said is UNSET else shown(said)
        return BroadcastRow(
            message_id=one.id,
            from_agent=one.author,
            topic=one.topic,
            tags=list(one.tags),
            stored_at=self._core.time.iso(one.stored_at),
            ends_at=self._core.time.iso(one.ends_at),
            recipients=one.recipients,
            text=text,
            cut=cut,
        )

    async def files(self, ask: AllFilesQuery) -> AllFiles:
        """List the files: those for everyone, then those for readers. Raises BadRequest."""
        store, turns, now = self._core.store, Turns(), self._core.clock()
        text = None if ask.text is None else fold(ask.text)
        agent = None if ask.agent is None else await self._agents.id_of(ask.agent)
        source, after = place_in(len(_SOURCES), ask.after)
        files: list[FileInfo] = []
        looked_at = 0
        while source < len(_SOURCES):
            page = await store.page(SharedFile, _SOURCES[source], after, min(ask.limit - len(files), SLICE))
            for file in page.records:
                if rules.present(file, now) is not None and _is_of(file, agent) and _has(file, text):
                    files.append(self._shown(file_info(file, self._core.time)))
                await turns.next()
            looked_at += len(page.records)
            after = page.after
            source += after is None
            if len(files) >= ask.limit or looked_at >= _LOOKED_AT:
                break
        next_at = f"{source}.{after or ''}" if source < len(_SOURCES) else None
        names = await self._agents.names((agent, *(id for info in files for id in _agents_of(info))))
        return AllFiles(files, len(files), next_at, names)

    async def file(self, file_key: str, ask: FileQuery) -> OneFile:
        """Show a file with its kept versions. Raises UnknownFile."""
        file = await self._reads.any(file_key)
        shown_file = self._shown(file_history(file_key, file, self._core.time))
        editors = (one.editor for one in shown_file.versions)
        names = await self._agents.names((*editors, *_agents_of(shown_file)))
        return OneFile(shown_file, self._contents and not file.burn, names)

    def _shown(self, info: Info) -> Info:
        """Return the facts of a file, without the note of its lock where texts are withheld."""
        if self._contents or info.lock is None:
            return info
        return replace(info, lock=replace(info.lock, note=None))

    async def require_contents(self, file_key: str) -> SharedFile:
        """Return a file whose contents may be shown. Raises UnknownFile, NotAllowed."""
        file = await self._reads.any(file_key)
        if not self._contents:
            raise NotAllowed("this relay withholds contents from the page: it runs with --page metadata")
        if file.burn:
            raise NotAllowed(f"{file_key!r} goes with its first reader, so it is not shown here", field="file_key")
        return file


def _agents_of(info: FileInfo | FileHistory) -> Iterator[str | None]:
    """Give the agents that a file names beside the editors of its versions."""
    yield info.owner
    yield from info.readers or ()
    if info.lock is not None:
        yield info.lock.holder
    if isinstance(info, FileInfo):
        yield info.last_editor


def _is_of(file: SharedFile, agent: str | None) -> bool:
    return agent is None or agent == file.newest.editor or (file.access is not None and file.access.knows(agent))


def _has(file: SharedFile, text: str | None) -> bool:
    return text is None or text in fold(file.id)
