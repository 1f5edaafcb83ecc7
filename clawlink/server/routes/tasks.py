"""Routes about tasks."""

from __future__ import annotations

from clawlink.protocol import paths, requests
from clawlink.relay.relay import Relay
from clawlink.server.request import Request, Routes, acting, acting_anyway, asking, parameter, read, read_query
from clawlink.server.response import Reply, reply, tell_by_the_way

routes = Routes()


@routes.serves(paths.DELEGATE)
async def delegate(relay: Relay, request: Request) -> Reply:
    """Store a task for its assignee, or for a pool."""
    ask = await read(request, requests.Delegate)
    plain = ask.idempotency_key is None
    sender, new = await acting_anyway(relay, request, ask.from_agent, "from_agent", plain=plain)
    return reply(tell_by_the_way(await relay.submission.delegate(sender, ask), new))


@routes.serves(paths.RESPOND)
async def respond(relay: Relay, request: Request) -> Reply:
    """Move a task, and tell its requester."""
    ask = await read(request, requests.Respond)
    plain = ask.idempotency_key is None and ask.receipt is None
    sender, new = await acting_anyway(relay, request, ask.from_agent, "from_agent", plain=plain)
    return reply(tell_by_the_way(await relay.responses.respond(sender, ask), new))


@routes.serves(paths.TASK)
async def task(relay: Relay, request: Request) -> Reply:
    """Show a task."""
    ask = read_query(request, requests.TaskQuery)
    asker = await asking(relay, request, ask.agent_id)
    return reply(await relay.task_views.get(asker, parameter(request, "task_id"), ask))


@routes.serves(paths.TASKS)
async def tasks(relay: Relay, request: Request) -> Reply:
    """List tasks."""
    ask = read_query(request, requests.TasksQuery)
    asker = await asking(relay, request, ask.agent_id, ask.requester or ask.assignee)
    return reply(await relay.task_views.list(asker, ask))


@routes.serves(paths.CANCEL)
async def cancel(relay: Relay, request: Request) -> Reply:
    """Take a task back for good."""
    ask = await read(request, requests.Cancel)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.tasks.cancel(sender, parameter(request, "task_id"), ask))


@routes.serves(paths.ANSWER)
async def answer(relay: Relay, request: Request) -> Reply:
    """Answer a question of an assignee."""
    ask = await read(request, requests.Answer)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.tasks.answer(sender, parameter(request, "task_id"), ask))
