"""The routes: the caller's role, the body, one use case, and the answer in the wire's own form."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.doors.portal.records import Contact, Message
from clawlink.doors.portal.rules.access import Role
from clawlink.doors.portal.rules.consent import Decision, decided
from clawlink.doors.portal.rules.urls import same
from clawlink.doors.portal.rules.words import stamp
from clawlink.doors.portal.server import views
from clawlink.doors.portal.server.book import Book
from clawlink.doors.portal.server.keys import Caller, Keys
from clawlink.doors.portal.server.mail import MOST_LISTED, MOST_SKIPPED, Mail
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.wire import calls
from clawlink.errors import BadJson, BadRequest, ClawLinkError, NotAllowed, NotAuthenticated, NotFound
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.error_mapping import refusal
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Handler, Request, parameter, read
from clawlink.server.response import Reply, reply
from clawlink.version import VERSION

_log = logging.getLogger("clawlink.portal")
_INVALID = 422
_SCHEME = "Bearer "
_DECISIONS = {
    **{decision.value: decision for decision in Decision},
    "approve": Decision.APPROVE,
    "deny": Decision.DENY,
}

Use = Callable[["Ask"], Awaitable[Any]]


class Ask:
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
        text = parameter(self.request, name)
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise NotFound(f"{name} is a number", field=name)
        return int(text)

    def query(self, name: str) -> str:
        """Return a parameter of the query. Raises BadRequest."""
        text: str | None = self.request.query.get(name)
        if text is None:
            raise BadRequest(f"give the parameter {name}", field=name)
        return text

    def count(self, name: str, default: int, most: int) -> int:
        """Return a number of the query. Raises BadRequest."""
        text = self.request.query.get(name, str(default))
        if not (text.isascii() and text.isdigit() and int(text[:9]) <= most):
            raise BadRequest(f"{name} is a number from 0 to {most}", field=name, limit=most)
        return int(text)


class Routes:
    """All routes of a portal. Each asks the table of rights first."""

    def __init__(self, relay: Relay, url: str, keys: Keys, book: Book, mail: Mail, poster: Poster) -> None:
        self._relay = relay
        self._url = url
        self._keys = keys
        self._book = book
        self._mail = mail
        self._poster = poster

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes: old peers add one to an address that ends in one."""
        for call in calls.CALLS:
            handler = self._handler(call, getattr(self, call.name))
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    def _handler(self, call: Endpoint, use: Use) -> Handler:
        async def serve(relay: Relay, request: Request) -> Reply:
            try:
                body = None if call.body is None else await _body(request, call.body)
                caller = await self._keys.require(call.name, key_of(request, body))
                answer = await use(Ask(request, caller, body))
            except _Invalid as invalid:
                return _failed(_INVALID, invalid.detail)
            except ConnectionError:
                raise
            except Exception as failure:
                error = refusal(relay, failure, {"method": call.method, "route": call.path}, _log)
                return _failed(error.status, error.message, error.retry_after, error)
            return answer if isinstance(answer, Reply) else reply(answer)

        return serve

    # -- guests ------------------------------------------------------------------------------------------------------

    async def guest_leave(self, ask: Ask) -> Any:
        guest = await self._book.leave(ask.body.content, ask.request.block)
        return {"status": "ok", "message_id": guest.number}

    async def guest_list(self, ask: Ask) -> Any:
        turns = Turns()
        shown = []
        for guest in await self._book.guests():
            shown.append(msgspec.Raw(msgspec.json.encode(views.guest(guest, self._url))))
            await turns.next()
        return {"messages": shown}

    async def guest_status(self, ask: Ask) -> Any:
        decision = _DECISIONS.get(ask.body.status)
        if decision is None:
            raise BadRequest("status is approved, rejected or read", field="status")
        number = ask.number("message_id")
        await self._book.decide(number, decision, lenient=True)
        return {"status": "updated", "message_id": number, "new_status": ask.body.status}

    async def guest_approve(self, ask: Ask) -> Any:
        if not ask.body.portal_url:
            raise BadRequest("portal_url is required", field="portal_url")
        number = ask.number("message_id")
        guest, contact = await self._book.decide(
            number,
            Decision.APPROVE,
            url=ask.body.portal_url,
            agent_name=ask.body.agent_name,
            user_name=ask.body.user_name,
        )
        return {
            "status": "approved",
            "message_id": guest.number,
            "api_key": None if contact is None else contact.key,
            "message": "the offered key is in use",
        }

    async def guest_decide(self, ask: Ask) -> Any:
        decision = _DECISIONS.get(ask.body.decision)
        if decision is None:
            raise BadRequest("decision is approve, deny or read", field="decision")
        body = ask.body
        guest, contact = await self._book.decide(
            ask.number("message_id"),
            decision,
            url=body.portal_url,
            key=body.key,
            agent_name=body.agent_name,
            user_name=body.user_name,
            swap=body.replace,
        )
        shown = None if contact is None else views.contact(contact, 0, with_key=False)
        return {"guest": views.guest(guest, self._url), "contact": shown}

    # -- contacts ----------------------------------------------------------------------------------------------------

    async def contact_list(self, ask: Ask) -> Any:
        contacts = [contact async for contact in self._book.contacts()]
        unread = await self._book.unread(contacts)
        with_key = ask.caller.role is Role.OWNER
        turns = Turns()
        shown = []
        for one, count in zip(contacts, unread, strict=True):
            shown.append(msgspec.Raw(msgspec.json.encode(views.contact(one, count, with_key=with_key))))
            await turns.next()
        return {"contacts": shown}

    async def contact_add(self, ask: Ask) -> Any:
        body = ask.body
        await self._book.put_contact(
            body.portal_url,
            key=body.key,
            display_name=body.display_name,
            agent_name=body.agent_name,
            user_name=body.user_name,
        )
        return {"status": "created"}

    async def contact_change(self, ask: Ask) -> Any:
        body = ask.body
        await self._book.change_contact(
            ask.number("contact_id"),
            key=body.key,
            display_name=body.display_name,
            agent_name=body.agent_name,
            user_name=body.user_name,
        )
        return {"status": "updated"}

    async def contact_remove(self, ask: Ask) -> Any:
        await self._book.keep_numbers()
        await self._book.remove_contact(ask.number("contact_id"))
        return {"status": "deleted"}

    async def contact_block(self, ask: Ask) -> Any:
        contact = await self._book.find(parameter(ask.request, "contact_id"))
        contact = await self._book.block(contact.id, blocked=ask.body.blocked) or contact
        return {"contact": views.contact(contact, 0, with_key=False)}

    async def contact_forget(self, ask: Ask) -> Any:
        contact = await self._book.find(parameter(ask.request, "contact_id"))
        await self._book.keep_numbers()
        await self._book.remove_contact(contact.number)
        messages = await self._mail.forget(contact.id)
        return {"forgotten": contact.url, "messages": messages, "guests": await self._book.forget_guests(contact.id)}

    # -- messages ----------------------------------------------------------------------------------------------------

    async def message_receive(self, ask: Ask) -> Any:
        _require_own_portal(ask)
        body = ask.body
        message = await self._mail.receive(
            ask.contact, body.content, body.message_type, body.idempotency_key, body.in_reply_to
        )
        answer = {"status": "received", "message_id": message.number}
        return answer if body.idempotency_key is None else answer | {"idempotency_key": body.idempotency_key}

    async def message_status(self, ask: Ask) -> Any:
        _require_own_portal(ask)
        message = await self._mail.received(ask.contact, ask.body.idempotency_key)
        return {
            "stored_at": stamp(message.created_at),
            "acknowledged_at": views.time(message.acked_at),
            "answered_at": views.time(message.answered_at),
        }

    async def message_sent(self, ask: Ask) -> Any:
        body = ask.body
        message = await self._mail.note_sent(body.to_portal, body.content, body.message_type)
        return {"status": "recorded", "message_id": message.number}

    async def message_history(self, ask: Ask) -> Any:
        limit, offset = ask.count("limit", 50, MOST_LISTED), ask.count("offset", 0, MOST_SKIPPED)
        contact = ask.query("contact_portal")
        total = await self._mail.count(contact)
        shown = _Shown()
        async for message in self._mail.history(contact, limit, offset):
            if not await shown.add(views.in_history(message, self._url)):
                break
        after = offset + len(shown.all)
        more = after if limit and after < total else None
        return {"total": total, "limit": limit, "offset": offset, "next_offset": more, "messages": list(shown.all)}

    async def message_list(self, ask: Ask) -> Any:
        """List the last messages. Of those after ``since`` the oldest come first, so a reader that goes on has all."""
        since = ask.request.query.get("since")
        shown = _Shown(drops_first=since is not None)
        async for message in self._mail.history(ask.query("contact_portal"), MOST_LISTED, 0):
            one = views.in_list(message, self._url)
            if (since is None or one["created_at"] > since) and not await shown.add(one):
                break
        return {"messages": list(reversed(shown.all))}

    async def send(self, ask: Ask) -> Any:
        body = ask.body
        contact = await self._book.find(body.to)
        message = await self._mail.send(
            contact, body.content, body.message_type, body.idempotency_key, body.in_reply_to
        )
        return views.sent(message)

    async def sent_status(self, ask: Ask) -> Any:
        message = await self._mail.numbered(ask.number("message_id"))
        if ask.request.query.get("ask") == "no":
            return views.sent(message)
        return views.sent(*await self._refreshed(message))

    async def _refreshed(self, message: Message) -> tuple[Message, str]:
        """Return a message with what the other portal tells of it now, and why it tells nothing."""
        contact = await self._relay.core.store.get(Contact, message.contact)
        if message.inbound or message.sent_at is None or (message.acked_at and message.answered_at):
            return message, ""
        if contact is None or not contact.ours:
            return message, "the other portal is none of ClawLink, and does not tell what became of the message"
        told = await self._poster.asked(contact, message)
        if isinstance(told, str):
            return message, f"the other portal does not tell more at this moment: {told}"
        return await self._mail.told(message.id, *told) or message, ""

    # -- owner and agent ---------------------------------------------------------------------------------------------

    async def chat_send(self, ask: Ask) -> Any:
        text = ask.body.content.strip()
        if not text:
            return _empty()
        line = await self._book.say("owner", text)
        said = decided(text)
        if said is not None:
            await self._book.say("agent", await self._outcome(*said))
        return {"success": True, "message_id": line.number, "created_at": stamp(line.created_at)}

    async def _outcome(self, decision: Decision, number: int) -> str:
        """Do what the owner's words decide, and say what came of it."""
        try:
            guest, contact = await self._book.decide(number, decision)
        except ClawLinkError as error:
            return error.message
        made = "" if contact is None else f"; contact {contact.number}: {contact.url}"
        return f"guest message {number} is {guest.status.value}{made}"

    async def chat_reply(self, ask: Ask) -> Any:
        text = ask.body.content.strip()
        if not text:
            return _empty()
        line = await self._book.say("agent", text)
        return {"success": True, "message_id": line.number}

    async def chat_history(self, ask: Ask) -> Any:
        shown = _Shown()
        for line in reversed(await self._book.chat(ask.count("limit", 50, MOST_LISTED) or 1)):
            if not await shown.add(views.line(line)):
                break
        return {"messages": list(reversed(shown.all))}

    async def login(self, ask: Ask) -> Any:
        token, ends_at = await self._keys.login(ask.body.password, ask.request.block)
        return {"token": token, "expiry": int(ends_at * 1000)}

    async def password(self, ask: Ask) -> Any:
        await self._keys.change_password(ask.body.old_password, ask.body.new_password, ask.request.block)
        return {"status": "success", "message": "the password is changed, and all sessions have ended"}

    async def info(self, ask: Ask) -> Any:
        key = key_of(ask.request) or ""
        own = key if key.startswith("ap2p_") else None  # the relay keeps the hash alone
        return {"url": self._url, "api_key": own, "openclaw_url": None, "openclaw_token": None}

    async def about(self, ask: Ask) -> Any:
        return {"portal": "clawlink", "version": VERSION, "url": self._url}

    # -- agent keys --------------------------------------------------------------------------------------------------

    async def key_create(self, ask: Ask) -> Any:
        key = await self._book.make_key(ask.body.agent_name or "agent")
        told = "an agent key, shown this once: it reads messages, writes to contacts and answers the owner"
        return {"status": "created", "api_key": key, "portal_url": self._url, "message": told}

    async def key_list(self, ask: Ask) -> Any:
        found = [views.key(key, self._url) for key in await self._book.keys()]
        return {"api_keys": found, "total": len(found)}

    async def key_revoke(self, ask: Ask) -> Any:
        if not await self._book.revoke(ask.query("api_key")):
            raise NotFound("no agent key is this one; GET /api/key/list shows them", field="api_key")
        return {"status": "revoked"}


class _Shown:
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
    """Return the key of a request: that in its body, where the route has one there, else that in ``Authorization``."""
    in_body: str | None = getattr(body, "api_key", None)
    header: str = request.headers.get("Authorization", "")
    in_header = header[len(_SCHEME) :].strip() if header.startswith(_SCHEME) else None
    return in_body or in_header


def _require_own_portal(ask: Ask) -> None:
    """Refuse a contact that names another portal as its own, and one that is blocked. Raises NotAllowed."""
    if ask.contact.blocked:
        raise NotAllowed("the owner of this portal takes no messages from you")
    if not same(ask.body.from_portal, ask.contact.id):
        raise NotAllowed("Portal URL mismatch: this key belongs to another portal", field="from_portal")


class _Invalid(Exception):
    """A body that is not of the wire's form."""

    def __init__(self, message: str, field: str | None, kind: str) -> None:
        super().__init__(message)
        self.detail = [{"loc": ["body", *([] if field is None else [field])], "msg": message, "type": kind}]


async def _body(request: Request, kind: Any) -> Any:
    """Read the body. A wrong type is 422 with a list, as the wire has it."""
    if request.content_type != "application/json":
        raise _Invalid("send JSON as Content-Type: application/json", None, "content_type")
    try:
        return await read(request, kind)
    except BadJson as error:
        raise _Invalid(error.message, None, "json_invalid") from None
    except BadRequest as error:
        raise _Invalid(error.message, error.field, "value_error") from None


def _failed(status: int, detail: Any, retry_after: float | None = None, error: ClawLinkError | None = None) -> Reply:
    headers: Mapping[str, str] | None = None
    if retry_after is not None:
        headers = {"Retry-After": str(max(1, round(retry_after)))}
    if isinstance(error, NotAuthenticated):
        headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}
    told: dict[str, Any] = {"detail": detail}
    if error is not None:
        told |= {"code": error.code, **({} if error.field is None else {"field": error.field})}
    return Reply(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"), status, headers=headers)


def _empty() -> Reply:
    return Reply(msgspec.json.encode({"error": "content is empty"}), 400)


async def refuse_socket(relay: Relay, failure: Exception) -> web.StreamResponse | Reply:
    """Return the answer to a handshake that is refused: 403 for each key that may not read."""
    error = refusal(relay, failure, {"method": "GET", "route": calls.SOCKET.path}, _log)
    status = NotAllowed.status if isinstance(error, NotAuthenticated) else error.status
    return _failed(status, error.message, error.retry_after, error)
