"""How a message from another agent is shown: the facts in our words, and what they wrote marked as theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clawlink.cli.render import cell, duration, epoch, named
from clawlink.domain.message import (
    AgentJoined,
    AgentLeft,
    FileUpdated,
    KnowledgeBroadcast,
    Message,
    PlainMessage,
    TaskDelegation,
    TaskResponse,
)

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.calls import Other


def show_message(ctx: Context, message: Message | Other, id: str, raw: dict[str, Any], *, attempt: int = 1) -> None:
    """Print one message: what it is, from whom, how old, and what it says."""
    again = f"{attempt} (it was handed out before and not acknowledged)" if attempt > 1 else None
    if isinstance(message, TaskDelegation):
        ctx.out.line(f"task {cell(id)}", style="bold")
        _facts(ctx, message, again, ("priority", message.priority.value))
        _text(ctx, "task", message.task)
        if message.context:
            _text(ctx, "context", message.context)
    elif isinstance(message, TaskResponse):
        ctx.out.line(f"response {cell(id)} to task {cell(message.message_id)}", style="bold")
        _facts(ctx, message, again, ("status", cell(message.status)))
        if message.result is not None:
            _text(ctx, "result", message.result)
    elif isinstance(message, KnowledgeBroadcast):
        ctx.out.line(f"broadcast {cell(id)}", style="bold")
        _facts(ctx, message, again)
        _text(ctx, "topic", message.topic)
        if message.tags:
            _text(ctx, "tags", ", ".join(message.tags))
        _text(ctx, "content", message.content)
    elif isinstance(message, PlainMessage):
        ctx.out.line(f"message {cell(id)}", style="bold")
        _facts(ctx, message, again, ("answers", _cell(message.in_reply_to)), ("thread", _cell(message.thread)))
        _text(ctx, "content", message.content)
    elif isinstance(message, FileUpdated):
        ctx.out.line(f"file notice {cell(id)}", style="bold")
        what = "deleted" if message.deleted else f"written, version {message.version}"
        ctx.out.facts(
            ("what", what), ("by", cell(message.last_editor)), ("age", _age(ctx, message.queued_at)), ("attempt", again)
        )
        _text(ctx, "file", message.file_key)
    elif isinstance(message, AgentJoined | AgentLeft):
        _show_agent(ctx, message, id, again)
    else:
        ctx.out.line(f"message {cell(id)} of a kind that this version does not know", style="bold")
        _text(ctx, "content", raw)


def _show_agent(ctx: Context, message: AgentJoined | AgentLeft, id: str, again: str | None) -> None:
    agent = message.agent
    verb = "joined" if isinstance(message, AgentJoined) else "left"
    ctx.out.line(f"agent notice {cell(id)}", style="bold")
    ctx.out.facts(
        (verb, named(agent.name, agent.agent_id)),
        ("can do", cell(", ".join(agent.capabilities)) or None),
        ("age", _age(ctx, message.queued_at)),
        ("attempt", again),
    )
    if agent.description:
        _text(ctx, "about", agent.description)


def next_command(ctx: Context, message: Message | Other) -> tuple[str, str] | None:
    """Return what the recipient can do next, and the command for it; None if there is nothing to do."""
    if isinstance(message, TaskDelegation):
        return "answer", ctx.command("respond", msg_id=message.message_id, tail='--result "..."')
    if isinstance(message, PlainMessage):
        return "reply", ctx.command("send", to=message.from_agent, reply_to=message.message_id, tail='--content "..."')
    if isinstance(message, FileUpdated) and not message.deleted:
        return "read", ctx.command("file-get", key=message.file_key)
    return None


def _facts(
    ctx: Context,
    message: TaskDelegation | TaskResponse | KnowledgeBroadcast | PlainMessage,
    again: str | None,
    *more: tuple[str, str | None],
) -> None:
    sender = named(message.from_name, message.from_agent)
    ctx.out.facts(("from", sender), *more, ("age", _age(ctx, message.queued_at)), ("attempt", again))


def _text(ctx: Context, label: str, content: Any) -> None:
    """Print what they wrote: text as it is, anything else as JSON."""
    text = content if isinstance(content, str) else msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
    ctx.out.line(f"  {label}:")
    ctx.out.quote(text)


def _cell(text: str | None) -> str | None:
    return None if text is None else cell(text)


def _age(ctx: Context, queued_at: str) -> str | None:
    at = epoch(queued_at)
    return None if at is None else duration(ctx.now - at)
