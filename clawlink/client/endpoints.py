"""Each endpoint once: its request, and the reading of its answer. The clients that send know nothing of endpoints.

Each function takes the asking agent and its arguments, and returns a ``Call``. Its parameters and its docstring are
those of the method of the same name of ``Client``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from socket import gethostname
from typing import Any

import msgspec

from clawlink.client.calls import (
    READERS,
    Call,
    Identity,
    checked,
    number_of_seconds,
    plain,
    reader,
    repeat_key,
    several,
    simple_call,
)
from clawlink.domain.limits import MAX_ID_LENGTH, MAX_LIST_LENGTH, SESSION_SECONDS
from clawlink.domain.message import Attachment, KnowledgeBroadcast
from clawlink.domain.task import reported_as
from clawlink.protocol import admin, paths, replies, requests

_read_knowledge = reader(replies.KnowledgeList[KnowledgeBroadcast])
_read_object = reader(dict[str, Any])


def info(me: Identity) -> Call[replies.Info]:
    """Return the relay's facts, counts and limits."""
    return simple_call(paths.INFO)


def health(me: Identity) -> Call[replies.Health]:
    """Tell whether the relay takes work."""
    return simple_call(paths.HEALTH)


def ready(me: Identity) -> Call[replies.Health]:
    """Return if the relay can read and write its store. Raises StoreUnavailable, Draining."""
    return simple_call(paths.READY)


def register(
    me: Identity,
    name: str | None = None,
    *,
    capabilities: Sequence[str] | None = None,
    description: str | None = None,
    machine: str | None = None,
    subscriptions: Sequence[str] | None = None,
    claim: bool = True,
    notices: bool | None = None,
    key: str | None = None,
) -> Call[replies.Registered]:
    """Register this agent, or resume it if the client knows its id; the client acts as it from then on.

    A claimed agent (the default) gets an agent key. Without it no client can read its mailbox or use its name. A client
    with a key keeps it, also if the relay has forgotten the agent. ``machine`` is this one's name for an agent that is
    new, and stays as it is for another. ``subscriptions`` are patterns of the topics whose
    broadcasts it gets: ``research``, ``build.*``, ``*`` for all. With ``notices`` it hears which agents join and leave,
    and of each change of a file.
    """

    def learn(me: Identity, done: replies.Registered) -> None:
        me.agent_id = done.agent.agent_id
        me.agent_key = done.agent_key or me.agent_key
        me.relay_key = done.relay_key or me.relay_key

    if machine is None and me.agent_id is None:
        machine = gethostname()[:MAX_ID_LENGTH] or None
    if machine is not None:
        machine = machine.encode(errors="replace").decode()  # the bytes of a machine's name need not be UTF-8
    ask = requests.Register(
        agent_id=me.agent_id,
        name=name,
        capabilities=several(capabilities, "capabilities"),
        machine=machine,
        description=description,
        claim=claim,
        subscriptions=several(subscriptions, "subscriptions"),
        notices=notices,
        idempotency_key=repeat_key(key),
    )
    return simple_call(paths.REGISTER, ask, learn=learn)


def discover(
    me: Identity,
    *,
    capability: str | None = None,
    name: str | None = None,
    status: str = "online",
    limit: int | None = None,
    after: str | None = None,
) -> Call[replies.Discovered]:
    """List agents by capability, name and status: online, stale or all.

    All of them come, in as many calls as that takes; with a ``limit`` one page, which may be short. ``after`` is the
    ``next`` of the page before, None at the end.
    """
    query = {"capability": capability, "name": name, "status": status, "limit": limit, "after": after}
    return simple_call(paths.DISCOVER, query=query) if limit is not None else _discover_on(query, [])


def _discover_on(query: dict[str, Any], before: list[replies.ListedAgent]) -> Call[replies.Discovered]:
    """List a page of agents behind those that came ``before``, and then the others."""

    def read(body: bytes) -> replies.Discovered:
        page: replies.Discovered = READERS[paths.DISCOVER.name](body)
        agents = before + page.agents
        return msgspec.structs.replace(page, agents=agents, count=len(agents))

    def follow(found: replies.Discovered) -> Call[replies.Discovered] | None:
        return None if found.next is None else _discover_on({**query, "after": found.next}, found.agents)

    page = simple_call(paths.DISCOVER, query={**query, "limit": MAX_LIST_LENGTH}, read=read)
    return dataclasses.replace(page, follow=follow)


def heartbeat(me: Identity) -> Call[replies.Beat]:
    """Show a sign of life."""
    return simple_call(paths.HEARTBEAT, requests.Heartbeat(me.require()))


def sleep(me: Identity, *, forget_after: float | None = None) -> Call[replies.Asleep]:
    """Give back all tasks, and be stale until the next sign of life. The agent stays registered.

    After ``forget_after`` seconds without a sign of life the relay may forget it, once no mail waits.
    """
    ask = {"agent_id": me.require(), "forget_after": forget_after}
    return simple_call(paths.SLEEP, checked(ask, requests.Sleep))


def leave(me: Identity) -> Call[replies.Left]:
    """Leave the relay. Messages still in the mailbox expire; tasks wait a while for the agent to come back."""
    return simple_call(paths.LEAVE, agent_id=me.require(), repeatable=False)


def kick(me: Identity, agent: str) -> Call[replies.Left]:
    """Remove another agent, of that id or name. The client's token must be the relay's admin token.

    Its name is free then, and its tasks go on as if it had left.
    """
    return simple_call(paths.KICK, requests.Kick(agent), repeatable=False)


def overview(me: Identity) -> Call[admin.Overview]:
    """Show the relay at a glance. This and the other views of all agents need the right of the operator."""
    return simple_call(paths.OVERVIEW)


def all_agents(
    me: Identity, *, status: str = "all", text: str | None = None, limit: int = 50, after: str | None = None
) -> Call[admin.AgentList]:
    """List agents with their load and current task; ``text`` is a part of an id or a name."""
    return simple_call(paths.ALL_AGENTS, query={"status": status, "text": text, "limit": limit, "after": after})


def one_agent(me: Identity, agent: str) -> Call[admin.AgentDetail]:
    """Show one agent, its mailbox and its tasks."""
    return simple_call(paths.ONE_AGENT, agent_id=agent)


def all_tasks(
    me: Identity,
    *,
    status: str = "open",
    requester: str | None = None,
    assignee: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> Call[admin.AllTasks]:
    """List the tasks of all agents: a state, ``open`` or ``final``."""
    query = {"status": status, "requester": requester, "assignee": assignee, "limit": limit, "after": after}
    return simple_call(paths.ALL_TASKS, query=query)


def timeline(me: Identity, task_id: str) -> Call[admin.TaskTimeline]:
    """Show a task with its four facts and its leases."""
    return simple_call(paths.TIMELINE, task_id=task_id)


def all_dead_letters(
    me: Identity, *, reason: str | None = None, limit: int = 50, after: str | None = None
) -> Call[admin.AllDeadLetters]:
    """List the dead letters of all mailboxes, the newest first: those of a ``reason``, or all."""
    return simple_call(paths.ALL_DEAD_LETTERS, query={"reason": reason, "limit": limit, "after": after})


def audit(me: Identity, *, limit: int = 50, after: str | None = None) -> Call[admin.AuditList]:
    """List what the operator did, the newest first."""
    return simple_call(paths.AUDIT, query={"limit": limit, "after": after})


def redrive_for(me: Identity, agent: str, message_ids: Sequence[str] | None = None) -> Call[admin.PutBack]:
    """Put dead letters of an agent back, as the operator: the named ones, or up to 1000 of the oldest."""
    named = None if message_ids is None else list(message_ids)
    return simple_call(paths.REDRIVE_FOR, admin.RedriveFor(agent, named))


def session(me: Identity) -> Call[admin.SessionView]:
    """Tell by which right this client is the operator: ``token``, or ``local`` where the relay asks for none."""
    return simple_call(paths.SESSION)


def make_link(me: Identity, *, read_only: bool = False, seconds: float = SESSION_SECONDS) -> Call[admin.LinkMade]:
    """Make a one-time link to the page of the relay. It needs the right of the operator."""
    return simple_call(paths.MAKE_LINK, admin.MakeLink(read_only, seconds), repeatable=False)


def end_sessions(me: Identity) -> Call[admin.SessionsEnded]:
    """End all sessions of the page, and all links that were not used. It needs the right of the operator."""
    return simple_call(paths.LOG_OUT, admin.Logout(all=True))


def delegate(
    me: Identity,
    to: str | None = None,
    task: str | None = None,
    *,
    capability: str | Sequence[str] | None = None,
    to_any_of: Sequence[str] | None = None,
    context: Any = None,
    priority: str = "normal",
    deadline: float | None = None,
    parent_task: str | None = None,
    attachments: Sequence[Attachment] | None = None,
    key: str | None = None,
) -> Call[replies.Delegated]:
    """Delegate a task ``to`` an agent by id or name, or to the first agent of a pool that claims it.

    The pool has the agents with the ``capability`` (with all of a list), or those of ``to_any_of``, or both.
    ``deadline`` is in seconds from now. ``parent_task`` is the task for which this one is done. ``attachments`` are
    shared files for it, as ``attach`` returns them.
    """
    ask = {
        "from_agent": me.require(),
        "to_agent": to,
        "task": task,
        "context": plain({} if context is None else context, "context"),
        "priority": priority,
        "capability": capability if capability is None or isinstance(capability, str) else list(capability),
        "to_any_of": several(to_any_of, "to_any_of"),
        "deadline": deadline,
        "parent_task": parent_task,
        "attachments": several(attachments, "attachments"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.DELEGATE, checked(ask, requests.Delegate))


def respond(
    me: Identity,
    message_id: str,
    result: Any = None,
    *,
    status: str = "completed",
    progress: float | None = None,
    note: str | None = None,
    receipt: str | None = None,
    to: str | None = None,
    attachments: Sequence[Attachment] | None = None,
    key: str | None = None,
) -> Call[replies.ResponseSent]:
    """Answer a task, or report on it: in_progress, input_required, completed, failed, rejected.

    ``progress`` is in percent. With the ``receipt`` of a claim, the relay refuses with LeaseLost if the task was
    claimed again since, also by the same agent. ``attachments`` are those of ``delegate``.
    """
    reported_as(status, free=me.agent_key is None and receipt is None)
    ask = {
        "from_agent": me.require(),
        "message_id": message_id,
        "result": plain(result, "result"),
        "status": status,
        "progress": progress,
        "note": note,
        "receipt": receipt,
        "to_agent": to,
        "attachments": several(attachments, "attachments"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.RESPOND, checked(ask, requests.Respond))


def tasks(
    me: Identity,
    *,
    requester: str | None = None,
    assignee: str | None = None,
    status: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[replies.TaskList]:
    """List this agent's tasks, by state and the newest first; ``after`` is the ``next`` of the reply before.

    ``requester`` and ``assignee`` are agent ids, one of them this agent's. ``status`` is a state, open or final.
    """
    query = {
        "agent_id": me.require(),
        "requester": requester,
        "assignee": assignee,
        "status": status,
        "limit": limit,
        "after": after,
    }
    return simple_call(paths.TASKS, query=query)


def task(me: Identity, task_id: str, *, wait: float = 0.0, since: int | None = None) -> Call[replies.TaskView]:
    """Return a task that this agent delegated or was given.

    With ``wait``, in seconds, it returns once the task has changed since version ``since``, or without ``since`` once
    it is final.
    """
    wait = number_of_seconds(wait, "wait")
    query = {"agent_id": me.require(), "wait": wait or None, "since": since}
    return simple_call(paths.TASK, query=query, wait=wait, task_id=task_id)


def cancel(me: Identity, task_id: str, *, note: str | None = None) -> Call[replies.Cancelled]:
    """Take a task back for good. Its assignee is told, if it has fetched it."""
    ask = {"from_agent": me.require(), "note": note}
    return simple_call(paths.CANCEL, checked(ask, requests.Cancel), task_id=task_id)


def answer(me: Identity, task_id: str, content: Any, *, key: str | None = None) -> Call[replies.Answered]:
    """Answer a question of a task's assignee (``input_required``), so that the work goes on."""
    ask = {"from_agent": me.require(), "content": plain(content, "content"), "idempotency_key": repeat_key(key)}
    return simple_call(paths.ANSWER, checked(ask, requests.Answer), task_id=task_id)


def send(
    me: Identity,
    to: str,
    content: Any,
    *,
    in_reply_to: str | None = None,
    thread: str | None = None,
    parent_task: str | None = None,
    priority: str = "normal",
    attachments: Sequence[Attachment] | None = None,
    key: str | None = None,
) -> Call[replies.Sent]:
    """Send a plain message to an agent by id or name. ``parent_task`` is the task that it is sent for.

    ``attachments`` are those of ``delegate``.
    """
    ask = {
        "from_agent": me.require(),
        "to_agent": to,
        "content": plain(content, "content"),
        "in_reply_to": in_reply_to,
        "thread": thread,
        "parent_task": parent_task,
        "priority": priority,
        "attachments": several(attachments, "attachments"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.SEND, checked(ask, requests.Send))


def broadcast(
    me: Identity,
    content: str,
    *,
    topic: str = "general",
    tags: Sequence[str] = (),
    ttl: float | None = None,
    parent_task: str | None = None,
    key: str | None = None,
) -> Call[replies.BroadcastSent]:
    """Tell each other agent that subscribes to the topic.

    After ``ttl`` seconds the relay delivers it to no more agents.
    """
    ask = {
        "from_agent": me.require(),
        "content": content,
        "topic": topic,
        "tags": several(tags, "tags"),
        "ttl": ttl,
        "parent_task": parent_task,
        "idempotency_key": repeat_key(key),
    }
    return simple_call(paths.BROADCAST, checked(ask, requests.Broadcast))


def knowledge(
    me: Identity,
    *,
    topic: str | None = None,
    tag: str | None = None,
    author: str | None = None,
    since: float | str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[replies.KnowledgeList[KnowledgeBroadcast]]:
    """List what was broadcast and is still held, the newest first; ``after`` is the ``next`` of the reply before.

    ``topic`` may be a pattern, ``author`` is an agent id, ``since`` a time in ISO-8601 or in seconds since the epoch.
    """
    query = {"topic": topic, "tag": tag, "author": author, "since": since, "limit": limit, "after": after}
    return simple_call(paths.KNOWLEDGE, query=query, read=_read_knowledge)


def find_ids(me: Identity, beginning: str) -> Call[replies.FoundIds]:
    """Find the tasks, messages and broadcasts of this agent whose ids begin with these 4 to 24 hexadecimal digits."""
    return simple_call(paths.FIND_IDS, query={"agent_id": me.require()}, beginning=beginning)


def metrics(me: Identity) -> Call[str]:
    """Return the relay's counters as Prometheus text."""
    return simple_call(paths.METRICS, read=bytes.decode)


def openapi(me: Identity) -> Call[dict[str, Any]]:
    """Return the relay's interface as an OpenAPI document."""
    return simple_call(paths.OPENAPI, read=_read_object)
