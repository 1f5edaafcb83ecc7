"""The composition root: the only place that knows store, relay, routes and doors together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from clawlink.config import ServerConfig
from clawlink.protocol.paths import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.auth import Guard
from clawlink.server.connection import Runner
from clawlink.server.middleware import around, nowhere
from clawlink.server.routes import ALL
from clawlink.server.routes.admin import AUTH_REQUIRED
from clawlink.server.wire import RELAY
from clawlink.store.base import Signals, Store
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals

_SWEEP_SECONDS = 1.0
_log = logging.getLogger("clawlink.server")


def make_app(
    config: ServerConfig,
    *,
    store: Store | None = None,
    signals: Signals | None = None,
    clock: Callable[[], float] = time.time,
) -> web.Application:
    """Return the relay as an aiohttp application. It asks for ``config.token`` if there is one."""
    relay = Relay(
        store or MemoryStore(),
        signals or LocalSignals(),
        config.limits,
        clock=clock,
        require_agent_keys=config.require_agent_keys,
    )
    guard = Guard(config.token, host=config.host, allow_hosts=config.allow_hosts, allow_origins=config.allow_origins)
    app = web.Application(client_max_size=config.limits.max_body_bytes)
    app[RELAY] = relay
    app[AUTH_REQUIRED] = config.token is not None
    for routes in ALL:
        for endpoint, serve in routes.serving.items():
            wrapped = around(serve, relay, guard, route=endpoint.path, open_to_all=endpoint.open)
            app.router.add_route(endpoint.method, _pattern(endpoint), wrapped)
    app.router.add_route("*", "/{rest:.*}", around(nowhere, relay, guard, route="none", open_to_all=False))
    app.cleanup_ctx.append(_sweeping)
    return app


def make_runner(app: web.Application, *, shutdown_timeout: float = 1.0) -> web.AppRunner:
    """Return the runner: a client that hangs up cancels its request, so that it takes no lease with it."""
    return Runner(
        app, handler_cancellation=True, access_log=None, handle_signals=False, shutdown_timeout=shutdown_timeout
    )


def _pattern(endpoint: Endpoint) -> str:
    """Let the parameter of a path have slashes: ids and keys may."""
    return endpoint.path.replace("}", ":.+}")


async def _sweeping(app: web.Application) -> AsyncIterator[None]:
    async def sweep() -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await app[RELAY].janitor.sweep()
            except Exception:
                _log.exception("the janitor failed; it goes on")

    sweeper = asyncio.create_task(sweep())
    yield
    sweeper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sweeper
