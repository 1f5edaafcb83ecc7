"""Mailboxes: put in, claim, settle. Every way out of a mailbox goes through here."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from clawlink.domain import delivery as rules
from clawlink.domain.delivery import PENDING, Delivery, State
from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.domain.message import Priority
from clawlink.errors import LeaseLost, MailboxFull, RelayFull
from clawlink.relay import waiting
from clawlink.relay.core import Core, retrying
from clawlink.relay.ids import receipt, split_receipt
from clawlink.store.base import Conflict, Failed, Page, Put

_NORMAL = Priority.NORMAL.level
_NOTICE_SHARE = 0.5
_FULL_RETRY_SECONDS = 5.0
_SLICE = 256


class Outcome(Struct, frozen=True, gc=False):
    """What became of one receipt: the delivery as it is now, or why nothing was done."""

    receipt: str
    delivery: Delivery | None
    error: LeaseLost | None


class Mailbox:
    """The mailboxes of all agents."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ends_at = 0.0

    # -- in ----------------------------------------------------------------------------------------------------------

    def new(
        self,
        id: str,
        mailbox: str,
        *,
        sender: str,
        body: bytes,
        now: float,
        level: int = _NORMAL,
        merge: str | None = None,
    ) -> Delivery:
        """Return a delivery that is due at once, the last of its priority. Its time to live ends at a full second."""
        ends_at = float(math.ceil(now + self._core.limits.message_ttl))
        if ends_at != self._ends_at:
            self._ends_at = ends_at  # one number for all messages of a second: it is kept with each of them
        arrival = self._core.ids.arrival(now)
        return Delivery(
            id,
            1,
            mailbox,
            sender,
            rules.rank(level, arrival),
            body,
            now,
            now,
            self._ends_at,
            merge=merge,
        )

    async def require_room(self, mailbox: str, size: int, *, notice: bool = False) -> None:
        """Refuse what would overfill the mailbox or the relay.

        Notices and broadcasts fill only half of a mailbox, so that work still finds room.
        """
        limits = self._core.limits
        share = _NOTICE_SHARE if notice else 1.0
        used = await self._core.store.load(mailbox)
        if used.count >= limits.max_mailbox_messages * share:
            raise MailboxFull(
                f"the mailbox of {mailbox} holds {used.count} messages and takes no more than "
                f"{limits.max_mailbox_messages}; try again when its owner has read some",
                limit=limits.max_mailbox_messages,
                actual=used.count,
                retry_after=_FULL_RETRY_SECONDS,
            )
        if used.bytes + size > limits.max_mailbox_bytes * share:
            raise MailboxFull(
                f"the mailbox of {mailbox} holds {used.bytes} bytes, and with these {size} it would pass its limit of "
                f"{limits.max_mailbox_bytes}; try again when its owner has read some",
                limit=limits.max_mailbox_bytes,
                actual=used.bytes + size,
                retry_after=_FULL_RETRY_SECONDS,
            )
        held = await self._core.store.total()
        if held.bytes + size > limits.max_stored_bytes:
            raise RelayFull(
                f"the relay holds {held.bytes} bytes of messages and takes no more than {limits.max_stored_bytes}; "
                "try again when some have been read",
                limit=limits.max_stored_bytes,
                actual=held.bytes + size,
                retry_after=_FULL_RETRY_SECONDS,
            )

    async def put(self, delivery: Delivery, *changes: Put) -> None:
        """Store the delivery, with what else changes at the same home. Raises Conflict."""
        await self._core.commit(delivery.mailbox, *changes, Put(delivery))
        self._core.stats.stored += 1

    @retrying
    async def put_once(self, delivery: Delivery) -> Delivery:
        """Store the delivery unless one of that id is there already; return the one that is there then."""
        found = await self._core.store.get(Delivery, delivery.id)
        if found is not None:
            return found
        await self.put(delivery)
        return delivery

    async def put_notice(self, delivery: Delivery) -> bool:
        """Store a notice, in place of an unread one about the same thing; False if the mailbox has no room for it."""
        core = self._core
        if delivery.merge is not None:
            key = rules.by_merge(delivery.mailbox, delivery.merge)
            for unread in await core.store.first(Delivery, key, 1):
                newer = rules.supersede(unread, delivery.body, now=delivery.stored_at, ttl=core.limits.message_ttl)
                if newer is not None:
                    try:
                        await core.commit(newer.mailbox, Put(newer))
                    except Conflict:  # it is being read at this moment: the news goes in as a message of its own
                        break
                    core.stats.merged += 1
                    return True
        try:
            await self.require_room(delivery.mailbox, len(delivery.body), notice=True)
        except (MailboxFull, RelayFull):
            return False
        await self.put_once(delivery)
        return True

    # -- out ---------------------------------------------------------------------------------------------------------

    async def claim(
        self, mailbox: str, *, limit: int, wait: float, lease: float, tick: Callable[[], Any] | None = None
    ) -> list[Delivery]:
        """Lease up to ``limit`` messages for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

        ``tick`` is awaited now and then while waiting. Whoever calls this must settle or ``release`` what it got.
        """
        core = self._core

        async def read() -> list[Delivery]:
            if tick is not None:
                await tick()
            return await self._take(mailbox, limit, lease)

        return await waiting.first(
            core.signals,
            mailbox,
            read=read,
            next_at=lambda: core.store.next_due_at(mailbox),
            clock=core.clock,
            until=core.clock() + wait,
            over=lambda: core.draining,
            tick=max(core.limits.stale_after / 2, 1.0),
        )

    async def _take(self, mailbox: str, limit: int, seconds: float) -> list[Delivery]:
        try:
            return await self._lease_due(mailbox, limit, seconds, reread=False)
        except Conflict:
            return await self._take_reread(mailbox, limit, seconds)

    @retrying
    async def _take_reread(self, mailbox: str, limit: int, seconds: float) -> list[Delivery]:
        """Claim once the index has misled us: it names the messages, and each is read for itself."""
        return await self._lease_due(mailbox, limit, seconds, reread=True)

    async def _lease_due(self, mailbox: str, limit: int, seconds: float, *, reread: bool) -> list[Delivery]:
        core = self._core
        while True:
            now = core.clock()
            found: Iterable[Delivery] = await core.store.due(mailbox, now, limit)
            taken, changes = self._lease(await self._reread(found) if reread else found, now, seconds)
            if not changes:
                return []
            try:
                await core.commit(mailbox, *changes)
            except (asyncio.CancelledError, Failed):
                # The commit may have taken effect; nobody will read what it leased.
                with contextlib.suppress(Failed):
                    await asyncio.shield(self.release(mailbox, [receipt(str(d.receipt), d.id) for d in taken]))
                raise
            if taken:
                core.stats.delivered += len(taken)
                return taken
            # All that was due has expired or died: look at what comes behind it.

    async def _reread(self, hints: Iterable[Delivery]) -> list[Delivery]:
        found = [await self._core.store.get(Delivery, hint.id) for hint in hints]
        return [d for d in found if d is not None]

    def _lease(self, found: Iterable[Delivery], now: float, seconds: float) -> tuple[list[Delivery], list[Put]]:
        core = self._core
        limits = core.limits
        taken: list[Delivery] = []
        changes: list[Put] = []
        size = 0
        token = core.ids.token()  # one for the batch: a receipt is the token and the message together
        for d in found:
            size += len(d.body)
            if taken and size > MAX_REPLY_BYTES:
                break
            try:
                new = rules.lease(
                    d,
                    receipt=token,
                    now=now,
                    seconds=seconds,
                    max_attempts=limits.max_attempts,
                    keep=limits.retention if d.ends_at <= now else limits.message_ttl,
                )
            except LeaseLost:
                continue
            changes.append(Put(new))
            if new.state is PENDING:
                taken.append(new)
            elif new.state is State.DEAD:
                core.stats.dead += 1
            else:
                core.stats.expired += 1
        return taken, changes

    # -- settle ------------------------------------------------------------------------------------------------------

    async def ack(self, mailbox: str, receipts: Sequence[str]) -> list[Outcome]:
        """Settle leased messages. Repeating it with the same receipts is harmless."""
        now = self._core.clock()
        keep = self._core.limits.retention
        outcomes, changed = await self._settle(
            mailbox, receipts, lambda d, token: rules.ack(d, receipt=token, now=now, keep=keep)
        )
        self._core.stats.acked += changed
        return outcomes

    async def nack(self, mailbox: str, receipts: Sequence[str], delay: float) -> list[Outcome]:
        """Give leased messages back, due again after ``delay`` seconds."""
        now = self._core.clock()
        outcomes, changed = await self._settle(
            mailbox, receipts, lambda d, token: rules.nack(d, receipt=token, now=now, delay=delay)
        )
        self._core.stats.nacked += changed
        return outcomes

    async def extend(self, mailbox: str, receipts: Sequence[str], seconds: float) -> list[Outcome]:
        """Lengthen leases to ``seconds`` from now."""
        now = self._core.clock()
        outcomes, _ = await self._settle(
            mailbox, receipts, lambda d, token: rules.extend(d, receipt=token, now=now, seconds=seconds)
        )
        return outcomes

    async def release(self, mailbox: str, receipts: Sequence[str]) -> None:
        """Undo leases whose messages never left the relay."""
        now = self._core.clock()
        _, changed = await self._settle(mailbox, receipts, lambda d, token: rules.release(d, receipt=token, now=now))
        self._core.stats.released += changed

    @retrying
    async def _settle(
        self, mailbox: str, receipts: Sequence[str], rule: Callable[[Delivery, str], Delivery]
    ) -> tuple[list[Outcome], int]:
        """Apply a rule to what the receipts are for; return an outcome each, and how many messages changed."""
        core = self._core
        outcomes: dict[str, Outcome] = {}
        changes: list[Put] = []
        for given in receipts:
            if given in outcomes:
                continue
            token, id = split_receipt(given)
            d = await core.store.get(Delivery, id)
            try:
                if d is None or d.mailbox != mailbox:
                    raise LeaseLost(
                        "no message of this mailbox belongs to this receipt, or it is settled and forgotten"
                    )
                new = rule(d, token)
            except LeaseLost as error:
                outcomes[given] = Outcome(given, None, error)
                continue
            if new is not d:
                changes.append(Put(new))
            outcomes[given] = Outcome(given, new, None)
        if changes:
            await core.commit(mailbox, *changes)
        return [outcomes[given] for given in receipts], len(changes)

    # -- dead letters ------------------------------------------------------------------------------------------------

    async def dead_letters(self, mailbox: str, after: str | None, limit: int) -> Page[Delivery]:
        """List the dead letters of a mailbox, oldest first."""
        return await self._core.store.page(Delivery, rules.by_dead(mailbox), after, limit)

    async def redrive(self, mailbox: str, ids: Sequence[str] | None, limit: int) -> list[str]:
        """Put dead letters back at their old places, the named ones or the oldest; return the ids of those put back."""
        if ids is None:
            oldest = await self._core.store.first(Delivery, rules.by_dead(mailbox), limit)
            ids = [rules.message_id(d) for d in oldest]
        back = [id for id in dict.fromkeys(ids) if await self._redrive_one(mailbox, id)]
        self._core.stats.redriven += len(back)
        return back

    @retrying
    async def _redrive_one(self, mailbox: str, id: str) -> bool:
        core = self._core
        d = await core.store.get(Delivery, id) or await core.store.get(Delivery, rules.copy_id(id, mailbox))
        if d is None or d.mailbox != mailbox or d.state is not State.DEAD:
            return False
        await core.commit(mailbox, Put(rules.redrive(d, now=core.clock(), ttl=core.limits.message_ttl)))
        return True

    async def close(self, mailbox: str) -> int:
        """Settle as expired whatever is in the mailbox of an agent that leaves; return how many messages that were."""
        dropped = 0
        while True:
            found = [*await self._core.store.pending(mailbox, _SLICE)]
            found += await self._core.store.first(Delivery, rules.by_dead(mailbox), _SLICE)
            expired = sum([await self.expire(d.id) for d in found])
            if not expired:
                return dropped
            dropped += expired
            await asyncio.sleep(0)

    @retrying
    async def expire(self, id: str) -> bool:
        """Settle a message that nobody will take any more; False if it is settled already."""
        core = self._core
        d = await core.store.get(Delivery, id)
        if d is None or d.state not in (State.PENDING, State.DEAD):
            return False
        await core.commit(d.mailbox, Put(rules.expire(d, now=core.clock(), keep=core.limits.retention)))
        core.stats.expired += 1
        return True
