"""The addresses of the door: agents, pools and the relay, with their cards and the catalog."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web

from clawlink.config import ServerConfig
from clawlink.domain.agent import Agent
from clawlink.domain.message import AgentCard
from clawlink.doors.a2a import cards
from clawlink.doors.a2a.rules import states
from clawlink.doors.a2a.rules.states import Json, UrlOf
from clawlink.doors.a2a.server.callers import Callers, reserved
from clawlink.doors.a2a.server.calls import Target
from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.shapes import Message
from clawlink.errors import UnknownAgent
from clawlink.protocol import requests
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Request
from clawlink.server.response import Reply

if TYPE_CHECKING:
    from clawlink.doors.a2a.wire.signatures import Key

CARD_SECONDS = 60
_PAGE = 200
_MOST_SIGNED = 1000
_encode = msgspec.json.Encoder().encode


class Sites:
    """Where A2A clients find agents."""

    def __init__(self, relay: Relay, config: ServerConfig, callers: Callers, url: str | None, key: Key | None) -> None:
        """``key`` signs the cards."""
        self._relay = relay
        self._config = config
        self.callers = callers
        self._url = None if url is None else url.rstrip("/")
        self._started_at = relay.clock()
        self._key = key
        self._signed: dict[bytes, Json] = {}

    # -- addresses ---------------------------------------------------------------------------------------------------

    def base(self, request: Request) -> str:
        """Return where clients reach the relay: as the operator says, else this end of the connection.

        Nothing that the request says counts, so a client cannot have others get a false address.
        """
        if self._url is not None:
            return self._url
        config = self._config
        return f"{config.scheme}://{request.reached_at or f'{config.host}:{config.port}'}"

    def url_of(self, base: str, path: str, task_id: str) -> UrlOf:
        """Return the addresses of a task's files, by their keys."""
        return lambda key: f"{base}{path}/tasks/{task_id}/files/{quote(key, safe='')}"

    async def agent(self, named: str) -> Target:
        """Return an agent by its id or name. Raises UnknownAgent, also for clients of A2A, and AmbiguousName."""
        found = await self._relay.agents.resolve(named, field="agent")
        if reserved(found.id) is not None:
            raise UnknownAgent(f"no agent with the id or name {named!r} is registered here", field="agent")
        return Target(states.AGENT + found.id, cards.path_of(found.id), agent=found)

    # -- cards -------------------------------------------------------------------------------------------------------

    async def relay_card(self, relay: Relay, request: Request) -> Reply | web.StreamResponse:
        """Serve the relay's own card, which everybody may see."""
        base = self.base(request)
        url = base + cards.RELAY
        return self._card(
            request, base, cards.relay_card(url, bearer=self.callers.bearer), self._started_at, public=True
        )

    async def card(self, request: Request, target: Target) -> Reply | web.StreamResponse:
        """Serve the card of an agent or a pool."""
        public = not self.callers.bearer
        if target.to == "relay":
            return await self.relay_card(self._relay, request)
        at = self._started_at if target.agent is None else target.agent.resumed_at
        base = self.base(request)
        return self._card(request, base, self._card_of(base, target, None), at, public=public)

    async def extended_card(self, base: str, target: Target) -> Json:
        """Return the card with presence. Raises A2AError for the relay's own agent."""
        if target.agent is not None:
            agents = self._relay.agents
            seen = states.stamp(self._relay.time.iso(target.agent.last_heartbeat))
            return self._sign(
                base, self._card_of(base, target, cards.presence(agents.presence(target.agent).value, seen))
            )
        if target.capability is None:
            raise A2AError("EXTENDED_AGENT_CARD_NOT_CONFIGURED", "the relay's own agent has no extended card")
        found, _ = await self._relay.agents.discover(
            requests.DiscoverQuery(capability=target.capability, status="online")
        )
        return self._sign(base, self._card_of(base, target, cards.online(len(found))))

    def _card_of(self, base: str, target: Target, also: Json | None) -> Json:
        waits = self._relay.limits.message_ttl
        bearer = self.callers.bearer
        agent: Agent | None = target.agent
        if agent is None:
            return cards.pool_card(base + target.path, target.capability or "", bearer=bearer, waits=waits, also=also)
        return cards.agent_card(
            base + target.path, agent.name, agent.description, agent.capabilities, bearer=bearer, waits=waits, also=also
        )

    async def keys(self, relay: Relay, request: Request) -> Reply:
        """Serve the public half of the key that signs cards."""
        keys = [] if self._key is None else [self._key.jwk]
        headers = {"Cache-Control": f"public, max-age={CARD_SECONDS}"}
        return Reply(_encode({"keys": keys}), content_type="application/jwk-set+json", headers=headers)

    def _sign(self, base: str, card: Json) -> Json:
        """Return a card with its signature, the same for the same card, if the relay has a key."""
        if self._key is None:
            return card
        body = _encode(card)
        signed = self._signed.get(body)
        if signed is None:
            if len(self._signed) >= _MOST_SIGNED:
                self._signed.clear()
            signed = self._signed[body] = self._key.sign(card, base + cards.KEYS_PATH)
        return signed

    def _card(self, request: Request, base: str, card: Json, at: float, *, public: bool) -> Reply | web.StreamResponse:
        """Answer with a card, or that it has not changed."""
        body = _encode(v0_3.card(self._sign(base, card)))
        headers = {
            "Cache-Control": f"{'public' if public else 'private'}, max-age={CARD_SECONDS}",
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            "Last-Modified": formatdate(at, usegmt=True),
            **({} if public else {"Vary": "Authorization"}),
        }
        if headers["ETag"] in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        return Reply(body, content_type="application/json", headers=headers)

    # -- lists -------------------------------------------------------------------------------------------------------

    async def catalog(self, relay: Relay, request: Request) -> Reply:
        """List the relay's own card, and those of all agents for a client that may see them."""
        base = self.base(request)
        listed: list[tuple[str, str, list[str]]] = [("", "relay", [])]
        if self.callers.known(request):  # a wrong token is refused here, too, and so cannot be guessed here
            async for agent in self._agents():
                listed.append((cards.path_of(agent.agent_id), quote(agent.agent_id, safe=""), list(agent.capabilities)))
        cached = f"public, max-age={CARD_SECONDS}" if len(listed) == 1 and self.callers.bearer else "private, no-cache"
        headers = {"Cache-Control": cached, "Vary": "Authorization"}
        return Reply(_encode(cards.catalog(base, listed)), content_type="application/ai-catalog+json", headers=headers)

    async def directory(self, base: str, asked: Message) -> Json:
        """Return the message with which the relay's own agent answers: its agents, and the addresses of their cards."""
        listed = [
            {
                "name": agent.name,
                "url": base + cards.path_of(agent.agent_id),
                "card": base + cards.path_of(agent.agent_id) + cards.CARD_PATH,
                "skills": list(agent.capabilities),
            }
            async for agent in self._agents()
        ]
        message: Json = {
            "messageId": self._relay.core.ids.fresh(),
            "role": "ROLE_AGENT",
            "parts": [{"data": {"agents": listed}}],
        }
        return {**message, "contextId": asked.context_id} if asked.context_id else message

    async def _agents(self) -> AsyncIterator[AgentCard]:
        """Give all agents but the clients of A2A."""
        after: str | None = None
        turns = Turns()
        while True:
            ask = requests.DiscoverQuery(limit=_PAGE, after=after)
            found, after = await self._relay.agents.discover(ask)
            for encoded in found:
                agent = msgspec.json.decode(encoded, type=AgentCard)
                await turns.next()
                if reserved(agent.agent_id) is None:
                    yield agent
            if after is None:
                return
