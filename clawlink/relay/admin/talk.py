"""Talk of agents for the operator: the pairs that talk, what two of them said, and the children of a task."""

from __future__ import annotations

import heapq
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import task as rules
from clawlink.domain.agent import REGISTERED, Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.limits import MAX_LIST_LENGTH
from clawlink.domain.record import SETTLED
from clawlink.domain.task import DELIVERED, FINAL, OPEN, QUEUED, Task, TaskState
from clawlink.protocol.admin_views import (
    Children,
    ChildrenQuery,
    Talk,
    TalkLine,
    TalkPair,
    TalkPairs,
    TalkQuery,
    TalksQuery,
)
from clawlink.relay.admin.lists import AdminLists, pool_of
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.tasks.reads import require_task
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.relay.timestamps import iso
from clawlink.store.base import no_place

_STATES = (*OPEN, *(state for state in TaskState if state in FINAL))
_SHOWN = 4000
# A request looks at this many records of an index, and at this many unread messages: of a mailbox at half of them.
_LOOKED_AT = 2000
_MESSAGE = "message"
_NO_POOL: tuple[list[str], list[str]] = ([], [])


class _Said(Struct, gc=False):
    """The fields of a message that a line needs; the rest is skipped unread."""

    type: str
    task: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    attachments: list[Raw] | UnsetType = UNSET
    capability: str | list[str] | UnsetType = UNSET
    to_any_of: list[str] | UnsetType = UNSET


class _Chain(Struct, gc=False):
    parent_task: str | None = None


class _Follows(Struct, gc=False):
    chain: _Chain


_said = msgspec.json.Decoder(_Said)
_follows = msgspec.json.Decoder(_Follows)
_text = msgspec.json.Decoder(str)


class Shown(NamedTuple):
    """The beginning of a text, and whether there is more of it."""

    text: str | None
    cut: bool


NOTHING = Shown(None, False)

_PLACE = re.compile(r"(\d{1,15}\.\d{1,15}):(\d{1,9}):(.+)", re.ASCII)


class _Place(NamedTuple):
    """The place of a line in a talk. Lines of one instant stand in the order of their records, and of their numbers."""

    at: float
    id: str
    number: int

    @property
    def text(self) -> str:
        """The place as ``_PLACE`` reads it."""
        return f"{self.at!r}:{self.number}:{self.id}"


def shown(raw: Any) -> Shown:
    """Return the beginning of JSON that an agent sent: a text as it is, anything else as JSON."""
    data = bytes(raw)
    if data == b"null":
        return NOTHING
    # A character of JSON takes 12 bytes at most, as two escapes of UTF-16.
    text = _text.decode(data) if data[:1] == b'"' else data[: 12 * _SHOWN].decode(errors="ignore")
    return Shown(text[:_SHOWN], len(text) > _SHOWN)


class TalkViews:
    """The talk of agents. ``contents`` is False to withhold texts."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, lists: AdminLists, *, contents: bool) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._lists = lists
        self._contents = contents

    async def pairs(self, ask: TalksQuery) -> TalkPairs:
        """Count the messages of the pairs that talk most."""
        talks = self._core.talks
        agent = None if ask.agent is None else await self._agents.id_of(ask.agent)
        found = await talks.most(ask.limit, agent)
        return TalkPairs(
            [TalkPair(pair.sender, pair.to, pair.messages, self._core.time.iso(pair.last_at)) for pair in found],
            len(found),
            len(talks),
            talks.dropped,
            iso(talks.since),
            await self._agents.names((agent, *(id for pair in found for id in (pair.sender, pair.to)))),
        )

    # -- a talk ------------------------------------------------------------------------------------------------------

    async def talk(self, ask: TalkQuery) -> Talk:
        """Show the latest lines of a talk, or those before ``after``. Raises BadRequest."""
        before, ties = _before(ask.after), count()
        agent = await self._agents.id_of(ask.agent)
        ask = replace(ask, agent=agent, other=None if ask.other is None else await self._agents.id_of(ask.other))
        look, seen = _Look(self._core), set[tuple[type[Any], str]]()
        found: list[tuple[_Place, int, TalkLine]] = []
        async for record in self._records(ask, look):
            if (type(record), record.id) in seen:
                continue
            seen.add((type(record), record.id))
            for number, (at, line) in enumerate(self._lines(record, ask)):
                place = _Place(at, record.id, number)
                if before is None or place < before:
                    heapq.heappush(found, (place, next(ties), line))
                    if len(found) > ask.limit + 1:
                        heapq.heappop(found)
            await look.turns.next()
        lines = sorted(found, key=lambda one: one[:2], reverse=True)
        after = lines[ask.limit - 1][0].text if len(lines) > ask.limit else None
        shown_lines = [line for _, _, line in lines[: ask.limit]]
        ids = (id for line in shown_lines for id in (line.from_agent, line.to_agent, *line.to_any_of))
        names = await self._agents.names((ask.agent, ask.other, *ids))
        return Talk(shown_lines, len(shown_lines), look.complete, after, names)

    async def _records(self, ask: TalkQuery, look: _Look) -> AsyncIterator[Task | Delivery]:
        """Give the tasks and messages that may belong to the talk."""
        for kind, key in self._sources(ask):
            async for record in look.newest(kind, key):
                yield record
        async for d in self._unread(ask, look):
            yield d

    def _sources(self, ask: TalkQuery) -> Iterator[tuple[type[Any], str]]:
        """Give the index keys under which the talk is found. A record may stand under two of them, but shows once."""
        for state in _STATES:
            keys = [rules.by_requester(ask.agent, state)]
            if ask.other is not None:
                keys.append(rules.by_requester(ask.other, state))
            elif state in FINAL:
                keys.append(rules.by_assignee(ask.agent, state))
            for key in dict.fromkeys(keys):
                if state in (QUEUED, DELIVERED):
                    yield Delivery, key
                yield Task, key
        if ask.other is None:
            yield Task, rules.by_owner(ask.agent)
            yield Delivery, rules.by_owner(ask.agent)
        yield Delivery, SETTLED
        yield Delivery, delivery_rules.by_dead(ask.agent)
        yield Delivery, delivery_rules.ALL_DEAD if ask.other is None else delivery_rules.by_dead(ask.other)

    async def _unread(self, ask: TalkQuery, look: _Look) -> AsyncIterator[Delivery]:
        """Give the unread plain messages of the mailboxes of a talk."""
        left = _LOOKED_AT
        async for mailbox in self._mailboxes(ask, look):
            at_most = min(left, _LOOKED_AT // 2)
            looked_at = 0
            async for d in self._mailbox.pending(mailbox):
                if looked_at == at_most:
                    look.complete = False
                    break
                looked_at += 1
                if not d.is_task:
                    yield d
            left -= looked_at

    async def _mailboxes(self, ask: TalkQuery, look: _Look) -> AsyncIterator[str]:
        """Give the mailboxes of both agents. Without another agent, give all that have messages.

        The mailbox of this agent is the first. The mailboxes that it wrote most to come next.
        """
        yield ask.agent
        if ask.other is not None:
            if ask.other != ask.agent:
                yield ask.other
            return
        given = {ask.agent}
        for pair in await self._core.talks.most(MAX_LIST_LENGTH, ask.agent):
            if pair.sender == ask.agent and pair.to not in given:
                given.add(pair.to)
                yield pair.to
        async for agents in look.newest_pages(Agent, REGISTERED):
            ids = [agent.id for agent in agents if agent.id not in given]
            usages = (await self._core.store.admission(ids)).mailboxes
            for id, usage in zip(ids, usages, strict=True):
                if usage.count:
                    yield id

    def _lines(self, record: Task | Delivery, ask: TalkQuery) -> Iterator[tuple[float, TalkLine]]:
        if isinstance(record, Task):
            task = record
        elif record.is_task:
            if record.has_record:
                return  # which tells all
            task = rules.task_from_delivery(record)
        else:
            if _between(ask, record.sender, record.mailbox):
                yield from self._plain(record)
            return
        if _between(ask, task.requester, task.assignee):
            yield from self._of_task(task)

    def _plain(self, d: Delivery) -> Iterator[tuple[float, TalkLine]]:
        said = _said.decode(d.body)
        if said.type == _MESSAGE:
            yield (
                d.stored_at,
                self._line(
                    d.stored_at,
                    _MESSAGE,
                    delivery_rules.message_id(d),
                    d.sender,
                    d.mailbox,
                    d.state.value,
                    said.content,
                    0 if said.attachments is UNSET else len(said.attachments),
                ),
            )

    def _of_task(self, task: Task) -> Iterator[tuple[float, TalkLine]]:
        said = _said.decode(task.body)
        files = 0 if said.attachments is UNSET else len(said.attachments)
        status = task.state.value
        pool = pool_of(said.capability, said.to_any_of) if task.assignee is None else _NO_POOL
        line = self._line(
            task.created_at, "task", task.id, task.requester, task.assignee, status, said.task, files, pool
        )
        yield task.created_at, line
        answer = None if task.answer is None else _said.decode(task.answer)
        for event in task.history:
            to = task.requester if event.by != task.requester else task.assignee
            raw: Any = UNSET if event.content is None else event.content
            if event.status in FINAL and answer is not None:
                files = 0 if answer.attachments is UNSET else len(answer.attachments)
                line = self._line(event.at, "answer", task.id, event.by, to, event.status.value, answer.result, files)
                yield event.at, line
            elif event.status in FINAL or raw is not UNSET or event.note is not None:
                note = UNSET if event.note is None else msgspec.json.encode(event.note)
                said_now = note if raw is UNSET else raw
                line = self._line(event.at, "report", task.id, event.by, to, event.status.value, said_now, 0, pool)
                yield event.at, line

    def _line(
        self,
        at: float,
        kind: str,
        id: str,
        sender: str | None,
        to: str | None,
        status: str,
        raw: Any,
        files: int,
        pool: tuple[list[str], list[str]] = _NO_POOL,
    ) -> TalkLine:
        text, cut = NOTHING if raw is UNSET or not self._contents else shown(raw)
        whose = _NO_POOL if to is not None else pool
        return TalkLine(self._core.time.iso(at), kind, id, sender, to, status, text, cut, files, *whose)

    # -- a tree ------------------------------------------------------------------------------------------------------

    async def children(self, task_id: str, ask: ChildrenQuery) -> Children:
        """List the tasks that name this one as their parent. Raises UnknownTask.

        An agent that works on a task delegates its parts, so they are found under the workers of the task.
        """
        task = await require_task(self._core.store, task_id, retention=self._core.limits.retention)
        look, found = _Look(self._core), dict[str, Task]()
        for worker in dict.fromkeys((task.assignee, *(event.by for event in task.history), task.requester)):
            for state in _STATES if worker is not None else ():
                for kind in (Delivery, Task) if state in (QUEUED, DELIVERED) else (Task,):
                    async for record in look.newest(kind, rules.by_requester(str(worker), state)):
                        child = record if isinstance(record, Task) else rules.task_from_delivery(record)
                        if child.state is state and _follows.decode(child.body).chain.parent_task == task_id:
                            found[child.id] = child
                        await look.turns.next()
        rows = [self._lists.row_of(child) for child in sorted(found.values(), key=lambda child: child.created_at)]
        return Children(rows, len(rows), look.complete, await self._lists.names_in(rows))


class _Look:
    """A look at indexes, the newest records first. ``complete`` tells whether it saw all of them."""

    def __init__(self, core: Core) -> None:
        self.complete = True
        self.turns = Turns()
        self._core = core

    async def newest(self, kind: type[Any], key: str) -> AsyncIterator[Any]:
        """Give the newest records under an index key."""
        async for records in self.newest_pages(kind, key):
            for record in records:
                yield record

    async def newest_pages(self, kind: type[Any], key: str) -> AsyncIterator[Sequence[Any]]:
        """Give the newest records under an index key, some at a time."""
        after, looked_at = None, 0
        while True:
            page = await self._core.store.page(kind, key, after, SLICE, newest=True)
            yield page.records
            looked_at += len(page.records)
            after = page.after
            if after is None:
                return
            if looked_at >= _LOOKED_AT:
                self.complete = False
                return


def _between(ask: TalkQuery, one: str | None, two: str | None) -> bool:
    if ask.other is None:
        return ask.agent in (one, two)
    return (one, two) in ((ask.agent, ask.other), (ask.other, ask.agent))


def _before(after: str | None) -> _Place | None:
    """Return the place before which the next lines stand; None for the latest ones. Raises BadRequest."""
    if after is None:
        return None
    found = _PLACE.fullmatch(after)
    if found is None:
        raise no_place(after)
    return _Place(float(found[1]), found[3], int(found[2]))
