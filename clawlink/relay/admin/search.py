"""Search for the operator: agents, tasks, broadcasts, files and messages by their name, id or words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
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
from clawlink.relay.mailbox.unread import glimpse
from clawlink.relay.pages import place_in
from clawlink.relay.time_slices import SLICE, Turns

# A request stops after a look at this number of records, or of bytes of texts, and goes on at the next one.
_LOOKED_AT = 5000
_LOOKED_AT_BYTES = 16 * 1024 * 1024
# A longer text is searched in its beginning alone: the search of it may not hold the event loop.
_SEARCHED_BYTES = 64 * 1024
_WORDS = 200
_UNREAD = 100
_STATES = (*OPEN, *(state for state in TaskState if state in FINAL))


class _Words(Struct, gc=False):
    """The texts of a message."""

    task: Raw | UnsetType = UNSET
    context: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    note: Raw | UnsetType = UNSET


_words = msgspec.json.Decoder(_Words)
_Make = Callable[[Any, str], Hit | None]


class SearchViews:
    """The search. ``contents`` is False to search names and ids alone."""

    def __init__(self, core: Core, agents: Agents, *, contents: bool) -> None:
        self._core = core
        self._iso = core.time.iso
        self._agents = agents
        self._contents = contents
        self._sources: list[tuple[type[Any], str, bool, _Make]] = [(Agent, REGISTERED, False, self._agent)]
        for state in _STATES:
            if state in (QUEUED, DELIVERED):
                self._sources.append((Delivery, rules.in_state(state), True, self._task))
            self._sources.append((Task, rules.in_state(state), True, self._task))
        self._sources += [
            (Knowledge, KNOWLEDGE, True, self._broadcast),
            (SharedFile, PRESENT, False, self._file),
            (SharedFile, RESTRICTED, False, self._file),
            (Agent, REGISTERED, False, self._nothing),  # whose mailboxes have the unread messages
            (Delivery, ALL_DEAD, True, self._message),
            (Delivery, SETTLED, True, self._message),
        ]

    async def search(self, ask: SearchQuery) -> Hits:
        """Find what has the text, kind by kind, and the newest first where that is known. Raises BadRequest."""
        text = fold(ask.text)
        source, after = place_in(len(self._sources), ask.after)
        hits: list[Hit] = []
        turns, looked_at, size = Turns(), 0, 0
        while source < len(self._sources) and text:
            kind, key, newest, make = self._sources[source]
            limit = min(ask.limit - len(hits), SLICE)
            page = await self._core.store.page(kind, key, after, limit, newest=newest)
            for record in page.records:
                if make == self._nothing:
                    async for d in self._unread(record):
                        size += len(d.body)
                        self._keep(hits, self._message(d, text))
                        await turns.next()
                else:
                    size += record.weight if newest else 0
                    self._keep(hits, make(record, text))
                await turns.next()
            looked_at += len(page.records)
            after = page.after
            source += after is None
            if len(hits) >= ask.limit or looked_at >= _LOOKED_AT or size >= _LOOKED_AT_BYTES:
                break
        more = source < len(self._sources) and bool(text)
        names = await self._agents.names(id for hit in hits for id in hit.agents)
        return Hits(hits, len(hits), f"{source}.{after or ''}" if more else None, names)

    async def _unread(self, agent: Agent) -> AsyncIterator[Delivery]:
        """Give messages of a mailbox that are neither settled nor dead: so no other source has them."""
        if (await self._core.store.admission((agent.id,))).mailboxes[0].count:
            for d in await self._core.store.pending(agent.id, _UNREAD):
                yield d

    @staticmethod
    def _keep(hits: list[Hit], hit: Hit | None) -> None:
        if hit is not None:
            hits.append(hit)

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

    def _nothing(self, record: Any, text: str) -> Hit | None:
        return None

    def _words(self, body: bytes) -> str | None:
        return glimpse(body, _WORDS).words if self._contents else None
