"""The composition root: the only place that knows store, relay, routes and doors together. No door by its name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from clawlink.config import METADATA, OFF, ServerConfig
from clawlink.doors.registry import OpenDoor, Opening, doors, limit_fields, settings_of
from clawlink.errors import ClawLinkError
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.relay.timestamps import RelayTime, steady_clock
from clawlink.server.accepting import Acceptor
from clawlink.server.address import Addresses, network
from clawlink.server.auth import Guard
from clawlink.server.ceiling import ceiling_of, open_files
from clawlink.server.connection import Server
from clawlink.server.flow import UnreadReplies
from clawlink.server.json_endpoint import SharedAnswers, json_routes
from clawlink.server.live import Live
from clawlink.server.page_files import Files, PageRoutes
from clawlink.server.page_sessions import PageSessions
from clawlink.server.request import Handler
from clawlink.server.router import Router
from clawlink.server.routes import ALL
from clawlink.server.sessions import Sessions
from clawlink.server.sse import EventStreams
from clawlink.server.tickets import Tickets
from clawlink.server.websocket import WebsocketEndpoint
from clawlink.server.ws_connection import Websockets
from clawlink.store.base import Store
from clawlink.store.blobs import LocalBlobs
from clawlink.store.contents import Blobs
from clawlink.store.events import Signals
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals

if TYPE_CHECKING:
    from clawlink.store.sqlite.folder import DataFolder
    from clawlink.store.sqlite.store import SqliteStore
    from clawlink.store.valkey.mesh import Mesh

_SWEEP_SECONDS = 0.5
# Relay time gains this much on the event loop's only while the machine sleeps.
_SLEPT_SECONDS = 1.0
# A sweep that comes this late heard no agent meanwhile: the process stood still, or the machine slept.
_UNHEARD_SECONDS = 5.0
# Together with aiohttp's time to close connections this stays below the five seconds of draining.
_GRACE_SECONDS, _GRACE_STEP_SECONDS = 2.0, 0.05
# A client that is quiet for this long is not about to send a request: it sees the end of its connection before that.
_QUIET_SECONDS = 0.5
# In the end each connection has this long for a request on its way. Its reply says that it is the last.
_LAST_SECONDS, _LAST_QUIET_SECONDS = 0.3, 0.1
_log = logging.getLogger("clawlink.server")


class App:
    """A relay behind HTTP: made here, started once, stopped once. It asks for ``config.token`` if there is one."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        store: Store | None = None,
        signals: Signals | None = None,
        clock: Callable[[], float] | None = None,
        data: DataFolder | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """``data`` is an open folder that keeps everything, ``mesh`` a server that does.

        The caller closes what it gives, and opens a ``store`` before.
        """
        self._config = config
        self._data = data
        self.mesh = mesh
        self._made_store = store is None and data is None and mesh is None
        stopped_at = None if data is None else data.store.last_alive
        if mesh is not None:
            clock, store = clock or mesh.clock, store or mesh.store
        if clock is None and data is not None and stopped_at is not None:
            clock = RelayTime.after_stop(stopped_at, data.store.last_uptime)
        self._clock = clock or RelayTime()
        self._away = 0.0 if stopped_at is None else max(self._clock() - stopped_at, 0.0)
        self.relay = Relay(
            store or (MemoryStore() if data is None else data.store),
            signals or LocalSignals(),
            config.limits,
            blobs=self._blobs(),
            on_disk=data is not None,
            clock=self._clock.now if isinstance(self._clock, RelayTime) else self._clock,
            require_agent_keys=config.require_agent_keys,
            token_required=config.token is not None,
            secret=config.secret if mesh is None else mesh.secret,
            peers=mesh,
            contents=config.page != METADATA,
        )
        self._addresses = Addresses(network(trusted) for trusted in config.trust_proxies)
        self._websockets = Websockets(max_frame_bytes=config.limits.max_body_bytes)
        self.push = WebsocketEndpoint(self.relay, self._websockets)
        self._tickets = Tickets(time.monotonic)
        self.events = EventStreams(self._tickets)
        self._shared = SharedAnswers()
        self._live = Live(self._shared.forget)
        self._sessions = None if config.page == OFF else Sessions(steady_clock())
        self._cookie_name = f"clawlink-{self.relay.id[:8]}"
        self._pages = None if self._sessions is None else self._page_sessions(self._sessions)
        self.doors = dict(self._opened(wall=clock or time.time))
        self._server: Server | None = None
        self._runner: web.ServerRunner | None = None
        self._acceptor: Acceptor | None = None
        limits = config.limits
        self._ceiling = ceiling_of(limits.max_connections, limits.max_connections_address, open_files())
        self._upkeep: list[asyncio.Task[None]] = []
        self._lead = 0.0

    def _blobs(self) -> Blobs:
        kept = self.mesh or self._data
        return LocalBlobs(self._config.spool, spool_above=self._config.spool_above) if kept is None else kept.blobs

    def _page_sessions(self, sessions: Sessions) -> PageSessions:
        config = self._config
        return PageSessions(
            sessions,
            self.relay,
            cookie_name=self._cookie_name,
            contents=config.page != METADATA,
            secure=config.tls_cert is not None,
        )

    def _opened(self, *, wall: Callable[[], float]) -> Iterator[tuple[str, OpenDoor]]:
        """Open the doors that the configuration asks for."""
        for door in doors():
            settings = settings_of(door, self._config)
            opened = door.open(Opening(self.relay, self._config, settings, self._websockets, wall, self._pages))
            if opened is not None:
                self.relay.doors[door.name] = partial(_told, door.name, opened)
                self.relay.limits_of_doors |= {f.name: getattr(settings, f.name) for f in limit_fields([door])}
                yield door.name, opened

    def _router(self) -> Router:
        config = self._config
        guard = Guard(
            config.token,
            host=config.host,
            tickets=self._tickets,
            allow_hosts=config.allow_hosts,
            allow_origins=config.allow_origins,
            admin_token=config.admin_token,
            local_admin=config.operated_locally,
            sessions=self._sessions,
            cookie_name=self._cookie_name,
        )
        served = (route for routes in ALL for route in routes.serving.items())
        routes = [
            *json_routes(self.relay, self._shared),
            *served,
            *self.push.routes,
            *self.events.routes,
            *self._live.routes,
        ]
        page = None
        if self._pages is not None:
            folders = {name: door.page for name, door in self.doors.items() if door.page is not None}
            page = PageRoutes(self._pages, guard, Files(folders))
            routes += page.routes
        for name, door in self.doors.items():
            routes += _untaken(name, door.routes(), routes)
        return Router(self.relay, guard, routes, page=None if page is None else page.index)

    async def start(self, *, tls: ssl.SSLContext | None = None, close_seconds: float = 1.0) -> int:
        """Listen, and return the port. At the end, requests under way have ``close_seconds`` to finish."""
        config = self._config
        if self._made_store:
            await self.store.open()
        await self.relay.stops.load()
        if self._data is not None:
            self._tell_stop(self._data.store)
            await self.relay.came_back(self._away)
            if isinstance(self._clock, RelayTime):
                self._data.store.keep_time(self._clock, self._clock.uptime)
            else:
                self._data.store.keep_time(self._clock)
        if self.mesh is not None:
            await self.mesh.listen(self.relay.hear, self.relay.missed)
            await self.relay.stops.load()
            await self._leads(self.mesh)
        for door in self.doors.values():
            await door.start()
        self._server = Server(
            self._router(),
            addresses=self._addresses,
            names=config.allow_hosts,
            unread=UnreadReplies(config.limits),
            ceiling=self._ceiling,
            max_body_bytes=config.limits.max_body_bytes,
        )
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=close_seconds)
        await self._runner.setup()
        self._acceptor = Acceptor(
            self._server.connection, self._ceiling, self._addresses, tls=tls, complain=self._complain
        )
        port = await self._acceptor.listen(config.host, config.port)
        self._lead = self._clock() - asyncio.get_running_loop().time()
        self._upkeep = [asyncio.create_task(self._tend()), asyncio.create_task(self._sweep())]
        return port

    @property
    def store(self) -> Store:
        """The store of the records, which the caller opens and closes if it gave it."""
        return self.relay.core.store

    @property
    def connections(self) -> int:
        """How many clients are connected at this moment."""
        return 0 if self._server is None else len(self._server.connections)

    async def grace(self) -> None:
        """Take the acks and answers of connected agents for a moment, and finish the requests of all peers.

        End quiet connections of others. Return once no peer is left.
        """
        if self._server is None or self._acceptor is None:
            return
        await self._end_quiet(self._server, _GRACE_SECONDS, _QUIET_SECONDS)
        self._server.ending = True
        await self._acceptor.finish()
        await self._end_quiet(self._server, _LAST_SECONDS, _LAST_QUIET_SECONDS)

    async def _end_quiet(self, server: Server, seconds: float, quiet: float) -> None:
        """End connections as they become quiet, until none is left or the time is over."""
        loop = asyncio.get_running_loop()
        began = now = loop.time()
        while self.connections and now < began + seconds:  # no count of steps: each may take long on a loaded machine
            if now >= began + quiet:
                await server.end_quiet(now - quiet)
            await asyncio.sleep(_GRACE_STEP_SECONDS)
            now = loop.time()

    async def stop(self) -> None:
        """Close all connections and stop listening."""
        async with contextlib.AsyncExitStack() as last_to_first:  # each is done, even if the one before is cancelled
            if self._made_store:
                last_to_first.push_async_callback(self.store.close)
            last_to_first.callback(self.relay.close)
            # A connection that ends tells whether its last reply was read.
            last_to_first.push_async_callback(self.relay.finished)
            if self._runner is not None:
                last_to_first.push_async_callback(self._runner.cleanup)
            if self._acceptor is not None:
                last_to_first.push_async_callback(self._acceptor.close)
            for name, door in reversed(self.doors.items()):
                last_to_first.push_async_callback(self.relay.janitor.step, f"close {name}", door.close)
            last_to_first.push_async_callback(self.events.stop)
            for task in self._upkeep:
                task.cancel()
            if self._upkeep:
                await asyncio.wait(self._upkeep)

    async def _tend(self) -> None:
        """Look after the connections, also while a sweep takes long."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await self.relay.janitor.step("time", self._look_at_time)
            await self.relay.janitor.step("load", self._sample)
            await self.relay.janitor.step("connections", self._websockets.tend, _SWEEP_SECONDS)
            await self.relay.janitor.step("push", self.push.tend)
            await self.relay.janitor.step("places", self._end_late_connections)
            await self.relay.janitor.step("logs", self._write_logs)
            for name, door in self.doors.items():
                await self.relay.janitor.step(name, door.upkeep, self.relay.clock())

    async def _sample(self) -> None:
        """Count the traffic and the load for the present minute, whether anybody looks or not."""
        self.relay.overviews.traffic.sample()
        await self.relay.load_views.sample(self._ceiling.count)

    async def _sweep(self) -> None:
        clock = self._clock if isinstance(self._clock, RelayTime) else asyncio.get_running_loop().time
        while True:
            began = clock()
            await asyncio.sleep(_SWEEP_SECONDS)
            if self.mesh is None:
                unheard = clock() - began - _SWEEP_SECONDS
                if unheard >= _UNHEARD_SECONDS:
                    await self.relay.janitor.step("standstill", self._go_on, unheard)
                await self.relay.janitor.sweep()
            elif self.mesh.away is None:
                await self.relay.janitor.step("mesh", self._sweep_mesh, self.mesh)

    async def _go_on(self, unheard: float) -> None:
        """Leave a standstill of this process out of the silence of all agents, before a sweep takes their tasks."""
        _log.warning("goes on after a standstill", extra={"seconds": round(unheard, 1)})
        await self.relay.stood_still(unheard)

    async def _sweep_mesh(self, mesh: Mesh) -> None:
        await self.relay.stops.load()
        leads = await self._leads(mesh)
        await (self.relay.janitor.sweep() if leads else self.relay.janitor.sweep_own())
        await mesh.upkeep(leads=leads)

    async def _leads(self, mesh: Mesh) -> bool:
        """Return True if this relay looks after the records of the mesh.

        If no relay could reach the store for a while, nobody was silent in that time.
        """
        leads, away = await mesh.leads()
        self.relay.core.leads = leads
        if away:
            await self.relay.came_back(away)
        return leads

    async def _write_logs(self) -> None:
        self.relay.refusal_log.tell()
        self.relay.activity_log.tell()

    async def _end_late_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        more = True
        while more:
            more = self._ceiling.tend(now)
            await asyncio.sleep(0)

    def _complain(self, event: str, facts: Mapping[str, str]) -> None:
        self.relay.stats.connections_refused += 1
        self.relay.refusal_log.connection(event, facts)

    def _tell_stop(self, store: SqliteStore) -> None:
        """Log how long no relay ran, and that the system's clock was set meanwhile."""
        if store.last_alive is None or not isinstance(self._clock, RelayTime):
            return
        _log.info("goes on after a stop", extra={"seconds": round(self._away, 1)})
        step = self._clock.step_since(store.last_alive, store.last_uptime)
        if step is not None:
            _log.warning("the system's clock was set while no relay ran", extra={"step": round(step, 1)})

    async def _look_at_time(self) -> None:
        """Log that the system's clock was set. Have all consumers look again once the machine has slept.

        The event loop's timers stand still during a sleep, and leases lapse in it.
        """
        if isinstance(self._clock, RelayTime) and (ahead := self._clock.step()) is not None:
            _log.warning("the system's clock has left relay time, which goes on", extra={"ahead": round(ahead, 1)})
        lead = self._clock() - asyncio.get_running_loop().time()
        if lead - self._lead >= _SLEPT_SECONDS:
            self.relay.look_again()
        self._lead = lead


async def _told(name: str, door: OpenDoor) -> dict[str, Any]:
    """Return a door's facts about itself; an empty dict if it fails."""
    try:
        return await door.info()
    except Exception:
        _log.exception("a door cannot tell about itself", extra={"door": name})
        return {}


def _untaken(
    door: str, routes: Iterable[tuple[Endpoint, Handler]], taken: Iterable[tuple[Endpoint, Handler]]
) -> list[tuple[Endpoint, Handler]]:
    """Return the routes of a door. Raises ClawLinkError for an address that is taken."""
    known = {(endpoint.method, endpoint.path) for endpoint, _ in taken}
    found = list(routes)
    for endpoint, _ in found:
        if (endpoint.method, endpoint.path) in known:
            raise ClawLinkError(
                f"the door {door} serves {endpoint.method} {endpoint.path}, which is taken; uninstall its package, or "
                "one of the two that collide"
            )
    return found
