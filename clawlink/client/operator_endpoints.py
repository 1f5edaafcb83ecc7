"""The acts of the operator of a relay, as calls. Each needs the right of the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clawlink.client.calls import Call, Identity, checked, plain, repeat_key, several, simple_call
from clawlink.domain.limits import DEFAULT_UNREAD_MESSAGES, MAX_LIST_LENGTH
from clawlink.protocol import file_replies, operating, operator_paths, replies


def stop_all(me: Identity) -> Call[operating.Standing]:
    """Stop all new work and all claims of the relay, and of all relays over its store. A repeat changes nothing."""
    return simple_call(operator_paths.STOP_ALL, operating.StopAll(True))


def resume_all(me: Identity) -> Call[operating.Standing]:
    """Let work go on after ``stop_all``. A repeat changes nothing."""
    return simple_call(operator_paths.STOP_ALL, operating.StopAll(False))


def delegate_as_operator(
    me: Identity,
    to: str | None = None,
    task: Any = None,
    *,
    capability: str | Sequence[str] | None = None,
    to_any_of: Sequence[str] | None = None,
    context: Any = None,
    priority: str = "normal",
    deadline: float | None = None,
    key: str | None = None,
) -> Call[replies.Delegated]:
    """Delegate a task as the operator. The arguments are those of ``delegate``."""
    ask = {
        "to_agent": to,
        "task": plain(task, "task"),
        "context": plain({} if context is None else context, "context"),
        "priority": priority,
        "capability": capability if capability is None or isinstance(capability, str) else list(capability),
        "to_any_of": several(to_any_of, "to_any_of"),
        "deadline": deadline,
        "idempotency_key": repeat_key(key),
    }
    return simple_call(operator_paths.DELEGATE_AS, checked(ask, operating.OperatorTask))


def send_as_operator(
    me: Identity,
    to: str,
    content: Any,
    *,
    in_reply_to: str | None = None,
    priority: str = "normal",
    key: str | None = None,
) -> Call[replies.Sent]:
    """Send a message as the operator."""
    ask = {
        "to_agent": to,
        "content": plain(content, "content"),
        "in_reply_to": in_reply_to,
        "priority": priority,
        "idempotency_key": repeat_key(key),
    }
    return simple_call(operator_paths.SEND_AS, checked(ask, operating.OperatorMessage))


def broadcast_as_operator(
    me: Identity, content: Any, *, topic: str = "general", tags: Sequence[str] | None = None, key: str | None = None
) -> Call[replies.BroadcastSent]:
    """Tell all agents that subscribe to the topic, as the operator."""
    ask = {
        "content": plain(content, "content"),
        "topic": topic,
        "tags": several(tags, "tags"),
        "idempotency_key": repeat_key(key),
    }
    return simple_call(operator_paths.BROADCAST_AS, checked(ask, operating.OperatorBroadcast))


def answer_as_operator(me: Identity, task_id: str, content: Any) -> Call[replies.Answered]:
    """Answer the question of a task of any requester, as the operator. A repeat changes nothing."""
    ask = operating.OperatorAnswer(plain(content, "content"))
    return simple_call(operator_paths.ANSWER_AS, ask, task_id=task_id)


def cancel_as_operator(me: Identity, task_id: str, *, note: str | None = None) -> Call[replies.Cancelled]:
    """Cancel a task of any requester, as the operator. A repeat changes nothing."""
    return simple_call(operator_paths.CANCEL_AS, operating.OperatorCancel(note), task_id=task_id)


def respond_as_operator(
    me: Identity,
    task_id: str,
    result: Any = None,
    *,
    status: str = "completed",
    note: str | None = None,
    key: str | None = None,
) -> Call[replies.ResponseSent]:
    """Answer a task that was delegated to the operator, or report on it."""
    ask = {"result": plain(result, "result"), "status": status, "note": note, "idempotency_key": repeat_key(key)}
    return simple_call(operator_paths.RESPOND_AS, checked(ask, operating.OperatorReport), task_id=task_id)


def redrive_all(
    me: Identity, *, limit: int = MAX_LIST_LENGTH, reason: str | None = None
) -> Call[operating.RedrivenAll]:
    """Put dead letters of all mailboxes back, the newest first: those of a ``reason``, or all."""
    return simple_call(operator_paths.REDRIVE_ALL, checked({"limit": limit, "reason": reason}, operating.RedriveAll))


def rename_agent(me: Identity, agent: str, name: str) -> Call[operating.Renamed]:
    """Give an agent another name. The agent has it until it registers under another name."""
    ask = checked({"agent": agent, "name": name}, operating.Rename)
    return simple_call(operator_paths.RENAME_AGENT, ask, repeatable=False)


def unlock_as_operator(me: Identity, file_key: str) -> Call[file_replies.FileUnlocked]:
    """End the lock of a file of any agent."""
    return simple_call(operator_paths.UNLOCK_AS, checked({"file_key": file_key}, operating.Unlock), repeatable=False)


def inbox(me: Identity, *, limit: int = DEFAULT_UNREAD_MESSAGES) -> Call[operating.Inbox]:
    """Show the messages to the operator that are not put away."""
    return simple_call(operator_paths.INBOX, query={"limit": limit})


def put_away(me: Identity, message_ids: Sequence[str]) -> Call[operating.IsPutAway]:
    """Put messages to the operator away, which settles them."""
    ask = {"message_ids": several(message_ids, "message_ids")}
    return simple_call(operator_paths.PUT_AWAY, checked(ask, operating.PutAway))
