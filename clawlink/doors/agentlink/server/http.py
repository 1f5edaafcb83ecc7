"""The two HTTP routes that Agent Link's documents promised."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from clawlink.domain.limits import MAX_NAME_LENGTH
from clawlink.doors.agentlink.server.instances import Instances
from clawlink.doors.agentlink.server.sending import Sending
from clawlink.doors.agentlink.wire import frames
from clawlink.server.request import Request, read
from clawlink.server.response import Reply, reply


class SelfRegister(Struct, frozen=True):
    """An instance that asks to be registered."""

    instance_id: str
    public_key: Annotated[str, Meta(max_length=4096)] | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME_LENGTH)] | None = None


async def register(instances: Instances, request: Request) -> Reply:
    """Register an instance, and tell it its secret this once."""
    ask = await read(request, SelfRegister)
    instance, secret = await instances.register(ask.instance_id, name=ask.name, public_key=ask.public_key)
    return reply({"status": "registered", "instance_id": instance.id, "name": instance.name, "secret": secret})


async def send(sending: Sending, request: Request) -> Reply:
    """Store a message of an instance, which its signature proves."""
    frame = await read(request, frames.Send)
    sent = await sending.send(frame)
    return reply(
        {
            "status": "queued",
            "to": frame.to,
            "recipient": sent.recipient,
            "recipient_status": sent.presence,
            "message_id": sent.message_id,
            "id": frame.id,
        }
    )
