"""Routes about broadcasts."""

from __future__ import annotations

from aiohttp import web

from clawlink.protocol import paths, requests
from clawlink.server.wire import RELAY, Routes, acting, read, reply

routes = Routes()


@routes.serves(paths.BROADCAST)
async def broadcast(request: web.Request) -> web.Response:
    """Tell every other agent."""
    ask = await read(request, requests.Broadcast)
    sender = await acting(request, ask.from_agent, "from_agent")
    return reply(await request.app[RELAY].broadcasts.broadcast(sender, ask))
