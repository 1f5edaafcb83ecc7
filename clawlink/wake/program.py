"""The program that wakes the agents of an account: it watches each of them, and answers the hooks of its sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from clawlink.client.aio import AsyncClient
from clawlink.client.hooks.rules import HOSTS
from clawlink.client.hooks.sessions import Session, Sessions
from clawlink.client.identity import Identities, Saved, of_session
from clawlink.wake import openclaw, settings
from clawlink.wake.adapters import Adapter, Closed, Command, OverOpenClaw, Resume, Unattended, within
from clawlink.wake.answers import Answers
from clawlink.wake.journal import Journal, Today
from clawlink.wake.notify import Notifier
from clawlink.wake.openclaw import NoGateway, OpenClaw
from clawlink.wake.port import LocalPort
from clawlink.wake.servers import Codex, Opencode
from clawlink.wake.session_registry import ByWaiting, Key, SessionRegistry
from clawlink.wake.settings import BadSettings, Settings
from clawlink.wake.watcher import Target, Watcher

REFRESH_SECONDS = 2.0
_RESTART_SECONDS = 30.0


class Program:
    """Runs until it is cancelled. ``clock`` is the time in seconds since the epoch, ``local`` the zone's."""

    def __init__(
        self,
        home: Path,
        *,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        local: Callable[[float], time.struct_time] = time.localtime,
        environ: Mapping[str, str] = os.environ,
        account: Path | None = None,
    ) -> None:
        self.home = home
        self.journal = Journal(home)
        self.log = log
        self.settings = Settings()
        self.sessions = SessionRegistry(clock, self._changed)
        self._clock = clock
        self._local = local
        self._environ = environ
        self._account = account
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._by_session: dict[Key, tuple[str, str]] = {}
        self._today = Today()
        self._bad: str | None = None

    async def run(self, opened: Callable[[int], None] = lambda number: None) -> None:
        """Watch all agents of the account. ``opened`` gets the number of the local port. Raises OSError."""
        await asyncio.to_thread(self.journal.open, self.now())
        self._today = await asyncio.to_thread(self.journal.today)
        answers = Answers(self)
        local = LocalPort(self.home, answers.answer)
        async with contextlib.AsyncExitStack() as stack:
            self._http = await stack.enter_async_context(aiohttp.ClientSession())
            stack.push_async_callback(self._stop_all)
            stack.push_async_callback(answers.close)
            stack.push_async_callback(local.close)
            self._notifier = Notifier(self._http, clock=self._clock, log=self.log)
            await self.refresh()
            opened(await local.open())
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                await self.refresh()

    # -- around a watcher ----------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._clock()

    def minute(self) -> int:
        there = self._local(self.now())
        return 60 * there.tm_hour + there.tm_min

    def left(self) -> int | None:
        if self.settings.per_day == 0:
            return None
        used = self._today.wakes if self._today.day == self._day() else 0
        return self.settings.per_day - used

    async def spent(self) -> None:
        day = self._day()
        self._today = Today(day, self._today.wakes + 1 if self._today.day == day else 1)
        await asyncio.to_thread(self.journal.keep_today, self._today)

    async def unreachable(self, saved: Saved, ids: Sequence[str], why: str) -> None:
        many = f"{len(ids)} messages wait" if len(ids) != 1 else "1 message waits"
        text = f"{saved.typed} could not be woken, and {many}: {why}."
        facts = {"agent_id": saved.agent_id, "name": saved.name, "relay": saved.relay, "message_ids": list(ids)}
        await self._notifier.tell(self.settings.notify, text, facts)

    def _day(self) -> int:
        there = self._local(self.now())
        return 1000 * there.tm_year + there.tm_yday

    # -- the agents ----------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Look for agents that came and went. One that is being woken just now is left for the next look.

        A headless turn changes its session, and so its own watcher, whose attempt has not ended yet.
        """
        found, sessions, bad = await asyncio.to_thread(self._read)
        if bad is not None and bad != self._bad:
            self.log(f"the settings before are in force: {bad}")
        self._bad = bad
        acting = await asyncio.to_thread(self._acting, [one for _, one in sessions])
        agents: list[tuple[Saved, Session | None]] = [*((one, acting.get(one.agent_id)) for one in found), *sessions]
        wanted = {_key(saved): self._facts(saved, session) for saved, session in agents}
        self._by_session = {(one.host, one.session_id): _key(saved) for saved, one in sessions}
        changed = [key for key, watched in self._watched.items() if watched.facts != wanted.get(key)]
        for key in [key for key in changed if not self._watched[key].watcher.fires]:
            await self._stop(key)
        for saved, session in agents:
            if _key(saved) not in self._watched:
                self._start(saved, session)

    def _facts(self, saved: Saved, session: Session | None) -> tuple[Any, ...]:
        """Return all that an agent's watcher is made from."""
        lasting = None
        if session is not None:
            of_host = (session.server, session.variables, session.ended)
            lasting = (session.host, session.session_id, session.folder, *of_host)
        return saved, lasting, self.settings.of(saved.name)

    def _read(self) -> tuple[list[Saved], list[tuple[Saved, Session]], str | None]:
        bad = None
        try:
            self.settings = settings.load(self.home)
        except (BadSettings, OSError) as why:
            bad = str(why)
        sessions = []
        for session in Sessions(self.home).all():
            if (saved := of_session(session)) is not None:
                sessions.append((saved, session))
        return Identities(self.home).all(), sessions, bad

    def _acting(self, sessions: list[Session]) -> dict[str, Session]:
        """Return the sessions whose tools act as a kept identity, by its id; the newest of several."""
        kept = Sessions(self.home)
        found = {}
        for session in sorted(sessions, key=lambda one: one.seen_at):
            if not session.ended and (agent_id := kept.acts_as(session)) is not None:
                found[agent_id] = session
        return found

    def _adapters(self, saved: Saved, session: Session | None, client: AsyncClient) -> list[Adapter]:
        """Return the chain of an agent, in its order. An identity that no session acts as can be woken if one is set.

        Else there is nobody to wake, and its senders and the person are told.
        """
        own = self.settings.of(saved.name)
        chain = own.chain if own.chain is not None else () if session is None else (settings.SESSION,)
        found: list[Adapter] = []
        for name in chain:
            if name == settings.SESSION and session is not None:
                found.append(self._way_in(session, own))
            elif name == settings.RESUME and session is not None:
                found.append(Resume(session, partial(self._is_open, session), self._environ))
            elif name == settings.COMMAND:
                found.append(Command(own.command, saved.typed, self._environ))
            elif name == settings.OPENCLAW:
                found.append(self._openclaw(self._environ))
        return found or [Unattended(partial(_is_online, client, saved))]

    def _way_in(self, session: Session, own: settings.Agent) -> Adapter:
        if session.host == "openclaw":
            return self._openclaw(within(session, self._environ))
        if session.ended:
            why = f"its session has ended; resume in its chain ({settings.FILE}) goes on with it without a screen"
            return Closed(f"{session.host} session", why)
        if session.host == "claude":
            return ByWaiting(self.sessions, session)
        if session.host == "codex":
            if own.codex is not None:
                return Codex(own.codex, session.session_id)
            return Closed("codex app-server", f"no endpoint is set: write codex into {settings.FILE}")
        if session.host == "opencode":
            if (url := own.opencode or session.server) is not None and url.startswith(("http://", "https://")):
                password = own.opencode_password or self._environ.get("OPENCODE_SERVER_PASSWORD")
                return Opencode(self._http, url, session.session_id, password)
            return Closed("opencode server", f"no address is set: write opencode into {settings.FILE}")
        return Closed(f"{session.host} hook", "this program cannot be woken while it is idle")

    def _openclaw(self, environ: Mapping[str, str]) -> Adapter:
        try:
            return OverOpenClaw(OpenClaw(self._http, openclaw.find(environ, home=self._account)))
        except NoGateway as why:
            return OverOpenClaw(None, str(why))

    def _start(self, saved: Saved, session: Session | None) -> None:
        client = AsyncClient(
            saved.relay, token=saved.token, agent_id=saved.agent_id, agent_key=saved.agent_key, ca=saved.ca
        )
        target = Target(saved, self.settings.of(saved.name).policy, self._adapters(saved, session, client))
        if session is not None:
            is_busy = partial(self._is_busy, session)
            target = target._replace(told=lambda: self.current(session).told, is_busy=is_busy, host=session.host)
        watcher = Watcher(target, client, self)
        task = asyncio.get_running_loop().create_task(self._supervised(watcher))
        self._watched[_key(saved)] = _Watched(
            watcher,
            client,
            task,
            self._facts(saved, session),
            None if session is None else (session.host, session.session_id),
        )

    async def _supervised(self, watcher: Watcher) -> None:
        while True:
            try:
                await watcher.run()
            except Exception as error:  # a defect of ours in one watcher leaves the others alone
                watcher.unread, watcher.why = None, f"a defect: {type(error).__name__}: {error}"
                self.log(f"{watcher.target.saved.typed}: {watcher.why}; please report it")
                await asyncio.sleep(_RESTART_SECONDS)

    async def _stop(self, key: tuple[str, str]) -> None:
        watched = self._watched.pop(key)
        watched.task.cancel()
        try:
            await asyncio.gather(watched.task, return_exceptions=True)
        finally:
            await watched.client.close()

    async def _stop_all(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for key in self._watched:
                stack.push_async_callback(self._stop, key)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def watched(self) -> list[Watcher]:
        """Return the watchers of all agents."""
        return [watched.watcher for watched in self._watched.values()]

    def of_session(self, key: Key) -> tuple[Watcher, AsyncClient] | None:
        """Return the watcher of a session, and a client that acts as its agent; None for an unknown session."""
        watched = self._watched.get(self._by_session.get(key, ("", "")))
        return None if watched is None else (watched.watcher, watched.client)

    def current(self, session: Session) -> Session:
        """Return a session as its file has it now."""
        return Sessions(self.home).find(session.host, session.session_id) or session

    def _is_busy(self, session: Session) -> bool:
        host = HOSTS.get(session.host)
        if host is not None and host.lasting:  # it has several sessions, and puts a wake behind the turn that runs
            return False
        return self.sessions.is_busy(self.current(session))

    def _is_open(self, session: Session) -> bool:
        return self.sessions.is_alive(self.current(session)) is not False

    def _changed(self, key: Key) -> None:
        for watched in self._watched.values():
            if watched.session == key:
                watched.watcher.change()


class _Watched(NamedTuple):
    watcher: Watcher
    client: AsyncClient
    task: asyncio.Task[None]
    facts: tuple[Any, ...]
    session: Key | None


async def _is_online(client: AsyncClient, saved: Saved) -> bool:
    """Return True if the relay shows an agent as online. Raises ClawLinkError."""
    found = await client.discover(name=saved.name)
    return any(agent.agent_id == saved.agent_id for agent in found.agents)


def _key(saved: Saved) -> tuple[str, str]:
    return saved.relay, saved.agent_id
