"""The events beside a store: they wake the consumers of a mailbox, and tell other relays over the store of a commit.

An event is a hint. If it is lost, that costs time and never a message.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct


class Signal(Protocol):
    """The wake-up of a consumer. It says only: read the store again."""

    @property
    def given(self) -> bool:
        """Return True if it was given since the last ``clear``."""

    def wait(self, seconds: float | None) -> Awaitable[None]:
        """Wait until the signal was given since the last ``clear``, or for ``seconds``. Its caller awaits it now."""

    def give(self) -> None:
        """Wake this consumer alone."""

    def clear(self) -> None:
        """Forget the signals so far. Clear before reading the store, never after."""


class Signals(Protocol):
    """Wakes consumers of a mailbox. Losing one costs time, never a message."""

    def publish(self, mailbox: str) -> None:
        """Wake everyone who listens to ``mailbox``."""

    def publish_all(self) -> None:
        """Wake everyone."""

    def listen(self, mailbox: str) -> AbstractContextManager[Signal]:
        """Listen to ``mailbox`` for as long as the context lasts."""

    def listeners(self) -> int:
        """Count who listens at this moment."""


class Event(Struct, frozen=True, array_like=True, gc=False):
    """A change that relays over one store tell each other.

    ``ids`` are the records that changed at a partition. ``quiet`` tells that nothing became due by it, ``listing`` that
    one of them is the agent itself, and ``left`` that it was removed. With ``pool`` the partition is a pool whose work
    no agent of the teller waits for.
    """

    partition_key: str
    ids: tuple[str, ...] = ()
    quiet: bool = False
    listing: bool = False
    left: bool = False
    pool: bool = False


class Peers(Protocol):
    """The other relays over the same store."""

    def tell(self, event: Event) -> None:
        """Tell all of them soon. An event may be lost with a connection: then they look at everything again."""

    async def hold(self, file_key: str) -> bool:
        """Return True if only this relay may hand out the file from now on, for some seconds. Raises Failed."""

    async def let_go(self, file_key: str) -> None:
        """Allow others to hand out the file."""

    async def lease(self, name: str, held: str, proposed: str, seconds: float) -> str | None:
        """Take a lease, or renew it. Return the token of the term in which this relay holds it; None if another does.

        ``held`` is the token of the term so far, "" for none. The token is the same while no other relay had the lease
        meanwhile, and ``proposed`` for a new term. Raises Failed.
        """

    async def end_lease(self, name: str, token: str) -> None:
        """Let another relay take the lease. Raises Failed."""
