"""The list of contacts, encoded a contact at a time when a fact of that contact has changed.

To read and encode ten thousand contacts takes a third of a second, and clients ask every few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from clawlink.doors.portal import records
from clawlink.doors.portal.records import CONTACTS, Contact, Message
from clawlink.doors.portal.server import views
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import parts

_AT_ONCE = 50


class _Entry(NamedTuple):
    number: int
    with_key: bytes
    without: bytes


class Directory:
    """The contacts as the list shows them. It is loaded once, and then follows the changes that it is told."""

    def __init__(self, relay: Relay) -> None:
        self._core = relay.core
        self._entries: dict[str, _Entry] = {}
        self._stale: set[str] = set()
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read all contacts."""
        after: str | None = None
        while True:
            page = await self._core.store.page(Contact, CONTACTS, after, _AT_ONCE)
            await self._take(page.records)
            after = page.after
            if after is None:
                return

    @contextmanager
    def changing(self, id: str) -> Iterator[None]:
        """Note that a fact of a contact changes, even if a failure leaves that open."""
        try:
            yield
        finally:
            self._stale.add(id)

    async def listed(self, limit: int, offset: int, *, with_key: bool) -> tuple[int, bytes]:
        """Return how many contacts there are, and some of them as a JSON array, the newest first."""
        async with self._lock:
            stale, self._stale = sorted(self._stale), set()
            for some in parts(stale, _AT_ONCE):
                found = await self._core.store.get_many(Contact, some)
                for id, contact in zip(some, found, strict=True):
                    if contact is None:
                        self._entries.pop(id, None)
                await self._take([contact for contact in found if contact is not None])
        entries = list(reversed(self._entries.values()))[offset : offset + limit]
        shown = [entry.with_key if with_key else entry.without for entry in entries]
        return len(self._entries), b"[" + b",".join(shown) + b"]"

    async def view(self, contact: Contact) -> dict[str, Any]:
        """Return a contact without its key, with the number of its unread messages."""
        unread = await self._core.store.usage(Message, records.unread_from(contact.id))
        return views.contact(contact, unread.count, with_key=False)

    async def _take(self, contacts: Sequence[Contact]) -> None:
        places = [(Message, records.unread_from(contact.id)) for contact in contacts]
        unread = (await self._core.store.admission((), places)).indexes
        for contact, usage in zip(contacts, unread, strict=True):
            with_key, without = (
                msgspec.json.encode(views.contact(contact, usage.count, with_key=shown)) for shown in (True, False)
            )
            known = self._entries.get(contact.id)
            if known is not None and known.number != contact.number:
                del self._entries[contact.id]  # it was removed and added again: it is the newest
            self._entries[contact.id] = _Entry(contact.number, with_key, without)
        await asyncio.sleep(0)
