"""Routes about broadcasts."""

from __future__ import annotations

import msgspec

from clawlink.protocol import paths, replies, requests
from clawlink.relay.relay import Relay
from clawlink.server.request import Request, Routes, read_query
from clawlink.server.response import Reply, reply

routes = Routes()


@routes.serves(paths.KNOWLEDGE)
async def knowledge(relay: Relay, request: Request) -> Reply:
    """List the kept broadcasts."""
    page = await relay.broadcasts.knowledge(read_query(request, requests.KnowledgeQuery))
    kept = [msgspec.Raw(record.body) for record in page.records]
    return reply(replies.KnowledgeList(kept, len(kept), page.after))
