"""Registering with a key that outlives the process: the identity is kept where those of the command line are."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from clawlink.client.identity import Identities, Saved, home
from clawlink.domain.agent import fold
from clawlink.errors import BadRequest, ClawLinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clawlink.client.sync import Client
    from clawlink.protocol.replies import Registered

_log = logging.getLogger("clawlink.client")


def kept_as(identities: Identities, name: str, relay: str) -> Saved | None:
    """Return the identity of this name on this relay, None if none is kept."""
    found = identities.matching(named=name, relay=relay)
    return next((saved for saved in found if fold(saved.name) == fold(name)), None)


def register_and_keep(
    client: Client, name: str | None, register: Callable[[str | None], Registered], **said: Any
) -> Registered:
    """Register as the agent that this account kept under this name, and keep its identity.

    ``register`` sends the call with an idempotency key, and ``said`` is the agent's description of itself. The file is
    made first, so that the key of a claimed name can be kept. Raises OSError, NoHome and IdentityUnreadable.
    """
    if not name:
        raise BadRequest("a client with keep=True registers under a name: give one", field="name")
    from clawlink.client.proof import forget_moved

    identities, me = Identities(home()), client.identity
    with identities.place(name) as place:
        new = me.agent_id is None
        saved = (kept_as(identities, name, client.relay) or _elsewhere(identities, name, client)) if new else None
        if saved is not None:
            new, me.agent_id, me.agent_key = False, saved.agent_id, saved.agent_key
            client.token, client.ca = client.token or saved.token, client.ca or saved.ca
        done = register(place.key(client.relay) if new and said.get("claim", True) else None)
        relay_id = None
        if client.relay_key is not None:
            with contextlib.suppress(ClawLinkError):
                relay_id = client.health().relay_id or None
        try:
            place.keep(
                Saved(
                    name=done.agent.name,
                    agent_id=done.agent.agent_id,
                    relay=client.relay,
                    token=client.token,
                    agent_key=client.agent_key,
                    ca=client.ca,
                    capabilities=list(done.agent.capabilities),
                    description=done.agent.description,
                    subscriptions=said.get("subscriptions"),
                    notices=said.get("notices"),
                    relay_id=relay_id,
                    relay_key=client.relay_key,
                )
            )
            forget_moved(identities, saved, client.relay)
        except OSError:
            if new:
                with contextlib.suppress(ClawLinkError):
                    client.leave()
            raise
    return done


def _elsewhere(identities: Identities, name: str, client: Client) -> Saved | None:
    from clawlink.client.proof import kept_elsewhere

    return kept_elsewhere(identities, name, client.relay, ca=client.ca, timeout=client.timeout, warn=_log.warning)
