"""A consumer may disappear at any moment, and no message is lost with it."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import ack, claim, claim_one, metrics, nothing_due, ok, poll, send, status_of
from tests.system.raw import Clock, Connection, address, connect, exchange, request
from tests.waiting import eventually

LEASE = 60
HangUp = Callable[[Connection], None]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

hang_ups = pytest.mark.parametrize("hang_up", [Connection.close, Connection.reset], ids=["closed", "reset"])
polls = pytest.mark.parametrize("lease", ["", f"&lease={LEASE}"], ids=["old-poll", "leased"])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def relay(serve: Serve, clock: Clock) -> Running:
    relay = await serve(clock=clock, limits={"lease": LEASE})
    await relay.register("sender", agent_id="s")
    await relay.register("receiver", agent_id="r")
    await poll(relay, "s")
    return relay


def waiting(relay: Running) -> int:
    """Count the polls that wait at this moment."""

    return relay.app.relay.waiting


@polls
@hang_ups
@pytest.mark.both_loops
async def test_a_poll_cancelled_while_waiting_takes_nothing(
    relay: Running, until: Until, hang_up: HangUp, lease: str
) -> None:
    connection = await connect(relay.url)
    await connection.send(request("GET", f"/poll/r?wait=30{lease}"))
    await until(lambda: waiting(relay) == 1)
    hang_up(connection)
    await until(lambda: waiting(relay) == 0)
    id = await send(relay, "s", "r")
    assert (await status_of(relay, "s", id))["attempts"] == 0
    (got,) = await claim(relay, "r")
    assert (got.message["message_id"], got.attempt) == (id, 1)


@hang_ups
async def test_a_message_that_comes_as_its_consumer_goes_is_not_lost(
    relay: Running, until: Until, clock: Clock, hang_up: HangUp
) -> None:
    """The message and the hang-up race; whoever wins, it comes to the next poll, at the latest after its lease."""
    for _ in range(20):
        connection = await connect(relay.url)
        await connection.send(request("GET", f"/poll/r?wait=30&lease={LEASE}"))
        await until(lambda: waiting(relay) == 1)
        sending = asyncio.create_task(send(relay, "s", "r"))
        await asyncio.sleep(0)
        hang_up(connection)
        id = await sending
        await until(lambda: waiting(relay) == 0)
        clock.skip(LEASE)
        got = await claim_one(relay, "r")
        assert got.message["message_id"] == id
        await ack(relay, "r", got.receipt)


@polls
@hang_ups
async def test_a_consumer_gone_before_its_reply_loses_nothing(
    relay: Running, clock: Clock, hang_up: HangUp, lease: str
) -> None:
    """The relay may notice and give it back at once, or not notice: then a claim is due after its lease.

    An old poll is settled only if its connection outlasts the reply, and this one's does not.
    """

    async def comes_again() -> Any:
        clock.skip(LEASE)
        return (await poll(relay, "r", lease=LEASE))["deliveries"]

    for _ in range(20):
        id = await send(relay, "s", "r")
        connection = await connect(relay.url)
        connection.writer.write(request("GET", f"/poll/r?max=100{lease}"))
        hang_up(connection)
        (held,) = await eventually(comes_again)
        assert held["message_id"] == id
        await ack(relay, "r", held["receipt"])


@pytest.mark.both_loops
async def test_an_old_poll_killed_with_its_reply_unread_loses_nothing(relay: Running, until: Until) -> None:
    """A process that dies leaves the reply unread in its socket; that resets the connection, and the relay sees it."""
    before = relay.app.connections
    for _ in range(5):
        id = await send(relay, "s", "r")
        with socket.create_connection(address(relay.url)) as dying:
            dying.sendall(request("GET", "/poll/r"))
            await asyncio.to_thread(select.select, [dying], [], [], 5)
        await until(lambda: relay.app.connections == before)
        (got,) = await claim(relay, "r")
        assert (got.message["message_id"], got.attempt) == (id, 1)
        await ack(relay, "r", got.receipt)


async def test_an_old_poll_that_has_read_its_reply_and_closes_is_settled_at_once(relay: Running, until: Until) -> None:
    before = relay.app.connections
    id = await send(relay, "s", "r")
    assert (await exchange(relay.url, request("GET", "/poll/r"))).json["messages"][0]["message_id"] == id
    await until(lambda: relay.app.connections == before)
    assert (await status_of(relay, "s", id))["state"] == "acked"


def keep_small(relay: Running) -> None:
    """Bound what the system takes of replies: it lets that grow to megabytes where it has found the line to be fast."""
    assert relay.app._server is not None
    for connection in relay.app._server.connections:
        if connection.transport is not None:
            taken = connection.transport.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)


@polls
@hang_ups
async def test_a_consumer_killed_halfway_through_its_reply_gives_all_back_at_once(
    relay: Running, until: Until, hang_up: HangUp, lease: str
) -> None:
    """Three megabytes do not fit into the sockets' buffers, so the relay is still writing when the reader goes."""
    ids = [await send(relay, "s", "r", "x" * 500_000, priority="high") for _ in range(6)]
    before = relay.app.connections
    connection = await connect(relay.url, receive_buffer=4096)
    await until(lambda: relay.app.connections == before + 1)
    keep_small(relay)
    await connection.send(request("GET", f"/poll/r?max=100{lease}"))
    await connection.reader.readexactly(1000)
    await nothing_due(relay, "r")
    hang_up(connection)
    got = await claim(relay, "r", 6)
    assert [g.message["message_id"] for g in got] == ids
    assert {g.attempt for g in got} == {1}
    assert (await metrics(relay))["released_total"] == 6


async def test_a_consumer_that_dies_after_the_reply_is_followed_by_another_after_the_lease(
    relay: Running, clock: Clock
) -> None:
    id = await send(relay, "s", "r")
    first = await claim_one(relay, "r", lease=LEASE)
    await nothing_due(relay, "r")
    clock.skip(LEASE - 1)
    await nothing_due(relay, "r")
    clock.skip(1)
    second = await claim_one(relay, "r", lease=LEASE)
    assert second.message["message_id"] == first.message["message_id"] == id
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.receipt != second.receipt


@pytest.mark.both_loops
async def test_a_lapsed_lease_wakes_a_poll_that_waits(serve: Serve) -> None:
    """Nobody publishes anything when a lease ends: the waiting poll knows itself when to look again."""
    relay = await serve(limits={"lease": 5})
    await relay.register("sender", agent_id="s")
    await relay.register("receiver", agent_id="r")
    await send(relay, "s", "r")
    started = asyncio.get_running_loop().time()
    assert len((await poll(relay, "r", lease=5))["messages"]) == 1
    # Its session gives up after 30 seconds, so the end of the wait brings nothing.
    reply = await poll(relay, "r", lease=60, wait=60)
    assert [held["attempt"] for held in reply["deliveries"]] == [2]
    assert asyncio.get_running_loop().time() - started > 4.9


async def test_what_was_printed_but_not_acked_comes_again_and_can_be_acked_late(relay: Running, clock: Clock) -> None:
    """Printed, then killed before the ack: it comes again. A late ack of the first lease finds it taken."""
    await send(relay, "s", "r")
    first = await claim_one(relay, "r", lease=LEASE)
    clock.skip(LEASE + 1)
    second = await claim_one(relay, "r", lease=LEASE)
    (late,) = (await ack(relay, "r", first.receipt))["results"]
    assert late["status"] == "lease_lost"
    (done,) = (await ack(relay, "r", second.receipt))["results"]
    assert done["status"] == "acked"
    clock.skip(LEASE + 1)
    await nothing_due(relay, "r")


async def test_a_late_ack_still_counts_while_nobody_else_has_claimed(relay: Running, clock: Clock) -> None:
    await send(relay, "s", "r")
    got = await claim_one(relay, "r", lease=LEASE)
    clock.skip(LEASE + 1)
    (done,) = (await ack(relay, "r", got.receipt))["results"]
    assert done["status"] == "acked"
    await nothing_due(relay, "r")


@hang_ups
async def test_an_ack_whose_sender_is_gone_counts(relay: Running, until: Until, clock: Clock, hang_up: HangUp) -> None:
    await send(relay, "s", "r")
    got = await claim_one(relay, "r", lease=LEASE)
    body = b'{"agent_id":"r","receipts":["%s"]}' % got.receipt.encode()
    connection = await connect(relay.url)
    await connection.ask(request("POST", "/ack", body))
    hang_up(connection)
    (again,) = (await ack(relay, "r", got.receipt))["results"]
    assert again["status"] == "acked"
    clock.skip(LEASE + 1)
    await nothing_due(relay, "r")


async def test_two_consumers_of_one_mailbox_never_hold_the_same_message(relay: Running) -> None:
    ids = {await send(relay, "s", "r", n) for n in range(40)}
    replies = await asyncio.gather(*(poll(relay, "r", lease=LEASE, max=3) for _ in range(20)))
    seen = [m["message_id"] for reply in replies for m in reply["messages"]]
    assert len(seen) == len(set(seen)) == 40
    assert set(seen) == ids


@pytest.mark.both_loops
async def test_an_agent_that_leaves_while_it_waits_ends_its_poll(relay: Running, until: Until) -> None:
    polling = asyncio.create_task(relay.get("/poll/r?wait=60&lease=60"))
    await until(lambda: waiting(relay) == 1)
    await ok(relay.ask("DELETE", "/agents/r"))
    status, body = await asyncio.wait_for(polling, 15)
    assert (status, body["code"]) == (404, "unknown_agent")
