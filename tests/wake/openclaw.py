"""A stand-in for the gateway of OpenClaw, with the hooks that its documents and its source describe.

It rests on https://docs.openclaw.ai/automation/cron-jobs/webhooks: "hooks.path defaults to /hooks"; the token comes by
``Authorization: Bearer`` or ``x-openclaw-token``, and "query-string tokens are rejected (``?token=...`` returns 400)";
``POST /hooks/wake {"text", "mode": "now" | "next-heartbeat"}`` answers 200 and adds a system event to the main session;
``POST /hooks/agent {"message", ...}`` answers with ``{"ok": true, "runId"}``, and a repeat with the same
``Idempotency-Key`` is the same run; a body above 256 KiB is 413. OpenClaw 2026.9.6 took ``/hooks/wake`` so.
"""

from __future__ import annotations

import hmac
import json
from types import TracebackType
from typing import Any

from aiohttp import web

from clawlink.wake.openclaw import Gateway

MAX_BODY = 256 * 1024


class OpenClawStandIn:
    """A gateway: ``lines`` of the main session, ``runs`` by their keys, and ``scripted`` answers that come first.

    It answers 503 to a run whose message ends as one of ``not_now``.
    ``async with OpenClawStandIn() as openclaw``: ``openclaw.gateway`` has address and token.
    """

    def __init__(self, token: str = "hook-token", path: str = "/hooks") -> None:
        self.token = token
        self.lines: list[tuple[str, str]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.scripted: list[web.Response] = []
        self.not_now: tuple[str, ...] = ()
        self.asked = 0
        app = web.Application(client_max_size=4 * MAX_BODY)
        app.router.add_post(path + "/{hook}", self._hook)
        self._path = path
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> OpenClawStandIn:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self.gateway = Gateway(self.url + self._path, self.token)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _hook(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.scripted:
            return self.scripted.pop(0)
        if "token" in request.query:
            return _refused(400, "token in the query")
        given = request.headers.get("x-openclaw-token") or request.headers.get("Authorization", "").removeprefix(
            "Bearer "
        )
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return web.Response(status=401, text="Unauthorized")
        if (request.content_length or 0) > MAX_BODY:
            return _refused(413, "payload too large")
        try:
            said = json.loads(await request.read())
        except ValueError:
            return _refused(400, "invalid json")
        hook = request.match_info["hook"]
        if hook == "wake":
            if not isinstance(said.get("text"), str) or not said["text"].strip():
                return _refused(400, "text required")
            self.lines.append((said["text"], said.get("mode", "now")))
            return web.json_response({"ok": True, "mode": said.get("mode", "now")})
        if hook == "agent":
            if not isinstance(said.get("message"), str) or not said["message"].strip():
                return _refused(400, "message required")
            if said["message"].endswith(self.not_now):
                return _refused(503, "not now")
            key = request.headers.get("Idempotency-Key", f"none-{self.asked}")
            self.runs.setdefault(key, said)
            return web.json_response({"ok": True, "runId": f"run-{list(self.runs).index(key)}"}, status=202)
        return web.Response(status=404, text="Not Found")


def _refused(status: int, error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error}, status=status)
