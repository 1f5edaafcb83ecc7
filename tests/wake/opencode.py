"""A stand-in for the HTTP server of opencode.

It rests on the documents of its server, https://opencode.ai/docs/server: ``POST /session/:id/prompt_async`` begins a
turn and answers 204 without a body, and ``GET /session/status`` answers a map of sessions to their status. A run of
opencode 1.18.33 without an account showed that map empty for idle sessions. An unknown session was 404
``{"name": "NotFoundError"}``. Without the password of OPENCODE_SERVER_PASSWORD (Basic, user ``opencode``) the answer
was 401. ``GET /session/:id`` has the agent and the model of the last prompt, and a prompt without an agent is for the
default one: read in its bundle, and run with a stand-in for a model.
"""

from __future__ import annotations

import base64
from types import TracebackType
from typing import Any

from aiohttp import web


class OpencodeStandIn:
    """A server with one session, ``ses_1``: ``turns`` are the texts of its prompts, ``busy`` says that it works.

    ``agents`` are the agent and the model of each prompt, None where it names none.
    """

    def __init__(self, password: str | None = None) -> None:
        self.turns: list[str] = []
        self.agents: list[tuple[Any, Any]] = []
        self.busy = False
        self.looks = 0
        self._auth = None if password is None else "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode()
        app = web.Application()
        app.router.add_get("/session/status", self._status)
        app.router.add_get("/session/{id}", self._session)
        app.router.add_post("/session/{id}/prompt_async", self._prompt)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> OpencodeStandIn:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def _refused(self, request: web.Request) -> web.Response | None:
        wrong = self._auth is not None and request.headers.get("Authorization") != self._auth
        return web.Response(status=401) if wrong else None

    async def _status(self, request: web.Request) -> web.Response:
        self.looks += 1
        return self._refused(request) or web.json_response({"ses_1": {"type": "busy"}} if self.busy else {})

    async def _session(self, request: web.Request) -> web.Response:
        model = {"id": "m", "providerID": "p", "variant": "default"}
        return self._refused(request) or web.json_response({"id": "ses_1", "agent": "plan", "model": model})

    async def _prompt(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if request.match_info["id"] != "ses_1":
            return web.json_response({"name": "NotFoundError", "data": {"message": "Session not found"}}, status=404)
        said = await request.json()
        self.agents.append((said.get("agent"), said.get("model")))
        self.turns += [part["text"] for part in said["parts"] if part["type"] == "text"]
        return web.Response(status=204)
