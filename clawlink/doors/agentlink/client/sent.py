"""Messages that were sent and may not have arrived. They keep their ids, so that sending them again is harmless."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, TypeVar

from clawlink.doors.agentlink.wire.signing import new_nonce
from clawlink.errors import BadRequest, ClawLinkError

MAX_UNANSWERED = 1000
MAX_FOLLOWED = 1000
# The relay remembers for an hour (--retention) what it settled; a repeat later than that would be a new message.
FOLLOW_SECONDS = 1800.0

T = TypeVar("T")


class Pending(Generic[T]):
    """Something that is under way: awaited on an event loop, or waited for in a thread by ``result``."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def result(self, timeout: float | None = None) -> T:
        """Wait for it, ``timeout`` seconds at most (then TimeoutError), and return it or raise what went wrong."""
        return _waited(self._future, timeout)

    def done(self) -> bool:
        """Return True if it has come to an end."""
        return self._future.done()


class Sent:
    """A message on its way. Awaiting it means to wait until the relay has it."""

    def __init__(self, to: str, message: str, id: str | None = None) -> None:
        self.id = id or new_nonce()
        self.to = to
        self.message = message
        self.message_id: str | None = None
        self.at = time.monotonic()
        self.stored: Future[Sent] = Future()
        self.read: Future[bool] = Future()

    def __await__(self) -> Generator[Any, None, Sent]:
        return asyncio.shield(asyncio.wrap_future(self.stored)).__await__()

    def result(self, timeout: float | None = None) -> Sent:
        """Wait in a thread until the relay has it, ``timeout`` seconds at most (then TimeoutError)."""
        return _waited(self.stored, timeout)

    @property
    def delivered(self) -> bool:
        """Return True if the recipient has acked it."""
        return self.read.done() and not self.read.cancelled() and self.read.exception() is None

    def receipt(self) -> Pending[bool]:
        """Return what becomes true once the recipient has acked it, or raises if it never will."""
        return Pending(self.read)

    def fail(self, error: BaseException) -> None:
        """Note that it will not arrive."""
        _settle(self.stored, error)
        _settle(self.read, error)

    def __repr__(self) -> str:
        state = "delivered" if self.delivered else "stored" if self.stored.done() else "on its way"
        return f"<message {self.id} to {self.to}: {state}>"


class Receipts:
    """The messages that are not done with, by id: those that the relay has not answered, and those that nobody read.

    The relay is asked again about these over each new connection: the receipt may have come in between.
    """

    def __init__(self, on_delivered: Callable[[Sent], None]) -> None:
        self._unanswered: dict[str, Sent] = {}
        self._followed: dict[str, Sent] = {}
        self._on_delivered = on_delivered

    def add(self, sent: Sent) -> None:
        """Take a message that is on its way."""
        self._unanswered[sent.id] = sent

    def followed(self) -> list[Sent]:
        """Return the messages that the relay has, and whose receipt is awaited; give up those that are too old."""
        now = time.monotonic()
        for sent in [s for s in self._followed.values() if now - s.at > FOLLOW_SECONDS]:
            self._drop(sent, "the connection ended before its receipt came, too long ago to ask again")
        return list(self._followed.values())

    def __contains__(self, id: object) -> bool:
        return id in self._unanswered or id in self._followed

    def queued(self, id: str, message_id: str | None) -> None:
        """Note that the relay has the message."""
        sent = self._unanswered.pop(id, None)
        if sent is None:
            return
        sent.message_id = message_id
        if len(self._followed) >= MAX_FOLLOWED:
            self._drop(next(iter(self._followed.values())), "too many others were sent since to follow this one")
        self._followed[id] = sent
        _settle(sent.stored, sent)

    def delivered(self, id: str) -> None:
        """Note that the recipient has acked the message."""
        self.queued(id, None)
        sent = self._followed.pop(id, None)
        if sent is not None:
            _settle(sent.read, True)
            self._on_delivered(sent)

    def failed(self, id: str, error: BaseException) -> None:
        """Note that the relay refused the message, or that nobody will read it."""
        sent = self._unanswered.pop(id, None) or self._followed.pop(id, None)
        if sent is not None:
            sent.fail(error)

    def close(self, error: Exception) -> None:
        """Give up on everything."""
        for id in [*self._unanswered, *self._followed]:
            self.failed(id, error)

    def _drop(self, sent: Sent, why: str) -> None:
        self._followed.pop(sent.id, None)
        _settle(sent.read, ClawLinkError(f"it is not known whether message {sent.id} was read: {why}"))


def _waited(future: Future[T], timeout: float | None) -> T:
    """Wait for a future. Its own error of a wait that is over is no ``TimeoutError`` before Python 3.11."""
    try:
        return future.result(timeout)
    except FutureTimeout as error:
        if future.done():
            raise
        raise TimeoutError(f"it is still to come after {timeout or 0.0:g} s") from error


def _settle(future: Future[Any], outcome: Any) -> None:
    """Set a future that its owner may have cancelled, or that is set already."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def require_text(value: object, field: str) -> str:
    """Return a text that can be signed and sent: a str that UTF-8 can encode. Raises BadRequest for all else."""
    if not isinstance(value, str):
        raise BadRequest(f"{field} is a text (str), not {type(value).__name__}", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"{field} cannot be encoded in UTF-8: half of a surrogate pair stands alone at {error.start}", field=field
        ) from None
    return value
