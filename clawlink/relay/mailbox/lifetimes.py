"""How long messages wait in a mailbox: as the limits say, or as the door says whose mailbox it is."""

from __future__ import annotations

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
        self._forwardings: list[Forwarding] = []
        self._waits: dict[str, float] = {}

    def forward(self, forwarding: Forwarding) -> None:
        """Have a door forward what comes into some mailboxes."""
        self._forwardings.append(forwarding)

    def forwarding(self, mailbox: str) -> Forwarding | None:
        """Return the terms of a mailbox whose messages a door forwards; None for the mailbox of a reader."""
        if not self._forwardings:
            return None
        return next((one for one in self._forwardings if one.mailboxes(mailbox)), None)

    def wait_for(self, mailbox: str, seconds: float) -> None:
        """Have messages wait this long for the reader of a mailbox of a door. Tasks wait as long as all tasks do."""
        self._waits[mailbox] = seconds

    def ttl(self, mailbox: str, *, is_task: bool = False) -> float:
        """Return the time to live in seconds of a message for a mailbox."""
        if self._forwardings and (forwarding := self.forwarding(mailbox)) is not None:
            return forwarding.ttl
        return self._waits.get(mailbox, self._usual) if self._waits and not is_task else self._usual
