"""Delivery rules: the steps of a message in a mailbox.

Each function takes a delivery and the time and returns the delivery to store next, or raises.

One number drives it all: a pending delivery is due once ``visible_at <= now``. A lease, a delay and a lapse only move
that number, so nothing has to run for a message to be handed out again.

    pending --lease--> pending (leased: visible later, attempts + 1, new receipt)
    leased  --ack----> acked        --lapse, nack, release--> due again
    leased  --extend-> leased
    pending --its time to live is over----------> expired
    pending --leased once too often-------------> dead     --redrive--> pending
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import Agent, is_same
from clawlink.domain.attempts import AttemptEnd
from clawlink.domain.pool import is_pool
from clawlink.domain.record import SETTLED, text_bytes
from clawlink.domain.shares import Origin, holder
from clawlink.domain.wake import Wake, added
from clawlink.errors import LeaseLost


class State(str, Enum):
    """Where a delivery stands. All but ``PENDING`` are settled."""

    PENDING = "pending"
    ACKED = "acked"
    EXPIRED = "expired"
    DEAD = "dead"


class Sender(msgspec.Struct, frozen=True, gc=False):
    """The sender of a message, as the message keeps it: id, address if that is known, and the hash of its key."""

    agent_id: str
    address: str | None = None
    key_hash: str | None = None


def by(agent: Agent) -> Sender:
    """Return an agent as the sender of a message."""
    return Sender(agent.id, agent.address, agent.key_hash)


# The bytes of a delivery beside its id and body, measured; `clawlink.store.memory` has those that the store adds.
_RECORD_BYTES = 434

# Looking a member up in its class costs more than all else that a hot comparison does.
PENDING, ACKED, DEAD = State.PENDING, State.ACKED, State.DEAD


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message in a mailbox. Its partition is that mailbox.

    ``sort_key`` sorts a mailbox: priority first, then order of arrival. A later message with the same ``merge`` may
    replace this one while it is unread. Times are seconds since the epoch. The receipt proves the lease, and each lease
    has a new one.

    A delivery with ``is_task`` carries a task. While ``has_record`` is False the task has no other record, and the
    delivery stays after the ack while the task is open. ``visible_at`` is then the time when its holder loses it.
    ``holder`` is the agent that claimed it, if it is not the mailbox's agent, and ``lease`` its lease in seconds.
    ``address`` is the sender's. ``sender_key`` is the hash of the sender's key, and ``reader_key`` that of the last
    claiming reader's key. They tell an agent from a later agent with its id.
    ``ended`` says how the last attempt ended, if that was without an ack; a lapse counts once the message is dead.
    """

    id: str
    version: int
    mailbox: str
    sender: str
    sort_key: int
    body: bytes
    stored_at: float
    visible_at: float
    expires_at: float
    state: State = PENDING
    attempts: int = 0
    receipt: str | None = None
    delivered_at: float | None = None
    settled_at: float | None = None
    merge: str | None = None
    answered_at: float | None = None
    is_task: bool = False
    has_record: bool = False
    deadline_at: float | None = None
    holder: str | None = None
    lease: float = 0.0
    address: str | None = None
    sender_key: str | None = None
    reader_key: str | None = None
    wakes: tuple[Wake, ...] = ()
    ended: AttemptEnd | None = None

    @property
    def partition_key(self) -> str:
        return self.mailbox

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, holder(self.sender, self.sender_key))

    @property
    def index_keys(self) -> tuple[str, ...]:
        """The janitor finds settled deliveries, an owner finds dead ones, and a newer notice finds the unread one.

        A task without a record counts for its assignee, and its requester finds it.
        """
        if self.is_task and not self.has_record:
            if self.attempts:
                asked = " asked delivered " + self.sender
                if self.holder is None:
                    return (self.mailbox, asked, " tasks delivered")
                if is_pool(self.mailbox):
                    return (self.holder, asked, " tasks delivered", by_claimant(self.holder))
                return (self.holder, asked, " tasks delivered", by_lender(self.mailbox))
            return (self.mailbox, " asked queued " + self.sender, " tasks queued")
        if self.state is PENDING:
            return () if self.merge is None or self.attempts else (by_merge(self.mailbox, self.merge),)
        if self.state is DEAD:
            return (by_dead(self.mailbox), ALL_DEAD)
        return (SETTLED,)

    @property
    def ends_at(self) -> float:
        """When its time is over, or its holder's if it is all there is of a task."""
        if self.attempts and self.is_task and not self.has_record and self.visible_at < self.expires_at:
            return self.visible_at
        return self.expires_at

    @property
    def weight(self) -> int:
        return len(self.body)

    @property
    def footprint(self) -> int:
        """Beside the record of its task it takes no body of its own: it is the task's."""
        size = _RECORD_BYTES if self.has_record else _RECORD_BYTES + len(self.body)
        if self.wakes:
            size += sum(wake.footprint for wake in self.wakes)
        return size if self.merge is None else size + text_bytes(self.merge, sent=False)


# A store may sort by a double, which is exact below 2**53: two bits for the priority, and 51 for the arrival in
# microseconds since the epoch, which are enough until May 2041.
_ARRIVAL_BITS = 51
_LAST_ARRIVAL = (1 << _ARRIVAL_BITS) - 1


ALL_DEAD = " all dead letters"
"""The index key of the dead letters of all mailboxes, for the operator."""


def by_dead(mailbox: str) -> str:
    """Return the index key of a mailbox's dead letters."""
    return " dead " + mailbox


def by_lender(mailbox: str) -> str:
    """Return the index key of open tasks of a mailbox that another agent of its agent's name has claimed."""
    return " lent " + mailbox


def by_claimant(agent_id: str) -> str:
    """Return the index key of the open tasks that an agent has claimed from pools. They are not given to it by name."""
    return " claimed " + agent_id


def by_merge(mailbox: str, merge: str) -> str:
    """Return the index key of the unread notice about ``merge`` in a mailbox."""
    return f" merge {mailbox}\n{merge}"


def copy_id(message_id: str, mailbox: str) -> str:
    """Return the id of one recipient's copy of a message that goes to several."""
    return f"{message_id}:{mailbox}"


def message_id(d: Delivery) -> str:
    """Return the id of the message that the delivery carries."""
    return d.id.removesuffix(":" + d.mailbox)


def sort_key(level: int, arrival: int) -> int:
    """Return the number that sorts a mailbox, below 2**53: ``level`` 0 is urgent, 3 is low; ``arrival`` counts up.

    All arrivals from 2**51 on, those of a clock that is far ahead, are one: no message leaves its priority.
    """
    return level << _ARRIVAL_BITS | min(arrival, _LAST_ARRIVAL)


def arrival(d: Delivery) -> int:
    """Return the place of the message in the order of arrival."""
    return d.sort_key & _LAST_ARRIVAL


def is_sender(d: Delivery, agent: Agent) -> bool:
    """Return True if the agent sent the message, and is no later bearer of its sender's id."""
    return is_same(agent, d.sender, d.sender_key, d.stored_at)


def is_reader(d: Delivery, agent: Agent) -> bool:
    """Return True if the message is or was the agent's to read, and not that of an earlier agent with its id."""
    if d.delivered_at is not None and is_same(agent, d.holder or d.mailbox, d.reader_key, d.delivered_at):
        return True
    return agent.id == d.mailbox and agent.registered_at <= d.stored_at


def due(d: Delivery, now: float) -> bool:
    """Return True if the delivery may be leased at this moment."""
    return d.state is PENDING and d.visible_at <= now


def hands_out(d: Delivery, now: float, *, max_attempts: int) -> bool:
    """Return True if a claim at this moment would hand the message out, and neither expire nor bury it."""
    return due(d, now) and d.expires_at > now and d.attempts < max_attempts


def lease(
    d: Delivery,
    *,
    receipt: str,
    now: float,
    seconds: float,
    max_attempts: int,
    keep: float,
    key_hash: str | None = None,
) -> Delivery:
    """Lease the message until ``now + seconds``.

    Expire it if its time is over, make it a dead letter if it is out of attempts.

    A leased message lives at least as long as its lease. A settled result is kept for ``keep`` seconds. ``key_hash`` is
    the hash of the reader's key. Raises LeaseLost if the delivery is not due, because another claim was faster.
    """
    if not due(d, now):
        raise LeaseLost(f"message {d.id} is not due")
    if d.expires_at <= now:
        return expire(d, now=now, keep=keep)
    if d.attempts >= max_attempts:
        return bury(d, now=now, keep=keep)
    return replace(
        d,
        version=d.version + 1,
        attempts=d.attempts + 1,
        receipt=receipt,
        visible_at=now + seconds,
        expires_at=max(d.expires_at, now + seconds),
        delivered_at=now,
        reader_key=key_hash,
        ended=None,
    )


def lease_task(
    d: Delivery,
    *,
    by: str,
    receipt: str,
    now: float,
    seconds: float,
    alone: bool,
    key_hash: str | None = None,
) -> Delivery:
    """Lease a due task to the agent ``by`` with this key. The task is neither past its time nor out of attempts.

    ``alone`` is True while the task has no record of its own.
    """
    return replace(
        d,
        version=d.version + 1,
        attempts=d.attempts + 1,
        receipt=receipt,
        visible_at=now + seconds,
        delivered_at=now,
        has_record=not alone,
        holder=None if by == d.mailbox else by,
        lease=seconds,
        reader_key=key_hash,
        ended=None,
    )


def first_time(d: Delivery) -> bool:
    """Return True if the message is out for the first time ever: it was stored and leased, and nothing else."""
    return d.version == 2


def held(d: Delivery, receipt: str, now: float) -> bool:
    """Return True if the message is out under this receipt: not settled, and its lease has not lapsed."""
    return d.state is PENDING and d.receipt == receipt and d.visible_at > now


def require_receipt(d: Delivery, receipt: str) -> None:
    """Refuse any receipt but that of the present claim."""
    if d.state is not PENDING or d.receipt != receipt:
        raise LeaseLost(
            f"message {d.id} is no longer held under this receipt: its lease lapsed and it was handed out again, "
            "or it was given back or settled",
            current=d.state.value,
        )


def ack(d: Delivery, *, receipt: str, now: float, keep: float) -> Delivery:
    """Settle the message for good. Repeating it with the same receipt changes nothing.

    A lapsed lease still counts until another claim of the message: the receipt decides, not the clock.
    """
    if d.state is ACKED and d.receipt == receipt:
        return d
    require_receipt(d, receipt)
    return replace(d, version=d.version + 1, state=ACKED, settled_at=now, expires_at=now + keep)


def ack_unread(d: Delivery, *, now: float, keep: float) -> Delivery:
    """Settle a message that its recipient has read in another way. Raises LeaseLost while a reader holds it."""
    if d.state is ACKED:
        return d
    if not due(d, now):
        raise LeaseLost(f"message {d.id} is held by a reader at this moment, or settled", current=d.state.value)
    delivered_at = d.delivered_at or now
    return replace(
        d, version=d.version + 1, state=ACKED, delivered_at=delivered_at, settled_at=now, expires_at=now + keep
    )


def ack_task(d: Delivery, *, receipt: str, now: float, until: float) -> Delivery:
    """Note that its holder has the task, and keeps it until ``until`` if no sign of life lengthens that."""
    if d.state is ACKED and d.receipt == receipt:
        return d
    require_receipt(d, receipt)
    return replace(d, version=d.version + 1, state=ACKED, settled_at=now, visible_at=max(d.visible_at, until))


def nack(d: Delivery, *, receipt: str, now: float, delay: float, end: AttemptEnd = AttemptEnd.GIVEN_BACK) -> Delivery:
    """Give the message back, to be due again after ``delay`` seconds. The attempt counts."""
    require_receipt(d, receipt)
    return replace(d, version=d.version + 1, receipt=None, visible_at=now + delay, ended=end)


def release(d: Delivery, *, receipt: str, now: float) -> Delivery:
    """Undo a lease whose message never left the relay: due again at once, and the attempt does not count."""
    require_receipt(d, receipt)
    attempts = d.attempts - 1
    return replace(
        d,
        holder=None,
        version=d.version + 1,
        receipt=None,
        visible_at=now,
        attempts=attempts,
        delivered_at=d.delivered_at if attempts else None,
    )


def extend(d: Delivery, *, receipt: str, now: float, seconds: float) -> Delivery:
    """Lengthen the lease to ``now + seconds``; it is never shortened."""
    require_receipt(d, receipt)
    until = max(d.visible_at, now + seconds)
    return replace(d, version=d.version + 1, visible_at=until, expires_at=max(d.expires_at, until))


def extend_task(d: Delivery, *, receipt: str, now: float, seconds: float) -> Delivery:
    """Lengthen the hold on a task to ``now + seconds``, also after the ack; it is never shortened."""
    if d.state is not ACKED or d.receipt != receipt:
        require_receipt(d, receipt)
    return replace(d, version=d.version + 1, visible_at=max(d.visible_at, now + seconds))


def with_record(d: Delivery) -> Delivery:
    """Return the delivery, changed in the same step already, as that of a task that has a record now."""
    return replace(d, has_record=True, holder=None)


def expire(d: Delivery, *, now: float, keep: float) -> Delivery:
    """Settle a message that no reader took within its time to live."""
    return replace(d, version=d.version + 1, state=State.EXPIRED, receipt=None, settled_at=now, expires_at=now + keep)


def bury(d: Delivery, *, now: float, keep: float) -> Delivery:
    """Make a dead letter of a message that was handed out too often."""
    ended = AttemptEnd.LAPSED if d.ended is None and d.receipt is not None else d.ended
    changed = replace(d, version=d.version + 1, state=DEAD, receipt=None, settled_at=now, expires_at=now + keep)
    return replace(changed, ended=ended)


def redrive(d: Delivery, *, now: float, ttl: float) -> Delivery:
    """Put a dead letter back at its old place, with all its attempts and a new time to live; a deadline stands."""
    if d.state is not DEAD:
        raise LeaseLost(f"message {d.id} is not a dead letter", current=d.state.value)
    return replace(
        d,
        version=d.version + 1,
        state=PENDING,
        attempts=0,
        ended=None,
        visible_at=now,
        settled_at=None,
        expires_at=d.deadline_at or now + ttl,
    )


def placeholder(d: Delivery, *, keep: float) -> Delivery:
    """Return a message that is settled from the start: no reader gets it, but its id is taken."""
    return replace(d, state=ACKED, settled_at=d.stored_at, expires_at=d.stored_at + keep)


def answered(d: Delivery, *, now: float) -> Delivery:
    """Note that the recipient has answered the message. Only the first answer counts."""
    return d if d.answered_at is not None else replace(d, version=d.version + 1, answered_at=now)


def woken(d: Delivery, wake: Wake) -> Delivery:
    """Note that the reader's program tried to wake it for the message. Nothing else about the message changes."""
    wakes = added(d.wakes, wake)
    return d if wakes is d.wakes else replace(d, version=d.version + 1, wakes=wakes)


def postpone(d: Delivery, until: float) -> Delivery:
    """Leave the task with its holder, which has shown signs of life, until ``until``."""
    return replace(d, version=d.version + 1, visible_at=max(d.visible_at, until))


def beside_record(d: Delivery, until: float, *, expires_at: float) -> Delivery:
    """Go on as the delivery of a task that has a record now, held until ``until`` and living until ``expires_at``."""
    return replace(d, version=d.version + 1, has_record=True, visible_at=until, expires_at=expires_at)


def take_back(d: Delivery, *, now: float, keep_receipt: bool) -> Delivery:
    """Take a task from its holder, also after the ack: due at once."""
    return replace(
        d,
        version=d.version + 1,
        has_record=True,
        state=PENDING,
        settled_at=None,
        visible_at=now,
        holder=None,
        receipt=d.receipt if keep_receipt else None,
        ended=AttemptEnd.TAKEN_BACK if d.state is ACKED else AttemptEnd.LAPSED,
    )


def supersede(d: Delivery, body: bytes, *, now: float, ttl: float) -> Delivery | None:
    """Replace an unread notice by newer news at the same place; None if it has been read or is being read."""
    if d.state is not PENDING or d.attempts or d.merge is None:
        return None
    return replace(d, version=d.version + 1, body=body, expires_at=now + ttl)
