"""Reading requests: bytes to structs, and nothing decided on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.dense_json import MAX_PARTS, is_dense
from clawlink.domain.limits import MAX_IDEMPOTENCY_KEY_LENGTH, MAX_JSON_DEPTH
from clawlink.errors import (
    BadJson,
    BadRequest,
    BodyTimeout,
    NotAllowed,
    TooLarge,
    UnknownAgent,
    UnsupportedMediaType,
)
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.invalid import bad_field
from clawlink.protocol.proof import place
from clawlink.protocol.reading import is_shallow, read_dense, read_json, why_no_json
from clawlink.relay.ids import split_receipt
from clawlink.relay.relay import Relay
from clawlink.server.address import came_by_proxy, host_name
from clawlink.server.ceiling import Ceiling
from clawlink.server.flow import has_gone
from clawlink.server.response import Asked, Reply
from clawlink.server.tickets import Ticket
from clawlink.timeouts import wait_for

KEY_FIELD = "idempotency_key"
_KEY_HEADER = istr("Idempotency-Key")
_AGENT_KEY = istr(KEY_HEADER)
_AGENT_HEADER = "ClawLink-Agent"
BODY_SECONDS = 30.0

T = TypeVar("T")


class Request(Asked):
    """A request, with the parameters of its path, still percent-encoded."""

    target: tuple[str, str]
    """The method, and the address as it came, with its query."""
    parameters: Mapping[str, str] = {}
    names: frozenset[str] = frozenset()
    ceiling = Ceiling(1, 1)
    ticket: Ticket | None = None
    shown = False
    """True once the request has shown what no foreign page can: an allowed Origin, the token or a ticket."""
    bearer: str | None = None
    """The bearer where it may be an agent key, and is no token of this relay. The handler checks it."""
    by_operator = False
    """True if a request to register an agent shows the operator's right."""
    right: str | None = None
    """The right by which a request acts as the operator: ``token``, ``local``, or that of a session."""
    owner = False
    """True if the request has a session of the owner, and the route takes that."""
    may_go_on: Callable[[], bool] = staticmethod(lambda: True)
    """Returns False once the right to an open stream has ended."""
    stays = False

    def stay(self) -> None:
        """Note that the reply takes its time: a peer that closes its side meanwhile has hung up.

        Raises ConnectionError if it has closed it already.
        """
        self.stays = True
        self.note_wait()
        if self.connection.ended:
            if self.transport is not None:
                self.transport.close()
            raise ConnectionResetError("the client has gone")

    @property
    def machine(self) -> str:
        """The address that an agent is shown with: the client's, else that of its proxy."""
        return self.address or self.remote or ""

    @property
    def is_local(self) -> bool:
        """Return True if the request comes from this machine, to a loopback name, without a proxy."""
        return self.addresses.is_local(self.remote, self.headers)

    @property
    def by_proxy(self) -> bool:
        """Return True if a proxy passed the request on, so that its connection may serve several peers."""
        return self.addresses.trusts(self.remote) or came_by_proxy(self.headers)

    @property
    def known_as(self) -> str:
        """The name in ``Host`` if the operator gave it to the relay with ``--allow-host``; else empty."""
        name = host_name(self.headers.get(hdrs.HOST, ""))
        return name if name in self.names else ""

    @property
    def reached_at(self) -> str:
        """The relay's end of the connection, as ``proof.place`` writes it; empty once the connection is gone."""
        own = None if self.transport is None else self.transport.get_extra_info("sockname")
        return place(own[0], own[1]) if isinstance(own, tuple) and len(own) > 1 else ""


Handler = Callable[[Relay, Request], Awaitable[Reply | web.StreamResponse]]
H = TypeVar("H", bound=Handler)


async def read(request: Request, kind: type[T]) -> T:
    """Read the body as ``kind``. The content type is not looked at, as in ClawLink 1.0.x.

    Raises UnsupportedMediaType, TooLarge, BodyTimeout, BadJson, or BadRequest naming the field.
    """
    headers, content = request.headers, request.content
    if hdrs.CONTENT_ENCODING in headers or hdrs.TRANSFER_ENCODING in headers:
        require_unpacked(request)
    try:
        # A small body has mostly arrived by now. The relay waits for a body under way, but not for ever.
        body = content.read_nowait() if content.is_eof() else await _read_slowly(request)
    except web.RequestPayloadError:
        raise BadRequest("the body is not what its headers say: its chunks are wrong") from None
    size = len(body)
    if size > request.client_max_size:
        raise _too_large(request.client_max_size, size)
    if not is_shallow(body, MAX_JSON_DEPTH):
        raise too_deep(body)
    reads = read_json
    if size > MAX_PARTS and is_dense(body):
        reads = read_dense
        await asyncio.sleep(0)  # both steps take milliseconds here, so others come between them
    try:
        ask = reads(body, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(why_no_json("the body", body, error)) from None
    if _KEY_HEADER not in headers or not hasattr(ask, KEY_FIELD):
        return ask
    found: T = _with_key(ask, key_in_header(request))
    return found


def forget_failure(request: Request) -> None:
    """Let a body that broke off remember a failure without a traceback.

    The raised failure keeps the frames of its traceback, and so the request and the body: a reference cycle.
    """
    if request.transport is None and request.content.exception() is not None:
        request.content.set_exception(ConnectionResetError("the body broke off"))


def require_unpacked(request: Request) -> None:
    """Refuse a compressed body: the relay unpacks nothing. Raises UnsupportedMediaType."""
    for name, plain in ((hdrs.CONTENT_ENCODING, "identity"), (hdrs.TRANSFER_ENCODING, "chunked")):
        given = ",".join(request.headers.getall(name, ()))
        if given and any(coding.strip().lower() not in ("", plain) for coding in given.split(",")):
            raise UnsupportedMediaType(
                f"this relay takes no compressed bodies: send the bytes as they are, without {name}: {given[:64]}",
                field=str(name),
            )


async def _read_slowly(request: Request) -> bytes:
    request.note_wait()
    limit = request.client_max_size
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit, length)
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        return await wait_for(request.read(), BODY_SECONDS)
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit, limit + 1) from None
    except asyncio.TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {BODY_SECONDS:.0f} s", limit=BODY_SECONDS, retry_after=1
        ) from None


def _too_large(limit: int, actual: int) -> TooLarge:
    return TooLarge(
        f"a body may have {limit} bytes, and this one has {actual} or more; "
        "share large contents as a file, or raise --max-body-bytes",
        limit=limit,
        actual=actual,
    )


def too_deep(body: bytes) -> BadRequest:
    """Return the refusal of JSON that is nested deeper than ``MAX_JSON_DEPTH``: some reader would fail on it."""
    return BadRequest(
        f"JSON may be nested {MAX_JSON_DEPTH} levels deep, and this is deeper; "
        "send data that is less nested, or share it as a file",
        field=_deep_field(body),
        limit=MAX_JSON_DEPTH,
    )


def _deep_field(body: bytes) -> str | None:
    """Return the field of an object that is nested too deep; None if no field can be named."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return next((name for name, value in fields.items() if not is_shallow(bytes(value), MAX_JSON_DEPTH - 1)), None)


def key_in_header(request: Request) -> str | None:
    """Return the idempotency key that came as a header. Raises BadRequest."""
    key = request.headers.get(_KEY_HEADER)
    if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise BadRequest(
            f"the header {_KEY_HEADER} takes 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters",
            field=str(_KEY_HEADER),
            limit=MAX_IDEMPOTENCY_KEY_LENGTH,
            actual=len(key),
        )
    return key


def _with_key(ask: T, key: str | None) -> T:
    """Take the idempotency key from the header."""
    given = getattr(ask, KEY_FIELD)
    if given is not None and given != key:
        raise BadRequest(f"the header {_KEY_HEADER} and the field {KEY_FIELD} differ; give one", field=KEY_FIELD)
    return msgspec.structs.replace(ask, **{KEY_FIELD: key})  # type: ignore[type-var]


def read_query(request: Request, kind: type[T]) -> T:
    """Read the query string as ``kind``. Raises BadRequest naming the parameter."""
    try:
        ask = msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise bad_field(error, kind, request.query) from None
    if getattr(ask, "wait", 0.0):
        request.stay()
    return ask


def hung_up(request: Request) -> bool:
    """Return True if the client's connection is over. A ConnectionError is the client's only then.

    The store may raise one, too, over a connection of its own.
    """
    return has_gone(request.transport)


def was_reset(request: Request) -> bool:
    """Return True if the connection, once it is lost, ended before the peer had got all."""
    return bool(getattr(request.protocol, "reset", False))


def when_lost(request: Request, tell: Callable[[bool], object]) -> None:
    """Call ``tell`` once the connection is lost, with whether it ended before the peer had got all."""
    protocol: Any = request.protocol
    if protocol.transport is None:
        tell(protocol.reset)
    else:
        protocol.when_lost.append(tell)


def parameter(request: Request, name: str) -> str:
    """Return a parameter of the path, decoded. Raises BadRequest if it is not UTF-8."""
    try:
        return unquote(request.parameters[name], errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the address is not UTF-8", field=name) from None


def acting(relay: Relay, request: Request, agent_id: str, field: str, *, quiet: bool = False) -> Awaitable[Agent]:
    """Return the agent that the request acts as; see ``Agents.acting``."""
    return relay.agents.acting(agent_id, key_of(request), field=field, quiet=quiet)


def key_of(request: Request) -> str | None:
    """Return the agent key that a request shows; None if it shows none."""
    ticket = request.ticket
    return request.headers.get(_AGENT_KEY) if ticket is None else ticket.agent_key


async def acting_on(
    relay: Relay, request: Request, agent_id: str, field: str, receipts: Sequence[str]
) -> tuple[Agent, dict[str, Delivery | None]]:
    """Return the agent that the request acts as, and the deliveries of these receipts by their ids."""
    ids = [split_receipt(receipt)[1] for receipt in receipts]
    agent, found = await relay.agents.acting_on(agent_id, key_of(request), ids, field=field)
    return agent, dict(zip(ids, found, strict=True))


async def acting_anyway(
    relay: Relay, request: Request, agent_id: str, field: str, *, plain: bool
) -> tuple[Agent, bool]:
    """Return the agent that the request acts as, and whether it was registered by the way.

    Only a ``plain`` request may do that, as clients of 1.0.x send it; see ``Agents.register_by_the_way``.
    """
    agent_key = key_of(request)
    try:
        return await relay.agents.acting(agent_id, agent_key, field=field), False
    except UnknownAgent:
        made = await by_the_way(relay, request, agent_id, agent_key) if plain else None
        if made is None:
            raise
        return made


async def by_the_way(relay: Relay, request: Request, agent_id: str, agent_key: str | None) -> tuple[Agent, bool] | None:
    """Register the unknown agent of a client of 1.0.x; see ``Agents.register_by_the_way``."""
    return await relay.agents.register_by_the_way(agent_id, agent_key, machine=request.machine, address=request.block)


def origin_of(request: Request) -> dict[str, str]:
    """Return where a request comes from, for the log: nothing behind a proxy that does not tell it."""
    return {} if request.block is None else {"address": request.block}


async def asking(
    relay: Relay, request: Request, agent_id: str | None, otherwise: str | None = None, *, place: str = "?agent_id=..."
) -> Agent:
    """Return the agent named in the query or in the header ClawLink-Agent, or ``otherwise``.

    ``place`` is where else than in the header the route takes it; empty for nowhere.
    """
    named = agent_id or request.headers.get(_AGENT_HEADER) or otherwise
    if not named:
        ways = f"{place} or the header {_AGENT_HEADER}" if place else f"the header {_AGENT_HEADER}"
        raise BadRequest(f"name the asking agent: {ways}", field="agent_id")
    return await relay.agents.acting(named, key_of(request), field="agent_id")


class Looker(NamedTuple):
    """The agent that looks at files, if the request proves that it is one.

    ``refused`` is the reason why it is not the agent that it names. It then sees the files for everyone.
    """

    agent: Agent | None
    refused: UnknownAgent | NotAllowed | None = None


async def looking(relay: Relay, request: Request, agent_id: str | None) -> Looker:
    """Return the agent that looks at files, as the header ClawLink-Agent names it, or else the query."""
    named = request.headers.get(_AGENT_HEADER) or agent_id
    if not named:
        return Looker(None)
    try:
        return Looker(await acting(relay, request, named, "agent_id"))
    except (UnknownAgent, NotAllowed) as error:
        return Looker(None, error.with_traceback(None))


class Routes:
    """Collects which function serves which endpoint."""

    def __init__(self) -> None:
        self.serving: dict[Endpoint, Handler] = {}

    def serves(self, endpoint: Endpoint) -> Callable[[H], H]:
        """Register the decorated function for an endpoint."""

        def register(function: H) -> H:
            self.serving[endpoint] = function
            return function

        return register
