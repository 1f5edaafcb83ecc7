"""The contract of what is kept: a store with a journal keeps it, and it finds a store that only seems to."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from clawlink.errors import ClawLinkError
from clawlink.store import records
from clawlink.store.base import Absent, Batch, Conflict, Drop, Failed, Put, Store
from tests.store.bytes_store import BytesStore
from tests.store.durable import DurableContract, Failing


class Journal:
    """The place of a store: the commits so far as bytes, and what keeps the next ones out."""

    def __init__(self) -> None:
        self.version = 1
        self.commits: list[tuple[str, list[tuple[type[Any], bytes]]]] = []
        self.full = self.half = False


@contextlib.contextmanager
def failing(journal: Journal, how: str) -> Iterator[None]:
    """Let a journal take nothing, or half of a commit."""
    setattr(journal, how, True)
    yield
    setattr(journal, how, False)


class JournalStore(BytesStore):
    """A ``BytesStore`` that writes each commit to a journal, and reads all of it when it opens."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal
        self.opened = False

    async def open(self) -> None:
        if self.journal.version != 1:
            raise ClawLinkError(f"a later version wrote this journal: {self.journal.version}")
        for partition_key, changes in self.journal.commits:
            super()._commit(partition_key, [kind(records.decode(data)) for kind, data in changes])
        self.opened = True

    def _commit(self, partition_key: str, changes: Sequence[Put | Drop | Absent]) -> None:
        super()._commit(partition_key, changes)
        written = [(type(c), records.encode(c.record)) for c in changes if not isinstance(c, Absent)]
        if self.journal.half:
            written = written[:1]
        if not self.journal.full:
            self.journal.commits.append((partition_key, written))
        if self.journal.full or self.journal.half:
            self.failed()
            raise Failed("the journal takes no more")

    def failed(self) -> None:
        """Forget what the journal did not take: read it again."""
        fresh = type(self)(self.journal)
        for partition_key, changes in self.journal.commits:
            super(JournalStore, fresh)._commit(partition_key, [kind(records.decode(data)) for kind, data in changes])
        vars(self).update(vars(fresh))

    async def commit_many(self, batches: Sequence[Batch]) -> Sequence[Conflict | Failed | None]:
        results: list[Conflict | Failed | None] = []
        for batch in batches:
            try:
                self._commit(batch.partition_key, batch.changes)
                results.append(None)
            except (Conflict, Failed) as error:
                results.append(error)
        return results


class Hasty(JournalStore):
    """Keeps in memory what the journal did not take."""

    def failed(self) -> None:
        """Do nothing, wrongly."""


class Forgetful(JournalStore):
    """Writes a journal, and reads only its first commits."""

    async def open(self) -> None:
        """Leave out the last commit, wrongly."""
        self.journal.commits = self.journal.commits[:-1]
        await super().open()


class TestJournal(DurableContract):
    """A store in a journal keeps the contract."""

    @pytest.fixture
    def journal(self) -> Journal:
        return Journal()

    @pytest.fixture
    def again(self, journal: Journal) -> Callable[[], Store]:
        return lambda: JournalStore(journal)

    @pytest.fixture
    def store(self, again: Callable[[], Store]) -> Store:
        return again()

    @pytest.fixture
    def failing(self, journal: Journal) -> Failing:
        return lambda store: [failing(journal, "full")]

    @pytest.fixture
    def later(self, journal: Journal) -> Callable[[], Awaitable[object]]:
        async def write() -> None:
            journal.version = 2

        return write


async def found(kind: type[JournalStore], how: str, rule: str) -> str:
    """Return the end of what a test of the contract says of a store."""
    journal = Journal()
    store = kind(journal)
    await store.open()

    async def reopen(store: Store) -> Store:
        await store.close()
        again = kind(journal)
        await again.open()
        return again

    test = getattr(DurableContract(), rule)
    ways = [lambda store: [failing(journal, how)]] if "failure" in rule else []
    with pytest.raises(AssertionError) as raised:
        await test(store, *ways, reopen)
    return str(raised.value)


async def test_a_store_that_only_seems_to_keep_its_records_is_found() -> None:
    failure = "test_after_a_failure_the_place_says_what_the_store_says"
    assert "failure 0" in await found(Hasty, "full", failure)
    assert "half of failure 0" in await found(JournalStore, "half", failure)
    assert "get Delivery" in await found(Forgetful, "full", "test_all_that_was_committed_is_there")
