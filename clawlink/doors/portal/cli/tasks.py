"""The actions of ``clawlink portal`` about tasks across portals."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clawlink.cli.exits import Exit, UsageError
from clawlink.cli.ids import chosen, is_prefix
from clawlink.cli.messages import as_text
from clawlink.cli.render import quoted
from clawlink.cli.shared import Absences
from clawlink.domain.terminal import cell
from clawlink.doors.portal.cli.output import done, local
from clawlink.doors.portal.client.files import attach_file
from clawlink.doors.portal.client.portal import Portal
from clawlink.doors.portal.rules.urls import shown
from clawlink.errors import NotAllowed, NotFound, RelayUnreachable

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_HEAD = ("task", "", "contact", "state", "since", "what")
_WIDTH = 60
_LOOK_SECONDS = 0.25


def _tasks(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    if args.words:
        return _one(ctx, _read(portal, _id(portal, args.words[0])))
    found = portal.ask("GET", "/api/portal/tasks")
    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE
    if not found["tasks"]:
        ctx.out.line("No task has crossed your portal lately; give one with: clawlink portal delegate CONTACT TEXT")
        return Exit.DONE
    rows = [(cell(t["task_id"]), _way(t), _contact(t), _stands(t), local(t["since"]), _what(t)) for t in found["tasks"]]
    ctx.out.table(_HEAD, rows, whole="task", least=("since",))
    return Exit.DONE


def _delegate(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    files = _attached(args, portal, to=args.words[0])
    ask = {"to": args.words[0], "task": args.words[1], "idempotency_key": args.idempotency_key, "files": files}
    told = portal.ask("POST", "/api/portal/delegate", ask)
    id = told["task_id"]
    if args.timeout is None:
        return done(ctx, told, f"Task {id} is stored, and goes to the other portal; see: clawlink portal tasks {id}")
    until = time.monotonic() + args.timeout
    absences = Absences(ctx, until)
    task = absences.bear(lambda: _read(portal, id))
    with contextlib.suppress(RelayUnreachable):  # the portal is away at the end of the time
        while not task["final"] and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            task = absences.bear(lambda: _read(portal, id))
    return _one(ctx, task)


def _answer(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    id = _id(portal, args.words[0])
    flag = "--attach" if args.attach else "--status"
    if (args.attach or args.status != "completed") and _is_given(portal, id):
        raise UsageError(
            f"{flag} is for tasks that you were given, and {cell(id)} is one that you gave: answer its question "
            f"without {flag}, or take it back with: clawlink portal cancel {cell(id)}"
        )
    files = _attached(args, portal, task=id)
    report = {
        "result": args.words[1],
        "status": args.status,
        "idempotency_key": args.idempotency_key,
        "files": files,
    }
    told = portal.ask("POST", f"/api/portal/tasks/{quote(id, safe='')}", report)
    with_files = f" with {len(files)} file{'s' if len(files) > 1 else ''}" if files else ""
    return done(ctx, told, f"The report on task {cell(id)} is stored{with_files}, and goes to the other portal.")


def _is_given(portal: Portal, id: str) -> bool:
    """Return True if this side gave the task to a contact."""
    found = portal.ask("GET", "/api/portal/tasks", task=id)["tasks"]
    return any(task["task_id"] == id and task["type"] == "sent" for task in found)


def _attached(args: Namespace, portal: Portal, *, to: str | None = None, task: str | None = None) -> list[str]:
    """Bring the files to the own portal, before the words that name them. Return their ids."""
    key = args.idempotency_key
    return [
        attach_file(portal, Path(path), to=to, task=task, key=key and f"{key} file {number}")["file_id"]
        for number, path in enumerate(args.attach or ())
    ]


def _cancel(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    id = _id(portal, args.words[0])
    try:
        told = portal.ask("POST", f"/api/portal/tasks/{quote(id, safe='')}/cancel", {})
    except NotAllowed:
        if _is_given(portal, id):
            raise
        raise UsageError(
            f"task {cell(id)} is one that you were given; turn it down with: "
            f"clawlink portal answer {cell(id)} TEXT --status rejected"
        ) from None
    return done(ctx, told, f"Task {cell(id)} is cancelled, and the other portal is told.")


def _id(portal: Portal, given: str) -> str:
    """Return the id of the task with this beginning, or the given text if there is none. Raises UsageError."""
    if not is_prefix(given):
        return given
    found = portal.ask("GET", "/api/portal/tasks", task=given)["tasks"]
    return chosen(given, {one["task_id"]: f"{_what(one)}, {_contact(one)}" for one in found})


def _read(portal: Portal, id: str) -> Any:
    """Return a task. Raises NotFound."""
    found = portal.ask("GET", "/api/portal/tasks", task=id)["tasks"]
    if not found or found[0]["task_id"] != id:
        raise NotFound(f"no task {id[:40]!r} is known; 'clawlink portal tasks' lists those that are")
    return found[0]


def _one(ctx: Context, task: Any) -> Exit:
    """Show a task. The exit code says how it ended, or that it has not."""
    if ctx.json:
        ctx.out.json(task)
    else:
        ctx.out.stands(f"task {cell(task['task_id'])} {_way(task)} {_contact(task)}", _stands(task))
        for name in ("task", "question", "note", "result"):
            if task[name] is not None and (name != "note" or task["question"] is None):
                ctx.out.line(f"  {name}:")
                ctx.out.quote(as_text(task[name]))
        for file in task["files"]:
            ctx.out.line(f"  {file['part']}, {_file(file)}")
        if task["task_id_there"] is not None:
            ctx.out.line(f"  At the other portal it is task {cell(task['task_id_there'])}.")
        elif task["type"] == "sent" and not task["final"]:
            ctx.out.line("  The other portal does not have it yet.")
        if _awaits_an_answer(task):
            ctx.out.line(f"  Answer with: clawlink portal answer {cell(task['task_id'])} TEXT")
    if not task["final"]:
        return Exit.PENDING
    return Exit.DONE if task["status"] == "completed" else Exit.FAILED


def _awaits_an_answer(task: Any) -> bool:
    """Return True if it is the turn of this side: it has the task, or is asked about its own."""
    if task["type"] == "sent":
        return task["question"] is not None
    return not task["final"]


def _file(file: Any) -> str:
    """Return a file of a task in words, with the command that brings it."""
    told = f"file {cell(file['filename'])}, {file['size']} bytes"
    if file["type"] == "received" and file["status"] == "completed":
        return f"{told}: clawlink portal get-file {cell(file['file_id'])}"
    return f"{told}: {cell(file['status'] or 'not on its way, or deleted')}"


def _way(task: Any) -> str:
    return "from" if task["type"] == "received" else "to"


def _contact(task: Any) -> str:
    return cell(task["name"] or shown(task["portal_url"]))


def _stands(task: Any) -> str:
    reached = "" if task["progress"] is None or task["final"] else f", {task['progress']:g} %"
    return cell(task["status"]) + reached


def _what(task: Any) -> str:
    return quoted(as_text(task["task"]), _WIDTH)


VERBS: Mapping[str, Callable[[Namespace, Any, Portal], Exit]] = {
    "tasks": _tasks,
    "delegate": _delegate,
    "answer": _answer,
    "cancel": _cancel,
}
