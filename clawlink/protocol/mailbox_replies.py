"""The replies about an agent's mailbox: JSON bodies as in ``replies``."""

from __future__ import annotations

from typing import Generic

from msgspec import UNSET, Struct, UnsetType

from clawlink.protocol.replies import ByTheWay, M, TaskEvent, Wake


class Lease(Struct, frozen=True, gc=False):
    """The lease of a polled message. ``message_id`` is the message's own: a response's is its response_id.

    ``reported`` is the history of a task with earlier attempts, of this or of other agents.
    """

    message_id: str
    receipt: str
    attempt: int
    lease_expires_at: str
    reported: list[TaskEvent] | None = None


class Polled(Struct, Generic[M], frozen=True):
    """Messages, and in the same order their leases."""

    messages: list[M]
    count: int
    deliveries: list[Lease]
    registered_by_the_way: ByTheWay = UNSET


class Settled(Struct, frozen=True, gc=False):
    """The outcome of a receipt: ``acked``, ``nacked``, ``extended``, or ``lease_lost`` and why in ``error``."""

    receipt: str
    message_id: str
    status: str
    error: str | None = None
    lease_expires_at: str | None = None


class PolledAndAcked(Struct, Generic[M], frozen=True):
    """Messages and their leases, as of a poll; and a result for each receipt, those of ``ack`` before ``nack``."""

    messages: list[M]
    count: int
    deliveries: list[Lease]
    results: list[Settled]


class Receipted(Struct, frozen=True):
    """A result for each receipt, in the order asked; ``count`` of them took effect."""

    results: list[Settled]
    count: int


class DeadLetter(Struct, Generic[M], frozen=True):
    """A message that was handed out too often."""

    message_id: str
    from_agent: str
    attempts: int
    stored_at: str
    dead_at: str
    kept_until: str
    message: M


class DeadLetters(Struct, Generic[M], frozen=True):
    """The dead letters of one mailbox, oldest first."""

    dead_letters: list[DeadLetter[M]]
    count: int
    next: str | None = None


class Redriven(Struct, frozen=True):
    """The messages that are due again."""

    message_ids: list[str]
    count: int


class MessageStatus(Struct, frozen=True):
    """How far one message came. Stored, delivered, acked and answered are four facts; an absent one is null.

    ``delivered_to`` is the agent that has it; for a pool's task, the agent that claimed it. ``state`` is the furthest:
    stored, delivered, acked, expired or dead. For the sender of a broadcast the counts are over all recipients and the
    times are null. Its state is refused if no mailbox had room. ``woken`` are the last attempts to wake its reader;
    they say nothing about delivery. ``last_delivered_at`` and ``requeued_at`` are of a task that was taken or given
    back, and that no agent has claimed since: the time of its last claim, and the end of that.
    """

    message_id: str
    type: str
    from_agent: str
    to_agent: str | None
    state: str
    attempts: int
    stored_at: str
    delivered_at: str | None
    acked_at: str | None
    expired_at: str | None
    dead_at: str | None
    answered_at: str | None
    task_status: str | None
    recipients: int = 1
    counts: dict[str, int] = {}
    delivered_to: str | None = None
    woken: list[Wake] = []
    last_delivered_at: str | None = None
    requeued_at: str | None = None


class UnreadMessage(Struct, frozen=True, gc=False):
    """A message that waits. ``from_agent`` is null for the relay; ``words`` begin its text, if asked for."""

    message_id: str
    type: str
    from_agent: str | None
    from_name: str | None
    stored_at: str
    attempts: int
    words: str | UnsetType | None = UNSET


class UnreadSender(Struct, frozen=True, gc=False):
    """A sender of unread messages, and how many of those listed are its."""

    agent_id: str | None
    name: str | None
    count: int


class Unread(Struct, frozen=True, gc=False):
    """The messages that wait in a mailbox. ``messages`` are those that a poll would bring now, in its order.

    ``count`` is the number of all messages without an ack, also of those that a reader holds. ``latest`` is for
    ``since``.
    """

    agent_id: str
    count: int
    latest: int
    messages: list[UnreadMessage]
    senders: list[UnreadSender]
