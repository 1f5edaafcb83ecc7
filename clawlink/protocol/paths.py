"""Every endpoint once: method, path, parameters, reply. Routes, clients, OpenAPI and the documentation test read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clawlink.protocol import admin, headers, mailbox_paths, replies, requests
from clawlink.protocol.admin_paths import ADMIN_ENDPOINTS
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.file_paths import FILE_ENDPOINTS
from clawlink.protocol.mailbox_paths import MAILBOX_ENDPOINTS
from clawlink.protocol.operator_paths import OPERATOR_ENDPOINTS

INFO = Endpoint("info", "GET", "/", "Show the relay, its contents and its limits.", replies.Info)
REGISTER = Endpoint(
    "register", "POST", "/register", "Register an agent, or resume one.", replies.Registered, body=requests.Register
)
CHALLENGE = Endpoint(
    "challenge",
    "POST",
    "/challenge",
    "Prove the identity of the relay.",
    replies.Challenged,
    body=requests.Challenge,
    open=True,
)
DISCOVER = Endpoint("discover", "GET", "/discover", "List agents.", replies.Discovered, query=requests.DiscoverQuery)
HEARTBEAT = Endpoint(
    "heartbeat", "POST", "/heartbeat", "Show a sign of life.", replies.Beat, body=requests.Heartbeat, acts=True
)
SLEEP = Endpoint(
    "sleep",
    "POST",
    "/sleep",
    "Give back all tasks, and be stale until the next sign of life.",
    replies.Asleep,
    body=requests.Sleep,
    acts=True,
    use="deregistration.sleep",
    by="agent_id",
)
LEAVE = Endpoint(
    "leave",
    "DELETE",
    "/agents/{agent_id}",
    "Leave the relay.",
    replies.Left,
    acts=True,
    use="deregistration.leave",
    by="agent_id",
)
KICK = Endpoint(
    "kick",
    "POST",
    "/kick",
    "Remove an agent, as its operator.",
    replies.Left,
    body=requests.Kick,
    admin=True,
    use="deregistration.kick",
    audited="agent_id",
)
DELEGATE = Endpoint(
    "delegate",
    "POST",
    "/delegate",
    "Delegate a task.",
    replies.Delegated,
    body=requests.Delegate,
    acts=True,
    use="submission.delegate",
    by="from_agent",
    registers=True,
)
RESPOND = Endpoint(
    "respond",
    "POST",
    "/respond",
    "Report on a task, or answer it.",
    replies.ResponseSent,
    body=requests.Respond,
    acts=True,
    use="responses.respond",
    by="from_agent",
    registers=True,
)
TASKS = Endpoint(
    "tasks",
    "GET",
    "/tasks",
    "List tasks.",
    replies.TaskList,
    query=requests.TasksQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="task_views.list",
    otherwise=("requester", "assignee"),
)
TASK = Endpoint(
    "task",
    "GET",
    "/tasks/{task_id}",
    "Show a task.",
    replies.TaskView,
    query=requests.TaskQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="task_views.get",
)
CANCEL = Endpoint(
    "cancel",
    "POST",
    "/tasks/{task_id}/cancel",
    "Take a task back for good.",
    replies.Cancelled,
    body=requests.Cancel,
    acts=True,
    use="tasks.cancel",
    by="from_agent",
)
ANSWER = Endpoint(
    "answer",
    "POST",
    "/tasks/{task_id}/answer",
    "Answer a question of an assignee.",
    replies.Answered,
    body=requests.Answer,
    acts=True,
    use="tasks.answer",
    by="from_agent",
)
SEND = Endpoint(
    "send",
    "POST",
    "/send",
    "Send a plain message.",
    replies.Sent,
    body=requests.Send,
    acts=True,
    use="messages.send",
    by="from_agent",
)
BROADCAST = Endpoint(
    "broadcast",
    "POST",
    "/broadcast",
    "Tell all other agents that subscribe to a topic.",
    replies.BroadcastSent,
    body=requests.Broadcast,
    acts=True,
    use="broadcasts.broadcast",
    by="from_agent",
    registers=True,
)
KNOWLEDGE = Endpoint(
    "knowledge",
    "GET",
    "/broadcasts",
    "What was told.",
    replies.KnowledgeList,
    query=requests.KnowledgeQuery,
    use="broadcasts.knowledge",
)
FIND_IDS = Endpoint(
    "find_ids",
    "GET",
    "/ids/{beginning}",
    "Find tasks, messages and broadcasts by the first characters of their ids.",
    replies.FoundIds,
    query=requests.Asker,
    acts=True,
    headers=(headers.AGENT,),
    use="messages.find",
)
OVERVIEW = Endpoint(
    "overview",
    "GET",
    "/admin/overview",
    "Show the relay at a glance, to its operator.",
    admin.Overview,
    query=admin.OverviewQuery,
    admin=True,
    use="overviews.overview",
)
ALL_AGENTS = Endpoint(
    "all_agents",
    "GET",
    "/admin/agents",
    "List agents with their load and current task.",
    admin.AgentList,
    query=admin.AgentsQuery,
    admin=True,
    use="admin_lists.agents",
)
ONE_AGENT = Endpoint(
    "one_agent",
    "GET",
    "/admin/agents/{agent_id}",
    "Show one agent, its mailbox and its tasks.",
    admin.AgentDetail,
    query=admin.OverviewQuery,
    admin=True,
    use="admin_lists.agent",
)
ALL_TASKS = Endpoint(
    "all_tasks",
    "GET",
    "/admin/tasks",
    "List the tasks of all agents.",
    admin.AllTasks,
    query=admin.AllTasksQuery,
    admin=True,
    use="admin_lists.tasks",
)
TIMELINE = Endpoint(
    "timeline",
    "GET",
    "/admin/tasks/{task_id}",
    "Show a task with its four facts and its leases.",
    admin.TaskTimeline,
    query=admin.OverviewQuery,
    admin=True,
    use="admin_lists.task",
)
ALL_DEAD_LETTERS = Endpoint(
    "all_dead_letters",
    "GET",
    "/admin/dead-letters",
    "List the dead letters of all mailboxes.",
    admin.AllDeadLetters,
    query=admin.DeadLettersQuery,
    admin=True,
    use="admin_lists.dead_letters",
)
AUDIT = Endpoint(
    "audit",
    "GET",
    "/admin/audit",
    "List what the operator did.",
    admin.AuditList,
    query=admin.PageQuery,
    admin=True,
    use="audit.list",
)
LIVE = Endpoint(
    "live",
    "GET",
    "/admin/events",
    "Get each new overview as a server-sent event.",
    None,
    query=admin.LiveQuery,
    admin=True,
    text=True,
    stays=True,
)
REDRIVE_FOR = Endpoint(
    "redrive_for",
    "POST",
    "/admin/redrive",
    "Put dead letters of an agent back, as the operator.",
    admin.PutBack,
    body=admin.RedriveFor,
    admin=True,
    use="operator.redrive",
    audited="agent_id",
)
MAKE_LINK = Endpoint(
    "make_link",
    "POST",
    "/admin/links",
    "Make a one-time link to the page.",
    admin.LinkMade,
    body=admin.MakeLink,
    admin=True,
)
LOG_IN = Endpoint(
    "log_in",
    "POST",
    "/admin/sessions",
    "Open a session of the page.",
    admin.SessionView,
    body=admin.Login,
    open=True,
    tells=("Set-Cookie",),
)
SESSION = Endpoint("session", "GET", "/admin/session", "Show the session of a page.", admin.SessionView, admin=True)
LOG_OUT = Endpoint(
    "log_out",
    "POST",
    "/admin/logout",
    "End the session of a page, or all sessions.",
    admin.SessionsEnded,
    body=admin.Logout,
    admin=True,
    tells=("Set-Cookie",),
)
PAGE_FILE = Endpoint("page_file", "GET", "/page/{file}", "A file of the page.", None, open=True, text=True)
HEALTH = Endpoint(
    "health", "GET", "/healthz", "Show whether the relay takes work.", replies.Health, open=True, use="health"
)
READY = Endpoint(
    "ready",
    "GET",
    "/readyz",
    "Show whether the relay can read and write its store.",
    replies.Health,
    open=True,
    use="ready",
)
METRICS = Endpoint("metrics", "GET", "/metrics", "Counters in Prometheus text format.", None, text=True)
OPENAPI = Endpoint("openapi", "GET", "/openapi.json", "This interface as OpenAPI 3.1.", None, text=True)

ENDPOINTS: tuple[Endpoint, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Endpoint)),
    *MAILBOX_ENDPOINTS,
    *ADMIN_ENDPOINTS,
    *FILE_ENDPOINTS,
    *OPERATOR_ENDPOINTS,
)


@dataclass(frozen=True)
class Frame:
    """A request over a websocket that no route takes."""

    name: str
    body: Any
    reply: Any
    use: str
    by: str


# The requests that a websocket takes. A frame says what the body of its endpoint does, with its name as the type.
FRAMES: dict[str, Endpoint | Frame] = {
    row.name: row
    for row in (
        Frame("heartbeat", requests.Heartbeat, replies.Beat, "agents.heartbeat", "agent_id"),
        DELEGATE,
        BROADCAST,
        RESPOND,
        SEND,
        mailbox_paths.ACK,
        mailbox_paths.NACK,
        mailbox_paths.EXTEND,
        Frame("subscribe", requests.Subscribe, replies.Subscribed, "agents.choose_topics", "agent_id"),
        Frame("ping", requests.Ping, replies.Pong, "agents.ping", "agent_id"),
    )
}
