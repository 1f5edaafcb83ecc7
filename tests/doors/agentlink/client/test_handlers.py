"""Handlers that end in every way there is, and links without any: messages are not lost, and the link goes on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clawlink.agentlink import AgentLink, Message
from tests.conftest import Running
from tests.doors.agentlink.conftest import SECONDS, Make
from tests.doors.agentlink.test_hostile_relay import Play
from tests.doors.agentlink.test_link import Box
from tests.waiting import forever


async def await_what_is_cancelled() -> None:
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.cancel()
    await gone


async def cancel_itself() -> None:
    raise asyncio.CancelledError


async def exit_in_a_coroutine() -> None:
    sys.exit("from a coroutine")


def be_cancelled() -> None:
    raise concurrent.futures.CancelledError


def run_out() -> None:
    next(iter(()))


def interrupt() -> None:
    raise KeyboardInterrupt


WAYS: dict[str, Callable[[], Any]] = {
    way.__name__: way
    for way in (await_what_is_cancelled, cancel_itself, exit_in_a_coroutine, be_cancelled, run_out, interrupt, sys.exit)
}


async def test_a_handler_that_is_cancelled_or_exits_has_failed_and_no_more(relay: Running, make: Make) -> None:
    c = make(relay, "c", "carol")
    tried, done = Box(), Box()

    @c.on_message
    def end_somehow(message: Message) -> Any:
        tried.put(message)
        return WAYS[message.message]() if message.attempt == 1 else done(message)

    sent = [await c.send("carol", way) for way in WAYS]
    assert [(await tried.next()).message for _ in WAYS] == list(WAYS)
    assert {(await done.next()).message for _ in WAYS} == set(WAYS)
    for each in sent:
        assert await asyncio.wait_for(each.receipt(), SECONDS)
    assert c.state == "connected"


@pytest.mark.parametrize("cancels", [True, False])
def test_a_handler_whose_event_loop_ends_has_failed(start_link: Callable[[], AgentLink], cancels: bool) -> None:
    """``asyncio.run`` cancels what is under way; a loop that is just closed leaves it where it is."""
    link = start_link()
    again: concurrent.futures.Future[int] = concurrent.futures.Future()
    begun = threading.Event()

    @link.on_message
    async def be_slow(message: Message) -> None:
        begun.set()
        if message.attempt == 1:
            await forever()
        again.set_result(message.attempt)

    async def be_short() -> Any:
        sent = await link.send("carol", "hello")
        assert await asyncio.to_thread(begun.wait, SECONDS)
        return sent

    if cancels:
        sent = asyncio.run(be_short())
    else:
        loop = asyncio.new_event_loop()
        sent = loop.run_until_complete(be_short())
        loop.run_until_complete(loop.shutdown_default_executor())
        left = asyncio.all_tasks(loop)
        loop.close()
    assert again.result(SECONDS) == 2
    assert sent.receipt().result(SECONDS)
    if not cancels:
        for task in left:
            task.get_coro().close()


async def test_a_message_that_breaks_the_work_is_logged_and_the_next_is_handed_over(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"type": "message", "from": "c/carol", "to": "d/dan", "message": "good", "message_id": "2", "receipt": "r2"}
    broken = {**good, "message_id": "1", "receipt": "r1", "attempt": "many"}
    hostile = await play([{"type": "registered"}, broken, good])
    box = Box()
    async with AgentLink(hostile.url, "s", "d", "dan") as link:
        link.on_message(box)
        assert (await box.next()).message == "good"
        given_back, acked = await hostile.got.next(), await hostile.got.next()
        assert (given_back["type"], given_back["receipts"]) == ("nack", ["r1"])
        assert (acked["type"], acked["receipts"]) == ("ack", ["r2"])
    assert "a handler failed; the message comes again" in caplog.text


async def test_a_watcher_that_exits_does_not_end_the_link(relay: Running, make: Make) -> None:
    c = make(relay, "c", "carol")
    box = Box()
    c.on_state(lambda state: sys.exit(state))
    c.on_message(box)
    await asyncio.wait_for(c.connect(), SECONDS)
    await asyncio.wait_for(c.send("carol", "hello"), SECONDS)
    assert (await box.next()).message == "hello"


async def test_messages_wait_with_the_relay_while_all_handlers_are_removed(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    first, second = Box(), Box()

    @d.on_message
    def take_one(message: Message) -> None:
        d.remove_handler(take_one)
        first(message)

    await d.connect()
    sent = [await c.send("d/dan", text) for text in ("one", "two", "three")]
    assert (await first.next()).message == "one"
    assert await asyncio.wait_for(sent[0].receipt(), SECONDS)
    d.on_message(second)
    assert [(await second.next()).message for _ in range(2)] == ["two", "three"]
    for each in sent:
        assert await asyncio.wait_for(each.receipt(), SECONDS)
    assert first.empty


async def test_a_message_that_comes_when_all_handlers_are_removed_is_not_delivered(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box = Box()
    d.on_message(box)
    await d.connect()
    await (await c.send("d/dan", "one")).receipt()
    assert d.remove_handler(box)
    sent = await c.send("d/dan", "two")
    await d.send("d/dan", "to myself, so that d has had its time")
    assert not sent.delivered
    again = Box()
    d.on_message(again)
    assert (await again.next()).message == "two"
    assert await asyncio.wait_for(sent.receipt(), SECONDS)
