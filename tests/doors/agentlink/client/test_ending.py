"""A link that is disconnected lets its handler finish; one that could not be connected leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clawlink.agentlink import AgentLink, Message
from clawlink.errors import RelayUnreachable
from tests.conftest import Running
from tests.doors.agentlink.conftest import SECONDS, Make
from tests.doors.agentlink.test_link import Box


def threads_of(address: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == f"agentlink {address}"]


async def test_work_under_way_is_finished_acked_and_not_done_again(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    begun, done, answers = Box(), Box(), Box()
    may_end = threading.Event()
    c.on_message(answers)

    @d.on_message
    def be_slow(message: Message) -> None:
        begun.put(message)
        may_end.wait(SECONDS)
        d.send(message.from_agent, "I have it")
        done.put(message)

    await d.connect()
    one, two = await c.send("d/dan", "one"), await c.send("d/dan", "two")
    await begun.next()
    going = asyncio.ensure_future(asyncio.wait_for(d.disconnect(), SECONDS))
    may_end.set()
    await going
    assert d.state == "closed"
    assert (await done.next()).message == "one"
    assert await asyncio.wait_for(one.receipt(), SECONDS)
    assert (await answers.next()).message == "I have it"
    assert begun.empty
    assert not two.delivered
    heir = make(relay, "d", "dan")
    box = Box()
    heir.on_message(box)
    await heir.connect()
    assert (await box.next()).message == "two"
    assert await asyncio.wait_for(two.receipt(), SECONDS)
    assert box.empty


async def test_a_handler_that_takes_too_long_is_not_waited_for(
    relay: Running, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan", drain=0.1)
    begun, box = Box(), Box()
    cancelled = asyncio.Event()

    @d.on_message
    async def never_end(message: Message) -> None:
        begun.put(message)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await d.connect()
    sent = await c.send("d/dan", "one")
    await begun.next()
    await asyncio.wait_for(d.disconnect(), SECONDS)
    await asyncio.wait_for(cancelled.wait(), SECONDS)
    assert "did not return within 0.1 s" in caplog.text
    heir = make(relay, "d", "dan")
    heir.on_message(box)
    await heir.connect()
    assert (await box.next()).attempt == 2
    assert await asyncio.wait_for(sent.receipt(), SECONDS)


@pytest.mark.parametrize("plain", [True, False])
async def test_a_handler_may_disconnect_its_link(
    relay: Running, make: Make, until: Callable[..., Any], plain: bool
) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan", drain=600.0)

    def stop(message: Message) -> None:
        d.disconnect()

    async def stop_async(message: Message) -> None:
        await d.disconnect()

    d.on_message(stop if plain else stop_async)
    await d.connect()
    sent = await c.send("d/dan", "stop")
    assert await asyncio.wait_for(sent.receipt(), SECONDS)
    await until(lambda: d.state == "closed")


async def test_a_link_that_was_closed_may_be_used_again(relay: Running, make: Make) -> None:
    c = make(relay, "c", "carol")
    box = Box()
    c.on_message(box)
    for text in ("one", "two"):
        await c.send("carol", text)
        assert (await box.next()).message == text
        await c.disconnect()
        await c.disconnect()
        assert c.state == "closed"


async def test_a_link_that_cannot_be_entered_leaves_no_thread_behind(
    unused_tcp_port: int, until: Callable[..., Any]
) -> None:
    link = AgentLink(f"ws://127.0.0.1:{unused_tcp_port}", "s", "c", "nobody")

    def enter() -> None:
        with link:
            raise AssertionError("there is no relay")

    with pytest.raises(RelayUnreachable):
        await asyncio.to_thread(enter)
    await until(lambda: not threads_of("c/nobody"))
    with pytest.raises(RelayUnreachable):
        async with link:
            raise AssertionError("there is no relay")
    await until(lambda: not threads_of("c/nobody"))
