"""Lists of agents and tasks as text: an entry that has not changed is taken as it was shown before."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from clawlink.doors.mcp.wire.quoting import MAX_RESULT_BYTES, within
from clawlink.protocol.replies import ListedAgent, TaskView
from clawlink.relay.time_slices import Turns

T = TypeVar("T")
KEPT_ENTRIES, KEPT_LISTS = 1024, 32
_agent = msgspec.json.Decoder(ListedAgent)


class Entries(Generic[T]):
    """Entries of lists of one kind. ``key`` tells two states of an item apart."""

    def __init__(self, key: Callable[[T], Hashable]) -> None:
        self._key = key
        self._kept: dict[Hashable, tuple[bytes, int]] = {}

    async def text(self, items: Sequence[T], room: int, show: Callable[[T, int], dict[str, Any]]) -> list[bytes]:
        """Show items until a result is full, with turns for other requests in between. ``room`` is for each."""
        turns = Turns()
        shown: list[bytes] = []
        taken = 0
        for item in items:
            key = (self._key(item), room)
            entry = self._kept.get(key)
            if entry is None:
                await turns.next()
                if len(self._kept) >= KEPT_ENTRIES:
                    self._kept.clear()
                entry = self._kept[key] = within(show(item, room))
            taken += entry[1]
            if shown and taken > MAX_RESULT_BYTES:
                break
            shown.append(entry[0])
        return shown


class Lists:
    """The lists of one relay."""

    def __init__(self) -> None:
        self.agents: Entries[bytes] = Entries(lambda encoded: encoded)
        self.tasks: Entries[TaskView] = Entries(_state)
        self._last: dict[tuple[str, str], tuple[list[bytes], bool, Raw]] = {}

    def same_agents(self, me: tuple[str, str], found: list[bytes], more: bool) -> Raw | None:
        """Return the text of the last list of agents for this agent, if nothing has changed since."""
        last = self._last.get(me)
        return last[2] if last is not None and last[:2] == (found, more) else None

    def keep_agents(self, me: tuple[str, str], found: list[bytes], more: bool, text: Raw) -> Raw:
        """Keep the text of a list of agents."""
        if len(self._last) >= KEPT_LISTS:
            self._last.clear()
        self._last[me] = found, more, text
        return text


def _state(task: TaskView) -> Hashable:
    return task.task_id, task.version, None if task.owner is None else task.owner.status, len(task.woken)


def others(found: Sequence[bytes], me: str) -> list[bytes]:
    """Return the encoded agents of a list, without this one."""
    own = msgspec.json.encode(me)
    return [one for one in found if own not in one or _agent.decode(one).agent_id != me]
