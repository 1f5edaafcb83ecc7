"""The page for people: its files, its sessions, and the headers under which a browser runs it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import hdrs
from msgspec import Struct

from clawlink.errors import ClawLinkError, NotAllowed, UnknownRoute
from clawlink.protocol import paths
from clawlink.protocol.admin import (
    LinkMade,
    Login,
    Logout,
    MakeLink,
    Overview,
    OverviewQuery,
    SessionsEnded,
    SessionView,
)
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.auth import Guard
from clawlink.server.page_sessions import PageSessions
from clawlink.server.request import Handler, Request, parameter, read
from clawlink.server.response import Reply, reply
from clawlink.store.base import Failed
from clawlink.timeouts import wait_for

_FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
DOORS = "doors.js"
OWNER = "owner"
"""The parameter of ``/`` with which a browser asks for the page where strangers see another one."""
LANGUAGE = "clawlink-language"
"""The cookie in which the page keeps the language that a person chose."""
_LANGUAGES_MAX = 10
_VARY = "Accept, Accept-Encoding, Accept-Language, Cookie"
_QUICKLY = 1
_PATIENCE_SECONDS = 0.05
# With these the page asks for what it begins with.
_ASKS = b"""    <link rel="preload" href="admin/session" as="fetch" crossorigin>
    <link rel="preload" href="admin/overview" as="fetch" crossorigin>
"""
# The style comes with the page: another connection for it would take longer than all of the style.
_STYLE = b'<link rel="stylesheet" href="page/style.css">'
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "Content-Security-Policy"
# No other site may frame the page, and nothing in it may load or run what is not the relay's.
SECURITY: Mapping[str, str] = {
    _POLICY: (
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
    security: Mapping[str, str]


class _Begun(Struct, frozen=True, gc=False):
    """The facts that the page begins with: so it need not ask for them, nor for the language that a person chose."""

    session: SessionView
    overview: Overview
    language: str | None


class Files:
    """The files of the page, with those of the doors that add to it. They are read once.

    A door's folder has ``NAME.js``, the script with its views, and perhaps ``NAME.html``, which strangers see at ``/``.
    All its files begin with the door's name, so that none hides another.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """``folders`` are those of the doors, by their names. Raises ClawLinkError for a file of another name."""
        self._files = dict(_own_files(tuple(folders)))
        for door, folder in folders.items():
            for path in sorted(folder.iterdir()):
                if path.suffix in _TYPES:
                    if not path.name.startswith(door):
                        raise ClawLinkError(f"the page of the door {door} has {path.name}, which is not named after it")
                    self._files[path.name] = _read(path.suffix, path.read_bytes())
        fronts = (f"{door}.html" for door in folders)
        self.front: str | None = next((name for name in fronts if name in self._files), None)

    def begin(self, request: Request, begun: _Begun) -> Reply:
        """Answer with the page, and with what it begins with. No browser keeps that."""
        index = self._files[INDEX]
        head, _, tail = index.body.partition(_ASKS)
        given = msgspec.json.encode(begun).replace(b"<", rb"\u003c")  # so that no text in it ends the element
        words = self._words(begun.language, request.headers.get(hdrs.ACCEPT_LANGUAGE, ""))
        body = b"".join((head, words, b'    <script id="begun" type="application/json">', given, b"</script>\n", tail))
        headers = {**index.security, hdrs.CACHE_CONTROL: "no-store", hdrs.VARY: _VARY}
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            body = gzip.compress(body, _QUICKLY, mtime=0)
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return Reply(body, content_type=index.content_type, headers=headers)

    def _words(self, chosen: str | None, accepted: str) -> bytes:
        """Return a link to the words of the language that the page will show. English is in the page itself."""
        for wanted in (chosen or "", *accepted.split(",", _LANGUAGES_MAX)):
            name = wanted.strip()[:2].lower()
            if name == "en":
                break
            if f"{name}.js" in self._files:
                return f'    <link rel="modulepreload" href="page/{name}.js">\n'.encode()
        return b""

    def show(self, request: Request, name: str) -> Reply:
        """Answer with a file. Raises UnknownRoute."""
        file = self._files.get(name)
        if file is None:
            raise UnknownRoute("the page has no such file; GET / with Accept: text/html is the page")
        headers = {**file.security, hdrs.CACHE_CONTROL: "no-cache", hdrs.ETAG: file.etag, hdrs.VARY: _VARY}
        if request.headers.get(hdrs.IF_NONE_MATCH) == file.etag:
            return Reply(b"", 304, content_type="", headers=headers)
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            packed = {**headers, hdrs.CONTENT_ENCODING: "gzip"}
            return Reply(file.packed, content_type=file.content_type, headers=packed)
        return Reply(file.body, content_type=file.content_type, headers=headers)


def _language(request: Request) -> str | None:
    """Return the language that a person chose. Any program of this host may have set the cookie to anything."""
    chosen = request.cookies.get(LANGUAGE)
    return chosen if chosen is not None and chosen.isascii() and chosen.isalpha() else None


def _read(suffix: str, body: bytes, security: Mapping[str, str] = SECURITY) -> _File:
    if suffix == ".js":
        body = rebind(body.decode()).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return _File(_TYPES[suffix], body, gzip.compress(body, mtime=0), etag, security)


def _with_style(index: bytes, style: bytes) -> _File:
    """Return the page with its style in it, and headers that let a browser use this style alone."""
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policy = SECURITY[_POLICY].replace("style-src 'self'", f"style-src 'self' 'sha256-{digest}'")
    page = index.replace(_STYLE, b"<style>%b</style>" % style)
    return _read(Path(INDEX).suffix, page, {**SECURITY, _POLICY: policy})


@cache
def _own_files(doors: tuple[str, ...]) -> Mapping[str, _File]:
    """Return the files of the page by their names, with the scripts of these doors in the first one."""
    found = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    sources = {part: found.pop(part).decode() for part in PARTS}
    if doors:
        scripts = ", ".join(f'"./{door}.js"' for door in doors)
        sources[DOORS] = f"export default [{scripts}];\n"
        ahead = "".join(f'<link rel="modulepreload" href="page/{door}.js">\n    ' for door in doors)
        found[INDEX] = found[INDEX].replace(b"<script ", ahead.encode() + b"<script ")
    found[BUNDLE] = bundle(sources).encode()
    files = {name: _read(Path(name).suffix, body) for name, body in found.items()}
    return {**files, INDEX: _with_style(found[INDEX], found["style.css"])}


def wants_page(request: Request) -> bool:
    """Return True if a client of ``/`` names text/html among what it accepts, as a browser does for a page."""
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


class PageRoutes:
    """The endpoints of the page and of its sessions, for one relay."""

    def __init__(self, pages: PageSessions, guard: Guard, files: Files) -> None:
        self._pages = pages
        self._sessions = pages.all
        self._guard = guard
        self._files = files

    @property
    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        """The endpoints with their handlers."""
        yield paths.PAGE_FILE, self._file
        yield paths.MAKE_LINK, self._link
        yield paths.LOG_IN, self._log_in
        yield paths.SESSION, self._session
        yield paths.LOG_OUT, self._log_out

    async def index(self, relay: Relay, request: Request) -> Reply:
        """Show the page; to strangers the front page of a door, unless they ask for the owner's."""
        front = self._files.front
        known = OWNER in request.query or self._sessions.find(self._guard.cookie_of(request)) is not None
        if front is not None and not known:
            return self._files.show(request, front)
        if self._guard.may_look(request, paths.OVERVIEW):
            if request.right == "local":  # of a browser that does not tell where a request comes from
                request.right = "page"
            try:
                overview = await wait_for(relay.overviews.overview(OverviewQuery()), _PATIENCE_SECONDS)
            except (asyncio.TimeoutError, ClawLinkError, Failed):
                pass  # the page asks for it, and shows what is wrong
            else:
                begun = _Begun(self._view(request), overview, _language(request))
                return self._files.begin(request, begun)
        return self._files.show(request, INDEX)

    async def _file(self, relay: Relay, request: Request) -> Reply:
        return self._files.show(request, parameter(request, "file"))

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
        return self._pages.begin(cookie, session)

    async def _session(self, relay: Relay, request: Request) -> Reply:
        """Show by which right a page looks, and the token for its writes."""
        return reply(self._view(request))

    def _view(self, request: Request) -> SessionView:
        session = self._sessions.find(self._guard.cookie_of(request))
        if session is not None:
            return self._pages.view(session)
        return SessionView(request.right or "", request.right == "page", None, None, self._pages.contents)

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
        await self._pages.changed()
        return self._pages.end(reply(SessionsEnded("ended", ended)))


# -- the joined script: a browser asks once for the scripts of the first view, and not once for each -------------------

BUNDLE = "app.js"
"""The name of the joined script, which is that of its last part."""
VENDORED = "htm-preact.js"
PARTS = (VENDORED, "en.js", "doors.js", "parts.js", "overview.js", "stop.js", BUNDLE)
"""The joined scripts. Each imports from those before it alone."""

_IMPORT = re.compile(r'^import [^;]*? from "\./([\w.-]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:(?:async )?function|const|let|class) (\w+))", re.MULTILINE)
_DEFAULT = re.compile(r"^export default ", re.MULTILINE)
_MINIFIED = re.compile(r"export\{([\w ,]+)\};?\s*$")
_FROM = re.compile(rf'(?<=from "\./)(?:{"|".join(map(re.escape, PARTS))})(?=")')


def bundle(sources: Mapping[str, str]) -> str:
    """Return the scripts of ``PARTS`` as one that exports all that they export. Raises ClawLinkError.

    The scripts stay files that import each other. Here their imports and the word ``export`` go, so their names at the
    top must differ.
    """
    joined, names = [], list[str]()
    for at, part in enumerate(PARTS):
        source = sources[part]
        late = {found for found in _IMPORT.findall(source) if found not in PARTS[:at]}
        if late:
            raise ClawLinkError(f"{part} of the page imports {', '.join(sorted(late))}, which does not come before it")
        source = _IMPORT.sub("", source)
        if part == VENDORED:
            source, given = _minified(source)
            names += given
        else:
            names += _EXPORT.findall(source)
            source = _DEFAULT.sub(f"const {part.partition('.')[0]} = ", _EXPORT.sub("", source))
        joined.append(source)
    return "\n".join([*joined, f"export {{ {', '.join(names)} }};\n"])


def _minified(source: str) -> tuple[str, Iterable[str]]:
    """Return a minified script as a function, whose short names stay its own, and the names that it exports."""
    found = _MINIFIED.search(source)
    if found is None:
        raise ClawLinkError(f"{VENDORED} of the page does not end with its exports")
    pairs = [pair.split(" as ") for pair in found[1].split(",")]
    given = ", ".join(f"{name}: {short}" for short, name in pairs)
    names = [name for _, name in pairs]
    inside = f"{source[: found.start()]}\nreturn {{ {given} }};"
    return f"const {{ {', '.join(names)} }} = (() => {{\n{inside}\n}})();\n", names


def rebind(source: str) -> str:
    """Return a script that imports from the joined script what it imports from its parts."""
    return _FROM.sub(BUNDLE, source)
