"""The display of tasks: in lists, alone with their history, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.files import show_attachments
from clawlink.cli.messages import as_text, show_text
from clawlink.cli.render import duration, epoch, named, quoted, reached, time_of_day, when
from clawlink.domain.message import TaskResponse
from clawlink.domain.terminal import cell

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import TaskEvent, TaskView, Wake

_ASKED = "input_required"
_DONE = "completed"
_CANCELLED = "cancelled"
_NAME_WIDTH = 40
_BRIEF_WIDTH, _BRIEF_ID = 16, 6


def exit_of(task: TaskView) -> Exit:
    """Return the exit code for a task that is final."""
    return Exit.DONE if task.status == _DONE else Exit.FAILED


def stands(task: TaskView) -> str:
    """Say where a task stands: ``in_progress, 40 %``."""
    done = "" if task.progress is None or task.finished_at is not None else f", {task.progress:g} %"
    return cell(task.status) + done + (", dead letter" if task.dead_letter else "")


def known_as(task: TaskView) -> str:
    """Return the text of the task, and its id."""
    return f"{quoted(as_text(task.task), _NAME_WIDTH)}, task {cell(task.task_id)}"


def known_briefly(task: TaskView) -> str:
    """Return the beginning of the task's text, and of its id, which is enough to type."""
    return f"{quoted(as_text(task.task), _BRIEF_WIDTH)} {cell(task.task_id[:_BRIEF_ID])}"


def owner_of(ctx: Context, task: TaskView, *, me: str | None, brief: bool = False) -> str:
    """Return the owner of a task with its presence, or the agents that could have it. ``brief`` leaves the id out."""
    if task.owner is not None:
        if task.owner.agent_id == me:
            return "you"
        there = reached(task.owner, ctx.now)
        who = quoted(task.owner.name, _NAME_WIDTH) if brief else named(task.owner.name, task.owner.agent_id)
        return f"{who}, {there}"
    if task.assignee is not None:
        return f"{ctx.agents.named(task.assignee)}, who has left"
    if task.pool_online == 0:
        return "nobody yet, and no agent that may claim it is online"
    return "nobody yet" if task.finished_at is None else "nobody"


def holder_elsewhere(task: TaskView) -> str | None:
    """Return how far an open task for an agent elsewhere came, and how to see more of it; None for other tasks."""
    from msgspec import UNSET

    if task.owner is None or task.owner.through is UNSET or task.finished_at is not None:
        return None
    portal = cell(task.owner.through)
    if task.acked_at is None:
        return not_there_yet(task.owner.name, portal)
    return (
        f"the agent of the owner of {quoted(task.owner.name, _NAME_WIDTH)} has it, and no {portal} tells its name; "
        f"with the owner key: clawlink {portal} tasks {cell(task.task_id)}"
    )


def not_there_yet(name: str, portal: str) -> str:
    """Return that only the door of this relay has what is for a recipient elsewhere."""
    there = quoted(name, _NAME_WIDTH)
    return f"the {portal} here has it, and tries until the {portal} of {there} has it, too"


def wanted(ctx: Context, task: TaskView) -> str | None:
    """Return the conditions of a pool's task as a text; None for a task of a named agent."""
    able = task.capability
    needs = [] if able is None else [able] if isinstance(able, str) else able
    able_to = f" with {' and '.join(needs)}" if needs else ""
    if task.to_any_of:
        return f"one of {', '.join(map(ctx.agents.named, task.to_any_of))}" + cell(able_to and f",{able_to}")
    return cell(f"any agent{able_to}") if needs else None


def question(task: TaskView) -> Any:
    """Return the assignee's open question; None if there is none."""
    if task.status != _ASKED:
        return None
    return next((_asks(event) for event in reversed(task.history) if event.status == _ASKED), None)


def _asks(step: TaskEvent | TaskResponse) -> Any:
    said = step.result if isinstance(step, TaskResponse) else step.content
    return step.note if said is None else said


def why_over(ctx: Context, asked: TaskResponse) -> str | None:
    """Return why a question that an assignee sent needs no answer any more; None if it may need one.

    The relay stores a question before it moves the task. So a task that does not show the question is no reason.
    """
    from clawlink.errors import ClawLinkError

    try:
        task = ctx.client.task(asked.message_id)
    except ClawLinkError:
        return None
    questions = [_asks(event) for event in task.history if event.status == _ASKED]
    known = _asks(asked) in questions
    if task.status == _ASKED:
        return "a newer question waits for an answer" if known and _asks(asked) != questions[-1] else None
    return f"the task is {stands(task)}" if known or task.finished_at is not None else None


def answer_command(ctx: Context, task_id: str) -> str:
    """Return the command that answers an assignee's question."""
    return ctx.command("answer", task_id, tail='"..."')


def latest_step(task: TaskView) -> TaskEvent | None:
    """Return the step that brought a task to where it stands: how it ended, or why it waits again."""
    return next((event for event in reversed(task.history) if event.status == task.status), None)


def show_result(ctx: Context, task: TaskView) -> None:
    """Print the result of a final task."""
    end = latest_step(task)
    by = None if end is None else end.by
    itself = by is not None and by == ctx.me.agent_id and task.status == _CANCELLED
    ctx.out.stands(known_as(task), f"{stands(task)}{' by you' if itself else ''}")
    begun, ended = epoch(task.created_at), epoch(task.finished_at or "")
    took = None if begun is None or ended is None else duration(ended - begun)
    attempts = None if task.attempts < 2 else f"handed out {task.attempts} times"
    ctx.out.facts(
        ("by", owner_of(ctx, task, me=None) if by is not None and by == task.assignee and not itself else None),
        # Notes of the relay are in our words; notes of agents are in theirs.
        ("why", cell(end.note) if end is not None and end.by is None and end.note else None),
        ("ended", when(task.finished_at, ctx.now)),
        ("took", took),
        ("attempts", attempts),
    )
    if end is not None and end.by is not None and end.note:
        show_text(ctx, "note", end.note)
    if task.result is not None:
        show_text(ctx, "result", task.result)
    show_attachments(ctx, task.result_attachments)


def show_task(ctx: Context, task: TaskView, *, me: str | None) -> None:
    """Print a task with all that happened to it."""
    now = ctx.now
    ctx.out.stands(f"task {cell(task.task_id)}", stands(task))
    ctx.out.facts(
        ("asked by", "you" if task.requester == me else ctx.agents.named(task.requester)),
        ("for", wanted(ctx, task)),
        ("owner", owner_of(ctx, task, me=me)),
        ("there", holder_elsewhere(task)),
        ("priority", cell(task.priority)),
        ("asked", when(task.created_at, now)),
        ("deadline", _deadline(task, now)),
        ("attempts", str(task.attempts)),
        ("part of", None if task.parent_task is None else f"task {cell(task.parent_task)}, hop {task.hops}"),
    )
    show_text(ctx, "task", task.task)
    if task.context:
        show_text(ctx, "context", task.context)
    show_attachments(ctx, task.attachments)
    if task.result is not None:
        show_text(ctx, "result", task.result)
    show_attachments(ctx, task.result_attachments)
    ctx.out.line("  history:")
    if task.history_folded:
        ctx.out.line(f"    ({task.history_folded} older reports are not kept)")
    timeline(ctx, task.history, began=task.created_at, me=me, owner=task)
    if task.status == _ASKED and task.requester == me:
        ctx.out.facts(("answer", answer_command(ctx, task.task_id)))
    elif task.finished_at is None and task.requester == me:
        ctx.out.facts(("wait", ctx.command("wait", task.task_id)), ("cancel", ctx.command("cancel", task.task_id)))


def timeline(
    ctx: Context, events: Sequence[TaskEvent], *, began: str | None, me: str | None, owner: TaskView | None = None
) -> None:
    """Print the history, one step a line, each with the time since the task began."""
    start = epoch(began or "") or (epoch(events[0].at) if events else None) or 0.0
    wakes = [] if owner is None else list(owner.woken)
    for event in events:
        while wakes and wakes[0].at <= event.at:
            _wake_line(ctx, wakes.pop(0), start)
        at = epoch(event.at)
        after = "?" if at is None else duration(at - start)
        progress = "" if event.progress is None else f", {event.progress:g} %"
        day = "?" if at is None else time_of_day(at, ctx.now)
        by = "the relay" if event.by is None else "you" if event.by == me else _named_by(ctx, event.by, owner)
        # Notes of the relay are in our words; notes of agents are in theirs.
        why = f": {cell(event.note)}" if event.by is None and event.note else ""
        ctx.out.line(f"    +{after:<8} ({day}) {cell(event.status)}{progress}, by {by}{why}")
        if event.by is not None and event.note:
            ctx.out.quote(event.note, indent=14)
        if event.content is not None:
            show_text(ctx, None, event.content, indent=14)
    for wake in wakes:
        _wake_line(ctx, wake, start)


def _wake_line(ctx: Context, wake: Wake, start: float) -> None:
    at = epoch(wake.at)
    after, day = ("?", "?") if at is None else (duration(at - start), time_of_day(at, ctx.now))
    ctx.out.line(f"    +{after:<8} ({day}) wake {said(wake)}")


def said(wake: Wake) -> str:
    """Return the result of a wake, as the program of the assignee told it."""
    result = _WAKE_RESULTS.get(wake.result) or cell(wake.result)
    return f"by {cell(wake.adapter)}: {result}" + (f" ({cell(wake.note)})" if wake.note else "")


_WAKE_RESULTS = {"started": "a turn begins", "queued": "handed to its program", "given_up": "given up, no way is left"}


def row(ctx: Context, task: TaskView, *, me: str | None) -> tuple[str, ...]:
    """Return a task as a row of a list."""
    asked = "you" if task.requester == me else ctx.agents.named(task.requester)
    owner = owner_of(ctx, task, me=me, brief=True)
    pooled = wanted(ctx, task)
    if task.assignee is None and pooled is not None:
        owner = f"{owner}: {pooled}"
    return cell(task.task_id), stands(task), _age(task, ctx.now), asked, owner, quoted(as_text(task.task), 60)


HEAD = ("task", "state", "age", "asked by", "owner", "what")
# Left out on a narrow terminal, the first one first.
LEAST = ("asked by", "age", "owner")


def _age(task: TaskView, now: float) -> str:
    at = epoch(task.created_at)
    return "-" if at is None else duration(now - at)


def _deadline(task: TaskView, now: float) -> str | None:
    at = epoch(task.deadline_at or "")
    if at is None or task.finished_at is not None:
        return None
    return f"in {duration(at - now)}" if at > now else "over"


def _named_by(ctx: Context, agent_id: str, task: TaskView | None) -> str:
    if task is not None and task.owner is not None and task.owner.agent_id == agent_id:
        return named(task.owner.name, agent_id)
    return ctx.agents.named(agent_id)
