"""The two HTTP routes that Agent Link's documents promised."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from clawlink.domain.limits import MAX_NAME_LENGTH
from clawlink.doors.agentlink.instances import Instances
from clawlink.doors.agentlink.sending import Sending
from clawlink.errors import BadJson, BadRequest, BodyTimeout, TooLarge
from clawlink.protocol.agentlink import frames
from clawlink.protocol.invalid import bad_field

_BODY_SECONDS = 30.0
_JSON = "application/json; charset=utf-8"

T = TypeVar("T")


class SelfRegister(Struct, frozen=True):
    """An instance that asks to be registered."""

    instance_id: str
    public_key: Annotated[str, Meta(max_length=4096)] | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME_LENGTH)] | None = None


async def register(instances: Instances, request: web.BaseRequest) -> web.Response:
    """Register an instance, and tell it its secret this once."""
    ask = await _read(request, SelfRegister)
    instance, secret = instances.register(ask.instance_id, name=ask.name, public_key=ask.public_key)
    return _reply({"status": "registered", "instance_id": instance.id, "name": instance.name, "secret": secret})


async def send(sending: Sending, request: web.BaseRequest) -> web.Response:
    """Store a message of an instance; its signature says whose it is."""
    frame = await _read(request, frames.Send)
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


async def _read(request: web.BaseRequest, kind: type[T]) -> T:
    """Read the body, which needs no ``type``. Raises TooLarge, BodyTimeout, BadJson, BadRequest."""
    try:
        body = await asyncio.wait_for(request.read(), _BODY_SECONDS)
    except web.HTTPRequestEntityTooLarge as large:
        raise TooLarge(f"the body is too large: {large.text}") from None
    except asyncio.TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {_BODY_SECONDS:.0f} s", retry_after=1) from None
    except web.RequestPayloadError:
        raise BadRequest("the body is not what its headers say: its chunks or its Content-Encoding are wrong") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise bad_field(error) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadJson(f"the body is not JSON in UTF-8: {error}") from None


def _reply(content: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), headers={hdrs.CONTENT_TYPE: _JSON})
