"""The list of what the operator did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from clawlink.domain.audit import ACTS, KEPT_SECONDS, MAX_ACTS, Act
from clawlink.protocol.admin import AuditEntry, AuditList, PageQuery
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core, retrying
from clawlink.relay.timestamps import iso
from clawlink.store.base import Conflict, Drop, Put


class Audit:
    """Keeps the acts of the operator, in the store."""

    def __init__(self, core: Core, agents: Agents) -> None:
        self._core = core
        self._agents = agents

    async def note(self, act: str, target: str, facts: object, *, by: str, address: str | None) -> None:
        """Keep an act and its result. Beyond ``MAX_ACTS`` the oldest act goes."""
        core = self._core
        now = core.steady()
        kept = Act(core.ids.fresh(), 1, now, act, target, address, by, msgspec.json.encode(facts), now + KEPT_SECONDS)
        await self._keep(kept)
        if (await core.store.usage(Act, ACTS)).count > MAX_ACTS:
            for oldest in (await core.store.page(Act, ACTS, limit=1)).records:
                try:
                    await core.commit(ACTS, Drop(oldest))
                except Conflict:  # it has gone already
                    return

    @retrying
    async def _keep(self, act: Act) -> None:
        if await self._core.store.get(Act, act.id) is None:
            await self._core.commit(ACTS, Put(act, ends_work=True))

    async def list(self, ask: PageQuery) -> AuditList:
        """List the acts, the newest first."""
        page = await self._core.store.page(Act, ACTS, ask.after, ask.limit, newest=True)
        entries = [
            AuditEntry(iso(a.at), a.act, a.target, a.address, a.by, msgspec.json.decode(a.facts)) for a in page.records
        ]
        names = await self._agents.names(id for entry in entries for id in _agents_of(entry.facts))
        return AuditList(entries, len(entries), page.after, names)


def _agents_of(facts: dict[str, Any]) -> Iterator[str]:
    """Give the ids of the agents that an act was about."""
    recipient = facts.get("recipient")
    for about in (facts, recipient if isinstance(recipient, dict) else {}):
        if isinstance(about.get("agent_id"), str):
            yield about["agent_id"]


def forget(act: Act, now: float) -> None:
    """Forget an act whose time is over."""
