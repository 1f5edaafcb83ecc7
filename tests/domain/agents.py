"""Agents as records, for tests of rules that tell an agent from a later bearer of its id."""

from __future__ import annotations

from clawlink.domain.agent import Agent


def agent(id: str, key: str | None = None, since: float = 1.0) -> Agent:
    """Return an agent that registered at a time, and has a key of this hash."""
    return Agent(
        id=id,
        version=1,
        name=id,
        capabilities=(),
        machine="",
        description="",
        registered_at=since,
        last_heartbeat=since,
        key_hash=key,
    )
