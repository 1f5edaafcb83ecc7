"""Where records live: the interface every store implements, and what the relay may lean on.

A store decides nothing. It reads records and commits batches of versioned changes, all or none, or raises ``Conflict``;
the relay then rereads and tries again. An answer from an index is a hint that may be out of date: that of ``ids``,
``page``, ``first_of``, ``usage``, ``admission``, ``usage_from``, ``load_from``, ``memory_from``, ``due``,
``pending``, ``next_due_at``, ``ending``, and what the rule of a ``claim`` is called with. What ``get``, ``get_many``,
``get_both``, ``commit``, ``commit_many`` and ``commit_in_order`` say is the truth.

The maker of a store opens it before all else and closes it at the end, each once. In between the relay asks ``health``
for ``/readyz``, and ends when ``broken`` has a reason.

A store raises ``Conflict``, ``Failed`` and, for a mistake of its caller, ValueError; it turns the errors of its engine
into ``Failed``. ``open`` and ``migrate`` raise a ``ClawLinkError`` with a sentence for the operator. A cancelled read
did nothing. A cancelled commit took effect wholly or not at all, and nobody knows which: the caller reads again, or
repeats it and meets a ``Conflict``. It is decided when the call raises, so that the caller can undo it. For
``commit_many`` and ``commit_in_order`` this is so of each partition.

``get`` takes no partition, because callers often have an id alone: that of a receipt, or a task a client asks about. A
store that spreads partitions over nodes keeps a directory from id to partition, written with a record's first version.

A store keeps a record in the form that ``clawlink.store.records`` gives it, if it keeps it outside this process.
The reads ``get``, ``get_many``, ``get_both``, ``page``, ``usage`` and ``admission`` may ask the engine when they are
called, before they are awaited: ``together`` and ``each_of`` make one trip of several.

Numbers to sort by, as a delivery's ``sort_key``, are below 2**53, so that a double holds them. Its ``visible_at`` may
be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Container, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from clawlink.domain.agent import NameHold
from clawlink.domain.delivery import Delivery
from clawlink.domain.record import Record
from clawlink.errors import BadRequest

R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=Record)
T = TypeVar("T")
U = TypeVar("U")
R_co = TypeVar("R_co", bound=Record, covariant=True)


class Conflict(Exception):
    """A record has changed since it was read, or exists already. Nothing of the commit took effect.

    ``kind`` and ``id`` name the record; of several, the store names any.
    """

    def __init__(self, kind: type[Any], id: str, why: str) -> None:
        super().__init__(kind, id, why)
        self.kind = kind
        self.id = id
        self.why = why

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.id!r} {self.why}"


class Failed(Exception):
    """The store did not answer. Nothing is known about whether the commit took effect."""


class Full(Failed):
    """The store has no room on its disk. Nothing of the commit took effect."""


class Fenced(Failed):
    """The commit stood behind the fence of a lease that this relay does not hold any more. It took no effect."""


class Put(Struct, frozen=True, gc=False):
    """Store ``record``. Its version must follow the stored one; version 1 must not exist yet.

    ``ends_work`` lets a new record in where a store without room takes only what makes room, as acks and deletions.
    """

    record: Record
    ends_work: bool = False


class Drop(Struct, frozen=True, gc=False):
    """Remove ``record``, which must be stored at exactly its version."""

    record: Record


class Absent(Struct, frozen=True, gc=False):
    """Commit only if there is no record of this kind and id. It changes nothing itself."""

    kind: type[Any]
    id: str


class Batch(Struct, frozen=True, gc=False):
    """The changes of one partition in a ``commit_many`` or ``commit_in_order``."""

    partition_key: str
    changes: tuple[Put | Drop | Absent, ...]


class Page(Struct, Generic[R_co], frozen=True):
    """Some records under one index key, in order, and where to go on (None at the end)."""

    records: Sequence[R_co]
    after: str | None


class Usage(Struct, frozen=True, gc=False):
    """How many records, and how many bytes of users' data."""

    count: int
    bytes: int


Index = tuple[type[Any], str]
"""A kind of records and an index key."""


class Admission(Struct, frozen=True, gc=False):
    """How much there is already, for a decision whether more may come.

    ``mailboxes`` are the pending deliveries and dead letters of each mailbox, ``indexes`` the records under each index
    key, and ``total`` those of all mailboxes; a store of several nodes may answer ``total`` approximately. ``memory``
    is about how many bytes all records take, tables and index entries included, of memory or of the disk.
    """

    mailboxes: Sequence[Usage]
    indexes: Sequence[Usage]
    total: Usage
    memory: int


SKIPPED = -math.inf
"""The result of a claim that leaves all that is due, because the index ``unless`` has records."""


class Store(Protocol):
    """Keeps records of every kind, and knows nothing of what they mean, but for the order of a mailbox."""

    @property
    def index_lag(self) -> float:
        """For how many seconds after a commit an index may be out of date; 0 if it never is."""

    @property
    def partitions_at_once(self) -> int:
        """The most partitions that a caller may pass to ``commit_many``.

        They hold the event loop for under 5 ms.
        """

    @property
    def broken(self) -> str | None:
        """The reason why this process can commit nothing any more; None if it can. A later start may mend it."""

    async def open(self) -> None:
        """Reach what is kept, made if need be, and ``migrate`` it. Raises ClawLinkError, and has changed nothing then.

        It may hold the event loop, which serves nobody yet.
        """

    async def migrate(self) -> int:
        """Bring what an earlier ClawLink left to the form of this version. Return the number of steps, 0 for none.

        ``open`` does so. Each step takes effect wholly or not at all. Raises ClawLinkError for what a later ClawLink
        left.
        """

    async def health(self) -> str | None:
        """Return the reason why nothing can be read or committed at this moment; None if both can.

        It asks the engine and changes nothing. It raises nothing.
        """

    async def close(self) -> None:
        """Decide the commits that were begun, and let go of what was opened. A second call does nothing.

        A store that did not open may be closed, too. A closed one is asked nothing more.
        """

    def get(self, kind: type[R], id: str) -> Awaitable[R | None]:
        """Return the record as last committed."""

    def get_many(self, kind: type[R], ids: Sequence[str]) -> Awaitable[Sequence[R | None]]:
        """Return the record of each id as last committed, in this order. The records may be of different moments."""

    def get_both(
        self, first: tuple[type[R], Sequence[str]], second: tuple[type[S], Sequence[str]]
    ) -> Awaitable[tuple[Sequence[R | None], Sequence[S | None]]]:
        """Return records of two kinds, those of each as ``get_many`` does, in one trip to the engine."""

    async def ids(self, first: str, end: str, limit: int) -> Sequence[str]:
        """Return up to ``limit`` ids from ``first`` up to, but not with, ``end``, sorted by their code points.

        They are ids of records of all kinds, each id once.
        """

    def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Awaitable[Page[R]]:
        """Return up to ``limit`` records that carry index ``key``, as they came under it, or the ``newest`` first.

        ``after`` is what the page before returned, opaque to all but the store; anything else starts at the beginning.
        Raises BadRequest for a number that no page ends at.
        A record that changes its keys meanwhile may be missed or repeated, no other one.
        """

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        """Return the first record under each of these index keys, in this order."""

    def usage(self, kind: type[R], key: str) -> Awaitable[Usage]:
        """Count the records that carry index ``key``, and their weight."""

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        """Count those of an index that come from an address, and those from an agent at it. They need an ``origin``."""

    def admission(self, mailboxes: Sequence[str] = (), indexes: Sequence[Index] = ()) -> Awaitable[Admission]:
        """Count what these mailboxes hold and what is under these index keys, in their order, and what there is of all.

        A mailbox holds its pending deliveries and its dead letters. The numbers may be of different moments.
        """

    async def load_from(self, mailbox: str | None, address: str | None, agent: str) -> tuple[Usage, Usage]:
        """Count what a mailbox holds from an address, and from an agent at it; without a mailbox, what all hold."""

    async def memory_from(self, address: str | None, agent: str) -> tuple[int, int]:
        """Return about how many bytes of ``memory`` the records from an address take, and those from an agent at it.

        Records without an ``origin`` are nobody's.
        """

    async def due(self, mailbox: str, now: float, limit: int) -> Sequence[Delivery]:
        """Return up to ``limit`` deliveries that are due, the lowest sort key first."""

    async def claim(
        self,
        mailbox: str,
        now: float,
        limit: int,
        rule: Callable[[Sequence[Delivery]], Sequence[Put]],
        *,
        unless: Index | None = None,
    ) -> float | None:
        """Commit what ``rule`` returns for up to ``limit`` deliveries that are due, the lowest sort key first.

        No other claim of this process comes between the read and the commit, so two that meet get different
        deliveries. The rule is pure, quick and may be called again with other deliveries; the last call counts. It
        returns changes at this mailbox, or none. Raises Conflict as ``commit`` does, if others changed what was due.

        Return when the next delivery is due, as ``next_due_at`` does, if none was; otherwise None. If there are records
        under the index ``unless``, leave all that is due, and return ``SKIPPED``.
        """

    async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
        """Return up to ``limit`` pending deliveries, due or not, in any order, without those with an id in ``but``."""

    async def next_due_at(self, mailbox: str) -> float | None:
        """Return when the next delivery is due, in the past if one is already; None if none is pending.

        So a time says that the mailbox has work, which may be held. The time may be too early if leases were settled
        before they lapsed. The caller looks then, and asks again.
        """

    async def ending(self, kind: type[R], now: float, limit: int, but: Container[str] = ()) -> Sequence[R]:
        """Return up to ``limit`` records whose ``ends_at`` has come; up to a second late is on time.

        Step over those with an id in ``but``: so a record that cannot be settled hides none of those behind it.
        """

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        """Apply all changes or none.

        They name each record once, and an absent record would live at ``partition_key``.

        Raises Conflict; raises ValueError if a record lives outside ``partition_key``.
        """

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        """Commit each partition on its own: all of its changes or none. Return a result for each, in this order.

        A result is None if the changes took effect; Conflict and Failed mean what they mean when ``commit`` raises
        them. Each partition comes once, and there are at most ``partitions_at_once``. The commits may take effect at
        different moments, or all in one transaction.
        """

    async def commit_in_order(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        """Commit one partition after the other, each as ``commit`` does, up to the first that does not take effect.

        Return a result for each partition, as ``commit_many`` does, up to that one. Nothing of those behind a
        ``Conflict`` took effect. Behind a ``Failed`` nobody knows that, but those that took effect are the first ones.
        So it is after a crash too. Each partition comes once, and the commits may all be in one transaction.
        """


async def each_of(reads: Sequence[Awaitable[T]]) -> list[T]:
    """Await reads that were called. If one fails, those behind it are given up."""
    found: list[T] = []
    try:
        for read in reads:
            found.append(await read)
    except BaseException:
        for read in reads[len(found) + 1 :]:
            if isinstance(read, Coroutine):
                read.close()
        raise
    return found


async def together(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """Await two reads that were called. If the first fails, the second one is given up."""
    try:
        found = await first
    except BaseException:
        if isinstance(second, Coroutine):
            second.close()
        raise
    return found, await second


# SQLite sorts by whole numbers up to this one, so no page ends at a larger one.
_MOST_NUMBER = 2**63 - 1
_MOST_DIGITS = len(str(_MOST_NUMBER))


def number_of(after: str | None) -> int | None:
    """Return the number that a page begins behind; None for the beginning.

    Anything but digits means the beginning. Raises BadRequest for a number that no page ends at.
    """
    if after is None or not (after.isascii() and after.isdigit()):
        return None
    digits = after.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS or int(digits) > _MOST_NUMBER:
        raise no_place(after, limit=_MOST_NUMBER)
    return int(digits)


def no_place(after: str, *, limit: float | None = None) -> BadRequest:
    """Return the refusal of an ``after`` that no reply of the list gave. ``limit`` is the largest number in it."""
    return BadRequest(
        f"after takes the next of the reply before, not {after[:64]!r}; leave after out to begin the list again",
        field="after",
        limit=limit,
    )


# No name has this form.
_PROBE = " ready"


async def probe(store: Store) -> str | None:
    """Return the reason why the store reads or commits nothing at this moment; None if it does both."""
    try:
        await store.get(NameHold, _PROBE)
        await store.commit(_PROBE, Absent(NameHold, _PROBE))
    except Failed as failed:
        return str(failed)
    return None
