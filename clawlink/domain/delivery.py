"""A message in a mailbox: its record, the keys by which it is found, and questions about it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from operator import attrgetter
from typing import cast

import msgspec

from clawlink.domain.agent import Agent, is_same
from clawlink.domain.pool import is_pool
from clawlink.domain.record import SETTLED, text_bytes
from clawlink.domain.shares import Origin
from clawlink.domain.wake import Wake
from clawlink.errors import LeaseLost


class State(str, Enum):
    """Where a delivery stands. All but ``PENDING`` are settled."""

    PENDING = "pending"
    ACKED = "acked"
    EXPIRED = "expired"
    DEAD = "dead"


class AttemptEnd(str, Enum):
    """How an attempt ended."""

    LAPSED = "lapsed"  # the reader was silent until its lease was over
    GIVEN_BACK = "given_back"  # the reader gave the message back
    CONNECTION_ENDED = "connection_ended"  # the reader's connection ended after it had read the message
    TAKEN_BACK = "taken_back"  # the agent was silent, or left, after it had acknowledged the task
    UNDELIVERABLE = "undeliverable"  # the reader's protocol has no way to carry the message


class Sender(msgspec.Struct, frozen=True, gc=False):
    """The sender of a message that is no registered agent: id, address if that is known, and the hash of its key."""

    id: str
    address: str | None = None
    key_hash: str | None = None


# The bytes of a delivery beside its id and body, measured; `clawlink.store.tables` has those that the store adds.
_RECORD_BYTES = 434

# Calling ``Origin`` costs twice as much, and each commit of a message asks.
_origin = tuple.__new__
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

    partition_key = cast("str", property(attrgetter("mailbox")))  # each commit asks, and this costs no call

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return _origin(Origin, (self.address, self.sender_key or self.sender))  # as ``holder``, without a call

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
    return level << _ARRIVAL_BITS | (arrival if arrival < _LAST_ARRIVAL else _LAST_ARRIVAL)


def sort_keys(level: int, first: int, count: int) -> Sequence[int]:
    """Return the numbers that sort several messages, in the order of their arrivals from ``first`` on."""
    begin, last = sort_key(level, first), sort_key(level, first + count - 1)
    every = range(begin, last + 1)
    return every if len(every) == count else [sort_key(level, first + n) for n in range(count)]


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


def takes_as_much(old: Delivery, new: Delivery) -> bool:
    """Return True if a change surely leaves the memory of the delivery as it is, as an ack does."""
    return (
        new.body is old.body and new.has_record == old.has_record and new.merge is old.merge and new.wakes is old.wakes
    )


def stays_in_place(old: Delivery, new: Delivery) -> bool:
    """Return True if a change surely moves no key of the delivery, nor its end and its size, as a lease mostly does."""
    return (
        old.state is PENDING
        and new.state is PENDING
        and new.body is old.body
        and new.expires_at == old.expires_at
        and not (new.is_task or old.is_task)
        and new.merge is None
        and old.merge is None
        and new.wakes is old.wakes
    )


def first_time(d: Delivery) -> bool:
    """Return True if the message is out for the first time ever: it was stored and leased, and nothing else.

    One commit may have done both, or two.
    """
    return d.version <= 2 and d.attempts == 1


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
