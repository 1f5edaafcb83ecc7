"""The requests and replies of ``/admin``: what the operator of a relay sees.

Times are ISO-8601 in UTC. ``contents`` says whether texts of messages are shown; where they are not, they are null.
``names`` has the names of the registered agents that a reply tells of, by their ids.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from clawlink.domain import limits
from clawlink.domain.delivery import AttemptEnd
from clawlink.protocol.replies import Stop, TaskView
from clawlink.protocol.requests import AgentId, Limit, MessageId, Recipient

After = Annotated[str, Meta(max_length=4 * limits.MAX_ID_LENGTH)]


class OverviewQuery(Struct, frozen=True, gc=False):
    """The overview takes no parameters."""


class LiveQuery(Struct, frozen=True, gc=False):
    """Whether a sign of life is an event, as pages need it, in place of a comment."""

    heartbeats: bool = False


class AgentsQuery(Struct, frozen=True, gc=False):
    """The agents: by presence, and by a part of their id or name. ``after`` is the ``next`` of the reply before."""

    status: Literal["online", "stale", "all"] = "all"
    text: Annotated[str, Meta(max_length=limits.MAX_NAME_LENGTH)] | None = None
    limit: Limit = 50
    after: After | None = None


class AllTasksQuery(Struct, frozen=True, gc=False):
    """The tasks: by state and by their parties. ``after`` is the ``next`` of the reply before."""

    status: Literal[
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
    ] = "open"
    requester: AgentId | None = None
    assignee: AgentId | None = None
    limit: Limit = 50
    after: After | None = None


class DeadLettersQuery(Struct, frozen=True, gc=False):
    """The dead letters whose last attempt ended in this way. ``after`` is the ``next`` of the reply before."""

    reason: AttemptEnd | None = None
    limit: Limit = 50
    after: After | None = None


class PageQuery(Struct, frozen=True, gc=False):
    """The part of a list: ``after`` is the ``next`` of the reply before."""

    limit: Limit = 50
    after: After | None = None


class Waiting(Struct, frozen=True, gc=False):
    """A mailbox with mail: its messages and bytes, dead letters included.

    ``oldest_at`` is the oldest of 1,000 messages that are due or handed out; null with dead letters alone.
    """

    agent_id: str
    name: str
    messages: int
    bytes: int
    oldest_at: str | None


class WaitingPool(Struct, frozen=True, gc=False):
    """A pool with work: the conditions for its claimers, and how many of these are online.

    ``name`` is set if the work waits for an agent of that name, which has left.
    """

    capability: list[str]
    to_any_of: list[str]
    name: str | None
    tasks: int
    online: int


class UnwokenAgent(Struct, frozen=True, gc=False):
    """An agent that could not be woken for a message: when and how it was tried, and why it failed."""

    agent_id: str
    name: str
    message_id: str
    at: str
    adapter: str
    result: str
    note: str | None


class NeedsYou(Struct, frozen=True, gc=False):
    """The matters that wait for a person.

    ``questions`` are tasks in state input_required. ``expired`` are tasks that were not finished in time, as long as
    the relay keeps them. ``unserved_pools`` have work and no online agent that may claim it. ``unread_mailboxes`` hold
    messages, and their agents are stale. ``stuck_records`` are those that upkeep cannot settle. ``unwoken`` are the
    agents whose last wake failed and that have not come since, 20 at most; ``unwoken_agents`` counts all. ``inbox``
    counts the messages to the operator.
    """

    questions: int
    dead_letters: int
    expired: int
    unserved_pools: int
    stops: list[Stop]
    unread_mailboxes: int
    stuck_records: int
    unwoken_agents: int
    unwoken: list[UnwokenAgent]
    inbox: int = 0


class TrafficMinute(Struct, frozen=True, gc=False):
    """A minute: tasks delegated, tasks answered as completed, and tasks that ended without success."""

    at: str
    delegated: int
    answered: int
    failed: int


class Overview(Struct, frozen=True, gc=False):
    """The relay at a glance. ``revision`` grows with each change, and begins at 0 when the relay starts.

    ``open_tasks`` and ``ended_tasks`` count by state; the relay keeps ended ones for a while. ``mailboxes`` are the 20
    deepest, ``pools`` the 20 with most work. ``traffic`` covers an hour at most, since the relay started.
    ``stopped_at`` is null while work goes on.
    """

    server_time: str
    started_at: str
    version: str
    revision: int
    contents: bool
    draining: bool
    stopped_at: str | None
    agents_online: int
    agents_stale: int
    open_tasks: dict[str, int]
    ended_tasks: dict[str, int]
    needs_you: NeedsYou
    mailboxes: list[Waiting]
    pools: list[WaitingPool]
    traffic: list[TrafficMinute]
    messages_held: int
    bytes_held: int
    memory_bytes: int
    memory_limit: int
    names: dict[str, str] = {}
    on_disk: bool = False


class CurrentTask(Struct, frozen=True, gc=False):
    """A task that an agent works on; ``words`` begin its text."""

    task_id: str
    status: str
    progress: float | None
    note: str | None
    words: str | None = None


class AgentRow(Struct, frozen=True, gc=False):
    """An agent. ``current`` is a task that it has reported on, null without one."""

    agent_id: str
    name: str
    status: str
    last_seen: str
    registered_at: str
    capabilities: list[str]
    machine: str
    description: str
    claimed: bool
    messages: int
    open_tasks: int
    current: CurrentTask | None


class AgentList(Struct, frozen=True):
    """Agents in the order they registered. A page may be short: go on while ``next`` is not null."""

    agents: list[AgentRow]
    count: int
    next: str | None = None


class MessageRow(Struct, frozen=True, gc=False):
    """A message in a mailbox. ``from_agent`` is null for the relay; ``words`` begin its text.

    ``reason`` says how the last attempt to deliver it ended: null without one, and where an older relay noted none.
    """

    message_id: str
    mailbox: str
    type: str
    from_agent: str | None
    attempts: int
    stored_at: str
    dead_at: str | None
    reason: AttemptEnd | None
    words: str | None


class AgentDetail(Struct, frozen=True, gc=False):
    """An agent: its row, its mailbox, and its tasks.

    ``next_messages`` are those that a poll would bring now, 20 at most. ``asked`` counts by state the tasks that it
    delegated.
    """

    agent: AgentRow
    address: str | None
    subscriptions: list[str]
    dead_letters: int
    next_messages: list[MessageRow]
    asked: dict[str, int]
    names: dict[str, str] = {}


class TaskRow(Struct, frozen=True, gc=False):
    """A task in a list. ``capability`` and ``to_any_of`` are those of a pool's task; ``words`` begin its text."""

    task_id: str
    status: str
    requester: str
    assignee: str | None
    capability: list[str]
    to_any_of: list[str]
    priority: str
    attempts: int
    progress: float | None
    note: str | None
    created_at: str
    finished_at: str | None
    deadline_at: str | None
    words: str | None


class AllTasks(Struct, frozen=True):
    """Tasks by state, the last to come to each first. A page may be short: go on while ``next`` is not null."""

    tasks: list[TaskRow]
    count: int
    next: str | None = None
    names: dict[str, str] = {}


class TaskLease(Struct, frozen=True, gc=False):
    """A lease of a task. ``until`` and ``ended_by``, the state that ended it, are null while it goes on."""

    agent: str | None
    since: str
    until: str | None
    ended_by: str | None


class TaskFacts(Struct, frozen=True, gc=False):
    """Four facts, each null where it is not there. Delivered and acknowledged are those of the present claim."""

    stored_at: str
    delivered_at: str | None
    acknowledged_at: str | None
    answered_at: str | None


class TaskTimeline(Struct, frozen=True, gc=False):
    """A task with its facts and its leases, in order. Without ``contents`` its texts are null."""

    task: TaskView
    facts: TaskFacts
    leases: list[TaskLease]
    contents: bool
    names: dict[str, str] = {}


class AllDeadLetters(Struct, frozen=True):
    """Dead letters of all mailboxes, the newest first. A page may be short: go on while ``next`` is not null."""

    dead_letters: list[MessageRow]
    count: int
    next: str | None = None
    names: dict[str, str] = {}


class AuditEntry(Struct, frozen=True, gc=False):
    """An act of the operator: when, what, on what, from which address, and by which right.

    ``by`` is ``token`` for the admin token, ``local`` for loopback, or the name of a session.
    """

    at: str
    act: str
    target: str
    address: str | None
    by: str
    facts: dict[str, Any]


class AuditList(Struct, frozen=True):
    """Acts of the operator, the newest first."""

    entries: list[AuditEntry]
    count: int
    next: str | None = None
    names: dict[str, str] = {}


class MakeLink(Struct, frozen=True, gc=False):
    """Make a one-time link to the page. Its session lasts ``seconds``, and only reads if it is ``read_only``."""

    read_only: bool = False
    seconds: Annotated[float, Meta(ge=limits.MIN_SESSION_SECONDS, le=limits.MAX_SESSION_SECONDS)] = (
        limits.SESSION_SECONDS
    )


class LinkMade(Struct, frozen=True):
    """The link: ``path``, with its code, follows the address of the relay. It works once, within 10 minutes."""

    path: str
    read_only: bool
    seconds: float


class Login(Struct, frozen=True, gc=False):
    """Open a session: with the ``code`` of a link, or with the ``admin_token``."""

    code: Annotated[str, Meta(max_length=limits.MAX_SECRET_LENGTH)] | None = None
    admin_token: Annotated[str, Meta(max_length=limits.MAX_SECRET_LENGTH)] | None = None


class SessionView(Struct, frozen=True):
    """The right of this request, and whether it only reads. ``csrf`` and ``ends_at`` are null without a session.

    ``owner`` says that the owner of a portal has signed in.
    """

    right: str
    read_only: bool
    csrf: str | None
    ends_at: str | None
    contents: bool
    owner: bool = False


class Logout(Struct, frozen=True, gc=False):
    """End this session, or ``all`` sessions and unused links."""

    all: bool = False


class SessionsEnded(Struct, frozen=True):
    """The sessions have ended; ``ended`` counts them."""

    status: str
    ended: int


class RedriveFor(Struct, frozen=True, gc=False):
    """Put dead letters of an agent back: those of ``message_ids``, or the oldest."""

    agent: Recipient
    message_ids: Annotated[list[MessageId], Meta(min_length=1, max_length=limits.MAX_LIST_LENGTH)] | None = None


class PutBack(Struct, frozen=True):
    """The messages of the agent that are due again."""

    agent_id: str
    message_ids: list[str]
    count: int
