"""The requests and replies of acts of the operator."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct

from clawlink.domain import limits
from clawlink.domain.agent import OPERATOR
from clawlink.domain.delivery import AttemptEnd
from clawlink.domain.message import Priority as MessagePriority
from clawlink.protocol import requests
from clawlink.protocol.requests import (
    Capabilities,
    Content,
    DeadlineSeconds,
    FileKey,
    IdempotencyKey,
    Limit,
    MessageId,
    Note,
    OneCapability,
    Priority,
    Recipient,
    Recipients,
    Tags,
    Topic,
)

R = TypeVar("R", bound=Struct)


class StopAll(Struct, frozen=True, gc=False):
    """Stop all work, or let it go on."""

    stopped: bool


class Standing(Struct, frozen=True):
    """Whether all work is ``stopped`` or ``running``, since when it is stopped, and the seconds of the last stop."""

    status: str
    stopped_at: str | None
    server_time: str
    lasted: float | None = None


class OperatorTask(Struct, frozen=True, gc=False):
    """Ask an agent to do a task, or the first agent with the capability, as the operator."""

    task: Content
    to_agent: Recipient | None = None
    context: Any = None
    priority: Priority = MessagePriority.NORMAL
    capability: OneCapability | Capabilities | None = None
    to_any_of: Recipients | None = None
    deadline: DeadlineSeconds | None = None
    idempotency_key: IdempotencyKey | None = None

    def __post_init__(self) -> None:
        as_operator(requests.Delegate, self)


class OperatorMessage(Struct, frozen=True, gc=False):
    """Say something that is not work, as the operator."""

    to_agent: Recipient
    content: Any
    in_reply_to: MessageId | None = None
    priority: Priority = MessagePriority.NORMAL
    idempotency_key: IdempotencyKey | None = None


class OperatorBroadcast(Struct, frozen=True, gc=False):
    """Tell all agents that subscribe to a topic, as the operator."""

    content: Content
    topic: Topic = "general"
    tags: Tags | None = None
    idempotency_key: IdempotencyKey | None = None

    def __post_init__(self) -> None:
        as_operator(requests.Broadcast, self)


class OperatorAnswer(Struct, frozen=True, gc=False):
    """Answer the question of a task, as the operator, in place of the task's requester."""

    content: Any


class OperatorCancel(Struct, frozen=True, gc=False):
    """Cancel a task, as the operator, in place of its requester."""

    note: Note | None = None


class OperatorReport(Struct, frozen=True, gc=False):
    """Answer a task that was delegated to the operator, or report on it."""

    result: Any = None
    status: Literal["in_progress", "input_required", "completed", "failed", "rejected"] = "completed"
    note: Note | None = None
    idempotency_key: IdempotencyKey | None = None


class RedriveAll(Struct, frozen=True, gc=False):
    """Put dead letters of all mailboxes back, the newest first: those of a ``reason``, or all."""

    limit: Limit = 1000
    reason: AttemptEnd | None = None


class RedrivenAll(Struct, frozen=True):
    """The messages that are due again, and the agents that get them. ``left`` counts all other dead letters."""

    status: str
    message_ids: list[str]
    agents: list[str]
    count: int
    left: int


class Unlock(Struct, frozen=True, gc=False):
    """End the lock of a file, whoever holds it."""

    file_key: FileKey


class Rename(Struct, frozen=True, gc=False):
    """Give an agent another name. ``agent`` is its id, or the name that it has."""

    agent: Recipient
    name: requests.Name


class Renamed(Struct, frozen=True, gc=False):
    """An agent has another name. ``before`` is the name that it had."""

    status: str
    agent_id: str
    name: str
    before: str


class InboxQuery(Struct, frozen=True, gc=False):
    """The part of the operator's mailbox: ``limit`` messages, those of the highest priority and the oldest first."""

    limit: Annotated[int, Meta(ge=1, le=limits.MAX_UNREAD_MESSAGES)] = limits.DEFAULT_UNREAD_MESSAGES


class InboxMessage(Struct, frozen=True, gc=False):
    """A message to the operator that is not put away. Where texts are withheld, ``message`` is null.

    ``task_words`` begin the text of the task that the message is news of.
    """

    message_id: str
    type: str
    from_agent: str | None
    stored_at: str
    task: bool
    message: dict[str, Any] | None
    task_words: str | None = None


class Inbox(Struct, frozen=True):
    """The operator's mailbox; ``count`` is the number of messages in it. Without ``contents`` texts are withheld.

    ``names`` has the names of the registered agents in it, by their ids.
    """

    messages: list[InboxMessage]
    count: int
    contents: bool
    names: dict[str, str] = {}


class PutAway(Struct, frozen=True, gc=False):
    """Put messages to the operator away, which settles them."""

    message_ids: Annotated[list[MessageId], Meta(min_length=1, max_length=limits.MAX_LIST_LENGTH)]


class IsPutAway(Struct, frozen=True):
    """The messages that were put away, or were before. A task is not: it ends with its answer."""

    status: str
    message_ids: list[str]


def as_operator(kind: type[R], ask: Struct) -> R:
    """Return the request that an agent would make. Raises ValueError for what the request refuses."""
    fields: dict[str, Any] = {name: getattr(ask, name) for name in ask.__struct_fields__}
    return kind(from_agent=OPERATOR, **fields)
