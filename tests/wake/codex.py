"""A stand-in for ``codex app-server --listen unix://PATH``.

It rests on a run of Codex 0.171.0 without an account: a websocket over the socket, a JSON-RPC message a frame without
``jsonrpc``; ``initialize`` and ``initialized`` come first; news (``configWarning``) come between; ``turn/start`` of a
thread that is not loaded is the error -32600 ``thread not found: ID``, after ``thread/resume`` it answers with a turn
``inProgress`` and ``turn/started`` follows; a thread that works has the status ``active``. A model was not asked.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import WSMsgType, web

THREAD = "01a2297b-c550-75b2-a50e-1020169b10a0"


class CodexStandIn:
    """An app-server with one thread: ``turns`` are the texts that began one, ``asked`` the methods in their order."""

    def __init__(self, path: Path, *, loaded: bool = True) -> None:
        self.endpoint = f"unix://{path}"
        self.turns: list[str] = []
        self.asked: list[str] = []
        self.loaded = loaded
        self.active = False
        self.refuses: str | None = None
        app = web.Application()
        app.router.add_get("/", self._talk)
        self._runner = web.AppRunner(app)
        self._path = str(path)

    async def __aenter__(self) -> CodexStandIn:
        await self._runner.setup()
        await web.UnixSite(self._runner, self._path).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        greeted = False
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                break
            said = frame.json()
            self.asked.append(said["method"])
            if said["method"] == "initialized":
                greeted = True
                continue
            await socket.send_json({"method": "configWarning", "params": {"summary": "no bubblewrap"}})
            # A question to clients with a screen, whose id is the server's own.
            await socket.send_json({"id": said["id"], "method": "item/tool/requestUserInput", "params": {}})
            is_known = said["method"] == "initialize" or greeted
            answer = (
                self._answer(said["method"], said["params"]) if is_known else {"error": {"message": "Not initialized"}}
            )
            await socket.send_json({"id": said["id"], **answer})
        return socket

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            return {"result": {"userAgent": params["clientInfo"]["name"] + "/0.171.0"}}
        if params.get("threadId") != THREAD:
            return {"error": {"code": -32600, "message": f"no rollout found for thread id {params.get('threadId')}"}}
        thread = {"id": THREAD, "status": {"type": "active", "activeFlags": []} if self.active else {"type": "idle"}}
        if method == "thread/read":
            return {"result": {"thread": thread if self.loaded else {**thread, "status": {"type": "notLoaded"}}}}
        if method == "thread/resume":
            self.loaded = True
            return {"result": {"thread": thread}}
        if self.refuses is not None:
            return {"error": {"code": -32001, "message": self.refuses}}
        if not self.loaded:
            return {"error": {"code": -32600, "message": f"thread not found: {THREAD}"}}
        self.turns += [part["text"] for part in params["input"]]
        return {"result": {"turn": {"id": "turn-1", "status": "inProgress", "items": []}}}
