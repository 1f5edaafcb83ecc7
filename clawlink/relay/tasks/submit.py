"""Delegate: a task is stored for one agent, or for whoever of several claims it first."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec.structs import replace

from clawlink.domain import chain as chain_rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, by_claimant
from clawlink.domain.message import TaskDelegation, attached, decode, encode, of_person, says_the_same
from clawlink.domain.pool import Pool, pool_for
from clawlink.domain.task import Task, by_owner, is_requester, is_worker, task_from_delivery
from clawlink.errors import KeyReused, MailboxFull
from clawlink.protocol import requests
from clawlink.protocol.replies import Delegated, Pooled
from clawlink.relay.agents.agents import Agents
from clawlink.relay.core import Core, retrying
from clawlink.relay.files.grants import Grants
from clawlink.relay.ids import derived, derived_anew
from clawlink.relay.limits.shares import Held, Limit, less
from clawlink.relay.mailbox.admission import Admission
from clawlink.relay.mailbox.mailbox import Mailbox
from clawlink.relay.mailbox.pools import Pools
from clawlink.relay.mailbox.room import BYTES_FLAG, owner
from clawlink.relay.tasks.lifecycle import capabilities_of, pool_of
from clawlink.relay.tasks.reads import read_task
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import Absent, Conflict, Put, together
from clawlink.store.base import Admission as Counted

_FULL_RETRY_SECONDS = 30.0
_UNSET = msgspec.UNSET
_FEW = 4  # names that a line of the log has
_OPEN_TASKS = " tasks of "


# The ids that a client may give a task: none that the relay itself makes, for a response, a copy or a pool.
_OWN_ID = re.compile(r"(?![0-9a-f]{24}$)(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")
_KNOWN = {*TaskDelegation.__struct_fields__, "type", "delivery"}


class Own(NamedTuple):
    """The id that a client of 1.0.x gives a delegation, and its fields that the relay does not know."""

    id: str | None
    further: dict[str, Any]


class TaskSubmission:
    """How work comes in."""

    def __init__(self, core: Core, agents: Agents, mailbox: Mailbox, pools: Pools, admission: Admission) -> None:
        self._core = core
        self._agents = agents
        self._mailbox = mailbox
        self._pools = pools
        self._admission = admission
        self._grants = Grants(core)
        self._calm = core.shares.calm(core.limits.max_open_tasks, core.limits.max_mailbox_bytes)

    async def delegate(self, sender: Agent, ask: requests.Delegate, own: Own | None = None) -> Delegated:
        """Store a task for an agent, or for whoever of several claims it first.

        With an idempotency key a repeat answers as the first did, even if the recipient has left meanwhile. What the
        delegation has of its ``own`` counts for an agent without a key, and without an idempotency key.
        """
        core = self._core
        core.require_working()
        key = ask.idempotency_key
        own_id = None
        if own is not None:
            own = own if sender.key_hash is None and key is None else None
            own_id = None if own is None else await self._free(own.id)
        id = own_id or (core.ids.fresh() if key is None else derived("task", sender.id, key))
        if key is not None:
            known = await self._known(id)
            if known is not None and not is_requester(known, sender):
                id = derived_anew("task", sender, key)
                known = await self._known(id)
            if known is not None:
                return await self._repeat(cast("TaskDelegation", decode(known.body)), sender, ask)
        if ask.to_agent is None:
            return await self._delegate_to_pool(id, sender, ask)
        named = ask.to_agent
        found, read = await together(core.store.get(Agent, named), self._read(named))
        to = found or await self._agents.resolve(named)
        chain = (
            chain_rules.first(sender.id)
            if ask.parent_task is None
            else await self._admission.chain(sender, to.id, parent_task=ask.parent_task)
        )
        now = self._admission.require_pace(sender.id, to.id)
        message = _delegation(id, sender, ask, to.id, chain, core.time, now)
        route = core.sockets.route(to.id)
        stored = await self._store(message, sender, to, ask, now, own=own, read=None if found is None else read)
        if stored is not None:
            if own_id is not None:  # somebody has taken the id at this moment
                return await self.delegate(sender, ask, own)
            return await self._repeat(stored, sender, ask)
        core.stats.tasks_delegated += 1
        if core.activity_log.takes():
            self._note(message, to_name=to.name, to_agent=to.id)
        return Delegated("delegated", route, id, self._agents.recipient(to, now))

    def _note(self, message: TaskDelegation, **facts: object) -> None:
        self._core.activity_log.write(
            "delegated",
            task_id=message.message_id,
            from_name=message.from_name,
            from_agent=message.from_agent,
            **facts,
            priority=message.priority.value,
        )

    async def _free(self, id: str | None) -> str | None:
        """Return the id that a client chose for its task, if it is one that may be chosen and nobody else has."""
        may_be = id is not None and _OWN_ID.fullmatch(id) is not None
        return id if id is not None and may_be and await self._first(id) is None else None

    async def _delegate_to_pool(self, id: str, sender: Agent, ask: requests.Delegate) -> Delegated:
        agents = [await self._agents.resolve(named, field="to_any_of") for named in ask.to_any_of or ()]
        members = [agent.id for agent in agents]
        chain = await self._admission.chain(sender, None, parent_task=ask.parent_task)
        now = self._admission.require_pace(sender.id, None)
        message = _delegation(id, sender, ask, None, chain, self._core.time, now, members=members)
        pool = pool_for(capabilities_of(message), members, {agent.id: agent.key_hash for agent in agents})
        if members:  # one text for the mailboxes of all tasks of the pool
            pool = replace(pool, id=(await self._core.store.get(Pool, pool.id) or pool).id)
        stored = await self._store(message, sender, pool, ask, now)
        if stored is not None:
            return await self._repeat(stored, sender, ask)
        self._core.stats.tasks_delegated += 1
        self._pools.wake_one(pool)
        if self._core.activity_log.takes():
            self._note(message, capabilities=_some(pool.capabilities), to_any_of=_some(members))
        return Delegated("delegated", "queued", id, None, await self._pooled(message, pool))

    async def _store(
        self,
        message: TaskDelegation,
        sender: Agent,
        to: Agent | Pool,
        ask: requests.Delegate,
        now: float,
        own: Own | None = None,
        read: Counted | None = None,
    ) -> TaskDelegation | None:
        """Put the delegation into a mailbox; return the one that was there first, if a repeat was faster.

        ``read`` is what ``_read`` has just said of the mailbox.
        """
        mailbox = to.id
        pool = to if isinstance(to, Pool) else None
        body = encode(message)
        if own is not None:
            body = _with_further(body, own.further)
        delivery = self._mailbox.new(
            message.message_id,
            mailbox,
            sender=sender,
            body=body,
            now=now,
            level=ask.priority.level,
            is_task=True,
            ends_at=None if ask.deadline is None else now + ask.deadline,
        )
        if read is None:
            read = await self._read(mailbox)
        await self._mailbox.require_room(delivery, read=read)
        known, alone = read.indexes
        count, size = known.count + alone.count, known.bytes + alone.bytes
        if count > self._calm.records or size + len(body) > self._calm.size:
            await self._require_capacity(delivery, count, size)
        if ask.attachments:
            if isinstance(to, Agent):
                await self._grants.to_agent(sender, ask.attachments, to)
            else:
                await self._grants.to_holders(sender, ask.attachments, message.message_id)
        if ask.idempotency_key is None and pool is None and own is None:
            try:
                await self._core.commit(mailbox, Put(delivery))
            except Conflict:
                return await self._put_again(delivery, pool)
            self._core.talks.count(delivery)
            return None
        return await self._put_again(delivery, pool)

    def _read(self, mailbox: str) -> Awaitable[Counted]:
        """Read what the mailbox holds, and the open tasks of its owner."""
        open_tasks = by_owner(mailbox)
        return self._core.store.admission((mailbox,), ((Task, open_tasks), (Delivery, open_tasks)))

    @retrying
    async def _put_again(self, delivery: Delivery, pool: Pool | None) -> TaskDelegation | None:
        """Store a delegation that may be there already, or whose pool may change."""
        first = await self._first(delivery.id)
        if first is None:
            using = () if pool is None else (await self._pools.using(pool, delivery.origin),)
            await self._mailbox.put(delivery, Absent(Task, delivery.id), *using)
        return first

    async def _first(self, id: str) -> TaskDelegation | None:
        """Return the delegation of this id, if it is stored already."""
        found = await self._known(id)
        return None if found is None else cast("TaskDelegation", decode(found.body))

    async def _known(self, id: str) -> Task | None:
        """Return the task of this id, as its delivery tells it if that is still there."""
        d = await self._core.store.get(Delivery, id)
        return await self._core.store.get(Task, id) if d is None else task_from_delivery(d)

    async def _repeat(self, first: TaskDelegation, sender: Agent, ask: requests.Delegate) -> Delegated:
        """Answer as the first time. Raises KeyReused if that was another request."""
        members = first.to_any_of if isinstance(first.to_any_of, tuple) else ()
        now_asked = _delegation(
            *(first.message_id, sender, ask, first.to_agent, first.chain, self._core.time, self._core.clock()),
            members=members,
        )
        named = list(zip(ask.to_any_of or (), members, strict=False))
        if ask.to_agent is not None and first.to_agent is not None:
            named.append((ask.to_agent, first.to_agent))
        same = (
            says_the_same(first, now_asked)
            and (ask.to_agent is None) == (first.to_agent is None)
            and len(ask.to_any_of or ()) == len(members)
            and (ask.parent_task is None or ask.parent_task == first.chain.parent_task)
            and all([await self._agents.means(text, agent_id) for text, agent_id in named])
        )
        if not same:
            raise KeyReused(
                "this idempotency key belongs to an earlier, different delegation; use a new key for new work",
                field="idempotency_key",
                current=first.message_id,
            )
        task, _ = await read_task(self._core.store, first.message_id)
        if first.to_agent is None:
            pool = pool_of(first, pool_for((), ()).id if task is None else task.mailbox)
            return Delegated("delegated", "queued", first.message_id, None, await self._pooled(first, pool))
        to = await self._core.store.get(Agent, first.to_agent)
        shown = None if to is None or task is None or not is_worker(task, to) else self._agents.recipient(to)
        return Delegated("delegated", self._core.sockets.route(first.to_agent), first.message_id, shown)

    async def _pooled(self, message: TaskDelegation, pool: Pool) -> Pooled:
        members = message.to_any_of if isinstance(message.to_any_of, tuple) else ()
        return Pooled(list(pool.capabilities), list(members), await self._pools.online(pool))

    async def _require_capacity(self, new: Delivery, count: int, held: int) -> None:
        """Refuse more work for an agent that has too much of it unfinished, fetched or not, or too much from one."""
        mailbox, size = new.mailbox, len(new.body)
        limits, shares = self._core.limits, self._core.shares
        open_tasks, their_bytes = limits.max_open_tasks, limits.max_mailbox_bytes
        key = by_owner(mailbox)
        if not shares.asks(_OPEN_TASKS + key, Limit(open_tasks, count, 1), Limit(their_bytes, held, size)):
            return
        claimed = by_claimant(mailbox)  # what the agent took from pools itself leaves room for what it is given
        taken = (await self._core.store.admission((), ((Task, claimed), (Delivery, claimed)))).indexes
        count, held = count - sum(u.count for u in taken), held - sum(u.bytes for u in taken)

        async def theirs() -> Held:
            return less(
                await shares.under(new.origin, (Task, key), (Delivery, key)),
                await shares.under(new.origin, (Task, claimed), (Delivery, claimed)),
            )

        await shares.require(
            MailboxFull,
            new.origin,
            theirs,
            count=Limit(open_tasks, count, 1, flag="--max-open-tasks"),
            bytes=Limit(their_bytes, held, size, flag=BYTES_FLAG),
            holds=f"{await owner(self._core.store, mailbox)} has",
            what="tasks without a final answer",
            then="try again when some are answered",
            retry_after=_FULL_RETRY_SECONDS,
        )


def _some(names: Sequence[str]) -> str | None:
    """Return the first few names, for a line of the log; None without any."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ",".join(names[:_FEW]) + more if names else None


def _with_further(body: bytes, further: dict[str, Any]) -> bytes:
    """Add fields that a message has not."""
    more = {name: value for name, value in further.items() if name not in _KNOWN}
    return body if not more else body[:-1] + b"," + msgspec.json.encode(more)[1:]


def _delegation(
    id: str,
    sender: Agent,
    ask: requests.Delegate,
    to: str | None,
    chain: chain_rules.Chain,
    time: StoppableTime,
    now: float,
    *,
    members: Any = (),
) -> TaskDelegation:
    stamp = time.iso(now)
    message = TaskDelegation(
        message_id=id,
        from_agent=sender.id,
        to_agent=to,
        task=ask.task,
        context={} if ask.context is None else ask.context,
        priority=ask.priority,
        timestamp=stamp,
        queued_at=stamp,
        from_name=sender.name,
        chain=chain,
    )
    capability = ask.capability
    if capability is None and ask.deadline is None and not (members or ask.attachments or sender.person):
        return message  # as most are
    return replace(
        message,
        from_person=of_person(sender.person),
        capability=_UNSET if capability is None else capability if isinstance(capability, str) else tuple(capability),
        to_any_of=tuple(members) if members else _UNSET,
        deadline_at=_UNSET if ask.deadline is None else time.iso(now + ask.deadline),
        attachments=attached(ask.attachments),
    )
