"""Messages that are sent while the relay is away: bounded, in order, once, and with a receipt to wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from clawlink import Link, errors
from clawlink.client import endpoints
from clawlink.client.calls import Call, Identity
from clawlink.client.link import outbox as outbox_module
from clawlink.client.link.outbox import LinkEnded, Outbox, OutboxFull
from clawlink.client.link.pending import Pending, promise
from clawlink.client.sync import Client
from clawlink.client.wait_steps import StillPending
from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from clawlink.domain.message import PlainMessage
from tests.client.link.conftest import MakeLink
from tests.client.restartable import Restartable
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE, wait_until

Running = Callable[[Link], Link]
T = TypeVar("T")
ME = Identity("a")


def contents(client: Client, count: int) -> list[Any]:
    """Claim and ack until this many plain messages have come."""
    found: list[Any] = []
    while len(found) < count:
        claimed = client.poll(wait=10)
        assert claimed
        client.ack([one.receipt for one in claimed])
        found += [one.message.content for one in claimed if isinstance(one.message, PlainMessage)]
    return found


def test_what_is_sent_while_the_relay_is_away_comes_later_in_order_and_once(
    make_link: MakeLink, running: Running, restartable: Restartable, boss: Client
) -> None:
    sender = running(make_link("sender"))
    restartable.stop()
    sent = [sender.send("boss", n) for n in range(100)]
    assert not any(one.done() for one in sent)
    with pytest.raises(StillPending, match="still to come"):
        sent[0].result(0.05)
    restartable.start()
    assert len({one.result(PATIENCE).message_id for one in sent}) == 100
    assert contents(boss, 100) == list(range(100))


def test_a_full_outbox_says_so_with_its_limit(
    make_link: MakeLink, running: Running, restartable: Restartable, boss: Client
) -> None:
    few = running(make_link("few", outbox_messages=3))
    small = running(make_link("small", outbox_bytes=1000))
    restartable.stop()
    for n in range(3):
        few.send("boss", n)
    with pytest.raises(OutboxFull, match="the limit is 3 messages") as full:
        few.send("boss", "more")
    assert (full.value.limit, full.value.actual) == (3, 4)
    with pytest.raises(OutboxFull):
        few.delegate("boss", "more")
    small.send("boss", "x" * 2000)  # one is always taken, or it never could be sent
    with pytest.raises(OutboxFull, match="the limit is 1000 bytes") as full:
        small.send("boss", "x")
    assert full.value.limit == 1000
    restartable.start()
    assert sorted(map(str, contents(boss, 4))) == ["0", "1", "2", "x" * 2000]
    wait_until(lambda: few.send("boss", "now").done() or True)
    few.send("boss", "again").result(PATIENCE)


def test_who_is_too_fast_gets_through_in_order(tmp_path: Any) -> None:
    limits = Limits(rate_agent=50, burst_agent=5, rate_pair=0)
    with relay_in_thread(ServerConfig(port=0, limits=limits)) as url, Client(url) as boss:
        boss.register("boss")
        with Link("fast", relay=url, identities=tmp_path) as fast:
            sent = [fast.send("boss", n) for n in range(30)]
            assert len({one.result(PATIENCE).message_id for one in sent}) == 30
            assert boss.info().rate_limited > 0
        assert sorted(contents(boss, 30)) == list(range(30))


def test_a_recipient_that_has_to_wait_keeps_no_other_back(tmp_path: Any) -> None:
    limits = Limits(burst_pair=1, rate_pair=0.1)
    with relay_in_thread(ServerConfig(port=0, limits=limits)) as url, Client(url) as boss, Client(url) as other:
        boss.register("boss")
        other.register("other")
        with Link("fast", relay=url, identities=tmp_path, drain=0) as fast:
            to_boss = [fast.send("boss", n) for n in range(4)]  # three of them have to wait, ten seconds each
            wait_until(lambda: boss.info().rate_limited > 0)
            assert fast.send("other", "now").result(PATIENCE).status == "sent"
            assert not to_boss[-1].done()


def test_what_is_refused_fails_alone(make_link: MakeLink, running: Running, boss: Client) -> None:
    sender = running(make_link("sender"))
    fine, wrong, large, last = (
        sender.send("boss", 1),
        sender.send("nobody", 1),
        sender.send("boss", "x" * 2_000_000),
        sender.send("boss", 2),
    )
    with pytest.raises(errors.UnknownAgent):
        wrong.result(PATIENCE)
    with pytest.raises(errors.TooLarge):
        large.result(PATIENCE)
    assert fine.result(PATIENCE).message_id != last.result(PATIENCE).message_id
    with pytest.raises(errors.BadRequest):
        sender.send("", 1)


def test_a_small_limit_of_the_relay_ends_no_connection_twice(tmp_path: Any) -> None:
    config = ServerConfig(port=0, limits=Limits(max_body_bytes=3000))
    with relay_in_thread(config) as url, Link("sender", relay=url, identities=tmp_path) as sender:
        large = sender.send("sender", "x" * 5000)
        with pytest.raises(errors.TooLarge):
            large.result(PATIENCE)
        assert sender.send("sender", 1).result(PATIENCE).status == "sent"


def test_a_failure_that_nobody_asks_for_is_logged(
    make_link: MakeLink, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    sender = running(make_link("sender"))
    sender.send("nobody", 1)
    wait_until(lambda: "the answer to send failed, and the program never asked for its result: no agent" in caplog.text)


async def test_a_pending_answer_is_there_for_threads_and_coroutines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    future = promise()
    pending: Pending[int] = Pending(future, "it")
    waiting = asyncio.ensure_future(asyncio.wait_for(wait(pending), 0.05))
    with pytest.raises(asyncio.TimeoutError):
        await waiting
    assert not pending.done()  # who stops waiting does not take it from others
    future.set_result(3)
    assert (await pending, pending.result(), pending.done()) == (3, 3, True)
    failed = promise()
    failed.set_exception(TimeoutError("of its own"))
    with pytest.raises(TimeoutError, match="of its own"):
        Pending(failed, "it").result(1)
    assert caplog.text == ""


async def wait(pending: Pending[T]) -> T:
    return await pending


async def test_who_stops_waiting_takes_an_answer_from_nobody_else(make_link: MakeLink, boss: Client) -> None:
    async with make_link("sender") as sender:
        sent = await sender.send("boss", "look")
        acked = sender.wait_message(sent.message_id, timeout=30)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(acked), 0.05)
        assert not acked.done()
        await asyncio.to_thread(lambda: boss.ack([one.receipt for one in boss.poll(wait=5)]))
        assert (await acked).state == "acked"


class Way(outbox_module.Way[Call[Any]]):
    """A connection that does what the test says."""

    window = at_once = 8

    def __init__(self, act: Callable[[Call[Any]], Any]) -> None:
        self.act = act
        self.tried: list[Call[Any]] = []

    def alone(self, call: Call[Any]) -> bool:
        return len(call.body or b"") > 1000

    async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
        self.tried.append(call)
        await asyncio.sleep(0)
        return self.act(call)


def put(outbox: Outbox[Call[Any]], call: Call[Any], recipient: str = "b") -> Future[Any]:
    return outbox.put(call, recipient, size=len(call.body or b""))


async def test_a_repeat_is_the_very_same_call() -> None:
    outbox: Outbox[Call[Any]] = Outbox(10, 1000)
    failing = [errors.RelayUnreachable("gone"), errors.Draining("going")]

    def act(call: Call[Any]) -> str:
        if failing:
            raise failing.pop()
        return "there"

    way = Way(act)
    sent = put(outbox, endpoints.send(ME, "b", 1))
    assert not outbox.empty
    pump = asyncio.create_task(outbox.pump(way))
    assert await asyncio.wait_for(asyncio.wrap_future(sent), 30) == "there"
    assert len({call.body for call in way.tried}) == 1
    assert len(way.tried) == 3
    assert outbox.empty
    pump.cancel()


async def test_a_defect_fails_its_own_message_only(caplog: pytest.LogCaptureFixture) -> None:
    outbox: Outbox[Call[Any]] = Outbox(10, 1000)

    def act(call: Call[Any]) -> str:
        if b'"bad"' in (call.body or b""):  # a random key may have these letters
            raise ZeroDivisionError
        return "there"

    pump = asyncio.create_task(outbox.pump(Way(act)))
    bad, good = put(outbox, endpoints.send(ME, "b", "bad")), put(outbox, endpoints.send(ME, "b", "good"))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wrap_future(bad)
    assert await asyncio.wrap_future(good) == "there"
    assert "cannot be sent: ZeroDivisionError" in caplog.text
    pump.cancel()


async def test_what_is_under_way_when_the_connection_ends_stays_in_order() -> None:
    outbox: Outbox[Call[Any]] = Outbox(10, 1000)
    stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Stuck(Way):
        async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
            self.tried.append(call)
            await asyncio.shield(stuck)

    first = Stuck(lambda call: None)
    sent = [put(outbox, endpoints.send(ME, "b", n)) for n in range(5)]
    pump = asyncio.create_task(outbox.pump(first))
    while len(first.tried) < 5:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
    second = Way(lambda call: call.body)
    pump = asyncio.create_task(outbox.pump(second))
    await asyncio.gather(*map(asyncio.wrap_future, sent))
    assert [call.body for call in second.tried] == [call.body for call in first.tried]
    pump.cancel()


async def test_what_goes_a_way_of_its_own_neither_overtakes_nor_is_overtaken() -> None:
    outbox: Outbox[Call[Any]] = Outbox(20, 100_000)
    under_way: set[Any] = set()
    done: list[int] = []

    class Slow(Way):
        async def perform(self, call: Call[Any], *, by_request: bool = False) -> Any:
            number = int(call.headers["number"])
            assert not (under_way and self.alone(call)), "it went beside others"
            assert not any(large for _, large in under_way), "others went beside it"
            under_way.add((number, self.alone(call)))
            for _ in range(5 if self.alone(call) else 1):
                await asyncio.sleep(0)
            under_way.discard((number, self.alone(call)))
            done.append(number)

    def numbered(number: int) -> Call[Any]:
        call = endpoints.send(ME, "b", "x" * (2000 if number % 3 == 0 else 1))
        return replace(call, headers={"number": str(number)})

    sent = [put(outbox, numbered(n)) for n in range(10)]
    pump = asyncio.create_task(outbox.pump(Slow(lambda call: None)))
    await asyncio.gather(*map(asyncio.wrap_future, sent))
    assert done == list(range(10))
    pump.cancel()


async def test_after_a_refusal_for_pace_they_go_one_by_one_until_all_that_was_there_is_over() -> None:
    outbox: Outbox[Call[Any]] = Outbox(50, 100_000)
    tokens, refused = 5, 0
    taken: list[bytes | None] = []

    def act(call: Call[Any]) -> None:
        nonlocal tokens, refused
        if not tokens:
            refused += 1
            tokens = int(refused >= 5)  # as a relay's bucket fills again between two frames
            raise errors.RateLimited("too fast", retry_after=0.01)
        tokens -= 1
        taken.append(call.body)

    bodies = [endpoints.send(ME, "b", n) for n in range(10)]
    sent = [put(outbox, call) for call in bodies]
    way = Way(act)
    way.window = 5
    pump = asyncio.create_task(outbox.pump(way))
    await asyncio.gather(*map(asyncio.wrap_future, sent))
    assert taken == [call.body for call in bodies]
    pump.cancel()


def test_large_and_small_messages_keep_their_order(make_link: MakeLink, running: Running, boss: Client) -> None:
    sender = running(make_link("sender"))
    said = [f"{n}" if n % 2 else f"{n}" + "x" * 100_000 for n in range(8)]
    for text in said:
        sender.send("boss", text)
    assert contents(boss, 8) == said


def test_an_outbox_that_is_closed_takes_nothing_more() -> None:
    outbox: Outbox[Call[Any]] = Outbox(10, 1000)
    before = put(outbox, endpoints.send(ME, "b", 1))
    outbox.close(LinkEnded("the end"))
    after = put(outbox, endpoints.send(ME, "b", 2))
    for one in (before, after):
        with pytest.raises(LinkEnded, match="the end"):
            one.result(1)
