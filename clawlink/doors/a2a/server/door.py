"""The door: its parts, and their addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from clawlink.config import ServerConfig
from clawlink.doors.a2a import Settings, cards
from clawlink.doors.a2a.server.bindings import Bindings
from clawlink.doors.a2a.server.bodies import Bodies
from clawlink.doors.a2a.server.callers import Callers
from clawlink.doors.a2a.server.calls import Calls
from clawlink.doors.a2a.server.files import Files
from clawlink.doors.a2a.server.methods import Methods
from clawlink.doors.a2a.server.push import Push
from clawlink.doors.a2a.server.sites import Sites
from clawlink.doors.registry import OpenDoor
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.server.request import Handler

if TYPE_CHECKING:
    from clawlink.doors.a2a.server.remotes import Remotes
    from clawlink.doors.a2a.wire.signatures import Key

# The door looks at tokens itself: a client of A2A has one of its own.
CARD = Endpoint("a2a_card", "GET", cards.CARD_PATH, "The relay's own card.", None, open=True, text=True)
CATALOG = Endpoint("a2a_catalog", "GET", cards.CATALOG_PATH, "The cards of all agents.", None, open=True, text=True)
KEYS = Endpoint("a2a_keys", "GET", cards.KEYS_PATH, "The key that signs cards.", None, open=True, text=True)


def _endpoints(name: str, path: str, summary: str) -> list[Endpoint]:
    return [
        Endpoint(f"{name}_{method.lower()}", method, path, summary, None, open=True, text=True)
        for method in ("GET", "POST", "DELETE")
    ]


AGENT = _endpoints("a2a_agent", cards.AGENTS + "{rest}", "An agent, as A2A has it.")
POOL = _endpoints("a2a_pool", cards.POOLS + "{rest}", "The agents with a capability, as one agent of A2A.")
OWN = [
    *_endpoints("a2a_relay_in", cards.RELAY + "/{rest}", "The relay's own agent, as A2A has it."),
    Endpoint("a2a_relay", "POST", cards.RELAY, "The relay's own agent, as A2A has it.", None, open=True, text=True),
    Endpoint("a2a_relay_root", "POST", cards.RELAY + "/", "The same.", None, open=True, text=True),
]


def _remotes(relay: Relay, file: str) -> Remotes:
    """Return the remote agents of a file. Their modules are loaded by those relays alone that have some."""
    from clawlink.doors.a2a.server.remotes import Remotes

    return Remotes(relay, file)


class A2AServer(OpenDoor):
    """A2A in front of one relay."""

    def __init__(self, relay: Relay, config: ServerConfig, settings: Settings, *, key: Key | None = None) -> None:
        self.relay = relay
        tokens = [] if config.token is None else [config.token]
        if tokens and config.admin_token is not None:
            tokens.append(config.admin_token)
        self.callers = Callers(relay, tokens, settings.clients)
        self.sites = Sites(relay, config, self.callers, settings.url, key)
        self._key = key
        files = Files(relay)
        calls = Calls(relay, files, wait=settings.a2a_wait)
        self.push = Push(relay, calls, self.sites.url_of, private=settings.private_webhooks)
        self.remotes = None if settings.agents is None else _remotes(relay, settings.agents)
        methods = Methods(relay, self.sites, calls, self.push)
        bodies = Bodies(relay, max_body=settings.a2a_max_body)
        self.bindings = Bindings(relay, self.sites, calls, files, methods, bodies)

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        yield CARD, self.sites.relay_card
        yield CATALOG, self.sites.catalog
        if self._key is not None:
            yield KEYS, self.sites.keys
        for endpoint in AGENT:
            yield endpoint, self.bindings.serve
        for endpoint in POOL:
            yield endpoint, partial(self.bindings.serve, pools=True)
        for endpoint in OWN:
            yield endpoint, self.bindings.serve_relay

    async def start(self) -> None:
        await self.callers.start()
        await self.upkeep(self.relay.clock())

    async def upkeep(self, now: float) -> None:
        await self.callers.upkeep(now)
        await self.push.upkeep()
        if self.remotes is not None:
            await self.remotes.upkeep(now)

    async def close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.callers.close)
            stack.push_async_callback(self.push.close)
            if self.remotes is not None:
                await self.remotes.close()

    async def info(self) -> dict[str, Any]:
        return {
            "clients": self.callers.count,
            "webhooks": self.push.count,
            "remote_agents": 0 if self.remotes is None else self.remotes.count,
            "errands": 0 if self.remotes is None else self.remotes.forwarded_tasks,
        }
