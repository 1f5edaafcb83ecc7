"""The rules by which a request may act as an agent.

A claimed agent has an agent key; a request that acts as it must show that key. An agent that was never claimed works as
in ClawLink 1.0.x: every peer may act as it.
"""

from __future__ import annotations

import hashlib
import hmac

from clawlink.domain.agent import Agent
from clawlink.domain.limits import MAX_AGENT_KEY_LENGTH, MIN_AGENT_KEY_LENGTH
from clawlink.errors import BadRequest, NotAllowed

KEY_HEADER = "ClawLink-Agent-Key"
# The field of the error for a wrong token of the relay; that for a missing token has none.
WRONG_TOKEN = "Authorization"  # noqa: S105 - the name of a header


def hash_key(agent_key: str) -> str:
    """Return the hash of an agent key, which the relay keeps in its place."""
    # Bytes of a header that are no UTF-8 arrive as lone surrogates: a wrong key like any other, not an error.
    return hashlib.sha256(agent_key.encode("utf-8", "surrogatepass")).hexdigest()


def require_agent(agent: Agent, agent_key: str | None, *, field: str) -> None:
    """Refuse to act as ``agent`` without its key, if it has one. ``field`` is where the request named the agent."""
    if agent.key_hash is None:
        return
    if agent_key is None:
        raise NotAllowed(
            f"agent {agent.id} is claimed: acting as it needs its key in the header {KEY_HEADER}", field=field
        )
    if not hmac.compare_digest(hash_key(agent_key), agent.key_hash):
        raise NotAllowed(f"the key in the header {KEY_HEADER} is not that of agent {agent.id}", field=field)


def require_strong(agent_key: str) -> None:
    """Refuse to take a key that can be guessed as an agent's. The relay's own have 43 characters or more."""
    if not MIN_AGENT_KEY_LENGTH <= len(agent_key) <= MAX_AGENT_KEY_LENGTH:
        raise BadRequest(
            f"an agent key has {MIN_AGENT_KEY_LENGTH} to {MAX_AGENT_KEY_LENGTH} characters; leave out the header "
            f"{KEY_HEADER} to have one made",
            field=KEY_HEADER,
            limit=MIN_AGENT_KEY_LENGTH if len(agent_key) < MIN_AGENT_KEY_LENGTH else MAX_AGENT_KEY_LENGTH,
            actual=len(agent_key),
        )


def require_claim(claims: bool, required: bool) -> None:
    """Refuse an agent without a key where the relay was started with ``--require-agent-keys``."""
    if required and not claims:
        raise NotAllowed('this relay takes only agents that hold a key: register with "claim": true', field="claim")
