"""How long messages wait in a mailbox: as the limits say, or as the door says whose mailbox it is."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from clawlink.domain.delivery import Delivery


class Forwarding(NamedTuple):
    """The mailboxes whose messages a door forwards to other places, and what holds for these messages.

    ``mailboxes`` returns True for such a mailbox. ``ttl`` is the time to live in seconds of a message there. ``lapsed``
    tells its sender that it was not forwarded in that time, and returns True. While the message is being forwarded it
    returns False: then the relay asks again, as it does for what this raises.
    """

    mailboxes: Callable[[str], bool]
    ttl: float
    lapsed: Callable[[Delivery], Awaitable[bool]]


class Lifetimes:
    """The times to live of messages, by their mailboxes."""

    def __init__(self, usual: float) -> None:
        """``usual`` is the time to live in seconds where no door says another."""
        self._usual = usual
        self._ends_at = 0.0
        self._forwardings: list[Forwarding] = []
        self._ttls: dict[str, float] = {}

    def forward(self, forwarding: Forwarding) -> None:
        """Have a door forward what comes into some mailboxes."""
        self._forwardings.append(forwarding)

    def forwarding(self, mailbox: str) -> Forwarding | None:
        """Return the terms of a mailbox whose messages a door forwards; None for the mailbox of a reader."""
        if not self._forwardings:
            return None
        return next((one for one in self._forwardings if one.mailboxes(mailbox)), None)

    def set_ttl(self, mailbox: str, seconds: float) -> None:
        """Set the time to live of messages in a mailbox of a door. Tasks there live as long as all tasks do."""
        self._ttls[mailbox] = seconds

    def end(self, now: float, mailbox: str | None = None, *, is_task: bool = False) -> float:
        """Return the full second at which the time of a message that comes now is over.

        Without a mailbox it is the same for all: copies live as long everywhere.
        """
        ttl = self._usual
        if mailbox is not None and (self._forwardings or self._ttls):
            ttl = self.ttl(mailbox, is_task=is_task)
        ends_at = float(math.ceil(now + ttl))
        if ends_at != self._ends_at:
            self._ends_at = ends_at  # one number for all messages of a second: it is kept with each of them
        return self._ends_at

    def ttl(self, mailbox: str, *, is_task: bool = False) -> float:
        """Return the time to live in seconds of a message for a mailbox."""
        if self._forwardings and (forwarding := self.forwarding(mailbox)) is not None:
            return forwarding.ttl
        return self._ttls.get(mailbox, self._usual) if self._ttls and not is_task else self._usual
