"""Requests over a websocket: each frame is a request of a route, with its identity filled in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from operator import attrgetter
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from clawlink.domain.dense_json import MAX_PARTS, read_object
from clawlink.domain.limits import MAX_ID_LENGTH, MAX_JSON_DEPTH
from clawlink.errors import BadJson, BadRequest, ClawLinkError, NotAllowed
from clawlink.protocol import failure, mailbox_replies, paths, requests
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.reading import is_shallow, passed_on, read_fields, why_no_json
from clawlink.relay.relay import Relay
from clawlink.relay.tasks.submit import Own
from clawlink.server.request import too_deep

_encoder = msgspec.json.Encoder()


def use_cases(relay: Relay) -> Mapping[str, Callable[..., Awaitable[Any]]]:
    """Return the use case of each type of frame. It takes the agent, the request, and what is ``further``."""
    return {type: attrgetter(row.use)(relay) for type, row in paths.FRAMES.items()}


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A valid frame: its type, the id for its answer, the request, and further arguments of its use case."""

    type: str
    id: str | int | None
    ask: Any
    further: tuple[Own, ...] = ()


class BadFrame(Exception):
    """A frame that makes none: why, and the id to say so by if it had one."""

    def __init__(self, error: ClawLinkError, id: str | int | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.id = id


def _further(fields: Mapping[str, Any]) -> tuple[Own, ...]:
    """Return the further fields of a delegation, as clients of 1.0.x write it; nothing if all its fields are known."""
    further = {name: value for name, value in fields.items() if name not in requests.Delegate.__struct_fields__}
    id = further.get("message_id")
    return (Own(id if isinstance(id, str) else None, further),) if further else ()


_ShortId = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]


def _frame_of(row: Endpoint | paths.Frame) -> Any:
    """Return the struct of a usual frame of this type: its request, with the id of the frame.

    The field that names the agent may be left out. There are no other fields than those that are known.
    """
    own: list[tuple[str, Any, Any]] = [("id", _ShortId | int | None, None), (row.by, str | UnsetType, UNSET)]
    options: dict[str, Any] = {"kw_only": True, "tag_field": "type", "tag": row.name, "forbid_unknown_fields": True}
    return msgspec.defstruct(row.body.__name__, own, bases=(row.body,), **options)


_USUAL: dict[type[Any], Endpoint | paths.Frame] = {_frame_of(row): row for row in paths.FRAMES.values()}
_usual = msgspec.json.Decoder(Union[tuple(_USUAL)])  # noqa: UP007


def read_frame(text: str, agent_id: str) -> Frame:
    """Read a frame of the connection of ``agent_id``. Raises BadFrame.

    A usual frame becomes its request in one step. Any other is read field by field, which names its fault.
    """
    body = text.encode("utf-8", "surrogatepass")
    if not is_shallow(body, MAX_JSON_DEPTH):
        raise BadFrame(too_deep(body))
    if len(body) <= MAX_PARTS:
        try:
            ask = _usual.decode(body)
        except (msgspec.DecodeError, UnicodeError):
            return _read_fields(text, body, agent_id)
        row = _USUAL[type(ask)]
        by = getattr(ask, row.by)
        if by is UNSET:
            msgspec.structs.force_setattr(ask, row.by, agent_id)
        if by is UNSET or by == agent_id:
            return Frame(row.name, ask.id, ask)
    return _read_fields(text, body, agent_id)


def _read_fields(text: str, body: bytes, agent_id: str) -> Frame:
    """Read a frame of any kind. Raises BadFrame."""
    try:
        fields = read_object(body)
    except msgspec.ValidationError as error:
        large = "out of range" in str(error)
        what = "a number in the frame is out of range" if large else "a frame is a JSON object with a type"
        raise BadFrame(BadRequest(what)) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadFrame(BadJson(why_no_json("the frame", text, error))) from None
    type, id = fields.pop("type", None), fields.pop("id", None)
    if isinstance(id, str):
        _require_short(id)
    elif id is not None and (isinstance(id, bool) or not isinstance(id, int)):
        raise BadFrame(BadRequest("the id of a frame is a string or a whole number", field="id"))
    row = paths.FRAMES.get(type) if isinstance(type, str) else None
    if row is None:
        raise BadFrame(BadRequest(f"the type of a frame is one of {', '.join(paths.FRAMES)}", field="type"), id)
    if fields.setdefault(row.by, agent_id) != agent_id:
        raise BadFrame(NotAllowed(f"this connection speaks for {agent_id!r} alone", field=row.by), id)
    try:
        if len(body) > MAX_PARTS:  # a smaller frame has no dense value
            fields |= {n: passed_on(v, n, row.body) for n, v in fields.items() if isinstance(v, msgspec.Raw)}
        ask = read_fields(fields, row.body)
    except BadRequest as error:
        raise BadFrame(error, id) from None
    return Frame(row.name, id, ask, _further(fields) if row is paths.DELEGATE else ())


def _require_short(id: str) -> None:
    if len(id) > MAX_ID_LENGTH:
        raise BadFrame(
            BadRequest(
                f"the id of a frame may have {MAX_ID_LENGTH} characters, and this has {len(id)}",
                field="id",
                limit=MAX_ID_LENGTH,
                actual=len(id),
            )
        )


def reply_frame(id: str | int, reply: Any) -> bytes:
    """Return the answer to a frame that had an id."""
    return b'{"type":"reply","id":%b,"reply":%b}' % (_encoder.encode(id), _encoder.encode(reply))


def error_frame(id: str | int | None, error: ClawLinkError) -> bytes:
    """Return the refusal of a frame: the error that HTTP would answer, with the frame's id."""
    return b'{"type":"error","id":%b,%b' % (_encoder.encode(id), failure.to_body(error)[1:])


def message_frame(body: bytes, lease: mailbox_replies.Lease) -> bytes:
    """Return a message with its receipt, in a field that clients of 1.0.x ignore."""
    return b'%b,"delivery":%b}' % (body[:-1], _encoder.encode(lease))
