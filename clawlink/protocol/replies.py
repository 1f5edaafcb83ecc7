"""The replies of the relay, as typed structs: encoded by the server, decoded by the clients.

Times are ISO-8601 in UTC, but for ``last_heartbeat``, which is seconds since the epoch as in ClawLink 1.0.x.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from clawlink.domain.message import AgentCard, Attachment

M = TypeVar("M")
# True where a client of 1.0.x was not known and was registered by the way; otherwise left out.
ByTheWay = bool | UnsetType


class Stop(Struct, frozen=True):
    """New work that the relay stopped: ``loop_stopped`` or ``rate_limited``, and the agents of its chain in order."""

    at: str
    code: str
    agents: list[str]


class Info(Struct, frozen=True):
    """The relay, its limits, and the number of records that it holds."""

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
    takeovers: int = 0
    rate_limited: int = 0
    loops_stopped: int = 0
    recent_stops: list[Stop] = []
    limits: dict[str, float] = {}
    undeclared_proxy: bool = False
    uploads_under_way: int = 0
    upload_bytes: int = 0
    memory_bytes: int = 0
    connections: int = 0
    doors: dict[str, dict[str, Any]] = {}
    stopped_at: str | None = None
    memory_limit: int = 0
    on_disk: bool = False


class Load(Struct, frozen=True, gc=False):
    """The load of an agent: messages in its mailbox, and tasks without a final answer."""

    mailbox: int
    open_tasks: int


class ListedAgent(AgentCard, frozen=True, gc=False, kw_only=True):
    """An agent as ``discover`` lists it. Its age is the reply's ``server_time`` less ``last_heartbeat``.

    ``through`` is as in ``RecipientInfo``.
    """

    load: Load
    claimed: bool
    through: str | UnsetType = UNSET


class Registered(Struct, frozen=True):
    """The registered agent. ``agent_key`` is given once, to the claiming client.

    ``relay_key`` is given to a client with the agent's key. With it the agent knows this relay at another address.
    """

    status: str
    agent: AgentCard
    server_time: str
    resumed: bool = False
    agent_key: str | None = None
    relay_key: str | None = None


class Challenged(Struct, frozen=True):
    """The proof of a relay, for the address at which it was reached and the name that its operator gave it."""

    relay_id: str
    address: str
    name: str
    proof: str


class Discovered(Struct, frozen=True):
    """The agents that match, in the order they registered. ``next`` is null after the last page.

    ``stopped_at`` is there while the operator has stopped all work.
    """

    agents: list[ListedAgent]
    count: int
    server_time: str
    next: str | None = None
    stopped_at: str | None = None


class Beat(Struct, frozen=True):
    """``ok``, or ``unknown_agent`` (also with 200, as in 1.0.x)."""

    status: str


class Subscribed(Struct, frozen=True):
    """The topics of the broadcasts that the agent gets from now on."""

    status: str
    subscriptions: list[str]


class Pong(Struct, frozen=True):
    """The relay is there."""

    status: str
    server_time: str


class RecipientInfo(Struct, frozen=True, gc=False):
    """The recipient, and its presence: ``age`` is the full seconds since their last sign of life.

    ``through`` is the door that takes on what comes for the recipient, whose own presence is not known; otherwise left
    out. The rest is then that of the agent which stands for the recipient here, but for its ``name``.
    """

    agent_id: str
    name: str
    status: str
    last_heartbeat: float
    age: int
    through: str | UnsetType = UNSET


class Pooled(Struct, frozen=True, gc=False):
    """The pool whose first claimer gets the task.

    ``online`` counts its online agents; with none, the task waits for an agent.
    """

    capability: list[str]
    to_any_of: list[str]
    online: int


class Delegated(Struct, frozen=True, gc=False):
    """The delegation is stored. ``message_id`` is also the task's id.

    ``recipient`` is null for a pool's task, and if the recipient has left since a first, equal request.
    """

    status: str
    delivery: str
    message_id: str
    recipient: RecipientInfo | None
    pool: Pooled | None = None
    registered_by_the_way: ByTheWay = UNSET


class TaskEvent(Struct, frozen=True, gc=False):
    """A step of a task, or a report on it; ``by`` is null for the relay itself."""

    at: str
    status: str
    by: str | None
    note: str | None
    progress: float | None
    content: Any


class Wake(Struct, frozen=True, gc=False):
    """An attempt of an agent's own program to wake it: by which adapter, and its result."""

    at: str
    adapter: str
    result: str
    note: str | None = None


class TaskView(Struct, frozen=True, gc=False):
    """A task as its parties see it. Absent facts are null; ``attempts`` counts its claims.

    ``owner`` is the assignee's presence. ``history_folded`` counts old reports that the history has dropped.
    ``attachments`` came with the task, ``result_attachments`` with its answer. ``dead_letter`` is True while it waits
    among the assignee's dead letters, where no poll brings it. ``pool_online`` counts the online agents that may claim
    it while it is queued in a pool; null in lists. ``woken`` are the last attempts to wake the assignee for it.
    """

    task_id: str
    requester: str
    assignee: str | None
    capability: str | list[str] | None
    task: Any
    context: Any
    priority: str
    status: str
    progress: float | None
    note: str | None
    result: Any
    attempts: int
    version: int
    parent_task: str | None
    created_at: str
    queued_at: str
    delivered_at: str | None
    acked_at: str | None
    started_at: str | None
    finished_at: str | None
    deadline_at: str | None
    history: list[TaskEvent]
    history_folded: int
    to_any_of: list[str] | None
    hops: int
    owner: RecipientInfo | None
    dead_letter: bool
    attachments: list[Attachment] = []
    result_attachments: list[Attachment] = []
    pool_online: int | None = None
    woken: list[Wake] = []


class TaskList(Struct, frozen=True):
    """Tasks, by state and the newest first. A page may be short: go on while ``next`` is not null."""

    tasks: list[TaskView]
    count: int
    next: str | None = None


class Answered(Struct, frozen=True, gc=False):
    """The answer is stored for the assignee."""

    status: str
    message_id: str
    task_id: str
    task_status: str
    recipient: RecipientInfo | None


class Cancelled(Struct, frozen=True, gc=False):
    """The task is cancelled. ``withdrawn``: no agent had fetched it; otherwise its assignee is told."""

    status: str
    task_id: str
    withdrawn: bool


class ResponseSent(Struct, frozen=True, gc=False):
    """The response is stored for the requester; ``delivery`` is ``none`` if the requester has left.

    ``task_status`` is null where it belongs to no task that is known, and was passed on as it came.
    """

    status: str
    delivery: str
    message_id: str
    response_id: str
    task_status: str | None
    recipient: RecipientInfo | None
    registered_by_the_way: ByTheWay = UNSET


class Sent(Struct, frozen=True, gc=False):
    """The message is stored. ``recipient`` is null if it has left since a first, equal request."""

    status: str
    delivery: str
    message_id: str
    recipient: RecipientInfo | None


class KnowledgeList(Struct, Generic[M], frozen=True):
    """Broadcasts that the relay still holds, the newest first."""

    broadcasts: list[M]
    count: int
    next: str | None = None


class BroadcastSent(Struct, frozen=True, gc=False):
    """The broadcast is stored in the mailboxes of ``recipients`` subscribers; ``refused`` more had no room."""

    status: str
    message_id: str
    recipients: int
    refused: int = 0
    registered_by_the_way: ByTheWay = UNSET


class TicketMade(Struct, frozen=True):
    """A ticket: it opens ``url`` once, within ``seconds``."""

    ticket: str
    url: str
    seconds: float


class WakeStored(Struct, frozen=True, gc=False):
    """The wakes for the message, the last one at the end."""

    status: str
    message_id: str
    woken: list[Wake]


class FoundId(Struct, frozen=True):
    """A message of the asking agent, with the facts that tell it from others. They are those of its status."""

    message_id: str
    type: str
    from_agent: str
    to_agent: str | None
    state: str
    task_status: str | None
    stored_at: str


class FoundIds(Struct, frozen=True):
    """The messages whose ids begin as asked, sorted by id. ``more`` is true if there may be others."""

    ids: list[FoundId]
    count: int
    more: bool


class Asleep(Struct, frozen=True):
    """The agent sleeps. ``tasks`` are the ids of those that it held, and that wait for it or for others now."""

    status: str
    agent_id: str
    tasks: list[str]


class Left(Struct, frozen=True):
    """The agent has left. ``dropped`` messages were still in its mailbox; ``waiting`` tasks wait for its name."""

    status: str
    agent_id: str
    dropped: int
    waiting: int = 0


class Health(Struct, frozen=True):
    """The relay takes requests: ``ok``. While it drains, it answers as for any new work: 503 ``draining``.

    ``stopped`` tells whether the operator has stopped all work.
    """

    status: str
    relay_id: str = ""
    stopped: bool = False


class Failure(Struct, frozen=True, omit_defaults=True):
    """Any error. ``error`` is for people, ``code`` for programs."""

    error: str
    code: str = "error"
    field: str | None = None
    limit: float | None = None
    actual: float | None = None
    retry_after: float | None = None
    current: Any = None
