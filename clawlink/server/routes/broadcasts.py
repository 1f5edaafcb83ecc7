"""Routes about broadcasts."""

from __future__ import annotations

from clawlink.protocol import paths, requests
from clawlink.relay.relay import Relay
from clawlink.server.reply import Reply, reply
from clawlink.server.wire import Request, Routes, acting, read

routes = Routes()


@routes.serves(paths.BROADCAST)
async def broadcast(relay: Relay, request: Request) -> Reply:
    """Tell every other agent."""
    ask = await read(request, requests.Broadcast)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.broadcasts.broadcast(sender, ask))
