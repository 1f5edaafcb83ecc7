"""Where records live: the interface every store implements, and what the relay may lean on.

A store decides nothing. It reads records and commits batches of versioned changes, all or none, or raises ``Conflict``;
the relay then rereads and tries again. An answer from an index is a hint that may be out of date: that of ``ids``,
``page``, ``first_of``, ``usage``, ``admission``, ``usage_from``, ``load_from``, ``memory_from``, ``due``,
``pending``, ``next_due_at``, ``ending``, and what the rule of a ``claim`` is called with. What ``get``, ``get_many``,
``get_both``, ``commit`` and ``commit_many`` say is the truth.

The maker of a store opens it before all else and closes it at the end, each once. In between the relay asks ``health``
for ``/readyz``, and ends when ``broken`` has a reason.

A store raises ``Conflict``, ``Failed`` and, for a mistake of its caller, ValueError; it turns the errors of its engine
into ``Failed``. ``open`` and ``migrate`` raise a ``ClawLinkError`` with a sentence for the operator. A cancelled read
did nothing. A cancelled commit took effect wholly or not at all, and nobody knows which: the caller reads again, or
repeats it and meets a ``Conflict``. It is decided when the call raises, so that the caller can undo it. For
``commit_many`` this is so of each partition.

``get`` takes no partition, because callers often have an id alone: that of a receipt, or a task a client asks about. A
store that spreads partitions over nodes keeps a directory from id to partition, written with a record's first version.

A store keeps a record in the form that ``clawlink.store.records`` gives it, if it keeps it outside this process.
Numbers to sort by, as a delivery's ``sort_key``, are below 2**53, so that a double holds them. A time may be infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from clawlink.domain.delivery import Delivery
from clawlink.domain.file import Content
from clawlink.domain.record import Record

R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=Record)
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


class LostWrites(OSError):
    """The system could not put written bytes on the disk. It may have dropped them, so trying again proves nothing."""


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
    """The changes of one partition in a ``commit_many``."""

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

    async def get(self, kind: type[R], id: str) -> R | None:
        """Return the record as last committed."""

    async def get_many(self, kind: type[R], ids: Sequence[str]) -> Sequence[R | None]:
        """Return the record of each id as last committed, in this order. The records may be of different moments."""

    async def get_both(
        self, first: tuple[type[R], Sequence[str]], second: tuple[type[S], Sequence[str]]
    ) -> tuple[Sequence[R | None], Sequence[S | None]]:
        """Return records of two kinds, those of each as ``get_many`` does, in one trip to the engine."""

    async def ids(self, first: str, end: str, limit: int) -> Sequence[str]:
        """Return up to ``limit`` ids from ``first`` up to, but not with, ``end``, sorted by their code points.

        They are ids of records of all kinds, each id once.
        """

    async def page(
        self, kind: type[R], key: str, after: str | None = None, limit: int = 100, *, newest: bool = False
    ) -> Page[R]:
        """Return up to ``limit`` records that carry index ``key``, as they came under it, or the ``newest`` first.

        ``after`` is what the page before returned, opaque to all but the store; anything else starts at the beginning.
        Raises BadRequest for a number that no page ends at.
        A record that changes its keys meanwhile may be missed or repeated, no other one.
        """

    async def first_of(self, kind: type[R], keys: Sequence[str]) -> Sequence[R | None]:
        """Return the first record under each of these index keys, in this order."""

    async def usage(self, kind: type[R], key: str) -> Usage:
        """Count the records that carry index ``key``, and their weight."""

    async def usage_from(self, kind: type[R], key: str, address: str | None, agent: str) -> tuple[Usage, Usage]:
        """Count those of an index that come from an address, and those from an agent at it. They need an ``origin``."""

    async def admission(self, mailboxes: Sequence[str] = (), indexes: Sequence[Index] = ()) -> Admission:
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
        self, mailbox: str, now: float, limit: int, rule: Callable[[Sequence[Delivery]], Sequence[Put]]
    ) -> float | None:
        """Commit what ``rule`` returns for up to ``limit`` deliveries that are due, the lowest sort key first.

        No other claim of this process comes between the read and the commit, so two that meet get different
        deliveries. The rule is pure, quick and may be called again with other deliveries; the last call counts. It
        returns changes at this mailbox, or none. Raises Conflict as ``commit`` does, if others changed what was due.

        Return when the next delivery is due, as ``next_due_at`` does, if none was; otherwise None.
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


class Signal(Protocol):
    """The wake-up of a consumer. It says only: read the store again."""

    @property
    def given(self) -> bool:
        """Return True if it was given since the last ``clear``."""

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


class Draft(Protocol):
    """Some bytes that are on their way in. It must come to ``keep`` or ``discard``."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what it has, in hexadecimal."""

    async def write(self, data: bytes) -> None:
        """Append. Raises OSError if there is no room for it on the disk; then it has what it had before.

        After a ``LostWrites`` it raises that for ever, here, in ``flush`` and in ``keep``.
        """

    def mark(self) -> Any:
        """Return what ``back_to`` takes to come back to this moment."""

    def back_to(self, mark: Any) -> None:
        """Forget what was written since ``mark``, which is then used up."""

    async def flush(self) -> None:
        """Put what it has where it is to stay. Raises OSError if there is no room for it on the disk, LostWrites."""

    def keep(self, scope: str = "") -> Content:
        """Make it a content of this scope, held once. It takes no more. Raises OSError; it is then as before."""

    def discard(self) -> None:
        """Forget it, unless it was kept."""


class Reader(Protocol):
    """A content that is being read."""

    async def read(self, start: int, size: int) -> bytes:
        """Return some of the bytes from ``start``: one at least where there is one, ``size`` at most."""


class Blobs(Protocol):
    """Keeps contents by their SHA-256, equal ones of a scope once, for as long as somebody holds or reads them."""

    @property
    def used(self) -> int:
        """How many bytes there are: held, being read, or on their way in."""

    @property
    def memory(self) -> int:
        """About how many bytes of memory they take: not those that lie on a disk."""

    def memory_for(self, size: int) -> int:
        """Return about how many bytes of memory a content of this size would take."""

    def trim(self) -> None:
        """Give back memory that is only kept for what may come."""

    @property
    def keeps_drafts(self) -> bool:
        """Return True if a draft with a name survives this process, as far as it was flushed."""

    def draft(self, name: str | None = None) -> Draft:
        """Return an empty draft. With a name it may be resumed."""

    async def resume(self, name: str, size: int) -> Draft | None:
        """Return the draft of this name with its first ``size`` bytes; None if they are not there."""

    def hold(self, content: Content) -> None:
        """Hold a content that is held already once more."""

    def release(self, content: Content) -> None:
        """Let go of one hold."""

    def freeing(self, contents: Iterable[Content]) -> Iterator[int]:
        """Give for each of these how many bytes would go with it, if they were let go of in this order, a hold each."""

    def open(self, content: Content) -> AbstractContextManager[Reader]:
        """Return what reads it, as it is, even if it is let go of meanwhile. Raises KeyError if nobody holds it."""

    def close(self) -> None:
        """Forget everything, also on the disk."""
