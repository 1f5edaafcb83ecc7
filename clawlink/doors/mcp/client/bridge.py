"""The bridge: MCP over standard input and output on one side, ``/mcp`` of a relay on the other.

The bridge itself answers all that needs no relay, so that a client starts while the relay is away. It does the tools
for files, because their paths are on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clawlink.client.aio import AsyncClient
from clawlink.client.calls import Call
from clawlink.doors.mcp.client import files
from clawlink.doors.mcp.wire import rpc
from clawlink.doors.mcp.wire.quoting import MAX_MAIL, mail_of, told
from clawlink.doors.mcp.wire.rpc import MCP
from clawlink.errors import ClawLinkError, NotARelay
from clawlink.protocol.reading import read_fields, why_no_json
from clawlink.timeouts import wait_for

Write = Callable[[bytes], None]
Open = Callable[[str | None], AsyncClient]
# The argument by which the plugin of opencode names the session that calls. All its sessions share one server.
SESSION = "clawlink_session"

# Any longer line is no message of a client that works.
MAX_LINE_BYTES = 8 * 2**20
# A result waits this long for the look at the mailbox.
_MAIL_SECONDS = 2.0
_encoder = msgspec.json.Encoder()


class Bridge:
    """Hears lines and writes answers, each when it is there.

    ``open`` returns the client of the session that calls, or raises ClawLinkError. It runs in a thread.
    """

    def __init__(self, open: Open, write: Write) -> None:
        self._open = open
        self._opening = asyncio.Lock()
        self._write = write
        self._clients: set[AsyncClient] = set()
        self._calls: dict[int | str, asyncio.Task[None]] = {}

    async def hear(self, line: bytes) -> None:
        """Take one message. A call of a tool goes on in the background."""
        if not line.strip():
            return
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._answer(rpc.failure(None, rpc.PARSE_ERROR, why_no_json("the message", line, error)))
            return
        heard = rpc.hear(message)
        if isinstance(heard, rpc.Answer):
            if heard.body is not None:
                self._answer(heard.body)
        elif isinstance(heard, rpc.Cancelled):
            if (running := self._calls.get(heard.id)) is not None:
                running.cancel()  # its connection ends, and the relay takes back all that was claimed for it
        else:
            task = asyncio.ensure_future(self._call(heard))
            self._calls[heard.id] = task
            task.add_done_callback(lambda done: self._forget(heard.id, done))

    def _forget(self, id: int | str, task: asyncio.Task[None]) -> None:
        if self._calls.get(id) is task:
            del self._calls[id]

    async def close(self) -> None:
        """End all calls that wait, and the connections."""
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        async with contextlib.AsyncExitStack() as stack:
            for client in self._clients:
                stack.push_async_callback(client.close)
            await asyncio.gather(*calls, return_exceptions=True)

    async def open(self, session: str | None) -> AsyncClient:
        """Return the client of a session, or of the one session of the program. Raises ClawLinkError."""
        async with self._opening:
            client = await asyncio.to_thread(self._open, session)
        self._clients.add(client)
        return client

    async def _call(self, call: rpc.ToolCall | rpc.Query) -> None:
        try:
            call, session = _caller(call)
            client = await self.open(session)
            if isinstance(call, rpc.ToolCall) and call.tool.local:
                ask = read_fields(call.arguments, call.tool.arguments)
                text = told(await _LOCAL[call.tool.name](client, ask))
                self._answer(rpc.result_of(call, text, failed=False, mail=await _mail(client)))
            else:
                answer = await client.perform(forwarded(client, call))
                self._answer({"jsonrpc": "2.0", "id": call.id, **answer})
        except ClawLinkError as error:
            self._refuse(call, {"code": error.code, "error": error.message})
        except OSError as error:
            self._refuse(call, {"code": "os_error", "error": f"{error.strerror or error}: {error.filename}"})

    def _refuse(self, call: rpc.ToolCall | rpc.Query, why: dict[str, Any]) -> None:
        if isinstance(call, rpc.ToolCall):
            self._answer(rpc.result_of(call, told(why), failed=True))
        elif call.method == "resources/list":
            # A program asks for it as it starts, maybe before its session has an agent. Gemini CLI 0.61 then dropped
            # the whole server for an error, with its tools.
            self._answer(rpc.done(call, {"resources": []}))
        else:
            self._answer(rpc.failure(call.id, rpc.REFUSED, why.pop("error"), why))

    def _answer(self, body: dict[str, Any]) -> None:
        self._write(_encoder.encode(body) + b"\n")


async def _mail(client: AsyncClient) -> str | None:
    """Return the note of a result about mail that waits, as the relay itself does for its tools."""
    with contextlib.suppress(ClawLinkError, OSError, asyncio.TimeoutError):  # the file is there all the same
        return mail_of(await wait_for(client.unread(limit=MAX_MAIL), _MAIL_SECONDS))
    return None


def _caller(call: rpc.ToolCall | rpc.Query) -> tuple[rpc.ToolCall | rpc.Query, str | None]:
    """Return a call without the argument that names its session, and that session."""
    if not isinstance(call, rpc.ToolCall) or not isinstance(call.arguments, dict) or SESSION not in call.arguments:
        return call, None
    arguments = dict(call.arguments)
    return call._replace(arguments=arguments), str(arguments.pop(SESSION))


def forwarded(client: AsyncClient, call: rpc.ToolCall | rpc.Query) -> Call[dict[str, Any]]:
    """Return the request to ``/mcp``. With its key it may be sent again after a lost answer."""
    method, wait = "tools/call", None
    params: dict[str, Any]
    name: Any
    if isinstance(call, rpc.ToolCall):
        params, name = {"name": call.tool.name, "arguments": call.arguments}, call.tool.name
        wait = call.arguments.get("wait_seconds") if isinstance(call.arguments, dict) else None
    else:
        method, params = call.method, dict(call.params)
        name = params.get("uri" if method == "resources/read" else "taskId", "")
    headers = {"ClawLink-Agent": client.identity.require(), "Idempotency-Key": secrets.token_hex(16)}
    if call.modern:
        params["_meta"] = rpc.meta_of(call.can)
        headers |= rpc.headers_of(method, name)
    return Call(
        MCP,
        MCP.url(),
        _read,
        _encoder.encode({"jsonrpc": "2.0", "id": secrets.token_hex(8), "method": method, "params": params}),
        wait=float(wait) if isinstance(wait, int | float) and not isinstance(wait, bool) else 0.0,
        headers=headers,
    )


def _read(body: bytes) -> dict[str, Any]:
    """Return the result or the error of an answer."""
    answer = msgspec.json.decode(body, type=dict[str, Any])
    for part in ("result", "error"):
        if part in answer:
            return {part: answer[part]}
    raise NotARelay("the answer is not valid MCP")


_LOCAL: dict[str, Callable[[AsyncClient, Any], Awaitable[dict[str, Any]]]] = {
    "relay_share_file": files.share,
    "relay_fetch_file": files.fetch,
}
