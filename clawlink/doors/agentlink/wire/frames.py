"""The frames of Agent Link, text JSON over a websocket. Fields that a frame does not know are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from clawlink.domain import limits
from clawlink.errors import BadJson, BadRequest, ClawLinkError
from clawlink.protocol.invalid import bad_field
from clawlink.protocol.reading import why_no_json
from clawlink.protocol.requests import Receipts

# The old relay's own words, which old clients may look for.
FIRST_MUST_REGISTER = "First message must be register"
INVALID_SIGNATURE = "Invalid signature"
NOT_REGISTERED = "Instance not registered"

_Id = Annotated[str, Meta(min_length=1, max_length=limits.MAX_ID_LENGTH)]
_Signature = Annotated[str, Meta(min_length=1, max_length=128)]
_Time = Annotated[str, Meta(min_length=1, max_length=40)]
_Nonce = Annotated[str, Meta(min_length=16, max_length=128)]


class Register(Struct, frozen=True, tag_field="type", tag="register"):
    """The first frame. With ``agent_id``, ``time`` and ``nonce`` it is the new form, which names the agent."""

    instance_id: _Id
    signature: _Signature
    agent_id: _Id | None = None
    time: _Time | None = None
    nonce: _Nonce | None = None


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    """A sign of life."""


class Send(Struct, frozen=True, tag_field="type", tag="send", rename={"sender": "from"}):
    """A message. With ``time``, ``nonce`` and ``id`` it is the new form.

    ``seal`` is a signature under a secret that the two instances share, and is handed on unread.
    """

    sender: _Id
    to: _Id
    message: str
    signature: _Signature
    time: _Time | None = None
    nonce: _Nonce | None = None
    id: _Id | None = None
    seal: _Signature | None = None


class Ack(Struct, frozen=True, tag_field="type", tag="ack"):
    """Received messages are dealt with; the receipts are those of the message frames."""

    receipts: Receipts


class Nack(Struct, frozen=True, tag_field="type", tag="nack"):
    """Received messages are given back, to be due again after ``delay`` seconds."""

    receipts: Receipts
    delay: Annotated[float, Meta(ge=0, le=limits.MAX_DELAY_SECONDS)] = 0.0


class Respond(Struct, frozen=True, tag_field="type", tag="respond"):
    """Report on a task that a message brought, or answer it for good."""

    task_id: Annotated[str, Meta(min_length=1, max_length=2 * limits.MAX_ID_LENGTH)]
    result: str = ""
    status: Literal["in_progress", "input_required", "completed", "failed", "rejected"] = "completed"
    id: _Id | None = None


Frame = Register | Ping | Send | Ack | Nack | Respond
TYPES = ("register", "ping", "send", "ack", "nack", "respond")

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


def read(text: str | bytes) -> Frame:
    """Read a frame. Raises BadJson, or BadRequest naming the field."""
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        wrong = bad_field(error)
        if wrong.field == "type":
            raise BadRequest(f"the type of a frame is one of {', '.join(TYPES)}", field="type") from None
        raise wrong from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadJson(why_no_json("the frame", text, error)) from None


def write(type: str, **fields: Any) -> str:
    """Return a frame; fields that are None are left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    return _encoder.encode({"type": type, **known}).decode()


def failure(error: ClawLinkError, **fields: Any) -> str:
    """Return the error frame that tells of a refusal."""
    return write(
        "error",
        message=error.message,
        code=error.code,
        field=error.field,
        limit=error.limit,
        actual=error.actual,
        retry_after=error.retry_after,
        **fields,
    )
