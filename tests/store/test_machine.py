"""The store in memory beside a naive model: whatever happens to a mailbox, both say the same about it.

Every change goes through the real delivery rules. The model is a dict of records, and everything it says it finds by
looking at all of them.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.message import Priority
from clawlink.domain.record import SETTLED, text_bytes
from clawlink.store import tables
from clawlink.store.base import Absent, Batch, Conflict, Drop, Put, Usage
from clawlink.store.mailbox import LATER_BYTES, MAILBOX_BYTES
from clawlink.store.memory import MemoryStore
from tests.effort import size
from tests.store import asking
from tests.store.asking import load, total
from tests.store.bytes_store import BytesStore

pytestmark = pytest.mark.storm

T = TypeVar("T")

MAILBOXES = ("mia", "eve")
IDS = tuple("abcdefgh")
SENDERS = (("otto", "10.0.0.1"), ("otto", "10.0.0.2"), ("ada", "10.0.0.1"), ("tim", "10.0.0.2"), ("unknown", None))
MERGES = (None, "file:x", "file:y")
KEYS = (
    SETTLED,
    *map(rules.by_dead, MAILBOXES),
    *(rules.by_merge(mailbox, merge) for mailbox in MAILBOXES for merge in MERGES if merge),
)
KEEP = 7.0
TTL = 20.0
ATTEMPTS = 2

seconds = st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.5, 10.0])
some = st.integers(0, 2**16)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("the store in memory suspended")


class Model:
    """All records, and under each key the ids in the order they came."""

    def __init__(self) -> None:
        self.records: dict[str, Delivery] = {}
        self.listed: dict[str, list[str]] = {key: [] for key in KEYS}
        self.moved: set[str] = set()  # what has left a list since this was emptied

    def apply(self, change: Put | Drop) -> None:
        new = change.record if isinstance(change, Put) else None
        id = change.record.id
        keys = () if new is None else new.index_keys
        for key, ids in self.listed.items():
            if id in ids and key not in keys:
                ids.remove(id)
                self.moved.add(id)
            elif id not in ids and key in keys:
                ids.append(id)
        if new is None:
            del self.records[id]
        else:
            assert isinstance(new, Delivery)
            self.records[id] = new

    def of(self, mailbox: str, *states: State) -> list[Delivery]:
        return [d for d in self.records.values() if d.mailbox == mailbox and d.state in states]

    def due(self, mailbox: str, now: float) -> list[Delivery]:
        return sorted((d for d in self.of(mailbox, State.PENDING) if d.visible_at <= now), key=lambda d: d.sort_key)

    def load(self, mailbox: str) -> Usage:
        return usage(self.of(mailbox, State.PENDING, State.DEAD))


def usage(found: Sequence[Delivery]) -> Usage:
    return Usage(len(found), sum(len(d.body) for d in found))


def shares(found: Sequence[Delivery], address: str | None, sender: str) -> tuple[Usage, Usage]:
    here = [d for d in found if d.address == address]
    return usage(here), usage([d for d in here if d.sender == sender])


def counted(store: MemoryStore) -> int:
    """Return how much memory the store should say is in use, from all that it holds at this moment."""
    total = 0
    for kind in store._kinds.values():
        total += sum(tables.PLACE_BYTES + text_bytes(record.id) + record.footprint for record in kind.records.values())
        for key, index in kind.indexes.items():
            total += tables.INDEX_BYTES + text_bytes(key, sent=False) + tables.ENTRY_BYTES * len(index)
            total += 0 if index.shares is None else index.shares.memory
        total += sum(tables.SECOND_BYTES + tables.ENTRY_BYTES * len(ids) for ids in kind.calendar.values())
    for box in store._mailboxes.values():
        total += MAILBOX_BYTES + LATER_BYTES * len(box.later)
        total += 0 if box.shares is None else box.shares.memory
    return total + store._origins.memory


class Listing:
    """A walk through what is under a key: where it is, whom it met, and who has been there all the time."""

    def __init__(self, key: str, newest: bool, stayed: dict[str, None]) -> None:
        self.key = key
        self.newest = newest
        self.stayed = stayed
        self.met: list[str] = []
        self.after: str | None = None


class Mailboxes(RuleBasedStateMachine):
    """The steps of two mailboxes."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.model = Model()
        self.now = 1_000.0
        self.made = 0
        self.past: list[Delivery] = []
        self.listing: Listing | None = None

    def commit(self, *changes: Put | Drop) -> None:
        """Commit to both."""
        partition_key = changes[0].record.partition_key
        if self.made % 2:
            run(self.store.commit(partition_key, *changes))
        else:
            assert run(self.store.commit_many([Batch(partition_key, changes)])) == [None]
        self.follow(changes)

    def follow(self, changes: Sequence[Put | Drop]) -> None:
        """Apply to the model what was committed."""
        for change in changes:
            old = self.model.records.get(change.record.id)
            if old is not None:
                self.past.append(old)
            self.model.apply(change)

    def any_of(self, pick: int, *states: State, leased: bool = False) -> Delivery | None:
        found = [d for m in MAILBOXES for d in self.model.of(m, *states) if d.receipt is not None or not leased]
        return found[pick % len(found)] if found else None

    def receipt(self) -> str:
        self.made += 1
        return f"r{self.made}"

    def new(self, id: str, mailbox: str, level: int, body: bytes, delay: float, merge: str | None) -> Delivery:
        self.made += 1
        sort_key = rules.sort_key(level, self.made)
        now = self.now
        sender, address = SENDERS[self.made % len(SENDERS)]
        return Delivery(
            id, 1, mailbox, sender, sort_key, body, now, now + delay, now + TTL, merge=merge, address=address
        )

    # -- in ----------------------------------------------------------------------------------------------------------

    @rule(
        id=st.sampled_from(IDS),
        mailbox=st.sampled_from(MAILBOXES),
        level=st.sampled_from([priority.level for priority in Priority]),
        body=st.binary(max_size=4),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.0, 5.0]),
        merge=st.sampled_from(MERGES),
    )
    def put_new(self, id: str, mailbox: str, level: int, body: bytes, delay: float, merge: str | None) -> None:
        made = self.new(id, mailbox, level, body, delay, merge)
        if id not in self.model.records:
            self.commit(Put(made))
            return
        with pytest.raises(Conflict):
            run(self.store.commit(made.partition_key, Put(made)))

    @rule(
        copies=st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(MAILBOXES)), min_size=1, max_size=4),
        body=st.binary(max_size=4),
        delay=st.sampled_from([0.0, 0.0, 0.0, 5.0]),
        merge=st.sampled_from([None, None, *MERGES]),
        last=st.binary(max_size=4) | st.none(),
    )
    def put_copies(
        self, copies: list[tuple[str, str]], body: bytes, delay: float, merge: str | None, last: bytes | None
    ) -> None:
        """Put copies of one message at once, as a broadcast does; the last one may have another body."""
        level = Priority.NORMAL.level
        first = self.new("", "", level, body, delay, merge)
        made: list[Delivery] = []
        for id, mailbox in copies:
            self.made += 1
            made.append(replace(first, id=id, mailbox=mailbox, sort_key=rules.sort_key(level, self.made)))
        if last is not None:
            made[-1] = replace(made[-1], body=last)
        results = run(self.store.commit_many([Batch(d.mailbox, (Put(d),)) for d in made]))
        for d, result in zip(made, results, strict=True):
            assert (result is None) == (d.id not in self.model.records)
            if result is None:
                self.follow([Put(d)])

    @rule(pick=some, body=st.binary(max_size=6))
    def supersede(self, pick: int, body: bytes) -> None:
        d = self.any_of(pick, State.PENDING)
        newer = None if d is None else delivery_steps.supersede(d, body, now=self.now, ttl=TTL)
        if newer is not None:
            self.commit(Put(newer))

    # -- out ---------------------------------------------------------------------------------------------------------

    @rule(mailbox=st.sampled_from(MAILBOXES), limit=st.integers(1, 4), seconds=seconds)
    def claim(self, mailbox: str, limit: int, seconds: float) -> None:
        changes: list[Put] = []
        expected = self.model.due(mailbox, self.now)[:limit]

        def rule(found: Sequence[Delivery]) -> list[Put]:
            assert list(found) == expected
            changes[:] = [Put(self.lease(d, seconds)) for d in found]
            return changes

        next_due_at = run(self.store.claim(mailbox, self.now, limit, rule))
        self.follow(changes)
        assert bool(changes) == bool(expected)
        waiting = [d.visible_at for d in self.model.of(mailbox, State.PENDING)]
        assert next_due_at is None if expected or not waiting else next_due_at is not None
        assert next_due_at is None or self.now < next_due_at <= min(waiting)

    @rule(pick=some, seconds=seconds)
    def lease_one(self, pick: int, seconds: float) -> None:
        found = [d for mailbox in MAILBOXES for d in self.model.due(mailbox, self.now)]
        if found:
            self.commit(Put(self.lease(found[pick % len(found)], seconds)))

    def lease(self, d: Delivery, seconds: float) -> Delivery:
        receipt, most = self.receipt(), ATTEMPTS
        return delivery_steps.lease(d, receipt=receipt, now=self.now, seconds=seconds, max_attempts=most, keep=KEEP)

    # -- settle ------------------------------------------------------------------------------------------------------

    @rule(pick=some)
    def ack(self, pick: int) -> None:
        d = self.any_of(pick, State.PENDING, leased=True)
        if d is not None:
            self.commit(Put(delivery_steps.ack(d, receipt=str(d.receipt), now=self.now, keep=KEEP)))

    @rule(pick=some, delay=seconds)
    def nack(self, pick: int, delay: float) -> None:
        d = self.any_of(pick, State.PENDING, leased=True)
        if d is not None:
            self.commit(Put(delivery_steps.nack(d, receipt=str(d.receipt), now=self.now, delay=delay)))

    @rule(pick=some)
    def release(self, pick: int) -> None:
        d = self.any_of(pick, State.PENDING, leased=True)
        if d is not None:
            self.commit(Put(delivery_steps.release(d, receipt=str(d.receipt), now=self.now)))

    @rule(pick=some, seconds=seconds)
    def extend(self, pick: int, seconds: float) -> None:
        d = self.any_of(pick, State.PENDING, leased=True)
        if d is not None:
            self.commit(Put(delivery_steps.extend(d, receipt=str(d.receipt), now=self.now, seconds=seconds)))

    @rule(pick=some)
    def expire(self, pick: int) -> None:
        d = self.any_of(pick, State.PENDING, State.DEAD)
        if d is not None:
            self.commit(Put(delivery_steps.expire(d, now=self.now, keep=KEEP)))

    @rule(pick=some)
    def bury(self, pick: int) -> None:
        d = self.any_of(pick, State.PENDING)
        if d is not None:
            self.commit(Put(delivery_steps.bury(d, now=self.now, keep=KEEP)))

    @rule(pick=some)
    def redrive(self, pick: int) -> None:
        d = self.any_of(pick, State.DEAD)
        if d is not None:
            self.commit(Put(delivery_steps.redrive(d, now=self.now, ttl=TTL)))

    @rule(pick=some)
    def drop(self, pick: int) -> None:
        d = self.any_of(pick, *State)
        if d is not None:
            self.commit(Drop(d))

    @rule(pick=some, mailbox=st.sampled_from((None, *MAILBOXES)), delay=st.sampled_from([0.0, 1.0]))
    def forget_and_store_anew(self, pick: int, mailbox: str | None, delay: float) -> None:
        """An id that derives from its cause may come back after its record was forgotten."""
        d = self.any_of(pick, *State)
        if d is not None:
            self.commit(Drop(d))
            self.commit(Put(self.new(d.id, mailbox or d.mailbox, Priority.NORMAL.level, b"anew", delay, d.merge)))

    @rule(limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        for d in run(self.store.ending(Delivery, self.now, limit)):
            assert d.expires_at <= self.now
            self.commit(Put(delivery_steps.expire(d, now=self.now, keep=KEEP)) if d.state is State.PENDING else Drop(d))

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # -- rivals ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.past)
    @rule(pick=some, put=st.booleans(), first=st.booleans())
    def come_too_late(self, pick: int, put: bool, first: bool) -> None:
        """Commit something stale beside something that alone would have been taken."""
        stale = self.past[pick % len(self.past)]
        present = self.model.records.get(stale.id)
        if present is not None and (present.version, present.mailbox) == (stale.version, stale.mailbox):
            return
        bad: Put | Drop = Put(replace(stale, version=stale.version + 1)) if put else Drop(stale)
        if put and present is not None and (present.version, present.mailbox) == (stale.version + 1, stale.mailbox):
            bad = Put(replace(stale, version=stale.version))
        others = [d for d in self.model.records.values() if d.mailbox == stale.mailbox and d.id != stale.id]
        good = [Drop(others[pick % len(others)])] if others else []
        changes = [*good, bad] if first else [bad, *good]
        with pytest.raises(Conflict):
            run(self.store.commit(stale.mailbox, *changes))

    @rule(id=st.sampled_from(IDS), pick=some, first=st.booleans())
    def only_if_absent(self, id: str, pick: int, first: bool) -> None:
        """Commit a change on the condition that there is no message of some id."""
        others = [d for d in self.model.records.values() if d.id != id]
        if not others:
            return
        other = others[pick % len(others)]
        absent, drop = Absent(Delivery, id), Drop(other)
        changes: list[Drop | Absent] = [absent, drop] if first else [drop, absent]
        if id in self.model.records:
            with pytest.raises(Conflict):
                run(self.store.commit(other.partition_key, *changes))
            return
        run(self.store.commit(other.partition_key, *changes))
        self.past.append(other)
        self.model.apply(drop)

    # -- a list that is read page by page while things change -------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), newest=st.booleans())
    def begin_to_list(self, key: str, newest: bool) -> None:
        self.listing = Listing(key, newest, dict.fromkeys(self.model.listed[key]))

    @precondition(lambda self: self.listing is not None)
    @rule(limit=st.integers(1, 3))
    def list_some_more(self, limit: int) -> None:
        """Go on, and at the end see that whoever was there all the time was met once, in order, and nobody twice."""
        listing = self.listing
        assert listing is not None
        page = run(self.store.page(Delivery, listing.key, listing.after, limit, newest=listing.newest))
        listing.met += [d.id for d in page.records]
        listing.after = page.after
        if page.after is None:
            stayed = list(listing.stayed)
            assert [id for id in listing.met if id in listing.stayed] == (stayed[::-1] if listing.newest else stayed)
            self.listing = None

    @invariant()
    def note_who_stayed(self) -> None:
        if self.listing is not None:
            moved = set(self.listing.stayed) - set(self.model.listed[self.listing.key])
            for id in {*moved, *self.model.moved}:
                self.listing.stayed.pop(id, None)
        self.model.moved.clear()

    # -- what both say -----------------------------------------------------------------------------------------------

    def compare_records(self) -> None:
        for id in IDS:
            assert run(self.store.get(Delivery, id)) == self.model.records.get(id)

    def compare_due(self) -> None:
        for mailbox in MAILBOXES:
            for limit in (1, 3, 100):
                assert list(run(self.store.due(mailbox, self.now, limit))) == self.model.due(mailbox, self.now)[:limit]

    def compare_pending(self) -> None:
        for mailbox in MAILBOXES:
            expected = {d.id: d for d in self.model.of(mailbox, State.PENDING)}
            found = run(self.store.pending(mailbox, 100))
            assert {d.id: d for d in found} == expected
            assert len(found) == len(expected)
            assert len(run(self.store.pending(mailbox, 2))) == min(2, len(expected))

    def compare_next_due_at(self) -> None:
        for mailbox in MAILBOXES:
            at = run(self.store.next_due_at(mailbox))
            expected = min((d.visible_at for d in self.model.of(mailbox, State.PENDING)), default=None)
            if expected is None or expected > self.now:
                assert at == expected
            else:
                assert at is not None
                assert at <= self.now

    def compare_load(self) -> None:
        loads = [self.model.load(mailbox) for mailbox in MAILBOXES]
        assert [run(load(self.store, mailbox)) for mailbox in MAILBOXES] == loads
        assert run(total(self.store)) == Usage(sum(u.count for u in loads), sum(u.bytes for u in loads))

    def compare_shares(self) -> None:
        held = {mailbox: self.model.of(mailbox, State.PENDING, State.DEAD) for mailbox in MAILBOXES}
        places = [*held.items(), (None, [d for found in held.values() for d in found])]
        for sender, address in SENDERS:
            for mailbox, found in places:
                assert run(self.store.load_from(mailbox, address, sender)) == shares(found, address, sender)
            for key in KEYS:
                found = [d for d in self.model.records.values() if key in d.index_keys]
                assert run(self.store.usage_from(Delivery, key, address, sender)) == shares(found, address, sender)

    def compare_memory(self) -> None:
        assert run(asking.memory(self.store)) == counted(self.store)

    def compare_memory_by_origin(self) -> None:
        for sender, address in SENDERS:
            here = [d for d in self.model.records.values() if d.address == address]
            own = [d for d in here if d.sender == sender]
            told = run(self.store.memory_from(address, sender))
            assert [bool(size) for size in told] == [bool(here), bool(own)]
            if isinstance(self.store, MemoryStore):
                assert told == (sum(d.footprint for d in here), sum(d.footprint for d in own))

    def compare_pages(self) -> None:
        for key in KEYS:
            expected = [self.model.records[id] for id in self.model.listed[key]]
            assert run(self.store.usage(Delivery, key)) == usage(expected)
            found: list[Delivery] = []
            page = run(self.store.page(Delivery, key, None, 2))
            found += page.records
            while page.after is not None:
                page = run(self.store.page(Delivery, key, page.after, 2))
                found += page.records
            assert found == expected
            found = []
            page = run(self.store.page(Delivery, key, None, 2, newest=True))
            found += page.records
            while page.after is not None:
                page = run(self.store.page(Delivery, key, page.after, 2, newest=True))
                found += page.records
            assert found == expected[::-1]

    def compare_ending(self) -> None:
        surely = {id for id, d in self.model.records.items() if d.ends_at <= self.now - 1}
        perhaps = {id for id, d in self.model.records.items() if d.ends_at <= self.now}
        found = run(self.store.ending(Delivery, self.now, 100))
        assert surely <= {d.id for d in found} <= perhaps
        assert all(d == self.model.records[d.id] for d in found)
        assert len(run(self.store.ending(Delivery, self.now, 1))) <= 1

    def compare_all(self) -> None:
        self.compare_records()
        self.compare_next_due_at()
        self.compare_pending()
        self.compare_load()
        self.compare_pages()
        self.compare_shares()
        self.compare_memory()
        self.compare_memory_by_origin()
        self.compare_ending()
        self.compare_due()

    def teardown(self) -> None:
        self.compare_all()


class AskedAtEveryStep(Mailboxes):
    """Ask everything after every step."""

    @invariant()
    def agree(self) -> None:
        self.compare_all()


class AskedNowAndThen(Mailboxes):
    """Ask one thing now and then: what a store files lazily piles up, and no question before prepares the answer."""

    @rule()
    def agree_on_next_due_at(self) -> None:
        self.compare_next_due_at()

    @rule()
    def agree_on_shares(self) -> None:
        self.compare_shares()

    @rule()
    def agree_on_pending(self) -> None:
        self.compare_pending()

    @rule()
    def agree_on_pages(self) -> None:
        self.compare_pages()

    @rule()
    def agree_on_due(self) -> None:
        self.compare_due()


class KeptAsBytes(AskedNowAndThen):
    """The same over a store that keeps only bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.store = BytesStore()


_settings = settings(
    max_examples=size(25, 60, 600),
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TestAskedAtEveryStep = AskedAtEveryStep.TestCase
TestAskedAtEveryStep.settings = _settings
TestAskedNowAndThen = AskedNowAndThen.TestCase
TestAskedNowAndThen.settings = _settings
TestKeptAsBytes = KeptAsBytes.TestCase
TestKeptAsBytes.settings = _settings
