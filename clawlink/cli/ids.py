"""Ids as people type them: the first characters of an id are enough where they name exactly one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from clawlink.cli.exits import UsageError
from clawlink.cli.render import ago, duration, epoch, quoted
from clawlink.domain.terminal import cell

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.identity import Saved

T = TypeVar("T")

MIN_PREFIX_LENGTH = 4
# Ids are hexadecimal digits: the relay makes them of 24, and clients make those of agents of 16.
ID_LENGTH = 24
AGENT_ID_LENGTH = 16
MAX_TASKS_SEARCHED = 2000
MAX_AGENTS_SEARCHED = 10_000
_PREFIX = re.compile(f"[0-9a-f]{{{MIN_PREFIX_LENGTH},{ID_LENGTH - 1}}}")
# Ids that agents choose themselves read like names. A mistyped name must not stand for such an id.
_MADE = re.compile("[0-9a-f-]+")
_MOST_PAGES = 20
_MOST_SHOWN = 5
_TEXT_WIDTH = 40


def is_prefix(text: str, length: int = ID_LENGTH) -> bool:
    """Return True if the text may be the beginning of an id of that length."""
    return len(text) < length and _PREFIX.fullmatch(text) is not None


def identity(kept: Iterable[Saved], given: str) -> str:
    """Return the kept agent's id with this beginning; a name, or a whole id, unchanged. Raises UsageError."""
    from clawlink.domain.agent import fold

    kept = list(kept)
    if not is_prefix(given, AGENT_ID_LENGTH) or any(fold(one.name) == fold(given) for one in kept):
        return given
    return _chosen(given, {one.agent_id: quoted(one.name, _TEXT_WIDTH) for one in _begin(kept, given, "agent_id")})


def task(ctx: Context, given: str) -> str:
    """Return the id of the agent's task with this beginning, or the given text if there is none. Raises UsageError."""
    return _chosen(given, {} if not is_prefix(given) else _tasks(ctx, given))


def message(ctx: Context, given: str) -> str:
    """Return the id of a message; search the given text among tasks. Raises UsageError."""
    id = task(ctx, given)
    if id == given and is_prefix(given):
        ctx.warn(f"{given!r} begins the id of no task of yours, so it is taken for a whole id")
    return id


def dead_letter(ctx: Context, given: str) -> str:
    """Return the id of the agent's dead letter with this beginning, or the given text. Raises UsageError."""
    if not is_prefix(given):
        return given
    from clawlink.domain.limits import MAX_LIST_LENGTH

    letters = ctx.client.dead_letters(limit=MAX_LIST_LENGTH)
    return _chosen(
        given,
        {one.message_id: f"dead since {ago(one.dead_at, ctx.now)}" for one in _begin(letters, given, "message_id")},
    )


def agent(ctx: Context, given: str) -> str:
    """Return the agent's id with this beginning; a name, or a whole id, unchanged. Raises UsageError."""
    if not is_prefix(given, AGENT_ID_LENGTH):
        return given
    from clawlink.domain.agent import fold

    listed, complete = ctx.agents.listed()
    if any(fold(one.name) == fold(given) or one.agent_id == given for one in listed):
        return given
    if not complete:
        raise UsageError(
            f"{given!r} may begin several ids: more than {MAX_AGENTS_SEARCHED} agents are here; give the whole id"
        )
    return _chosen(
        given,
        {
            one.agent_id: f"{quoted(one.name, _TEXT_WIDTH)}, seen {duration(ctx.now - one.last_heartbeat)} ago"
            for one in _begin(listed, given, "agent_id")
        },
    )


def _tasks(ctx: Context, given: str) -> dict[str, str]:
    """Return the tasks with this beginning, with descriptions. Raises UsageError if the search was cut short."""
    from clawlink.cli.messages import as_text
    from clawlink.domain.limits import MAX_LIST_LENGTH

    found: dict[str, str] = {}
    seen = 0
    after: str | None = None
    for _ in range(_MOST_PAGES):
        page = ctx.client.tasks(limit=min(MAX_LIST_LENGTH, MAX_TASKS_SEARCHED - seen), after=after)
        seen += len(page.tasks)
        for one in _begin(page.tasks, given, "task_id"):
            at = epoch(one.created_at)
            age = "" if at is None else f", {duration(ctx.now - at)} old"
            found[one.task_id] = quoted(as_text(one.task), _TEXT_WIDTH) + age
        after = page.next
        if after is None or seen >= MAX_TASKS_SEARCHED:
            break
    if after is not None and not found:
        raise UsageError(
            f"{given!r} begins no id among the first {seen} tasks of yours, and there are more; give the whole id"
        )
    return found


def _begin(listed: Iterable[T], given: str, field: str) -> list[T]:
    return [one for one in listed if (id := getattr(one, field)).startswith(given) and _MADE.fullmatch(id)]


def _chosen(given: str, found: dict[str, str]) -> str:
    if given in found or not found:
        return given
    if len(found) == 1:
        return next(iter(found))
    shown = "; ".join(f"{cell(id)} ({what})" for id, what in list(found.items())[:_MOST_SHOWN])
    more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    raise UsageError(f"{given!r} begins several ids, type more of one: {shown}{more}")
