"""The mailbox over a websocket: who gets what, what is settled by what, and what becomes of the rest at the end."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from clawlink.store.memory import MemoryStore
from tests.conftest import UNPACED, Running, Serve
from tests.server.asks import (
    NEWS,
    Got,
    ack,
    claim,
    claim_one,
    delegate,
    load_of,
    nothing_due,
    ok,
    poll,
    pool_task,
    refused,
    respond,
    send,
    status_of,
    with_key,
)
from tests.server.sockets import CLOSE, PING, PONG, TEXT, Peer, attempt_of, packed, path_of, receipt_of, websocket, wire
from tests.store.asking import load
from tests.store.faulty import FaultyStore
from tests.system.raw import Clock, connect, exchange, request
from tests.tables import each
from tests.virtual_time import pass_time, stand_still, starved
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def pair(pair: Running, until: Until) -> AsyncIterator[Running]:
    """The two agents; in the end nobody who has gone may still be waiting, or at work."""
    yield pair
    await nobody_left(pair, until)


async def nobody_left(relay: Running, until: Until) -> None:
    await until(lambda: not len(relay.app.push) and relay.app.relay.waiting == 0)
    await until(lambda: not [t for t in asyncio.all_tasks() if "_Session" in repr(t.get_coro())])


# -- what comes --------------------------------------------------------------------------------------------------------


async def test_messages_of_every_type_come_as_in_a_poll(relay: Running) -> None:
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b", notices=True)
    await relay.register("Cid", agent_id="c")

    async def everything() -> None:
        """Have b sent one message of each type."""
        await delegate(relay, "a", "b")
        mine = await delegate(relay, "b", "c")
        await respond(relay, "c", mine, status="input_required", result="which?")
        done = await delegate(relay, "b", "c")
        await respond(relay, "c", done)
        gone = await delegate(relay, "a", "b")
        await claim(relay, "b", 4, wait=0)
        await respond(relay, "b", gone, status="input_required", result="?")
        await ok(relay.post(f"/tasks/{gone}/answer", {"from_agent": "a", "content": "yes"}))
        await ok(relay.post(f"/tasks/{gone}/cancel", {"from_agent": "a"}))
        await send(relay, "a", "b")
        await ok(relay.post("/broadcast", {"from_agent": "a", "content": "news"}))
        await ok(relay.post("/files", {"file_key": "k", "content": "c", "agent_id": "a"}))
        await relay.register("Dan", agent_id="d")
        await ok(relay.ask("DELETE", "/agents/d"))

    await everything()
    polled = {}

    async def all_polled() -> bool:
        reply = await poll(relay, "b", lease=60, max=100)
        for m, d in zip(reply["messages"], reply["deliveries"], strict=True):
            polled[d["message_id"]] = (m, d)
        return len({m["type"] for m, _ in polled.values()}) >= 6

    await eventually(all_polled)
    reply = await ok(relay.post("/nack", {"agent_id": "b", "receipts": [d["receipt"] for _, d in polled.values()]}))
    assert reply["count"] == len(polled)
    async with websocket(relay, "b", lease=30, credit=1000) as peer:
        for _ in range(len(polled)):
            got = await peer.message(news=True)
            lease = got.pop("delivery")
            message, delivery = polled.pop(lease["message_id"])
            assert got == message
            assert lease.keys() == delivery.keys()
            assert lease["attempt"] == delivery["attempt"] + 1
    assert not polled


@pytest.mark.both_loops
async def test_a_message_comes_at_once_and_is_settled_by_an_ack(pair: Running) -> None:
    async with websocket(pair, "b", lease=30) as peer:
        for n in range(20):
            id = await send(pair, "a", "b", n)
            message = await peer.message()
            assert (message["message_id"], message["content"], attempt_of(message)) == (id, n, 1)
            assert (await status_of(pair, "a", id))["state"] == "delivered"
            await peer.ack(message)
            assert (await status_of(pair, "a", id))["state"] == "acked"
    await nothing_due(pair, "b")


async def test_what_was_there_before_comes_first_the_urgent_before_the_rest(pair: Running) -> None:
    for n in range(3):
        for priority in ("low", "normal", "high", "urgent"):
            await send(pair, "a", "b", [priority, n], priority=priority)

    async def all_there() -> bool:
        return (await load_of(pair, "b"))[0] == 12

    await eventually(all_there)
    async with websocket(pair, "b", lease=30, credit=1) as peer:
        came = []
        for _ in range(12):
            message = await peer.message()
            came.append(message["content"])
            await peer.ack(message)
    expected = [[p, n] for p in ("urgent", "high", "normal", "low") for n in range(3)]
    assert sorted(came) == sorted(expected)
    if isinstance(pair.app.relay.core.store, MemoryStore):
        assert came == expected


@memory
async def test_thousands_come_in_the_order_they_were_sent(unpaced_pair: Running, until: Until) -> None:
    async with websocket(unpaced_pair, "b", lease=30, credit=100) as peer, websocket(unpaced_pair, "a") as sender:
        for n in range(2000):
            await sender.say("send", to_agent="b", content=n)
        for n in range(0, 2000, 100):
            messages = await peer.messages(100)
            assert [m["content"] for m in messages] == list(range(n, n + 100))
            await peer.say("ack", receipts=[receipt_of(m) for m in messages])
        await peer.silent()
    await nobody_left(unpaced_pair, until)


@each("id", ["böb", "ボブ", "b/c?d%e#f", "𝄞", "b:c", 'b"c'])
@memory
async def test_agents_of_any_script_can_connect(relay: Running, id: str) -> None:
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id=id)
    async with websocket(relay, id, lease=30) as peer:
        await ok(relay.post("/broadcast", {"from_agent": "a", "content": "news"}))
        await peer.ack(await peer.message())
        await peer.ask("send", to_agent="a", content=1)
    await nothing_due(relay, id)


# -- credit ------------------------------------------------------------------------------------------------------------


@each(("query", "most"), [({}, 32), ({"credit": 1}, 1), ({"credit": 5}, 5)])
async def test_no_more_is_under_way_than_there_is_credit_for(pair: Running, query: Any, most: int) -> None:
    for n in range(40):
        await send(pair, "a", "b", n)
    async with websocket(pair, "b", lease=30, **query) as peer:
        first = await peer.messages(most)
        await peer.silent()
        await peer.ack(*first[: most // 2 + 1])
        await peer.messages(min(most // 2 + 1, 40 - most))
        await peer.silent()


async def test_an_ack_over_http_frees_credit(pair: Running) -> None:
    async with websocket(pair, "b", lease=30, credit=1) as peer:
        for n in range(3):
            await send(pair, "a", "b", n)
        for n in range(3):
            message = await peer.message()
            assert message["content"] == n
            await ack(pair, "b", receipt_of(message))


@each("over_http", [True, False])
async def test_the_end_of_a_task_frees_credit(pair: Running, over_http: bool) -> None:
    tasks = [await delegate(pair, "a", "b") for _ in range(2)]
    async with websocket(pair, "b", lease=30, credit=1) as peer:
        for task in tasks:
            assert (await peer.message())["message_id"] == task
            if over_http:
                await respond(pair, "b", task)
            else:
                await peer.ask("respond", message_id=task, result=1)


async def test_a_report_on_a_task_frees_none(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30, credit=1) as peer:
        assert (await peer.message())["message_id"] == task
        await peer.ask("respond", message_id=task, status="in_progress", progress=10)
        await peer.silent()


async def test_a_nack_makes_it_come_again_on_the_same_connection(pair: Running) -> None:
    await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30, credit=1) as peer:
        for attempt in range(1, 4):
            message = await peer.message()
            assert attempt_of(message) == attempt
            await peer.ask("nack", receipts=[receipt_of(message)])
        await peer.ack(await peer.message())


@pytest.mark.parametrize("credit", [1, 32])
@pytest.mark.both_loops
async def test_a_lease_that_lapses_comes_again_on_the_same_connection(pair: Running, clock: Clock, credit: int) -> None:
    id = await send(pair, "a", "b")
    async with websocket(pair, "b", lease=5, credit=credit) as peer:
        first = await peer.message()
        clock.skip(6)
        await peer.ask("heartbeat")  # a sign of life has the relay look
        second = await peer.message()
        assert (second["message_id"], attempt_of(second)) == (id, 2)
        reply = await peer.ask("ack", receipts=[receipt_of(first)])
        assert reply["results"][0]["status"] == "lease_lost"
        await peer.ack(second)
        await peer.silent()


@pytest.mark.both_loops
async def test_an_extended_lease_does_not_lapse(pair: Running, clock: Clock) -> None:
    await send(pair, "a", "b")
    async with websocket(pair, "b", lease=5) as peer:
        message = await peer.message()
        await peer.ask("extend", receipts=[receipt_of(message)], lease=300)
        clock.skip(299)
        await peer.ask("heartbeat")
        await peer.silent()
        await peer.ack(message)


@pytest.mark.both_loops
async def test_heartbeats_hold_a_task_past_its_lease(pair: Running, clock: Clock) -> None:
    task = await delegate(pair, "a", "b")
    async with websocket(pair, "b", lease=20, credit=1) as peer:
        await peer.message()
        for _ in range(3):
            clock.skip(15)
            await peer.ask("heartbeat")
            await peer.silent()
        await peer.ask("respond", message_id=task, result=1)


# -- the end of a connection -------------------------------------------------------------------------------------------


async def politely(peer: Peer) -> None:
    await peer.close()


async def cut(peer: Peer) -> None:
    kept = peer.ws.get_extra_info("socket")  # of the event loop: uvloop's cannot be shut down
    with socket.fromfd(kept.fileno(), kept.family, kept.type) as own:
        own.shutdown(socket.SHUT_RDWR)


@each("leave", [politely, cut])
async def test_what_was_not_acked_is_due_again_at_once(pair: Running, leave: Callable[[Peer], Awaitable[None]]) -> None:
    for n in range(4):
        await send(pair, "a", "b", n)
    async with websocket(pair, "b", lease=3600) as peer:
        messages = await peer.messages(4)
        await peer.ack(messages[1])
        await leave(peer)
    got = await claim(pair, "b", 3)
    assert sorted(g.message["content"] for g in got) == [0, 2, 3]


@each("rudely", [True, False])
async def test_one_that_vanishes_in_the_middle_of_a_frame_leaves_all_to_the_next(pair: Running, rudely: bool) -> None:
    ids = {await send(pair, "a", "b", n) for n in range(3)}
    async with wire(pair, "b", lease=3600) as peer:
        await peer.message()
        await peer.connection.send(b"\x81\xfe\x01\x00\x00\x00\x00\x00{")
        if rudely:
            peer.reset()
    got = await claim(pair, "b", 3)
    assert {g.message["message_id"] for g in got} == ids
    assert {g.attempt for g in got} == {1}


async def test_what_nobody_is_known_to_have_read_keeps_its_attempt(pair: Running) -> None:
    await send(pair, "a", "b")
    for _ in range(7):  # more often than it may be handed out
        async with wire(pair, "b", lease=30) as peer:
            assert attempt_of(await peer.message()) == 1
            peer.reset()
    assert (await claim_one(pair, "b")).attempt == 1


async def test_what_a_pong_proves_to_have_been_read_counts_as_an_attempt(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b")
    await ok(pair.post("/nack", {"agent_id": "b", "receipts": [(await claim_one(pair, "b")).receipt]}))
    for attempt in range(2, 6):
        async with wire(pair, "b", lease=30) as peer:
            assert attempt_of(await peer.message()) == attempt
            await peer.send(PONG, await peer.next(PING))
            await peer.say("ping", id=1)
            await peer.message()  # by now the relay has read the pong
            peer.reset()

    async def dead() -> bool:
        await poll(pair, "b")
        return bool((await status_of(pair, "a", id))["state"] == "dead")

    await eventually(dead)


@memory
async def test_what_a_later_ack_proves_to_have_been_read_counts_as_an_attempt(pair: Running) -> None:
    async with wire(pair, "b", lease=30) as peer:
        messages = []
        for n in range(3):
            await send(pair, "a", "b", n)
            messages.append(await peer.message())
        await peer.say("ack", id=1, receipts=[receipt_of(messages[1])])
        await peer.message()
        peer.reset()
    got = await claim(pair, "b", 2)
    assert [(g.message["content"], g.attempt) for g in got] == [(0, 2), (2, 1)]


async def test_what_was_acked_never_comes_again(pair: Running, clock: Clock) -> None:
    for n in range(30):
        await send(pair, "a", "b", n)
    acked: list[int] = []
    for turn in range(6):
        async with wire(pair, "b", lease=30, credit=10) as peer:
            receipts = []
            for _ in range(5):
                message = await peer.message()
                assert message["content"] not in acked
                acked.append(message["content"])
                receipts.append(receipt_of(message))
            await peer.say("ack", id="acked", receipts=receipts)
            while (await peer.message()).get("id") != "acked":
                pass
            if turn % 2:
                peer.reset()
    assert sorted(acked) == list(range(30))
    clock.skip(31)
    await nothing_due(pair, "b")


@memory
async def test_one_that_goes_as_it_acks_its_last_is_gone(pair: Running, until: Until) -> None:
    """The ack frees its credit, and it leaves with the same words."""
    for end in (b"", packed(CLOSE, b"\x03\xe8")):
        await send(pair, "a", "b")
        async with wire(pair, "b", lease=30, credit=1) as peer:
            message = await peer.message()
            await peer.say("ping", id=1)
            await peer.message()
            await peer.say("ack", receipts=[receipt_of(message)])
            await peer.connection.send(end)
        await nobody_left(pair, until)

        async def acked(id: str = message["message_id"]) -> bool:
            return bool((await status_of(pair, "a", id))["state"] == "acked")

        await eventually(acked)


async def test_acks_and_the_close_in_one_piece_leave_nobody_behind(pair: Running, until: Until) -> None:
    await send(pair, "a", "b")
    async with wire(pair, "b", lease=30, credit=1) as peer:
        message = await peer.message()
        await peer.say("ping", id=1)
        await peer.message()  # by now the relay waits for credit
        frame = packed(TEXT, json.dumps({"type": "ack", "receipts": [receipt_of(message)]}))
        await peer.connection.send(frame + packed(CLOSE, b"\x03\xe8"))
        await peer.next(CLOSE)
        await nobody_left(pair, until)


# -- clients of 1.0.x --------------------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_without_a_lease_a_pong_settles_what_was_sent(pair: Running, clock: Clock) -> None:
    ids = [await send(pair, "a", "b", n) for n in range(3)]
    async with websocket(pair, "b") as peer:
        await peer.messages(3)

        async def acked() -> bool:
            await peer.ask("ping")
            return {(await status_of(pair, "a", id))["state"] for id in ids} == {"acked"}

        await eventually(acked)
        ids.append(await send(pair, "a", "b", 3))
        assert (await peer.message())["content"] == 3
        await eventually(acked)
    clock.skip(61)

    async def all_settled() -> bool:
        return (await load_of(pair, "b"))[0] == 0

    await eventually(all_settled)
    await nothing_due(pair, "b")


async def test_without_a_lease_what_was_read_and_not_ponged_is_due_again(pair: Running) -> None:
    ids = {await send(pair, "a", "b", n) for n in range(3)}
    async with wire(pair, "b") as peer:
        for _ in range(3):
            await peer.message()
        await peer.next(PING)
        peer.reset()
    got = await claim(pair, "b", 3)
    assert {g.message["message_id"] for g in got} == ids


@memory
async def test_a_pong_settles_no_more_than_was_sent_before_its_ping(pair: Running) -> None:
    async with wire(pair, "b") as peer:
        await send(pair, "a", "b", 0)
        await peer.message()
        ping = await peer.next(PING)
        await send(pair, "a", "b", 1)
        await peer.message()
        await peer.next(PING)
        await peer.send(PONG, ping)
        await peer.say("ping", id=1)
        await peer.message()
        peer.reset()
    assert (await claim_one(pair, "b")).message["content"] == 1


async def test_one_that_is_settled_by_pongs_goes_on_past_its_credit(pair: Running) -> None:
    for n in range(50):
        await send(pair, "a", "b", n)
    async with websocket(pair, "b", credit=4) as peer:
        assert sorted(m["content"] for m in await peer.messages(50)) == list(range(50))


async def test_a_client_of_1_0_gets_along(pair: Running) -> None:
    """It sends frames without ids and without fields that came later, and reads messages by their type."""
    async with websocket(pair, "b") as peer:
        await peer.say("heartbeat")
        await peer.say("delegate", to_agent="a", task="sum", context={"n": 1}, priority="high")
        await peer.say("broadcast", content="news", topic="general")
        task, news = await claim(pair, "a", 2)
        assert {task.message["type"], news.message["type"]} == {"task_delegation", "knowledge_broadcast"}
        (id,) = [g.message["message_id"] for g in (task, news) if g.message["type"] == "task_delegation"]
        await respond(pair, "a", id, {"sum": 3})
        got = await peer.message()
        assert (got["type"], got["message_id"], got["result"]) == ("task_response", id, {"sum": 3})


# -- several connections -----------------------------------------------------------------------------------------------


async def test_each_message_goes_to_exactly_one_of_several_readers(
    unpaced_pair: Running, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three websockets, two polls and a stream of events read one mailbox beside each other."""
    relay = unpaced_pair
    got: Counter[int] = Counter()
    over = asyncio.Event()

    async def read(peer: Peer) -> None:
        while True:
            message = await peer.message()
            if message["content"] is None:
                return
            got[message["content"]] += 1
            await peer.say("ack", receipts=[receipt_of(message)])

    async def polls() -> None:
        while not over.is_set():
            reply = await poll(relay, "b", lease=60, wait=0.1, max=3)
            for m in reply["messages"]:
                got[m["content"]] += m["type"] not in NEWS
            if reply["deliveries"]:
                await ack(relay, "b", *[d["receipt"] for d in reply["deliveries"]])

    async def events() -> None:
        while not over.is_set():
            async with relay.session.get(relay.url + path_of("b", kind="events", credit=3)) as response:
                async for line in response.content:
                    if line.startswith(b"data: "):
                        message = json.loads(line[6:])
                        got[message["content"]] += 1
                        await ack(relay, "b", receipt_of(message))

    monkeypatch.setattr("clawlink.server.sse.BACK_SECONDS", 0.1)
    async with websocket(relay, "b", lease=60) as one, websocket(relay, "b", lease=60, credit=2) as two:
        others = [asyncio.create_task(t) for t in (read(one), read(two), polls(), polls(), events())]
        for n in range(200):
            await send(relay, "a", "b", n)
        await until(lambda: len(got) == 200)
        over.set()
        for task in others:
            task.cancel()
        await asyncio.wait(others)
    assert set(got.values()) == {1}
    await nobody_left(relay, until)


async def test_a_new_connection_takes_nothing_from_an_old_one_nor_does_its_end(pair: Running) -> None:
    async with websocket(pair, "b", lease=60) as old:
        first = await send(pair, "a", "b", 1)
        held = await old.message()
        async with websocket(pair, "b", lease=60) as new:
            await old.ask("ping")
            await new.silent()
        await old.ask("heartbeat")
        await old.ack(held)
        assert (await status_of(pair, "a", first))["state"] == "acked"
        await send(pair, "a", "b", 2)
        assert (await old.message())["content"] == 2


async def test_the_end_of_an_old_connection_harms_no_new_one(pair: Running) -> None:
    async with websocket(pair, "b", lease=60, credit=1) as new:
        async with websocket(pair, "b", lease=60, credit=1) as old:
            ids = {await send(pair, "a", "b", n) for n in range(2)}
            held = [await old.message(), await new.message()]
            assert {m["message_id"] for m in held} == ids
        await new.silent()
        await new.ack(held[1])
        again = await new.message()
        assert again["message_id"] == held[0]["message_id"]
        await new.ack(again)


async def test_what_a_connection_had_goes_at_its_end_to_the_one_beside_it(pair: Running) -> None:
    async with websocket(pair, "b", lease=3600) as one, websocket(pair, "b", lease=3600) as two:
        await send(pair, "a", "b")
        first = asyncio.create_task(one.message())
        second = asyncio.create_task(two.message())
        done, _ = await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        (holder,) = [peer for peer, task in ((one, first), (two, second)) if task in done]
        id = done.pop().result()["message_id"]
        await holder.close()
        other = second if holder is one else first
        assert (await other)["message_id"] == id


# -- work for whoever can do it ----------------------------------------------------------------------------------------


@pytest.fixture
async def crew(serve: Serve, clock: Clock, until: Until) -> AsyncIterator[Running]:
    """A relay with one who asks, and four who can do it."""
    relay = await serve(clock=clock, limits=UNPACED)
    await relay.register("Req", agent_id="req")
    for n in range(4):
        await relay.register(f"W{n}", agent_id=f"w{n}", capabilities=["python"])
    yield relay
    await nobody_left(relay, until)


async def test_a_task_by_capability_goes_to_one_of_those_who_are_connected(crew: Running) -> None:
    async with websocket(crew, "w0", lease=30) as one, websocket(crew, "w1", lease=30) as two:
        id = await pool_task(crew, "req")
        waits = [asyncio.create_task(peer.message()) for peer in (one, two)]
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        assert len(done) == 1
        assert done.pop().result()["message_id"] == id
        for task in rest:
            task.cancel()
        await asyncio.wait(rest)


@pytest.mark.both_loops
async def test_work_whose_workers_connection_ends_goes_to_the_next_at_once(crew: Running) -> None:
    id = await pool_task(crew, "req")
    async with websocket(crew, "w1", lease=3600, credit=1) as two:
        await send(crew, "req", "w1")
        held = await two.message()
        if held["type"] == "task_delegation":
            await two.ask("nack", receipts=[receipt_of(held)], delay=1)
            held = await two.message()
        async with websocket(crew, "w0", lease=3600) as one:
            assert (await one.message())["message_id"] == id
        await two.ack(held)
        message = await two.message()
        assert message["message_id"] == id


@memory
async def test_each_of_several_idle_workers_gets_its_share(crew: Running) -> None:
    got: Counter[str] = Counter()

    async def work(id: str) -> None:
        async with websocket(crew, id, lease=30) as peer:
            while True:
                await peer.ack(await peer.message())
                got[id] += 1

    workers = [asyncio.create_task(work(f"w{n}")) for n in range(4)]

    async def waiting() -> bool:
        return crew.app.relay.waiting == 4

    await eventually(waiting)
    for n in range(1, 41):
        await pool_task(crew, "req")

        async def done(n: int = n) -> bool:
            return sum(got.values()) == n

        await eventually(done)
    for task in workers:
        task.cancel()
    await asyncio.wait(workers)
    assert min(got.values()) >= 8
    assert len(got) == 4


async def test_one_that_can_do_more_by_now_gets_that_work_on_its_open_connection(crew: Running) -> None:
    async with websocket(crew, "w0", lease=30) as peer:
        id = await pool_task(crew, "req", "cobol")
        await peer.silent()
        await crew.register("W0", agent_id="w0", capabilities=["cobol"])
        assert (await peer.message())["message_id"] == id
        other = await pool_task(crew, "req", "cobol")
        assert (await peer.message())["message_id"] == other
        await pool_task(crew, "req", "python")
        await peer.silent()


@memory
@pytest.mark.both_loops
async def test_one_with_all_the_work_it_may_have_gets_more_when_it_is_done(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"max_open_tasks": 1})
    await relay.register("Req", agent_id="req")
    await relay.register("W", agent_id="w", capabilities=["python"])
    async with websocket(relay, "w", lease=30) as peer:
        for _ in range(3):
            id = await pool_task(relay, "req")
            message = await peer.message()
            assert message["message_id"] == id
            await peer.ack(message)
            await peer.ask("respond", message_id=id, result=1)


# -- who may -----------------------------------------------------------------------------------------------------------


def offered(**values: str) -> Any:
    """Return the subprotocols that a page in a browser offers."""
    encoded = {name: base64.urlsafe_b64encode(value.encode()).rstrip(b"=").decode() for name, value in values.items()}
    return ["clawlink", *(f"clawlink.{name}.{value}" for name, value in encoded.items())]


HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"x" * 16).decode(),
}
TOKEN = "sécret/+?&=token"


@pytest.fixture
async def guarded(serve: Serve) -> Running:
    """A relay that asks for a token, with an agent that is claimed."""
    relay = await serve(token=TOKEN)
    body = {"name": "Bob", "agent_id": "b"}
    await ok(relay.post("/register", body, headers={"Authorization": f"Bearer {TOKEN}"}))
    return relay


async def test_the_token_may_come_as_header_as_parameter_and_as_subprotocol(guarded: Running) -> None:
    async with guarded.session.ws_connect(guarded.url + "/ws/b", headers={"Authorization": f"Bearer {TOKEN}"}) as ws:
        await Peer(ws).ask("ping")
    async with websocket(guarded, "b", token=TOKEN) as peer:
        await peer.ask("ping")
    async with guarded.session.ws_connect(guarded.url + "/ws/b", protocols=offered(token=TOKEN)) as ws:
        assert ws.protocol == "clawlink"
        await Peer(ws).ask("ping")


@each(
    ("path", "headers", "status", "code"),
    [
        ("/ws/b", {}, 401, "not_authenticated"),
        ("/ws/b", {"Authorization": "Bearer wrong"}, 401, "not_authenticated"),
        ("/ws/b?token=wrong", {}, 401, "not_authenticated"),
        ("/ws/b?token=", {}, 401, "not_authenticated"),
        ("/ws/b", {"Sec-WebSocket-Protocol": ", ".join(offered(token="wrong"))}, 401, "not_authenticated"),
        ("/ws/b", {"Sec-WebSocket-Protocol": "clawlink, clawlink.token."}, 401, "not_authenticated"),
        ("/ws/b", {"Sec-WebSocket-Protocol": "clawlink, clawlink.token.?!"}, 400, "bad_request"),
        ("/ws/b", {"Sec-WebSocket-Protocol": "clawlink, clawlink.token._w"}, 400, "bad_request"),
        ("/ws/b", {"Sec-WebSocket-Protocol": "clawlink"}, 401, "not_authenticated"),
    ],
)
@memory
async def test_a_wrong_token_is_refused_before_the_handshake(
    guarded: Running, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    await refused(guarded.get(path, headers={**HANDSHAKE, **headers}), status, code)


@memory
async def test_a_token_in_the_address_is_taken_on_this_route_alone(guarded: Running) -> None:
    for path in ("/", "/poll/b", "/events/b", "/discover", "/files", "/metrics"):
        async with guarded.session.get(guarded.url + path, params={"token": TOKEN}) as response:
            assert response.status == 401
        headers = {"Sec-WebSocket-Protocol": ", ".join(offered(token="secret"))}
        async with guarded.session.get(guarded.url + path, headers=headers) as response:
            assert response.status == 401


@pytest.fixture
async def claimed(relay: Running) -> tuple[Running, str]:
    """A relay with a claimed agent ``b``, and its key."""
    await relay.register("Ann", agent_id="a")
    key = (await ok(relay.post("/register", {"name": "Bob", "agent_id": "b", "claim": True})))["agent_key"]
    return relay, key


async def test_subprotocols_in_two_headers_are_refused_in_words(pair: Running) -> None:
    """aiohttp would look at the first alone, and write the others to its log."""
    offers = CIMultiDict([("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Protocol", "clawlink")])
    offers.add("Sec-WebSocket-Protocol", "clawlink.key.c2VjcmV0")
    told = await refused(pair.get("/ws/b", headers=offers), 400, "bad_request")
    assert (told["field"], told["error"]) == ("Sec-WebSocket-Protocol", "offer all subprotocols in one header")


async def test_a_claimed_agent_shows_its_key_by_header_or_subprotocol(claimed: tuple[Running, str]) -> None:
    relay, key = claimed
    async with websocket(relay, "b", headers=with_key(key), lease=30) as peer:
        await peer.ask("heartbeat")
        await send(relay, "a", "b")
        await peer.ack(await peer.message())
    async with relay.session.ws_connect(relay.url + "/ws/b?lease=30", protocols=offered(key=key)) as ws:
        await Peer(ws).ask("heartbeat")
    for headers in ({}, with_key("wrong"), {"Sec-WebSocket-Protocol": ", ".join(offered(key="wrong"))}):
        await refused(relay.get("/ws/b", headers={**HANDSHAKE, **headers}), 403, "not_allowed")


async def test_nobody_else_is_let_in(pair: Running) -> None:
    await refused(pair.get("/ws/nobody?lease=60", headers=HANDSHAKE), 404, "unknown_agent")
    foreign = {**HANDSHAKE, "Origin": "https://evil.example"}
    await refused(pair.get("/ws/b", headers=foreign), 403, "not_allowed")
    body = await refused(pair.get("/ws/b"), 400, "bad_request")
    assert body["field"] == "Upgrade"
    assert "/events/" in body["error"]
    for query in ("lease=4", "lease=3601", "lease=x", "credit=0", "credit=1001", "credit=x"):
        body = await refused(pair.get(f"/ws/b?{query}", headers=HANDSHAKE), 400, "bad_request")
        assert body["field"] == query.split("=")[0]
    for missing in ("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection"):
        headers = {name: value for name, value in HANDSHAKE.items() if name != missing}
        answer = await exchange(pair.url, request("GET", "/ws/b", None, **headers))
        assert (answer.status, answer.json["code"]) == (400, "bad_request"), missing
    for protocol in ("chat", "clawlink.token.eA"):
        headers = {**HANDSHAKE, "Sec-WebSocket-Protocol": protocol}
        await refused(pair.get("/ws/b", headers=headers), 400, "bad_request")


async def test_the_page_that_the_relay_itself_would_be_is_let_in(pair: Running) -> None:
    async with pair.session.ws_connect(pair.url + "/ws/b", origin=pair.url) as ws:
        await Peer(ws).ask("ping")


@memory
async def test_no_log_of_any_logger_has_token_or_key(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    relay = await serve(token="the-secret-token")
    bearer = {"Authorization": "Bearer the-secret-token"}
    body = {"name": "Bob", "agent_id": "b", "claim": True}
    key = (await ok(relay.post("/register", body, headers=bearer)))["agent_key"]
    async with relay.session.ws_connect(
        relay.url + "/ws/b", protocols=offered(token="the-secret-token", key=key)
    ) as ws:
        await Peer(ws).ask("ping")
    async with websocket(relay, "b", token="the-secret-token", headers=with_key(key)) as peer:
        await peer.ask("ping")
        await peer.refused("send", "unknown_agent", to_agent="x", content="said-in-secret")
    offers = offered(token="the-secret-token", key=key)
    wrong = offered(token="a-wrong-token", key="a-wrong-key")
    for lines in (
        [", ".join(offers[1:])],
        [", ".join(offers[1:]), "clawlink"],
        [offers[1], offers[2], offers[0]],
        ["chat, " + ", ".join(offers[1:])],
        [", ".join(wrong)],
        [", ".join([*offers[:2], wrong[2]])],
    ):
        head = request("GET", "/ws/b", None, **HANDSHAKE)
        named = "".join(f"Sec-WebSocket-Protocol: {line}\r\n" for line in lines).encode()
        connection = await connect(relay.url)
        await connection.send(head.replace(b"\r\n\r\n", b"\r\n" + named + b"\r\n"))
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.close()
        await connection.writer.wait_closed()
    told = "\n".join(f"{r.getMessage()} {vars(r)}" for r in caplog.records if r.name != "asyncio")
    assert told
    secrets = ["the-secret-token", key, "a-wrong-token", "a-wrong-key", "said-in-secret"]
    encoded = [offer.rpartition(".")[2] for offer in (*offers[1:], *wrong[1:])]
    for secret in (*secrets, *encoded):
        assert secret not in told, secret


# -- the relay ends it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", [1, 32])
@pytest.mark.both_loops
async def test_an_agent_that_leaves_is_told_on_its_connections(pair: Running, credit: int) -> None:
    await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30, credit=credit) as peer, websocket(pair, "b", lease=30) as other:
        await ok(pair.ask("DELETE", "/agents/b"))
        for each in (peer, other):
            code, reason = await each.closed()
            assert code == 4404
            assert "register" in reason


async def test_a_long_reason_is_not_cut_in_the_middle_of_a_character(pair: Running) -> None:
    for name in ("é" * 60, "x" + "é" * 60):
        await pair.register(name, agent_id=name)
        async with websocket(pair, name, lease=30) as peer:
            await ok(pair.ask("DELETE", f"/agents/{name}"))
            code, reason = await peer.closed()
            assert code == 4404
            assert "éé" in reason


@pytest.mark.parametrize("credit", [1, 32])
async def test_an_agent_that_someone_claims_is_theirs(pair: Running, credit: int) -> None:
    id = await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30, credit=credit) as peer:
        await peer.message()
        key = (await ok(pair.post("/register", {"name": "Bob", "agent_id": "b", "claim": True})))["agent_key"]
        code, reason = await peer.closed()
        assert code == 4403
        assert key not in reason
    async with websocket(pair, "b", lease=30, headers=with_key(key)) as peer:
        message = await peer.message()
        assert message["message_id"] == id
        await peer.ack(message)


@pytest.mark.parametrize("credit", [1, 32])
@pytest.mark.both_loops
async def test_at_a_shutdown_what_is_under_way_may_still_be_acked(pair: Running, credit: int) -> None:
    id = await send(pair, "a", "b")
    task = await delegate(pair, "b", "a")
    async with websocket(pair, "b", lease=30, credit=credit) as peer, websocket(pair, "a", lease=30) as other:
        message = await peer.message()
        assert (await other.message())["message_id"] == task
        await pair.app.relay.drain()
        assert (await peer.refused("send", "draining", to_agent="a", content=1))["retry_after"] > 0
        await peer.ack(message)
        await other.ask("respond", message_id=task, result=1)
        for each in (peer, other):
            code, reason = await each.closed()
            assert code == 1001
            assert reason
    assert (await status_of(pair, "a", id))["state"] == "acked"
    await refused(pair.get("/ws/b", headers=HANDSHAKE), 503, "draining")


@memory
@pytest.mark.virtual_time
async def test_at_a_shutdown_those_who_ack_nothing_are_told_in_time(pair: Running) -> None:
    for n in range(5):
        await send(pair, "a", "b", n)
    async with websocket(pair, "b", lease=30, credit=2) as peer:
        await peer.messages(2)
        await pass_time(20)  # by now it looks only now and then whether it has credit
        await pair.app.relay.drain()
        assert (await asyncio.wait_for(peer.closed(), 15))[0] == 1001


@memory
@pytest.mark.virtual_time
async def test_at_a_shutdown_the_time_to_ack_counts_no_steps(pair: Running) -> None:
    """On a loaded machine each step takes long."""
    await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30) as peer:
        await peer.messages(1)
        async with starved(0.45) as stood:
            await pair.app.relay.drain()
            assert (await peer.closed())[0] == 1001
            assert len(stood) < 10, "the farewell is 1.5 s"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a relay that waits for nobody longer than half a second."""
    monkeypatch.setattr("clawlink.server.app._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr("clawlink.server.ws_connection.PING_SECONDS", 0.1)
    monkeypatch.setattr("clawlink.server.ws_connection.SILENT_SECONDS", 0.5)
    monkeypatch.setattr("clawlink.server.ws_connection._ABORT_SECONDS", 0.2)


@pytest.fixture
async def stuck(serve: Serve, until: Until) -> AsyncIterator[Running]:
    """A relay whose agent ``b`` has more to read than all buffers on the way to it take."""
    relay = await serve(limits={**UNPACED, "max_mailbox_bytes": 64 << 20})
    for name in ("a", "b", "c"):
        await relay.register(name, agent_id=name)
    for n in range(12):
        await send(relay, "a", "b", f"{n:02}" + "x" * 1_000_000)
    yield relay
    await nobody_left(relay, until)


@pytest.mark.both_loops
@pytest.mark.usefixtures("impatient")
async def test_one_that_does_not_read_is_closed_and_harms_nobody_else(
    stuck: Running, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.server.ws_connection.SILENT_SECONDS", 2.0)
    async with websocket(stuck, "c", lease=30) as other, wire(stuck, "b", lease=30, receive_buffer=4096) as peer:
        (session,) = [s for s in stuck.app.push._sessions if s._agent_id == "b"]
        assert session._websocket.transport is not None
        most = served = 0
        closed = asyncio.ensure_future(until(lambda: len(stuck.app.push) == 1))
        while not (await asyncio.wait({closed}, timeout=0.01))[0]:
            id = await send(stuck, "a", "c", served)
            message = await other.message()
            assert message["message_id"] == id
            await other.ack(message)
            most = max(most, session._websocket.transport.get_write_buffer_size())
            served += 1
        await closed
        assert 0 < most < 3 << 20
        assert served
        peer.reset()
    got = await claim(stuck, "b", 12, max=20)
    assert [g.attempt for g in got] == [1] * 12


@memory
@pytest.mark.virtual_time
async def test_one_that_reads_again_is_told_that_it_did_not(stuck: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.server.ws_connection._ABORT_SECONDS", 600.0)
    async with wire(stuck, "b", lease=30, receive_buffer=65536) as peer:
        for _ in range(30):
            await peer.send(PONG, b"")  # it is there
            await pass_time(1)
        close = await peer.next(CLOSE)
        assert int.from_bytes(close[:2], "big") == 1008
        assert b"not read" in close[2:]
        peer.hang_up()


@memory
@pytest.mark.virtual_time
async def test_one_that_reads_nothing_but_asks_on_is_closed_all_the_same(stuck: Running, until: Until) -> None:
    """However often it speaks: what counts is that it does not read."""
    async with wire(stuck, "b", lease=30, receive_buffer=4096) as peer:
        for _ in range(60):
            await peer.say("heartbeat")
            await peer.send(PONG, b"")
            await pass_time(1)
        assert not len(stuck.app.push), "it counts as one that reads"
        peer.reset()


@pytest.mark.usefixtures("impatient")
@pytest.mark.both_loops
async def test_a_silent_peer_is_pinged_and_closed_if_it_does_not_pong(pair: Running) -> None:
    id = await send(pair, "a", "b")
    async with websocket(pair, "a") as alive, wire(pair, "b", lease=30) as peer:
        reading = asyncio.create_task(alive.closed())
        await peer.message()
        await peer.next(PING)
        close = await asyncio.wait_for(peer.next(CLOSE), 30)
        assert int.from_bytes(close[:2], "big") == 1008
        assert b"pong" in close[2:]
        assert (await claim_one(pair, "b")).message["message_id"] == id
        assert not reading.done()  # it reads, and so it pongs
        reading.cancel()
        await asyncio.wait([reading])
        peer.hang_up()


@memory
@pytest.mark.virtual_time
async def test_a_relay_that_stood_still_takes_no_peer_for_silent(pair: Running) -> None:
    async with wire(pair, "b") as peer:
        await pass_time(3)
        stand_still(100)
        await peer.next(PING)
        assert int.from_bytes((await peer.next(CLOSE))[:2], "big") == 1008, "it is silent for long enough after all"


@memory
@pytest.mark.usefixtures("impatient")
async def test_a_part_of_upkeep_that_fails_each_time_ends_no_other(
    pair: Running, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(pair.app.relay.refusal_log, "tell", broken)
    monkeypatch.setattr(pair.app, "_look_at_time", broken)
    before = pair.app.relay.stats.upkeep_failures
    await until(lambda: pair.app.relay.stats.upkeep_failures > before + 3)
    async with wire(pair, "b") as peer:
        await peer.next(PING)


@pytest.mark.virtual_time
async def test_one_that_says_something_now_and_then_is_not_silent(pair: Running) -> None:
    async with wire(pair, "b", lease=30) as peer:
        for n in range(40):
            await peer.say("ping", id=n)
            assert (await peer.message())["id"] == n
            await pass_time(5)


# -- what was hard to do -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_ping_while_a_batch_is_on_its_way_proves_nothing_of_the_rest(
    pair: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its pong settle what has not been written yet, with frames that are compressed."""
    monkeypatch.setattr("clawlink.server.websocket.LOOPBACK_HOSTS", ())
    # To pack a frame may take a busy machine a while.
    monkeypatch.setattr("clawlink.server.ws_connection.SILENT_SECONDS", PATIENCE)
    letters = Random(1)
    noise = [base64.b64encode(letters.randbytes(600_000)).decode() for _ in range(14)]
    for text in noise:
        await send(pair, "a", "b", text)
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    read = proven = 0
    async with wire(pair, "b", headers=offer, receive_buffer=4096) as peer:
        while read < 6:
            kind, data = await peer.frame()
            if kind == TEXT:
                read += 1
            elif kind == PING:
                proven = read
                await peer.send(PONG, data)
        peer.reset()
    got = {g.message["content"] for g in await claim_all(pair)}
    assert 14 - proven <= len(got)


async def claim_all(relay: Running) -> list[Got]:
    """Claim what is left for b, once its websocket is gone."""

    async def gone() -> bool:
        return not len(relay.app.push)

    await eventually(gone)
    left = (await load(relay.app.relay.core.store, "b")).count
    return await claim(relay, "b", left, max=20)


async def test_connections_that_come_and_go_leave_nothing_behind(pair: Running, until: Until) -> None:
    """Each ends in another way, with messages on their way to it."""
    for n in range(30):
        await send(pair, "a", "b", n)

        async def one(n: int) -> None:
            async with wire(pair, "b", lease=3600, credit=1 + 31 * (n % 2)) as peer:
                for _ in range(n % 5):
                    await asyncio.sleep(0)
                if n % 3:
                    peer.reset()

        await asyncio.gather(*(one(k) for k in range(n % 7 + 1)))
    await nobody_left(pair, until)
    got = await claim(pair, "b", 30, max=100)
    assert sorted(g.message["content"] for g in got) == list(range(30))
    assert {g.attempt for g in got} == {1}


# -- a store that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(), Random(1))


@pytest.fixture
async def failing(
    serve: Serve, store: FaultyStore, clock: Clock, until: Until, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    """Two agents on a store that can be made to fail."""
    monkeypatch.setattr("clawlink.server.websocket._RETRY_SECONDS", 0.05)
    relay = await serve(store=store, clock=clock, limits={**UNPACED, "max_attempts": 1000})
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b", capabilities=["go"])
    yield relay
    await nobody_left(relay, until)


@pytest.mark.parametrize("fault", ["failures", "lost", "conflicts"])
@memory
async def test_a_frame_that_the_store_does_not_take_is_refused_and_worth_another_try(
    failing: Running, store: FaultyStore, fault: str
) -> None:
    await send(failing, "a", "b")
    async with websocket(failing, "b", lease=30) as peer:
        message = await peer.message()
        setattr(store, fault, 1.0)
        frame = await peer.refused("ack", "store_unavailable", receipts=[receipt_of(message)])
        assert frame["retry_after"] > 0
        await peer.refused("send", "store_unavailable", to_agent="a", content=1)
        setattr(store, fault, 0.0)
        await peer.ack(message)
        await peer.ask("send", to_agent="a", content=1)
    await nothing_due(failing, "b")


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["failures", "lost", "conflicts"])
@memory
async def test_what_could_not_be_claimed_comes_when_the_store_works_again(
    failing: Running, store: FaultyStore, clock: Clock, fault: str
) -> None:
    async with websocket(failing, "b", lease=5) as peer:
        for turn in range(3):
            await send(failing, "a", "b", turn, idempotency_key=f"{turn:>16}")
            await peer.ack(await peer.message())
            setattr(store, fault, 0.7)

            async def sent(turn: int = turn) -> bool:
                body = {"from_agent": "a", "to_agent": "b", "content": 10 + turn, "idempotency_key": f"{turn:>20}"}
                return (await failing.post("/send", body))[0] == 200

            await eventually(sent)
            await pass_time(2)
            setattr(store, fault, 0.0)
            clock.skip(6)  # a lease that was lost lapses
            await peer.ask("heartbeat")

            async def acked(turn: int = turn) -> bool:
                message = await peer.message()  # those that came while the store failed have lapsed
                assert message["content"] == 10 + turn
                reply = await peer.ask("ack", receipts=[receipt_of(message)])
                return bool(reply["count"])

            await eventually(acked)
            await peer.silent()


@pytest.mark.parametrize("lease", [{}, {"lease": 5}])
@memory
async def test_nothing_is_lost_while_every_step_may_fail(
    failing: Running, store: FaultyStore, clock: Clock, lease: Any
) -> None:
    """Whether settled by acks or by pongs."""
    for n in range(40):
        await send(failing, "a", "b", n)
    store.failures = store.lost = 0.2
    seen: set[int] = set()

    async def read() -> None:
        async with websocket(failing, "b", credit=5, **lease) as peer:
            while True:
                got = await peer.ws.receive()
                if got.type is not aiohttp.WSMsgType.TEXT:
                    return
                frame = json.loads(got.data)
                if "delivery" in frame:
                    seen.add(frame["content"])
                    if lease:
                        await peer.say("ack", receipts=[receipt_of(frame)])

    async def read_on() -> None:
        while True:
            try:
                await read()
            except aiohttp.WSServerHandshakeError as refused:  # to open it stores a sign of life
                if refused.status != 503:
                    raise

    reading = asyncio.create_task(read_on())

    async def settled() -> bool:
        if reading.done():
            await reading  # it never ends by itself: raise what ended it
        clock.skip(3)
        await failing.post("/heartbeat", {"agent_id": "b"})
        return (await load(store.inner, "b")).count == 0

    try:
        await eventually(settled)
    finally:
        store.failures = store.lost = 0.0
        reading.cancel()
        await asyncio.wait([reading])
    assert seen == set(range(40))


@pytest.mark.parametrize("fault", ["failures", "conflicts"])
@memory
async def test_one_that_goes_while_the_store_fails_is_gone_and_its_leases_lapse(
    failing: Running, store: FaultyStore, clock: Clock, until: Until, fault: str
) -> None:
    await send(failing, "a", "b")
    async with websocket(failing, "b", lease=5) as peer:
        await peer.message()
        setattr(store, fault, 1.0)
    await nobody_left(failing, until)
    setattr(store, fault, 0.0)
    clock.skip(6)
    assert (await claim_one(failing, "b")).attempt == 2
