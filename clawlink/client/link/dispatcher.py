"""The messages under handling: each once, also over a broken connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from clawlink.client import endpoints
from clawlink.client.endpoints import Claimed, Identity
from clawlink.client.link.delegation import Matters
from clawlink.client.link.handlers import Handlers
from clawlink.client.link.in_flight import Held, Report, not_json, sentence_of
from clawlink.client.link.outbox import LinkEnded, Outbox
from clawlink.client.link.runner import Outcome, Run, Runner
from clawlink.client.link.task import Received, Task
from clawlink.client.link.transport import Line
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


class Work:
    """The handling of messages, in the link's own loop; ``report`` and ``ask`` may be called from any thread."""

    def __init__(
        self,
        me: Identity,
        handlers: Handlers,
        runner: Runner,
        outbox: Outbox,
        matters: Matters,
        *,
        concurrency: int,
        handler_timeout: float | None,
        send: Callable[..., Any],
    ) -> None:
        self.held: dict[str, Held] = {}
        self.freed = asyncio.Event()
        self.line: Line | None = None
        self.draining = False
        self._me = me
        self._handlers = handlers
        self._runner = runner
        self._outbox = outbox
        self._matters = matters
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
        return 0 if self.draining else self._concurrency - len(self.held)

    @property
    def running(self) -> int:
        """How many handlers are under way, or their results are."""
        return sum(held.run is not None for held in self.held.values())

    # -- incoming messages ---------------------------------------------------------------------------------------------

    def take(self, claimed: Claimed, line: Line) -> None:
        """Handle a message, unless it was handled already or is being handled."""
        id, message = claimed.message_id, claimed.message
        if id in self.held:
            self.held[id].renew(claimed, line)
        elif id in self._handled:
            self._begin(self._ack(claimed.receipt))
        elif isinstance(message, TaskDelegation | PlainMessage | KnowledgeBroadcast) and self._handlers.wants(message):
            held = self.held[id] = Held(claimed, line)
            self._begin(self._handle(held))
        else:
            self._note(claimed, line)

    def _note(self, claimed: Claimed, line: Line) -> None:
        """Take a message without a handler."""
        message = claimed.message
        if isinstance(message, TaskDelegation):
            _log.warning("a task from %r is rejected: there is no handler for tasks", message.from_name)
            sentence = f"{self._handlers.name!r} takes no tasks: it has no handler for them"
            held = self.held[claimed.message_id] = Held(claimed, line)
            self._begin(self._answer(held, "rejected", sentence))
            return
        if isinstance(message, TaskResponse | TaskUpdate):
            self._matters.hear(message)
            if isinstance(message, TaskUpdate) and message.status in ("cancelled", "expired", "returned"):
                self.lose(message.task_id)
        elif isinstance(message, TaskAnswer):
            self._matters.answer(message)
        elif isinstance(message, PlainMessage):
            _log.warning("a message from %r is dropped: there is no handler for messages", message.from_name)
        self._done(claimed.message_id)
        self._begin(self._ack(claimed.receipt))

    def lose(self, task_id: str) -> None:
        """Note that a task is no longer this agent's."""
        if task_id in self.held:
            self.held[task_id].lose()

    # -- handlers ------------------------------------------------------------------------------------------------------

    async def _handle(self, held: Held) -> None:
        async with self._slots:
            if self.draining:
                return  # not begun: it goes back when the connection ends
            if held.lost:
                self._forget(held)
                return
            message = held.claimed.message
            if isinstance(message, TaskDelegation):
                outcome = await self._call(
                    held, self._handlers.task, Task(message, held, self), task_id=message.message_id
                )
                await self._answer(held, *self._verdict(held, outcome))
            elif isinstance(message, PlainMessage):
                outcome = await self._call(held, self._handlers.message, Received(message, self._send))
                await self._settle(held, outcome)
            elif isinstance(message, KnowledgeBroadcast):
                for handler in self._handlers.for_topic(message.topic):
                    outcome = await self._call(held, handler, message)
                await self._settle(held, Outcome(stopped=outcome.stopped))
            if len(self._hung) > _MOST_HUNG and held.run is not None:
                await asyncio.wrap_future(held.run.outcome)

    async def _call(self, held: Held, handler: Any, argument: Any, *, task_id: str | None = None) -> Outcome:
        run = held.run = self._runner.start(handler, argument, task_id=task_id)
        ended = asyncio.wrap_future(run.outcome)
        await asyncio.wait([ended], timeout=self._handler_timeout)
        if not ended.done():
            held.timed_out = True
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

    def _verdict(self, held: Held, outcome: Outcome) -> tuple[str | None, Any]:
        """Return the final state of a task and its result; None if this agent may not decide it."""
        if outcome.stopped or held.lost:
            return None, None
        if outcome.error is not None:
            return "failed", sentence_of(outcome.error)
        why = not_json(self._response(held, status="completed", result=outcome.result))
        if why is not None:
            _log.error("the result of task %s is not JSON: %s", held.id, why)
            return "failed", f"the result of the handler is not JSON ({type(outcome.result).__name__}): {why}"
        return "completed", outcome.result

    async def _answer(self, held: Held, status: str | None, result: Any) -> None:
        """Give the final answer to a task, if there is one."""
        if status is not None:
            report = self._response(held, status=status, result=result)
            try:
                await self._deliver(held, report, self._outbox.put_own(report.call))
            except _NOT_OURS as error:
                _log.warning("the result of task %s came too late: %s", held.id, error)
                self._forget(held)
                held.end(None, f"the result came too late: {error}")
                return
            except LinkEnded as error:
                _log.warning("the result of task %s was not delivered: %s", held.id, error)
                held.end(None, f"the result was not delivered: {error}")
                return
            except Exception as error:  # the relay does not take it: its requester is to know at least that
                if status == "failed":
                    _log.error("task %s could not be answered: %s", held.id, error)
                    self._forget(held)
                    held.end(None, f"the task could not be answered: {error}")
                else:
                    _log.error("the result of task %s could not be delivered: %s", held.id, error)
                    await self._answer(held, "failed", f"the result could not be delivered: {error}")
                return
            held.end(status, None if status == "completed" else str(result))
            self._done(held.id)
            await self._ack(held.receipt)
        else:
            held.end(None)
            if not held.lost:
                await self._give_back(held, 0.0)
        self._forget(held)

    async def _settle(self, held: Held, outcome: Outcome) -> None:
        """Acknowledge a message that was handled; give one back that was not, to be tried again later."""
        if outcome.stopped or outcome.error is not None:
            attempt = held.claimed.attempt
            pause = 0.0 if outcome.stopped else backoff(attempt, first=_FIRST_RETRY_SECONDS, most=_MOST_RETRY_SECONDS)
            await self._give_back(held, pause)
        else:
            self._done(held.id)
            await self._ack(held.receipt)
        self._forget(held)

    # -- reports on tasks ----------------------------------------------------------------------------------------------

    def report(self, held: Held, **fields: Any) -> Future[ResponseSent]:
        """Report on a task. Raises BadRequest for an invalid report."""
        report = self._checked(held, **fields)
        sent = self._outbox.put_own(report.call)
        return asyncio.run_coroutine_threadsafe(self._deliver(held, report, sent), self._loop)

    def ask(self, held: Held, question: Any) -> Future[Any]:
        """Ask the requester of a task, and return a ``Pending`` for the answer."""
        report = self._checked(held, status="input_required", result=question)
        return asyncio.run_coroutine_threadsafe(self._ask(held, report), self._loop)

    async def _ask(self, held: Held, report: Report) -> Any:
        question = self._matters.ask(held.id)
        try:
            await self._deliver(held, report, self._outbox.put_own(report.call))
            question.stored = True
            return await question.answer
        finally:
            self._matters.drop(held.id, question)

    def _checked(self, held: Held, **fields: Any) -> Report:
        report = self._response(held, **fields)
        why = not_json(report)
        if why is not None:
            raise BadRequest(f"a report on a task must be JSON: {why}", field="result")
        return report

    def _response(self, held: Held, **fields: Any) -> Report:
        return Report(self._me, held, fields)

    async def _deliver(self, held: Held, report: Report, sent: Future[ResponseSent]) -> ResponseSent:
        """Wait until the relay has a report; if it was refused for an old receipt, send it under the new one."""
        while True:
            try:
                return await asyncio.wrap_future(sent)
            except (LeaseLost, NotAllowed):
                if not await self._held_anew(held, report.receipt):
                    held.lose()
                    raise
                sent = self._outbox.put_own(report.call)
            except (WrongState, NotFound):
                held.lose()
                raise
            except (MailboxFull, RelayFull) as error:
                await asyncio.sleep(min(error.retry_after or _FIRST_RETRY_SECONDS, _MOST_RETRY_SECONDS))
                sent = self._outbox.put_own(report.call)

    async def _held_anew(self, held: Held, receipt: str) -> bool:
        """Tell whether a message came again since it was held under this receipt, or does so soon."""
        if held.receipt == receipt and held.line is not self.line and not held.lost:
            held.renewed.clear()
            alarm = self._loop.call_later(_AGAIN_SECONDS, held.renewed.set)
            await held.renewed.wait()
            alarm.cancel()
        return held.receipt != receipt

    # -- settling ------------------------------------------------------------------------------------------------------

    async def _ack(self, receipt: str) -> None:
        """Acknowledge. If that fails, the message comes again and is known."""
        if self.line is not None:
            with contextlib.suppress(ClawLinkError):
                await self.line.ack([receipt])

    async def _give_back(self, held: Held, delay: float) -> None:
        if self.line is not None:
            with contextlib.suppress(ClawLinkError):
                await self.line.perform(endpoints.nack(self._me, [held.receipt], delay=delay))

    async def extend(self, seconds: float) -> None:
        """Lengthen the leases of all held messages. Stop the work on lost ones."""
        by_receipt = {held.receipt: held for held in self.held.values() if not held.lost}
        if not by_receipt or self.line is None:
            return
        done = await self.line.perform(endpoints.extend(self._me, list(by_receipt), lease=seconds))
        for one in done.results:
            held = by_receipt[one.receipt]
            if one.status == "lease_lost" and held.receipt == one.receipt and self.held.get(held.id) is held:
                _log.warning("message %s is no longer held here: %s", held.id, one.error)
                held.lose()

    def _done(self, id: str) -> None:
        self._handled[id] = None
        if len(self._handled) > _MOST_HANDLED:
            del self._handled[next(iter(self._handled))]

    def _forget(self, held: Held) -> None:
        if self.held.get(held.id) is held:
            del self.held[held.id]
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
        left = list(self.held.values())
        for held in left:
            if held.run is not None:
                held.run.cancel()
        if left:
            _log.warning("%d messages were not handled to their end, and are given back", len(left))
        if self.line is not None and self.line.name == "poll":
            for held in left:
                await self._give_back(held, 0.0)
        for task in list(self._going):
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)
