"""SIGTERM drains: waiting polls are answered, new work is refused, and the process is gone within five seconds."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.server.asks import metrics, ok, send
from tests.system.conftest import Dial, Live, Starting
from tests.system.raw import request
from tests.waiting import eventually

pytestmark = pytest.mark.both_loops

WITHIN = 10.0  # five seconds are promised; a machine that is busy with other tests may be slower


async def gone(relay: Live) -> int:
    """Wait for the process and return its exit code."""
    return await asyncio.to_thread(relay.relay.process.wait, 10)


async def waiting(relay: Live, count: int) -> None:
    async def reached() -> bool:
        return (await metrics(relay))["waiting_polls"] == count

    await eventually(reached)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_answers_those_who_wait_and_refuses_new_work(
    start_live: Starting, dial: Dial, number: signal.Signals
) -> None:
    relay = start_live()
    for agent in ("s", "r"):
        await relay.register(agent, agent_id=agent)
    await ok(relay.get("/poll/s"))
    polls = [asyncio.create_task(relay.get(f"/poll/{a}?wait=60&lease=60")) for a in ("s", "r", "r")]
    await waiting(relay, 3)
    held = await dial(relay.url)
    await held.ask(request("GET", "/healthz"))

    started = time.monotonic()
    relay.relay.process.send_signal(number)
    for status, body in await asyncio.wait_for(asyncio.gather(*polls), WITHIN):
        assert (status, body["messages"], body["deliveries"], body["count"]) == (200, [], [], 0)
    assert time.monotonic() - started < WITHIN

    for path, body in [
        ("/send", b'{"from_agent":"s","to_agent":"r","content":1}'),
        ("/delegate", b'{"from_agent":"s","to_agent":"r","task":"t"}'),
        ("/broadcast", b'{"from_agent":"s","content":"c"}'),
        ("/files", b'{"agent_id":"s","file_key":"k","content":"c"}'),
        ("/register", b'{"name":"new"}'),
    ]:
        answer = await held.ask(request("POST", path, body))
        assert (answer.status, answer.json["code"]) == (503, "draining"), path
        assert int(answer.headers["retry-after"]) >= 1
    health = await held.ask(request("GET", "/healthz"))
    assert (health.status, health.json["code"]) == (503, "draining")
    poll = await held.ask(request("GET", "/poll/r?wait=60&lease=60"))
    assert (poll.status, poll.json["count"]) == (200, 0)

    assert await gone(relay) == 0
    assert time.monotonic() - started < WITHIN


async def test_what_has_begun_may_be_finished_while_draining(start_live: Starting, dial: Dial) -> None:
    """Acks and answers of work that is under way are still taken."""
    relay = start_live()
    for agent in ("s", "r"):
        await relay.register(agent, agent_id=agent)
    await send(relay, "s", "r")
    (_, polled) = await relay.get("/poll/r?lease=60")
    held = await dial(relay.url)
    await held.ask(request("GET", "/healthz"))
    relay.relay.process.send_signal(signal.SIGTERM)
    receipt = polled["deliveries"][0]["receipt"]
    answer = await held.ask(request("POST", "/ack", b'{"agent_id":"r","receipts":["%s"]}' % receipt.encode()))
    assert (answer.status, answer.json["count"]) == (200, 1)
    assert await gone(relay) == 0


async def test_clients_that_hang_do_not_hold_up_the_end(start_live: Starting, dial: Dial) -> None:
    """Half a request line, half a body, a reply that nobody reads, an idle connection: gone in time all the same."""
    relay = start_live()
    for agent in ("s", "r"):
        await relay.register(agent, agent_id=agent)
    for _ in range(5):
        await send(relay, "s", "r", "x" * 700_000)
    line, body, reply, idle = [await dial(relay.url, receive_buffer=4096) for _ in range(4)]
    await line.send(b"GET /disc")
    await body.send(b"POST /send HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    await reply.send(request("GET", "/poll/r?lease=60&max=10"))
    await idle.ask(request("GET", "/healthz"))
    started = time.monotonic()
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await gone(relay) == 0
    assert time.monotonic() - started < WITHIN


async def test_an_idle_relay_is_gone_at_once(start_live: Starting) -> None:
    relay = start_live()
    started = time.monotonic()
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await gone(relay) == 0
    assert time.monotonic() - started < WITHIN


async def test_a_second_signal_ends_it_at_once(start_live: Starting, dial: Dial) -> None:
    relay = start_live()
    held = await dial(relay.url)
    await held.ask(request("GET", "/healthz"))
    relay.relay.process.send_signal(signal.SIGTERM)

    async def draining() -> bool:
        return (await held.ask(request("GET", "/healthz"))).status == 503

    await eventually(draining)
    started = time.monotonic()
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await gone(relay) != 0
    assert time.monotonic() - started < WITHIN
