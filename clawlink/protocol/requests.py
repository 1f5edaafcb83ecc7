"""The requests to the relay, as typed structs. They are the only validation of outside data.

Unknown fields are ignored. Optional fields of ClawLink 1.0.x may also be null.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from clawlink.domain import limits
from clawlink.domain.message import PRIORITY_WORDS, Attachment
from clawlink.domain.message import Priority as MessagePriority

# Ids and names become parts of addresses, file names and terminals: one line, no control characters.
# To Python $ matches before a last line break too; elsewhere the lookahead is true anyway.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)"
_ONE_WORD = r"^(?!\.{1,2}$)[^\x00-\x20\x7f-\x9f\u2028\u2029]+$(?!\n)"
_TOPICS = r"^(\*|[^*\x00-\x1f\x7f-\x9f\u2028\u2029]+(\.\*)?)$(?!\n)"
_DIGEST = "^[0-9a-f]{64}$"
PATTERNS = {
    _DIGEST: "a SHA-256: 64 hexadecimal digits, a to f small",
    _ONE_LINE: "a string of one line, without control characters",
    _ONE_WORD: "a string without white space and control characters, and not . or ..",
    _TOPICS: "a topic as research, all below one as build.*, or * for all",
}

AgentId = Annotated[str, Meta(min_length=1, max_length=limits.MAX_ID_LENGTH, description="An agent's id.")]
NewAgentId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.MAX_ID_LENGTH,
        pattern=_ONE_WORD,
        description="An agent's id: no white space, no control characters; not . or .., which addresses leave out.",
    ),
]
Recipient = Annotated[
    str, Meta(min_length=1, max_length=limits.MAX_ID_LENGTH, description="An agent's id, or a name only one has.")
]
Name = Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_LENGTH, pattern=_ONE_LINE)]
Capability = Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_LENGTH, pattern=_ONE_LINE)]
# A string with a pattern in a union with a list makes msgspec 0.22 free memory twice, so the lone one goes without.
OneCapability = Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_LENGTH)]
Capabilities = Annotated[list[Capability], Meta(min_length=1, max_length=limits.MAX_POOL_CAPABILITIES)]
Recipients = Annotated[list[Recipient], Meta(min_length=1, max_length=limits.MAX_POOL_AGENTS)]
Content = Annotated[Any, Meta(description="Any JSON that is not empty.")]
Topic = Annotated[str, Meta(min_length=1, max_length=limits.MAX_TOPIC_LENGTH, pattern=_ONE_LINE)]
OneTag = Annotated[
    str, Meta(min_length=1, max_length=limits.MAX_TOPIC_LENGTH, extra_json_schema={"pattern": _ONE_LINE})
]
Tags = Annotated[list[Topic], Meta(max_length=limits.MAX_TAGS)]
TopicPattern = Annotated[str, Meta(min_length=1, max_length=limits.MAX_TOPIC_LENGTH, pattern=_TOPICS)]
Subscriptions = Annotated[
    list[TopicPattern],
    Meta(max_length=limits.MAX_SUBSCRIPTIONS, description="Patterns of topics: research, build.*, *."),
]
MessageId = Annotated[str, Meta(min_length=1, max_length=2 * limits.MAX_ID_LENGTH)]
IdempotencyKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.MAX_IDEMPOTENCY_KEY_LENGTH,
        description="Makes a repeat answer as the first did. Also taken from the header Idempotency-Key.",
    ),
]
Receipt = Annotated[str, Meta(max_length=4 * limits.MAX_ID_LENGTH)]
Attachments = Annotated[
    list[Attachment], Meta(max_length=limits.MAX_ATTACHMENTS, description="Shared files that go with it, by name.")
]
Receipts = Annotated[list[Receipt], Meta(min_length=1, max_length=limits.MAX_RECEIPTS)]
FewOrNoReceipts = Annotated[list[Receipt], Meta(max_length=limits.MAX_RECEIPTS)]
FileKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.MAX_KEY_LENGTH,
        description="A file's key: any script, / ? % included; no control characters, no . or .. between slashes.",
    ),
]
LeaseSeconds = Annotated[float, Meta(ge=limits.MIN_LEASE_SECONDS, le=limits.MAX_LEASE_SECONDS)]
DeadlineSeconds = Annotated[
    float, Meta(ge=1, le=limits.MAX_DEADLINE_SECONDS, description="Seconds from now until the task expires.")
]
Note = Annotated[str, Meta(max_length=limits.MAX_NOTE_LENGTH)]
Wait = Annotated[float, Meta(ge=0, le=limits.MAX_WAIT_SECONDS)]
Limit = Annotated[int, Meta(ge=1, le=limits.MAX_LIST_LENGTH)]


Priority = Annotated[
    MessagePriority,
    Meta(
        description="critical and highest are taken for urgent, medium for normal, as clients of 1.0.x write them.",
        extra_json_schema={"enum": list(PRIORITY_WORDS)},
    ),
]


def _require_content(value: object, field: str) -> None:
    """Refuse work or news that is nothing: null, or an empty text, list or object."""
    if value is None or (not value and isinstance(value, str | list | dict)):
        raise ValueError(f"Expected `str` of length >= 1 - at `$.{field}`")


class Register(Struct, frozen=True, gc=False):
    """Register an agent, or resume one by its id."""

    agent_id: NewAgentId | None = None
    name: Name | None = None
    capabilities: Annotated[list[Capability], Meta(max_length=limits.MAX_CAPABILITIES)] | None = None
    machine: Annotated[str, Meta(max_length=limits.MAX_NAME_LENGTH)] | None = None
    description: Annotated[str, Meta(max_length=limits.MAX_TEXT_LENGTH)] | None = None
    claim: bool = False
    subscriptions: Subscriptions | None = None
    notices: Annotated[bool, Meta(description="Tell it who joins and leaves, and of each change of a file.")] | None = (
        None
    )
    idempotency_key: IdempotencyKey | None = None


class Challenge(Struct, frozen=True, gc=False):
    """Ask the relay to prove that it gave a relay key."""

    key_id: Annotated[str, Meta(pattern=_DIGEST)]
    nonce: Annotated[str, Meta(min_length=16, max_length=limits.MAX_IDEMPOTENCY_KEY_LENGTH)]


class Kick(Struct, frozen=True, gc=False):
    """Remove an agent, of that id or name."""

    agent: Recipient


class Heartbeat(Struct, frozen=True, gc=False):
    """Show a sign of life."""

    agent_id: AgentId


class Delegate(Struct, frozen=True, gc=False):
    """Ask another agent to do a task, or the first agent with the capability."""

    from_agent: AgentId
    task: Content
    to_agent: Recipient | None = None
    context: Any = None
    priority: Priority = MessagePriority.NORMAL
    capability: OneCapability | Capabilities | None = None
    to_any_of: Recipients | None = None
    deadline: DeadlineSeconds | None = None
    parent_task: MessageId | None = None
    attachments: Attachments | None = None
    idempotency_key: IdempotencyKey | None = None

    def __post_init__(self) -> None:
        if not self.task:
            _require_content(self.task, "task")
        pooled = self.capability is not None or self.to_any_of is not None
        if self.to_agent is None:
            if not pooled:
                raise ValueError("missing required field `to_agent`, or in its place capability or to_any_of")
        elif pooled:
            raise ValueError("Give to_agent, or in its place capability and to_any_of, but not both")


class Respond(Struct, frozen=True, gc=False):
    """Report on a task, or answer it for good."""

    from_agent: AgentId
    message_id: Annotated[str, Meta(max_length=2 * limits.MAX_ID_LENGTH)] | None = None
    result: Any = None
    status: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=limits.MAX_NAME_LENGTH,
            pattern=_ONE_LINE,
            description="in_progress, input_required, completed, failed or rejected; "
            "from an agent without a key, and without a receipt, any word.",
        ),
    ] = "completed"
    to_agent: Recipient | None = None
    progress: Annotated[float, Meta(ge=0, le=100, description="In percent.")] | None = None
    note: Note | None = None
    receipt: Receipt | None = None
    attachments: Attachments | None = None
    idempotency_key: IdempotencyKey | None = None


class Answer(Struct, frozen=True, gc=False):
    """Answer a question of a task's assignee."""

    from_agent: AgentId
    content: Any
    idempotency_key: IdempotencyKey | None = None


class Cancel(Struct, frozen=True, gc=False):
    """Take a task back for good."""

    from_agent: AgentId
    note: Note | None = None


class Send(Struct, frozen=True, gc=False):
    """Say something that is not work."""

    from_agent: AgentId
    to_agent: Recipient
    content: Any
    in_reply_to: MessageId | None = None
    thread: Annotated[str, Meta(max_length=limits.MAX_ID_LENGTH)] | None = None
    parent_task: MessageId | None = None
    priority: Priority = MessagePriority.NORMAL
    attachments: Attachments | None = None
    idempotency_key: IdempotencyKey | None = None


class Broadcast(Struct, frozen=True, gc=False):
    """Tell all other agents that subscribe to a topic."""

    from_agent: AgentId
    content: Content
    topic: Topic = "general"
    tags: OneTag | Tags | None = None
    ttl: Annotated[float, Meta(ge=1, le=limits.MAX_DEADLINE_SECONDS, description="Seconds.")] | None = None
    parent_task: MessageId | None = None
    idempotency_key: IdempotencyKey | None = None

    def __post_init__(self) -> None:
        _require_content(self.content, "content")
        if isinstance(self.tags, str) and re.fullmatch(_ONE_LINE, self.tags) is None:
            raise ValueError(f"Expected `str` matching regex {_ONE_LINE!r} - at `$.tags`")

    @property
    def all_tags(self) -> tuple[str, ...]:
        """The tags as a list, also where one was given as a string."""
        return (self.tags,) if isinstance(self.tags, str) else tuple(self.tags or ())


class Ack(Struct, frozen=True, gc=False):
    """Settle leased messages, and unread messages about the end of tasks that the agent has looked at."""

    agent_id: AgentId
    receipts: Receipts | None = None
    tasks: Annotated[list[MessageId], Meta(min_length=1, max_length=limits.MAX_RECEIPTS)] | None = None

    def __post_init__(self) -> None:
        if self.receipts is None and self.tasks is None:
            raise ValueError("missing required field `receipts`, or in its place tasks")


class Nack(Struct, frozen=True, gc=False):
    """Give leased messages back, to be due again after ``delay`` seconds."""

    agent_id: AgentId
    receipts: Receipts
    delay: Annotated[float, Meta(ge=0, le=limits.MAX_DELAY_SECONDS)] = 0.0


class Extend(Struct, frozen=True, gc=False):
    """Lengthen leases to ``lease`` seconds from now."""

    agent_id: AgentId
    receipts: Receipts
    lease: LeaseSeconds


class Redrive(Struct, frozen=True, gc=False):
    """Put dead letters back: those named, or up to 1000 of them, the oldest first."""

    agent_id: AgentId
    message_ids: Annotated[list[MessageId], Meta(min_length=1, max_length=limits.MAX_LIST_LENGTH)] | None = None


class PollQuery(Struct, frozen=True, gc=False):
    """How to poll. With ``lease`` the messages must be acked; without, they are settled once the reply is written."""

    wait: Wait = 0.0
    max: Annotated[int, Meta(ge=1, le=limits.MAX_POLL_MESSAGES)] | None = None
    lease: LeaseSeconds | None = None


class PollAndAck(Struct, frozen=True, gc=False):
    """Settle the messages of the poll before, and claim the next. The claim is always under a lease."""

    ack: FewOrNoReceipts | None = None
    nack: FewOrNoReceipts | None = None
    delay: Annotated[float, Meta(ge=0, le=limits.MAX_DELAY_SECONDS, description="Seconds, for all of nack.")] = 0.0
    wait: Wait = 0.0
    max: Annotated[int, Meta(ge=1, le=limits.MAX_POLL_MESSAGES)] | None = None
    lease: LeaseSeconds | None = None


class StreamQuery(Struct, frozen=True, gc=False):
    """How to be pushed to. With ``lease`` the messages must be acked; ``credit`` of them may be under way unsettled."""

    lease: LeaseSeconds | None = None
    credit: Annotated[int, Meta(ge=1, le=limits.MAX_CREDIT)] = limits.DEFAULT_CREDIT


class EventsQuery(StreamQuery, frozen=True, gc=False):
    """The same over server-sent events, where a page in a browser can set no header but can show a ticket."""

    ticket: Annotated[str, Meta(max_length=128)] | None = None


class MakeTicket(Struct, frozen=True, gc=False):
    """The agent and the stream that a ticket opens, and the last event that the agent read on the stream before."""

    agent_id: AgentId
    route: Literal["events"] = "events"
    last_event_id: Annotated[str, Meta(max_length=512)] | None = None


class Subscribe(Struct, frozen=True, gc=False):
    """Change the topics of the broadcasts that the agent gets."""

    agent_id: AgentId
    subscriptions: Subscriptions


class Ping(Struct, frozen=True, gc=False):
    """Ask whether the relay is there."""

    agent_id: AgentId


class DiscoverQuery(Struct, frozen=True, gc=False):
    """The agents to list: one page with a ``limit``, all without it. ``after`` is the ``next`` of the last reply."""

    capability: Annotated[str, Meta(max_length=limits.MAX_NAME_LENGTH)] | None = None
    name: Annotated[str, Meta(max_length=limits.MAX_NAME_LENGTH)] | None = None
    status: Literal["online", "stale", "all"] = "online"
    limit: Limit | None = None
    after: Annotated[str, Meta(max_length=4 * limits.MAX_ID_LENGTH)] | None = None


class Asker(Struct, frozen=True, gc=False):
    """The asking agent. Also taken from the header ClawLink-Agent."""

    agent_id: AgentId | None = None


class TaskQuery(Struct, frozen=True, gc=False):
    """The asking agent, and the time to wait: for the first change after version ``since``, or without it the end."""

    agent_id: AgentId | None = None
    wait: Wait = 0.0
    since: Annotated[int, Meta(ge=0)] | None = None


class MessageQuery(Struct, frozen=True, gc=False):
    """The asking agent, and the time to wait: until the message is at least ``until``, or will never be."""

    agent_id: AgentId | None = None
    wait: Wait = 0.0
    until: Literal["delivered", "acked", "answered"] = "acked"


class Sleep(Struct, frozen=True, gc=False):
    """The agent ends for now: its tasks go back, and it is stale until its next sign of life."""

    agent_id: AgentId
    forget_after: Annotated[float, Meta(ge=limits.MIN_FORGET_SECONDS, le=limits.MAX_FORGET_SECONDS)] | None = None


class UnreadQuery(Struct, frozen=True, gc=False):
    """The look at a mailbox: ``wait`` waits for a message newer than ``since``, the ``latest`` of the reply before."""

    wait: Wait = 0.0
    since: Annotated[int, Meta(ge=0)] | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.MAX_UNREAD_MESSAGES)] = limits.DEFAULT_UNREAD_MESSAGES
    words: Annotated[
        int, Meta(ge=0, le=limits.MAX_WORDS_LENGTH, description="The number of first characters of each text to show.")
    ] = 0


class Woken(Struct, frozen=True, gc=False):
    """Store that the agent's own program tried to wake it for a message."""

    agent_id: AgentId
    adapter: Name
    result: Literal["started", "queued", "failed", "given_up"]
    note: Annotated[str, Meta(max_length=limits.MAX_WAKE_NOTE_LENGTH, pattern=_ONE_LINE)] | None = None
    idempotency_key: IdempotencyKey | None = None


class TasksQuery(Struct, frozen=True, gc=False):
    """The asking agent, the tasks, and the part of the list: ``after`` is the ``next`` of the reply before."""

    agent_id: AgentId | None = None
    requester: AgentId | None = None
    assignee: AgentId | None = None
    status: (
        Literal[
            "open",
            "final",
            "queued",
            "delivered",
            "in_progress",
            "input_required",
            "completed",
            "failed",
            "rejected",
            "cancelled",
            "expired",
            "returned",
        ]
        | None
    ) = None
    limit: Limit = 100
    after: Annotated[str, Meta(max_length=4 * limits.MAX_ID_LENGTH)] | None = None


class KnowledgeQuery(Struct, frozen=True, gc=False):
    """The broadcasts: ``topic`` may be a pattern, ``since`` is ISO-8601 or seconds since the epoch."""

    topic: TopicPattern | None = None
    tag: Topic | None = None
    author: AgentId | None = None
    since: Annotated[str, Meta(max_length=64)] | None = None
    limit: Limit = 100
    after: Annotated[str, Meta(max_length=4 * limits.MAX_ID_LENGTH)] | None = None


class ListQuery(Struct, frozen=True, gc=False):
    """The part of a list: ``after`` is the ``next`` of the reply before."""

    limit: Limit = 100
    after: Annotated[str, Meta(max_length=4 * limits.MAX_ID_LENGTH)] | None = None
