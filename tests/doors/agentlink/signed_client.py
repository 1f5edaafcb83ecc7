"""A client of the new form, written from references/agentlink.md; it shares no code with the relay."""

from __future__ import annotations

import datetime
import json
import secrets
import time
from typing import Any

from tests.doors.agentlink.old_client import OldClient, sign

FIELDS = {
    "register": ("type", "instance_id", "agent_id", "time", "nonce"),
    "send": ("type", "from", "to", "message", "time", "nonce", "id"),
}


def stamp(at: float | None = None) -> str:
    """Return a time as the new form has it."""
    moment = datetime.datetime.fromtimestamp(time.time() if at is None else at, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds")


def canonical(frame: dict[str, Any]) -> str:
    """Return what is signed of a frame."""
    signed = {name: frame[name] for name in FIELDS[frame["type"]]}
    return json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sealed(frame: dict[str, Any], secret: str) -> dict[str, Any]:
    """Return the frame with its signature."""
    return {**frame, "signature": sign(secret, canonical(frame))}


class SignedClient(OldClient):
    """A connection of an agent."""

    agent_id = ""

    async def join(self, agent_id: str, *, at: float | None = None, **fields: Any) -> dict[str, Any]:
        """Register as an agent."""
        self.agent_id = agent_id
        await self.put(self.registering(agent_id, at=at, **fields))
        return await self.frame()

    def registering(self, agent_id: str, *, at: float | None = None, **fields: Any) -> dict[str, Any]:
        """Return a register's frame."""
        frame = {"type": "register", "instance_id": self.instance_id, "agent_id": agent_id}
        return sealed({**frame, "time": stamp(at), "nonce": secrets.token_hex(16), **fields}, self._secret)

    def message(self, to: str, message: str, *, at: float | None = None, **fields: Any) -> dict[str, Any]:
        """Return a message's frame; ``fields`` take the place of its own before it is signed."""
        frame = {"type": "send", "from": f"{self.instance_id}/{self.agent_id}", "to": to, "message": message}
        more = {"time": stamp(at), "nonce": secrets.token_hex(16), "id": secrets.token_hex(8)}
        return sealed({**frame, **more, **fields}, self._secret)

    async def write(self, to: str, message: str, **fields: Any) -> dict[str, Any]:
        """Send a message, and return the first answer."""
        await self.put(self.message(to, message, **fields))
        return await self.frame()

    async def ack(self, *receipts: str) -> None:
        """Say that these are dealt with."""
        await self.put({"type": "ack", "receipts": list(receipts)})
