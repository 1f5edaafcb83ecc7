"""The routes: the caller's role, the body, one use case, and the answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from clawlink.doors.portal.records import Contact, Message
from clawlink.doors.portal.rules.access import Role
from clawlink.doors.portal.rules.consent import Decision, key_fault
from clawlink.doors.portal.rules.texts import utc
from clawlink.doors.portal.server import views
from clawlink.doors.portal.server.contacts import MAX_CONTACTS, require_reachable
from clawlink.doors.portal.server.mail import MOST_LISTED, MOST_SKIPPED
from clawlink.doors.portal.server.old_routes import OldRoutes
from clawlink.doors.portal.server.owner_routes import OwnerRoutes
from clawlink.doors.portal.server.parts import Parts
from clawlink.doors.portal.server.portal_request import (
    PortalRequest,
    Shown,
    handler_of,
    require_own_portal,
)
from clawlink.doors.portal.server.poster import Offered
from clawlink.doors.portal.server.repository import require_said
from clawlink.doors.portal.server.tasks import MOST_TASKS
from clawlink.doors.portal.wire import calls
from clawlink.doors.portal.wire.old_calls import OLD_CALLS
from clawlink.errors import BadRequest, NotAllowed
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Handler, parameter
from clawlink.server.response import Reply

_log = logging.getLogger("clawlink.portal")
_DECISIONS = {
    **{decision.value: decision for decision in Decision},
    "approve": Decision.APPROVE,
    "deny": Decision.DENY,
}


class Routes:
    """All routes of a portal. Each asks the table of rights first."""

    def __init__(self, parts: Parts) -> None:
        self._relay = parts.relay
        self._url = parts.url
        self._keys = parts.keys
        self._contacts = parts.contacts
        self._guests = parts.guests
        self._mail = parts.mail
        self._files = parts.files
        self._forwarded_tasks = parts.forwarded_tasks
        self._tasks = parts.tasks
        self._poster = parts.poster
        self._wake = parts.wake
        self._owner = OwnerRoutes(parts)
        self._old = OldRoutes(parts)

    def all(self) -> Iterator[tuple[Endpoint, Handler]]:
        """Give each route, also with two slashes: old peers add one to an address that ends in one."""
        for call in (*calls.CALLS, *OLD_CALLS):
            use = next(getattr(one, call.name) for one in (self, self._owner, self._old) if hasattr(one, call.name))
            too_large = self._guests.too_large if call.name == "guest_leave" else None
            handler = handler_of(self._keys, self._contacts.used, call, use, too_large)
            yield call, handler
            yield replace(call, name=f"{call.name}_slash", path="/" + call.path), handler

    # -- guests ------------------------------------------------------------------------------------------------------

    async def guest_leave(self, ask: PortalRequest) -> Any:
        guest = await self._guests.leave(ask.body.content, ask.request.block)
        return {"status": "ok", "message_id": guest.number}

    async def guest_list(self, ask: PortalRequest) -> Any:
        turns = Turns()
        shown = []
        for guest in await self._guests.listed():
            shown.append(msgspec.Raw(msgspec.json.encode(views.guest(guest, self._url))))
            await turns.next()
        return {"messages": shown}

    async def guest_status(self, ask: PortalRequest) -> Any:
        decision = _DECISIONS.get(ask.body.status)
        if decision is None:
            raise BadRequest("status is approved, rejected or read", field="status")
        number = ask.number("message_id")
        await self._guests.decide(number, decision, lenient=True)
        return {"status": "updated", "message_id": number, "new_status": ask.body.status}

    async def guest_approve(self, ask: PortalRequest) -> Any:
        if not ask.body.portal_url:
            raise BadRequest("portal_url is required", field="portal_url")
        number = ask.number("message_id")
        guest, contact = await self._guests.decide(
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

    async def guest_decide(self, ask: PortalRequest) -> Any:
        decision = _DECISIONS.get(ask.body.decision)
        if decision is None:
            raise BadRequest("decision is approve, deny or read", field="decision")
        body = ask.body
        guest, contact = await self._guests.decide(
            ask.number("message_id"),
            decision,
            url=body.portal_url,
            key=body.key,
            agent_name=body.agent_name,
            user_name=body.user_name,
            swap=body.replace,
        )
        shown = None if contact is None else await self._contacts.directory.view(contact)
        return {"guest": views.guest(guest, self._url), "contact": shown}

    # -- contacts ----------------------------------------------------------------------------------------------------

    async def contact_list(self, ask: PortalRequest) -> Any:
        limit, offset = ask.count("limit", MAX_CONTACTS, MAX_CONTACTS), ask.count("offset", 0, MAX_CONTACTS)
        with_key = ask.caller.role is Role.OWNER
        total, listed = await self._contacts.directory.listed(limit, offset, with_key=with_key)
        return Reply(b'{"contacts":' + listed + b',"total":%d}' % total)

    async def contact_view(self, ask: PortalRequest) -> Any:
        contact = await self._contacts.find(parameter(ask.request, "contact_id"))
        return {"contact": await self._contacts.directory.view(contact)}

    async def contact_reach(self, ask: PortalRequest) -> Any:
        seen = await self._contacts.seen()
        return {"contacts": {number: {"heard_at": views.time(at), "away": away} for number, (at, away) in seen.items()}}

    async def contact_add(self, ask: PortalRequest) -> Any:
        body = ask.body
        await self._guests.add_contact(
            body.portal_url,
            key=body.key,
            display_name=body.display_name,
            agent_name=body.agent_name,
            user_name=body.user_name,
        )
        return {"status": "created"}

    async def contact_change(self, ask: PortalRequest) -> Any:
        body = ask.body
        await self._contacts.change(
            ask.number("contact_id"),
            key=body.key,
            display_name=body.display_name,
            agent_name=body.agent_name,
            user_name=body.user_name,
        )
        return {"status": "updated"}

    async def contact_remove(self, ask: PortalRequest) -> Any:
        contact = await self._contacts.numbered(ask.number("contact_id"))
        await self._contacts.remove(contact.number)
        self._wake(contact.id)  # what waits for it ends
        return {"status": "deleted"}

    async def contact_terms(self, ask: PortalRequest) -> Any:
        body = ask.body
        contact = await self._contacts.find(parameter(ask.request, "contact_id"))
        contact = await self._contacts.set_terms(
            contact.id, name=body.display_name, blocked=body.blocked, paused=body.paused, until=body.until, pin=body.pin
        )
        self._wake(contact.id)
        return {"contact": await self._contacts.directory.view(contact)}

    async def contact_renew(self, ask: PortalRequest) -> Any:
        """Offer a contact a new key: a portal of ClawLink takes it by itself, an old one gets a guest message."""
        contact = await self._contacts.find(parameter(ask.request, "contact_id"))
        require_reachable(contact, self._relay.steady())
        contact = await self._contacts.offer_key(contact.id)
        with self._contacts.offering(contact.id):
            offered, detail = await self._poster.offer(contact)
            if offered is Offered.TAKEN:
                await self._contacts.renewed(contact.id, contact.next_key)
        await self._contacts.require_offered(contact.id, contact.next_key)
        return {"contact": contact.number, "portal_url": contact.url, "state": offered.value, "detail": detail}

    async def key_renew(self, ask: PortalRequest) -> Any:
        """Take the key that a contact offers, once the portal at its address says that the offer is its own."""
        require_own_portal(ask, self._relay.steady())
        fault = key_fault(ask.body.new_key)
        if fault is not None:
            raise BadRequest(fault, field="new_key")
        if ask.body.new_key != ask.contact.key:
            why = await self._poster.confirmed(ask.contact, ask.body.new_key)
            if why is not None:
                raise NotAllowed(f"the portal at your address does not confirm the new key: {why}", field="new_key")
            await self._contacts.take_key(ask.contact.id, ask.body.new_key, ask.caller.key)
        return {"status": "renewed"}

    async def key_confirm(self, ask: PortalRequest) -> Any:
        """Tell a contact that the key which it shows is the one that this portal offers."""
        require_own_portal(ask, self._relay.steady())
        if ask.caller.key not in (ask.contact.next_key, ask.contact.key):
            raise NotAllowed("this portal offers no such key")
        return {"status": "confirmed"}

    async def contact_forget(self, ask: PortalRequest) -> Any:
        contact = await self._contacts.find(parameter(ask.request, "contact_id"))
        await self._contacts.remove(contact.number)
        done = {
            "forgotten": contact.url,
            "messages": await self._mail.forget(contact.id),
            "guests": await self._guests.forget(contact.id),
            "files": await self._files.forget(contact.id),
        }
        await self._forwarded_tasks.forget(contact)
        return done

    # -- messages ----------------------------------------------------------------------------------------------------

    async def message_receive(self, ask: PortalRequest) -> Any:
        require_own_portal(ask, self._relay.steady())
        body, id = ask.body, ask.contact.id
        was_away = self._contacts.is_away(id)
        message = await self._mail.receive(
            ask.contact, body.content, body.message_type, body.idempotency_key, body.in_reply_to
        )
        if was_away:
            self._wake(id)
        answer = {"status": "received", "message_id": message.number}
        return answer if body.idempotency_key is None else answer | {"idempotency_key": body.idempotency_key}

    async def message_status(self, ask: PortalRequest) -> Any:
        require_own_portal(ask, self._relay.steady())
        message = await self._mail.received(ask.contact, ask.body.idempotency_key)
        return {
            "stored_at": utc(message.created_at),
            "acknowledged_at": views.time(message.acked_at),
            "answered_at": views.time(message.answered_at),
        }

    async def task_news(self, ask: PortalRequest) -> Any:
        require_own_portal(ask, self._relay.steady())
        return {"status": "taken", "task_id": await self._forwarded_tasks.take(ask.contact, ask.body)}

    async def task_answer(self, ask: PortalRequest) -> Any:
        task_id = parameter(ask.request, "task_id")
        self._wake(await self._tasks.answer(task_id, ask.body))
        return {"status": "stored", "task_id": task_id}

    async def task_cancel(self, ask: PortalRequest) -> Any:
        task_id = parameter(ask.request, "task_id")
        self._wake(await self._tasks.cancel(task_id, ask.body.note))
        return {"status": "cancelled", "task_id": task_id}

    async def task_delegate(self, ask: PortalRequest) -> Any:
        contact = await self._contacts.find(ask.body.to)
        task_id = await self._tasks.delegate(contact.number, ask.body)
        self._wake(contact.id)
        return {"status": "queued", "task_id": task_id, "contact": contact.number}

    async def task_list(self, ask: PortalRequest) -> Any:
        named, limit = ask.request.query.get("contact"), ask.count("limit", MOST_TASKS, MOST_TASKS)
        contact = None if named is None else await self._contacts.find(named)
        shown = Shown()
        for task in await self._tasks.listed(contact, ask.request.query.get("task", ""), limit):
            if not await shown.add(task):
                break
        return {"tasks": list(shown.all)}

    async def message_sent(self, ask: PortalRequest) -> Any:
        body = ask.body
        message = await self._mail.note_sent(body.to_portal, body.content, body.message_type)
        return {"status": "recorded", "message_id": message.number}

    async def message_history(self, ask: PortalRequest) -> Any:
        limit, offset = ask.count("limit", 50, MOST_LISTED), ask.count("offset", 0, MOST_SKIPPED)
        contact, cursor = ask.query("contact_portal"), ask.request.query.get("cursor")
        total = await self._mail.count(contact)
        shown = Shown()
        if text := ask.request.query.get("text"):
            for message in await self._mail.search(contact, text, limit):
                if not await shown.add(views.in_history(message, self._url)):
                    break
            return {"total": total, "limit": limit, "offset": 0, "next_offset": None, "messages": list(shown.all)}
        last: str | None = None
        async for message, place in self._mail.history(contact, limit, offset, cursor):
            if not await shown.add(views.in_history(message, self._url)):
                break
            last = place
        after = offset + len(shown.all)
        more = after if cursor is None and limit and after < total else None
        told = {"total": total, "limit": limit, "offset": offset, "next_offset": more, "next_cursor": last}
        return told | {"messages": list(shown.all)}

    async def message_list(self, ask: PortalRequest) -> Any:
        """List the last messages. Of those after ``since`` the oldest come first, so a reader that goes on has all."""
        since = ask.request.query.get("since")
        shown = Shown(drops_first=since is not None)
        async for message, _ in self._mail.history(ask.query("contact_portal"), MOST_LISTED, 0):
            one = views.in_list(message, self._url)
            if (since is None or one["created_at"] > since) and not await shown.add(one):
                break
        return {"messages": list(reversed(shown.all))}

    async def send(self, ask: PortalRequest) -> Any:
        body = ask.body
        require_said(body.content)
        contact = await self._contacts.find(body.to)
        message = await self._mail.send(
            contact, body.content, body.message_type, body.idempotency_key, body.in_reply_to
        )
        return self._sent(message)

    async def sent_status(self, ask: PortalRequest) -> Any:
        message = await self._mail.numbered(ask.number("message_id"))
        if ask.request.query.get("ask") == "no":
            return self._sent(message, await self._mail.waits_for(message))
        return self._sent(*await self._refreshed(message))

    def _sent(self, message: Message, hint: str = "") -> Any:
        ends_at = message.expires_at
        return views.sent(message, hint, None if ends_at is None else self._relay.core.time.shown(ends_at))

    async def _refreshed(self, message: Message) -> tuple[Message, str]:
        """Return a message with what the other portal tells of it now, and why it tells nothing."""
        contact = await self._relay.core.store.get(Contact, message.contact)
        if message.inbound or message.sent_at is None or (message.acked_at and message.answered_at):
            return message, await self._mail.waits_for(message)
        if contact is None or not contact.ours:
            return message, "the other portal is not ClawLink, and does not tell what became of the message"
        told = await self._poster.asked(contact, message)
        if isinstance(told, str):
            return message, f"the other portal does not tell more at this moment: {told}"
        return await self._mail.told(message.id, *told) or message, ""
