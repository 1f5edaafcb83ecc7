"""The life of a link, in a thread and an event loop of its own, so that no handler stops it.

It registers, connects, and connects again; it shows signs of life, lengthens leases, and in the end drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Coroutine, Generator
from concurrent.futures import Future
from typing import Any

from clawlink.client import endpoints
from clawlink.client.aio import AsyncClient
from clawlink.client.base_client import WHO_ASKS
from clawlink.client.calls import Call
from clawlink.client.link.delegation import Delegation, Open, PendingReplies
from clawlink.client.link.dispatcher import Dispatcher
from clawlink.client.link.outbox import LinkEnded
from clawlink.client.link.pending import Pending, promise
from clawlink.client.link.runner import Runner
from clawlink.client.link.settings import Settings, acting, register
from clawlink.client.link.transport import Transport, WebsocketTransport, connect
from clawlink.client.operations import Operation
from clawlink.client.retry import Backoff
from clawlink.client.wait_steps import FINAL, Step
from clawlink.errors import ClawLinkError, NotFound, RelayUnreachable, UnknownAgent
from clawlink.protocol.replies import Cancelled

_log = logging.getLogger("clawlink.link")

_HEARTBEAT_SECONDS = 20.0
# Seconds between two checks of waiting handlers and of tasks that have been silent for long.
_LOOK_SECONDS = 1.0
_NO_NEWS_SECONDS = 30.0
_MOST_ASKED = 16
_STEP_SECONDS = 5.0
# Links that lost the relay together come back at random moments, within about the time that it was away.
_LEAST_PAUSE_SECONDS = 1.0
_MOST_PAUSE_SECONDS = 15.0
_FLUSH_SECONDS = 0.02
# An agent that had to register again is expected: it waits only so that not all come at once.
_ANEW_SECONDS = 0.3


class Engine:
    """Runs a link once. Public methods are safe from any thread; the others are for the engine's own loop."""

    def __init__(self, settings: Settings, home: asyncio.AbstractEventLoop | None) -> None:
        self.started: Future[None] = promise()
        self.ended: Future[None] = promise()
        self.client: AsyncClient
        self.transport: Transport | None = None
        self._settings = settings
        self._runner = Runner(home)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._notices: set[asyncio.Task[None]] = set()
        self._operations: dict[asyncio.Task[Any], Operation[Any]] = {}
        self._thread = threading.Thread(target=self._run, name="clawlink-link", daemon=True)
        self._thread.start()

    # -- from any thread -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask it to drain and to end."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stop.set)

    def post(self, call: Call[Any], recipient: str, what: str) -> Pending[Any]:
        """Put a call into the outbox, behind those to the same recipient. Raises OutboxFull."""
        return Pending(self._put(call, recipient), what)

    def _put(self, call: Call[Any], recipient: str) -> Future[Any]:
        return self._settings.outbox.put(call, recipient, size=len(call.body or b""))

    def perform(self, call: Call[Any], what: str) -> Pending[Any]:
        """Send a call that need not wait for better times, with the usual retries."""
        return Pending(self._submit(self._patiently(call)), what)

    def run(self, operation: Operation[Any], what: str) -> Pending[Any]:
        """Run an operation of several calls, with a patience of its own."""
        return Pending(self._submit(self._to_its_end(operation, what)), what)

    def delegate(self, call: Call[Any], recipient: str, on_progress: Any, on_question: Any) -> Delegation:
        """Delegate a task. Raises OutboxFull."""
        receipt = self._put(call, recipient)
        delegation = Delegation(receipt, self.cancel)
        self._submit(self._follow(delegation, receipt, Open(delegation, on_progress, on_question)))
        return delegation

    def cancel(self, task_id: str, note: str | None) -> Pending[Any]:
        """Take a task back."""
        return self.perform(endpoints.cancel(self.client.identity, task_id, note=note), "the cancelling")

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise LinkEnded("the link has ended") from None

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._live())
        except BaseException as caught:
            error = caught
        try:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._sweep())
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            self._runner.close()
            self._settings.outbox.close(LinkEnded("the link ended before the relay had this"))
            if not self.started.done():
                self.started.set_exception(error or LinkEnded("the link ended before it was connected"))
                error = None
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)

    async def _sweep(self) -> None:
        """End all tasks that still run in this loop."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _live(self) -> None:
        settings = self._settings
        self.client = acting(settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.client.close)  # a link is the same agent the next time, and does not leave
            self.pending_replies = PendingReplies(self._notify, self._answer)
            self.dispatcher = Dispatcher(
                self.client.identity,
                settings.handlers,
                self._runner,
                settings.outbox,
                self.pending_replies,
                concurrency=settings.concurrency,
                handler_timeout=settings.handler_timeout,
                send=lambda to, *args, **options: self.post(
                    endpoints.send(self.client.identity, to, *args, **options), to, "the reply"
                ),
            )
            if await self._begun():
                self.started.set_result(None)
                await self._work_until_stopped()

    async def _begun(self) -> bool:
        """Register and connect. Return False if it was stopped before that was done."""
        begin = asyncio.create_task(self._begin())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([begin, stop], return_when=asyncio.FIRST_COMPLETED)
            if begin.done():
                begin.result()
            return begin.done()
        finally:
            begin.cancel()
            stop.cancel()
            await asyncio.gather(begin, stop, return_exceptions=True)

    async def _begin(self) -> None:
        await register(self._settings, self.client)
        # From here on it is tried again for ever, each time with a new look at where things stand.
        self.client.backoff = Backoff(tries=1)
        self.transport = await self._connect()

    async def _work_until_stopped(self) -> None:
        life = [self._stay_connected(), self._tend(self._settings.lease / 3, self._extend)]
        life += [self._tend(_HEARTBEAT_SECONDS, self._beat), self._tend(_LOOK_SECONDS, self._look)]
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(one) for one in life]
        stop = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                await self._drain()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            ending = [*tasks, stop, *self._operations]
            for task in ending:
                task.cancel()
            await self.dispatcher.close()
            await asyncio.gather(*ending, return_exceptions=True)
            if self.transport is not None:
                await self.transport.close()
            self.pending_replies.give_up(LinkEnded("the link ended before the task did; it goes on"))

    async def _drain(self) -> None:
        """Begin nothing more, and give running work its time."""
        self.dispatcher.draining = True
        if running := self.dispatcher.running:
            _log.info("ending: waiting up to %g s for handlers under way: %d", self._settings.drain, running)
        else:
            _log.info("ending: no handlers are under way")
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.drain
        while loop.time() < until:
            if (
                not self.dispatcher.running
                and self._settings.outbox.empty
                and all(e.waits for e in self._operations.values())
            ):
                return
            await asyncio.sleep(_FLUSH_SECONDS)

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _connect(self) -> Transport:
        settings, work = self._settings, self.dispatcher
        transport = await connect(
            self.client,
            lease=settings.lease,
            credit=settings.concurrency,
            free=lambda: work.room,
            freed=work.freed,
        )
        _log.info("connected to %s by %s", self.client.relay, transport.name)
        return transport

    async def _stay_connected(self) -> None:
        lost: float | None = None
        told: type[ClawLinkError] | None = None
        anew = False
        while True:
            began = False
            try:
                transport = self.transport = self.dispatcher.transport = self.transport or await self._connect()
                began, anew = True, False
                pump = asyncio.create_task(self._settings.outbox.pump(transport))
                try:
                    async for claimed in transport:
                        self.dispatcher.take(claimed, transport)
                    error = None
                finally:
                    self.transport = self.dispatcher.transport = None
                    pump.cancel()
                    try:
                        await asyncio.gather(pump, return_exceptions=True)
                    finally:  # the end of the link may cancel the wait
                        await transport.close()
            except UnknownAgent:
                error = await self._again()
                if error is None and not anew:
                    anew = True
                    await asyncio.sleep(random.random() * _ANEW_SECONDS)
                    continue
                # The relay forgets an agent that it has just registered: do not repeat that without a pause.
                error = error or RelayUnreachable("the relay has forgotten this agent at once")
            except ClawLinkError as away:
                error = away
            if error is None:  # a line that ends by itself: there may be a better one
                continue
            self.client._ask_elsewhere(error)
            now = time.monotonic()
            if lost is None or began:
                lost, told = now, None
            if type(error) is not told:  # such as a relay that is back, and asks for another token
                told = type(error)
                _log.warning("not connected: %s", error)
            # A reason that does not pass needs no haste.
            patience = now - lost if began or error.retryable else _MOST_PAUSE_SECONDS
            await asyncio.sleep(random.random() * min(max(patience, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS))

    async def _again(self) -> ClawLinkError | None:
        """Register with a relay that has forgotten this agent."""
        _log.warning("the relay at %s does not know this agent any more: registering again", self.client.relay)
        try:
            await register(self._settings, self.client)
        except ClawLinkError as error:
            return error
        return None

    # -- regular work --------------------------------------------------------------------------------------------------

    async def _tend(self, seconds: float, act: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
            except ClawLinkError as error:
                _log.debug("%s: %s", act.__name__, error)

    async def _extend(self) -> None:
        await self.dispatcher.extend(self._settings.lease)

    async def _beat(self) -> None:
        if isinstance(self.transport, WebsocketTransport):
            await self.transport.beat()
        else:  # polls are signs of life; without room for one, messages are held
            await self._extend()

    _looked = 0.0

    async def _look(self) -> None:
        """Ask for tasks whose news cannot come as a message, or have not come for long."""
        stuck = self.dispatcher.room <= 0
        if self.transport is None or (not stuck and time.monotonic() - self._looked < _NO_NEWS_SECONDS):
            return
        self._looked = time.monotonic()
        wait = _STEP_SECONDS if stuck else 0.0
        await asyncio.gather(*(self._ask(*one, wait) for one in self.pending_replies.to_ask(_MOST_ASKED)))

    async def _ask(self, task_id: str, version: int | None, wait: float) -> None:
        call = endpoints.task(self.client.identity, task_id, wait=0.0 if version is None else wait, since=version)
        try:
            view = await self.client.perform(call)
        except NotFound as error:
            self.pending_replies.lost(task_id, error)
            self.dispatcher.lose(task_id)
        else:
            self.pending_replies.see(view)
            if view.status in FINAL:
                self.dispatcher.lose(task_id)

    # -- delegations ---------------------------------------------------------------------------------------------------

    async def _follow(self, delegation: Delegation, receipt: Future[Any], opened: Open) -> None:
        try:
            done = await asyncio.wrap_future(receipt)
        except Exception as error:
            delegation._fail(error)
        except asyncio.CancelledError:
            delegation._fail(LinkEnded("the link ended before the relay had this"))
            raise
        else:
            self.pending_replies.follow(done.message_id, opened)

    def _notify(self, function: Any, argument: Any, then: Any) -> None:
        """Call a function of the author beside the handlers."""

        async def call() -> None:
            outcome = await asyncio.wrap_future(self._runner.start(function, argument).outcome)
            if outcome.error is not None:
                _log.error("%r failed", function, exc_info=outcome.error)
            elif not outcome.stopped:
                then(outcome.result)

        self._notices.add(task := self._loop.create_task(call()))
        task.add_done_callback(self._notices.discard)

    def _answer(self, task_id: str, content: Any) -> Pending[Any]:
        return self.post(endpoints.answer(self.client.identity, task_id, content), task_id, "the answer")

    async def _to_its_end(self, operation: Operation[Any], what: str) -> Any:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("it was submitted as a task")
        self._operations[task] = operation
        operation.steps = self._bearing(operation.steps)
        try:
            return await self.client.run(operation)
        except asyncio.CancelledError:
            raise LinkEnded(f"the link ended before {what} was there") from None
        finally:
            del self._operations[task]

    def _bearing(self, steps: Generator[Step, Any, None]) -> Generator[Step, Any, None]:
        """Give steps that bear it as long as any failure that passes when the relay has forgotten this agent."""
        with contextlib.closing(steps), contextlib.suppress(StopIteration):
            step = next(steps)
            while True:
                try:
                    done = yield step
                except ClawLinkError as error:
                    step = steps.throw(self._passing(error))
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(done)

    def _passing(self, error: ClawLinkError) -> ClawLinkError:
        """Return the meaning of an error for a link, which registers again if the relay does not know it."""
        if not isinstance(error, UnknownAgent) or error.field not in WHO_ASKS:  # else about a call's recipient
            return error
        return RelayUnreachable("the relay does not know this agent any more; it is registering again", retry_after=1.0)

    async def _patiently(self, call: Call[Any]) -> Any:
        patience, attempt = Backoff(), 0
        while True:
            attempt += 1
            try:
                answer = await self.client.perform(call)
            except ClawLinkError as refused:
                error = self._passing(refused)
                pause = patience.pause(error, attempt=attempt, repeatable=call.repeatable, random=random.random())
                if pause is None:
                    raise error from refused
                await asyncio.sleep(pause)
            else:
                if isinstance(answer, Cancelled):  # the relay sends no notice to the agent that did it
                    self.pending_replies.cancelled(answer.task_id)
                return answer
