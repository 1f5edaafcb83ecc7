"""The parts of an endpoint: a call, the agent that asks, and the reading of the answer."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, overload
from urllib.parse import urlencode

import msgspec

from clawlink.domain.message import Message, decode
from clawlink.errors import BadRequest, ClawLinkError, NotARelay
from clawlink.protocol import mailbox_replies, paths, replies
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.invalid import bad_field

T = TypeVar("T")

_KEY_BYTES = 16
_encoder = msgspec.json.Encoder()


@dataclass
class Identity:
    """The asking agent: its id, and its key if it was claimed. A register fills it in.

    By ``relay_key`` the agent knows its relay at another address.
    """

    agent_id: str | None = None
    agent_key: str | None = None
    relay_key: str | None = None
    acks_apart: bool = False  # the relay is older than polls that carry acks

    def require(self) -> str:
        """Return the agent's id, or say that there is none yet."""
        if self.agent_id is None:
            raise BadRequest("this needs an identity: register first, or give the client an agent_id", field="agent_id")
        return self.agent_id


class Reply(NamedTuple):
    """An unread reply: its status, its headers by name in any case, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request. ``repeatable`` is True if sending it twice does no more than sending it once.

    ``wait`` is the relay's intended delay in seconds. ``learn`` gets the answer of a success. ``follow`` returns the
    call after an answer, None if that was all; its answer counts. ``headers`` go with the request, and may make the
    ``body`` other than JSON. ``read_reply``, if given, reads the answer with its status and headers. ``refuse`` returns
    the error for a status without a body, as to HEAD. ``otherwise`` returns the call in place of a refused one, None if
    there is none.
    """

    endpoint: Endpoint
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    repeatable: bool = True
    wait: float = 0.0
    learn: Callable[[Identity, T], None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read_reply: Callable[[Reply], T] | None = None
    refuse: Callable[[int], ClawLinkError | None] | None = None
    follow: Callable[[T], Call[T] | None] | None = None
    otherwise: Callable[[ClawLinkError], Call[T] | None] | None = None

    def answer(self, reply: Reply) -> T:
        """Read the reply to this call. Raises NotARelay for another shape, which does not come from a relay."""
        try:
            return self.read(reply.body) if self.read_reply is None else self.read_reply(reply)
        except KeyError as error:
            raise NotARelay(f"the answer is not that of a ClawLink relay: it lacks {error}") from None
        except (ValueError, msgspec.DecodeError) as error:
            raise NotARelay(f"the answer is not that of a ClawLink relay: {error}") from None


class Other(msgspec.Struct, frozen=True):
    """A message of a type this client does not know, as its JSON object."""

    type: str
    fields: dict[str, Any]


class Claimed(NamedTuple):
    """A message that was leased to this client, with its receipt.

    ``reported`` is the history of a task with earlier attempts, of this or of other agents.
    """

    message: Message | Other
    message_id: str
    receipt: str
    attempt: int
    lease_expires_at: str
    raw: dict[str, Any]
    reported: list[replies.TaskEvent] | None = None


class Batch(list[Claimed]):
    """The messages of a poll. ``results`` has the result of each receipt that the poll carried."""

    results: Sequence[mailbox_replies.Settled] = ()


class DeadLetter(NamedTuple):
    """A message that was handed out too often."""

    message: Message | Other
    message_id: str
    from_agent: str
    attempts: int
    stored_at: str
    dead_at: str
    kept_until: str
    raw: dict[str, Any]


class File(NamedTuple):
    """A shared file with its content as bytes."""

    file_key: str
    content: bytes
    file_type: str
    last_editor: str
    version: int
    updated_at: str


def reader(kind: Any) -> Callable[[bytes], Any]:
    """Return the decoder of a reply."""
    decoder: msgspec.json.Decoder[Any] | None = None

    def read(body: bytes) -> Any:
        nonlocal decoder
        if decoder is None:  # made at first use: a command needs only some, and all together cost its start 5 ms
            decoder = msgspec.json.Decoder(kind)
        return decoder.decode(body)

    return read


READERS = {endpoint.name: reader(endpoint.reply) for endpoint in paths.ENDPOINTS if not endpoint.text}


def simple_call(
    endpoint: Endpoint,
    body: msgspec.Struct | None = None,
    *,
    query: Mapping[str, object] | None = None,
    read: Callable[[bytes], Any] | None = None,
    repeatable: bool = True,
    wait: float = 0.0,
    learn: Callable[[Identity, Any], None] | None = None,
    **parameters: str,
) -> Call[Any]:
    """Return a call that asks in JSON, and is answered in JSON unless ``read`` says otherwise."""
    return Call(
        endpoint,
        endpoint.url(**parameters) + query_string(query),
        read or READERS[endpoint.name],
        None if body is None else _encoder.encode(body),
        repeatable,
        wait,
        learn,
    )


def query_string(query: Mapping[str, object] | None) -> str:
    """Return the query string of an address, with its question mark, without values of None."""
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def repeat_key(given: str | None) -> str:
    """Return the idempotency key, made here if none was given, so that a retry after a lost reply is safe."""
    return given or secrets.token_hex(_KEY_BYTES)


def read_message(raw: msgspec.Raw) -> tuple[Message | Other, dict[str, Any]]:
    fields = msgspec.json.decode(raw, type=dict[str, Any])
    try:
        return decode(bytes(raw)), fields
    except msgspec.ValidationError:
        return Other(str(fields.get("type")), fields), fields


def claimed(raw: msgspec.Raw, held: mailbox_replies.Lease) -> Claimed:
    """Return an unchanged message with its receipt."""
    message, fields = read_message(raw)
    return Claimed(message, held.message_id, held.receipt, held.attempt, held.lease_expires_at, fields, held.reported)


@overload
def several(given: None, field: str) -> None: ...
@overload
def several(given: Iterable[T], field: str) -> list[T]: ...
def several(given: Iterable[T] | None, field: str) -> list[T] | None:
    """Return the values as a list. Raises BadRequest for a single string, which would become a list of its letters."""
    if isinstance(given, str | bytes):
        raise BadRequest(f"{field} takes a list, and this is one string: {given!r}; put it into brackets", field=field)
    return None if given is None else list(given)


def plain(value: Any, field: str) -> Any:
    """Return a value that JSON can carry. Raises BadRequest for a value that would arrive changed: NaN, sets, bytes."""
    try:
        json.dumps(value, allow_nan=False, default=_builtins)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"{field} must be JSON: {error}", field=field) from None
    return value


def _builtins(value: Any) -> Any:
    if isinstance(value, set | frozenset | bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is no type of JSON; make a list or a string of it")
    return msgspec.to_builtins(value)


def number_of_seconds(value: Any, field: str) -> float:
    """Return a length of time in seconds. Raises BadRequest for a value that is no number, NaN too."""
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise BadRequest(f"{field} takes a number of seconds, not {value!r}", field=field)
    return value


def checked(ask: dict[str, Any], kind: type[T]) -> T:
    """Make the request's struct as the relay would read it, so that a mistake is told before anything is sent."""
    try:
        return msgspec.convert(ask, kind)
    except msgspec.ValidationError as error:
        raise bad_field(error) from None
