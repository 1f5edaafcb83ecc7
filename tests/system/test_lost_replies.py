"""A reply that is lost after the write happened: the client's retry creates nothing twice.

Between client and relay stands a proxy that passes the request on, takes the relay's reply, and hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.errors import RelayUnreachable
from tests.conftest import Running, Serve
from tests.server.asks import ack, claim, delegate, metrics, nothing_due, ok, poll, send
from tests.system.raw import Clock, address

_CUTS = (1, 9, 12, 15, 17, *range(30, 160, 3))

stores = pytest.mark.parametrize("store_kind", ["memory", "faulty"])


class Lossy:
    """A proxy that passes requests on, one a connection, and swallows the first replies."""

    def __init__(self, url: str) -> None:
        self._to = address(url)
        self.url = ""
        self.swallow = 0
        self.cut = 0  # the bytes of a swallowed reply that pass
        self.passed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            stated = re.search(rb"(?i)content-length: *(\d+)", head)
            length = int(stated[1]) if stated else 0
            body = await reader.readexactly(length)
            up, down = await asyncio.open_connection(*self._to)
            down.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1).replace(b"keep-alive", b"close") + body)
            try:
                reply = await up.read()
            finally:
                down.close()
            self.passed += 1
            if self.swallow:
                self.swallow -= 1
                writer.write(reply[: self.cut])
            else:
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def relay(serve: Serve, clock: Clock) -> Running:
    return await serve(clock=clock)


@pytest.fixture
async def proxy(relay: Running) -> AsyncIterator[Lossy]:
    lossy = Lossy(relay.url)
    server = await asyncio.start_server(lossy.serve, "127.0.0.1", 0)
    lossy.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    yield lossy
    server.close()
    await server.wait_closed()


@pytest.fixture
async def client(proxy: Lossy, relay: Running) -> AsyncIterator[Client]:
    """A client behind the proxy, registered as ``s``; ``r`` is there too."""
    await relay.register("sender", agent_id="s")
    await relay.register("receiver", agent_id="r")
    await poll(relay, "s")
    with Client(proxy.url, agent_id="s", backoff=Backoff(tries=4, first=0.001, most=0.01)) as client:
        yield client


@contextlib.asynccontextmanager
async def leaving(client: Client) -> AsyncIterator[Client]:
    """Let a client leave at the end, in a thread: this one has to pass its request on."""
    try:
        yield client
    finally:
        await asyncio.to_thread(client.__exit__, None, None, None)


async def through(proxy: Lossy, call: Callable[[], Any], *, lost: int = 2) -> Any:
    """Run a client's call while its first replies are lost, and check that it had to repeat."""
    proxy.swallow, proxy.passed = lost, 0
    answer = await asyncio.to_thread(call)
    assert proxy.passed == lost + 1
    return answer


@stores
async def test_a_delegation_is_stored_once(relay: Running, proxy: Lossy, client: Client) -> None:
    done = await through(proxy, lambda: client.delegate("r", "count"))
    (got,) = await claim(relay, "r")
    assert got.message["message_id"] == done.message_id
    assert (await metrics(relay))["stored_total"] == 1
    await nothing_due(relay, "r")


@stores
async def test_a_delegation_to_whoever_can_is_stored_once(relay: Running, proxy: Lossy, client: Client) -> None:
    await relay.register("receiver", agent_id="r", capabilities=["count"])
    done = await through(proxy, lambda: client.delegate(None, "count", capability="count"))
    (got,) = await claim(relay, "r")
    assert got.message["message_id"] == done.message_id
    await nothing_due(relay, "r")


@stores
async def test_a_cancel_is_told_once_and_a_repeat_answers_the_same(
    relay: Running, proxy: Lossy, client: Client
) -> None:
    task_id = await delegate(relay, "s", "r")
    await claim(relay, "r")
    done = await through(proxy, lambda: client.cancel(task_id))
    assert (done.status, done.withdrawn) == ("cancelled", False)
    (update,) = await claim(relay, "r")
    assert (update.message["type"], update.message["status"]) == ("task_update", "cancelled")
    await nothing_due(relay, "r")


@stores
async def test_an_answer_to_a_question_arrives_once(relay: Running, proxy: Lossy, client: Client) -> None:
    task_id = await delegate(relay, "s", "r")
    await claim(relay, "r")
    await ok(relay.post("/respond", {"from_agent": "r", "message_id": task_id, "status": "input_required"}))
    done = await through(proxy, lambda: client.answer(task_id, "this"))
    (got,) = await claim(relay, "r")
    assert (got.message["message_id"], got.message["content"]) == (done.message_id, "this")
    await nothing_due(relay, "r")


@stores
async def test_a_message_is_stored_once(relay: Running, proxy: Lossy, client: Client) -> None:
    done = await through(proxy, lambda: client.send("r", {"any": ["thing"]}))
    (got,) = await claim(relay, "r")
    assert got.message["message_id"] == done.message_id
    await nothing_due(relay, "r")


@stores
async def test_a_broadcast_reaches_each_once(relay: Running, proxy: Lossy, client: Client) -> None:
    others = ["r", *[await relay.register(f"other-{n}") for n in range(4)]]
    done = await through(proxy, lambda: client.broadcast("news", topic="t", tags=["x"]))
    assert (done.recipients, done.refused) == (5, 0)
    for agent_id in others:
        (got,) = await claim(relay, agent_id)
        assert got.message["message_id"] == done.message_id
        await nothing_due(relay, agent_id)
    assert (await metrics(relay))["broadcasts_total"] == 1


@stores
@pytest.mark.parametrize("status", ["completed", "failed", "rejected", "in_progress", "input_required"])
async def test_a_response_arrives_once(relay: Running, proxy: Lossy, client: Client, status: str) -> None:
    task_id = await delegate(relay, "r", "s")
    done = await through(proxy, lambda: client.respond(task_id, {"n": 1}, status=status))
    (got,) = await claim(relay, "r")
    assert (got.message["response_id"], got.message["status"]) == (done.response_id, status)
    await nothing_due(relay, "r")


@stores
async def test_a_register_makes_one_agent_and_gives_the_same_key(relay: Running, proxy: Lossy, client: Client) -> None:
    async with leaving(Client(proxy.url, backoff=Backoff(tries=4, first=0.001))) as new:
        done = await through(proxy, lambda: new.register("new"))
        assert done.agent_key is not None
        assert (await ok(relay.get("/discover?name=new&status=all")))["count"] == 1
        headers = {"ClawLink-Agent-Key": done.agent_key}
        await ok(relay.post("/heartbeat", {"agent_id": done.agent.agent_id}, headers=headers))


@stores
async def test_a_resumed_claim_keeps_its_key(relay: Running, proxy: Lossy) -> None:
    async with leaving(Client(proxy.url, backoff=Backoff(tries=4, first=0.001))) as new:
        first = await asyncio.to_thread(lambda: new.register("new"))
        again = await through(proxy, lambda: new.register("new", capabilities=["more"]))
        assert again.agent.agent_id == first.agent.agent_id
        assert new.agent_key == first.agent_key
        await asyncio.to_thread(new.heartbeat)


@stores
async def test_a_file_gets_one_version(relay: Running, proxy: Lossy, client: Client) -> None:
    assert (await through(proxy, lambda: client.put_file("k", b"one"))).version == 1
    assert (await through(proxy, lambda: client.put_file("k", b"two"))).version == 2
    assert (await through(proxy, lambda: client.put_file("k", b"three", if_version=2))).version == 3
    read = await ok(relay.get("/files/k"))
    assert (read["content"], read["version"]) == ("three", 3)


@stores
async def test_an_ack_counts_once(relay: Running, proxy: Lossy, client: Client) -> None:
    await send(relay, "r", "s")
    (got,) = await claim(relay, "s")
    done = await through(proxy, lambda: client.ack([got.receipt]))
    assert [r.status for r in done.results] == ["acked"]
    assert (await metrics(relay))["acked_total"] == 1


@stores
async def test_a_poll_whose_reply_is_lost_gives_the_messages_to_a_later_one(
    relay: Running, proxy: Lossy, client: Client, clock: Clock
) -> None:
    """Messages of the lost reply stay leased, and come back when the lease is over: nothing is lost."""
    await send(relay, "r", "s")
    assert await through(proxy, lambda: client.poll(lease=60), lost=1) == []
    clock.skip(60)
    got = await through(proxy, lambda: client.poll(wait=10, lease=60), lost=0)
    assert [g.attempt for g in got] == [2]
    await ack(relay, "s", got[0].receipt)


async def test_a_reply_that_breaks_off_anywhere_is_a_lost_one(relay: Running, proxy: Lossy, client: Client) -> None:
    """http.client takes what breaks off in its head for an empty reply."""
    for cut in _CUTS:
        proxy.cut = cut
        done = await through(proxy, lambda: client.send("r", "x"))
        (got,) = await claim(relay, "r")
        assert got.message["message_id"] == done.message_id, cut
        await ack(relay, "r", got.receipt)


async def test_a_file_that_breaks_off_is_never_taken_for_an_empty_one(proxy: Lossy, client: Client) -> None:
    await asyncio.to_thread(lambda: client.put_file("k", b"content"))
    for cut in _CUTS:
        proxy.cut = cut
        assert (await through(proxy, lambda: client.get_file("k"))).content == b"content", cut


async def test_what_is_not_safe_to_repeat_is_not_repeated(relay: Running, proxy: Lossy, client: Client) -> None:
    await asyncio.to_thread(lambda: client.put_file("k", b"one"))
    proxy.swallow, proxy.passed = 1, 0
    with pytest.raises(RelayUnreachable):
        await asyncio.to_thread(lambda: client.delete_file("k"))
    assert proxy.passed == 1
    proxy.swallow, proxy.passed = 1, 0
    with pytest.raises(RelayUnreachable):
        await asyncio.to_thread(client.leave)
    assert proxy.passed == 1


async def test_a_relay_that_never_answers_is_given_up_after_the_last_try(proxy: Lossy, client: Client) -> None:
    proxy.swallow, proxy.passed = 100, 0
    with contextlib.suppress(RelayUnreachable):
        await asyncio.to_thread(lambda: client.send("r", "x"))
    assert proxy.passed == 4
