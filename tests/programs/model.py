"""A stand-in for a model, behind the HTTP interfaces of Anthropic, OpenAI and Google: a program's turns are real.

Its model is simple. A prompt with ``CALL NAME {JSON} END`` has it call these tools, one after the other. Once its input
tells of mail in words that it has not seen, it calls ``relay_inbox``. Then it says ``DONE``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from aiohttp import web

_PLAN = re.compile(r"CALL (\S+) (\{.*?\}) END", re.DOTALL)
_TELLS = re.compile(r"ClawLink: \d+ (?:new|unread) .*?relay_inbox|unread\W+count.*?relay_inbox", re.DOTALL)
_INBOX = "relay_inbox"
# OpenClaw shows its model few tools, and one that calls the others.
_BY_ID = "tool_call"


class Item(NamedTuple):
    """A part of a conversation: what a ``user`` or a ``tool`` says, or a ``call`` of the model's with its tool."""

    kind: str
    text: str


class Answer(NamedTuple):
    """A step of the model: it says a text, or calls a tool."""

    text: str = "DONE"
    tool: str | None = None
    arguments: str = "{}"
    number: int = 0

    @property
    def id(self) -> str:
        return f"call_{self.number}"


def decide(items: Sequence[Item], tools: Sequence[str], handled: set[str]) -> Answer:
    """Return what the model does next. Programs put words of their own before the names of MCP tools.

    ``handled`` are the words about mail that it has seen: a program may show a prompt again.
    """
    plan = [found for item in items if item.kind == "user" for found in _PLAN.findall(item.text)]
    calls = [at for at, item in enumerate(items) if item.kind == "call"]
    planned = [at for at in calls if not items[at].text.endswith(_INBOX)]
    number = len(calls) + 1
    if len(planned) < len(plan):
        name, arguments = plan[len(planned)]
        return _call(name, _plain(arguments), tools, number)
    told = {words for item in items if item.kind != "call" for words in _TELLS.findall(item.text)}
    if told - handled and (_named(_INBOX, tools) is not None or _BY_ID in tools):
        handled |= told
        return _call(_INBOX, "{}", tools, number)
    return Answer()


def _call(name: str, arguments: str, tools: Sequence[str], number: int) -> Answer:
    tool = _named(name, tools)
    if tool is None and _BY_ID in tools:
        by_id = {"id": f"clawlink__{name}", "args": json.loads(arguments)}
        return Answer(tool=_BY_ID, arguments=json.dumps(by_id), number=number)
    return Answer(tool=tool, arguments=arguments, number=number)


def _plain(arguments: str) -> str:
    """Return JSON, also for JSON inside a string of JSON: opencode quotes a prompt of its command line."""
    try:
        json.loads(arguments)
    except ValueError:
        return str(json.loads(f'"{arguments}"'))
    return arguments


def _named(name: str, tools: Sequence[str]) -> str | None:
    return next((tool for tool in tools if tool == name), None) or next((t for t in tools if t.endswith(name)), None)


class Model:
    """A server of all three interfaces. ``url`` is its address, ``seen`` the texts of its conversations, in order.

    ``on_tool`` is awaited before it calls a tool, ``on_end`` before it ends a turn. With ``reads`` off it never reads
    mail.
    """

    def __init__(self) -> None:
        self.seen: list[list[Item]] = []
        self.answers: list[Answer] = []
        self.reads = True
        self.on_tool: Callable[[], Awaitable[None]] | None = None
        self.on_end: Callable[[], Awaitable[None]] | None = None
        self._handled: set[str] = set()
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/messages", self._anthropic)
        app.router.add_post("/v1/messages/count_tokens", self._count)
        app.router.add_post("/v1/responses", self._responses)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1beta/models/{call}", self._gemini)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Model:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def shows(self, words: str) -> bool:
        """Return True if the model was shown these words, by a person, a program or a tool."""
        return any(words in item.text for items in self.seen for item in items if item.kind != "call")

    async def _decide(self, items: list[Item], tools: Sequence[str]) -> Answer:
        if not tools:  # as for a title of the session
            return Answer("A title")
        self.seen.append(items)
        if not self.reads:
            tools = [tool for tool in tools if not tool.endswith(_INBOX)]
        answer = decide(items, tools, self._handled)
        self.answers.append(answer)
        told = self.on_end if answer.tool is None else self.on_tool
        if told is not None:
            await told()
        return answer

    # -- Anthropic -----------------------------------------------------------------------------------------------------

    async def _count(self, request: web.Request) -> web.Response:
        return web.json_response({"input_tokens": 10})

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        items = []
        for message in said["messages"]:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if part["type"] == "tool_use":
                    items.append(Item("call", part["name"]))
                elif part["type"] == "tool_result":
                    items.append(Item("tool", _flat(part.get("content"))))
                elif part["type"] == "text" and message["role"] != "assistant":
                    items.append(Item("user", part["text"]))
        answer = await self._decide(items, [tool["name"] for tool in said.get("tools", ())])
        block: dict[str, Any] = {"type": "text", "text": ""}
        delta: dict[str, Any] = {"type": "text_delta", "text": answer.text}
        if answer.tool is not None:
            block = {"type": "tool_use", "id": f"toolu_{answer.number}", "name": answer.tool, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": answer.arguments}
        reason = "end_turn" if answer.tool is None else "tool_use"
        usage = {"input_tokens": 10, "output_tokens": 5}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": said["model"], "usage": usage}
        if not said.get("stream"):
            whole = {
                **block,
                **({"text": answer.text} if answer.tool is None else {"input": json.loads(answer.arguments)}),
            }
            return web.json_response({**message, "content": [whole], "stop_reason": reason, "stop_sequence": None})
        start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
        return await _events(
            request,
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        )

    # -- OpenAI --------------------------------------------------------------------------------------------------------

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        items = []
        given = said["input"]
        for part in [{"role": "user", "content": given}] if isinstance(given, str) else given:
            kind = part.get("type", "message")
            if kind in ("function_call", "custom_tool_call"):
                items.append(Item("call", f"{part.get('namespace', '')}{part['name']}"))
            elif kind.endswith("call_output"):
                items.append(Item("tool", _flat(part.get("output"))))
            elif kind == "message" and part["role"] != "assistant":
                items.append(Item("user", _flat(part["content"])))
        spaces: dict[str, str] = {}
        for tool in said.get("tools", ()):
            if tool["type"] == "function":
                spaces[tool["name"]] = ""
            for inner in tool.get("tools", ()) if tool["type"] == "namespace" else ():
                spaces[inner["name"]] = tool["name"]
        answer = await self._decide(items, list(spaces))
        output: dict[str, Any] = {
            "type": "message",
            "role": "assistant",
            "id": f"msg_{answer.number}",
            "content": [{"type": "output_text", "text": answer.text, "annotations": []}],
        }
        if answer.tool is not None:
            call = {"type": "function_call", "id": f"fc_{answer.number}", "call_id": answer.id, "name": answer.tool}
            output = {**call, "arguments": answer.arguments}
            if spaces[answer.tool]:
                output["namespace"] = spaces[answer.tool]
        usage = {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 15,
        }
        response = {"id": "resp_1", "object": "response", "model": said["model"]}
        return await _events(
            request,
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": output},
            {"type": "response.output_item.done", "output_index": 0, "item": output},
            {
                "type": "response.completed",
                "response": {**response, "status": "completed", "output": [output], "usage": usage},
            },
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        items = []
        for message in said["messages"]:
            for call in message.get("tool_calls") or ():
                function = call["function"]
                by_id = function["name"] == _BY_ID
                items.append(Item("call", json.loads(function["arguments"])["id"] if by_id else function["name"]))
            if message["role"] in ("user", "tool"):
                items.append(Item(message["role"], _flat(message["content"])))
        answer = await self._decide(items, [tool["function"]["name"] for tool in said.get("tools", ())])
        delta: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.tool is not None:
            function = {"name": answer.tool, "arguments": answer.arguments}
            delta = {
                "role": "assistant",
                "tool_calls": [{"index": 0, "id": answer.id, "type": "function", "function": function}],
            }
        reason = "stop" if answer.tool is None else "tool_calls"
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        chunk = {"id": "chat_1", "object": "chat.completion.chunk", "created": 0, "model": said["model"]}
        if not said.get("stream"):
            choice = {"index": 0, "message": delta, "finish_reason": reason}
            return web.json_response({**chunk, "object": "chat.completion", "choices": [choice], "usage": usage})
        return await _events(
            request,
            {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
            named=False,
            end=b"data: [DONE]\n\n",
        )

    # -- Google --------------------------------------------------------------------------------------------------------

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        call = request.match_info["call"]
        if call.endswith(":countTokens"):
            return web.json_response({"totalTokens": 10})
        items = []
        for content in said["contents"]:
            for part in content["parts"]:
                if "functionCall" in part:
                    items.append(Item("call", part["functionCall"]["name"]))
                elif "functionResponse" in part:
                    items.append(Item("tool", _flat(part["functionResponse"]["response"])))
                elif "text" in part and content["role"] == "user":
                    items.append(Item("user", part["text"]))
        tools = [one["name"] for tool in said.get("tools", ()) for one in tool.get("functionDeclarations", ())]
        answer = await self._decide(items, tools)
        said_part: dict[str, Any] = {"text": answer.text}
        if answer.tool is not None:
            said_part = {"functionCall": {"name": answer.tool, "args": json.loads(answer.arguments), "id": answer.id}}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        candidate = {"content": {"role": "model", "parts": [said_part]}, "finishReason": "STOP", "index": 0}
        body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"}
        if "stream" not in call:
            return web.json_response(body)
        return await _events(request, body, named=False)


def _flat(content: Any) -> str:
    """Return all texts of a content as one."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(map(_flat, content))
    if isinstance(content, dict):
        return "\n".join(_flat(value) for value in content.values() if isinstance(value, str | list | dict))
    return ""


async def _events(
    request: web.Request, *events: dict[str, Any], named: bool = True, end: bytes = b""
) -> web.StreamResponse:
    """Answer with a stream of server-sent events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for event in events:
        head = f"event: {event['type']}\n" if named else ""
        await response.write(f"{head}data: {json.dumps(event)}\n\n".encode())
    await response.write(end)
    await response.write_eof()
    return response
