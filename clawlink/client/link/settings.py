"""What a link is told by its author, and which agent it is: the same as before, where that is kept."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

from clawlink.client.aio import AsyncClient
from clawlink.client.identity import Identities, Saved
from clawlink.client.link.handlers import Handlers
from clawlink.client.link.outbox import Outbox
from clawlink.domain.limits import MAX_ID_LENGTH

_log = logging.getLogger("clawlink.link")


@dataclass(frozen=True)
class Settings:
    """What a link is told; times are in seconds. Without ``identities`` nothing is kept."""

    name: str
    relay: str
    token: str | None
    ca: str | None
    capabilities: list[str] | None
    description: str | None
    identities: Identities | None
    concurrency: int
    lease: float
    handler_timeout: float | None
    drain: float
    timeout: float
    handlers: Handlers
    outbox: Outbox


def acting(settings: Settings) -> AsyncClient:
    """Return a client that acts as the agent that this account was here before, if it was."""
    kept = settings.identities.matching(named=settings.name, relay=settings.relay) if settings.identities else []
    same = [saved for saved in kept if saved.name.casefold() == settings.name.casefold()]
    saved = same[0] if same else None
    return AsyncClient(
        settings.relay,
        token=settings.token or (None if saved is None else saved.token),
        ca=settings.ca or (None if saved is None else saved.ca),
        agent_id=None if saved is None else saved.agent_id,
        agent_key=None if saved is None else saved.agent_key,
        timeout=settings.timeout,
    )


async def register(settings: Settings, client: AsyncClient) -> None:
    """Register, or resume the agent, and keep who it is."""
    subscriptions = settings.handlers.subscriptions
    done = await client.register(
        settings.name,
        capabilities=settings.capabilities,
        description=settings.description,
        machine=socket.gethostname()[:MAX_ID_LENGTH],
        subscriptions=subscriptions,
    )
    if settings.identities is not None:
        saved = Saved(
            name=settings.name,
            agent_id=done.agent.agent_id,
            relay=client.relay,
            token=client.token,
            agent_key=client.agent_key,
            ca=client.ca,
            capabilities=settings.capabilities,
            description=settings.description,
            subscriptions=subscriptions,
        )
        await asyncio.to_thread(settings.identities.save, saved)
    how = "resumed" if done.resumed else "registered"
    _log.info("%s as %r (%s) at %s", how, settings.name, client.agent_id, client.relay)
