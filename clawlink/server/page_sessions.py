"""Sessions of pages as replies: the cookie, and what a page learns of its own session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs

from clawlink.protocol.admin import SessionView
from clawlink.relay.relay import Relay
from clawlink.relay.timestamps import iso
from clawlink.server.response import Reply, reply
from clawlink.server.sessions import Session, Sessions


class PageSessions:
    """The sessions of one relay, for its page and for the doors that sign people in.

    ``contents`` says whether pages show texts of messages, and ``secure`` whether browsers send cookies over TLS alone.
    """

    def __init__(self, sessions: Sessions, relay: Relay, *, cookie_name: str, contents: bool, secure: bool) -> None:
        self.all = sessions
        self.contents = contents
        self.cookie_name = cookie_name
        self.keep_owners: Callable[[], Awaitable[None]] | None = None
        """Keeps the sessions of the owner where they outlive this process; a door may set it."""
        self._relay = relay
        self._secure = secure

    def begin(self, cookie: str, session: Session, *, secure: bool = False) -> Reply:
        """Answer with a session that was just opened, and have the browser keep its cookie."""
        answer = reply(self.view(session))
        kept = int(session.ends_at - self.all.now)
        line = self._line(cookie, kept, secure=secure)
        return Reply(answer.body, headers={hdrs.SET_COOKIE: line, hdrs.CACHE_CONTROL: "no-store"})

    async def begin_as_owner(self, *, secure: bool) -> Reply:
        """Open a session of the owner, and answer with it. Raises RelayFull, Failed."""
        cookie, session = self.all.open(owner=True)
        try:
            await self.changed()
        except BaseException:
            self.all.end(cookie)
            raise
        return self.begin(cookie, session, secure=secure)

    async def changed(self) -> None:
        """Note that sessions began or ended. Raises Failed."""
        if self.keep_owners is not None:
            await self.keep_owners()

    def end(self, answer: Reply) -> Reply:
        """Have the browser forget its cookie."""
        return Reply(answer.body, headers={hdrs.SET_COOKIE: self._line("", 0)})

    def view(self, session: Session) -> SessionView:
        """Return what a page learns of its session."""
        ends_at = iso(self._relay.steady() + session.ends_at - self.all.now)
        right = f"session {session.name}"
        return SessionView(right, session.read_only, session.csrf, ends_at, self.contents, session.owner)

    def _line(self, value: str, seconds: int, *, secure: bool = False) -> str:
        marks = "; Secure" if secure or self._secure else ""
        return f"{self.cookie_name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{marks}"
