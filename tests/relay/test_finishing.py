"""Work that runs to its end: it begins in the caller's task, and another task takes over if that is cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from clawlink.errors import BadRequest
from clawlink.relay.finishing import Finishing
from clawlink.store.base import Failed

pytestmark = pytest.mark.both_loops


class Steps:
    """Work of two steps, with a wait for ``ready`` and a turn of the event loop in between."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.begun = asyncio.Event()
        self.then: dict[str, Callable[[], object]] = {}  # what comes in the turn behind a step
        self.done: list[str] = []
        self.tasks: list[asyncio.Task[object] | None] = []

    async def run(self) -> str:
        self._note("begun")
        found = await self.ready
        self._note(found)
        await asyncio.sleep(0)
        self._note("ended")
        return found

    def _note(self, step: str) -> None:
        self.done.append(step)
        self.tasks.append(asyncio.current_task())
        self.begun.set()
        if step in self.then:
            asyncio.get_running_loop().call_soon(self.then[step])


@pytest.fixture
async def reports() -> AsyncIterator[list[str]]:
    """Return what asyncio would log: failures that nobody saw, tasks that were destroyed."""
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context["message"]))
    yield found
    asyncio.get_running_loop().set_exception_handler(None)


async def _called(finishing: Finishing, steps: Steps) -> str:
    return await finishing.finish(steps.run())


async def _begun(finishing: Finishing, steps: Steps) -> asyncio.Task[str]:
    """Return a task that waits for the work, once that waits for its future."""
    caller = asyncio.create_task(_called(finishing, steps))
    await steps.begun.wait()
    return caller


async def test_work_that_waits_for_nothing_takes_no_turn_of_the_event_loop() -> None:
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)

    async def work() -> int:
        return 7

    assert await Finishing().finish(work()) == 7
    assert not turns


async def test_work_runs_in_its_callers_task_and_the_caller_has_its_result() -> None:
    finishing, steps = Finishing(), Steps()
    caller = await _begun(finishing, steps)
    steps.ready.set_result("news")
    assert await caller == "news"
    assert steps.done == ["begun", "news", "ended"]
    assert steps.tasks == [caller] * 3


async def test_the_caller_has_the_failure_of_work() -> None:
    finishing, steps = Finishing(), Steps()
    caller = await _begun(finishing, steps)
    steps.ready.set_exception(OSError("no disk"))
    with pytest.raises(OSError, match="no disk"):
        await caller
    await asyncio.wait_for(finishing.finished(), 10)


async def test_work_goes_on_in_a_task_of_its_own_if_its_caller_is_cancelled(reports: list[str]) -> None:
    for ready_before in (False, True):  # also in the turn in which the work may go on
        finishing, steps = Finishing(), Steps()
        caller = await _begun(finishing, steps)
        if ready_before:
            steps.ready.set_result("news")
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        if not ready_before:
            assert not steps.ready.done(), "the future of the work was cancelled"
            steps.ready.set_result("news")
        await finishing.finished()
        assert steps.done == ["begun", "news", "ended"], ready_before
    assert not reports


async def test_work_goes_on_if_its_caller_is_cancelled_while_it_gives_way() -> None:
    finishing, steps = Finishing(), Steps()
    caller = await _begun(finishing, steps)
    steps.then["news"] = caller.cancel
    steps.ready.set_result("news")
    with pytest.raises(asyncio.CancelledError):
        await caller
    await finishing.finished()
    assert steps.done == ["begun", "news", "ended"]


async def test_failures_of_work_whose_caller_has_gone_are_logged_but_no_refusals(
    reports: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for failure, logged in (
        (BadRequest("a refusal"), []),
        (Failed("no answer"), ["the store failed"]),
        (ZeroDivisionError(), ["unexpected failure after the client hung up"]),
    ):
        caplog.clear()
        finishing, steps = Finishing(), Steps()
        caller = await _begun(finishing, steps)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        steps.ready.set_exception(failure)
        await finishing.finished()
        del caller, steps
        gc.collect()
        await asyncio.sleep(0)
        assert caplog.messages == logged, failure
    assert not reports


async def test_work_hears_of_the_cancellation_of_its_last_task(reports: list[str]) -> None:
    """The end of the event loop cancels all tasks."""
    finishing, steps = Finishing(), Steps()
    caller = await _begun(finishing, steps)
    for _ in range(2):
        (last,) = asyncio.all_tasks() - {asyncio.current_task()}
        last.cancel()
        with suppress(asyncio.CancelledError):
            await last
    assert steps.ready.cancelled()
    assert steps.done == ["begun"]
    assert caller.cancelled()
    await finishing.finished()
    assert not reports


async def test_work_whose_future_is_cancelled_ends_so() -> None:
    finishing, steps = Finishing(), Steps()
    caller = await _begun(finishing, steps)
    steps.ready.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await finishing.finished()
    assert steps.done == ["begun"]


async def test_finished_waits_for_work_of_callers_and_of_tasks() -> None:
    finishing, of_caller, cancelled, of_task = Finishing(), Steps(), Steps(), Steps()
    caller = await _begun(finishing, of_caller)
    (await _begun(finishing, cancelled)).cancel()
    finishing.begin(of_task.run())
    ends = [asyncio.create_task(finishing.finished()) for _ in range(2)]
    for steps in (of_task, of_caller, cancelled):
        for _ in range(3):
            await asyncio.sleep(0)
        assert not any(end.done() for end in ends)
        steps.ready.set_result("news")
    await asyncio.wait_for(asyncio.gather(*ends), 10)
    assert [steps.done[-1] for steps in (of_caller, cancelled, of_task)] == ["ended"] * 3
    assert await caller == "news"


async def test_ended_work_leaves_no_circles_of_references() -> None:
    """It leaves none that the same work leaves without ``finish``: a failed task of Python 3.10 is in a circle."""
    finishing = Finishing()

    async def fails(ready: asyncio.Event) -> None:
        await ready.wait()
        raise OSError("no disk")

    async def alone(ready: asyncio.Event) -> None:
        await fails(ready)

    async def finished(ready: asyncio.Event) -> None:
        await finishing.finish(fails(ready))

    async def left(call: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, hangs_up: bool) -> bool:
        ready = asyncio.Event()
        caller = asyncio.create_task(call(ready))
        await asyncio.sleep(0)
        if hangs_up:
            caller.cancel()
        ready.set()
        with suppress(OSError, asyncio.CancelledError):
            await caller
        await finishing.finished()
        del caller
        await asyncio.sleep(0)
        return gc.collect() > 0

    gc.collect()
    gc.disable()
    try:
        for hangs_up in (False, True):
            assert await left(finished, hangs_up=hangs_up) <= await left(alone, hangs_up=hangs_up), hangs_up
    finally:
        gc.enable()
