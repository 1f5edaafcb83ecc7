"""Streams of a task's events: the task first, then each change in its order, the same for all that listen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from clawlink.domain.agent import Agent
from clawlink.doors.a2a.rules import tasks, updates
from clawlink.doors.a2a.rules.states import FINAL, INTERRUPTED, Json, UrlOf
from clawlink.doors.a2a.rules.updates import Told
from clawlink.doors.a2a.server.calls import Calls
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.protocol.replies import TaskView
from clawlink.relay.relay import Relay
from clawlink.server.request import Request
from clawlink.timeouts import wait_for

_HEADERS = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
_COMMENT_SECONDS = 15.0
# A peer that has not taken the written bytes by then does not read.
_STUCK_SECONDS = 28.0
_encode = msgspec.json.Encoder().encode


class Change(Struct, frozen=True):
    """A view of a task, and the events that lead to it."""

    view: TaskView
    events: list[Json]


async def events(
    relay: Relay,
    calls: Calls,
    caller: Agent,
    task_id: str,
    known: Told,
    url_of: UrlOf,
    *,
    wait: float,
    last: frozenset[str],
) -> AsyncGenerator[Change, None]:
    """Give the changes after ``known`` of a task, one without events after ``wait`` seconds without any.

    It ends behind the first state of ``last``, once the task is forgotten, and when the relay shuts down. A follower
    waits for long, and tasks may be large. So no view of the task is kept while it waits.
    """
    while not relay.draining:
        try:
            now = await calls.next(caller, task_id, known.version, wait)
        except A2AError:
            return
        found = updates.updates(known, now, url_of)
        known = updates.told(now)
        over = next((at for at, event in enumerate(found, 1) if updates.ends(event) in last), None)
        yield Change(now, found if over is None else found[:over])
        if over is not None:
            return
        del now, found


async def serve(
    relay: Relay,
    calls: Calls,
    request: Request,
    caller: Agent,
    view: TaskView,
    url_of: UrlOf,
    *,
    wrap: Callable[[Json], Any],
    through_questions: bool,
) -> web.StreamResponse:
    """Stream a task until it ends; without ``through_questions`` also until it asks for something."""
    last = FINAL if through_questions else FINAL | INTERRUPTED
    id, known = view.task_id, updates.told(view)
    first = _frame(wrap({"task": tasks.task(view, url_of)}))
    response = await begin(request)
    with contextlib.suppress(ConnectionError):
        await _write(request, response, first)
        del view, first
        if known.state not in last:
            following = events(relay, calls, caller, id, known, url_of, wait=_COMMENT_SECONDS, last=last)
            async with contextlib.aclosing(following):
                async for change in following:
                    frames = b"".join(_frame(wrap(event)) for event in change.events)
                    await _write(request, response, frames or b":\n\n")
                    del change, frames
        await response.write_eof()
    return response


async def begin(request: Request) -> web.StreamResponse:
    """Begin the response of a stream."""
    request.stay()
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    return response


async def one(request: Request, event: Any) -> web.StreamResponse:
    """Answer with a stream of one event."""
    response = await begin(request)
    with contextlib.suppress(ConnectionError):
        await _write(request, response, _frame(event))
        await response.write_eof()
    return response


def _frame(event: Any) -> bytes:
    return b"data: %b\n\n" % _encode(event)


async def _write(request: Request, response: web.StreamResponse, data: bytes) -> None:
    try:
        await wait_for(response.write(data), _STUCK_SECONDS)
    except asyncio.TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None
