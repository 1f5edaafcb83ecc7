"""The frames of ``/ws/agent``: JSON in text, as the bridge of Agent P2P reads and writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.doors.portal.records import Chat, Contact, Guest, Message
from clawlink.doors.portal.rules.consent import masked
from clawlink.doors.portal.rules.texts import contact_name, guest_notice, stamp, utc
from clawlink.errors import BadRequest

_encode = msgspec.json.Encoder().encode


class Frame(msgspec.Struct, frozen=True):
    """A frame of the agent. Others than those that are read here are ignored."""

    type: str
    message_ids: list[int] = []
    deliveries: list[str] = []


def read(text: str) -> Frame:
    """Read a frame. Raises BadRequest."""
    try:
        return msgspec.json.decode(text, type=Frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"a frame is a JSON object with a type: {error}") from None


def write(type: str, **fields: Any) -> str:
    """Return a frame."""
    return _encode({"type": type, **fields}).decode()


def tagged(frame: str, delivery: str) -> str:
    """Return a frame with the id under which a peer with full acks settles it."""
    return f'{frame[:-1]},"delivery":{_encode(delivery).decode()}}}'


def message(found: Message, contact: Contact | None) -> str:
    """Return the frame of a contact's message."""
    url = found.contact if contact is None else contact.url
    name = url if contact is None else contact_name(contact.agent_name, contact.user_name, url)
    return write(
        "new_message",
        id=found.number,
        **{"from": url},
        from_name=name,
        content=found.content,
        message_type=found.message_type,
        created_at=stamp(found.created_at),
    )


def guest(found: Guest, *, with_key: bool) -> tuple[str, str]:
    """Return the two frames of a guest message; its offered key for the owner alone.

    The first has no ``id``: a bridge would ack it as a message.
    """
    created_at = stamp(found.created_at)
    content = found.content if with_key else masked(found.content)
    return (
        write(
            "new_guest_message",
            message_id=found.number,
            content=content,
            created_at=created_at,
            requires_approval=True,
        ),
        write("guest_message", content=guest_notice(found.number, content), timestamp=created_at),
    )


def owner(found: Chat, own_url: str) -> str:
    """Return the frame of the owner's words."""
    return write(
        "owner_message",
        content=found.content,
        message_id=found.number,
        from_portal=own_url,
        created_at=stamp(found.created_at),
    )


def notice(text: str, at: float) -> str:
    """Return the frame of a notice of the portal itself."""
    return write("notice", content=text, timestamp=utc(at))


def file(text: str, at: float) -> str:
    """Return the frame of a file that is complete."""
    return write("file_transfer", content=text, timestamp=stamp(at))


def reply(found: Chat) -> str:
    """Return the frame of the agent's answer to its owner."""
    return write("owner_reply", content=found.content, message_id=found.number, created_at=stamp(found.created_at))
