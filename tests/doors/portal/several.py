"""A portal of several relays: what a proxy before them does, and the relays as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
from aiohttp import web

from tests.conftest import RelayProcess, Running, Start
from tests.doors.portal.conftest import OWNER, PASSWORD, Own
from tests.ports import free_port
from tests.valkey import Server
from tests.waiting import eventually

LEASE = 2.5
"""The seconds of a lease: a busy machine may keep a relay for a second from doing anything."""
ENV = {"AGENTP2P_API_KEY": OWNER, "CLAWLINK_PORTAL_PASSWORD": PASSWORD, "CLAWLINK_TOKEN": "t"}


class Front:
    """Asks one relay after the other, as nginx with ``proxy_next_upstream error timeout http_503 non_idempotent``."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request)
        body = await request.read()
        headers = {n: v for n, v in request.headers.items() if n in ("Authorization", "Content-Type", "Range")}
        timeout = aiohttp.ClientTimeout(sock_read=LEASE)
        for node in self.nodes:
            url = node + request.raw_path
            assert self._session is not None
            try:
                ask = self._session.request(request.method, url, data=body, headers=headers, timeout=timeout)
                async with ask as told:
                    if told.status != 503:
                        return web.Response(body=await told.read(), status=told.status, content_type=told.content_type)
            except (aiohttp.ClientError, asyncio.TimeoutError):
                continue
        return web.json_response({"detail": "no relay takes it", "code": "unavailable"}, status=503)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        for node in self.nodes:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                there = await asyncio.wait_for(self._session.ws_connect(node + request.raw_path), LEASE)
                here = web.WebSocketResponse()
                await here.prepare(request)
                passing = [asyncio.create_task(_pass(*way)) for way in ((here, there), (there, here))]
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(here.close(), there.close())
                await asyncio.gather(*passing)
                return here
        return web.Response(status=503)


async def _pass(source: Any, target: Any) -> None:
    async for message in source:
        with contextlib.suppress(ConnectionError):
            await target.send_str(message.data)


class Nodes:
    """Two relays as processes, which are one portal behind a front."""

    def __init__(self, start: Start, session: aiohttp.ClientSession, front: Front, server: Server, prefix: str) -> None:
        self._start = start
        self._session = session
        self._front = front
        self.prefix = prefix
        self._flags = ("--store", server.url, "--store-prefix", prefix, "--portal-lease", str(LEASE))
        running: Any = Running(front.url, None, session)  # type: ignore[arg-type]
        self.own = Own(running)
        self._begun: list[tuple[str, ...]] = []
        self.processes: list[RelayProcess] = []
        self.nodes: list[Own] = []

    def begin(self, *flags: str) -> Own:
        """Start another relay, and return it."""
        self._begun.append(("--portal", self._front.url, "--port", str(free_port()), *self._flags, *flags))
        process = self._start(*self._begun[-1], env=ENV)
        self.processes.append(process)
        node: Any = Running(process.url, None, self._session)  # type: ignore[arg-type]
        self.nodes.append(Own(node))
        self._front.nodes.append(process.url)
        return self.nodes[-1]

    def begin_again(self, number: int) -> None:
        """Start a relay again that was killed."""
        self.processes[number] = self._start(*self._begun[number], env=ENV)

    async def active(self, number: int) -> None:
        """Wait until this relay is the active one."""

        async def ask() -> bool:
            return await is_active(self.nodes[number])

        await eventually(ask)


async def is_active(node: Own) -> bool:
    """Return True if this relay says that it is the active one."""
    told = (await node.ask("GET", "/", key="t"))[1]
    return bool(told["doors"]["portal"]["active"])
