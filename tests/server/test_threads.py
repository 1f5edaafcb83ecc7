"""Work for threads when the system gives none: refused work never runs, and other work waits for a thread."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from clawlink.client.link.runner import Runner
from clawlink.server.threads import Threads
from clawlink.store.bodies import PIECE_BYTES
from tests.restarting import Restarting
from tests.server.blobs import content, saved, some
from tests.server.test_uploads import begun, offset, part, patch
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits of a thread's stack")


@contextmanager
def no_thread() -> Iterator[None]:
    """Let the system refuse each new thread."""
    size = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(size)


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    """Give the loop the executor of a relay."""
    asyncio.get_running_loop().set_default_executor(made := Threads())
    yield made
    made.shutdown()


async def test_refused_work_never_runs(threads: Threads) -> None:
    done: list[str] = []
    with no_thread(), pytest.raises(RuntimeError, match="new thread"):
        await asyncio.to_thread(done.append, "refused")
    await asyncio.to_thread(done.append, "asked again")
    await asyncio.to_thread(done.append, "next")
    assert done == ["asked again", "next"]


async def test_work_waits_for_a_busy_thread_if_there_is_no_other(threads: Threads) -> None:
    goes_on = threading.Event()
    busy = asyncio.ensure_future(asyncio.to_thread(goes_on.wait))
    await asyncio.sleep(0)
    with no_thread():
        waiting = [asyncio.ensure_future(asyncio.to_thread(int, text)) for text in ("1", "2", "none")]
        await asyncio.sleep(0)
        goes_on.set()
        assert await asyncio.gather(*waiting[:2], busy) == [1, 2, True]
        with pytest.raises(ValueError, match="invalid literal"):
            await waiting[2]


async def test_no_work_is_taken_after_the_end(threads: Threads) -> None:
    await asyncio.to_thread(int)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await asyncio.to_thread(int)


async def test_a_part_that_was_refused_is_not_written_later(tmp_path: Path) -> None:
    threads = Threads()
    restarting = Restarting(tmp_path / "data")
    try:
        relay = await restarting.begin()
        await relay.register("Ann", agent_id="a")
        data = some(3 * PIECE_BYTES)
        upload = await begun(relay, len(data))
        asyncio.get_running_loop().set_default_executor(threads)
        with no_thread():
            told = await patch(relay, upload, 0, data)
        assert (told.status, told.json["code"]) == (503, "unavailable")
        come = await offset(relay, upload)
        await part(relay, upload, come, data[come:])
        assert await content(relay, "k") == data
        with no_thread():  # the large content of the first version is deleted beside the loop
            assert await saved(relay, "k", b"short") == 2
        assert await content(relay, "k") == b"short"
    finally:
        threads.shutdown()
        await restarting.end()


def test_a_handler_without_a_thread_fails_and_does_not_run_later() -> None:
    runner, called = Runner(None), list[str]()

    async def later(text: str) -> None:
        called.append(text)

    try:
        for handler in (called.append, later):
            with no_thread():
                refused = runner.start(handler, "refused").outcome.result(10)
            assert isinstance(refused.error, RuntimeError)
            assert runner.start(handler, "asked again").outcome.result(10).error is None
        assert called == ["asked again", "asked again"]
    finally:
        runner.close()


def test_a_handler_that_returns_an_awaitable_fails_without_a_thread_for_its_loop() -> None:
    runner, called = Runner(None), list[str]()

    async def later(text: str) -> None:
        called.append(text)

    try:
        with ExitStack() as stack:

            def lent(text: str) -> Awaitable[None]:
                stack.enter_context(no_thread())
                return later(text)

            refused = runner.start(lent, "refused").outcome.result(10)
        assert isinstance(refused.error, RuntimeError)
        assert runner.start(lambda text: later(text), "asked again").outcome.result(10).error is None
        assert called == ["asked again"]
    finally:
        runner.close()


def test_a_thread_of_handlers_keeps_no_earlier_message() -> None:
    class Message:
        pass

    runner, message = Runner(None), Message()
    kept, held, goes_on = weakref.ref(message), threading.Event(), threading.Event()
    first = runner.start(lambda _: threading.get_ident(), message).outcome.result(10).result
    del message

    def hold(_: None) -> None:
        if threading.get_ident() == first:
            held.set()
            goes_on.wait()

    def start_again() -> None:
        run = runner.start(hold, None)
        wait_until(lambda: held.is_set() or run.outcome.done())

    try:
        while not held.is_set():  # the first thread may be idle a moment after the outcome
            start_again()
        wait_until(lambda: kept() is None)
    finally:
        goes_on.set()
