"""The routes: JSON in, who is acting, one use case, JSON out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.domain.limits import MAX_JSON_DEPTH
from clawlink.errors import BadJson, BadRequest, BodyTimeout, TooLarge
from clawlink.protocol.agentrelay import exchange
from clawlink.protocol.invalid import bad_field
from clawlink.protocol.paths import Endpoint
from clawlink.relay.pointers import Pointers
from clawlink.relay.relay import Relay

_BODY_SECONDS = 30.0
_JSON = "application/json; charset=utf-8"
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")
Serve = Callable[[Relay, web.BaseRequest], Awaitable[web.StreamResponse]]
Verb = Callable[[Pointers, Agent, Any], Awaitable[Any]]


def routes() -> Iterator[tuple[Endpoint, Serve]]:
    """Give which endpoint is served by what."""
    yield exchange.SEND, _serving(exchange.SEND, Pointers.send, "from_agent")
    yield exchange.RECEIVE, _serving(exchange.RECEIVE, Pointers.receive, "agent_id")
    yield exchange.UPDATE, _serving(exchange.UPDATE, Pointers.update, "agent_id")
    yield exchange.CMP, _serving(exchange.CMP, Pointers.complete, "agent_id")
    yield exchange.VERIFY, _serving(exchange.VERIFY, Pointers.verify, "agent_id")
    yield exchange.CLEANUP, _serving(exchange.CLEANUP, Pointers.clean_up, "agent_id")


def _serving(endpoint: Endpoint, verb: Verb, field: str) -> Serve:
    async def serve(relay: Relay, request: web.BaseRequest) -> web.StreamResponse:
        ask = await _read(request, endpoint.body)
        _require_shallow(ask)
        agent = await relay.agents.acting(getattr(ask, field), request.headers.get(KEY_HEADER), field=field)
        answer = await verb(relay.pointers, agent, ask)
        return web.Response(body=_encode(answer), headers={hdrs.CONTENT_TYPE: _JSON})

    return serve


async def _read(request: web.BaseRequest, kind: type[T]) -> T:
    """Read the body. Raises TooLarge, BodyTimeout, BadJson, BadRequest."""
    limit = request.client_max_size
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit, length)
    try:
        body = await asyncio.wait_for(request.read(), _BODY_SECONDS)
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit, limit + 1) from None
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


def _require_shallow(ask: Any) -> None:
    """Refuse contents nested so deep that some reader would fail on them. Raises BadRequest."""
    for field in ("content", "updates"):
        level: list[Any] = [getattr(ask, field, None)]
        for _ in range(MAX_JSON_DEPTH):
            inner = (
                node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)
            )
            level = [child for nodes in inner for child in nodes]
        if level:
            raise BadRequest(
                f"{field} may be nested {MAX_JSON_DEPTH} levels deep, and this is deeper",
                field=field,
                limit=MAX_JSON_DEPTH,
            )


def _too_large(limit: int, actual: int) -> TooLarge:
    return TooLarge(
        f"an event may have {limit} bytes, and this one has {actual} or more; share large contents as a file and name "
        "its key in the event, or raise --max-body-bytes",
        limit=limit,
        actual=actual,
    )
