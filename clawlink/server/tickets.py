"""Tickets: a page's way to open an event stream, for which a browser lets it set no header.

A ticket stands for the relay's token and the agent's key, so neither stands in an address, which proxies log.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from clawlink.errors import NotAuthenticated, RelayFull

SECONDS = 30.0
MAX_TICKETS = 10_000
MAX_AGENT_TICKETS = 100
_BYTES = 24


class Ticket(NamedTuple):
    """The agent and the stream of a ticket."""

    agent_id: str
    agent_key: str | None
    route: str
    last_event_id: str | None
    ends_at: float


class Tickets:
    """The unused tickets of one relay. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}

    def make(self, agent_id: str, agent_key: str | None, route: str, last_event_id: str | None) -> str:
        """Return a new ticket. Raises RelayFull."""
        self._forget()
        for held, limit in (
            (len(self._tickets), MAX_TICKETS),
            (sum(ticket.agent_id == agent_id for ticket in self._tickets.values()), MAX_AGENT_TICKETS),
        ):
            if held >= limit:
                raise RelayFull(
                    f"{held} tickets are unused, and there may be {limit}; use them, or wait {SECONDS:.0f} s",
                    limit=limit,
                    actual=held + 1,
                    retry_after=SECONDS,
                )
        name = secrets.token_urlsafe(_BYTES)
        self._tickets[name] = Ticket(agent_id, agent_key, route, last_event_id, self._clock() + SECONDS)
        return name

    def use(self, name: str, agent_id: str, route: str) -> Ticket:
        """Take a ticket and drop it, also if it is for another agent or route. Raises NotAuthenticated."""
        self._forget()
        ticket = self._tickets.pop(name, None)
        if ticket is None or (ticket.agent_id, ticket.route) != (agent_id, route):
            raise NotAuthenticated(
                f"the ticket was used, is older than {SECONDS:.0f} s, or is for another agent; "
                "ask POST /tickets for another",
                field="ticket",
            )
        return ticket

    def _forget(self) -> None:
        """Drop tickets whose time is over. They stand in the order of their ends."""
        now = self._clock()
        while self._tickets:
            name, ticket = next(iter(self._tickets.items()))
            if ticket.ends_at > now:
                return
            del self._tickets[name]
