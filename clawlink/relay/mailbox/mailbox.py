"""Mailboxes: put in, bury, put back, close. What consumers do is in ``claims`` and ``receipts``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from msgspec.structs import replace

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, Sender, State
from clawlink.domain.message import Priority
from clawlink.domain.task import Task
from clawlink.errors import StorageFull
from clawlink.relay.core import Core, no_room_on_disk, retrying
from clawlink.relay.mailbox.lifetimes import Lifetimes
from clawlink.relay.mailbox.room import Purpose, Room
from clawlink.relay.pages import page_within
from clawlink.relay.time_slices import Turns
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Full, Page, Put

_NORMAL = Priority.NORMAL.level
_PAGE = 256


class Mailbox(Room):
    """The mailboxes of all agents, and of all pools."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self.lifetimes = Lifetimes(core.limits.message_ttl)

    # -- in ----------------------------------------------------------------------------------------------------------

    def new(
        self,
        id: str,
        mailbox: str,
        *,
        sender: Agent | Sender,
        body: bytes,
        now: float,
        level: int = _NORMAL,
        merge: str | None = None,
        is_task: bool = False,
        ends_at: float | None = None,
    ) -> Delivery:
        """Return a delivery that is due at once, the last of its priority.

        Its time to live ends at a full second; for a task, an ``ends_at`` is its deadline.
        """
        if ends_at is None:
            deadline_at, expires_at = None, self.lifetimes.end(now, mailbox, is_task=is_task)
        else:
            deadline_at, expires_at = ends_at if is_task else None, ends_at
        return Delivery(
            id,
            1,
            mailbox,
            sender.id,
            rules.sort_key(level, self._core.ids.arrival(now)),
            body,
            now,
            now,
            expires_at,
            merge=merge,
            is_task=is_task,
            deadline_at=deadline_at,
            address=sender.address,
            sender_key=sender.key_hash,
        )

    def copies(
        self,
        message_id: str,
        mailboxes: Sequence[str],
        *,
        sender: Agent | Sender,
        body: bytes,
        now: float,
        level: int = _NORMAL,
        merge: str | None = None,
        ends_at: float | None = None,
    ) -> list[Delivery]:
        """Return a copy of a message for each mailbox, each as ``new`` makes it."""
        if ends_at is None:
            ends_at = self.lifetimes.end(now)
        places = rules.sort_keys(level, self._core.ids.arrivals(now, len(mailboxes)), len(mailboxes))
        agent_id, address, key_hash = sender.id, sender.address, sender.key_hash
        return [
            Delivery(
                rules.copy_id(message_id, mailbox),
                1,
                mailbox,
                agent_id,
                place,
                body,
                now,
                now,
                ends_at,
                merge=merge,
                address=address,
                sender_key=key_hash,
            )
            for place, mailbox in zip(places, mailboxes, strict=True)
        ]

    async def put(self, delivery: Delivery, *changes: Put | Absent, ends_work: bool = False) -> None:
        """Store the delivery, with what else changes at the same partition. Raises Conflict."""
        await self._core.commit(delivery.mailbox, *changes, Put(delivery, ends_work))
        self._core.talks.count(delivery)

    async def put_before(
        self, delivery: Delivery, then: Batch, *, ends_work: bool = False, merged: Sequence[Put | Drop] = ()
    ) -> None:
        """Store the delivery, and once it is stored, what changes at another partition.

        Raises Conflict: the delivery may be stored then. If both have one partition, both take effect or none.
        ``merged`` is what stores it in place of another; see ``in_place_of_unread``.
        """
        core = self._core
        changes = tuple(merged) or (Put(delivery, ends_work),)
        if then.partition_key == delivery.mailbox:
            await core.commit(delivery.mailbox, *changes, *then.changes)
            results: Sequence[Conflict | Failed | None] = [None]
        else:
            results = await core.commit_in_order(Batch(delivery.mailbox, changes), then)
        if results[0] is None and merged:
            core.stats.merged += 1
        elif results[0] is None:
            core.talks.count(delivery)
        for result in results:
            if isinstance(result, Full):
                raise no_room_on_disk() from result
            if result is not None:
                raise result

    async def put_once(self, delivery: Delivery, *, ends_work: bool = False) -> Delivery:
        """Store the delivery, unless the store has one with its id. Return the delivery that the store has then."""
        try:
            await self._core.commit(delivery.mailbox, Put(delivery, ends_work))
        except Conflict:
            return await self._find_or_put(delivery, ends_work=ends_work)
        self._core.talks.count(delivery)
        return delivery

    @retrying
    async def _find_or_put(self, delivery: Delivery, *, ends_work: bool) -> Delivery:
        found = await self._core.store.get(Delivery, delivery.id)
        if found is not None:
            return found
        await self.put(delivery, ends_work=ends_work)
        return delivery

    async def put_notice(self, delivery: Delivery, purpose: Purpose = Purpose.NOTICE) -> bool:
        """Store a notice, in place of an unread one about the same thing; False if there is no room for it.

        If the disk is full, an answer finds room in its reserve. Raises StorageFull if that is used up.
        """
        core = self._core
        answers = purpose is Purpose.ANSWER
        changes = await self.in_place_of_unread(delivery, ends_work=answers)
        if changes:
            with contextlib.suppress(Conflict):  # it is being read: the news goes in as a message of its own
                await core.commit(delivery.mailbox, *changes)
                core.stats.merged += 1
                return True
        if not await self.has_room(delivery, purpose):
            return False
        try:
            await self.put_once(delivery, ends_work=answers)
        except StorageFull:
            if answers:
                raise
            return False
        return True

    async def in_place_of_unread(
        self, delivery: Delivery, first: Delivery | None = None, *, ends_work: bool = False
    ) -> tuple[Put | Drop, ...]:
        """Return the changes that store a notice in place of an unread one about the same thing; none if there is none.

        ``first`` is what is stored under the notice's own id, if that was read.
        """
        if delivery.merge is None:
            return ()
        key = rules.by_merge(delivery.mailbox, delivery.merge)
        found = [first] if first is not None else (await self._core.store.page(Delivery, key, limit=1)).records
        for unread in found:
            now, ttl = delivery.stored_at, self.lifetimes.ttl(delivery.mailbox)
            newer = delivery_steps.supersede(unread, delivery.body, now=now, ttl=ttl)
            if newer is not None and delivery.id == unread.id:
                return (Put(newer),)
            if newer is not None:
                return Put(replace(delivery, sort_key=unread.sort_key), ends_work), Drop(unread)
        return ()

    async def put_copies(self, new: Sequence[Delivery]) -> int:
        """Store copies of a broadcast or a notice, each in another mailbox; return how many found no room.

        They have one sender and one body, and are at most ``store.partitions_at_once``. Each finds room, or replaces an
        unread copy, as ``put_notice`` says. Raises Failed if the store failed for any, after all others were stored.
        """
        if not new:
            return 0
        core = self._core
        fresh: Sequence[Delivery] = new
        alone: list[Delivery] = []
        if new[0].merge is not None:
            keys = [rules.by_merge(d.mailbox, d.merge or "") for d in new]
            unread = await core.store.first_of(Delivery, keys)
            fresh = [d for d, old in zip(new, unread, strict=True) if old is None]
            alone = [d for d, old in zip(new, unread, strict=True) if old is not None]
        fresh, doubtful = await self._fresh_with_room(fresh)
        batches = [Batch(d.mailbox, (Put(d),)) for d in fresh]
        failed: Failed | None = None
        refused = 0
        results = await core.commit_many(batches)
        core.stats.stored += results.count(None)
        for d, result in zip(fresh, results, strict=True) if any(results) else ():
            if isinstance(result, Full):
                refused += 1
            elif isinstance(result, Failed):
                failed = result
            elif result is not None:
                await self._find_or_put(d, ends_work=False)
        for d in (*alone, *doubtful):
            refused += not await self.put_notice(d)
        if failed is not None:
            raise failed
        return refused

    async def _fresh_with_room(self, new: Sequence[Delivery]) -> tuple[list[Delivery], Sequence[Delivery]]:
        """Tell copies that surely find room, all of them together, from those to look at one by one."""
        if not new:
            return [], ()
        records, size = self._calm_half.records, self._calm_half.size - len(new[0].body)
        read = await self._core.store.admission([d.mailbox for d in new])
        near = [used.count > records or used.bytes > size for used in read.mailboxes]
        fresh, alone = list(new), []
        if any(near):
            fresh = [d for d, is_near in zip(new, near, strict=True) if not is_near]
            alone = [d for d, is_near in zip(new, near, strict=True) if is_near]
        if fresh and not await self._relay_has_room(fresh[0], len(fresh), read):
            return [], new
        return fresh, alone

    # -- dead letters ------------------------------------------------------------------------------------------------

    async def dead_letters(self, mailbox: str, after: str | None, limit: int) -> Page[Delivery]:
        """List the dead letters of a mailbox, oldest first."""
        return await page_within(self._core.store, Delivery, rules.by_dead(mailbox), after, limit)

    async def redrive(self, mailbox: str, ids: Sequence[str] | None, limit: int) -> list[str]:
        """Put dead letters back at their old places, the named ones or the oldest; return the ids of those put back."""
        if ids is None:
            ids = await self._dead(mailbox, limit)
        back: list[str] = []
        turns = Turns()
        for id in dict.fromkeys(ids):
            if await self._redrive_one(mailbox, id):
                back.append(id)
            await turns.next()
        self._core.stats.redriven += len(back)
        return back

    async def _dead(self, mailbox: str, limit: int) -> list[str]:
        """Return the ids of the oldest dead letters of a mailbox."""
        found: list[str] = []
        after: str | None = None
        turns = Turns()
        while True:
            page = await self.dead_letters(mailbox, after, min(limit - len(found), _PAGE))
            found += [rules.message_id(d) for d in page.records]
            after = page.after
            if after is None or len(found) >= limit:
                return found
            await turns.next(_PAGE)

    @retrying
    async def _redrive_one(self, mailbox: str, id: str) -> bool:
        core = self._core
        d = await core.store.get(Delivery, id) or await core.store.get(Delivery, rules.copy_id(id, mailbox))
        if d is None or d.mailbox != mailbox or d.state is not State.DEAD:
            return False
        now, ttl = core.clock(), self.lifetimes.ttl(mailbox, is_task=d.is_task)
        back = delivery_steps.redrive(d, now=now, ttl=ttl)
        task = await core.store.get(Task, d.id) if d.is_task else None
        if task is None:
            await core.commit(mailbox, Put(back))
        else:
            await core.commit(mailbox, Put(back), Put(task_steps.redrive(task, now=now, ends_at=now + ttl)))
        return True

    async def close(self, mailbox: str) -> int:
        """Settle as expired what is in the mailbox of an agent that leaves, but for tasks; return how many it was."""
        store = self._core.store
        dropped = 0
        async for d in self.pending(mailbox):
            dropped += not d.is_task and await self.expire(d.id)
        turns = Turns()
        for id in await self._dead(mailbox, self._core.shares.bound(self._core.limits.max_mailbox_messages)):
            dead = await store.get(Delivery, id) or await store.get(Delivery, rules.copy_id(id, mailbox))
            dropped += dead is not None and not dead.is_task and await self.expire(dead.id)
            await turns.next()
        return dropped

    async def pending(self, mailbox: str) -> AsyncIterator[Delivery]:
        """Give the pending deliveries of a mailbox, each once, with turns for other requests in between."""
        seen: set[str] = set()
        turns = Turns()
        while found := await self._core.store.pending(mailbox, _PAGE, seen):
            for d in found:
                await turns.next()
                seen.add(d.id)
                yield d
            await turns.next(_PAGE)

    async def expire_overdue(self, id: str) -> bool:
        """Expire a message whose time to live is over. Return True if it expires.

        The sender of a message that a door forwards hears of that before. A message that is being forwarded at this
        moment stays.
        """
        d = await self._core.store.get(Delivery, id)
        forwarding = None if d is None or d.state is not State.PENDING else self.lifetimes.forwarding(d.mailbox)
        if d is not None and forwarding is not None and not await forwarding.lapsed(d):
            return False
        return await self.expire(id)

    @retrying
    async def expire(self, id: str) -> bool:
        """Settle a message that nobody will take any more; False if it is settled already."""
        core = self._core
        d = await core.store.get(Delivery, id)
        if d is None or d.state not in (State.PENDING, State.DEAD):
            return False
        await core.commit(d.mailbox, Put(delivery_steps.expire(d, now=core.clock(), keep=core.limits.retention)))
        core.stats.expired += 1
        return True
