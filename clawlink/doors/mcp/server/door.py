"""``POST /mcp``: the streamable HTTP of MCP, each answer as JSON. There is no session and no stream, so GET is 405."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec

from clawlink.doors.mcp.server.tools import USE, Caller, Done
from clawlink.doors.mcp.wire import rpc
from clawlink.doors.mcp.wire.endpoint import MCP
from clawlink.doors.mcp.wire.quoting import told
from clawlink.doors.mcp.wire.tools import TOOLS
from clawlink.doors.registry import OpenDoor
from clawlink.errors import AmbiguousName, BadJson, BadRequest, ClawLinkError, NotAllowed, UnknownAgent
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.reading import read_fields
from clawlink.relay.error_mapping import refusal
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, Request, asking, key_in_header, read
from clawlink.server.response import Reply

_TOOLS = tuple(tool for tool in TOOLS if not tool.local)
_WHO = (
    "to act, this client needs the headers ClawLink-Agent (an agent's id) and ClawLink-Agent-Key (its key). "
    "`clawlink register --name NAME --json` makes both"
)
_MOST_IDS = 10
_log = logging.getLogger("clawlink.doors.mcp")


class McpServer(OpenDoor):
    """The route of MCP."""

    def __init__(self) -> None:
        self._waits: dict[tuple[str, int | str], set[asyncio.Task[Done]]] = {}  # by agent and id of the request

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        yield MCP, self._serve

    async def _serve(self, relay: Relay, request: Request) -> Reply:
        try:
            message: Any = await read(request, object)
        except BadJson as error:
            return _reply(rpc.Answer(rpc.failure(None, rpc.PARSE_ERROR, error.message), 400))
        heard = rpc.hear(message, request.headers, _TOOLS)
        if isinstance(heard, rpc.Answer):
            return _reply(heard)
        if isinstance(heard, rpc.Cancelled):
            await self._cancel(relay, request, heard)
            return _reply(rpc.Answer(None, 202))
        try:
            ask = read_fields(heard.arguments, heard.tool.arguments)
            caller = await _caller(relay, request)
            use = USE[heard.tool.name]
            if getattr(ask, "wait_seconds", 0.0):
                request.stay()
                done = await self._wait((caller.agent.id, heard.id), use(relay, caller, ask))
            else:
                done = await use(relay, caller, ask)
        except ClawLinkError as error:
            refused = refusal(relay, error, {"route": MCP.path, "tool": heard.tool.name}, _log)
            return _reply(rpc.Answer(rpc.result_of(heard, told(_refused(refused)), failed=True)))
        if done is None:
            return _reply(rpc.Answer(rpc.failure(heard.id, rpc.CANCELLED, "the client has cancelled this request")))
        answer = rpc.result_of(heard, told(done.result), failed=False)
        return Reply(msgspec.json.encode(answer), handover=done.handover)

    async def _wait(self, key: tuple[str, int | str], use: Coroutine[Any, Any, Done]) -> Done | None:
        """Return the result of a call that waits; None if its client cancels it. Then nothing stays claimed."""
        task = asyncio.ensure_future(use)
        tasks = self._waits.setdefault(key, set())
        tasks.add(task)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:  # the client has gone
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            tasks.discard(task)
            if not tasks and self._waits.get(key) is tasks:
                del self._waits[key]
        return None if task.cancelled() else task.result()

    async def _cancel(self, relay: Relay, request: Request, cancelled: rpc.Cancelled) -> None:
        """End a wait of the agent that asks. Two clients of one agent may use one id: then both waits end early."""
        with contextlib.suppress(ClawLinkError):
            caller = await _caller(relay, request)
            for task in self._waits.get((caller.agent.id, cancelled.id), ()):
                task.cancel()


async def _caller(relay: Relay, request: Request) -> Caller:
    async def again() -> Any:
        return await asking(relay, request, None, place="")

    try:
        return Caller(await again(), again, key_in_header(request))
    except (BadRequest, NotAllowed, UnknownAgent) as error:
        raise type(error)(f"{error.message}; {_WHO}", field=error.field) from None


def _refused(error: ClawLinkError) -> dict[str, Any]:
    """Return a refusal for a model, with the next step in its sentence."""
    said = {"code": error.code, "error": error.message, "field": error.field, "retry_after": error.retry_after}
    shown: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if isinstance(error, AmbiguousName) and isinstance(error.current, list):  # its sentence has ids of other agents
        shown["error"] = f"{len(error.current)} agents have this name; address one by its id, under untrusted.ids"
        shown["untrusted"] = {"ids": error.current[:_MOST_IDS]}
    return shown


def _reply(answer: rpc.Answer) -> Reply:
    if answer.body is None:
        return Reply(b"", answer.status, "")
    return Reply(msgspec.json.encode(answer.body), answer.status)
