"""Messages as they travel: one tagged union, and nothing about queues.

A message is encoded once, when the relay accepts it. Fields that ClawLink 1.0.x sends come first; old clients ignore
the others. Times are ISO-8601 in UTC with milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clawlink.domain import dense_json
from clawlink.domain.chain import Chain
from clawlink.domain.limits import MAX_FILE_NAME_LENGTH, MAX_KEY_LENGTH


class Priority(str, Enum):
    """The order of handing out: the lowest ``level`` first; within a priority, in order of arrival."""

    level: int

    LOW = "low", 3
    NORMAL = "normal", 2
    HIGH = "high", 1
    URGENT = "urgent", 0

    def __new__(cls, name: str, level: int) -> Priority:
        priority = str.__new__(cls, name)
        priority._value_ = name
        priority.level = level
        return priority

    @classmethod
    def _missing_(cls, value: object) -> Priority | None:
        """Take the words that clients of ClawLink 1.0.x use beside the four."""
        return _OTHER_PRIORITIES.get(value) if isinstance(value, str) else None


_OTHER_PRIORITIES = {"critical": Priority.URGENT, "highest": Priority.URGENT, "medium": Priority.NORMAL}
PRIORITY_WORDS = (*(priority.value for priority in Priority), *_OTHER_PRIORITIES)


class Attachment(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A version of a shared file that goes with a message, which carries its name and never its bytes.

    ``size`` is in bytes, ``sha256`` in hexadecimal. ``name`` is the sender's name for it, and no path.
    """

    file_key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_LENGTH)]
    version: Annotated[int, Meta(ge=1)]
    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(min_length=64, max_length=64)]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_FILE_NAME_LENGTH)]


Attachments = tuple[Attachment, ...] | msgspec.UnsetType


Person = bool | msgspec.UnsetType
"""True for a person that acts through the relay's page or its operator's endpoints; left out for all others."""


def of_person(person: bool) -> Person:
    """Return the mark of what a person did; nothing for what an agent did."""
    return True if person else msgspec.UNSET


class AgentCard(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An agent as 1.0.x shows it. ``last_heartbeat`` is seconds since the epoch; the other times are ISO-8601.

    ``person`` is True for the relay's operator, and left out for agents.
    """

    agent_id: str
    name: str
    capabilities: tuple[str, ...]
    machine: str
    description: str
    registered_at: str
    last_heartbeat: float
    status: str
    person: Person = msgspec.UNSET


class TaskDelegation(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="task_delegation"):
    """Work that ``from_agent`` asks for. ``message_id`` is the task's id.

    ``to_agent`` is None for a pool's task. Then an agent with ``capability`` (one, or all of a list) may claim it, of
    ``to_any_of`` if that is given. Without ``deadline_at`` there is no deadline.
    """

    message_id: str
    from_agent: str
    to_agent: str | None
    task: Any
    context: Any
    priority: Priority
    timestamp: str
    queued_at: str
    from_name: str
    chain: Chain
    capability: str | tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    to_any_of: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    deadline_at: str | msgspec.UnsetType = msgspec.UNSET
    attachments: Attachments = msgspec.UNSET
    from_person: Person = msgspec.UNSET


class TaskResponse(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="task_response"):
    """An answer, or news of a task. ``message_id`` is the delegation's; ``response_id`` is its own.

    ``progress`` is in percent. A response that was ``passed_on`` belongs to no task that the relay knows.
    The relay vouches for its sender alone; ``message_id`` is the id that the sender gave, or else the ``response_id``.
    """

    message_id: str
    response_id: str
    from_agent: str
    to_agent: str
    result: Any
    status: str
    timestamp: str
    queued_at: str
    from_name: str
    progress: float | None = None
    note: str | None = None
    attachments: Attachments = msgspec.UNSET
    passed_on: bool | msgspec.UnsetType = msgspec.UNSET
    from_person: Person = msgspec.UNSET


class TaskAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="task_answer"):
    """A requester's answer to the ``input_required`` of ``task_id``, so that the work can go on."""

    message_id: str
    task_id: str
    from_agent: str
    to_agent: str
    content: Any
    timestamp: str
    queued_at: str
    from_name: str
    from_person: Person = msgspec.UNSET


class TaskUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="task_update"):
    """News of ``task_id`` without a response: cancelled, expired, taken back. Unread news is replaced by the newest.

    ``by`` is the agent that did it, None if it was the relay.
    """

    message_id: str
    task_id: str
    to_agent: str
    status: str
    note: str | None
    by: str | None
    attempts: int
    timestamp: str
    queued_at: str
    by_person: Person = msgspec.UNSET


class MessageUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message_update"):
    """News by the relay of the plain message ``about``: its reader could not be woken, so it waits.

    Unread news of one reader is replaced by the newest.
    """

    message_id: str
    about: str
    to_agent: str
    status: str
    note: str
    timestamp: str
    queued_at: str


class KnowledgeBroadcast(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="knowledge_broadcast"):
    """Knowledge of an agent, told to all others."""

    message_id: str
    from_agent: str
    content: Any
    topic: str
    tags: tuple[str, ...] | str
    timestamp: str
    queued_at: str
    from_name: str
    chain: Chain
    from_person: Person = msgspec.UNSET


class FileUpdated(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="file_updated"):
    """A shared file has a new version, or is gone. Unread notices of one file arrive as one, the newest."""

    file_key: str
    version: int
    last_editor: str
    timestamp: str
    queued_at: str
    message_id: str
    deleted: bool


class AgentJoined(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="agent_joined"):
    """An agent registered."""

    agent: AgentCard
    timestamp: str
    queued_at: str
    message_id: str


class AgentLeft(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="agent_left"):
    """An agent left of its own accord."""

    agent: AgentCard
    timestamp: str
    queued_at: str
    message_id: str


class PlainMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """Anything one agent has to say to another that is not work."""

    message_id: str
    from_agent: str
    to_agent: str
    content: Any
    in_reply_to: str | None
    thread: str | None
    timestamp: str
    queued_at: str
    from_name: str
    chain: Chain
    attachments: Attachments = msgspec.UNSET
    from_person: Person = msgspec.UNSET


Message = (
    TaskDelegation
    | TaskResponse
    | TaskAnswer
    | TaskUpdate
    | MessageUpdate
    | KnowledgeBroadcast
    | FileUpdated
    | AgentJoined
    | AgentLeft
    | PlainMessage
)

_encoder = msgspec.json.Encoder()
_buffer = bytearray()
_CONTENTS = frozenset(("task", "context", "result", "content"))
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """Encode the message once and for all.

    The store may keep the result for long. So it is copied into bytes of exactly its size: an encoder's own result
    would waste the memory that it had reserved.
    """
    _encoder.encode_into(message, _buffer)
    return bytes(_buffer)


def decode(body: bytes) -> Message:
    """Read a message that this relay encoded. Contents of very many parts stay ``msgspec.Raw``."""
    return dense_json.read(_decoder, body, _CONTENTS) if dense_json.is_dense(body) else _decoder.decode(body)


def attached(attachments: Sequence[Attachment] | None) -> Attachments:
    """Return a message's entries for its attached files."""
    return tuple(attachments) if attachments else msgspec.UNSET


def says_the_same(one: Message, other: Message) -> bool:
    """Return True if two messages differ in nothing but when they were sent."""
    if type(one) is not type(other):
        return False
    ignored = {"timestamp", "queued_at", "from_name", "deadline_at", "chain"}
    fields = [field for field in one.__struct_fields__ if field not in ignored]
    pairs = [_in_one_form(getattr(one, f), getattr(other, f)) for f in fields]
    # Compared as JSON: to Python, true and 1 are equal.
    return _as_json(a for a, _ in pairs) == _as_json(b for _, b in pairs)


def _in_one_form(one: Any, other: Any) -> tuple[Any, Any]:
    """Return two contents to compare. If one stayed ``msgspec.Raw`` and the other is built, both are built.

    A built value of few parts is another one anyway, and building a dense one takes long.
    """
    if isinstance(one, msgspec.Raw) == isinstance(other, msgspec.Raw):
        return one, other
    made = other if isinstance(one, msgspec.Raw) else one
    if not dense_json.is_dense(msgspec.json.encode(made)):
        return one, other
    return dense_json.built(one), dense_json.built(other)


def _as_json(values: Iterable[Any]) -> bytes:
    return msgspec.json.encode([None if v is msgspec.UNSET else v for v in values], order="deterministic")


def type_of(message: Message) -> str:
    """Return the message's ``type`` on the wire."""
    return str(message.__struct_config__.tag)
