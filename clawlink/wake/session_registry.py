"""The sessions on this account, as their hooks tell: which works, which is idle, and which waits to be woken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from clawlink.client.hooks.ancestors import ancestors
from clawlink.client.hooks.port import NoPort
from clawlink.client.hooks.sessions import Session
from clawlink.timeouts import wait_for
from clawlink.wake.adapters import Notice, Result
from clawlink.wake.port import Asker
from clawlink.wake.rules import FAILED, QUEUED

BUSY, IDLE = "busy", "idle"
# Where no process can be looked for, a session without a hook for this time counts as idle.
BUSY_SECONDS = 1800.0
# A process that was there is looked for again after this time.
_ALIVE_SECONDS = 10.0
_ANSWER_SECONDS = 5.0

Key = tuple[str, str]
"""A host, and the id of a session."""


class _Seen(NamedTuple):
    state: str
    at: float


class Waiting:
    """An idle session that waits in the background of its program, to be woken once."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.over = asyncio.Event()


class SessionRegistry:
    """All that is known of sessions. ``changed`` is called with a session's key when it becomes busy, idle or waits."""

    def __init__(self, clock: Callable[[], float], changed: Callable[[Key], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._seen: dict[Key, _Seen] = {}
        self._waiting: dict[Key, Waiting] = {}
        self._alive: dict[tuple[int, str], tuple[float, bool | None]] = {}

    def note(self, key: Key, state: str) -> None:
        """Note that a session became busy or idle."""
        before = self._seen.get(key)
        self._seen[key] = _Seen(state, self._clock())
        if state == BUSY:
            self._end(key)
        if before is None or before.state != state:
            self._changed(key)

    def forget(self, key: Key) -> None:
        """Forget a session that is not known here any more."""
        self._seen.pop(key, None)
        self._end(key)

    def is_busy(self, session: Session) -> bool:
        """Return True if the last hook of a session was one of a turn, and its program still runs."""
        seen = self._seen.get(_key(session))
        if seen is None or seen.state != BUSY:
            return False
        alive = self.is_alive(session)
        return alive if alive is not None else self._clock() - seen.at < BUSY_SECONDS

    def is_alive(self, session: Session) -> bool | None:
        """Return True if the program of a session runs; None where that is not known."""
        process = session.host_process
        if session.ended:
            return False
        if process is None:  # Windows does not tell it
            return None
        at, alive = self._alive.get(process, (0.0, None))
        now = self._clock()
        if not 0 <= now - at < _ALIVE_SECONDS:
            found = ancestors(process[0])
            alive = found[0].key == process if found else False if ancestors() else None
            self._alive = {one: known for one, known in self._alive.items() if now - known[0] < BUSY_SECONDS}
            self._alive[process] = (now, alive)
        return alive

    async def wait(self, key: Key, asker: Asker) -> None:
        """Keep an idle session until it is woken, works, ends, or another waiter comes for it."""
        self._end(key)
        waiting = self._waiting[key] = Waiting(asker)
        self.note(key, IDLE)
        self._changed(key)
        gone = asyncio.ensure_future(asker.next())
        over = asyncio.ensure_future(waiting.over.wait())
        try:
            await asker.say({"waits": True})
            done, _ = await asyncio.wait({gone, over}, return_when=asyncio.FIRST_COMPLETED)
            if gone in done and not waiting.over.is_set():
                gone.exception()
        finally:
            for task in (gone, over):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone
            if self._waiting.get(key) is waiting:
                del self._waiting[key]
                self._changed(key)

    def waits(self, key: Key) -> bool:
        """Return True if the session waits here."""
        return key in self._waiting

    async def wake(self, key: Key, notice: Notice) -> Result:
        """Wake a session that waits here."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return Result(FAILED, "the session does not wait")
        try:
            said: dict[str, Any] = {"wake": notice.text, "ids": list(notice.ids)}
            await wait_for(waiting.asker.say(said), _ANSWER_SECONDS)
        except (OSError, NoPort, asyncio.TimeoutError):
            return Result(FAILED, "the session has ended")
        finally:
            waiting.over.set()
        # Neither idle nor busy: whether a turn begins shows by its hooks alone.
        self._seen.pop(key, None)
        return Result(QUEUED)

    def _end(self, key: Key) -> None:
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            waiting.over.set()


class ByWaiting:
    """The way into a running session of Claude Code: its hook in the background waits at the local port."""

    once = True

    def __init__(self, sessions: SessionRegistry, session: Session) -> None:
        self.name = f"{session.host} hook"
        self._sessions = sessions
        self._key = _key(session)

    def closed(self) -> str | None:
        return None if self._sessions.waits(self._key) else "no idle session waits here"

    async def busy(self) -> bool:
        return False

    async def fire(self, notice: Notice) -> Result:
        return await self._sessions.wake(self._key, notice)


def _key(session: Session) -> Key:
    return session.host, session.session_id
