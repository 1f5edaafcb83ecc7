"""The consumers of the contacts' mailboxes: each posts the messages of one contact, in their order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.backoff import backoff, spread
from clawlink.domain.delivery import Delivery
from clawlink.doors.portal.records import AGENT, OPEN, QUEUED, Contact, Message, State, mailbox_of, queued_for
from clawlink.doors.portal.rules import outbox_steps
from clawlink.doors.portal.rules.outbox_steps import Outcome, Step
from clawlink.doors.portal.rules.urls import shown
from clawlink.doors.portal.server.contacts import Contacts
from clawlink.doors.portal.server.forwarded_tasks import Carried, ForwardedTasks, about
from clawlink.doors.portal.server.held_back import EXTEND_SECONDS, LEASE_SECONDS, HeldBack
from clawlink.doors.portal.server.members import Members
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.server.repository import Repository
from clawlink.doors.portal.server.workers import ContactWorkers
from clawlink.errors import OverLimit, Refused, StorageFull, Unavailable, UnknownAgent
from clawlink.relay.core import retrying
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Failed, Fenced, Put

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 300.0
_MISHAP_SECONDS = 5.0
# While the operator has stopped all work, a message under way waits, and looks again after this time.
STOPPED_SECONDS = 5.0
_FAREWELL_SECONDS = 2.0
_PAGE = 500
# Failures that pass by themselves, or once the contact reads: the delivery waits.
_PASSING = (Conflict, Failed, Unavailable, OverLimit, StorageFull, UnknownAgent)
_log = logging.getLogger("clawlink.portal")


class Outbox(ContactWorkers):
    """Posts what waits in the contacts' mailboxes. A contact whose mailbox is empty costs nothing."""

    def __init__(
        self,
        relay: Relay,
        repository: Repository,
        contacts: Contacts,
        members: Members,
        poster: Poster,
        forwarded_tasks: ForwardedTasks,
    ) -> None:
        super().__init__()
        self._relay = relay
        self._core = relay.core
        self._repository = repository
        self._contacts = contacts
        self._members = members
        self._poster = poster
        self._forwarded_tasks = forwarded_tasks
        self._posting: set[str] = set()
        self._under_way: set[str] = set()
        """The deliveries that another portal is told of at this moment."""
        self._released: set[str] = set()
        self._held: dict[str, HeldBack] = {}
        """By contact, what waits while later messages pass."""

    @property
    def working(self) -> int:
        """How many contacts have messages that are being posted."""
        return len(self._working)

    async def start(self) -> None:
        """Go on with what was queued when the relay was here last."""
        self._closed = False
        after: str | None = None
        contacts: dict[str, None] = {}
        while True:
            page = await self._core.store.page(Message, QUEUED, after, _PAGE)
            contacts |= dict.fromkeys(message.contact for message in page.records)
            after = page.after
            if after is None:
                break
        for contact in contacts:
            self.wake(contact)

    def files_moved(self, contact: str) -> None:
        """Look whether what waits for its files has them, or may go to the contact again."""
        if contact in self._held:
            self._held[contact].look()

    async def close(self) -> None:
        """Stop posting. A post under way has a moment to learn its outcome: it would be in doubt otherwise.

        All other messages are due again at once when the relay comes back.
        """
        self._closed = True
        posting = [self._working[contact] for contact in self._posting]
        if posting:
            await asyncio.wait(posting, timeout=_FAREWELL_SECONDS)
        await self._cancel()

    async def _work(self, contact: str) -> None:
        while contact in self._again and not self._ending:
            self._again.discard(contact)
            try:
                await self._empty(contact)
            except Fenced:  # another relay is the portal now
                return
            except UnknownAgent:  # the contact was forgotten, or the operator removed the agent that stands for it
                self._again.add(contact)
            except Exception:
                _log.exception("posting to a contact failed; it goes on", extra={"contact": contact})
                self._again.add(contact)
                self._released.discard(contact)  # what is still leased would come out of its order
                await asyncio.sleep(_MISHAP_SECONDS)

    async def _empty(self, contact: str) -> None:
        """Post until nothing waits."""
        store = self._core.store
        if await store.get(Contact, contact) is None and await store.get(Agent, mailbox_of(contact)) is None:
            return  # it was forgotten, and no agent is to stand for it again
        agent = await self._members.of(contact)
        if contact not in self._released:
            await self._doubt(contact, await release(self._relay, agent.id))
            self._released.add(contact)
        consumer = self._relay.consumer(agent, lease=LEASE_SECONDS, credit=1)
        held = self._held[contact] = HeldBack(self._relay, agent, partial(self._still_waits, contact))
        try:
            while await self._something_waits(contact, agent) and not self._ending:
                if await self._expire(contact):
                    continue
                taken, _ = await consumer.next(agent, tick=lambda: self._seen(agent))
                for delivery in taken:
                    given = [_receipt(delivery)]
                    outcome = await self._deliver(contact, agent, delivery, held)
                    if outcome is Carried.AGAIN:
                        return
                    if outcome is Carried.DONE:
                        await self._relay.acks.ack(agent.id, given)
                    if outcome is Carried.ENDED:
                        await self._relay.mailbox.expire(delivery.id)
                    consumer.settled(given)
        finally:
            del self._held[contact]
            await held.close()
            await consumer.close()

    async def _doubt(self, contact: str, held: Sequence[str]) -> None:
        """Note that a portal of ours may have what was being posted when the relay was killed.

        For any other portal that was noted before the post.
        """
        peer = await self._core.store.get(Contact, contact) if held else None
        for id in held if peer is not None and peer.ours else ():
            message = await self._core.store.get(Message, id)
            if message is not None and (doubtful := outbox_steps.cut_off(message)) is not message:
                await self._commit(doubtful)

    async def _something_waits(self, contact: str, agent: Agent) -> bool:
        if (await self._core.store.usage(Message, queued_for(contact))).count:
            return True
        async for delivery in self._relay.mailbox.pending(agent.id):
            if await self._core.store.get(Message, delivery.id) is None:  # a task, or news of one
                return True
        return False

    async def lapsed(self, delivery: Delivery) -> bool:
        """Tell the sender of what waited in a contact's mailbox until its time to live was over.

        Return False, and tell nothing, while it is being posted: it may still arrive. A slow post outlives its lease.
        """
        if delivery.id in self._under_way:
            return False
        message = await self._core.store.get(Message, delivery.id)
        if message is None:
            await self._forwarded_tasks.lapsed(delivery)
        elif (over := outbox_steps.lapse(message, self._core.clock())) is not message:
            await self._settle(message, over)
        return True

    async def _seen(self, agent: Agent) -> Agent | None:
        await self._relay.agents.touch(agent.id)
        return None

    async def _expire(self, contact: str) -> bool:
        """End the messages whose time is over, and tell the owner's agent; return True if there were any."""
        now, expired = self._core.clock(), False
        for hint in (await self._core.store.page(Message, queued_for(contact), limit=_PAGE)).records:
            if outbox_steps.lapse(hint, now) is hint:
                continue
            message = await self._core.store.get(Message, hint.id)  # the index may be late
            if message is not None and (lapsed := outbox_steps.lapse(message, now)) is not message:
                await self._settle(message, lapsed)
                expired = True
        return expired

    @property
    def _ending(self) -> bool:
        return self._closed or self._relay.draining

    async def _still_waits(self, contact: str, delivery: Delivery) -> bool:
        return await self._forwarded_tasks.send_files_on(await self._core.store.get(Contact, contact), delivery)

    async def _deliver(self, contact: str, agent: Agent, delivery: Delivery, held: HeldBack) -> Carried:
        """Post one message until it is settled, or put it aside; ``AGAIN`` if the relay ends before."""
        failed = 0
        while True:
            message = await self._core.store.get(Message, delivery.id)
            now = self._core.clock()
            if message is None:
                if self._core.stopped:
                    await self._pause(contact, agent, delivery, STOPPED_SECONDS)
                    if self._ending:
                        return Carried.AGAIN
                    continue
                task_id = about(delivery)
                follows = held.follows(delivery, task_id)
                async with self._telling_of(agent, delivery):
                    outcome = Carried.WAITS if follows else await self._carry(contact, agent, delivery)
                if outcome is Carried.ADOPTED:
                    continue
                if outcome is Carried.WAITS:
                    held.put(delivery, str(task_id))
                if outcome is not Carried.AGAIN or self._ending:
                    return outcome
                failed += 1
                await self._pause(contact, agent, delivery, _after(failed))
                continue
            if message.state not in OPEN:
                return Carried.DONE if message.state is State.SENT else Carried.ENDED
            if (lapsed := outbox_steps.lapse(message, now)) is not message:
                await self._settle(message, lapsed)
                return Carried.ENDED
            if self._core.stopped:
                await self._pause(contact, agent, delivery, STOPPED_SECONDS)
                if self._ending:
                    return Carried.AGAIN
                continue
            self._posting.add(contact)
            try:
                async with self._telling_of(agent, delivery):
                    settled = await self._try(contact, message)
            finally:
                self._posting.discard(contact)
            if settled:
                continue
            if self._ending:
                return Carried.AGAIN
            failed += 1
            pause = _after(failed)
            left = pause if message.expires_at is None else message.expires_at - now
            await self._pause(contact, agent, delivery, min(pause, left))

    @asynccontextmanager
    async def _telling_of(self, agent: Agent, delivery: Delivery) -> AsyncIterator[None]:
        """Hold the lease while another portal is told: the relay that looks after the records may be another one."""
        self._under_way.add(delivery.id)
        holding = asyncio.create_task(self._hold(agent, delivery))
        try:
            yield
        finally:
            self._under_way.discard(delivery.id)
            holding.cancel()
            await asyncio.wait([holding])

    async def _hold(self, agent: Agent, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(EXTEND_SECONDS)
            with suppress(*_PASSING):
                await self._relay.acks.extend(agent.id, [_receipt(delivery)], LEASE_SECONDS)

    async def _carry(self, contact: str, agent: Agent, delivery: Delivery) -> Carried:
        """Take what agents of the relay left for a contact to its portal.

        What can never be carried is settled, too: everything behind it waits for it.
        """
        peer = await self._core.store.get(Contact, contact)
        try:
            return await self._forwarded_tasks.carry(peer, agent, delivery)
        except _PASSING:
            return Carried.AGAIN
        except Refused as refused:
            why = refused.message
        except Exception:
            _log.exception("a delivery cannot be carried", extra={"contact": contact, "delivery": delivery.id})
            why = "the relay could not read it for the other portal; send it as plain text or as a file"
        return await self._forwarded_tasks.give_up(agent, delivery, why)

    async def _try(self, contact: str, message: Message) -> bool:
        """Take one step with a message; return True once it is settled."""
        peer = await self._core.store.get(Contact, contact)
        why = "removed" if peer is None else peer.shut(self._core.steady())
        if peer is None or why is not None:
            before = "it was confirmed" if message.state is State.SENDING else "the message was sent"
            gone = outbox_steps.given_up(message, State.REFUSED, f"the contact was {why} before {before}")
            await self._settle(message, gone)
            return True
        if peer.paused:
            return False
        if outbox_steps.step(message, peer.ours) is Step.ASK:
            ours = await self._poster.is_ours(peer)
            if ours is None:
                return False
            peer = await self._contacts.learn(contact, ours=ours) or peer
        begun = outbox_steps.begun(message, peer.ours)
        if begun is not message:
            await self._commit(begun)
            if begun.state is State.UNKNOWN:
                await self._tell(begun)
                return True
        posted = await self._poster.post(peer, begun)
        if posted.outcome in (Outcome.STORED, Outcome.REFUSED):
            self._repository.reach.heard(contact, self._core.steady())
        else:
            self._repository.reach.missed(contact)
        if posted.outcome is Outcome.STORED:
            await self._contacts.learn(contact, ours=posted.ours)
        await self._settle(begun, outbox_steps.after(begun, posted.outcome, posted.detail, self._core.steady()))
        return posted.outcome in (Outcome.STORED, Outcome.REFUSED)

    async def _settle(self, before: Message, after: Message) -> None:
        if after != before:
            await self._commit(after)
        if after.state in (State.REFUSED, State.EXPIRED, State.UNKNOWN):
            await self._tell(after)

    @retrying
    async def _commit(self, message: Message) -> None:
        """Store the next version of a message. An answer that was noted meanwhile stays."""
        stored = await self._core.store.get(Message, message.id)
        if stored is None:  # the contact was forgotten meanwhile
            return
        if stored.version >= message.version:
            message = replace(message, version=stored.version + 1, answered_at=stored.answered_at)
        await self._core.commit(message.partition_key, Put(message))

    async def _tell(self, message: Message) -> None:
        """Tell the owner's agent, and the sender, that a message did not arrive, or that nobody knows."""
        own = "" if message.sender == AGENT else f" ({message.id})"
        text = f"Message {message.number}{own} to {shown(message.contact)} is {message.state.value}: {message.detail}"
        await self._repository.tell_sender(message.id, text, message.sender)

    async def _pause(self, contact: str, agent: Agent, delivery: Delivery, seconds: float) -> None:
        """Wait before the next try, and hold the lease meanwhile. A new message for the contact ends the wait."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        hurry = self._hurry[contact]
        hurry.clear()
        while (left := until - loop.time()) > 0 and not hurry.is_set():
            await self._relay.acks.extend(agent.id, [_receipt(delivery)], LEASE_SECONDS)
            await self._wait(contact, min(left, EXTEND_SECONDS))


def _after(failed: int) -> float:
    return spread(backoff(failed, first=FIRST_PAUSE_SECONDS, most=MOST_PAUSE_SECONDS), random.random())


def _receipt(delivery: Delivery) -> str:
    return receipt(str(delivery.receipt), delivery.id)


async def release(relay: Relay, mailbox: str) -> Sequence[str]:
    """Make due what a consumer held before, and return the ids.

    Its relay was killed, or lost its lease: no other reads the mailbox now.
    """
    held = [d async for d in relay.mailbox.pending(mailbox) if d.receipt is not None]
    if held:
        await relay.acks.release(mailbox, list(map(_receipt, held)))
    return [d.id for d in held]
