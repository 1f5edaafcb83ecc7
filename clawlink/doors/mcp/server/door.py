"""``POST /mcp``: the streamable HTTP of MCP, each answer as JSON. There is no session and no stream, so GET is 405."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from clawlink.domain.agent import Agent
from clawlink.domain.dense_json import MAX_PARTS, read_object
from clawlink.doors.mcp.server import resources, tasks
from clawlink.doors.mcp.server.lists import Lists
from clawlink.doors.mcp.server.tools import USE, Caller, Done
from clawlink.doors.mcp.wire import rpc
from clawlink.doors.mcp.wire.quoting import MAX_MAIL, mail_of, told
from clawlink.doors.mcp.wire.rpc import MCP
from clawlink.doors.mcp.wire.tools import TOOLS
from clawlink.doors.registry import OpenDoor
from clawlink.errors import (
    AmbiguousName,
    BadJson,
    BadRequest,
    ClawLinkError,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    UnknownAgent,
)
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.headers import AGENT
from clawlink.protocol.reading import read_fields
from clawlink.relay.error_mapping import refusal
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler, Request, asking, key_in_header, read
from clawlink.server.response import Reply
from clawlink.store.base import Failed

_TOOLS = tuple(tool for tool in TOOLS if not tool.local)
_WHO = (
    "to act, this client needs its agent key as the bearer, or the headers ClawLink-Agent and ClawLink-Agent-Key. "
    "`clawlink register --name NAME --json` makes both, and says which file has them"
)
_MOST_IDS = 10
_log = logging.getLogger("clawlink.doors.mcp")


class McpServer(OpenDoor):
    """The route of MCP."""

    def __init__(self) -> None:
        self._lists = Lists()
        self._waits: dict[tuple[str, int | str], set[asyncio.Task[Done]]] = {}  # by agent and id of the request

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        yield MCP, self._serve

    async def _serve(self, relay: Relay, request: Request) -> Reply:
        if request.bearer is not None:
            await _by_bearer(relay, request, request.bearer)  # before the body is read
        try:
            message = rpc.opened(await read(request, rpc.Envelope))
            if isinstance(message.get("params"), Raw):
                message["params"] = await _object(message["params"])
        except BadJson as error:
            return _reply(rpc.Answer(rpc.failure(None, rpc.PARSE_ERROR, error.message), 400))
        except BadRequest as error:
            return _reply(rpc.Answer(rpc.failure(None, rpc.INVALID_REQUEST, error.message), 400))
        heard = rpc.hear(message, request.headers, _TOOLS)
        if isinstance(heard, rpc.Answer):
            return _reply(heard)
        if isinstance(heard, rpc.Cancelled):
            await self._cancel(relay, request, heard)
            return _reply(rpc.Answer(None, 202))
        if isinstance(heard, rpc.Query):
            return _reply(rpc.Answer(await _answered(relay, request, heard, self._lists)))
        try:
            ask = await _arguments(heard)
            caller = await _caller(relay, request, self._lists)
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
        if heard.can.tasks and heard.tool.name == "relay_delegate":
            return _reply(rpc.Answer(rpc.task_of(heard, tasks.created(relay, done.result["task_id"]))))
        text = told(done.result) if done.text is None else done.text
        answer = rpc.result_of(heard, text, failed=False, mail=await _mail(relay, caller, heard))
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
            caller = await _caller(relay, request, self._lists)
            for task in self._waits.get((caller.agent.id, cancelled.id), ()):
                task.cancel()


async def _mail(relay: Relay, caller: Caller, call: rpc.ToolCall) -> str | None:
    """Return the note of a result about mail that waits, so that a model in mid-turn notices it in any program."""
    if call.tool.name == "relay_inbox":  # its result is the mail
        return None
    unread = None
    with contextlib.suppress(Failed):  # what the tool did is done all the same
        unread = await relay.unread_mail.waiting(caller.agent, MAX_MAIL)
    return None if unread is None else mail_of(unread)


async def _object(value: Raw) -> Any:
    """Return a value of very many parts as an object, whose values of very many parts stay as they came."""
    await asyncio.sleep(0)  # it takes milliseconds, so others come before it
    with contextlib.suppress(msgspec.DecodeError):
        return read_object(bytes(value))
    return value


async def _arguments(call: rpc.ToolCall) -> Any:
    """Return checked arguments. Those of very many parts came unbuilt. Raises BadRequest naming the field."""
    given = await _object(call.arguments) if isinstance(call.arguments, Raw) else call.arguments
    for name, value in given.items():
        if isinstance(value, Raw):
            raise BadRequest(f"{name[:64]} has too many arrays, objects and commas", field=name[:64], limit=MAX_PARTS)
    return read_fields(given, call.tool.arguments)


async def _answered(relay: Relay, request: Request, query: rpc.Query, lists: Lists) -> dict[str, Any]:
    """Return the answer to a request about resources or tasks."""
    try:
        of_tasks = query.method in rpc.TASK_METHODS
        caller = await _caller(relay, request, lists) if of_tasks or _names_agent(request) else None
        try:
            return rpc.done(query, await _found(relay, caller, query))
        except (NotFound, NotAllowed, BadRequest) as error:
            return rpc.no_such(query, error.message)
    except ClawLinkError as error:
        refused = _refused(refusal(relay, error, {"route": MCP.path, "method": query.method}, _log))
        return rpc.failure(query.id, rpc.REFUSED, refused.pop("error"), refused)


async def _found(relay: Relay, caller: Caller | None, query: rpc.Query) -> dict[str, Any]:
    agent = None if caller is None else caller.agent
    if caller is not None and query.method in rpc.TASK_METHODS:
        return await tasks.use(relay, caller, query)
    if query.method == "resources/read":
        return await resources.read(relay, agent, query.params.get("uri"))
    if "cursor" in query.params:
        raise BadRequest("there is one page, and no cursor", field="cursor")
    return await resources.listed(relay, agent)


async def _caller(relay: Relay, request: Request, lists: Lists) -> Caller:
    async def again() -> Agent:
        if request.bearer is not None:
            agent = await _by_bearer(relay, request, request.bearer)
            return await relay.agents.acting(agent.id, request.bearer, field="Authorization")
        return await asking(relay, request, None, place="")

    try:
        return Caller(await again(), again, key_in_header(request), lists)
    except (BadRequest, NotAllowed, UnknownAgent) as error:
        raise type(error)(f"{error.message}; {_WHO}", field=error.field) from None


def _names_agent(request: Request) -> bool:
    """Return True if a request names the agent that asks."""
    return request.bearer is not None or bool(request.headers.get(AGENT.name))


async def _by_bearer(relay: Relay, request: Request, agent_key: str) -> Agent:
    """Return the agent that holds the bearer. Raises NotAuthenticated, and NotAllowed if another agent is named."""
    agent = await relay.agents.with_key(agent_key)
    if agent is None:
        raise NotAuthenticated(
            "the bearer is no agent key of this relay, and not its token; `clawlink register --name NAME --json` makes "
            "an agent key, and says which file has it",
            field="Authorization",
        )
    if request.headers.get(AGENT.name, agent.id) not in (agent.id, agent.name, ""):
        raise NotAllowed("the bearer is the key of another agent than ClawLink-Agent names", field=AGENT.name)
    return agent


def _refused(error: ClawLinkError) -> dict[str, Any]:
    """Return a refusal for a model, with the next step in its sentence."""
    said = {"code": error.code, "error": error.message, "field": error.field, "retry_after": error.retry_after}
    shown: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if isinstance(error, UnknownAgent):  # a model has tools, and no commands
        shown["error"] = error.message.replace("with discover", "with relay_agents")
    if isinstance(error, AmbiguousName) and isinstance(error.current, list):  # its sentence has ids of other agents
        shown["error"] = f"{len(error.current)} agents have this name; address one by its id, under untrusted.ids"
        shown["untrusted"] = {"ids": error.current[:_MOST_IDS]}
    return shown


def _reply(answer: rpc.Answer) -> Reply:
    if answer.body is None:
        return Reply(b"", answer.status, "")
    return Reply(msgspec.json.encode(answer.body), answer.status)
