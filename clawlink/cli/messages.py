"""The display of a message: facts in the command line's words, and the sender's text marked as foreign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from clawlink.cli.files import show_attachments
from clawlink.cli.render import duration, epoch, named, plural
from clawlink.domain.message import (
    AgentJoined,
    AgentLeft,
    FileUpdated,
    KnowledgeBroadcast,
    Message,
    MessageUpdate,
    PlainMessage,
    TaskAnswer,
    TaskDelegation,
    TaskResponse,
    TaskUpdate,
)
from clawlink.domain.terminal import cell

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.calls import Other
    from clawlink.protocol.replies import TaskEvent

_ASKED = "input_required"
_QUEUED = "queued"


def show_message(
    ctx: Context,
    message: Message | Other,
    id: str,
    raw: dict[str, Any],
    *,
    attempt: int = 1,
    reported: Sequence[TaskEvent] = (),
) -> None:
    """Print one message: its type, sender, age and text. ``reported`` has the earlier reports on a task."""
    again = f"{attempt} ({_why_again(reported)})" if attempt > 1 else None
    if isinstance(message, TaskDelegation):
        ctx.out.line(f"task {cell(id)}", style="bold")
        _show_delegation(ctx, message, again)
    elif isinstance(message, TaskResponse):
        known = message.passed_on is not True
        to = f"to task {cell(message.message_id)}" if known else f"to what it calls {cell(message.message_id)}"
        ctx.out.line(f"response {cell(id)} {to}", style="bold")
        progress = None if message.progress is None else f"{message.progress:g} %"
        _facts(ctx, message, again, ("status", cell(message.status)), ("progress", progress))
        if message.note:
            show_text(ctx, "note", message.note)
        if message.result is not None:
            show_text(ctx, "asks" if message.status == _ASKED else "result", message.result)
        _attachments(ctx, message)
    elif isinstance(message, TaskAnswer):
        ctx.out.line(f"answer {cell(id)} to what you asked about task {cell(message.task_id)}", style="bold")
        _facts(ctx, message, again)
        show_text(ctx, "content", message.content)
    elif isinstance(message, TaskUpdate):
        _show_update(ctx, message, id, again)
    elif isinstance(message, MessageUpdate):
        ctx.out.line(f"message notice {cell(id)}: about message {cell(message.about)}", style="bold")
        ctx.out.facts(("why", cell(message.note)), ("age", _age(ctx, message.queued_at)), ("attempt", again))
    elif isinstance(message, KnowledgeBroadcast):
        ctx.out.line(f"broadcast {cell(id)}", style="bold")
        _facts(ctx, message, again)
        show_text(ctx, "topic", message.topic)
        if message.tags:
            show_text(ctx, "tags", ", ".join(message.tags))
        show_text(ctx, "content", message.content)
    elif isinstance(message, PlainMessage):
        ctx.out.line(f"message {cell(id)}", style="bold")
        _facts(ctx, message, again, ("answers", _cell(message.in_reply_to)), ("thread", _cell(message.thread)))
        show_text(ctx, "content", message.content)
        _attachments(ctx, message)
    elif isinstance(message, FileUpdated):
        ctx.out.line(f"file notice {cell(id)}", style="bold")
        what = "deleted" if message.deleted else f"written, version {message.version}"
        ctx.out.facts(
            ("what", what),
            ("by", ctx.agents.named(message.last_editor)),
            ("age", _age(ctx, message.queued_at)),
            ("attempt", again),
        )
        show_text(ctx, "file", message.file_key)
    elif isinstance(message, AgentJoined | AgentLeft):
        _show_agent(ctx, message, id, again)
    else:
        ctx.out.line(f"message {cell(id)} of a kind that this version does not know", style="bold")
        show_text(ctx, "content", raw)


def is_notice(message: Message | Other) -> bool:
    """Return True if the message only tells of an agent or a file."""
    return isinstance(message, AgentJoined | AgentLeft | FileUpdated)


def notices_line(messages: Iterable[Message | Other]) -> str:
    """Return the notices among the messages as one line: ``3 joined, 2 files changed``. Empty without any."""
    count = Counter(
        "deleted" if isinstance(m, FileUpdated) and m.deleted else type(m).__name__ for m in messages if is_notice(m)
    )
    parts = [
        f"{count['AgentJoined']} joined" if count["AgentJoined"] else "",
        f"{count['AgentLeft']} left" if count["AgentLeft"] else "",
        f"{plural(count['FileUpdated'], 'file')} changed" if count["FileUpdated"] else "",
        f"{plural(count['deleted'], 'file')} deleted" if count["deleted"] else "",
    ]
    return ", ".join(filter(None, parts))


def _why_again(reported: Sequence[TaskEvent]) -> str:
    back = next((event for event in reversed(reported) if event.status == _QUEUED), None)
    # Notes of the relay are in our words; a note of an agent is in its own, and stands with its report.
    if back is None or back.by is not None or not back.note:
        return "handed out before"
    return f"taken back: {cell(back.note)}"


def _show_delegation(ctx: Context, message: TaskDelegation, again: str | None) -> None:
    chain = message.chain
    follows = None
    if chain.hops:
        before = " -> ".join(map(ctx.agents.named, chain.agents))
        follows = f"hop {chain.hops} of {before}"
    ends = None if message.deadline_at is msgspec.UNSET else epoch(str(message.deadline_at))
    left = None if ends is None else f"in {duration(ends - ctx.now)}" if ends > ctx.now else "over"
    _facts(ctx, message, again, ("priority", message.priority.value), ("deadline", left), ("follows", follows))
    show_text(ctx, "task", message.task)
    if message.context:
        show_text(ctx, "context", message.context)
    _attachments(ctx, message)


def _attachments(ctx: Context, message: TaskDelegation | TaskResponse | PlainMessage) -> None:
    if message.attachments is not msgspec.UNSET:
        show_attachments(ctx, message.attachments)


def _show_update(ctx: Context, message: TaskUpdate, id: str, again: str | None) -> None:
    ctx.out.line(f"task notice {cell(id)}: task {cell(message.task_id)} is {cell(message.status)}", style="bold")
    ctx.out.facts(
        ("by", "the relay" if message.by is None else ctx.agents.named(message.by)),
        # Notes of the relay are in our words; notes of agents are in theirs.
        ("why", cell(message.note) if message.note and message.by is None else None),
        ("handed out", f"{message.attempts} times" if message.attempts > 1 else None),
        ("age", _age(ctx, message.queued_at)),
        ("attempt", again),
    )
    if message.note and message.by is not None:
        show_text(ctx, "note", message.note)


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
        show_text(ctx, "about", agent.description)


def next_command(ctx: Context, message: Message | Other, *, receipt: str | None = None) -> tuple[str, str] | None:
    """Return the recipient's next step, and the command for it; None if there is none.

    With the ``receipt`` of an unacknowledged claim, the answer counts only while the claim does.
    """
    if isinstance(message, TaskDelegation):
        claim = {} if receipt is None else {"receipt": receipt}
        return "answer", ctx.command("respond", message.message_id, **claim, tail='"..."')
    if isinstance(message, TaskResponse) and message.status == _ASKED and message.passed_on is not True:
        return "answer", ctx.command("answer", message.message_id, tail='"..."')
    if isinstance(message, TaskAnswer):
        return "go on", ctx.command("respond", message.task_id, tail='"..."')
    if isinstance(message, TaskUpdate):
        return "look", ctx.command("task", message.task_id)
    if isinstance(message, MessageUpdate):
        return "look", ctx.command("status", message.about)
    if isinstance(message, PlainMessage):
        from clawlink.doors.registry import next_step

        words = next_step(message.content) if isinstance(message.content, str) else None
        if words is not None:
            return "receive", ctx.command(*words)
        return "reply", ctx.command("send", to=message.from_agent, reply_to=message.message_id, tail='--content "..."')
    if isinstance(message, FileUpdated) and not message.deleted:
        return "read", ctx.command("file-get", key=message.file_key)
    return None


def _facts(
    ctx: Context,
    message: TaskDelegation | TaskResponse | TaskAnswer | KnowledgeBroadcast | PlainMessage,
    again: str | None,
    *more: tuple[str, str | None],
) -> None:
    sender = named(message.from_name, message.from_agent) + (", a person" if message.from_person is True else "")
    ctx.out.facts(("from", sender), *more, ("age", _age(ctx, message.queued_at)), ("attempt", again))


def show_text(ctx: Context, label: str | None, content: Any, *, indent: int = 4) -> None:
    """Print a foreign value: text unchanged, anything else as JSON."""
    if label is not None:
        ctx.out.line(f"{'':{indent - 2}}{label}:")
    ctx.out.quote(as_text(content), indent)


def as_text(content: Any) -> str:
    """Return text unchanged, and anything else as JSON."""
    return content if isinstance(content, str) else msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _cell(text: str | None) -> str | None:
    return None if text is None else cell(text)


def _age(ctx: Context, queued_at: str) -> str | None:
    at = epoch(queued_at)
    return None if at is None else duration(ctx.now - at)
