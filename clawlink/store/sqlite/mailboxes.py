"""The pending messages of mailboxes that are wholly in memory: a claim there reads nothing from the database.

An empty mailbox is known to be empty by its count. From its first message on it is kept here, until it has too many
messages, or memory is needed for others. Then the database is asked, until the mailbox is empty again.

They belong to the event loop, and follow the commits in the order in which the writer made them.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

from clawlink.domain.delivery import Delivery
from clawlink.store.sqlite.counts import Counts

# The most messages of one mailbox, and about the most bytes of all of them.
MOST_KEPT = 64
_MOST_BYTES = 8 * 1024 * 1024
_DELIVERY_BYTES = 700

_place = attrgetter("sort_key")


class Mailboxes:
    """The mailboxes of one store."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._kept: dict[str, dict[str, Delivery]] = {}  # by ids, as they came
        self._bytes = 0

    def follow(self, d: Delivery, *, pending: bool) -> None:
        """Take a changed message that is counted."""
        mailbox = d.mailbox
        box = self._kept.get(mailbox)
        if box is None:
            if not pending or self._counts.mailbox(mailbox).count != 1:
                return
            box = self._kept[mailbox] = {}
        before = box.pop(d.id, None)
        if before is not None:
            self._bytes -= _DELIVERY_BYTES + len(before.body)
        if pending:
            box[d.id] = d
            self._bytes += _DELIVERY_BYTES + len(d.body)
            if len(box) > MOST_KEPT:
                self._forget(mailbox)
            while self._bytes > _MOST_BYTES:
                self._forget(next(iter(self._kept)))
        elif not box and not self._counts.mailbox(mailbox).count:
            del self._kept[mailbox]

    def _forget(self, mailbox: str) -> None:
        for d in self._kept.pop(mailbox).values():
            self._bytes -= _DELIVERY_BYTES + len(d.body)

    def pending(self, mailbox: str) -> Collection[Delivery] | None:
        """Return all pending messages of a mailbox; None if the database has to be asked."""
        box = self._kept.get(mailbox)
        if box is None:
            return None if self._counts.mailbox(mailbox).count else ()
        return box.values()


def due(pending: Collection[Delivery], now: float, limit: int) -> list[Delivery]:
    """Return the messages that are due, in the order of their mailbox."""
    found = [d for d in pending if d.visible_at <= now]
    if len(found) > 1:
        found.sort(key=_place)
        del found[limit:]
    return found


def next_due_at(pending: Collection[Delivery]) -> float | None:
    """Return when the next message is due; None if nothing is pending."""
    return min([d.visible_at for d in pending], default=None)
