"""Where records live: the interface every store implements, and what the relay may lean on.

A store decides nothing. It reads records and commits batches of versioned changes, all or none, or raises
``Conflict``; the relay then rereads and tries again. What it answers from an index (``page``, ``usage``, ``load``,
``total``, ``due``, ``pending``, ``next_due_at``, ``ending``) is a hint that may be out of date; ``get`` and ``commit``
are the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from clawlink.domain.delivery import Delivery
from clawlink.domain.record import Record

R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


class Conflict(Exception):
    """A record has changed since it was read, or exists already. Nothing of the commit took effect."""


class Failed(Exception):
    """The store did not answer. Nothing is known about whether the commit took effect."""


class Put(Struct, frozen=True, gc=False):
    """Store ``record``. Its version must follow the stored one; version 1 must not exist yet."""

    record: Record


class Drop(Struct, frozen=True, gc=False):
    """Remove ``record``, which must be stored at exactly its version."""

    record: Record


class Absent(Struct, frozen=True, gc=False):
    """Commit only if there is no record of this kind and id. It changes nothing itself."""

    kind: type[Any]
    id: str


class Page(Struct, Generic[R_co], frozen=True):
    """Some records under one index key, in order, and where to go on (None at the end)."""

    records: Sequence[R_co]
    after: str | None


class Usage(Struct, frozen=True, gc=False):
    """How many records, and how many bytes of users' data."""

    count: int
    bytes: int


class Store(Protocol):
    """Keeps records of every kind, and knows nothing of what they mean, but for the order of a mailbox."""

    @property
    def index_lag(self) -> float:
        """For how many seconds after a commit an index may be out of date; 0 if it never is."""

    async def get(self, kind: type[R], id: str) -> R | None:
        """Return the record as last committed."""

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        """Return up to ``limit`` records that carry index ``key``, as they came under it, or the ``newest`` first.

        ``after`` is what the page before returned, opaque to all but the store; anything else starts at the beginning.
        A record that changes its keys meanwhile may be missed or repeated, no other one.
        """

    async def first(self, kind: type[R], key: str, limit: int) -> Sequence[R]:
        """Return the first ``limit`` records that carry index ``key``, for those who will not go on after them."""

    async def usage(self, kind: type[R], key: str) -> Usage:
        """Count the records that carry index ``key``, and their weight."""

    async def load(self, mailbox: str) -> Usage:
        """Count what a mailbox holds: pending deliveries and dead letters."""

    async def total(self) -> Usage:
        """Count what all mailboxes hold."""

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        """Return up to ``limit`` deliveries that are due, the lowest rank first."""

    async def pending(self, mailbox: str, limit: int) -> Sequence[Delivery]:
        """Return up to ``limit`` pending deliveries, due or not, in any order."""

    async def next_due_at(self, mailbox: str) -> float | None:
        """Return when the next delivery is due, in the past if one is already; None if none is pending."""

    async def ending(self, kind: type[R], now: float, limit: int) -> Sequence[R]:
        """Return up to ``limit`` records whose ``ends_at`` has come; up to a second late is on time."""

    async def commit(self, home: str, *changes: Put | Drop | Absent) -> None:
        """Apply all changes or none; they name each record once, and what is to be absent would live at ``home``.

        Raises Conflict; raises ValueError if a record lives outside ``home``.
        """


class Signal(Protocol):
    """One consumer's wake-up. It says only: read the store again."""

    @property
    def given(self) -> bool:
        """Whether it was given since the last ``clear``."""

    async def wait(self, seconds: float | None) -> None:
        """Return when the signal was given since the last ``clear``, or after ``seconds``."""

    def give(self) -> None:
        """Wake this consumer alone."""

    def clear(self) -> None:
        """Forget what was signalled so far. Clear before reading the store, never after."""


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
