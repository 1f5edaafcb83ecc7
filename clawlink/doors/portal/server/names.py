"""The contacts' names in the lists of agents, and their mailboxes: each relay of a mesh has these for itself."""

from __future__ import annotations

import asyncio

from clawlink.doors.portal.records import AGENT, CONTACTS, SUFFIX, Contact, mailbox_of
from clawlink.relay.relay import Relay
from clawlink.store.events import Event

_AT_ONCE = 50
_ADDRESS = "http"
"""The beginning of the id of each contact."""


class Names:
    """Has the relay show each contact by the name that agents give it. It follows the changes of other relays."""

    def __init__(self, relay: Relay) -> None:
        self._core = relay.core
        self._agents = relay.agents
        self._contacts: dict[str, str] = {}
        """By mailbox, the ids of the contacts."""
        self._stale: set[str] = set()

    async def load(self) -> None:
        """Read all contacts."""
        gone = set(self._contacts)
        after: str | None = None
        while True:
            page = await self._core.store.page(Contact, CONTACTS, after, _AT_ONCE)
            for contact in page.records:
                self.name(contact)
                gone.discard(contact.mailbox)
            after = page.after
            if after is None:
                break
            await asyncio.sleep(0)
        for mailbox in gone:
            self._forget(mailbox)

    def name(self, contact: Contact) -> None:
        """Show a contact by its name."""
        self._contacts[contact.mailbox] = contact.id
        self._agents.stand_in(contact.mailbox, f"{contact.name or contact.number}{SUFFIX}", through="portal")

    def forget(self, contact: str) -> None:
        """Show a contact no more that was removed."""
        self._forget(mailbox_of(contact))

    def _forget(self, mailbox: str) -> None:
        self._contacts.pop(mailbox, None)
        self._agents.stand_in(mailbox, None, through="portal")

    def contact_at(self, mailbox: str) -> str | None:
        """Return the contact with this mailbox."""
        return self._contacts.get(mailbox)

    def hear(self, event: Event) -> None:
        """Note the contacts that another relay has changed."""
        if event.partition_key == AGENT:
            self._stale.update(id for id in event.ids if id.startswith(_ADDRESS))

    async def follow(self) -> None:
        """Read the contacts that other relays have changed. Raises Failed."""
        stale, self._stale = sorted(self._stale)[:_AT_ONCE], set(sorted(self._stale)[_AT_ONCE:])
        try:
            found = await self._core.store.get_many(Contact, stale) if stale else ()
        except BaseException:
            self._stale.update(stale)
            raise
        for id, contact in zip(stale, found, strict=True):
            if contact is None:
                self.forget(id)
            else:
                self.name(contact)
