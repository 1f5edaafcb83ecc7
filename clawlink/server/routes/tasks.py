"""Routes about tasks."""

from __future__ import annotations

from clawlink.protocol import paths, requests
from clawlink.relay.relay import Relay
from clawlink.server.reply import Reply, reply
from clawlink.server.wire import Request, Routes, acting, read

routes = Routes()


@routes.serves(paths.DELEGATE)
async def delegate(relay: Relay, request: Request) -> Reply:
    """Store a task for its assignee."""
    ask = await read(request, requests.Delegate)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.tasks.delegate(sender, ask))


@routes.serves(paths.RESPOND)
async def respond(relay: Relay, request: Request) -> Reply:
    """Move a task, and tell its requester."""
    ask = await read(request, requests.Respond)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.tasks.respond(sender, ask))
