"""Notices of files: who hears of a change, and that nobody causes too many of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from clawlink.domain.agent import HEARS_OF_FILES, Agent, hears_of_files
from clawlink.domain.delivery import Sender
from clawlink.domain.file import SharedFile
from clawlink.domain.message import FileUpdated, Priority, encode
from clawlink.domain.readers import Access
from clawlink.relay.broadcasts.broadcasts import audience
from clawlink.relay.core import Core
from clawlink.relay.ids import derived
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.time_slices import SLICE, Turns, parts
from clawlink.store.base import Usage


class FileNotices:
    """The notices of all changes of files."""

    def __init__(self, core: Core, mailbox: Mailbox, admission: Admission) -> None:
        self._core = core
        self._mailbox = mailbox
        self._admission = admission

    async def require_copies(self, editor: Agent, file: SharedFile, hearers: Usage | None = None) -> None:
        """Count the notices of a change that comes next. Raises RateLimited, and then counts nothing.

        ``hearers`` is the usage of the index of the agents that hear of files, if the store has just told it.
        """
        if file.access is None:
            if hearers is None:
                hearers = await self._core.store.usage(Agent, HEARS_OF_FILES)
            told = hearers.count
        else:
            told = len(file.access.parties)
        self._admission.require_copies(editor, told)

    async def _hearers(self, access: Access, but: str) -> AsyncIterator[list[Agent]]:
        """Give the agents that hear of a file for readers, but one, some at a time."""
        turns = Turns()
        for some in parts(access.parties, SLICE):
            found = await self._core.store.get_many(Agent, [one.agent_id for one in some])
            yield [
                agent
                for one, agent in zip(some, found, strict=True)
                if agent is not None and one.is_(agent) and agent.id != but and hears_of_files(agent)
            ]
            await turns.next(len(some))

    async def tell(self, file: SharedFile, editor: str, now: float, *, but: str | None = None) -> None:
        """Tell the agents that hear of a file what became of it; not its editor, or not ``but``."""
        id = derived("file", file.id, str(file.revision), str(now))
        stamp = self._core.time.stamp()
        body = encode(
            FileUpdated(
                file_key=file.id,
                version=file.revision,
                last_editor=editor,
                timestamp=stamp,
                queued_at=stamp,
                message_id=id,
                deleted=file.deleted,
            )
        )
        but = editor if but is None else but
        access, size, turns = file.access, self._core.store.partitions_at_once, Turns()
        hearers = audience(self._core, [HEARS_OF_FILES], but) if access is None else self._hearers(access, but)
        async for agents in hearers:
            for at in range(0, len(agents), size):
                if at:
                    await turns.next(size)
                some = agents[at : at + size]
                await self._mailbox.put_copies(
                    self._mailbox.copies(
                        id,
                        [agent.id for agent in some],
                        sender=Sender(editor),
                        body=body,
                        now=now,
                        level=Priority.LOW.level,
                        merge="file:" + file.id,
                    )
                )
