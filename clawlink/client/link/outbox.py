"""Messages that were sent while the relay was away: kept in order, within bounds, until the relay has them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from clawlink.client.link.pending import promise
from clawlink.client.link.recipient_queues import Item, RecipientQueues
from clawlink.domain.terminal import cell
from clawlink.errors import ClawLinkError, RateLimited, RelayUnreachable, TooLarge, Unavailable

C = TypeVar("C")

_log = logging.getLogger("clawlink.link")
# A message that failed for a while is not offered again at once.
_HOLD_SECONDS = 0.2
_MOST_HOLD_SECONDS = 5.0
# More than an outbox ever takes: numbers from minus this on come before all others.
_MANY = 2**53


class LinkEnded(ClawLinkError):
    """The link ended before the relay, or the other agent, had said anything."""

    code = "link_ended"


class OutboxFull(ClawLinkError):
    """As much waits to be sent as may: ``limit`` messages or bytes. Wait for receipts before sending more."""

    code = "outbox_full"


class Way(Generic[C]):
    """The connection that an outbox sends by.

    At most ``window`` calls are under way, ``at_once`` of them to one recipient. A call without an answer for
    ``patience`` seconds lets its successors go. A call that is too large for the connection goes as a request of its
    own if the way ``has_requests``.
    """

    window = 64
    at_once = 64
    patience: float | None = None
    has_requests = True

    def alone(self, call: C) -> bool:
        """Return True if the call goes beside the connection, and so may not go with others to its recipient."""
        return False

    def holds_all(self, call: C, error: ClawLinkError) -> bool:
        """Return True if calls to other recipients would fail as well for now."""
        return isinstance(error, RelayUnreachable | Unavailable)

    async def perform(self, call: C, *, by_request: bool = False) -> Any:
        """Send a call once, and return its answer."""
        raise NotImplementedError


class Outbox(Generic[C]):
    """Takes calls from any thread; ``pump`` sends them, in the event loop that owns the connection.

    Calls to one recipient keep their order; a recipient that has to wait keeps no other back. Each call carries an
    idempotency key from the beginning, so a repeat after a lost reply does nothing twice.
    """

    def __init__(self, most: int, most_bytes: int, *, log: logging.Logger = _log) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._log = log
        self._lock = threading.Lock()
        self._queues: RecipientQueues[C] = RecipientQueues()
        self._messages = 0
        self._bytes = 0
        self._newest = -1
        self._first = -_MANY
        self._wake: Callable[[], None] = lambda: None
        self._closed: ClawLinkError | None = None

    @property
    def empty(self) -> bool:
        """Return True if the relay has everything."""
        return self._queues.empty

    def put(self, call: C, recipient: str, *, size: int) -> Future[Any]:
        """Take a call of ``size`` bytes to send, and return the future of its answer. Raises OutboxFull."""
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
            item = self._add(lambda: call, recipient, size, counted=True)
        return self._taken(item)

    def put_own(self, make: Callable[[], C], recipient: str, *, first: bool = False) -> Future[Any]:
        """Take a call that must not be refused, such as a task's answer; ``make`` makes the call when it is sent.

        ``first`` lets it go before all that was not put so.
        """
        with self._lock:
            item = self._add(make, recipient, 0, counted=False, first=first)
        return self._taken(item)

    def _add(self, make: Callable[[], C], recipient: str, size: int, *, counted: bool, first: bool = False) -> Item[C]:
        if first:
            number = self._first = self._first + 1
        else:
            number = self._newest = self._newest + 1
        item = Item(number, recipient, make, promise(), size, counted)
        self._queues.add(item)
        return item

    def _taken(self, item: Item[C]) -> Future[Any]:
        closed = self._closed
        if closed is not None:
            self.close(closed)
        self._wake()
        return item.future

    def close(self, error: ClawLinkError) -> None:
        """Give up all calls in the outbox, and all later ones."""
        with self._lock:
            self._closed = error
            given_up = self._queues.clear()
            self._messages = self._bytes = 0
        for item in given_up:
            item.future.set_exception(error)

    # -- in the loop of the connection ---------------------------------------------------------------------------------

    async def pump(self, way: Way[C]) -> None:
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
                now = time.monotonic()
                while len(offers) < way.window:
                    item = self._next(way, now)
                    if item is None:
                        break
                    offer = loop.create_task(self._offer(item, way, news))
                    offers.add(offer)
                    offer.add_done_callback(ended)
                news.clear()
                opens_at = self._queues.opens_at(now)
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the news.
                alarm = None if opens_at is None else loop.call_later(opens_at - now, news.set)
                await news.wait()
                if alarm is not None:
                    alarm.cancel()
        finally:
            self._wake = lambda: None
            for offer in offers:
                offer.cancel()
            await asyncio.gather(*offers, return_exceptions=True)

    def _next(self, way: Way[C], now: float) -> Item[C] | None:
        """Return the next that may go now, if there is one."""

        def alone(item: Item[C]) -> bool:
            if item.by_request:
                return True
            if item.call is None:
                try:
                    item.call = item.make()
                except Exception:  # the next caller meets this error again, and reports it
                    return False
            return way.alone(item.call)

        with self._lock:
            return self._queues.take(now, at_once=way.at_once, alone=alone)

    async def _offer(self, item: Item[C], way: Way[C], news: asyncio.Event) -> None:
        def pass_by() -> None:
            with self._lock:
                self._queues.pass_by(item)
            news.set()

        alarm = None if way.patience is None else asyncio.get_running_loop().call_later(way.patience, pass_by)
        call: C | None = None
        try:
            call = item.call or item.make()
            answer = await way.perform(call, by_request=item.by_request)
        except ClawLinkError as error:
            if isinstance(error, TooLarge) and way.has_requests and not item.by_request:
                # It ended the connection, and maybe others with it: as a request it is refused alone.
                item.by_request = True
                self._put_back(item, error, hold_all=False)
            elif error.retryable:
                self._put_back(item, error, hold_all=call is not None and way.holds_all(call, error))
            else:
                self._settle(item, error)
        except asyncio.CancelledError:
            self._put_back(item, None)
            raise
        except Exception as error:
            self._log.exception("a message cannot be sent: %s", cell(f"{type(error).__name__}: {error}"))
            self._settle(item, error)
        else:
            self._settle(item, None, answer)
        finally:
            if alarm is not None:
                alarm.cancel()

    def _put_back(self, item: Item[C], error: ClawLinkError | None, *, hold_all: bool = False) -> None:
        with self._lock:
            item.call = None
            self._queues.put_back(item)
            if error is not None:
                pause = min(max(_HOLD_SECONDS, error.retry_after or 0.0), _MOST_HOLD_SECONDS)
                self._queues.hold(
                    None if hold_all else item.recipient,
                    time.monotonic() + pause,
                    # The messages go singly until the relay has all that was here, so that none overtakes another.
                    slow_to=self._newest if isinstance(error, RateLimited) else -1,
                )
        closed = self._closed
        if closed is not None:
            self.close(closed)

    def _settle(self, item: Item[C], error: Exception | None, answer: Any = None) -> None:
        with self._lock:
            self._queues.done(item)
            if item.counted and self._closed is None:
                self._messages -= 1
                self._bytes -= item.size
        if error is None:
            item.future.set_result(answer)
        else:
            item.future.set_exception(error)
