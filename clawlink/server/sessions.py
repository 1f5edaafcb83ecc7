"""Sessions of people in a browser: one-time links, cookies, and a token against forged writes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import NamedTuple

from clawlink.domain.limits import SESSION_SECONDS
from clawlink.errors import NotAllowed, NotAuthenticated, RelayFull

LINK_SECONDS = 600.0
MAX_LINKS = 100
MAX_SESSIONS = 1000
CSRF_HEADER = "ClawLink-CSRF"
_BYTES = 24
_NAME_HEX = 8


class Session(NamedTuple):
    """A session. ``name`` is public, and says nothing about its cookie. ``ends_at`` is on the clock of all sessions.

    ``owner`` says that the person whom the relay stands for has signed in, as at a door.
    """

    name: str
    csrf: str
    read_only: bool
    ends_at: float
    owner: bool = False


class _Link(NamedTuple):
    """A link that was not used yet, and the session that it makes."""

    ends_at: float
    read_only: bool
    seconds: float


class Sessions:
    """The sessions of one relay, in memory: a restart ends those that no door keeps. ``clock`` gives seconds.

    Codes and cookies are kept as hashes, so that a look into memory gives nobody a session.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._links: dict[str, _Link] = {}
        self._sessions: dict[str, Session] = {}

    @property
    def now(self) -> float:
        """The time on the clock of all sessions."""
        return self._clock()

    def __len__(self) -> int:
        self._forget()
        return len(self._sessions)

    def link(self, *, read_only: bool, seconds: float) -> str:
        """Return the code of a link that opens one session of ``seconds``. Raises RelayFull."""
        self._forget()
        _require_room("one-time links are unused", len(self._links), MAX_LINKS)
        code = secrets.token_urlsafe(_BYTES)
        self._links[_hashed(code)] = _Link(self._clock() + LINK_SECONDS, read_only, seconds)
        return code

    def use(self, code: str) -> tuple[str, Session]:
        """Open the session of a link, which works once. Return its cookie too. Raises NotAuthenticated, RelayFull."""
        self._forget()
        key = _hashed(code)
        link = self._links.get(key)
        if link is None:
            raise NotAuthenticated(
                f"the link was used, is older than {LINK_SECONDS / 60:.0f} minutes, or is wrong; "
                "make another with: clawlink open",
                field="code",
            )
        opened = self.open(read_only=link.read_only, seconds=link.seconds)
        del self._links[key]
        return opened

    def open(
        self, *, read_only: bool = False, seconds: float = SESSION_SECONDS, owner: bool = False
    ) -> tuple[str, Session]:
        """Open a session and return its cookie. Raises RelayFull."""
        self._forget()
        _require_room("sessions are open", len(self._sessions), MAX_SESSIONS)
        cookie = secrets.token_urlsafe(_BYTES)
        name, csrf = secrets.token_hex(_NAME_HEX // 2), secrets.token_urlsafe(_BYTES)
        session = Session(name, csrf, read_only, self._clock() + seconds, owner)
        self._sessions[_hashed(cookie)] = session
        return cookie, session

    def find(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None if there is none or it has ended."""
        session = None if cookie is None else self._sessions.get(_hashed(cookie))
        return None if session is None or session.ends_at <= self._clock() else session

    def end(self, cookie: str | None) -> None:
        """End the session of a cookie."""
        if cookie is not None:
            self._sessions.pop(_hashed(cookie), None)

    def owners(self) -> dict[str, Session]:
        """Return the sessions of the owner by the hashes of their cookies."""
        self._forget()
        return {key: session for key, session in self._sessions.items() if session.owner}

    def restore(self, hashed: str, session: Session) -> None:
        """Open a session again that was kept elsewhere by the hash of its cookie."""
        self._sessions[hashed] = session

    def end_owners(self) -> int:
        """End the sessions of the owner alone. Return how many there were."""
        self._forget()
        ended = [key for key, session in self._sessions.items() if session.owner]
        for key in ended:
            del self._sessions[key]
        return len(ended)

    def end_all(self) -> int:
        """End all sessions, and all links that were not used. Return how many sessions there were."""
        self._forget()
        count = len(self._sessions)
        self._sessions.clear()
        self._links.clear()
        return count

    def _forget(self) -> None:
        now = self._clock()
        for key in [key for key, link in self._links.items() if link.ends_at <= now]:
            del self._links[key]
        for key in [key for key, session in self._sessions.items() if session.ends_at <= now]:
            del self._sessions[key]


def require_write(session: Session, csrf: str | None) -> None:
    """Refuse a write of a session that only reads, or without the session's token. Raises NotAllowed."""
    if session.read_only:
        raise NotAllowed("this session only reads; open another with: clawlink open")
    require_csrf(session, csrf)


def require_csrf(session: Session, csrf: str | None) -> None:
    """Refuse a request that a foreign page may have caused: it cannot know the token. Raises NotAllowed."""
    if csrf is None or not hmac.compare_digest(csrf.encode("utf-8", "surrogateescape"), session.csrf.encode()):
        raise NotAllowed(
            f"a write of a session needs the header {CSRF_HEADER}, with the csrf of GET /admin/session",
            field=CSRF_HEADER,
        )


def _require_room(what: str, held: int, most: int) -> None:
    if held >= most:
        raise RelayFull(
            f"{held} {what}, and there may be {most}; wait, or end all sessions with: clawlink open --end-all",
            limit=most,
            actual=held + 1,
            retry_after=60,
        )


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
