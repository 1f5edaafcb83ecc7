"""Handoffs: a message that comes while a reader waits for it is leased in the commit that stores it.

So it leaves its mailbox by the rule of every claim, and one commit takes the place of two. Nobody sees it before that
commit has taken effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from msgspec import Struct

from clawlink.domain.delivery import Delivery
from clawlink.store.base import Absent, Drop, Put
from clawlink.store.events import Signal

Changes = tuple[Put | Drop | Absent, ...]


class Leased(Protocol):
    """The messages that a claim leased."""

    taken: list[Delivery]


class Handoff(Struct, eq=False):
    """A commit that stores one new message as leased to a reader.

    ``leased`` is what the reader gets, once the commit is not ``under_way`` any more.
    """

    _reader: Reader
    leased: Leased | None
    changes: Changes
    under_way: bool = True
    _gone: bool = False

    def end(self, took_effect: bool | None) -> None:
        """Wake the reader: the commit has ended. None if nobody knows whether it took effect."""
        self.under_way = False
        if took_effect is None or (took_effect and self._gone):
            self._release()
        elif not took_effect:
            self.leased = None
        signal = self._reader.signal
        if signal is not None and not signal.given:  # mostly the news of the commit has woken it
            signal.give()

    def abandon(self) -> None:
        """Note that the reader has gone. Its message is released, now or once it is stored."""
        self._gone = True
        if not self.under_way:
            self._release()

    def _release(self) -> None:
        leased, self.leased = self.leased, None
        if leased is not None:
            self._reader.begin_release(leased.taken)


class Reader(Protocol):
    """A reader that sleeps until something comes to its mailbox. ``handoff`` is the message that came.

    Its ``signal`` wakes it.
    """

    handoff: Handoff | None
    signal: Signal | None

    def lease_new(self, d: Delivery) -> Leased | None:
        """Lease a message that is not stored yet. Return None if the message has to wait for a claim."""

    def begin_release(self, taken: Sequence[Delivery]) -> None:
        """Begin to release messages that nobody will read."""


class Handoffs:
    """The sleeping readers, at most one for each mailbox, and the commits under way that may make something due.

    A message whose commit began earlier comes first: while one is under way to a mailbox, none is handed over there.
    """

    def __init__(self) -> None:
        self._sleeping: dict[str, Reader] = {}
        self._arriving: dict[str, int] = {}
        self._arriving_anywhere = 0

    @contextmanager
    def none(self) -> Iterator[None]:
        """Hand nothing over meanwhile: a commit to many mailboxes is under way, which hands nothing over itself."""
        self._arriving_anywhere += 1
        try:
            yield
        finally:
            self._arriving_anywhere -= 1

    def sleep(self, mailbox: str, reader: Reader) -> None:
        """Offer the reader new messages, unless another one sleeps there already."""
        self._sleeping.setdefault(mailbox, reader)

    def awake(self, mailbox: str, reader: Reader) -> None:
        """Offer the reader nothing more."""
        if self._sleeping.get(mailbox) is reader:
            del self._sleeping[mailbox]

    def begin(self, partition_key: str, changes: Changes) -> Handoff | None:
        """Note that a commit begins. Return what it hands over, if it stores one new message for a reader."""
        arriving = self._arriving
        if partition_key in arriving:
            arriving[partition_key] += 1
            return None
        arriving[partition_key] = 1
        reader = self._sleeping.get(partition_key)
        if reader is None or self._arriving_anywhere or not changes:
            return None
        last = changes[-1]
        if type(last) is not Put or type(last.record) is not Delivery or last.record.version != 1:
            return None
        before = changes[:-1]
        if before and not all(type(change) is Absent for change in before):
            return None
        leased = reader.lease_new(last.record)
        if leased is None:
            return None
        handoff = reader.handoff = Handoff(reader, leased, (*before, Put(leased.taken[0], last.ends_work)))
        return handoff

    def end(self, partition_key: str, handoff: Handoff | None, took_effect: bool | None) -> None:
        """Note that a commit has ended. None if nobody knows whether it took effect."""
        arriving = self._arriving
        if arriving[partition_key] == 1:
            del arriving[partition_key]
        else:
            arriving[partition_key] -= 1
        if handoff is not None:
            handoff.end(took_effect)
