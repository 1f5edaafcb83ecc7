"""The agents of the relay that are the portal's: the owner's agent, and one for each contact that is written to."""

from __future__ import annotations

import hashlib
import hmac

from clawlink.domain.agent import Agent, fold
from clawlink.doors.portal.records import AGENT, CONTACT_PREFIX, OPERATOR, SUFFIX, mailbox_of
from clawlink.doors.portal.rules.urls import shown
from clawlink.errors import ClawLinkError, NameTaken, NotAllowed
from clawlink.protocol import requests
from clawlink.relay.relay import Relay

_SHARED = "portal"
_MOST_DESCRIBED = 200


class Members:
    """Registers the portal's agents. Each is claimed, and its key stays here, so nobody else can act as it."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def start(self) -> Agent:
        """Register the owner's agent. Raises ClawLinkError if an agent of another has its id."""
        try:
            return await self._register(AGENT, "the agent of the owner of this portal")
        except (NameTaken, NotAllowed) as error:
            raise ClawLinkError(
                f"the portal needs the agent {AGENT!r}, and another agent has this id or name; have it leave, then "
                f"start the portal again ({error.message})"
            ) from None

    async def of(self, contact: str) -> Agent:
        """Return the agent whose mailbox is the outbox for a contact."""
        return await self._register(mailbox_of(contact), f"posts to {shown(contact)}")

    async def _register(self, id: str, description: str) -> Agent:
        ask = requests.Register(
            agent_id=id,
            name=id,
            description=description[:_MOST_DESCRIBED],
            subscriptions=[],
            claim=True,
            idempotency_key=hmac.new(self._relay.core.secret, b"portal " + id.encode(), hashlib.sha256).hexdigest(),
        )
        done = await self._relay.agents.register(
            ask, machine=_SHARED, agent_key=None, address=_SHARED, seen=False, by_door=True
        )
        return done.agent


def reserved(wanted: str) -> str | None:
    """Return what an id or a name is that only the portal may register; None for all others."""
    folded = fold(wanted)
    if folded in (AGENT, OPERATOR):
        return "kept for the owner of this portal and the owner's agent"
    if folded.startswith(CONTACT_PREFIX) or folded.endswith(SUFFIX):
        return "kept for the contacts of this portal"
    return None
