"""Attachments: the recipient of a message may read its attached files for readers, if the sender owns them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from clawlink.domain import file as rules
from clawlink.domain import file_access
from clawlink.domain.agent import Agent
from clawlink.domain.file import SharedFile
from clawlink.domain.limits import MAX_FILE_TASKS
from clawlink.domain.message import Attachment
from clawlink.domain.readers import party
from clawlink.domain.task import FINAL
from clawlink.relay.core import Core, retrying
from clawlink.relay.limits.memory import size_of
from clawlink.relay.tasks.reads import read_task
from clawlink.store.base import Put

Step = Callable[[SharedFile], Awaitable[SharedFile]]


class Grants:
    """The right to read attachments. It is given before the message is stored, so that its reader never comes early.

    Callers give it last, when nothing else refuses the message. If any attachment is refused, none is given.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def to_agent(
        self, sender: Agent, attachments: Sequence[Attachment] | None, to: Agent, *, answers: bool = False
    ) -> None:
        """Make the recipient of a message a reader. Raises BadRequest for a file that has too many readers.

        A message that ``answers`` open work finds room in memory when new work finds none.
        """
        most = self._core.limits.max_readers

        async def add(file: SharedFile) -> SharedFile:
            return file_access.add_reader(file, party(to), most=most)

        await self._give(sender, attachments, add, answers=answers)

    async def to_holders(self, sender: Agent, attachments: Sequence[Attachment] | None, task_id: str) -> None:
        """Let the agent that claims a task read. Raises BadRequest for a file that goes with too many tasks."""

        async def add(file: SharedFile) -> SharedFile:
            known = () if file.access is None else file.access.tasks
            if len(known) >= MAX_FILE_TASKS:
                known = tuple([id for id in known if await self._is_open(id)])
            return file_access.add_task(file, task_id, known, most=MAX_FILE_TASKS)

        await self._give(sender, attachments, add, answers=False)

    async def _give(
        self, sender: Agent, attachments: Sequence[Attachment] | None, step: Step, *, answers: bool
    ) -> None:
        growth = 0
        keys = dict.fromkeys(one.file_key for one in attachments or ())
        for key in keys:
            file = await self._own(sender, key)
            if file is not None:
                growth += size_of(await step(file)) - size_of(file)
        if growth > 0:
            await self._core.memory.require(growth, sender.origin, answers=answers)
        for key in keys:
            await self._put(sender, key, step)

    @retrying
    async def _put(self, sender: Agent, key: str, step: Step) -> None:
        file = await self._own(sender, key)
        new = None if file is None else await step(file)
        if new is not None and new is not file:
            await self._core.commit(new.partition_key, Put(new))

    async def _own(self, sender: Agent, key: str) -> SharedFile | None:
        """Return a file for readers that the sender owns; None for any other."""
        file = rules.present(await self._core.store.get(SharedFile, key), self._core.clock())
        return None if file is None or file.access is None or not file.access.owner.is_(sender) else file

    async def _is_open(self, task_id: str) -> bool:
        task, _ = await read_task(self._core.store, task_id)
        return task is not None and task.state not in FINAL
