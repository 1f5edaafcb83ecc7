"""Tasks across portals as the owner and the owner's agent see them: list, delegate, answer, cancel."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from clawlink.domain.agent import Agent
from clawlink.domain.task import FINAL, INPUT_REQUIRED
from clawlink.doors.portal import transfers
from clawlink.doors.portal.records import (
    AGENT,
    FORWARDED,
    SUFFIX,
    Contact,
    ForwardedTask,
    forwarded_of,
    forwarded_with,
    mailbox_of,
)
from clawlink.doors.portal.rules.texts import seconds, utc
from clawlink.doors.portal.server.contacts import Contacts, require_reachable
from clawlink.doors.portal.server.forwarded_tasks import ForwardedTasks
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.task_files import TaskFiles
from clawlink.doors.portal.transfers import Transfer
from clawlink.errors import BadRequest, UnknownTask
from clawlink.protocol import requests
from clawlink.protocol.replies import TaskView
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns

MOST_TASKS = 200
_QUESTION = INPUT_REQUIRED.value
_ENDS = frozenset(state.value for state in FINAL)
_PAGE = 50


class Tasks:
    """The tasks that came from contacts, and those that went to them."""

    def __init__(
        self, relay: Relay, contacts: Contacts, members: Members, forwarded_tasks: ForwardedTasks, task_files: TaskFiles
    ) -> None:
        self._relay = relay
        self._core = relay.core
        self._contacts = contacts
        self._members = members
        self._forwarded_tasks = forwarded_tasks
        self._task_files = task_files

    async def listed(self, contact: Contact | None, beginning: str, limit: int) -> list[dict[str, Any]]:
        """Return the tasks that the relay still knows, the newest first: of one contact, or with ids that begin so."""
        store, turns = self._core.store, Turns()
        key = FORWARDED if contact is None else forwarded_with(contact.id)
        found: list[dict[str, Any]] = []
        parties: dict[str, Agent] = {}
        """By contact, the agent that stands for it here: it is a party of each task."""
        after: str | None = None
        while len(found) < limit:
            page = await store.page(ForwardedTask, key, after, _PAGE, newest=True)
            for forwarded in page.records:
                await turns.next()
                if not forwarded.id.startswith(beginning) or len(found) >= limit:
                    continue
                if forwarded.contact not in parties:
                    there = await store.get(Agent, mailbox_of(forwarded.contact))
                    parties[forwarded.contact] = there or await self._members.of(forwarded.contact)
                with suppress(UnknownTask):  # it ended long ago
                    task = await self._relay.task_views.get(
                        parties[forwarded.contact], forwarded.id, requests.TaskQuery()
                    )
                    found.append(await self._view(forwarded, task))
            after = page.after
            if after is None:
                break
        return found

    async def _view(self, forwarded: ForwardedTask, task: TaskView) -> dict[str, Any]:
        contact = await self._core.store.get(Contact, forwarded.contact)
        asked = next((event for event in reversed(task.history) if event.status == _QUESTION), None)
        asks = asked is not None and task.status == _QUESTION
        return {
            "task_id": task.task_id,
            "type": "received" if forwarded.inbound else "sent",
            "portal_url": forwarded.contact if contact is None else contact.url,
            "contact": None if contact is None else contact.number,
            "name": None if contact is None else contact.name,
            "requester": None if forwarded.inbound else task.requester,
            "status": task.status,
            "final": task.status in _ENDS,
            "progress": task.progress,
            "note": task.note,
            "task": task.task,
            "question": (asked.note if asked.content is None else asked.content) if asks and asked else None,
            "result": task.result,
            "files": await self._files_of(forwarded, task),
            "task_id_there": forwarded.peer_id or None,
            "created_at": utc(self._core.time.shown(forwarded.created_at)),
            "since": utc(seconds(_since(task))),
        }

    async def _files_of(self, forwarded: ForwardedTask, task: TaskView) -> list[dict[str, Any]]:
        """Return the files of the task, of the reports on it and of its answer, each with its id if that is known."""
        found = []
        known: set[str] = set()
        for part, attachments in (("task", task.attachments), ("answer", task.result_attachments)):
            cause = forwarded.id if part == "task" else ""
            for index, one in enumerate(attachments):
                transfer = await self._task_files.transfer_of(forwarded.contact, cause, index, one)
                if transfer is not None:
                    known.add(transfer.id)
                came = (part == "task") is forwarded.inbound
                found.append(_file(transfer, one.name, one.size, part, came=came))
        key = transfers.of_task(forwarded.contact, forwarded.peer_id if forwarded.inbound else forwarded.id)
        for transfer in (await self._core.store.page(Transfer, key, limit=MOST_TASKS)).records:
            if transfer.claimed and transfer.id not in known:
                found.append(_file(transfer, transfer.filename, transfer.size, "report", came=transfer.inbound))
        return found

    async def here(self, transfer: Transfer) -> str | None:
        """Return the id that the task of a file has here; None for a file without one, and for a task not begun."""
        if not transfer.task:
            return None
        forwarded = await self._core.store.get(ForwardedTask, transfer.task)
        if forwarded is None or forwarded.inbound or forwarded.contact != transfer.contact:
            key = forwarded_of(transfer.contact, transfer.task)
            forwarded = next(iter((await self._core.store.page(ForwardedTask, key, limit=1)).records), None)
        return None if forwarded is None else forwarded.id

    async def delegate(self, to: str | int, ask: Any) -> str:
        """Give a contact a task of the owner's agent, which hears of the answer. Return the task's id.

        Raises NotFound, AmbiguousName, BadRequest, WrongState for a blocked contact, and the refusals of the relay.
        """
        contact = await self._contacts.find(to)
        require_reachable(contact, self._core.steady())
        agent = await self._members.start()
        attachments = await self._task_files.given(contact.id, None, ask.files)
        done = await self._relay.submission.delegate(
            agent,
            requests.Delegate(
                from_agent=AGENT,
                to_agent=f"{contact.number}{SUFFIX}",
                task=ask.task,
                context=ask.context,
                deadline=ask.deadline,
                idempotency_key=ask.idempotency_key,
                attachments=attachments or None,
            ),
        )
        id: str = done.message_id
        await self._forwarded_tasks.note(id, contact.id)
        return id

    async def answer(self, task_id: str, ask: Any) -> str:
        """Report on a task of a contact, or answer the question about a task for one. Return the contact.

        Raises UnknownTask, WrongState, NotAllowed, BadRequest for its files, and the other refusals of the relay.
        """
        forwarded = await self._forwarded(task_id)
        agent = await self._members.start()
        if forwarded.inbound:
            attachments = await self._task_files.given(forwarded.contact, forwarded.peer_id, ask.files)
            report = requests.Respond(
                from_agent=AGENT,
                message_id=task_id,
                status=ask.status,
                result=ask.result,
                progress=ask.progress,
                note=ask.note,
                idempotency_key=ask.idempotency_key,
                attachments=attachments or None,
            )
            await self._relay.tasks.respond(agent, report)
            await self._task_files.claim(ask.files)
        elif ask.files:
            raise BadRequest("files go with a report on a task of a contact; send these by send-file", field="files")
        else:
            answer = requests.Answer(from_agent=AGENT, content=ask.result, idempotency_key=ask.idempotency_key)
            await self._relay.tasks.answer(agent, task_id, answer)
        contact: str = forwarded.contact
        return contact

    async def asked_by(self, task_id: str) -> tuple[Contact, str]:
        """Return the contact that asked for a task, and the id that the task has there. Raises UnknownTask."""
        forwarded = await self._forwarded(task_id)
        contact = await self._core.store.get(Contact, forwarded.contact)
        if contact is None or not forwarded.inbound:
            raise UnknownTask(f"no contact asked for task {task_id[:40]!r}", field="task")
        return contact, forwarded.peer_id

    async def cancel(self, task_id: str, note: str | None) -> str:
        """Take back a task of the owner's agent for a contact. Return the contact. Raises as ``answer``."""
        forwarded = await self._forwarded(task_id)
        cancel = requests.Cancel(from_agent=AGENT, note=note)
        await self._relay.tasks.cancel(await self._members.start(), task_id, cancel)
        contact: str = forwarded.contact
        return contact

    async def _forwarded(self, task_id: str) -> ForwardedTask:
        forwarded = await self._core.store.get(ForwardedTask, task_id)
        if forwarded is None:
            raise UnknownTask(
                f"no task {task_id[:40]!r} crossed this portal; 'clawlink portal tasks' lists them", field="task_id"
            )
        return forwarded


def _file(transfer: Transfer | None, name: str, size: int, part: str, *, came: bool) -> dict[str, Any]:
    """Return a file of a task as the wire shows it."""
    return {
        "file_id": None if transfer is None else transfer.id,
        "filename": name,
        "size": size,
        "status": None if transfer is None else transfer.state.value,
        "type": "received" if came else "sent",
        "part": part,
    }


def _since(task: TaskView) -> str:
    """Return when the task came into its state: a report in the same state is not a new one."""
    at = task.created_at
    for event in reversed(task.history):
        if event.status != task.status:
            break
        at = event.at
    return at
