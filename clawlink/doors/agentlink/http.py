"""The two HTTP routes that Agent Link's documents promised."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from clawlink.domain.limits import MAX_NAME_LENGTH
from clawlink.doors.agentlink.instances import Instances
from clawlink.doors.agentlink.sending import Sending
from clawlink.doors.reading import Read
from clawlink.protocol.agentlink import frames

_JSON = "application/json; charset=utf-8"


class SelfRegister(Struct, frozen=True):
    """An instance that asks to be registered."""

    instance_id: str
    public_key: Annotated[str, Meta(max_length=4096)] | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME_LENGTH)] | None = None


async def register(instances: Instances, read: Read, request: web.BaseRequest) -> web.Response:
    """Register an instance, and tell it its secret this once."""
    ask = await read(request, SelfRegister)
    instance, secret = instances.register(ask.instance_id, name=ask.name, public_key=ask.public_key)
    return _reply({"status": "registered", "instance_id": instance.id, "name": instance.name, "secret": secret})


async def send(sending: Sending, read: Read, request: web.BaseRequest) -> web.Response:
    """Store a message of an instance; its signature says whose it is."""
    frame = await read(request, frames.Send)
    sent = await sending.send(frame)
    return _reply(
        {
            "status": "queued",
            "to": frame.to,
            "recipient": sent.recipient,
            "recipient_status": sent.presence,
            "message_id": sent.message_id,
            "id": frame.id,
        }
    )


def _reply(content: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), headers={hdrs.CONTENT_TYPE: _JSON})
