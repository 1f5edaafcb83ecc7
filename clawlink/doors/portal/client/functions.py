"""The functions of ``clawlink.portal``: what scripts of Agent P2P import, through the own portal."""

from __future__ import annotations

from typing import Any

from clawlink.doors.portal.client.portal import Portal, place
from clawlink.errors import BadRequest

__all__ = ["get_contacts", "send_message"]

_SENT_SECONDS = 10.0


def send_message(
    content: str,
    to_contact_id: int | str | None = None,
    to_user_id: int | str | None = None,
    to: str | None = None,
    *,
    idempotency_key: str | None = None,
    ca: str | None = None,
    wait: float = _SENT_SECONDS,
) -> dict[str, Any]:
    """Send a message to a contact, or to the owner with ``to="owner"``.

    A contact is named by its number, name or address. Wait up to ``wait`` seconds until the other portal has stored the
    message; ``state`` of the answer tells how far it came. A message that is still ``queued`` is tried again by the
    portal. Raises ClawLinkError.
    """
    named = [one for one in (to_contact_id, to_user_id, to) if one is not None]
    if len(named) != 1:
        raise BadRequest('name one recipient: to_contact_id, to_user_id, or to; to="owner" is the owner', field="to")
    with _own(ca) as portal:
        if to == "owner":
            replied: dict[str, Any] = portal.ask("POST", "/api/chat/owner/reply", {"content": content})
            return replied
        sent: dict[str, Any] = portal.until_sent(portal.send(named[0], content, key=idempotency_key), wait)
        return sent


def get_contacts(*, ca: str | None = None) -> list[dict[str, Any]]:
    """List contacts, the newest first. Raises ClawLinkError."""
    with _own(ca) as portal:
        return portal.contacts()


def _own(ca: str | None) -> Portal:
    own = place()
    return Portal(own.url, own.key, ca=ca)
