"""Names and ids of agents: each is taken once, and none looks like that of a claimed agent."""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.domain import agent as rules
from clawlink.domain.agent import TAKING_SECONDS, Agent, NameHold, by_id, by_looks, by_name, fold, look_alike
from clawlink.domain.confusables import prototypes
from clawlink.domain.pool import Pool, is_heir
from clawlink.errors import NameTaken
from clawlink.relay.core import Core, retrying
from clawlink.store.base import Drop, Put

_NAMESAKES = 100


class Names:
    """The names and ids that agents have."""

    def __init__(self, core: Core) -> None:
        self._core = core
        prototypes()  # The table of look-alikes takes some milliseconds: make it before requests come.

    async def require_free_id(self, agent_id: str, now: float, *, claimed: bool) -> None:
        """Refuse an id that is another agent's name or id when folded: mail for that agent would go astray."""
        for other in await self._listed(by_id(agent_id), fold(agent_id)):
            if other.id != agent_id and rules.holds_id(other, now, self._core.limits, from_claimed=claimed):
                raise NameTaken(
                    f"the agent_id {agent_id!a} is the id or name of the agent {other.name!r} but for letter case or "
                    "the form of its characters; choose another agent_id",
                    field="agent_id",
                    current={"agent_id": other.id, "last_heartbeat": other.last_heartbeat},
                )
        await self._require_own_looks(agent_id, agent_id, field="agent_id")
        hold = await self._core.store.get(NameHold, fold(agent_id))
        if hold is not None and hold.agent_id != agent_id:
            await self._require_let_go(hold, agent_id, now, field="agent_id", from_claimed=True)

    async def require_its_own(self, agent_id: str, name: str, key_hash: str | None) -> None:
        """Refuse an id in whose mailbox tasks wait for an agent with another key, or else of another name."""
        pool = await self._core.store.get(Pool, agent_id)
        if pool is not None and not is_heir(pool, name, key_hash):
            what = "name" if pool.key_hash is None else "agent key"
            raise NameTaken(
                f"in the mailbox of {agent_id!r} tasks wait for the agent that has left it; "
                f"register with the {what} that it had, or choose another agent_id",
                field="agent_id",
            )

    async def require_free_name(self, name: str, agent_id: str, *, claimed: bool) -> None:
        """Refuse a name that is another agent's id when folded, or looks like a claimed one.

        Agents without a key may have one name, as in 1.0.x; then mail goes to the agent with that id.
        """
        for other in await self._listed(by_id(name), fold(name)):
            if other.id != agent_id and (claimed or other.key_hash is not None):
                raise NameTaken(
                    f"the name {name!r} is the id of the agent {other.name!r}; choose another name",
                    field="name",
                    current={"agent_id": other.id, "last_heartbeat": other.last_heartbeat},
                )
        await self._require_own_looks(name, agent_id, field="name")

    async def _require_own_looks(self, shown: str, agent_id: str, *, field: str) -> None:
        for other in [other for key in by_looks(shown) for other in await self._listed(key)]:
            if other.id == agent_id or fold(shown) in (fold(other.name), fold(other.id)):
                continue
            if look_alike(shown, other.name) or look_alike(shown, other.id):
                what = "name" if look_alike(shown, other.name) else "id"
                raise NameTaken(
                    f"{shown!a} looks like the {what} of the claimed agent {other.name!r}; choose another {field}",
                    field=field,
                    current={"agent_id": other.id, "last_heartbeat": other.last_heartbeat},
                )

    async def _listed(self, key: str, *ids: str) -> list[Agent]:
        """Return the agents that have an index key now, of those that the index shows and of these ids: it may lag."""
        store = self._core.store
        found = dict.fromkeys([*(agent.id for agent in (await store.page(Agent, key, limit=_NAMESAKES)).records), *ids])
        agents = [await store.get(Agent, id) for id in found]
        return [agent for agent in agents if agent is not None and key in agent.index_keys]

    async def take(self, name: str, agent_id: str, now: float, *, claimed: bool) -> None:
        store = self._core.store
        other = await store.get(Agent, name)
        if other is not None and other.id != agent_id:
            raise NameTaken(f"the name {name!r} is the id of another agent; choose another name", field="name")
        hold = await store.get(NameHold, fold(name))
        if hold is not None and hold.agent_id == agent_id:
            return
        if hold is not None:
            await self._require_let_go(hold, name, now, field="name", from_claimed=claimed)
        if claimed:  # agents without a key may share the name, and the hold names only one of them
            for namesake in await self._listed(by_name(name)):
                if namesake.id != agent_id:
                    self._require_given_up(namesake, name, now, field="name", from_claimed=True)
        taken = NameHold(
            id=fold(name),
            version=1 if hold is None else hold.version + 1,
            agent_id=agent_id,
            taken_at=now,
            claimed=claimed,
        )
        await self._core.commit(taken.partition_key, Put(taken))

    async def require_kept(self, agent: Agent, old: Agent | None, now: float) -> None:
        """Withdraw an agent without a key if a claim has taken its name at the same moment. Raises NameTaken.

        Agents without a key may share a name, and its hold tells of the last one alone: a claim may not see this agent.
        """
        hold = await self._core.store.get(NameHold, fold(agent.name))
        if hold is None or hold.agent_id == agent.id:
            return
        try:
            await self._require_let_go(hold, agent.name, now, field="name", from_claimed=False)
        except NameTaken:
            await self._withdraw(agent.id, old)
            raise

    @retrying
    async def _withdraw(self, agent_id: str, old: Agent | None) -> None:
        """Undo a registration: remove the agent, or restore its earlier record."""
        present = await self._core.store.get(Agent, agent_id)
        if present is not None:
            change = Drop(present) if old is None else Put(replace(old, version=present.version + 1))
            await self._core.commit(present.partition_key, change)

    async def _require_let_go(self, hold: NameHold, name: str, now: float, *, field: str, from_claimed: bool) -> None:
        holder = await self._core.store.get(Agent, hold.agent_id)
        if holder is not None:
            self._require_given_up(holder, name, now, field=field, from_claimed=from_claimed)
        has_it = holder is not None and fold(holder.name) == hold.id
        if not has_it and rules.is_being_taken(hold, now, from_claimed=from_claimed):
            raise NameTaken(
                f"{name!r} is being registered by another agent at this moment; try again in "
                f"{TAKING_SECONDS:g} s, or choose another name",
                field=field,
                retry_after=TAKING_SECONDS,
                current={"agent_id": hold.agent_id},
            )

    def _require_given_up(self, holder: Agent, name: str, now: float, *, field: str, from_claimed: bool) -> None:
        if rules.holds_name(holder, name, now, self._core.limits, from_claimed=from_claimed):
            raise NameTaken(
                f"{name!r} is held by agent {holder.id}, last seen {now - holder.last_heartbeat:.0f} s ago; "
                "register with its agent_id (and key) to resume it, or choose another name",
                field=field,
                current={"agent_id": holder.id, "last_heartbeat": holder.last_heartbeat},
            )

    @retrying
    async def give_up(self, agent: Agent) -> None:
        hold = await self._core.store.get(NameHold, fold(agent.name))
        if hold is not None and hold.agent_id == agent.id:  # else another agent has taken the name, and keeps it
            await self._core.commit(hold.partition_key, Drop(hold))
