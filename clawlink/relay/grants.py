"""Attachments: whoever gets a message may read the files for readers that go with it, if its sender owns them."""

from __future__ import annotations

from collections.abc import Sequence

from clawlink.domain import file as rules
from clawlink.domain.agent import Agent
from clawlink.domain.file import SharedFile
from clawlink.domain.limits import MAX_FILE_TASKS
from clawlink.domain.message import Attachment
from clawlink.domain.readers import Party, party
from clawlink.domain.task import FINAL
from clawlink.relay.core import Core, retrying
from clawlink.relay.memory import size_of
from clawlink.relay.task_reads import read_task
from clawlink.store.base import Put


class Grants:
    """The right to read attachments. It is given before the message is stored, so that its reader never comes early."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def to_agent(
        self, sender: Agent, attachments: Sequence[Attachment] | None, to: Agent, *, answers: bool = False
    ) -> None:
        """Make the recipient of a message a reader. Raises BadRequest for a file that has too many readers.

        What ``answers`` open work finds room in memory when new work finds none.
        """
        for key in _keys(attachments):
            await self._add_reader(sender, key, party(to), answers)

    async def to_holders(self, sender: Agent, attachments: Sequence[Attachment] | None, task_id: str) -> None:
        """Let the agent that claims a task read. Raises BadRequest for a file that goes with too many tasks."""
        for key in _keys(attachments):
            await self._add_task(sender, key, task_id)

    @retrying
    async def _add_reader(self, sender: Agent, key: str, reader: Party, answers: bool) -> None:
        file = await self._own(sender, key)
        if file is not None:
            new = rules.add_reader(file, reader, most=self._core.limits.max_readers)
            await self._put(file, new, answers=answers)

    @retrying
    async def _add_task(self, sender: Agent, key: str, task_id: str) -> None:
        file = await self._own(sender, key)
        if file is None or file.access is None:
            return
        known = file.access.tasks
        if len(known) >= MAX_FILE_TASKS:
            known = tuple([id for id in known if await self._is_open(id)])
        new = rules.add_task(file, task_id, known, most=MAX_FILE_TASKS)
        await self._put(file, new, answers=False)

    async def _own(self, sender: Agent, key: str) -> SharedFile | None:
        """Return a file for readers that the sender owns; None for any other."""
        file = rules.present(await self._core.store.get(SharedFile, key), self._core.clock())
        return None if file is None or file.access is None or not file.access.owner.is_(sender) else file

    async def _is_open(self, task_id: str) -> bool:
        task, _ = await read_task(self._core.store, task_id)
        return task is not None and task.state not in FINAL

    async def _put(self, old: SharedFile, new: SharedFile, *, answers: bool) -> None:
        if new is not old:
            await self._core.memory.require(max(size_of(new) - size_of(old), 0), answers=answers)
            await self._core.commit(new.home, Put(new))


def _keys(attachments: Sequence[Attachment] | None) -> list[str]:
    return list(dict.fromkeys(one.file_key for one in attachments or ()))
