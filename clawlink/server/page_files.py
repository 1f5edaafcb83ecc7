"""The page for people: its files, its sessions, and the headers under which a browser runs it."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from aiohttp import hdrs

from clawlink.errors import NotAllowed, UnknownRoute
from clawlink.protocol import paths
from clawlink.protocol.admin import LinkMade, Login, Logout, MakeLink, SessionsEnded, SessionView
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.relay.timestamps import iso
from clawlink.server.auth import Guard
from clawlink.server.request import Handler, Request, parameter, read
from clawlink.server.response import Reply, reply
from clawlink.server.sessions import Session, Sessions

_FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No other site may frame the page, and nothing in it may load or run what is not the relay's.
SECURITY: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _File(NamedTuple):
    content_type: str
    body: bytes
    packed: bytes
    etag: str


@cache
def _files() -> dict[str, _File]:
    """Read the files of the page, once."""
    found = {}
    for path in sorted(_FOLDER.iterdir()):
        kind = _TYPES.get(path.suffix)
        if kind is not None:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            found[path.name] = _File(kind, body, gzip.compress(body, mtime=0), etag)
    return found


def _shown(request: Request, name: str) -> Reply:
    file = _files().get(name)
    if file is None:
        raise UnknownRoute("the page has no such file; GET / with Accept: text/html is the page")
    headers = {**SECURITY, hdrs.CACHE_CONTROL: "no-cache", hdrs.ETAG: file.etag, hdrs.VARY: "Accept, Accept-Encoding"}
    if request.headers.get(hdrs.IF_NONE_MATCH) == file.etag:
        return Reply(b"", 304, content_type="", headers=headers)
    if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        return Reply(file.packed, content_type=file.content_type, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})
    return Reply(file.body, content_type=file.content_type, headers=headers)


async def index(relay: Relay, request: Request) -> Reply:
    """Show the page."""
    return _shown(request, INDEX)


def wants_page(request: Request) -> bool:
    """Return True if a client of ``/`` names text/html among what it accepts, as a browser does for a page."""
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


class PageRoutes:
    """The endpoints of the page and of its sessions, for one relay."""

    def __init__(self, sessions: Sessions, guard: Guard, *, contents: bool, secure: bool) -> None:
        self._sessions = sessions
        self._guard = guard
        self._contents = contents
        self._secure = secure

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoints with their handlers."""
        yield paths.PAGE_FILE, self._file
        yield paths.MAKE_LINK, self._link
        yield paths.LOG_IN, self._log_in
        yield paths.SESSION, self._session
        yield paths.LOG_OUT, self._log_out

    async def _file(self, relay: Relay, request: Request) -> Reply:
        return _shown(request, parameter(request, "file"))

    async def _link(self, relay: Relay, request: Request) -> Reply:
        """Make a one-time link. Its code stands behind ``#``, so a browser sends it to no server and into no log.

        A browser that is started with the link has the code in its command line.
        """
        ask = await read(request, MakeLink)
        code = self._sessions.link(read_only=ask.read_only, seconds=ask.seconds)
        right = request.right or ""
        facts = {"read_only": ask.read_only, "seconds": ask.seconds}
        await relay.audit.note("make_link", "page", facts, by=right, address=request.address)
        return reply(LinkMade(f"/#code={code}", ask.read_only, ask.seconds))

    async def _log_in(self, relay: Relay, request: Request) -> Reply:
        """Open a session by a one-time code or by the admin token. Raises NotAuthenticated, which the router delays."""
        ask = await read(request, Login)
        if ask.code is not None:
            cookie, session = self._sessions.use(ask.code)
        else:
            self._guard.require_admin_token(ask.admin_token)
            cookie, session = self._sessions.open()
        answer = reply(self._view(relay, session))
        kept = int(session.ends_at - self._sessions.now)
        return Reply(answer.body, headers={hdrs.SET_COOKIE: self._cookie(cookie, kept), hdrs.CACHE_CONTROL: "no-store"})

    async def _session(self, relay: Relay, request: Request) -> Reply:
        """Show by which right a page looks, and the token for its writes."""
        session = self._sessions.find(self._guard.cookie_of(request))
        if session is not None:
            return reply(self._view(relay, session))
        read_only = request.right == "page"
        return reply(SessionView(request.right or "", read_only, None, None, self._contents))

    async def _log_out(self, relay: Relay, request: Request) -> Reply:
        """End this session, or all of them."""
        ask = await read(request, Logout)
        cookie = self._guard.cookie_of(request)
        session = self._sessions.find(cookie)
        if ask.all:
            if session is not None and session.read_only:
                raise NotAllowed("a session that only reads may end itself alone", field="all")
            ended = self._sessions.end_all()
            await relay.audit.note("log_out", "page", {"ended": ended}, by=request.right or "", address=request.address)
        else:
            ended = int(session is not None)
            self._sessions.end(cookie)
        answer = reply(SessionsEnded("ended", ended))
        return Reply(answer.body, headers={hdrs.SET_COOKIE: self._cookie("", 0)})

    def _view(self, relay: Relay, session: Session) -> SessionView:
        left = session.ends_at - self._sessions.now
        return SessionView(
            f"session {session.name}", session.read_only, session.csrf, iso(relay.steady() + left), self._contents
        )

    def _cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        name = self._guard.cookie_name
        return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
