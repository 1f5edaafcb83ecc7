"""The use case of the relay behind each tool, and its result for a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from clawlink.domain.agent import Agent
from clawlink.doors.mcp.server.lists import Lists, others
from clawlink.doors.mcp.wire import tools
from clawlink.doors.mcp.wire.quoting import (
    MAX_RESULT_BYTES,
    MAX_TEXT_BYTES,
    identified,
    message,
    parted,
    quoted,
    told_list,
)
from clawlink.errors import BadRequest
from clawlink.protocol import requests
from clawlink.protocol.reading import read_fields
from clawlink.protocol.replies import ListedAgent, TaskView
from clawlink.relay.mailbox.long_poll import Taken
from clawlink.relay.mailbox.receipts import lease_of, receipted
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.handover import Handover

# A model may think this long about a message before it gives the receipt back.
LEASE_SECONDS = 300.0
_LAST_STEPS = 5
# About the bytes of an entry of a list beside its texts, and of a task shown alone.
_AGENT_BYTES, _LISTED_TASK_BYTES, _MESSAGE_BYTES = 300, 450, 500
_TASK_BYTES = 4_000
_LEAST_ROOM = 100
_agent = msgspec.json.Decoder(ListedAgent)


class Caller(NamedTuple):
    """The acting agent, how to see again that it may act, and the key that makes a repeat harmless."""

    agent: Agent
    again: Callable[[], Awaitable[Agent]]
    key: str | None
    lists: Lists


class Done(NamedTuple):
    """A result, and what has to know whether its reply was read. A long list is text in JSON already."""

    result: dict[str, Any]
    handover: Handover | None = None
    text: Raw | None = None


def _room(entries: int, beside: int) -> int:
    """Return the bytes that the texts of each entry of a list may have, if it has ``beside`` bytes of its own."""
    return max(MAX_RESULT_BYTES // max(entries, 1) - beside, _LEAST_ROOM)


def _listed(task: TaskView, room: int) -> dict[str, Any]:
    return _task_shown(task, 400, room, steps=0)


async def agents(relay: Relay, caller: Caller, ask: tools.Agents) -> Done:
    query = requests.DiscoverQuery(
        capability=ask.capability or None, status="all" if ask.include_offline else "online", limit=tools.MAX_AGENTS
    )
    found, after = await relay.agents.discover(query)
    lists, me = caller.lists, (caller.agent.id, caller.agent.name)
    if (same := lists.same_agents(me, found, after is not None)) is not None:
        return Done({}, text=same)
    seen = others(found, me[0])
    shown = await lists.agents.text(seen, _room(len(found), _AGENT_BYTES), _agent_shown)
    you = {"you": {"agent_id": me[0], "name": me[1]}}
    more = {"more": "there are more agents; ask for a capability"} if after or len(shown) < len(seen) else {}
    return Done({}, text=lists.keep_agents(me, found, after is not None, told_list(you, "agents", shown, more)))


def _agent_shown(encoded: bytes, room: int) -> dict[str, Any]:
    agent = _agent.decode(encoded)
    said = (("name", agent.name), ("capabilities", agent.capabilities), ("description", agent.description or None))
    plain, odd = parted({"agent_id": agent.agent_id})
    return {
        **plain,
        "status": agent.status,
        **({} if agent.through is UNSET else {"through": agent.through}),
        "open_tasks": agent.load.open_tasks,
        "untrusted": odd | quoted(said, 1000, room),
    }


async def delegate(relay: Relay, caller: Caller, ask: tools.Delegate) -> Done:
    if bool(ask.to) == bool(ask.capability):
        raise BadRequest("give either to or capability, and not both", field="to")
    fields = {
        "from_agent": caller.agent.id,
        "task": ask.task,
        "to_agent": ask.to or None,
        "capability": ask.capability or None,
        "deadline": ask.deadline_seconds or None,
        "idempotency_key": caller.key,
    }
    done = await relay.submission.delegate(caller.agent, read_fields(fields, requests.Delegate))
    told: dict[str, Any] = {"task_id": done.message_id, "state": "stored, not yet read"}
    if done.recipient is not None:
        told["recipient"] = identified({"agent_id": done.recipient.agent_id}) | {"status": done.recipient.status}
    if done.pool is not None:
        told["agents_online_with_capability"] = done.pool.online
    return Done(told)


async def tasks(relay: Relay, caller: Caller, ask: tools.Tasks) -> Done:
    if not ask.task_id:
        query = requests.TasksQuery(agent_id=caller.agent.id, status="open", limit=tools.MAX_TASKS)
        page = await relay.task_views.list(caller.agent, query)
        shown = await caller.lists.tasks.text(page.tasks, _room(len(page.tasks), _LISTED_TASK_BYTES), _listed)
        left = page.next or len(shown) < len(page.tasks)
        more = {"more": "there are more; older ones are not listed"} if left else {}
        return Done({}, text=told_list({}, "tasks", shown, more))
    return Done(await task_of(relay, caller.agent, ask.task_id, ask.wait_seconds))


async def task_of(relay: Relay, agent: Agent, task_id: str, wait: float = 0.0) -> dict[str, Any]:
    """Return one task for a model, after its end or ``wait`` seconds."""
    task = await relay.task_views.get(agent, task_id, requests.TaskQuery(agent_id=agent.id, wait=wait))
    return shown_whole(task)


def shown_whole(task: TaskView) -> dict[str, Any]:
    """Return one task for a model, with its last steps."""
    return _task_shown(task, MAX_TEXT_BYTES, MAX_RESULT_BYTES - _TASK_BYTES, steps=_LAST_STEPS)


def _task_shown(task: TaskView, most: int, room: int, *, steps: int) -> dict[str, Any]:
    plain, odd = parted({"task_id": task.task_id, "requester": task.requester, "assignee": task.assignee})
    facts = {
        "state": task.status,
        "owner_status": None if task.owner is None else task.owner.status,
        "progress": task.progress,
        "attempts": task.attempts,
        "created_at": task.created_at,
        "deadline_at": task.deadline_at,
        "woken": [{"at": wake.at, "result": wake.result} for wake in task.woken] or None,
    }
    shown = plain | {name: value for name, value in facts.items() if value is not None}
    said: list[tuple[str, Any]] = [
        ("task", task.task),
        ("context", task.context),
        ("note", task.note),
        ("result", task.result),
        ("result_files", [file.file_key for file in task.result_attachments]),
    ]
    if steps:
        history = task.history[-steps:]
        shown["last_steps"] = [{"at": e.at, "state": e.status, **identified({"by": e.by})} for e in history]
        reports = [{"note": e.note, "content": e.content} for e in history if e.note or e.content is not None]
        said.append(("reports", reports))
    return shown | {"untrusted": odd | quoted(said, most, room)}


async def inbox(relay: Relay, caller: Caller, ask: tools.Inbox) -> Done:
    agent = caller.agent
    settled = receipted(await relay.acks.ack(agent.id, ask.receipts), "acked", relay.time) if ask.receipts else None
    tick = caller.again if ask.wait_seconds else None
    taken, earlier = Taken([], {})
    if settled is None or not relay.stopped:
        taken, earlier = await relay.claims.claim(
            agent, limit=ask.max_messages, wait=ask.wait_seconds, lease=LEASE_SECONDS, tick=tick
        )
    room = _room(len(taken), _MESSAGE_BYTES)
    turns = Turns()
    messages = []
    for d in taken:
        await turns.next()
        held = lease_of(d, earlier, relay.time).receipt
        messages.append({"receipt": held, "attempt": d.attempts, **message(d.body, MAX_TEXT_BYTES, room)})
    told: dict[str, Any] = {"messages": messages}
    if settled is not None:
        told["receipts_taken"] = settled.count
        lost = [{"receipt": one.receipt, "why": one.error} for one in settled.results if one.error is not None]
        if lost:
            told["receipts_refused"] = lost
    out = relay.handed_out(agent, taken, lease=LEASE_SECONDS, until_read=False) if taken else None
    return Done(told, out)


async def report(relay: Relay, caller: Caller, ask: tools.Report) -> Done:
    agent, key = caller.agent, caller.key
    if ask.status in ("answer", "cancel") and ask.progress is not None:
        raise BadRequest("progress is of a task that was given to you", field="progress")
    if ask.status == "answer":
        answer = read_fields({"from_agent": agent.id, "content": ask.text, "idempotency_key": key}, requests.Answer)
        answered = await relay.tasks.answer(agent, ask.task_id, answer)
        return Done({"task_id": ask.task_id, "state": answered.task_status})
    if ask.status == "cancel":
        cancel = read_fields({"from_agent": agent.id, "note": ask.text or None}, requests.Cancel)
        cancelled = await relay.tasks.cancel(agent, ask.task_id, cancel)
        return Done({"task_id": ask.task_id, "state": "cancelled", "before_it_was_read": cancelled.withdrawn})
    fields = {
        "from_agent": agent.id,
        "message_id": ask.task_id,
        "status": ask.status,
        "result": ask.text or None,
        "progress": ask.progress,
        "idempotency_key": key,
    }
    sent = await relay.responses.respond(agent, read_fields(fields, requests.Respond))
    return Done({"task_id": ask.task_id, "state": sent.task_status})


async def tell(relay: Relay, caller: Caller, ask: tools.Tell) -> Done:
    fields = {
        "from_agent": caller.agent.id,
        "to_agent": ask.to,
        "content": ask.text,
        "in_reply_to": ask.reply_to or None,
        "idempotency_key": caller.key,
    }
    sent = await relay.messages.send(caller.agent, read_fields(fields, requests.Send))
    status = None if sent.recipient is None else sent.recipient.status
    return Done({"message_id": sent.message_id, "state": "stored, not yet read", "recipient_status": status})


USE: dict[str, Callable[[Relay, Caller, Any], Coroutine[Any, Any, Done]]] = {
    "relay_agents": agents,
    "relay_delegate": delegate,
    "relay_tasks": tasks,
    "relay_inbox": inbox,
    "relay_report": report,
    "relay_tell": tell,
}
