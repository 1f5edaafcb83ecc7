"""Endpoints in JSON: read the request, find the acting agent, call the use case, write its reply.

What differs from one endpoint to the next stands in its row of ``protocol.paths``. A route under ``routes/`` is for an
endpoint that does more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from operator import attrgetter
from typing import Any

from aiohttp import hdrs

from clawlink.domain.agent import Agent
from clawlink.errors import UnknownAgent
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import ENDPOINTS
from clawlink.relay.relay import Relay
from clawlink.server.request import (
    Handler,
    Request,
    acting,
    acting_on,
    asking,
    by_the_way,
    key_of,
    looking,
    parameter,
    read,
    read_query,
)
from clawlink.server.response import Reply, reply, tell_by_the_way

UseCase = Callable[..., Awaitable[Any]]

_MAX_AGE = re.compile(r"max-age=(\d{1,9})", re.ASCII)
_SHARED_SECONDS = 5
_SHARED_AT_ONCE = 16
_SHARED_BYTES = 256 * 1024


class SharedAnswers:
    """Answers of the operator's views, each made once for all pages that ask for it at nearly the same time.

    A reader takes one if its ``Cache-Control`` says so with ``max-age``. None is older than the last overview that went
    out as an event: a page that reads on because of an event sees all that the event tells.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Shared] = {}

    def forget(self) -> None:
        """Drop the answers that were made so far."""
        self._made.clear()

    async def answer(self, request: Request, make: Callable[[], Awaitable[Reply]]) -> Reply:
        """Return an answer of the age that the reader takes, or make one."""
        said = _MAX_AGE.fullmatch(request.headers.get(hdrs.CACHE_CONTROL, ""))
        if said is None:
            return await make()
        if request.path_qs not in self._made and len(self._made) >= _SHARED_AT_ONCE:
            del self._made[next(iter(self._made))]
        shared = self._made.setdefault(request.path_qs, _Shared())
        async with shared.making:
            now = asyncio.get_running_loop().time()
            if shared.answer is None or shared.at + min(int(said[1]), _SHARED_SECONDS) <= now:
                answer = await make()
                if answer.size > _SHARED_BYTES:
                    return answer
                shared.answer, shared.at = answer, now
            return shared.answer


class _Shared:
    """The last answer to a request, and when its making began."""

    def __init__(self) -> None:
        self.making = asyncio.Lock()
        self.answer: Reply | None = None
        self.at = 0.0


def json_routes(relay: Relay, shared: SharedAnswers) -> Iterator[tuple[Endpoint, Handler]]:
    """Give each endpoint that names its use case, with its handler."""
    for endpoint in ENDPOINTS:
        if endpoint.use:
            serve = _handler(endpoint, attrgetter(endpoint.use)(relay))
            yield endpoint, _sharing(serve, shared) if endpoint.shared else serve


def _sharing(serve: Handler, shared: SharedAnswers) -> Handler:
    """Let pages share the answers of a handler, which depend on nothing but the address."""

    async def serve_shared(relay: Relay, request: Request) -> Any:
        return await shared.answer(request, lambda: serve(relay, request))  # type: ignore[arg-type,return-value]

    return serve_shared


def _handler(endpoint: Endpoint, use: UseCase) -> Handler:
    if endpoint.registers:
        return _registering(endpoint, use)
    (id,) = (set(endpoint.pattern.groupindex) - {endpoint.by}) or {""}
    if not (endpoint.acts or endpoint.looks):
        return _without_agent(endpoint, use, id)
    if endpoint.receipts:
        return _settling(endpoint, use)
    if endpoint.body is not None:
        return _acting(endpoint, use, id)
    if endpoint.by:
        return _of_agent(endpoint, use)
    return _looking(endpoint, use) if endpoint.looks else _asking(endpoint, use, id)


def _without_agent(endpoint: Endpoint, use: UseCase, id: str) -> Handler:
    """Handle a request that no agent makes: a parameter of the path, and a body or a query, as far as it has them.

    Acts of the operator go into the audit.
    """
    body, query, audited = endpoint.body, endpoint.query, endpoint.audited

    async def serve(relay: Relay, request: Request) -> Reply:
        asked: list[Any] = [parameter(request, id)] if id else []
        if body is not None:
            asked.append(await read(request, body))
        elif query is not None:
            asked.append(read_query(request, query))
        done = await use(*asked)
        if audited:
            target = getattr(done, audited)
            await relay.audit.note(endpoint.name, target, done, by=request.right or "", address=request.address)
        return reply(done)

    return serve


def _acting(endpoint: Endpoint, use: UseCase, id: str) -> Handler:
    """Handle a body that names the acting agent; ``id`` is the other parameter of the path, if there is one."""
    by, kind, agent_of, quiet = endpoint.by, endpoint.body, attrgetter(endpoint.by), endpoint.quiet

    async def serve(relay: Relay, request: Request) -> Reply:
        ask = await read(request, kind)
        agent = await acting(relay, request, agent_of(ask), by, quiet=quiet)
        return reply(await (use(agent, parameter(request, id), ask) if id else use(agent, ask)))

    return serve


def _settling(endpoint: Endpoint, use: UseCase) -> Handler:
    """Handle a body with receipts, which names the acting agent."""
    by, kind, agent_of = endpoint.by, endpoint.body, attrgetter(endpoint.by)

    async def serve(relay: Relay, request: Request) -> Reply:
        ask = await read(request, kind)
        agent, known = await acting_on(relay, request, agent_of(ask), by, ask.receipts or ())
        return reply(await use(agent, ask, known))

    return serve


def _registering(endpoint: Endpoint, use: UseCase) -> Handler:
    """Handle a body from an agent that clients of 1.0.x need not have registered."""
    by, kind, agent_of = endpoint.by, endpoint.body, attrgetter(endpoint.by)

    async def serve(relay: Relay, request: Request) -> Reply:
        ask = await read(request, kind)
        try:
            agent, new = await relay.agents.acting(agent_of(ask), key_of(request), field=by), False
        except UnknownAgent:
            plain = ask.idempotency_key is None and getattr(ask, "receipt", None) is None
            made = await by_the_way(relay, request, agent_of(ask), key_of(request)) if plain else None
            if made is None:
                raise
            agent, new = made
        answer = await use(agent, ask)
        return reply(tell_by_the_way(answer) if new else answer)

    return serve


def _of_agent(endpoint: Endpoint, use: UseCase) -> Handler:
    """Handle a query about the agent that the path names, or a request that says no more."""
    by, kind, quiet = endpoint.by, endpoint.query, endpoint.quiet

    async def serve(relay: Relay, request: Request) -> Reply:
        agent = await acting(relay, request, parameter(request, by), by, quiet=quiet)
        return reply(await (use(agent) if kind is None else use(agent, read_query(request, kind))))

    return serve


def _asking(endpoint: Endpoint, use: UseCase, id: str) -> Handler:
    """Handle a query by the agent that the query or a header names."""
    kind, otherwise = endpoint.query, endpoint.otherwise

    async def serve(relay: Relay, request: Request) -> Reply:
        ask = read_query(request, kind)
        named = next((name for field in otherwise if (name := getattr(ask, field))), None)
        agent: Agent = await asking(relay, request, ask.agent_id, named)
        return reply(await (use(agent, parameter(request, id), ask) if id else use(agent, ask)))

    return serve


def _looking(endpoint: Endpoint, use: UseCase) -> Handler:
    """Handle a query that needs no agent, and shows more to one that proves its identity."""
    kind = endpoint.query

    async def serve(relay: Relay, request: Request) -> Reply:
        ask = read_query(request, kind)
        looker = await looking(relay, request, ask.agent_id)
        return reply(await use(looker.agent, ask))

    return serve
