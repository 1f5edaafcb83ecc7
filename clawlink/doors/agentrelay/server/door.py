"""The routes: JSON in, the acting agent, one use case, JSON out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.doors.agentrelay.server.events import Events
from clawlink.doors.agentrelay.wire import exchange
from clawlink.doors.registry import OpenDoor
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, Request, read
from clawlink.server.response import Reply, reply

Verb = Callable[[Agent, Any], Awaitable[Any]]


class AgentRelayServer(OpenDoor):
    """The routes of AgentRelay."""

    def __init__(self, events: Events) -> None:
        self.events = events

    async def info(self) -> dict[str, Any]:
        count, size = await self.events.usage()
        return {"events": count, "event_bytes": size}

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        events = self.events
        yield exchange.SEND, _serving(exchange.SEND, events.send, "from_agent")
        yield exchange.RECEIVE, _serving(exchange.RECEIVE, events.receive, "agent_id")
        yield exchange.UPDATE, _serving(exchange.UPDATE, events.update, "agent_id")
        yield exchange.CMP, _serving(exchange.CMP, events.complete, "agent_id")
        yield exchange.VERIFY, _serving(exchange.VERIFY, events.verify, "agent_id")
        yield exchange.CLEANUP, _serving(exchange.CLEANUP, events.clean_up, "agent_id")


def _serving(endpoint: Endpoint, verb: Verb, field: str) -> Handler:
    async def serve(relay: Relay, request: Request) -> Reply:
        ask = await read(request, endpoint.body)
        agent = await relay.agents.acting(getattr(ask, field), request.headers.get(KEY_HEADER), field=field)
        return reply(await verb(agent, ask))

    return serve
