"""The core that all parts share: store, signals, clock, ids, limits, counters, and work that must not break off."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import zip_longest
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from clawlink.domain.agent import Agent
from clawlink.domain.backoff import backoff, spread
from clawlink.domain.delivery import Delivery
from clawlink.domain.limits import DRAIN_SECONDS, Limits
from clawlink.domain.standstill import Standstill
from clawlink.errors import Draining, Stopped, StorageFull, StoreUnavailable
from clawlink.relay.finishing import Finishing
from clawlink.relay.handoffs import Handoff, Handoffs
from clawlink.relay.ids import Ids
from clawlink.relay.limits.memory import Memory
from clawlink.relay.limits.shares import FairShares
from clawlink.relay.sockets import Sockets
from clawlink.relay.telemetry.activity_log import ActivityLog
from clawlink.relay.telemetry.stats import Stats
from clawlink.relay.telemetry.talks import Talks
from clawlink.relay.telemetry.unwoken import Unwoken
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Fenced, Full, Index, Put, Store
from clawlink.store.events import Event, Peers, Signal, Signals

T = TypeVar("T")
P = ParamSpec("P")

# A step whose records change under it is tried so often. The pauses in between come to less than two seconds.
TRIES = 16
_FIRST_PAUSE_SECONDS = 0.001
_MOST_PAUSE_SECONDS = 0.24
_FULL_SECONDS = 30.0
# A client that was refused because all work is stopped looks again after this time.
_STOPPED_SECONDS = 10.0


class Watch:
    """A consumer that waits for news of records. ``changed`` has their ids, and the consumer empties it."""

    __slots__ = ("changed", "signal")

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self.changed: set[str] = set()


class Leasing(Protocol):
    """A rule that leases what is due; ``changes`` is what it returned last."""

    changes: list[Put]

    def __call__(self, found: Sequence[Delivery]) -> Sequence[Put]: ...


class Core(Finishing):
    """The relay's shared ground. Everything random or timed comes from here, so tests can say what it is."""

    def __init__(
        self,
        store: Store,
        signals: Signals,
        limits: Limits,
        clock: Callable[[], float],
        *,
        secret: bytes | None = None,
        on_disk: bool = False,
        peers: Peers | None = None,
    ) -> None:
        super().__init__()
        self.store = store
        self.peers = peers
        self.signals = signals
        self.handoffs = Handoffs()
        self.limits = limits
        self.time = StoppableTime(clock)
        self.clock = self.steady = clock
        self.never_stopped = True  # then relay time is the steady time, and shown as it is
        self.ids = Ids()
        self.stats = Stats()
        self.talks = Talks(clock, self.stats)
        self.unwoken = Unwoken()
        self.activity_log = ActivityLog(clock)
        self.memory = Memory(store, limits, self.stats, on_disk=on_disk)
        self.shares = FairShares(store, limits.fair_share)
        self.secret = secret or os.urandom(32)
        self.sockets = Sockets()
        self.draining = False
        self.leads = True  # of a mesh of several relays, one at a time
        self.commits = 0
        """The commits that may have changed something since this process started."""
        self.listed: set[str] = set()  # agents whose listing is cached
        self.listed_all = False  # no agent is missing there
        self.changed: dict[str, None] = {}  # of those, the ones whose listing is out of date, in order
        self._watched: dict[str, list[Watch]] = {}  # who waits for news of a record, by its id

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent, quiet: bool = False) -> None:
        """Commit to the store.

        Wake all that wait at this partition or for one of these records. Drop the cached listing in ``discover`` of the
        agent with this partition. ``quiet`` wakes nobody who waits at the partition: nothing becomes due by it.

        After a Conflict nothing has changed, so nobody is woken. The same holds for a lost lease (Fenced), and for a
        disk without room, which raises StorageFull. After any other failure everyone is woken: nobody knows then
        whether the commit took effect.
        """
        handoff = None if quiet else self.handoffs.begin(partition_key, changes)
        took_effect: bool | None = None
        try:
            await self.store.commit(partition_key, *(changes if handoff is None else handoff.changes))
            took_effect = True
        except (Conflict, Fenced):
            took_effect = False
            raise
        except Full as full:
            took_effect = False
            raise no_room_on_disk() from full
        finally:
            if took_effect is not False:
                self._tell(partition_key, changes, quiet=quiet)
            if not quiet:
                self.handoffs.end(partition_key, handoff, took_effect)

    async def claim(
        self, mailbox: str, now: float, limit: int, leasing: Leasing, *, unless: Index | None = None
    ) -> float | None:
        """Have the store lease what is due, and return when the next is if nothing was; see ``Store.claim``."""
        changed = True
        try:
            return await self.store.claim(mailbox, now, limit, leasing, unless=unless)
        except (Conflict, Fenced):
            changed = False
            raise
        except Full as full:
            changed = False
            raise no_room_on_disk() from full
        finally:
            if changed and leasing.changes:
                self._tell(mailbox, leasing.changes, quiet=True)  # nothing becomes due by it

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        """Commit each partition on its own, as ``commit`` does, and return a result for each."""
        results: Sequence[Conflict | Failed | None] = ()
        try:
            with self.handoffs.none():
                results = await self.store.commit_many(batches)
        finally:
            told = batches
            if any(results):
                pairs = zip(batches, results, strict=True)
                told = [batch for batch, result in pairs if not isinstance(result, (Conflict, Fenced))]
            self._tell_all(told)
        return results

    async def commit_in_order(self, *batches: Batch) -> Sequence[Conflict | Failed | None]:
        """Commit one partition after the other, up to the first that does not take effect, as ``commit`` does.

        Return a result for each partition up to that one; see ``Store.commit_in_order``.
        """
        results: Sequence[Conflict | Failed | None] = ()
        first = batches[0]  # the others are of its cause, and store no new message
        handoff = self.handoffs.begin(first.partition_key, first.changes)
        try:
            results = await self.store.commit_in_order([_handed(first, handoff), *batches[1:]])
        finally:
            for batch, result in zip_longest(batches, results):
                if isinstance(result, Conflict | Full | Fenced):
                    break  # nothing behind it has changed either
                self._tell(batch.partition_key, batch.changes, quiet=False)
            self.handoffs.end(first.partition_key, handoff, _took_effect(results[0]) if results else None)
        return results

    def _tell(self, partition_key: str, changes: Sequence[Put | Drop | Absent], *, quiet: bool) -> None:
        self.commits += 1
        if partition_key in self.listed:
            self.changed[partition_key] = None
        if not quiet:
            self.signals.publish(partition_key)
        if self._watched or self.peers is not None:
            records = [change.record for change in changes if not isinstance(change, Absent)]
            ids = tuple(record.id for record in records)
            self._tell_watches(ids)
            if self.peers is not None:
                agents = [x for x in changes if not isinstance(x, Absent) and isinstance(x.record, Agent)]
                left = any(isinstance(change, Drop) for change in agents)
                self.peers.tell(Event(partition_key, ids, quiet, bool(agents), left))

    def _tell_all(self, batches: Sequence[Batch]) -> None:
        """Do what ``_tell`` does, for each batch."""
        if self._watched or self.peers is not None:
            for batch in batches:
                self._tell(batch.partition_key, batch.changes, quiet=False)
            return
        self.commits += len(batches)
        listed, changed, publish = self.listed, self.changed, self.signals.publish
        for batch in batches:
            key = batch.partition_key
            if key in listed:
                changed[key] = None
            publish(key)

    def _tell_watches(self, record_ids: Iterable[str]) -> None:
        if not self._watched:
            return
        for record_id in record_ids:
            for id in {record_id, record_id.partition(":")[0]}:  # a copy's message too
                if id in self._watched:
                    for watch in self._watched[id]:
                        watch.changed.add(record_id)
                    self.signals.publish(_watching(id))

    def hear(self, event: Event) -> None:
        """Do for a commit of another relay what ``commit`` does for one of this relay."""
        self.commits += 1
        if event.listing and not event.left:
            self.listed.add(event.partition_key)
        if event.partition_key in self.listed:
            self.changed[event.partition_key] = None
        if not event.quiet:
            self.signals.publish(event.partition_key)
        self._tell_watches(event.ids)

    def missed(self) -> None:
        """Look at everything again: events of other relays may have been lost."""
        self.listed_all = False
        self.changed.update(dict.fromkeys(self.listed))
        self._tell_watches(tuple(self._watched))
        self.signals.publish_all()

    def relist(self, agent_id: str | None) -> None:
        """Note that something changed for an agent at a partition that is not its own."""
        if agent_id in self.listed:
            self.changed[agent_id] = None
        if self.peers is not None and agent_id is not None:
            self.peers.tell(Event(agent_id, quiet=True))

    @contextmanager
    def watch(self, id: str) -> Iterator[Watch]:
        """Listen to changes of the task, message or file of this id."""
        with self.signals.listen(_watching(id)) as signal:
            watch = Watch(signal)
            self._watched.setdefault(id, []).append(watch)
            try:
                yield watch
            finally:
                self._watched[id].remove(watch)
                if not self._watched[id]:
                    del self._watched[id]

    def require_working(self) -> None:
        """Refuse new work while the relay shuts down."""
        if self.draining:
            raise Draining("the relay is shutting down; try again when it is back", retry_after=DRAIN_SECONDS)

    def follow(self, known: Standstill) -> None:
        """Have relay time stand still, or go on, as a record says."""
        self.time.standstill = known
        self.clock, self.never_stopped = self.time, False

    @property
    def stopped(self) -> bool:
        """Return True while the operator has stopped all work."""
        return self.time.stopped

    def require_running(self) -> None:
        """Refuse new work and claims while the operator has stopped them. Raises Stopped."""
        if self.time.stopped:
            raise Stopped(
                "the operator has stopped all work here; acks, answers and heartbeats go on; "
                "try again once it is resumed",
                retry_after=_STOPPED_SECONDS,
            )


def _handed(batch: Batch, handoff: Handoff | None) -> Batch:
    """Return what to commit of a batch that may hand a message over."""
    return batch if handoff is None else Batch(batch.partition_key, handoff.changes)


def _took_effect(result: Conflict | Failed | None) -> bool | None:
    """Return True if a commit with this result took effect; None if nobody knows."""
    return True if result is None else False if isinstance(result, Conflict | Full | Fenced) else None


def no_room_on_disk() -> StorageFull:
    """Return the error for a commit that the store has no room for."""
    return StorageFull(
        "the disk of the relay is full, and nothing of this request was stored; make room on it",
        retry_after=_FULL_SECONDS,
    )


def _watching(id: str) -> str:
    return " record " + id


class HasCore(Protocol):
    """A part of the relay."""

    _core: Core


S = TypeVar("S", bound=HasCore)


def pause_after(failed: int, random: float) -> float:
    """Return the seconds to wait after this many tries: none, then twice as long each time, up to 0.24 s.

    ``random``, 0 to 1, takes half to all of that, so that those that met in a conflict do not meet again.
    """
    if failed == 1:
        return 0.0
    return spread(backoff(failed - 1, first=_FIRST_PAUSE_SECONDS, most=_MOST_PAUSE_SECONDS), random)


def retrying(
    step: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a method again when its commit met a Conflict; after ``TRIES``, give up. Each try reads the records again."""

    @wraps(step)
    async def run(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        for failed in range(1, TRIES + 1):
            try:
                return await step(self, *args, **kwargs)
            except Conflict:
                self._core.stats.conflicts += 1
            if failed < TRIES:
                await asyncio.sleep(pause_after(failed, random.random()))
        raise StoreUnavailable("the records of this request change too fast; try again", retry_after=1)

    return cast("Callable[Concatenate[S, P], Coroutine[Any, Any, T]]", run)


# A store that has not answered by then does not answer.
_HEALTH_SECONDS = 2.0
_HEALTH_RETRY_SECONDS = 1.0


class Readiness:
    """Asks the store for its health. All who ask at one moment share the answer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked: asyncio.Task[str | None] | None = None

    async def require(self) -> None:
        """Return if the relay takes work and its store reads and commits. Raises Draining, StoreUnavailable."""
        self._core.require_working()
        if self._asked is None or self._asked.done():
            self._asked = self._core.begin(self._core.store.health())
        done, _ = await asyncio.wait({self._asked}, timeout=_HEALTH_SECONDS)
        why = self._asked.result() if done else f"it has not answered within {_HEALTH_SECONDS:g} s"
        if why is not None:
            raise StoreUnavailable(
                f"the store of this relay reads or writes nothing at this moment ({why}); try again",
                retry_after=_HEALTH_RETRY_SECONDS,
            )
