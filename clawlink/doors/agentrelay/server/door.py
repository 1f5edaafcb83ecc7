"""The routes: JSON in, who is acting, one use case, JSON out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Agent
from clawlink.doors.registry import OpenDoor
from clawlink.protocol.agentrelay import exchange
from clawlink.protocol.paths import Endpoint
from clawlink.relay.pointers import Pointers
from clawlink.relay.relay import Relay
from clawlink.server.reply import Reply, reply
from clawlink.server.wire import Handler, Request, read

Verb = Callable[[Pointers, Agent, Any], Awaitable[Any]]


class AgentRelayServer(OpenDoor):
    """The routes of AgentRelay."""

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        yield exchange.SEND, _serving(exchange.SEND, Pointers.send, "from_agent")
        yield exchange.RECEIVE, _serving(exchange.RECEIVE, Pointers.receive, "agent_id")
        yield exchange.UPDATE, _serving(exchange.UPDATE, Pointers.update, "agent_id")
        yield exchange.CMP, _serving(exchange.CMP, Pointers.complete, "agent_id")
        yield exchange.VERIFY, _serving(exchange.VERIFY, Pointers.verify, "agent_id")
        yield exchange.CLEANUP, _serving(exchange.CLEANUP, Pointers.clean_up, "agent_id")


def _serving(endpoint: Endpoint, verb: Verb, field: str) -> Handler:
    async def serve(relay: Relay, request: Request) -> Reply:
        ask = await read(request, endpoint.body)
        agent = await relay.agents.acting(getattr(ask, field), request.headers.get(KEY_HEADER), field=field)
        return reply(await verb(relay.pointers, agent, ask))

    return serve
