"""The queues of an outbox, one for each recipient: which call may go next. Pure, with the time as an argument.

Calls go in the order in which they came, except those of a recipient that is held back. Within one recipient no call
overtakes another, as in a message group of SQS.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

C = TypeVar("C")


@dataclass(order=True)
class Item(Generic[C]):
    """A call in the outbox. ``number`` is its place in the order; ``make`` makes the call when it is sent."""

    number: int
    recipient: str = field(compare=False)
    make: Callable[[], C] = field(compare=False)
    future: Future[Any] = field(compare=False)
    size: int = field(compare=False)
    counted: bool = field(compare=False)
    by_request: bool = field(default=False, compare=False)
    call: C | None = field(default=None, compare=False)  # made, and not on its way


class _Queue(Generic[C]):
    """The calls to one recipient. Calls up to number ``slow_to`` go one at a time."""

    def __init__(self) -> None:
        self.waiting: list[Item[C]] = []
        self.under_way: set[int] = set()
        self.one_is_alone = False
        self.held_until = 0.0
        self.slow_to = -1


class RecipientQueues(Generic[C]):
    """Items by recipient. ``take`` gives the next item; it ends by ``done``, or ``put_back`` before its successors."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue[C]] = {}
        # Heaps with the queues to look at: by the number of their first item, and by the end of their hold. An entry
        # may be out of date; there is always one that is not.
        self._ready: list[tuple[int, str]] = []
        self._held: list[tuple[float, str]] = []
        self._under_way: dict[int, Item[C]] = {}
        self._waiting = 0
        self._held_until = 0.0
        self._slow_to = -1

    @property
    def empty(self) -> bool:
        """Return True if no item waits or is under way."""
        return not self._waiting and not self._under_way

    def add(self, item: Item[C]) -> None:
        """Take an item, at the place of its number."""
        queue = self._queues.setdefault(item.recipient, _Queue())
        heapq.heappush(queue.waiting, item)
        self._waiting += 1
        if queue.waiting[0] is item:
            self._look_at(item.recipient)

    def take(self, now: float, *, at_once: int, alone: Callable[[Item[C]], bool]) -> Item[C] | None:
        """Return the next item that may go, or None. It is under way from here on.

        At most ``at_once`` items of one recipient are under way, and an item that goes ``alone`` is so by itself.
        """
        while self._held and self._held[0][0] <= now:
            self._look_at(heapq.heappop(self._held)[1])
        while self._ready and self._held_until <= now:
            number, recipient = self._ready[0]
            queue = self._queues.get(recipient)
            if queue is None or not queue.waiting or queue.waiting[0].number != number or queue.held_until > now:
                heapq.heappop(self._ready)
                continue
            item = queue.waiting[0]
            if _is_slow(item, self._under_way, self._slow_to):
                return None
            item_alone = alone(item)
            heapq.heappop(self._ready)
            if queue.under_way and (
                item_alone
                or queue.one_is_alone
                or len(queue.under_way) >= at_once
                or _is_slow(item, queue.under_way, queue.slow_to)
            ):
                continue  # the end of an item under way shows it again
            heapq.heappop(queue.waiting)
            self._waiting -= 1
            self._under_way[item.number] = item
            queue.under_way.add(item.number)
            queue.one_is_alone = item_alone
            self._look_at(recipient)
            return item
        return None

    def done(self, item: Item[C]) -> None:
        """Forget an item that was under way."""
        del self._under_way[item.number]
        self._pass(item)

    def pass_by(self, item: Item[C]) -> None:
        """Let its successors go, though the item is under way and may come back."""
        if item.number in self._under_way:
            self._pass(item)

    def put_back(self, item: Item[C]) -> None:
        """Have an item under way wait again, before its successors."""
        self.add(item)
        self.done(item)

    def hold(self, recipient: str | None, until: float, *, slow_to: int = -1) -> None:
        """Let nothing go to a recipient before this time, to none at all if that is None.

        Items up to number ``slow_to`` go one at a time after that, so that none overtakes another.
        """
        if recipient is None:
            self._held_until = max(self._held_until, until)
            self._slow_to = max(self._slow_to, slow_to)
        elif recipient in self._queues:
            queue = self._queues[recipient]
            queue.held_until = max(queue.held_until, until)
            queue.slow_to = max(queue.slow_to, slow_to)
            heapq.heappush(self._held, (queue.held_until, recipient))

    def opens_at(self, now: float) -> float | None:
        """Return the time at which the next hold ends, None without one."""
        if self._held_until > now:
            return self._held_until
        return self._held[0][0] if self._held else None

    def clear(self) -> list[Item[C]]:
        """Forget all items that wait, and return them."""
        waiting = [item for queue in self._queues.values() for item in queue.waiting]
        for queue in self._queues.values():
            queue.waiting = []
        self._waiting = 0
        return waiting

    def _pass(self, item: Item[C]) -> None:
        queue = self._queues.get(item.recipient)
        if queue is None:
            return
        queue.under_way.discard(item.number)
        if not queue.under_way:
            queue.one_is_alone = False
        if queue.waiting or queue.under_way:
            self._look_at(item.recipient)
        else:
            del self._queues[item.recipient]

    def _look_at(self, recipient: str) -> None:
        queue = self._queues.get(recipient)
        if queue is not None and queue.waiting:
            heapq.heappush(self._ready, (queue.waiting[0].number, recipient))


def _is_slow(item: Item[Any], under_way: Iterable[int], slow_to: int) -> bool:
    """Return True if the item has to wait until nothing is under way."""
    if slow_to < 0:
        return False
    oldest = min(under_way, default=None)
    return oldest is not None and min(item.number, oldest) <= slow_to
