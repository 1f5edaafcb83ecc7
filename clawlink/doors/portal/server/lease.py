"""The lease of the active portal: of the relays over one store, one at a time acts as the portal."""

from __future__ import annotations

import secrets

from clawlink.relay.timestamps import steady_clock
from clawlink.store.events import Peers
from clawlink.store.fence import Fence

_NAME = "portal"
_TOKEN_BYTES = 8
_MOST_PAUSE_SECONDS = 1.0
_LOOKS_A_LEASE = 4


class Lease:
    """The right to act as the portal. A relay alone always has it.

    A relay trusts its lease by a clock of its own, from the moment at which it asked. So its trust ends before the
    server gives the lease to another one.
    """

    def __init__(self, peers: Peers | None, seconds: float) -> None:
        self._peers = peers
        self._seconds = seconds
        self._clock = steady_clock()
        self._until = float("inf") if peers is None else -float("inf")
        self._proposed = secrets.token_hex(_TOKEN_BYTES)
        self.token = ""
        """The token of the term in which this relay has the lease; "" for none."""

    @property
    def held(self) -> bool:
        """Return True if this relay has the lease at this moment."""
        return self._clock() < self._until

    @property
    def fence(self) -> Fence | None:
        """The fence for commits of the present term; None for a relay alone."""
        return None if self._peers is None else Fence(_NAME, self.token)

    @property
    def pause(self) -> float:
        """How many seconds to wait before the lease is asked for again."""
        return min(_MOST_PAUSE_SECONDS, self._seconds / _LOOKS_A_LEASE)

    async def renew(self) -> None:
        """Take the lease, or keep it for longer. A term that has ended is never renewed. Raises Failed."""
        if self._peers is None:
            return
        if self.token and not self.held:
            self.drop()
        asked = self._clock()
        token = await self._peers.lease(_NAME, self.token, self._proposed, self._seconds)
        if token is None:
            self.drop()
            return
        if token == self._proposed:
            self._proposed = secrets.token_hex(_TOKEN_BYTES)
        self.token, self._until = token, asked + self._seconds

    def drop(self) -> None:
        """Trust the lease no more. All that its term has begun stays behind its fence."""
        if self._peers is not None:
            self.token, self._until = "", -float("inf")

    async def end(self) -> None:
        """Let another relay take the lease at once. Raises Failed."""
        token = self.token
        self.drop()
        if self._peers is not None and token:
            await self._peers.end_lease(_NAME, token)
