"""Records as the wire shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clawlink.doors.portal.records import AgentKey, Chat, Contact, Guest, Message, Portal, State
from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.rules.consent import offered
from clawlink.doors.portal.rules.texts import stamp, utc
from clawlink.doors.portal.transfers import FileState, Transfer


def time(at: float | None) -> str | None:
    """Return an instant for a field of ours; None for none."""
    return None if at is None else utc(at)


def guest(found: Guest, own_url: str) -> dict[str, Any]:
    """Return a guest message. ``offers`` has the portal that its text offers, and whether it offers a key."""
    offer = offered(found.content, own_url)
    return {
        "id": found.number,
        "content": found.content,
        "created_at": stamp(found.created_at),
        "is_read": int(found.is_read),
        "status": found.status.value,
        "offers": {"portal_url": offer.url, "key": offer.key is not None},
    }


def contact(found: Contact, unread: int, *, with_key: bool) -> dict[str, Any]:
    """Return a contact; its key for the owner alone."""
    shown = {
        "id": found.number,
        "portal_url": found.url,
        "name": found.name,
        "display_name": found.display_name,
        "agent_name": found.agent_name,
        "user_name": found.user_name,
        "is_verified": 1,
        "created_at": stamp(found.created_at),
        "unread_count": unread,
        "blocked": found.blocked,
        "paused": found.paused,
        "until": time(found.until),
        "pin": found.pin,
        "renewing": found.next_key is not None,
    }
    return shown | {"SHARED_KEY": found.key} if with_key else shown


def in_history(found: Message, own_url: str) -> dict[str, Any]:
    """Return a message for the history, with how far it came."""
    return {
        "id": found.number,
        "type": "received" if found.inbound else "sent",
        "from": found.contact if found.inbound else own_url,
        "to": own_url if found.inbound else found.contact,
        "content": found.content,
        "message_type": found.message_type,
        "created_at": stamp(found.created_at),
        "state": state(found),
        "detail": found.detail,
    }


def in_list(found: Message, own_url: str) -> dict[str, Any]:
    """Return a message for the list, oldest first."""
    shown = in_history(found, own_url)
    return {name: shown[name] for name in ("from", "to", "content", "created_at")} | {"type": found.message_type}


def state(found: Message) -> str:
    """Return how far a message came: the furthest fact that is known."""
    if found.state is State.SENT:
        return "answered" if found.answered_at else "acknowledged" if found.acked_at else "sent"
    value: str = found.state.value
    return value


def _type(found: Message) -> str:
    return "received" if found.inbound else "sent"


def sent(found: Message, hint: str, expires_at: float | None) -> dict[str, Any]:
    """Return how far a message came, with the time of each fact, and what hinders it. ``to`` is the other portal.

    ``expires_at`` is the end of its time to live, as people have it: that of the record is in relay time.
    """
    return {
        "id": found.number,
        "message_id": found.id,
        "type": _type(found),
        "to": found.contact,
        "state": state(found),
        "stored_at": utc(found.created_at),
        "sent_at": time(found.sent_at),
        "acknowledged_at": time(found.acked_at),
        "answered_at": time(found.answered_at),
        "expires_at": time(expires_at),
        "detail": hint or found.detail,
    }


def line(found: Chat) -> dict[str, Any]:
    """Return a line of the chat."""
    return {
        "id": found.number,
        "role": found.role,
        "content": found.content,
        "created_at": stamp(found.created_at),
    }


def key(found: AgentKey, own_url: str) -> dict[str, Any]:
    """Return an agent key as the list shows it."""
    return {
        "key_id": found.shown,
        "portal_url": own_url,
        "agent_name": found.label,
        "user_name": None,
        "created_at": stamp(found.created_at),
        "is_active": True,
        "last_used_at": time(found.used_at),
    }


def owner_key(found: Portal) -> dict[str, Any]:
    """Return the owner key as the list shows it; of an older folder it is not known since when it counts."""
    return {
        "key_id": found.owner_shown or None,
        "created_at": None if found.owner_since is None else stamp(found.owner_since),
        "last_used_at": time(found.owner_used_at),
    }


def file(found: Transfer, received: Sequence[int], own_url: str) -> dict[str, Any]:
    """Return a file, with the parts that are here. The first eleven fields are those of the wire."""
    return {
        "file_id": found.id,
        "filename": found.filename,
        "size": found.size,
        "status": found.state.value,
        "chunks_total": file_parts.count(found.size, found.part_size),
        "chunks_received": len(received),
        "received_chunks": list(received),
        "from_portal": found.contact if found.inbound else own_url,
        "to_portal": own_url if found.inbound else found.contact,
        "receiver_confirmed": found.state is FileState.COMPLETED,
        "created_at": stamp(found.created_at),
        "type": "received" if found.inbound else "sent",
        "chunk_size": found.part_size,
        "sha256": found.sha256,
        "detail": found.detail,
        "task_id": found.task,
    }
