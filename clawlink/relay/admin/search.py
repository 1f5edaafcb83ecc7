"""Search for the operator: agents, tasks, broadcasts, files and messages by their name, id or words."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from clawlink.domain import delivery as delivery_rules
from clawlink.domain import file as file_rules
from clawlink.domain import task as rules
from clawlink.domain.agent import REGISTERED, Agent, fold
from clawlink.domain.broadcast import KNOWLEDGE, Knowledge
from clawlink.domain.delivery import ALL_DEAD, Delivery
from clawlink.domain.file import PRESENT, RESTRICTED, SharedFile
from clawlink.domain.record import SETTLED
from clawlink.domain.task import DELIVERED, FINAL, OPEN, QUEUED, Task, TaskState
from clawlink.protocol.admin_views import Hit, Hits, SearchQuery
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core
from clawlink.relay.ids import derived
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.unread import glimpse
from clawlink.relay.pages import place_in
from clawlink.relay.time_slices import SLICE, Turns
from clawlink.store.base import no_place

# A request stops after a look at this number of records, or of bytes of texts, and goes on at the next one.
_LOOKED_AT = 5000
_LOOKED_AT_BYTES = 16 * 1024 * 1024
# A longer text is searched in its beginning alone: the search of it may not hold the event loop.
_SEARCHED_BYTES = 64 * 1024
_WORDS = 200
_STATES = (*OPEN, *(state for state in TaskState if state in FINAL))


class _Words(Struct, gc=False):
    """The texts of a message."""

    task: Raw | UnsetType = UNSET
    context: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    note: Raw | UnsetType = UNSET


def _mark(agent: Agent) -> str:
    """Return a text without ``~`` that tells an agent from others."""
    return derived("search", agent.id)


_words = msgspec.json.Decoder(_Words)
_Make = Callable[[Any, str], Hit | None]


class _Look:
    """The hits of one request, and how much it has looked at. ``text`` is folded, and ``limit`` the most hits."""

    def __init__(self, text: str, limit: int) -> None:
        self.text = text
        self.hits: list[Hit] = []
        self._limit = limit
        self._turns, self._records, self._bytes = Turns(), 0, 0

    async def at(self, hit: Hit | None, size: int) -> None:
        """Count a record that was looked at, and keep its hit. Other requests have their turn in between."""
        self._records += 1
        self._bytes += size
        if hit is not None:
            self.hits.append(hit)
        await self._turns.next()

    @property
    def room(self) -> int:
        return self._limit - len(self.hits)

    @property
    def full(self) -> bool:
        """Return True if the reply has enough."""
        return self.room <= 0 or self._records >= _LOOKED_AT or self._bytes >= _LOOKED_AT_BYTES


class SearchViews:
    """The search. ``contents`` is False to search names and ids alone."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, *, contents: bool) -> None:
        self._core = core
        self._mailbox = mailbox
        self._iso = core.time.iso
        self._agents = agents
        self._contents = contents
        self._sources: list[tuple[type[Any], str, bool, _Make | None]] = [(Agent, REGISTERED, False, self._agent)]
        for state in _STATES:
            if state in (QUEUED, DELIVERED):
                self._sources.append((Delivery, rules.in_state(state), True, self._task))
            self._sources.append((Task, rules.in_state(state), True, self._task))
        self._sources += [
            (Knowledge, KNOWLEDGE, True, self._broadcast),
            (SharedFile, PRESENT, False, self._file),
            (SharedFile, RESTRICTED, False, self._file),
            (Agent, REGISTERED, False, None),  # whose mailboxes have the unread messages
            (Delivery, ALL_DEAD, True, self._message),
            (Delivery, SETTLED, True, self._message),
        ]

    async def search(self, ask: SearchQuery) -> Hits:
        """Find what has the text, kind by kind, and the newest first where that is known. Raises BadRequest."""
        look = _Look(fold(ask.text), ask.limit)
        source, after = place_in(len(self._sources), ask.after)
        while source < len(self._sources) and look.text:
            kind, key, newest, make = self._sources[source]
            if make is None:
                after = await self._unread(look, after)
            else:
                page = await self._core.store.page(kind, key, after, min(look.room, SLICE), newest=newest)
                for record in page.records:
                    await look.at(make(record, look.text), record.weight if newest else 0)
                after = page.after
            source += after is None
            if look.full:
                break
        more = source < len(self._sources) and bool(look.text)
        names = await self._agents.names(id for hit in look.hits for id in hit.agents)
        return Hits(look.hits, len(look.hits), f"{source}.{after or ''}" if more else None, names)

    async def _unread(self, look: _Look, after: str | None) -> str | None:
        """Search the messages of mailboxes that are neither settled nor dead: so no other source has them.

        It goes on behind ``after``: the id of a message with the mark of its agent, and the place before that agent,
        with ``~`` in between. The newest message of a mailbox comes first. Return the next such text, or None at the
        end.
        """
        store = self._core.store
        parts = (after or "~~").split("~", 2)
        if len(parts) != 3:
            raise no_place(parts[0])
        before, mark, place = parts
        page = await store.page(Agent, REGISTERED, place or None, SLICE)
        mailboxes = (await store.admission([agent.id for agent in page.records])).mailboxes
        searched: set[str] = set()
        for agent, held in zip(page.records, mailboxes, strict=True):
            # If the agent of the message has left, another one is here.
            here = before if mark and _mark(agent) == mark else ""
            last = await self._mailbox_of(agent, look, here) if held.count else None
            if last is None:
                searched.add(agent.id)
            if last is not None or (look.full and len(searched) < len(page.records)):
                rest = await self._behind(searched, place)
                told = "~" if last is None else f"{last}~{_mark(agent)}"
                return None if rest is None else f"{told}~{rest}"
        return None if page.after is None else f"~~{page.after}"

    async def _behind(self, searched: set[str], place: str) -> str | None:
        """Return the place behind the first agents after ``place`` that are ``searched``; None if no agent is there.

        Some of them may have left meanwhile.
        """
        for count in range(len(searched), 0, -1):
            page = await self._core.store.page(Agent, REGISTERED, place or None, count)
            if all(agent.id in searched for agent in page.records):
                return page.after
        return place

    async def _mailbox_of(self, agent: Agent, look: _Look, before: str) -> str | None:
        """Search a mailbox behind the message with the id ``before``. Return the last id of a page that is full."""
        found: list[tuple[str, Hit]] = []
        async for d in self._mailbox.pending(agent.id):
            hit = self._message(d, look.text) if not before or d.id < before else None
            await look.at(None, len(d.body))
            if hit is not None:
                heapq.heappush(found, (d.id, hit))
                if len(found) > look.room + 1:
                    heapq.heappop(found)
        found.sort(reverse=True)
        rest = found[look.room :]
        del found[look.room :]
        look.hits += [hit for _, hit in found]
        return found[-1][0] if rest else None

    def _said(self, body: bytes, text: str) -> bool:
        """Return True if a message has the text in its words, and not only in its other fields."""
        needle = msgspec.json.encode(text)[1:-1].decode()
        if not self._contents or needle not in fold(body[:_SEARCHED_BYTES].decode(errors="ignore")):
            return False
        said = _words.decode(body)
        parts = (said.task, said.context, said.content, said.result, said.note)
        return any(
            part is not UNSET and needle in fold(bytes(part)[:_SEARCHED_BYTES].decode(errors="ignore"))
            for part in parts
        )

    def _agent(self, agent: Agent, text: str) -> Hit | None:
        name = self._agents.shown_name(agent)
        if not any(text in fold(known) for known in (agent.id, agent.name, name)):
            return None
        status = self._agents.presence(agent).value
        return Hit("agent", agent.id, name, status, [agent.id], self._iso(agent.last_heartbeat), None)

    def _task(self, record: Task | Delivery, text: str) -> Hit | None:
        if not record.id.startswith(text) and not self._said(record.body, text):
            return None
        task = record if isinstance(record, Task) else rules.task_from_delivery(record)
        agents = [task.requester, *([] if task.assignee is None else [task.assignee])]
        return Hit("task", task.id, None, task.state.value, agents, self._iso(task.created_at), self._words(task.body))

    def _broadcast(self, one: Knowledge, text: str) -> Hit | None:
        found = one.id.startswith(text) or text in fold(one.topic) or text in map(fold, one.tags)
        if not found and not self._said(one.body, text):
            return None
        return Hit("broadcast", one.id, one.topic, None, [one.author], self._iso(one.stored_at), self._words(one.body))

    def _file(self, file: SharedFile, text: str) -> Hit | None:
        if text not in fold(file.id) or file_rules.present(file, self._core.clock()) is None:
            return None
        return Hit("file", file.id, file.id, None, [file.newest.editor], self._iso(file.newest.written_at), None)

    def _message(self, d: Delivery, text: str) -> Hit | None:
        id = delivery_rules.message_id(d)
        if id != d.id:  # a copy of a broadcast or of news
            return None
        if d.is_task or (not id.startswith(text) and not self._said(d.body, text)):
            return None
        kind = glimpse(d.body, 0).type
        return Hit(
            "message", id, kind, d.state.value, [d.sender, d.mailbox], self._iso(d.stored_at), self._words(d.body)
        )

    def _words(self, body: bytes) -> str | None:
        return glimpse(body, _WORDS).words if self._contents else None
