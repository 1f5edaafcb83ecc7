"""The requests and replies of ``/admin`` for its views of talk, knowledge, files, load and search.

Times are ISO-8601 in UTC. Where texts of messages are withheld, they are null.
``names`` has the names of the registered agents that a reply tells of, by their ids.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from clawlink.domain import limits
from clawlink.protocol.admin import After, TaskRow
from clawlink.protocol.file_replies import FileHistory, FileInfo
from clawlink.protocol.requests import AgentId, Limit

Words = Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_LENGTH)]


class TalksQuery(Struct, frozen=True, gc=False):
    """The pairs of agents that talk: all of them, or those of one ``agent``."""

    agent: AgentId | None = None
    limit: Limit = 50


class TalkPair(Struct, frozen=True, gc=False):
    """The messages from one agent to another: delegations, answers, reports and plain messages."""

    from_agent: str
    to_agent: str
    messages: int
    last_at: str


class TalkPairs(Struct, frozen=True):
    """Pairs with most messages first. ``pairs`` counts all of them, and ``dropped`` those that were forgotten.

    The counts begin ``since`` this relay started.
    """

    talks: list[TalkPair]
    count: int
    pairs: int
    dropped: int
    since: str
    names: dict[str, str] = {}


class TalkQuery(Struct, frozen=True, gc=False):
    """The talk of an ``agent``: with one other, or with all. ``after`` is the ``next`` of the reply before."""

    agent: AgentId
    other: AgentId | None = None
    limit: Limit = 50
    after: After | None = None


class TalkLine(Struct, frozen=True, gc=False):
    """A line of a talk.

    ``kind`` is ``task``, ``report`` on a task, ``answer`` to it, or ``message``. ``status`` is that of the task then,
    or of the message: ``pending``, ``acked``, ``expired`` or ``dead``. ``to_agent`` is null for a task of a pool that
    no agent has claimed: ``capability`` and ``to_any_of`` say for which agents it is.
    ``text`` has the first 4,000 characters, and ``cut`` tells that there are more.
    """

    at: str
    kind: str
    message_id: str
    from_agent: str | None
    to_agent: str | None
    status: str
    text: str | None
    cut: bool
    attachments: int
    capability: list[str] = []
    to_any_of: list[str] = []


class Talk(Struct, frozen=True):
    """The talk, the newest line first. ``complete`` is false if the relay looked at only the newest of many records."""

    lines: list[TalkLine]
    count: int
    complete: bool
    next: str | None = None
    names: dict[str, str] = {}


class BroadcastsQuery(Struct, frozen=True, gc=False):
    """The kept broadcasts: those on a ``topic``, with a ``tag``, or of an ``author``."""

    topic: Words | None = None
    tag: Words | None = None
    author: AgentId | None = None
    limit: Limit = 50
    after: After | None = None


class BroadcastRow(Struct, frozen=True, gc=False):
    """A kept broadcast. ``recipients`` counts the agents that it was for; ``text`` and ``cut`` are as in a talk."""

    message_id: str
    from_agent: str
    topic: str
    tags: list[str]
    stored_at: str
    ends_at: str
    recipients: int
    text: str | None
    cut: bool


class AllBroadcasts(Struct, frozen=True):
    """Kept broadcasts, the newest first. A page may be short: go on while ``next`` is not null."""

    broadcasts: list[BroadcastRow]
    count: int
    next: str | None = None
    names: dict[str, str] = {}


class AllFilesQuery(Struct, frozen=True, gc=False):
    """The files: those with ``text`` in their key, and those that an ``agent`` owns or wrote last."""

    text: Words | None = None
    agent: AgentId | None = None
    limit: Limit = 50
    after: After | None = None


class AllFiles(Struct, frozen=True):
    """Files for everyone, then files for readers. A page may be short: go on while ``next`` is not null."""

    files: list[FileInfo]
    count: int
    next: str | None = None
    names: dict[str, str] = {}


class FileQuery(Struct, frozen=True, gc=False):
    """The file takes no parameters."""


class ContentQuery(Struct, frozen=True, gc=False):
    """A version of a file, the newest unless said otherwise."""

    version: Annotated[int, Meta(ge=1)] | None = None


class OneFile(Struct, frozen=True):
    """A file with its kept versions. ``contents`` tells whether they may be read here."""

    file: FileHistory
    contents: bool
    names: dict[str, str] = {}


class SearchQuery(Struct, frozen=True, gc=False):
    """The agents, tasks, broadcasts, files and messages with ``text`` in their name, id or words."""

    text: Words
    limit: Limit = 50
    after: After | None = None


class Hit(Struct, frozen=True, gc=False):
    """A record that was found. ``kind`` is ``agent``, ``task``, ``broadcast``, ``file`` or ``message``.

    ``id`` is its id or key. ``agents`` are the agents that it concerns, the sender first.
    """

    kind: str
    id: str
    name: str | None
    status: str | None
    agents: list[str]
    at: str | None
    words: str | None


class Hits(Struct, frozen=True):
    """Found records, kind by kind. A page may be short: go on while ``next`` is not null."""

    hits: list[Hit]
    count: int
    next: str | None = None
    names: dict[str, str] = {}


class ChildrenQuery(Struct, frozen=True, gc=False):
    """The children of a task take no parameters."""


class Children(Struct, frozen=True):
    """The tasks that follow from a task. ``complete`` is false if the relay looked at only the newest of many."""

    tasks: list[TaskRow]
    count: int
    complete: bool
    names: dict[str, str] = {}


class LoadQuery(Struct, frozen=True, gc=False):
    """The load takes no parameters."""


class LoadMinute(Struct, frozen=True, gc=False):
    """A minute: messages stored, delivered and acknowledged, refused requests, and what was held at its end.

    ``counters`` has what each counter of ``GET /metrics`` grew by, without those that did not grow. The gauges have
    their names there. The agents are counted every 15 s.
    """

    at: str
    stored: int
    delivered: int
    acked: int
    refused: int
    counters: dict[str, int]
    agents_online: int
    agents_stale: int
    messages_held: int
    message_bytes_held: int
    memory_bytes: int
    shared_files: int
    file_bytes: int
    uploads: int
    upkeep_stuck: int
    connections: int
    waiting_polls: int


class LimitUse(Struct, frozen=True, gc=False):
    """A limit with its flag and unit. ``used`` is null where no single number is held against it."""

    name: str
    flag: str
    unit: str
    limit: float
    used: float | None


class Load(Struct, frozen=True):
    """The counters since the relay started, the limits, and the minutes of the last hour."""

    counters: dict[str, int]
    limits: list[LimitUse]
    minutes: list[LoadMinute]
    upkeep_stuck: int
    waiting_polls: int
