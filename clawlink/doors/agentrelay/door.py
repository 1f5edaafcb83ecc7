"""The routes: JSON in, who is acting, one use case, JSON out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
from aiohttp import hdrs, web

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.doors.reading import Read
from clawlink.protocol.agentrelay import exchange
from clawlink.protocol.paths import Endpoint
from clawlink.relay.pointers import Pointers
from clawlink.relay.relay import Relay

_JSON = "application/json; charset=utf-8"
_encode = msgspec.json.Encoder().encode

Serve = Callable[[Relay, web.BaseRequest], Awaitable[web.StreamResponse]]
Verb = Callable[[Pointers, Agent, Any], Awaitable[Any]]


def routes(read: Read) -> Iterator[tuple[Endpoint, Serve]]:
    """Give which endpoint is served by what."""
    yield exchange.SEND, _serving(read, exchange.SEND, Pointers.send, "from_agent")
    yield exchange.RECEIVE, _serving(read, exchange.RECEIVE, Pointers.receive, "agent_id")
    yield exchange.UPDATE, _serving(read, exchange.UPDATE, Pointers.update, "agent_id")
    yield exchange.CMP, _serving(read, exchange.CMP, Pointers.complete, "agent_id")
    yield exchange.VERIFY, _serving(read, exchange.VERIFY, Pointers.verify, "agent_id")
    yield exchange.CLEANUP, _serving(read, exchange.CLEANUP, Pointers.clean_up, "agent_id")


def _serving(read: Read, endpoint: Endpoint, verb: Verb, field: str) -> Serve:
    async def serve(relay: Relay, request: web.BaseRequest) -> web.StreamResponse:
        ask = await read(request, endpoint.body)
        agent = await relay.agents.acting(getattr(ask, field), request.headers.get(KEY_HEADER), field=field)
        answer = await verb(relay.pointers, agent, ask)
        return web.Response(body=_encode(answer), headers={hdrs.CONTENT_TYPE: _JSON})

    return serve
