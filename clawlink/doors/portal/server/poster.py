"""The way to other portals over HTTP: screened addresses, checked certificates, no redirects, bounded answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from clawlink.domain import networks
from clawlink.domain.networks import Network
from clawlink.domain.terminal import cell
from clawlink.doors.portal.records import Contact, Message
from clawlink.doors.portal.rules import screening
from clawlink.doors.portal.rules.outbox_steps import Outcome
from clawlink.doors.portal.rules.texts import seconds
from clawlink.errors import NotAuthenticated
from clawlink.server.outgoing import Fault, Forbidden, ScreenedResolver

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
_ALL_SECONDS = 60.0
_MOST_ANSWER_BYTES = 64 * 1024
_MOST_TOLD = 200
RECEIVE, STATUS, ABOUT = "/api/message/receive", "/api/message/status", "/api/portal/about"
TASKS = "/api/portal/tasks"
KEY, CONFIRM, LEAVE = "/api/portal/key", "/api/portal/key/confirm", "/api/guest/leave-message"
# These answers say that the request was not looked at, or that it is to be sent again.
LATER = frozenset({401, 403, 404, 408, 421, 423, 425, 429, 503})
# Proxies answer so, too, when they do not know whether the portal behind them took the request.
_DOUBTFUL_FROM = 500
_BEHIND = "a proxy before it does not reach it; its owner has to see that it runs"
# The next step after the answer of a proxy before the other portal, by its status.
_STEPS = {
    413: "a proxy before it takes no body of this size; its owner has to allow larger ones",
    502: _BEHIND,
    503: _BEHIND,
    504: _BEHIND,
}
_TASK_ID = re.compile("[0-9A-Za-z_-]{1,64}")


_TIMEOUT = aiohttp.ClientTimeout(total=_ALL_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
Send = Callable[[str], Awaitable[tuple[int, bytes]]]
Renewed = Callable[[str, str | None], Awaitable[None]]
FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class Offered(str, Enum):
    """The outcome of an offer of a new key."""

    TAKEN = "renewed"
    ASKED = "asked"
    """A guest message with the key waits for the other owner."""
    OPEN = "pending"


class Posted(NamedTuple):
    """The outcome of a post, what happened in words, and whether the answer was that of a ClawLink relay."""

    outcome: Outcome
    detail: str
    ours: bool = False


class _Over(aiohttp.ClientConnectionError):
    """This relay does not act as the portal any more."""


class Told(NamedTuple):
    """The outcome of news of a task: "" if they were taken, None if they are to be posted again, else the refusal.

    ``task_id`` is the id of the task there, if the other portal says it.
    """

    refused: str | None
    task_id: str = ""


class _Connector(aiohttp.TCPConnector):
    """Gives connections only while this relay acts as the portal."""

    def __init__(self, acts: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self._acts = acts

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        connection = await super().connect(req, traces, timeout)
        if not self._acts():  # the last moment before anything is sent
            connection.close()
            raise _Over("another relay is the active node of this portal now")
        return connection


class Poster:
    """Posts to other portals. ``own_url`` is how this portal names itself there.

    ``acts`` tells whether this relay acts as the portal at this moment. Nothing is posted while it does not.
    ``renewed`` is called with a contact whose portal took the key that was offered to it, and with that key.
    """

    def __init__(
        self,
        own_url: str,
        *,
        ca: str | None,
        allowed: Iterable[Network],
        acts: Callable[[], bool] = lambda: True,
        renewed: Renewed | None = None,
    ) -> None:
        self._own_url = own_url
        self._acts = acts
        self._renewed = renewed
        allowed = screening.allowed_with(urlsplit(own_url).hostname or "", allowed)
        tls = ssl.create_default_context()
        if ca is not None:
            tls.load_verify_locations(ca)
        self._tls = tls
        self.faults: dict[str, Fault] = {
            scheme: partial(screening.fault, allowed=allowed, encrypted=scheme == "https")
            for scheme in ("http", "https")
        }
        """Why no connection is made to an address, by the scheme of its URL."""
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        if scheme not in self._sessions:
            # A kept connection that the peer has just closed would look like a lost answer.
            connector = _Connector(
                self._acts,
                resolver=ScreenedResolver(self.faults[scheme]),
                force_close=True,
                ssl=self._tls,
                use_dns_cache=False,
            )
            self._sessions[scheme] = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": "ClawLink", "Accept-Encoding": "identity"},
            )
        return self._sessions[scheme]

    async def close(self) -> None:
        """Close all connections."""
        async with contextlib.AsyncExitStack() as stack:
            for session in self._sessions.values():
                stack.push_async_callback(session.close)

    async def post(self, contact: Contact, message: Message) -> Posted:
        """Post a message to its contact's portal, once."""
        body = {
            "from_portal": self._own_url,
            "content": message.content,
            "message_type": message.message_type,
            "idempotency_key": message.id,
        }
        if message.in_reply_to is not None:
            body["in_reply_to"] = message.in_reply_to

        async def send(key: str) -> tuple[int, bytes]:
            status, answer = await self._ask(contact, "POST", RECEIVE, body | {"api_key": key})
            if status == 403 and b"mismatch" in answer and not contact.ours:
                # Agent P2P compares addresses byte for byte, and the contact may know this one with a slash.
                slashed = {"api_key": key, "from_portal": self._own_url + "/"}
                status, answer = await self._ask(contact, "POST", RECEIVE, body | slashed)
            return status, answer

        try:
            status, answer = await self.signed(contact, send)
        except NOT_BEGUN as error:
            return Posted(Outcome.NOT_STORED, said(error))
        except FAILURES as error:
            return Posted(Outcome.LOST, f"the answer was lost: {said(error)}")
        return judged(contact.url, status, answer, message.id)

    async def signed(self, contact: Contact, send: Send) -> tuple[int, bytes]:
        """Send a request with the key of a contact, and with the offered one if the other portal takes that alone.

        Its owner may have put the offered key in the place of the old one. Raises as ``request``.
        """
        refused = await send(contact.shown_key)
        if refused[0] != NotAuthenticated.status or contact.next_key is None:
            return refused
        status, answer = await send(contact.next_key)
        if status == 200 and self._renewed is not None:
            await self._renewed(contact.id, contact.next_key)
        return refused if status == NotAuthenticated.status else (status, answer)

    async def _ask_signed(self, contact: Contact, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Ask a contact's portal a route that takes the key in its body."""
        body = {"from_portal": self._own_url, **body}
        return await self.signed(contact, lambda key: self._ask(contact, "POST", path, {"api_key": key, **body}))

    async def offer(self, contact: Contact) -> tuple[Offered, str]:
        """Offer a contact its next key. Return the outcome, and why the key is not taken.

        Raises nothing: a further offer brings the same key.
        """
        try:
            if contact.ours is not False:
                status, answer = await self._ask_signed(contact, KEY, {"new_key": contact.next_key})
                if status == 200 and fields(answer).get("status") == "renewed":
                    return Offered.TAKEN, ""
                if status not in (404, 405):
                    return Offered.OPEN, _refusal(contact.url, status, answer)
            told = f"The key for our messages is to be another one.\nMy portal: {self._own_url}\n"
            content = f"{told}New key: {contact.next_key}"
            status, answer = await self._ask(contact, "POST", LEAVE, {"content": content})
        except FAILURES as error:
            return Offered.OPEN, said(error)
        return (Offered.ASKED, "") if status == 200 else (Offered.OPEN, _refusal(contact.url, status, answer))

    async def confirmed(self, contact: Contact, key: str) -> str | None:
        """Ask the portal at a contact's address whether it offers this key. Return why that is not so, or None."""
        try:
            status, answer = await self._ask(contact, "POST", CONFIRM, {"api_key": key, "from_portal": self._own_url})
        except FAILURES as error:
            return said(error)
        if status == 200 and fields(answer).get("status") == "confirmed":
            return None
        return refusal_in_words(status, answer)

    async def tell(self, contact: Contact, news: dict[str, Any]) -> Told:
        """Post news of a task."""
        try:
            status, answer = await self._ask_signed(contact, TASKS, news)
        except FAILURES:
            return Told(None)
        if status == 200:
            told = fields(answer)
            id = told.get("task_id")
            known = id if isinstance(id, str) and _TASK_ID.fullmatch(id) else ""
            return Told("" if told.get("status") == "taken" else None, known)
        if news["kind"] == "cancel" and status in (404, 409):
            return Told("")  # the task never came there, or it is over
        again = status in LATER - {404} or status >= _DOUBTFUL_FROM or 300 <= status < 400
        return Told(None if again else refusal_in_words(status, answer))

    async def is_ours(self, contact: Contact) -> bool | None:
        """Return True if a relay of ClawLink is at the contact's address; None if nobody answers there."""
        try:
            status, answer = await self._ask(contact, "GET", ABOUT, None)
        except FAILURES:
            return None
        if status >= _DOUBTFUL_FROM:
            return None
        return status == 200 and fields(answer).get("portal") == "clawlink"

    async def asked(self, contact: Contact, message: Message) -> tuple[float | None, float | None] | str:
        """Return when the message was acknowledged and answered there, or why the other portal does not tell."""
        try:
            status, answer = await self._ask_signed(contact, STATUS, {"idempotency_key": message.id})
        except FAILURES as error:
            return said(error)
        told = fields(answer)
        if status != 200 or "acknowledged_at" not in told:
            return f"it answers {status}"
        try:
            acked, answered = (
                None if told.get(name) is None else seconds(str(told[name]))
                for name in ("acknowledged_at", "answered_at")
            )
        except ValueError:
            return "a time in its answer cannot be read"
        return acked, answered

    async def _ask(self, contact: Contact, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        return await self.request(contact, method, path, data, headers)

    async def request(
        self,
        contact: Contact,
        method: str,
        path: str,
        data: Any,
        headers: Mapping[str, str],
        *,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> tuple[int, bytes]:
        """Send a request to a contact's portal, and return the status and the first bytes of its answer.

        Raises OSError, asyncio.TimeoutError, aiohttp.ClientError; those of ``NOT_BEGUN`` before anything was sent.
        """
        parts = urlsplit(contact.id)
        if parts.hostname is not None and networks.address(parts.hostname) is not None:  # aiohttp resolves no addresses
            fault = self.faults[parts.scheme](parts.hostname)
            if fault is not None:
                raise Forbidden(fault)
        async with self._session(parts.scheme).request(
            method,
            contact.id + path,
            data=data,
            headers=headers,
            allow_redirects=False,
            timeout=timeout or _TIMEOUT,
            ssl=True if contact.pin is None else aiohttp.Fingerprint(bytes.fromhex(contact.pin)),
        ) as response:
            answer = bytearray()
            async for piece in response.content.iter_any():
                answer += piece
                if len(answer) > _MOST_ANSWER_BYTES:
                    response.close()
                    break
            return response.status, bytes(answer)


def refusal_in_words(status: int, answer: bytes, portal: str = "the other portal") -> str:
    """Return an answer that is no success, in words. Those of the other portal stand in quotation marks."""
    told = fields(answer)
    why = cell(str(told.get("detail", ""))[:_MOST_TOLD]).replace('"', "'")
    if not told and (step := _STEPS.get(status)) is not None:
        return f"{portal} answers {status}, and not as a portal does: {step}"
    return f"{portal} answers {status}" + (f': "{why}"' if why else "")


def _refusal(url: str, status: int, answer: bytes) -> str:
    """Return an answer of the portal at ``url`` that is no success, with the next step after a key that it refuses."""
    words = refusal_in_words(status, answer, f"the portal {cell(url)}")
    if status == NotAuthenticated.status:
        words += (
            "; its owner may not have approved you yet, or has put another key in the place of yours; "
            f"offer your key: clawlink portal ask {cell(url)}"
        )
    return words


def judged(url: str, status: int, answer: bytes, key: str) -> Posted:
    """Return what an answer of the portal at ``url`` says about a posted message.

    Only 200 with the words of the wire is a success. A success without them is doubtful: any page may answer 200.
    """
    told = fields(answer)
    if status == 200:
        if told.get("status") == "received":
            return Posted(Outcome.STORED, "", ours=told.get("idempotency_key") == key)
        return Posted(Outcome.LOST, "the address answers 200, but not as a portal does")
    words = _refusal(url, status, answer)
    if status in LATER or 300 <= status < 400:
        return Posted(Outcome.NOT_STORED, words)
    if status >= _DOUBTFUL_FROM:
        return Posted(Outcome.LOST, words)
    return Posted(Outcome.REFUSED, words)


NOT_BEGUN = (
    aiohttp.ServerFingerprintMismatch,
    Forbidden,
    _Over,
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


def said(error: BaseException) -> str:
    """Return a failure in words."""
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return f"the certificate there is another one than the pinned one: its SHA-256 is {error.got.hex()}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        return cell(
            f"its certificate is not trusted ({why}); if its owner has told you the SHA-256 of it, trust that one: "
            "clawlink portal pin CONTACT SHA256"
        )
    if type(error) is aiohttp.ClientConnectorError and error.os_error.errno:
        # asyncio puts its own words and the address in place of those of the system.
        why = os.strerror(error.os_error.errno) if os.name == "posix" else error.os_error.strerror
        return f"no connection to {cell(error.host)}:{error.port}: {why}"
    inner = error.__cause__ if isinstance(error, aiohttp.ClientConnectorDNSError) else None
    text = str(getattr(inner, "strerror", None) or inner or error) or type(error).__name__
    return cell(text[:_MOST_TOLD])


def fields(answer: bytes) -> dict[str, Any]:
    """Return the fields of an answer; none for what is no JSON object."""
    try:
        found = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def authority_fault(path: str) -> str | None:
    """Return what is wrong with a file of ``--portal-ca``; None if it can be trusted."""
    try:
        ssl.create_default_context().load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
