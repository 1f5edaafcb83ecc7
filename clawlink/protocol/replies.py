"""What the relay answers, as typed structs: encoded by the server, decoded by the clients.

Times are ISO-8601 in UTC, but for ``last_heartbeat``, which is seconds since the epoch as in ClawLink 1.0.x.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import Struct

from clawlink.domain.message import AgentCard

M = TypeVar("M")


class Info(Struct, frozen=True):
    """What the relay is and holds."""

    service: str
    version: str
    auth_required: bool
    agents_online: int
    total_broadcasts: int
    shared_files: int
    note: str
    endpoints: dict[str, str]
    server_time: str
    agents_stale: int = 0
    messages_held: int = 0
    bytes_held: int = 0
    agent_keys_required: bool = False
    draining: bool = False
    started_at: str = ""
    limits: dict[str, float] = {}


class Load(Struct, frozen=True, gc=False):
    """What an agent has before it: messages in its mailbox, and tasks without a final answer."""

    mailbox: int
    open_tasks: int


class ListedAgent(AgentCard, frozen=True, gc=False, kw_only=True):
    """An agent as ``discover`` lists it. Its age is the reply's ``server_time`` less ``last_heartbeat``."""

    load: Load
    claimed: bool


class Registered(Struct, frozen=True):
    """The agent as it is now registered. ``agent_key`` is given once, to the one who claims."""

    status: str
    agent: AgentCard
    server_time: str
    resumed: bool = False
    agent_key: str | None = None


class Discovered(Struct, frozen=True):
    """The agents that match, in the order they registered."""

    agents: list[ListedAgent]
    count: int
    server_time: str


class Beat(Struct, frozen=True):
    """``ok``, or ``unknown_agent`` (also with 200, as in 1.0.x)."""

    status: str


class RecipientInfo(Struct, frozen=True, gc=False):
    """Who will get it, and whether they are there."""

    agent_id: str
    name: str
    status: str
    last_heartbeat: float


class Delegated(Struct, frozen=True, gc=False):
    """The delegation is stored. ``message_id`` is also the task's id."""

    status: str
    delivery: str
    message_id: str
    recipient: RecipientInfo


class ResponseSent(Struct, frozen=True, gc=False):
    """The response is stored for the requester; ``delivery`` is ``none`` if the requester has left."""

    status: str
    delivery: str
    message_id: str
    response_id: str
    task_status: str
    recipient: RecipientInfo | None


class Sent(Struct, frozen=True, gc=False):
    """The message is stored."""

    status: str
    delivery: str
    message_id: str
    recipient: RecipientInfo


class BroadcastSent(Struct, frozen=True, gc=False):
    """The broadcast is stored in ``recipients`` mailboxes; ``refused`` more were full."""

    status: str
    message_id: str
    recipients: int
    refused: int = 0


class Lease(Struct, frozen=True, gc=False):
    """What goes with one message of a poll. ``message_id`` is the message's own: a response's is its response_id."""

    message_id: str
    receipt: str
    attempt: int
    lease_expires_at: str


class Polled(Struct, Generic[M], frozen=True):
    """Messages, and in the same order their leases."""

    messages: list[M]
    count: int
    deliveries: list[Lease]


class Settled(Struct, frozen=True, gc=False):
    """What became of one receipt: ``acked``, ``nacked``, ``extended``, or ``lease_lost`` and why in ``error``."""

    receipt: str
    message_id: str
    status: str
    error: str | None = None
    lease_expires_at: str | None = None


class Receipted(Struct, frozen=True):
    """One result a receipt, in the order asked; ``count`` of them took effect."""

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
    """Which messages are due again."""

    message_ids: list[str]
    count: int


class MessageStatus(Struct, frozen=True):
    """How far one message came. Stored, delivered, acked and answered are four facts; an absent one is null.

    ``state`` is the furthest: stored, delivered, acked, expired or dead. For the sender of a broadcast the counts are
    over all recipients and the times are null.
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


class FileSaved(Struct, frozen=True):
    """The version just written."""

    status: str
    version: int
    file_key: str


class FileInfo(Struct, frozen=True):
    """A shared file without its content. ``size`` is in bytes."""

    file_key: str
    file_type: str
    last_editor: str
    version: int
    updated_at: str
    size: int


class FileList(Struct, frozen=True):
    """The shared files."""

    files: list[FileInfo]
    count: int
    next: str | None = None


class FileContent(Struct, frozen=True):
    """A shared file. ``encoding`` is ``utf-8``, or ``base64`` for bytes that are not text."""

    file_key: str
    content: str
    file_type: str
    last_editor: str
    version: int
    updated_at: str
    encoding: str
    size: int


class FileDeleted(Struct, frozen=True):
    """The file is gone; its version number goes on counting."""

    status: str
    file_key: str
    version: int


class Left(Struct, frozen=True):
    """The agent has left. ``dropped`` messages were still in its mailbox."""

    status: str
    agent_id: str
    dropped: int


class Health(Struct, frozen=True):
    """The relay takes work: ``ok``. While it drains, it answers as for any new work: 503 ``draining``."""

    status: str


class Failure(Struct, frozen=True, omit_defaults=True):
    """Any error. ``error`` is for people, ``code`` for programs."""

    error: str
    code: str = "error"
    field: str | None = None
    limit: float | None = None
    actual: float | None = None
    retry_after: float | None = None
    current: Any = None
