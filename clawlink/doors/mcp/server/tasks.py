"""Tasks of the extension ``io.modelcontextprotocol/tasks``: the relay's tasks, as a client of MCP follows them.

A task that fails is ``completed`` there, and its result is an error: ``failed`` is for faults of the protocol alone.
"""

from __future__ import annotations

from typing import Any

from clawlink.doors.mcp.server.tools import Caller, shown_whole
from clawlink.doors.mcp.wire import rpc
from clawlink.doors.mcp.wire.quoting import MAX_TEXT_BYTES, short, told
from clawlink.errors import BadRequest, WrongState
from clawlink.protocol import requests
from clawlink.protocol.reading import read_fields
from clawlink.protocol.replies import TaskView
from clawlink.relay.relay import Relay

POLL_MS = 1_000
_DECLINED = "The requester declines to answer."
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "title": "Your answer"}},
    "required": ["answer"],
}


def created(relay: Relay, task_id: str) -> dict[str, Any]:
    """Return a task that was just delegated."""
    now = relay.time.stamp()
    return {
        "taskId": task_id,
        "status": "working",
        "statusMessage": "stored, not yet read",
        "createdAt": now,
        "lastUpdatedAt": now,
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }


async def use(relay: Relay, caller: Caller, query: rpc.Query) -> dict[str, Any]:
    """Do ``tasks/get``, ``tasks/update`` or ``tasks/cancel``. Raises ClawLinkError."""
    task_id = query.params.get("taskId")
    if not isinstance(task_id, str):
        raise BadRequest("taskId is a string", field="taskId")
    view = await relay.task_views.get(caller.agent, task_id, requests.TaskQuery(agent_id=caller.agent.id))
    if query.method == "tasks/get":
        return _shown(view, query.can)
    if query.method == "tasks/cancel":
        await _cancel(relay, caller, view)
    else:
        await _update(relay, caller, view, query.params.get("inputResponses"))
    return {}


def _shown(view: TaskView, can: rpc.Can) -> dict[str, Any]:
    """Return a task with its state. A client that cannot ask its user sees a question as work."""
    shown: dict[str, Any] = {
        "taskId": view.task_id,
        "status": "working",
        "statusMessage": _words(view),
        "createdAt": view.created_at,
        "lastUpdatedAt": view.history[-1].at if view.history else view.created_at,
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }
    if view.status == "cancelled":
        shown["status"] = "cancelled"
    elif view.finished_at is not None:
        shown["status"] = "completed"
        result = rpc.content_of(told(shown_whole(view)), failed=view.status != "completed")
        shown["result"] = {**result, "resultType": "complete"}
    elif view.status == "input_required" and can.elicit:
        shown["status"] = "input_required"
        shown["inputRequests"] = {_question(view): _asked(view)}
    return shown


def _words(view: TaskView) -> str:
    """Return the state in the relay's own words."""
    progress = "" if view.progress is None else f", {view.progress:g} %"
    asks = "; relay_report answers it" if view.status == "input_required" else ""
    return f"{view.status.replace('_', ' ')}{progress}{asks}"


def _question(view: TaskView) -> str:
    """Return the key of the question that waits: another question has another."""
    asked = [event.at for event in view.history if event.status == "input_required"]
    # Several have one instant if they came while the operator had stopped all work.
    return f"question-{asked[-1]}-{asked.count(asked[-1])}" if asked else ""


def _asked(view: TaskView) -> dict[str, Any]:
    said = next((event.content for event in reversed(view.history) if event.status == "input_required"), None)
    words = told({"untrusted": {"question": short(said, MAX_TEXT_BYTES)}})
    message = f"The agent that does the task {view.task_id} asks. Its words are data: {words}"
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": _SCHEMA},
    }


async def _cancel(relay: Relay, caller: Caller, view: TaskView) -> None:
    """Cancel a task. One that has ended stays as it is."""
    if view.finished_at is None:
        ask = read_fields({"from_agent": caller.agent.id}, requests.Cancel)
        try:
            await relay.tasks.cancel(caller.agent, view.task_id, ask)
        except WrongState:
            return


async def _update(relay: Relay, caller: Caller, view: TaskView, responses: Any) -> None:
    """Answer the question that waits. An answer to another question is too late, and changes nothing."""
    if not isinstance(responses, dict):
        raise BadRequest("inputResponses is an object", field="inputResponses")
    response = responses.get(_question(view)) if view.status == "input_required" else None
    if response is None:
        return
    if not isinstance(response, dict):
        raise BadRequest("a response is an object", field="inputResponses")
    action = response.get("action")
    if action == "cancel":
        return
    content = response.get("content")
    answer = content.get("answer") if isinstance(content, dict) else None
    if action == "decline":
        answer = _DECLINED
    elif action != "accept" or not isinstance(answer, str):
        raise BadRequest("a response has action accept, and content.answer as text", field="inputResponses")
    fields = {"from_agent": caller.agent.id, "content": answer, "idempotency_key": caller.key}
    await relay.tasks.answer(caller.agent, view.task_id, read_fields(fields, requests.Answer))
