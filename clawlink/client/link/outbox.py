"""Messages that were sent while the relay was away: kept in order, within bounds, until the relay has them."""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from clawlink.client.endpoints import Call
from clawlink.client.link.pending import promise
from clawlink.errors import ClawLinkError, RateLimited, TooLarge

_log = logging.getLogger("clawlink.link")
# A message that failed for a while is not offered again at once.
_HOLD_SECONDS = 0.2
_MOST_HOLD_SECONDS = 5.0


class LinkEnded(ClawLinkError):
    """The link ended before the relay, or the other agent, had said anything."""

    code = "link_ended"


class OutboxFull(ClawLinkError):
    """As much waits to be sent as may: ``limit`` messages or bytes. Wait for receipts before sending more."""

    code = "outbox_full"


class Way(Protocol):
    """How to get a call to the relay once. ``window`` calls at a time keep their order, but for those that go alone."""

    window: int

    def alone(self, call: Call[Any]) -> bool: ...

    async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any: ...


@dataclass(order=True)
class _Item:
    number: int
    make: Callable[[], Call[Any]] = field(compare=False)
    future: Future[Any] = field(compare=False)
    size: int = field(compare=False)
    counted: bool = field(compare=False)
    by_request: bool = field(default=False, compare=False)
    call: Call[Any] | None = field(default=None, compare=False)  # made, and not on its way


class Outbox:
    """Takes calls from any thread; ``pump`` sends them, in the event loop that owns the connection.

    Each call carries an idempotency key from the beginning, so a repeat after a lost reply does nothing twice.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._numbers = count()
        self._waiting: list[_Item] = []
        self._messages = 0
        self._bytes = 0
        self._under_way: dict[int, bool] = {}  # the calls under way, by number, and whether each goes alone
        self._held_until = 0.0
        self._slow_to = -1  # up to this one they go one at a time
        self._newest = -1
        self._wake: Callable[[], None] = lambda: None
        self._closed: ClawLinkError | None = None

    @property
    def empty(self) -> bool:
        """Whether the relay has everything."""
        return not self._waiting and not self._under_way

    def put(self, call: Call[Any]) -> Future[Any]:
        """Take a call to send, and return a ``Pending`` for its answer. Raises OutboxFull."""
        size = len(call.body or b"")
        with self._lock:
            over_bytes = self._messages > 0 and self._bytes + size > self._most_bytes
            if self._messages >= self._most or over_bytes:
                limit, unit = (self._most_bytes, "bytes") if over_bytes else (self._most, "messages")
                raise OutboxFull(
                    f"the outbox is full: {self._messages} messages of {self._bytes} bytes wait to be sent, "
                    f"and the limit is {limit} {unit}; wait for receipts before sending more",
                    limit=limit,
                    actual=self._bytes + size if over_bytes else self._messages + 1,
                )
            self._messages += 1
            self._bytes += size
            item = self._add(lambda: call, size, counted=True)
        return self._taken(item)

    def put_own(self, make: Callable[[], Call[Any]]) -> Future[Any]:
        """Take a call that must not be refused, such as a task's answer; ``make`` makes the call when it is sent."""
        with self._lock:
            item = self._add(make, 0, counted=False)
        return self._taken(item)

    def _add(self, make: Callable[[], Call[Any]], size: int, *, counted: bool) -> _Item:
        self._newest = next(self._numbers)
        item = _Item(self._newest, make, promise(), size, counted)
        heapq.heappush(self._waiting, item)
        return item

    def _taken(self, item: _Item) -> Future[Any]:
        closed = self._closed
        if closed is not None:
            self.close(closed)
        self._wake()
        return item.future

    def close(self, error: ClawLinkError) -> None:
        """Give up all calls in the outbox, and all later ones."""
        with self._lock:
            self._closed = error
            given_up, self._waiting = self._waiting, []
            self._messages = self._bytes = 0
        for item in given_up:
            item.future.set_exception(error)

    # -- in the loop of the connection ---------------------------------------------------------------------------------

    async def pump(self, way: Way) -> None:
        """Send calls in order while the connection lasts; calls without an answer stay here."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(news.set)

        self._wake = wake
        offers: set[asyncio.Task[None]] = set()

        def ended(offer: asyncio.Task[None]) -> None:
            offers.discard(offer)
            news.set()

        try:
            while True:
                hold = self._held_until - time.monotonic()
                while hold <= 0 and len(offers) < way.window:
                    item = self._next(way)
                    if item is None:
                        break
                    offer = loop.create_task(self._offer(item, way))
                    offers.add(offer)
                    offer.add_done_callback(ended)
                news.clear()
                if hold > 0 or not self._waiting or offers:
                    # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the news.
                    alarm = loop.call_later(hold, news.set) if hold > 0 else None
                    await news.wait()
                    if alarm is not None:
                        alarm.cancel()
        finally:
            self._wake = lambda: None
            for offer in offers:
                offer.cancel()
            await asyncio.gather(*offers, return_exceptions=True)

    def _next(self, way: Way) -> _Item | None:
        """Return the next that may go now, if there is one."""
        with self._lock:
            if not self._waiting:
                return None
            item = self._waiting[0]
            alone = self._goes_alone(item, way)
            if self._under_way:
                slow = min(item.number, *self._under_way) <= self._slow_to
                if slow or alone or any(self._under_way.values()):
                    return None
            self._under_way[item.number] = alone
            return heapq.heappop(self._waiting)

    def _goes_alone(self, item: _Item, way: Way) -> bool:
        if item.by_request:
            return True
        if item.call is None:
            try:
                item.call = item.make()
            except Exception:  # the next caller meets this error again, and reports it
                return False
        return way.alone(item.call)

    async def _offer(self, item: _Item, way: Way) -> None:
        try:
            answer = await way.perform(item.call or item.make(), by_request=item.by_request)
        except ClawLinkError as error:
            if isinstance(error, TooLarge) and not item.by_request:
                # It ended the connection, and maybe others with it: as a request it is refused alone.
                item.by_request = True
                self._put_back(item, error)
            elif error.retryable:
                self._put_back(item, error)
            else:
                self._settle(item, error)
        except asyncio.CancelledError:
            self._put_back(item, None)
            raise
        except Exception as error:
            _log.exception("a message could not be sent")
            self._settle(item, error)
        else:
            self._settle(item, None, answer)

    def _put_back(self, item: _Item, error: ClawLinkError | None) -> None:
        with self._lock:
            del self._under_way[item.number]
            item.call = None
            heapq.heappush(self._waiting, item)
            if isinstance(error, RateLimited):
                # The messages go singly until the relay has all that was here, so that none overtakes another.
                self._slow_to = self._newest
        if error is not None:
            pause = min(max(_HOLD_SECONDS, error.retry_after or 0.0), _MOST_HOLD_SECONDS)
            self._held_until = max(self._held_until, time.monotonic() + pause)
        closed = self._closed
        if closed is not None:
            self.close(closed)

    def _settle(self, item: _Item, error: Exception | None, answer: Any = None) -> None:
        with self._lock:
            del self._under_way[item.number]
            if item.counted and self._closed is None:
                self._messages -= 1
                self._bytes -= item.size
        if error is None:
            item.future.set_result(answer)
        else:
            item.future.set_exception(error)
