"""The functions of ``clawlink.portal``: what scripts of Agent P2P import, through the own portal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clawlink.doors.portal.client import files
from clawlink.doors.portal.client.portal import Portal, authority, place
from clawlink.errors import BadRequest

__all__ = ["get_contacts", "get_file", "send_file", "send_message"]

_SENT_SECONDS = 10.0
_FILE_SECONDS = 60.0


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


def send_file(
    path: str | os.PathLike[str],
    to: int | str,
    *,
    idempotency_key: str | None = None,
    ca: str | None = None,
    wait: float = _FILE_SECONDS,
) -> dict[str, Any]:
    """Send a file to a contact, which is named by number, name or address.

    Wait up to ``wait`` seconds until the other portal has it; ``status`` of the answer tells how far it came. A file
    that is still ``queued`` is tried again by the portal. With a key a repeat is the same file, and goes on where the
    first call broke off. Raises ClawLinkError, OSError.
    """
    with _own(ca) as portal:
        told = files.send_file(portal, to, Path(path), key=idempotency_key)
        sent: dict[str, Any] = files.until_settled(portal, told, wait)
        return sent


def get_file(file_id: str, folder: str | os.PathLike[str] = ".", *, ca: str | None = None) -> Path:
    """Read a file of a contact into a folder, and return its path; no file there is overwritten.

    Raises ClawLinkError, OSError.
    """
    with _own(ca) as portal:
        return files.get_file(portal, file_id, Path(folder))


def get_contacts(*, ca: str | None = None) -> list[dict[str, Any]]:
    """List contacts, the newest first. Raises ClawLinkError."""
    with _own(ca) as portal:
        return portal.contacts()


def _own(ca: str | None) -> Portal:
    own = place()
    return Portal(own.url, own.key, ca=authority(ca), source=own.source)
