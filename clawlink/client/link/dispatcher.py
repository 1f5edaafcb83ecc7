"""The messages under handling: each once, also over a broken connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from clawlink.client import mailbox_endpoints
from clawlink.client.calls import Call, Claimed, Identity
from clawlink.client.link.delegation import PendingReplies
from clawlink.client.link.handlers import Handlers
from clawlink.client.link.in_flight import InFlight, Report, not_json, sentence_of
from clawlink.client.link.outbox import LinkEnded, Outbox
from clawlink.client.link.runner import Outcome, Run, Runner
from clawlink.client.link.task import Received, Task
from clawlink.client.link.transport import Transport
from clawlink.domain.backoff import backoff
from clawlink.domain.message import (
    KnowledgeBroadcast,
    PlainMessage,
    TaskAnswer,
    TaskDelegation,
    TaskResponse,
    TaskUpdate,
)
from clawlink.errors import (
    BadRequest,
    ClawLinkError,
    LeaseLost,
    MailboxFull,
    NotAllowed,
    NotFound,
    RelayFull,
    StorageFull,
    WrongState,
)
from clawlink.protocol.replies import ResponseSent

_log = logging.getLogger("clawlink.link")

# The link knows repeats among this many messages.
_MOST_HANDLED = 10_000
# Plain functions that did not end in time go on in their threads. With this many of them no new one begins.
_MOST_HUNG = 64
# Messages held over a lost connection come again over the next, soon after it is there.
_AGAIN_SECONDS = 5.0
_FIRST_RETRY_SECONDS = 1.0
_MOST_RETRY_SECONDS = 60.0
# Errors that mean: the task now belongs to another agent, or to none.
_NOT_OURS = (LeaseLost, NotAllowed, WrongState, NotFound)
# Errors that mean: a report waits until there is room for it.
_NO_ROOM = (MailboxFull, RelayFull, StorageFull)


class Dispatcher:
    """The handling of messages, in the link's own loop; ``report`` and ``ask`` may be called from any thread."""

    def __init__(
        self,
        me: Identity,
        handlers: Handlers,
        runner: Runner,
        outbox: Outbox[Call[Any]],
        pending_replies: PendingReplies,
        *,
        concurrency: int,
        handler_timeout: float | None,
        send: Callable[..., Any],
    ) -> None:
        self.in_flight: dict[str, InFlight] = {}
        self.freed = asyncio.Event()
        self.transport: Transport | None = None
        self.draining = False
        self._me = me
        self._handlers = handlers
        self._runner = runner
        self._outbox = outbox
        self._pending_replies = pending_replies
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._handler_timeout = handler_timeout
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._handled: dict[str, None] = {}
        self._hung: set[Run] = set()
        self._going: set[asyncio.Task[None]] = set()

    @property
    def room(self) -> int:
        """How many more messages can be handled now."""
        return 0 if self.draining else self._concurrency - len(self.in_flight)

    @property
    def running(self) -> int:
        """How many handlers are under way, or their results are."""
        return sum(in_flight.run is not None for in_flight in self.in_flight.values())

    # -- incoming messages ---------------------------------------------------------------------------------------------

    def take(self, claimed: Claimed, transport: Transport) -> None:
        """Handle a message, unless it was handled already or is being handled."""
        id, message = claimed.message_id, claimed.message
        if id in self.in_flight:
            self.in_flight[id].renew(claimed, transport)
        elif id in self._handled:
            self._begin(self._ack(claimed.receipt))
        elif isinstance(message, TaskDelegation | PlainMessage | KnowledgeBroadcast) and self._handlers.wants(message):
            in_flight = self.in_flight[id] = InFlight(claimed, transport)
            self._begin(self._handle(in_flight))
        else:
            self._note(claimed, transport)

    def _note(self, claimed: Claimed, transport: Transport) -> None:
        """Take a message without a handler."""
        message = claimed.message
        if isinstance(message, TaskDelegation):
            _log.warning("a task from %r is rejected: there is no handler for tasks", message.from_name)
            sentence = f"{self._handlers.name!r} takes no tasks: it has no handler for them"
            in_flight = self.in_flight[claimed.message_id] = InFlight(claimed, transport)
            self._begin(self._answer(in_flight, "rejected", sentence))
            return
        if isinstance(message, TaskResponse | TaskUpdate):
            self._pending_replies.hear(message)
            if isinstance(message, TaskUpdate) and message.status in ("cancelled", "expired", "returned"):
                self.lose(message.task_id)
        elif isinstance(message, TaskAnswer):
            self._pending_replies.answer(message)
        elif isinstance(message, PlainMessage):
            _log.warning("a message from %r is dropped: there is no handler for messages", message.from_name)
        self._done(claimed.message_id)
        self._begin(self._ack(claimed.receipt))

    def lose(self, task_id: str) -> None:
        """Note that a task is no longer this agent's."""
        if task_id in self.in_flight:
            self.in_flight[task_id].lose()

    # -- handlers ------------------------------------------------------------------------------------------------------

    async def _handle(self, in_flight: InFlight) -> None:
        async with self._slots:
            if self.draining:
                return  # not begun: it goes back when the connection ends
            if in_flight.lost:
                self._forget(in_flight)
                return
            message = in_flight.claimed.message
            if isinstance(message, TaskDelegation):
                outcome = await self._call(
                    in_flight, self._handlers.task, Task(message, in_flight, self), task_id=message.message_id
                )
                await self._answer(in_flight, *self._verdict(in_flight, outcome))
            elif isinstance(message, PlainMessage):
                outcome = await self._call(in_flight, self._handlers.message, Received(message, self._send))
                await self._settle(in_flight, outcome)
            elif isinstance(message, KnowledgeBroadcast):
                for handler in self._handlers.for_topic(message.topic):
                    outcome = await self._call(in_flight, handler, message)
                await self._settle(in_flight, Outcome(stopped=outcome.stopped))
            if len(self._hung) > _MOST_HUNG and in_flight.run is not None:
                await asyncio.wrap_future(in_flight.run.outcome)

    async def _call(self, in_flight: InFlight, handler: Any, argument: Any, *, task_id: str | None = None) -> Outcome:
        run = in_flight.run = self._runner.start(handler, argument, task_id=task_id)
        ended = asyncio.wrap_future(run.outcome)
        await asyncio.wait([ended], timeout=self._handler_timeout)
        if not ended.done():
            in_flight.timed_out = True
            run.cancel()
            self._hung.add(run)
            run.outcome.add_done_callback(lambda _: self._hung.discard(run))
            sentence = f"the handler did not end within {self._handler_timeout:g} s"
            _log.error("%s: %r", sentence, argument)
            return Outcome(error=TimeoutError(sentence))
        outcome = ended.result()
        if outcome.error is not None and not outcome.stopped:
            _log.error("the handler failed: %r", argument, exc_info=outcome.error)
        return outcome

    def _verdict(self, in_flight: InFlight, outcome: Outcome) -> tuple[str | None, Any]:
        """Return the final state of a task and its result; None if this agent may not decide it."""
        if outcome.stopped or in_flight.lost:
            return None, None
        if outcome.error is not None:
            return "failed", sentence_of(outcome.error)
        why = not_json(self._response(in_flight, status="completed", result=outcome.result))
        if why is not None:
            _log.error("the result of task %s is not JSON: %s", in_flight.id, why)
            return "failed", f"the result of the handler is not JSON ({type(outcome.result).__name__}): {why}"
        return "completed", outcome.result

    async def _answer(self, in_flight: InFlight, status: str | None, result: Any, *, told: bool = False) -> None:
        """Give the final answer to a task, if there is one. ``told`` is True if it says that the result was refused."""
        if status is not None:
            files = in_flight.attachments if status == "completed" else None
            report = self._response(in_flight, status=status, result=result, attachments=files or None)
            try:
                await self._deliver(in_flight, report, self._put(in_flight, report))
            except _NOT_OURS as error:
                _log.warning("the result of task %s came too late: %s", in_flight.id, error)
                self._forget(in_flight)
                in_flight.end(None, f"the result came too late: {error}")
                return
            except LinkEnded as error:
                _log.warning("the result of task %s was not delivered: %s", in_flight.id, error)
                in_flight.end(None, f"the result was not delivered: {error}")
                return
            except Exception as error:  # the relay does not take it: its requester is to know at least that
                if told:
                    _log.error("task %s could not be answered: %s", in_flight.id, error)
                    in_flight.end(None, f"the task could not be answered: {error}")
                    await self._try_later(in_flight)  # heartbeats would keep it here for ever
                    self._forget(in_flight)
                else:
                    _log.error("the result of task %s could not be delivered: %s", in_flight.id, error)
                    sentence = f"the result could not be delivered: {error}"
                    await self._answer(in_flight, "failed", sentence, told=True)
                return
            in_flight.end(status, None if status == "completed" else str(result))
            self._done(in_flight.id)
            await self._ack(in_flight.receipt)
        else:
            in_flight.end(None)
            if not in_flight.lost:
                await self._give_back(in_flight, 0.0)
        self._forget(in_flight)

    async def _settle(self, in_flight: InFlight, outcome: Outcome) -> None:
        """Acknowledge a message that was handled; give one back that was not, to be tried again later."""
        if outcome.stopped:
            await self._give_back(in_flight, 0.0)
        elif outcome.error is not None:
            await self._try_later(in_flight)
        else:
            self._done(in_flight.id)
            await self._ack(in_flight.receipt)
        self._forget(in_flight)

    # -- reports on tasks ----------------------------------------------------------------------------------------------

    def report(self, in_flight: InFlight, **fields: Any) -> Future[ResponseSent]:
        """Report on a task. Raises BadRequest for an invalid report."""
        report = self._checked(in_flight, **fields)
        sent = self._put(in_flight, report)
        return asyncio.run_coroutine_threadsafe(self._deliver(in_flight, report, sent), self._loop)

    def ask(self, in_flight: InFlight, question: Any) -> Future[Any]:
        """Ask the requester of a task, and return a ``Pending`` for the answer."""
        report = self._checked(in_flight, status="input_required", result=question)
        return asyncio.run_coroutine_threadsafe(self._ask(in_flight, report), self._loop)

    async def _ask(self, in_flight: InFlight, report: Report) -> Any:
        question = self._pending_replies.ask(in_flight.id)
        try:
            await self._deliver(in_flight, report, self._put(in_flight, report))
            question.stored = True
            return await question.answer
        finally:
            self._pending_replies.drop(in_flight.id, question)

    def _checked(self, in_flight: InFlight, **fields: Any) -> Report:
        report = self._response(in_flight, **fields)
        why = not_json(report)
        if why is not None:
            raise BadRequest(f"a report on a task must be JSON: {why}", field="result")
        return report

    def _response(self, in_flight: InFlight, **fields: Any) -> Report:
        return Report(self._me, in_flight, fields)

    async def _deliver(self, in_flight: InFlight, report: Report, sent: Future[ResponseSent]) -> ResponseSent:
        """Wait until the relay has a report; if it was refused for an old receipt, send it under the new one."""
        while True:
            try:
                return await asyncio.wrap_future(sent)
            except (LeaseLost, NotAllowed):
                if not await self._held_anew(in_flight, report.receipt):
                    in_flight.lose()
                    raise
                sent = self._put(in_flight, report)
            except (WrongState, NotFound):
                in_flight.lose()
                raise
            except _NO_ROOM as error:
                await asyncio.sleep(min(error.retry_after or _FIRST_RETRY_SECONDS, _MOST_RETRY_SECONDS))
                sent = self._put(in_flight, report)

    def _put(self, in_flight: InFlight, report: Report) -> Future[ResponseSent]:
        """Put a report into the outbox; its call is made when it is sent, with the receipt of that moment."""
        return self._outbox.put_own(report.call, in_flight.requester)

    async def _held_anew(self, in_flight: InFlight, receipt: str) -> bool:
        """Return True if a message came again since it was held under this receipt, or does so soon."""
        if in_flight.receipt == receipt and in_flight.transport is not self.transport and not in_flight.lost:
            in_flight.renewed.clear()
            alarm = self._loop.call_later(_AGAIN_SECONDS, in_flight.renewed.set)
            await in_flight.renewed.wait()
            alarm.cancel()
        return in_flight.receipt != receipt

    # -- settling ------------------------------------------------------------------------------------------------------

    async def _ack(self, receipt: str) -> None:
        """Acknowledge. If that fails, the message comes again and is known."""
        if self.transport is not None:
            with contextlib.suppress(ClawLinkError):
                await self.transport.ack([receipt])

    async def _try_later(self, in_flight: InFlight) -> None:
        """Give a message back for another attempt, after a pause that grows."""
        attempt = in_flight.claimed.attempt
        await self._give_back(in_flight, backoff(attempt, first=_FIRST_RETRY_SECONDS, most=_MOST_RETRY_SECONDS))

    async def _give_back(self, in_flight: InFlight, delay: float) -> None:
        if self.transport is not None:
            with contextlib.suppress(ClawLinkError):
                await self.transport.perform(mailbox_endpoints.nack(self._me, [in_flight.receipt], delay=delay))

    async def extend(self, seconds: float) -> None:
        """Lengthen the leases of all held messages. Stop the work on lost ones."""
        by_receipt = {in_flight.receipt: in_flight for in_flight in self.in_flight.values() if not in_flight.lost}
        if not by_receipt or self.transport is None:
            return
        done = await self.transport.perform(mailbox_endpoints.extend(self._me, list(by_receipt), lease=seconds))
        for one in done.results:
            in_flight = by_receipt[one.receipt]
            if (
                one.status == "lease_lost"
                and in_flight.receipt == one.receipt
                and self.in_flight.get(in_flight.id) is in_flight
            ):
                _log.warning("message %s is no longer held here: %s", in_flight.id, one.error)
                in_flight.lose()

    def _done(self, id: str) -> None:
        self._handled[id] = None
        if len(self._handled) > _MOST_HANDLED:
            del self._handled[next(iter(self._handled))]

    def _forget(self, in_flight: InFlight) -> None:
        if self.in_flight.get(in_flight.id) is in_flight:
            del self.in_flight[in_flight.id]
        self.freed.set()

    def _begin(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._going.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a defect of the link", exc_info=task.exception())

    async def close(self) -> None:
        """Stop the handlers that can be stopped, and give unfinished messages back."""
        left = list(self.in_flight.values())
        for in_flight in left:
            if in_flight.run is not None:
                in_flight.run.cancel()
        if left:
            one = len(left) == 1
            what = "1 message was" if one else f"{len(left)} messages were"
            _log.warning("%s not handled to the end, and %s given back", what, "is" if one else "are")
        if self.transport is not None and self.transport.name == "poll":
            for in_flight in left:
                await self._give_back(in_flight, 0.0)
        for task in list(self._going):
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)
