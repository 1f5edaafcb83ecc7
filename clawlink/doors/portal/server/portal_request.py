"""A request to the portal: its caller, its body, and the answer in the wire's own form."""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import hdrs, web

from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.doors.portal.records import Contact
from clawlink.doors.portal.rules.access import PAGE_ONLY, Role
from clawlink.doors.portal.rules.texts import MOST_DIGITS, as_number
from clawlink.doors.portal.rules.urls import same
from clawlink.doors.portal.server.keys import PAGE, Caller, Keys
from clawlink.doors.portal.server.repository import MAX_MESSAGE_BYTES, is_beyond, too_long
from clawlink.doors.portal.wire import calls
from clawlink.errors import (
    BadJson,
    BadRequest,
    ClawLinkError,
    MethodNotAllowed,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    TooLarge,
    UnknownRoute,
)
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.error_mapping import refusal
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Handler, Request, parameter, read
from clawlink.server.response import Reply, reply

INVALID = 422
_log = logging.getLogger("clawlink.portal")
_SCHEME = "Bearer "
_PARAMETERS = re.compile(r"{(\w+)}")
_TARGET = 200
_MESSAGES = (calls.Receive, calls.Send, calls.Sent, calls.Say)
_AS_FILE = "attach what is long as a file"
_TASKS: Mapping[Any, tuple[str, str, str]] = {
    calls.DelegateTask: ("task", "a task", f"{_AS_FILE}: clawlink portal delegate CONTACT TEXT --attach FILE"),
    calls.AnswerTask: ("result", "a report on a task", f"{_AS_FILE}: clawlink portal answer TASK TEXT --attach FILE"),
    calls.TaskNews: ("content", "news of a task", f"{_AS_FILE}, or ask the owner for more (--max-body-bytes)"),
}
"""The bodies about tasks: the field with the text, what it is, and the next step if it is too large."""
SELF_CHECKED = frozenset({"file_chunk"})
KEY_IN_QUERY = frozenset({"file_status", "file_download"})
"""The routes whose key old scripts write into the address."""
KEY_IN_HEADER = frozenset({"photo_upload"})
"""The routes whose key old scripts write into a header of its own."""

UNNOTED = frozenset({"file_part", "import_beside"})
"""The routes that the audit leaves out: the beginning of a file is the act."""

Use = Callable[["PortalRequest"], Awaitable[Any]]
Used = Callable[[Contact, str], Awaitable[None]]
TooLong = Callable[[TooLarge], TooLarge]


class PortalRequest:
    """A request to one route: its caller, its body and its parameters."""

    def __init__(self, request: Request, caller: Caller, body: Any) -> None:
        self.request = request
        self.caller = caller
        self.body = body

    @property
    def contact(self) -> Contact:
        """The contact whose key the request shows."""
        if self.caller.contact is None:  # the table of rights gives the route to contacts alone
            raise NotAuthenticated("Invalid API Key")
        return self.caller.contact

    def number(self, name: str) -> int:
        """Return a number of the path. Raises NotFound: the wire has small numbers."""
        number = as_number(parameter(self.request, name))
        if number is None:
            raise NotFound(f"{name} is a number of at most {MOST_DIGITS} digits", field=name)
        return number

    def query(self, name: str) -> str:
        """Return a parameter of the query. Raises BadRequest."""
        text: str | None = self.request.query.get(name)
        if text is None:
            raise BadRequest(f"give the parameter {name}", field=name)
        return text

    def count(self, name: str, default: int, most: int) -> int:
        """Return a number of the query. Raises BadRequest."""
        number = as_number(self.request.query.get(name, str(default)))
        if number is None or number > most:
            raise BadRequest(f"{name} is a number from 0 to {most}", field=name, limit=most)
        return number


class Shown:
    """Texts of a list, each encoded apart with turns for other requests, as many as one reply may carry.

    The list has at least one. A full list takes no more, or drops its first ones if ``drops_first`` is True.
    """

    def __init__(self, *, drops_first: bool = False) -> None:
        self.all: deque[msgspec.Raw] = deque()
        self._drops_first = drops_first
        self._size = 0
        self._turns = Turns()

    async def add(self, one: dict[str, Any]) -> bool:
        """Add a text. Return True if the list had room for it."""
        await self._turns.next()
        encoded = msgspec.Raw(msgspec.json.encode(one))
        size = len(bytes(encoded))
        if self.all and not self._drops_first and self._size + size > MAX_REPLY_BYTES:
            return False
        self.all.append(encoded)
        self._size += size
        while len(self.all) > 1 and self._size > MAX_REPLY_BYTES:
            self._size -= len(bytes(self.all.popleft()))
        return True


def key_of(request: Request, body: Any = None) -> str | None:
    """Return the key of a request: that in its body, where the route has one there, else that in ``Authorization``.

    A session of the owner's page stands for a key.
    """
    if request.owner:
        return PAGE
    in_body: str | None = getattr(body, "api_key", None)
    header: str = request.headers.get("Authorization", "")
    in_header = header[len(_SCHEME) :].strip() if header.startswith(_SCHEME) else None
    return in_body or in_header


def require_own_portal(ask: PortalRequest, now: float) -> None:
    """Refuse a contact that names another portal as its own, or from which nothing is taken. Raises NotAllowed."""
    refuse_shut(ask, now)
    if not same(ask.body.from_portal, ask.contact.id):
        raise NotAllowed("Portal URL mismatch: this key belongs to another portal", field="from_portal")


def refuse_shut(ask: PortalRequest, now: float) -> None:
    """Refuse a contact that is blocked, paused, or at its end. Raises NotAllowed."""
    require_open(ask.contact, now)


def require_open(contact: Contact, now: float) -> None:
    """Refuse a contact that is blocked, paused, or at its end. Raises NotAllowed: its portal tries again later."""
    if contact.shut(now) is not None:
        raise NotAllowed("the owner of this portal takes nothing from you")
    if contact.paused:
        raise NotAllowed("the owner of this portal takes nothing from you for now; try again later")


class Invalid(Exception):
    """A body that is not of the wire's form."""

    def __init__(self, message: str, field: str | None, kind: str) -> None:
        super().__init__(message)
        self.detail = [{"loc": ["body", *([] if field is None else [field])], "msg": message, "type": kind}]


async def body_of(request: Request, kind: Any, too_large: TooLong | None = None) -> Any:
    """Read the body. A wrong type is 422 with a list, as the wire has it.

    Raises TooLarge, with the words of ``too_large`` where the kind of body has a limit of its own.
    """
    if request.content_type != "application/json":
        raise Invalid("send JSON as Content-Type: application/json", None, "content_type")
    try:
        return await read(request, kind)
    except TooLarge as error:
        if too_large is not None:
            error = too_large(error)
        elif kind in _MESSAGES and is_beyond(MAX_MESSAGE_BYTES, error):
            error = too_long(int(error.actual or 0), known=False)
        elif kind in _TASKS:
            field, what, then = _TASKS[kind]
            told = f"{what} has at most {error.limit} bytes as JSON, and this has {error.actual} or more; {then}"
            error = TooLarge(told, field=field, limit=error.limit, actual=error.actual)
        raise error from None
    except BadJson as error:
        raise Invalid(error.message, None, "json_invalid") from None
    except BadRequest as error:
        raise Invalid(error.message, error.field, "value_error") from None


def failed(status: int, detail: Any, retry_after: float | None = None, error: ClawLinkError | None = None) -> Reply:
    """Return a refusal in the wire's form, with the code and the field of an error."""
    headers: Mapping[str, str] | None = None
    if retry_after is not None:
        headers = {"Retry-After": str(max(1, round(retry_after)))}
    if isinstance(error, NotAuthenticated):
        headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}
    told: dict[str, Any] = {"detail": detail}
    if error is not None:
        told |= {"code": error.code, **({} if error.field is None else {"field": error.field})}
    return Reply(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"), status, headers=headers)


def astray(known: Iterable[Endpoint], request: Request) -> Reply:
    """Answer a request below ``/api/`` that no route of the portal takes, as the wire does: 307, 405 or 404.

    A slash at the end leads to the address without it.
    """
    path = request.rel_url.raw_path
    bare = "/" + path.strip("/")  # two slashes at its beginning would be another host
    methods = sorted({one.method for one in known if one.pattern.fullmatch(bare)})
    if path.endswith("/") and request.method in methods:
        query = request.rel_url.raw_query_string
        return Reply(b"", 307, headers={hdrs.LOCATION: bare + (f"?{query}" if query else "")})
    if methods:
        shown = ", ".join(methods)
        error: ClawLinkError = MethodNotAllowed(f"this address does not take {request.method}, only {shown}")
        refused = failed(error.status, error.message, None, error)
        return msgspec.structs.replace(refused, headers={hdrs.ALLOW: shown})
    error = UnknownRoute("this portal has no such address")
    return failed(error.status, error.message, None, error)


def empty() -> Reply:
    """Return the answer to an empty line of the chat, as the wire has it."""
    return Reply(msgspec.json.encode({"error": "content is empty"}), 400)


def handler_of(keys: Keys, used: Used, call: Endpoint, use: Use, too_large: TooLong | None = None) -> Handler:
    """Return the handler of a route. It asks the table of rights before the use case.

    ``used`` is told of the key that a contact shows. ``too_large`` has the words for a body that is too large.

    A part of a file shows its key at the end of its body, so its use case asks for itself.
    """

    async def serve(relay: Relay, request: Request) -> Reply | web.StreamResponse:
        try:
            body = None if call.body is None else await body_of(request, call.body, too_large)
            caller = Caller(Role.NONE)
            if call.name not in SELF_CHECKED:
                elsewhere = request.query.get("api_key") if call.name in KEY_IN_QUERY else None
                if call.name in KEY_IN_HEADER:
                    elsewhere = request.headers.get("X-API-Key")
                caller = await keys.require(call.name, key_of(request, body) or elsewhere)
                if call.name in PAGE_ONLY and not request.owner:
                    raise NotAllowed(
                        f"the owner's page alone may do this, and not a key: sign in there{PAGE_ONLY[call.name]}"
                    )
                if caller.contact is not None and call.name != "key_confirm":
                    await used(caller.contact, caller.key)
            answer = await use(PortalRequest(request, caller, body))
            if request.owner and call.method != hdrs.METH_GET and call.name not in UNNOTED:
                await _note(relay, request, call, body)
        except Invalid as invalid:
            return failed(INVALID, invalid.detail)
        except ConnectionError:
            raise
        except Exception as failure:
            if request.writer.output_size > 0:  # a part of a file is out: the router breaks the answer off
                raise
            error = refusal(relay, failure, {"method": call.method, "route": call.path}, _log)
            return failed(error.status, error.message, error.retry_after, error)
        return answer if isinstance(answer, Reply | web.StreamResponse) else reply(answer)

    return serve


async def _note(relay: Relay, request: Request, call: Endpoint, body: Any) -> None:
    """Keep what the owner did on the page in the audit, without its texts and keys."""
    named = [parameter(request, name) for name in _PARAMETERS.findall(call.path)]
    named += [str(getattr(body, field)) for field in ("to", "portal_url") if getattr(body, field, None) is not None]
    act = f"portal_{call.name}"
    await relay.audit.note(
        act, (" ".join(named) or "portal")[:_TARGET], {}, by=request.right or "", address=request.address
    )


async def refuse_socket(relay: Relay, failure: Exception) -> web.StreamResponse | Reply:
    """Return the answer to a handshake that is refused: 403 for each key that may not read."""
    error = refusal(relay, failure, {"method": "GET", "route": calls.SOCKET.path}, _log)
    status = NotAllowed.status if isinstance(error, NotAuthenticated) else error.status
    return failed(status, error.message, error.retry_after, error)
