"""A message into the relay, over a connection or by HTTP: checked, addressed, stored."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from clawlink.domain.agent import Agent, Presence
from clawlink.doors.agentlink.server.checks import Checks, Envelopes, Proof
from clawlink.doors.agentlink.server.instances import Instance
from clawlink.doors.agentlink.server.members import Members
from clawlink.doors.agentlink.server.routing import Routing
from clawlink.doors.agentlink.wire.frames import Send
from clawlink.errors import KeyReused, WrongState
from clawlink.protocol import requests
from clawlink.relay.relay import Relay


class Sent(NamedTuple):
    """A stored message: its sender, its recipient, and whether the recipient is there."""

    sender: Agent
    message_id: str
    recipient: str
    presence: str


class Sending:
    """Where the messages of instances become messages of the relay."""

    def __init__(
        self,
        relay: Relay,
        checks: Checks,
        members: Members,
        routing: Routing[Any],
        envelopes: Envelopes,
        *,
        no_store: bool,
    ) -> None:
        self._relay = relay
        self._checks = checks
        self._members = members
        self._routing = routing
        self._envelopes = envelopes
        self._no_store = no_store

    async def send(self, frame: Send, by: Instance | None = None) -> Sent:
        """Store a message that is signed properly; ``by`` is the instance of the connection.

        The same id, text and recipient again are the same message, which is stored once. So a client may repeat a
        message if it does not know whether it arrived. Raises the errors of the checks, the addressing and the relay's
        own rules.
        """
        instance, agent_id, proof = await self._checks.send(frame, by)
        sender = await self._members.speaker(instance, agent_id)
        to = await self._members.recipient(instance, frame.to)
        self._require_there(to)
        ask = requests.Send(
            from_agent=sender.id,
            to_agent=to.id,
            content=self._content(frame.message, proof, sender, to),
            idempotency_key=None if proof is None else _key(proof.id, to.id, frame.message),
        )
        try:
            id = (await self._relay.messages.send(sender, ask)).message_id
        except KeyReused as repeat:  # the same message, with a new signature
            id = str(repeat.current)
        if self._no_store and not self._there(to):  # gone in between
            await self._relay.mailbox.expire(id)
            self._require_there(to)
        online = self._relay.agents.presence(to) is Presence.ONLINE
        return Sent(sender, id, to.id, "online" if online else "stale")

    def _content(self, message: str, proof: Proof | None, sender: Agent, to: Agent) -> Any:
        """Return the relay's content: the text alone, or for a member of an instance the text with its proof."""
        if proof is None or not self._members.is_ours(to):
            return message
        return self._envelopes.pack(message, proof, sender=sender.id, to=to.id)

    def _there(self, to: Agent) -> bool:
        """Return True if a connection now reads this agent's messages."""
        if self._members.is_ours(to):
            return self._routing.connected(to.id)
        return self._relay.agents.presence(to) is Presence.ONLINE

    def _require_there(self, to: Agent) -> None:
        if self._no_store and not self._there(to):
            raise WrongState(
                f"{to.id} is not connected, and this relay keeps no messages for those who are not (--no-store); "
                "nothing was stored",
                field="to",
                current="not_connected",
            )


def _key(id: str, to: str, message: str) -> str:
    """Return the idempotency key of a signed message. It holds the text, so that an id used twice loses nothing."""
    parts = (id, to, message)
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return "agentlink-" + hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
