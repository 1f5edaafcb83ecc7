"""Routes about broadcasts."""

from __future__ import annotations

import msgspec

from clawlink.protocol import paths, replies, requests
from clawlink.relay.relay import Relay
from clawlink.server.request import Request, Routes, acting_anyway, read, read_query
from clawlink.server.response import Reply, reply, tell_by_the_way

routes = Routes()


@routes.serves(paths.BROADCAST)
async def broadcast(relay: Relay, request: Request) -> Reply:
    """Tell all other agents that subscribe to a topic."""
    ask = await read(request, requests.Broadcast)
    plain = ask.idempotency_key is None
    sender, new = await acting_anyway(relay, request, ask.from_agent, "from_agent", plain=plain)
    return reply(tell_by_the_way(await relay.broadcasts.broadcast(sender, ask), new))


@routes.serves(paths.KNOWLEDGE)
async def knowledge(relay: Relay, request: Request) -> Reply:
    """List the kept broadcasts."""
    page = await relay.broadcasts.knowledge(read_query(request, requests.KnowledgeQuery))
    kept = [msgspec.Raw(record.body) for record in page.records]
    return reply(replies.KnowledgeList(kept, len(kept), page.after))
