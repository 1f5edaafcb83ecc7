"""Routes about broadcasts."""

from __future__ import annotations

from aiohttp import web

from clawlink.protocol import paths, requests
from clawlink.relay.relay import Relay
from clawlink.server.wire import Request, Routes, acting, read, reply

routes = Routes()


@routes.serves(paths.BROADCAST)
async def broadcast(relay: Relay, request: Request) -> web.Response:
    """Tell every other agent."""
    ask = await read(request, requests.Broadcast)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.broadcasts.broadcast(sender, ask))
