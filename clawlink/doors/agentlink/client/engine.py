"""The engine of a connected AgentLink: it reads, hands over, acks, and comes back when the connection is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from clawlink.client.link.outbox import Outbox, OutboxFull
from clawlink.domain.backoff import backoff, spread
from clawlink.domain.terminal import cell
from clawlink.doors.agentlink.client.message import Forged, Message, read_message
from clawlink.doors.agentlink.client.sent import MAX_UNANSWERED, Receipts, Sent
from clawlink.doors.agentlink.client.session import Session, error_of
from clawlink.doors.agentlink.client.transport import SessionTransport
from clawlink.doors.agentlink.wire.files import LinkFile
from clawlink.doors.agentlink.wire.signing import new_nonce
from clawlink.errors import ClawLinkError, OverLimit, RelayUnreachable, TooLarge
from clawlink.timeouts import wait_for

_log = logging.getLogger("clawlink.agentlink")

FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 30.0
REMEMBERED = 10_000
MAX_WAITING = 1000
_ANSWER_SECONDS = 10.0
_CLOSED = "the link was closed"

Deliver = Callable[[Message], Awaitable[bool]]


class Engine:
    """Lives on one event loop. ``deliver`` is awaited for each message in turn.

    It acks the message by returning True; False says that nobody is there to get it, so that it is not acked.
    """

    def __init__(
        self,
        config: LinkFile,
        *,
        deliver: Deliver,
        on_state: Callable[[str, str | None], None],
        on_delivered: Callable[[Sent], None],
    ) -> None:
        self._config = config
        self._deliver = deliver
        self._on_state = on_state
        self._session: Session | None = None
        self._transport: SessionTransport | None = None
        self._receipts = Receipts(on_delivered)
        self._outbox = _outbox()
        self._asked_again: set[str] = set()  # messages that are in the outbox for their receipt alone
        self._inbox: asyncio.Queue[tuple[Session, dict[str, Any]]] = asyncio.Queue(MAX_WAITING)
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._answers: dict[str, Future[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._closed = False

    async def connect(self) -> None:
        """Connect, and stay connected. Raises what the first attempt fails with. Harmless if connected already.

        Raises RelayUnreachable for a link that is being closed.
        """
        async with self._connecting:
            if self._runner is not None and not self._runner.done():
                return
            if self._draining:
                raise RelayUnreachable(_CLOSED)
            self._on_state("connecting", None)
            try:
                session = await Session.open(self._config)
            except ClawLinkError as error:
                self._on_state("disconnected", error.message)
                raise
            if self._worker is None:
                self._start_work()
            self._runner = self._spawn(self._run(session))

    async def ended(self) -> None:
        """Return once the connection has ended and is not made again, or there is none."""
        if self._runner is not None:
            await asyncio.wait([self._runner])

    async def want(self, messages: bool) -> None:
        """Say whether somebody wants to get messages. While nobody does they are left with the relay."""
        if messages:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def close(self, drain: float) -> None:
        """Disconnect for good, once the handlers of the present message have returned or ``drain`` seconds are over.

        What the relay has not answered by then fails.
        """
        self._draining = True
        if not self._idle.is_set():
            try:
                await wait_for(self._idle.wait(), drain)
            except asyncio.TimeoutError:
                _log.warning("a handler did not return within %g s; its message comes again", drain)
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._give_up(_CLOSED)
        self._on_state("closed", None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _give_up(self, why: str) -> None:
        error = RelayUnreachable(why)
        outbox, self._outbox = self._outbox, _outbox()
        outbox.close(error)
        self._receipts.close(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

    # -- the connection ----------------------------------------------------------------------------------------------

    async def _run(self, session: Session | None) -> None:
        while session is not None:
            why = "the connection broke off"
            try:
                why = await self._serve(session)
            except ClawLinkError as error:
                why = error.message
            except Exception as error:  # whatever a relay may say, the link comes back rather than hang for ever
                _log.exception("the connection failed by a defect")
                why = _told(error)
            finally:
                self._session = self._transport = None
                with contextlib.suppress(ClawLinkError, ConnectionError):
                    await session.close()
            self._on_state("disconnected", why)
            session = await self._come_back() if self._config.auto_reconnect else None
        self._give_up("the connection has ended, and is not made again")

    async def _serve(self, session: Session) -> str:
        """Read frames until the connection ends, and return the reason for the end."""
        self._session = session
        self._transport = SessionTransport(session)
        self._on_state("connected", None)
        for sent in self._receipts.followed():
            self._ask_again(sent)
        pump = asyncio.create_task(self._outbox.pump(self._transport))
        try:
            async for frame in session:
                self._take(session, frame)
            if session.too_large:
                # The relay does not name the frame. It took all that were no larger than its limit, so the largest
                # is one that it never takes; sent again, it would end every connection to come.
                id, size = session.largest
                self._refused(id, TooLarge(f"the relay takes no frame of {size} bytes", actual=size))
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return session.why_ended

    async def _come_back(self) -> Session:
        interval = self._config.reconnect_interval
        most = MOST_PAUSE_SECONDS if interval is None else interval
        attempt = 0
        while True:
            attempt += 1
            await asyncio.sleep(spread(backoff(attempt, first=FIRST_PAUSE_SECONDS, most=most), random.random()))
            self._on_state("connecting", None)
            try:
                return await Session.open(self._config)
            except ClawLinkError as error:
                self._on_state("disconnected", error.message)
            except Exception as error:  # as a certificate that cannot be read just now
                _log.exception("the link cannot come back, and tries again")
                self._on_state("disconnected", _told(error))

    def _take(self, session: Session, frame: dict[str, Any]) -> None:
        kind, id = frame.get("type"), frame.get("id")
        if kind == "message":
            with contextlib.suppress(asyncio.QueueFull):  # what is not acked comes again; our relay sends 32 at most
                self._inbox.put_nowait((session, frame))
        elif kind == "queued" and id is not None:
            self._receipts.queued(id, frame.get("message_id"))
            self._answered(id)
        elif kind == "delivered" and id is not None:
            self._receipts.delivered(id)
            self._answered(id)
        elif kind == "responded" and id in self._answers:
            self._answers.pop(id).set_result(str(frame.get("status")))
        elif kind == "error":
            self._refused(id, error_of(frame))

    def _refused(self, id: str | None, error: ClawLinkError) -> None:
        if id in self._answers:
            self._answers.pop(str(id)).set_exception(error)
        elif self._answered(id, error):
            pass
        elif id not in self._receipts:
            about = {"code": error.code, "reason": error.message}
            _log.warning("the relay refused a frame: %s", cell(error.message), extra=about)
        elif not error.retryable:
            self._receipts.failed(str(id), error)

    # -- out ---------------------------------------------------------------------------------------------------------

    async def send(self, sent: Sent) -> None:
        """Send a message now, or when the connection is there again. Raises OverLimit if too many wait."""
        try:
            future = self._outbox.put(sent, sent.to, size=len(sent.message))
        except OutboxFull:
            raise OverLimit(
                f"{MAX_UNANSWERED} messages wait for the relay, and no more are kept; wait for some of them",
                limit=MAX_UNANSWERED,
            ) from None
        self._receipts.add(sent)
        future.add_done_callback(lambda done: self._over(sent, done))

    def _ask_again(self, sent: Sent) -> None:
        """Send a message again that the relay has: it knows the id, and tells whether the message was read."""
        if sent.id not in self._asked_again:
            self._asked_again.add(sent.id)
            future = self._outbox.put_own(lambda: sent, sent.to, first=True)
            future.add_done_callback(lambda done: self._over(sent, done))

    def _over(self, sent: Sent, future: Future[Any]) -> None:
        """Note that a message has left the outbox."""
        self._asked_again.discard(sent.id)
        error = future.exception()
        if error is not None:
            self._receipts.failed(sent.id, error)

    def _answered(self, id: str | None, error: ClawLinkError | None = None) -> bool:
        return id is not None and self._transport is not None and self._transport.answered(id, error)

    async def respond(self, task_id: str, result: str, status: str) -> str:
        """Report on a task; return its status. Raises what the relay refuses, RelayUnreachable without a connection."""
        if self._session is None:
            raise RelayUnreachable("there is no connection to the relay now; try again")
        id = new_nonce()
        answer: Future[str] = Future()
        self._answers[id] = answer
        try:
            await self._session.respond(task_id, result, status, id)
            return await wait_for(asyncio.wrap_future(answer), _ANSWER_SECONDS)
        except asyncio.TimeoutError:
            raise RelayUnreachable("the relay did not answer in time; try again") from None
        finally:
            self._answers.pop(id, None)

    # -- in ----------------------------------------------------------------------------------------------------------

    def _start_work(self) -> None:
        self._worker = self._spawn(self._work())
        self._worker.add_done_callback(self._work_ended)

    def _work_ended(self, worker: asyncio.Task[None]) -> None:
        if not self._closed:
            error = None if worker.cancelled() else worker.exception()
            _log.error("handing over messages failed by a defect; it goes on", exc_info=error)
            self._start_work()

    async def _work(self) -> None:
        """Hand over one message after the other, in the order in which they come, while somebody wants them."""
        while True:
            session, frame = await self._inbox.get()
            got = False
            while not got:
                await self._wanted.wait()
                if session is not self._session or self._draining:
                    break  # the message will come again
                got = await self._occupied(self._hand_over(session, frame))
                if not got:
                    self._wanted.clear()

    async def _occupied(self, handing_over: Coroutine[Any, Any, bool]) -> bool:
        """Hand over a message, which ``close`` waits for."""
        self._idle.clear()
        try:
            return await handing_over
        except RelayUnreachable:  # it was handed over, and comes again to be acked
            return True
        finally:
            self._idle.set()

    async def _hand_over(self, session: Session, frame: dict[str, Any]) -> bool:
        """Hand over a message, and ack it or give it back. False if nobody was there to get it."""
        receipt = str(frame.get("receipt"))
        try:
            message = read_message(frame, self._config.end_to_end)
            if message.mark not in self._handled and not await self._deliver(message):
                return False
        except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            if self._closed and isinstance(error, asyncio.CancelledError):
                raise
            if isinstance(error, Forged):
                _log.warning("a message is not handed over", extra={"reason": str(error)})
            else:  # a handler that was cancelled, or wanted to exit, too: others go on to get messages
                _log.exception("a handler failed; the message comes again")
            await session.nack(receipt, _pause_after(frame.get("attempt")))
            return True
        self._handled[message.mark] = None
        if len(self._handled) > REMEMBERED:
            self._handled.popitem(last=False)
        await session.ack(receipt)
        return True


def _pause_after(attempt: object) -> float:
    """Return the seconds until a message that failed comes again: 2, 4, 8 ... 64."""
    failed = attempt if isinstance(attempt, int) and attempt > 0 else 1  # a relay may say what it likes
    return backoff(failed, first=2.0, most=64.0)


def _outbox() -> Outbox[Sent]:
    return Outbox(MAX_UNANSWERED, sys.maxsize, log=_log)


def _told(error: Exception) -> str:
    return error.message if isinstance(error, ClawLinkError) else f"{type(error).__name__}: {error}"
