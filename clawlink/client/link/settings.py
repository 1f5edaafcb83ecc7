"""The settings of a link, and its agent: the same as before, if an identity is kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.client.calls import Call
from clawlink.client.identity import Identities, Saved
from clawlink.client.link.handlers import Handlers
from clawlink.client.link.outbox import Outbox
from clawlink.client.proof import forget_moved, kept_elsewhere
from clawlink.client.registration import kept_as
from clawlink.domain.limits import MAX_ID_LENGTH
from clawlink.errors import ClawLinkError

_log = logging.getLogger("clawlink.link")


@dataclass(frozen=True)
class Settings:
    """The settings of a link; times are in seconds. Without ``identities`` nothing is kept."""

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
    outbox: Outbox[Call[Any]]


def acting(settings: Settings) -> AsyncClient:
    """Return a client that acts as the agent that this account was here before, if it was."""
    saved = _kept(settings)
    return AsyncClient(
        settings.relay,
        token=settings.token or (None if saved is None else saved.token),
        ca=settings.ca or (None if saved is None else saved.ca),
        agent_id=None if saved is None else saved.agent_id,
        agent_key=None if saved is None else saved.agent_key,
        timeout=settings.timeout,
    )


def _kept(settings: Settings) -> Saved | None:
    return None if settings.identities is None else kept_as(settings.identities, settings.name, settings.relay)


def _elsewhere(settings: Settings) -> Saved | None:
    if settings.identities is None:
        return None
    return kept_elsewhere(
        settings.identities,
        settings.name,
        settings.relay,
        ca=settings.ca,
        timeout=settings.timeout,
        warn=_log.warning,
    )


async def register(settings: Settings, client: AsyncClient) -> None:
    """Register or resume the agent, and keep its identity: a name is claimed only if its key can be kept."""
    if settings.identities is None:
        await _register(settings, client)
        return
    placing = settings.identities.place(settings.name)
    place = await asyncio.to_thread(placing.__enter__)
    try:
        new = client.agent_id is None
        saved = await asyncio.to_thread(_kept, settings)  # another process may have been faster
        if new and saved is None:
            saved = await asyncio.to_thread(_elsewhere, settings)
        if new and saved is not None:
            new, client.identity.agent_id, client.identity.agent_key = False, saved.agent_id, saved.agent_key
            client.token, client.ca = client.token or saved.token, client.ca or saved.ca
        await _register(settings, client, await asyncio.to_thread(place.key, client.relay) if new else None)
        try:
            await asyncio.to_thread(place.keep, await _saved(settings, client, saved))
            await asyncio.to_thread(forget_moved, settings.identities, saved, client.relay)
        except OSError:
            if new:
                with contextlib.suppress(ClawLinkError):
                    await client.leave()
            raise
    finally:
        await asyncio.to_thread(placing.__exit__, None, None, None)


async def _register(settings: Settings, client: AsyncClient, key: str | None = None) -> None:
    done = await client.register(
        settings.name,
        capabilities=settings.capabilities,
        description=settings.description,
        machine=socket.gethostname()[:MAX_ID_LENGTH],
        subscriptions=settings.handlers.subscriptions,
        key=key,
    )
    how = "resumed" if done.resumed else "registered"
    _log.info("%s as %r (%s) at %s", how, settings.name, client.agent_id, client.relay)


async def _saved(settings: Settings, client: AsyncClient, before: Saved | None) -> Saved:
    relay_id = None
    if client.relay_key is not None:
        with contextlib.suppress(ClawLinkError):
            relay_id = (await client.health()).relay_id or None
    return Saved(
        name=settings.name,
        agent_id=client.identity.require(),
        relay=client.relay,
        token=client.token,
        agent_key=client.agent_key,
        ca=client.ca,
        capabilities=settings.capabilities,
        description=settings.description,
        subscriptions=settings.handlers.subscriptions,
        notices=None if before is None else before.notices,
        relay_id=relay_id,
        relay_key=client.relay_key,
    )
