"""Waiting for tasks with live output: changes go to stderr, results to stdout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from clawlink.cli.exits import Exit
from clawlink.cli.render import plural, quoted
from clawlink.cli.shared import tell_away
from clawlink.cli.tasks import (
    answer_command,
    exit_of,
    known_as,
    known_briefly,
    latest_step,
    owner_of,
    question,
    show_result,
    stands,
)
from clawlink.domain.terminal import cell

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.replies import TaskView

_NOTE_WIDTH, _QUESTION_WIDTH = 120, 400
_BAR_WIDTH, _NARROW_BAR_WIDTH = 20, 10
# From here on there is room for a whole id.
_WIDE = 120


def wait_for_tasks(ctx: Context, ids: Sequence[str], *, first_only: bool, timeout: float | None) -> Exit:
    """Wait until all tasks are final, or with ``first_only`` until one is completed, and print each as it comes.

    An interrupt leaves the tasks running and says how to come back to them. Raises StillPending when the time is over.
    """
    ids = list(dict.fromkeys(ids))
    watch = _Bars(ctx) if ctx.err.terminal and not ctx.json else _Lines(ctx)
    open_ids = dict.fromkeys(ids)
    worst = Exit.DONE
    from clawlink.client.wait_steps import StillPending
    from clawlink.errors import UnknownAgent, UnknownTask

    try:
        with watch:
            for done in ctx.client.as_completed(ids, timeout, watch.changed, on_away=watch.away):
                del open_ids[done.task_id]
                with watch.paused():
                    _print(ctx, done, several=len(ids) > 1)
                worst = max(worst, exit_of(done))
                if first_only and exit_of(done) is Exit.DONE:
                    worst = Exit.DONE
                    break
    except KeyboardInterrupt:
        going = "the task goes on" if len(open_ids) == 1 else f"{plural(len(open_ids), 'task')} go on"
        ctx.warn(f"{going}; come back with: {_again(ctx, open_ids, first_only)}")
        return Exit.INTERRUPTED
    except StillPending as late:
        raise StillPending(
            f"{late.message}; come back with: {_again(ctx, open_ids, first_only)}", current=late.current
        ) from None
    except (UnknownTask, UnknownAgent) as error:
        if not watch.were_known(open_ids):
            raise
        raise _forgotten(ctx, error, len(open_ids)) from None
    if open_ids:
        ctx.warn(f"{plural(len(open_ids), 'other task')} not waited for: {ctx.command('cancel', *open_ids)}")
    return worst


def _again(ctx: Context, ids: dict[str, None], first_only: bool) -> str:
    return ctx.command("wait", *ids, any=True) if first_only and len(ids) > 1 else ctx.command("wait", *ids)


def _forgotten(ctx: Context, error: ClawLinkError, count: int) -> ClawLinkError:
    """Return the error for tasks that a restarted relay does not know; it may not know the agent either."""
    from clawlink.errors import UnknownAgent, UnknownTask

    what = "this task; delegate it again" if count == 1 else "these tasks; delegate them again"
    before = f", after: {ctx.register_command(ctx.me)}" if isinstance(error, UnknownAgent) else ""
    return UnknownTask(f"the relay was restarted and has forgotten {what}{before}", field="task_id")


def _print(ctx: Context, task: TaskView, *, several: bool) -> None:
    """Print a task that is final, at once: the next may take long. Then settle the news of its end."""
    from clawlink.errors import ClawLinkError

    if ctx.json:
        ctx.out.json(task, one_line=several)
    else:
        show_result(ctx, task)
    ctx.out.flush()
    if task.requester == ctx.me.agent_id:  # a printed result need not come again by poll; if this fails, it does
        with contextlib.suppress(ClawLinkError):
            ctx.client.ack(tasks=[task.task_id])


def _told(task: TaskView) -> tuple[object, ...]:
    """Return the facts of a task whose change is worth a line of its own."""
    owner = None if task.owner is None else (task.owner.agent_id, task.owner.status)
    return task.status, task.progress, task.note, owner, task.pool_online == 0, task.attempts, question(task)


class _Lines:
    """Shows each change as a line: in a pipe, and as a JSON object with --json."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._told: dict[str, tuple[object, ...]] = {}
        self._was_away = False

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *failed: object) -> None:
        pass

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Make room for output."""
        return contextlib.nullcontext()

    def changed(self, task: TaskView) -> None:
        """Tell of a change, if a person would call it one."""
        told = _told(task)
        if self._told.get(task.task_id) != told:
            self._told[task.task_id] = told
            self._show(task)

    def were_known(self, ids: Iterable[str]) -> bool:
        """Return True if the relay knew all these tasks before it was away.

        If it does not know them now, it has forgotten them.
        """
        return (self._was_away or self._ctx.registered_anew) and all(id in self._told for id in ids)

    def _show(self, task: TaskView) -> None:
        ctx = self._ctx
        if ctx.json:
            ctx.err.json({"change": _change(task)}, one_line=True)
        else:
            ctx.err.line(f"clawlink: {known_as(task)}: {_said(ctx, task)}")
        ctx.err.flush()

    def away(self, error: ClawLinkError | None) -> None:
        """Tell that the relay is away, or back."""
        self._was_away = True
        with self.paused():
            tell_away(self._ctx, error)


class _Bars(_Lines):
    """Shows each task as a line of a terminal, with a spinner and a bar, and draws it again at each change."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._bars: dict[str, Any] = {}
        console = ctx.err.console()
        self._wide = console.width >= _WIDE
        # The bar has its width on any terminal. The text gets the rest, and is cut where that is not enough.
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(_BAR_WIDTH if self._wide else _NARROW_BAR_WIDTH),
            TimeElapsedColumn(),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            expand=True,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *failed: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bars away while something else is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def _show(self, task: TaskView) -> None:
        id = task.task_id
        if task.finished_at is not None:
            if id in self._bars:
                self._progress.remove_task(self._bars.pop(id))
            return
        if id not in self._bars:
            self._bars[id] = self._progress.add_task("", total=None)
        total = None if task.progress is None else 100.0
        known = known_as(task) if self._wide else known_briefly(task)
        self._progress.update(
            self._bars[id],
            total=total,
            completed=task.progress or 0.0,
            description=f"{known}: {_said(self._ctx, task)}",
        )
        if question(task) is not None:
            with self.paused():
                super()._show(task)


def _said(ctx: Context, task: TaskView) -> str:
    """Say in one line where a task stands."""
    parts = [stands(task)]
    if task.finished_at is None:
        parts.append(owner_of(ctx, task, me=ctx.me.agent_id))
    if task.attempts > 1:
        parts.append(f"handed out {task.attempts} times")
    step = latest_step(task)
    if step is not None and step.by is None and step.note:
        parts.append(cell(step.note))  # the relay's own words
    elif task.note:
        parts.append(quoted(task.note, _NOTE_WIDTH))
    asked = question(task)
    if asked is not None:
        text = asked if isinstance(asked, str) else msgspec.json.encode(asked).decode()
        parts.append(f"asks {quoted(text, _QUESTION_WIDTH)}; answer with: {answer_command(ctx, task.task_id)}")
    return ", ".join(parts)


def _change(task: TaskView) -> dict[str, object]:
    return {
        "task_id": task.task_id,
        "status": task.status,
        "progress": task.progress,
        "note": task.note,
        "assignee": task.assignee,
        "attempts": task.attempts,
        "question": question(task),
    }
