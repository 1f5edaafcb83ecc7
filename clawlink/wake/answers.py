"""Answers to the hooks and commands of this account, which ask the program at its local port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

from clawlink.client.aio import AsyncClient
from clawlink.client.hooks.rules import ENDED
from clawlink.client.hooks.sessions import Session, Sessions
from clawlink.errors import ClawLinkError
from clawlink.wake.adapters import Closed
from clawlink.wake.port import Asker
from clawlink.wake.session_registry import BUSY, IDLE, Key, SessionRegistry
from clawlink.wake.watcher import Watcher

# While a session works, its hooks show a sign of life this often.
BEAT_SECONDS = 20.0
# A hook asks the relay itself this often, so that the file of its session is current.
CURRENT_SECONDS = 600.0


class Desks(Protocol):
    """The parts of the program that the answers need."""

    home: Path
    sessions: SessionRegistry

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        ...

    def watched(self) -> list[Watcher]:
        """Return the watchers of all agents."""
        ...

    def of_session(self, key: Key) -> tuple[Watcher, AsyncClient] | None:
        """Return the watcher of a session, and a client that acts as its agent; None for an unknown session."""
        ...

    async def refresh(self) -> None:
        """Look for agents that came and went."""
        ...


class Answers:
    """Answers one question a connection."""

    def __init__(self, program: Desks) -> None:
        self._program = program
        self._sessions = Sessions(program.home)
        self._beats: dict[Key, float] = {}
        self._beating: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the signs of life that are under way."""
        for task in list(self._beating):
            task.cancel()
        await asyncio.gather(*self._beating, return_exceptions=True)

    async def answer(self, asker: Asker, question: dict[str, Any]) -> None:
        """Answer a question. Raises OSError, and ValueError or LookupError for one that is none of ours."""
        asked = question["ask"]
        if asked == "status":
            await asker.say({"agents": [_shown(watcher) for watcher in self._program.watched()]})
            return
        key = (str(question["host"]), str(question["session"]))
        if asked == "hook":
            await asker.say({"nothing": self._nothing(key, str(question["event"]))})
        elif asked == "state":
            self._program.sessions.note(key, BUSY if question["state"] == BUSY else IDLE)
            await asker.say({"noted": True})
        elif asked == "wait":
            if self._program.of_session(key) is None:
                await self._program.refresh()
            if self._program.of_session(key) is None:
                await asker.say({"waits": False})
            else:
                await self._program.sessions.wait(key, asker)
        else:
            raise ValueError(f"no question {asked!r} is known")

    def _nothing(self, key: Key, event: str) -> bool:
        """Return True if a hook has nothing to say or to do. What it stands for is noted."""
        program, now = self._program, self._program.now()
        found = program.of_session(key)
        session = self._sessions.find(*key)
        if found is None or session is None or session.ended or not 0 <= now - session.seen_at < CURRENT_SECONDS:
            return False
        watcher, client = found
        if event != "Stop":
            program.sessions.note(key, BUSY)
            self._sessions.disarm(session)  # it works: a wake would open a turn beside this one
        unread = watcher.unread
        counts = session.blocks if event == "Stop" else event == "UserPromptSubmit" and session.blocks == ENDED
        if unread is None or counts:
            return False
        if unread if event == "Stop" else set(unread).difference(session.told):
            watcher.change()  # it may have been read meanwhile
            return False
        if event == "Stop":
            program.sessions.note(key, IDLE)
        self._beat(key, session, client, now)
        return True

    def _beat(self, key: Key, session: Session, client: AsyncClient, now: float) -> None:
        """Show a sign of life in the background, if the last one is old."""
        if now - max(self._beats.get(key, 0.0), session.beat_at) <= BEAT_SECONDS:
            return
        self._beats[key] = now
        task = asyncio.get_running_loop().create_task(_alive(client))
        self._beating.add(task)
        task.add_done_callback(self._beating.discard)


async def _alive(client: AsyncClient) -> None:
    try:
        await client.heartbeat()
    except (ClawLinkError, OSError):
        return  # the watcher notices it, too


def _shown(watcher: Watcher) -> dict[str, Any]:
    saved, kept = watcher.target.saved, watcher.kept
    ways = {adapter.name: adapter.closed() for adapter in watcher.target.adapters}
    return {
        "name": saved.name,
        "agent_id": saved.agent_id,
        "relay": saved.relay,
        "host": watcher.target.host,
        "unread": None if watcher.unread is None else len(watcher.unread),
        "ways": ways,
        "hopeless": all(isinstance(adapter, Closed) for adapter in watcher.target.adapters),
        "why": watcher.why,
        "last_woken": kept.last_woken,
        "last_result": kept.last_result,
    }
