"""The overview of a relay as text of a certain width, and the steps of tasks as lines. Text of agents is harmless."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clawlink.cli.agents import Agents
from clawlink.cli.render import ago, epoch, plural, size, time_of_day, wrapped
from clawlink.domain.terminal import cell
from clawlink.errors import NotARelay, RelayUnreachable, Unavailable

if TYPE_CHECKING:
    from clawlink.client.sync import Client
    from clawlink.protocol.admin import Overview, TaskRow

_KEPT = 200
_REMEMBERED = 5000
_ROWS = 50
_LEAST_WIDTH = 20
_LEAST_TAIL = 3
_SHOWN_ID = 8
_WORDS = 60
_UNWOKEN = 3
_STOPS = 3
_STOPPED = {"loop_stopped": "work in a circle", "rate_limited": "work that came too fast"}


def facts(overview: Overview) -> list[str]:
    """Return the facts of an overview, the most urgent first, each as a line."""
    now = epoch(overview.server_time) or 0.0
    needs = overview.needs_you
    waits = (
        plural(needs.questions, "question") if needs.questions else None,
        plural(needs.inbox, "message") + " for you" if needs.inbox else None,
        plural(needs.dead_letters, "dead letter") if needs.dead_letters else None,
        plural(needs.expired, "expired task") if needs.expired else None,
        plural(needs.unserved_pools, "pool without an agent", "pools without an agent")
        if needs.unserved_pools
        else None,
        plural(needs.unread_mailboxes, "mailbox not read", "mailboxes not read") if needs.unread_mailboxes else None,
        plural(needs.unwoken_agents, "agent not woken", "agents not woken") if needs.unwoken_agents else None,
        plural(needs.stuck_records, "stuck record") if needs.stuck_records else None,
    )
    urgent = ", ".join(filter(None, waits))
    found = [f"ClawLink {cell(overview.version)}, started {ago(overview.started_at, now)}"]
    if overview.stopped_at is not None:
        found.append(f"ALL WORK IS STOPPED, {ago(overview.stopped_at, now)}; go on with: clawlink resume-all")
    if overview.draining:
        found.append("The relay is shutting down.")
    found.append(f"needs you: {urgent or 'nothing'}")
    for one in needs.unwoken[:_UNWOKEN]:
        found.append(
            f"not woken: {cell(one.name)}, {ago(one.at, now)} by {cell(one.adapter)}: {cell(one.note or 'no reason')}"
        )
    for stop in needs.stops[-_STOPS:]:
        chain = " -> ".join(cell(overview.names.get(id, id)) for id in stop.agents)
        found.append(f"stopped: {_STOPPED.get(stop.code, cell(stop.code))}, {ago(stop.at, now)}: {chain}")
    found.append(f"agents: {overview.agents_online} online, {overview.agents_stale} stale")
    found.append("open tasks: " + ", ".join(f"{count} {_words(state)}" for state, count in overview.open_tasks.items()))
    hour = [sum(getattr(m, name) for m in overview.traffic) for name in ("delegated", "answered", "failed")]
    found.append(f"last hour: {hour[0]} delegated, {hour[1]} completed, {hour[2]} without success")
    held = f"{plural(overview.messages_held, 'message')}, {size(overview.bytes_held)}"
    room = "data" if overview.on_disk else "memory"
    found.append(f"held: {held}; {room} {size(overview.memory_bytes)} of {size(overview.memory_limit)}")
    return found


def mailboxes(overview: Overview) -> list[tuple[str, str, str]]:
    """Return the deepest mailboxes: name, messages, and the age of the oldest."""
    now = epoch(overview.server_time) or 0.0
    return [(cell(one.name), str(one.messages), ago(one.oldest_at, now)) for one in overview.mailboxes]


def screen(overview: Overview | None, tail: list[str], width: int, height: int, *, away: str | None) -> Any:
    """Return lines that fill a terminal of this size, none wider than it."""
    from rich.text import Text

    width, height = max(width, _LEAST_WIDTH), max(height, 1)
    lines: list[tuple[str, str]] = []
    if away is not None:
        lines += [(line.rstrip(), "bold red") for line in wrapped(cell(away), width)]
    if overview is None:
        lines.append(("waits for the relay ...", "dim"))
    else:
        for line in facts(overview):
            lines += [(piece.rstrip(), _style(line)) for piece in wrapped(line, width)]
        deepest = mailboxes(overview)
        room = height - len(lines) - _LEAST_TAIL - 3
        if deepest and room > 0:
            lines.append(("", ""))
            lines.append(("mailboxes", "bold"))
            for name, messages, oldest in deepest[:room]:
                before, after = f"  {messages:>6}  ", f", oldest {oldest}"
                shown = Text(name)
                shown.truncate(max(width - len(before) - len(after), 1), overflow="ellipsis")
                lines.append((f"{before}{shown.plain}{after}", ""))
        left = height - len(lines) - 2
        if left > 0:
            lines.append(("", ""))
            lines.append(("tasks (Ctrl-C ends)", "bold"))
            lines += [(line, "") for line in tail[-left:]]
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, (line, style) in enumerate(lines[:height]):
        piece = Text(line, style=style)
        piece.truncate(width, overflow="ellipsis")
        text.append("\n" if number else "")
        text.append_text(piece)
    return text


class Tail:
    """Reads the tasks whose states have changed, and says each step as a line."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._agents = Agents(client)
        self._counts: dict[str, int] | None = None
        self._seen: dict[str, tuple[str, str | None]] = {}
        self.lines: deque[str] = deque(maxlen=_KEPT)

    def news(self, overview: Overview) -> list[str]:
        """Return the lines since the last overview, the oldest first. A relay that is away has none."""
        counts = overview.open_tasks | overview.ended_tasks
        before, self._counts = self._counts, counts
        changed = [state for state, count in counts.items() if before is None or count != before.get(state)]
        rows: list[TaskRow] = []
        with contextlib.suppress(RelayUnreachable, Unavailable, NotARelay):
            for state in changed:
                rows += self._client.all_tasks(status=state, limit=_ROWS).tasks
        now = epoch(overview.server_time) or 0.0
        new = list(self._new(rows, first=before is None))
        new.sort(key=lambda row: row.finished_at or row.created_at)
        said = [_line(row, row.created_at if before is None else None, now, self._agents) for row in new]
        self.lines.extend(said)
        return said

    def _new(self, rows: list[TaskRow], *, first: bool) -> Iterator[TaskRow]:
        for row in rows:
            step = (row.status, row.note)
            if self._seen.pop(row.task_id, None) != step and not (first and row.finished_at is not None):
                yield row
            self._seen[row.task_id] = step
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _line(row: TaskRow, since: str | None, now: float, agents: Agents) -> str:
    """Say a step of a task. An earlier step has the time ``since`` which the task is there, any other has now."""
    at = epoch(row.finished_at or since or "")
    pool = ", ".join([*map(cell, row.capability), *map(agents.named, row.to_any_of)])
    to = agents.named(row.assignee) if row.assignee else pool or "-"
    said = row.note or row.words or ""
    words = said if len(said) <= _WORDS else said[: _WORDS - 1] + "…"
    # The last share of a task that has ended says nothing.
    progress = "" if row.progress is None or row.finished_at is not None else f" {row.progress:.0f} %"
    step = f"{time_of_day(at or now, now)}  {row.task_id[:_SHOWN_ID]}  {_words(row.status)}{progress}"
    return f"{step}  {agents.named(row.requester)} -> {to}  {cell(words)}"


def _words(state: str) -> str:
    return "asking" if state == "input_required" else state.replace("_", " ")


def _style(line: str) -> str:
    if line.startswith("ALL WORK"):
        return "bold red"
    return "bold" if line.startswith(("ClawLink", "needs you: ")) else ""
