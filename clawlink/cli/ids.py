"""Ids as people type them: the first characters of an id are enough where they name exactly one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from clawlink.cli.exits import UsageError
from clawlink.cli.render import duration, epoch, quoted
from clawlink.domain.terminal import cell

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.identity import Saved
    from clawlink.protocol.replies import FoundId

T = TypeVar("T")

MIN_PREFIX_LENGTH = 4
# Ids are hexadecimal digits: the relay makes them of 24, and clients make those of agents of 16.
ID_LENGTH = 24
AGENT_ID_LENGTH = 16
MAX_AGENTS_SEARCHED = 10_000
_PREFIX = re.compile(f"[0-9a-f]{{{MIN_PREFIX_LENGTH},{ID_LENGTH - 1}}}")
_DIGITS = re.compile("[0-9a-f]+")
# Ids that agents choose themselves read like names. A mistyped name must not stand for such an id.
_MADE = re.compile("[0-9a-f-]+")
_MOST_SHOWN = 5
_TEXT_WIDTH = 40
_TASK = "task_delegation"


def is_prefix(text: str, length: int = ID_LENGTH) -> bool:
    """Return True if the text may be the beginning of an id of that length."""
    return len(text) < length and _PREFIX.fullmatch(text) is not None


def too_short(text: str) -> str:
    """Return what to add to a sentence about an id that is not known, if it is cut too short; else ""."""
    if len(text) >= MIN_PREFIX_LENGTH or not _DIGITS.fullmatch(text):
        return ""
    return f" (of an id, the first {MIN_PREFIX_LENGTH} characters are needed at least)"


def identity(kept: Iterable[Saved], given: str) -> str:
    """Return the kept agent's id with this beginning; a name, or a whole id, unchanged. Raises UsageError."""
    from clawlink.domain.agent import fold

    kept = list(kept)
    if not is_prefix(given, AGENT_ID_LENGTH) or any(fold(one.name) == fold(given) for one in kept):
        return given
    return chosen(given, {one.agent_id: quoted(one.name, _TEXT_WIDTH) for one in _begin(kept, given, "agent_id")})


def task(ctx: Context, given: str) -> str:
    """Return the id of the agent's task with this beginning, or the given text if there is none. Raises UsageError."""
    return _message(ctx, given, lambda one: one.type == _TASK)


def message(ctx: Context, given: str) -> str:
    """Return the id of the agent's task, message or broadcast with this beginning, or the given text."""
    return _message(ctx, given, lambda one: True)


def dead_letter(ctx: Context, given: str) -> str:
    """Return the id of the agent's dead letter with this beginning, or the given text. Raises UsageError."""
    return _message(ctx, given, lambda one: one.state == "dead" and one.to_agent == ctx.me.agent_id)


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
    return chosen(
        given,
        {
            one.agent_id: f"{quoted(one.name, _TEXT_WIDTH)}, seen {duration(ctx.now - one.last_heartbeat)} ago"
            for one in _begin(listed, given, "agent_id")
        },
    )


def _message(ctx: Context, given: str, fits: Callable[[FoundId], bool]) -> str:
    """Ask the relay for the whole id. Raises UsageError if several begin so."""
    from clawlink.errors import UnknownRoute

    if not is_prefix(given):
        return given
    try:
        found = ctx.client.find_ids(given)
    except UnknownRoute:  # a relay before 1.2
        return given
    if found.more:
        raise UsageError(f"{given!r} begins too many ids to tell them apart; type more of it")
    fitting = {one.message_id: one for one in found.ids if fits(one)}
    if len(fitting) == 1:
        return next(iter(fitting))
    shown = list(fitting.values())[:_MOST_SHOWN]
    return chosen(given, {**dict.fromkeys(fitting, ""), **{one.message_id: _described(ctx, one) for one in shown}})


def _described(ctx: Context, one: FoundId) -> str:
    from clawlink.cli.messages import as_text
    from clawlink.errors import ClawLinkError

    at = epoch(one.stored_at)
    age = "" if at is None else f", {duration(ctx.now - at)} old"
    if one.type == _TASK:
        with suppress(ClawLinkError):
            return quoted(as_text(ctx.client.task(one.message_id).task), _TEXT_WIDTH) + age
    kind = "broadcast" if one.type == "knowledge_broadcast" else one.type.replace("_", " ")
    return f"{kind} from {ctx.agents.named(one.from_agent)}{age}"


def _begin(listed: Iterable[T], given: str, field: str) -> list[T]:
    return [one for one in listed if (id := getattr(one, field)).startswith(given) and _MADE.fullmatch(id)]


def chosen(given: str, found: dict[str, str]) -> str:
    if given in found or not found:
        return given
    if len(found) == 1:
        return next(iter(found))
    shown = "; ".join(f"{cell(id)} ({what})" for id, what in list(found.items())[:_MOST_SHOWN])
    more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    raise UsageError(f"{given!r} begins several ids, type more of one: {shown}{more}")
