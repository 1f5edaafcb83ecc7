"""The pending messages of mailboxes that are wholly in memory: a claim there reads nothing from the database.

An empty mailbox is known to be empty by its count. From its first message on it is kept here, until it has too many
messages, or memory is needed for others. Then the database is asked, until the mailbox is empty again.

They belong to the event loop, and follow the commits in the order in which the writer made them.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

from clawlink.domain.delivery import Delivery

# The most messages of one mailbox, and about the most bytes of all of them.
MOST_KEPT = 64
_MOST_BYTES = 8 * 1024 * 1024
_DELIVERY_BYTES = 700

_place = attrgetter("sort_key")


class Mailboxes:
    """The mailboxes of one store."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Delivery]] = {}  # by ids, as they came
        self._bytes = 0

    def follow(self, mailbox: str, id: str, pending: Delivery | None, held: int) -> None:
        """Take a changed message, None if it is not pending any more. ``held`` are all that are there now."""
        box = self._kept.get(mailbox)
        if box is None:
            if pending is None or held != 1:
                return
            box = self._kept[mailbox] = {}
        before = box.get(id)
        if before is not None:
            self._bytes -= _DELIVERY_BYTES + len(before.body)
        if pending is not None:
            box[id] = pending
            self._bytes += _DELIVERY_BYTES + len(pending.body)
            if len(box) > MOST_KEPT:
                self._forget(mailbox)
            while self._bytes > _MOST_BYTES:
                self._forget(next(iter(self._kept)))
        elif before is not None:
            del box[id]
        if not held:
            self._kept.pop(mailbox, None)

    def _forget(self, mailbox: str) -> None:
        for d in self._kept.pop(mailbox).values():
            self._bytes -= _DELIVERY_BYTES + len(d.body)

    def pending(self, mailbox: str, held: int) -> Collection[Delivery] | None:
        """Return all pending messages of a mailbox with ``held`` messages; None if the database has to be asked."""
        box = self._kept.get(mailbox)
        if box is None:
            return None if held else ()
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
