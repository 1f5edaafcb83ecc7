"""SIGTERM drains: waiting polls are answered, new work is refused, and the process is gone within five seconds."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.server.asks import metrics, ok, send
from tests.system.conftest import Dial, Live, Starting
from tests.system.raw import request
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.both_loops

# Five seconds are promised, and a machine that is busy with other tests may be slower. It is less than the wait of the
# polls here, and than the time that a relay gives a request which does not come to its end.
WITHIN = 25.0


async def gone(relay: Live, within: float = PATIENCE) -> int:
    """Wait for the process and return its exit code."""
    return await asyncio.to_thread(relay.relay.process.wait, within)


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
    await held.ask(request("GET", "/poll/s"))

    relay.relay.process.send_signal(number)
    answered = await asyncio.wait_for(asyncio.gather(*polls), WITHIN)
    # The relay is there for two seconds more, so all is asked at once.
    asks = [
        ("/send", b'{"from_agent":"s","to_agent":"r","content":1}'),
        ("/delegate", b'{"from_agent":"s","to_agent":"r","task":"t"}'),
        ("/broadcast", b'{"from_agent":"s","content":"c"}'),
        ("/files", b'{"agent_id":"s","file_key":"k","content":"c"}'),
        ("/register", b'{"name":"new"}'),
    ]
    more = (request("GET", "/healthz"), request("GET", "/poll/r?wait=60&lease=60"))
    await held.send(b"".join((*(request("POST", path, body) for path, body in asks), *more)))
    for path, _ in asks:
        answer = await held.answer()
        assert (answer.status, answer.json["code"]) == (503, "draining"), path
        assert int(answer.headers["retry-after"]) >= 1
    health, poll = await held.answer(), await held.answer()
    assert (health.status, health.json["code"]) == (503, "draining")
    assert (poll.status, poll.json["count"]) == (200, 0)
    for status, body in answered:
        assert (status, body["messages"], body["deliveries"], body["count"]) == (200, [], [], 0)

    assert await gone(relay, WITHIN) == 0


async def test_what_has_begun_may_be_finished_while_draining(start_live: Starting, dial: Dial) -> None:
    """Acks and answers of work that is under way are still taken."""
    relay = start_live()
    for agent in ("s", "r"):
        await relay.register(agent, agent_id=agent)
    await send(relay, "s", "r")
    (_, polled) = await relay.get("/poll/r?lease=60")
    held = await dial(relay.url)
    await held.ask(request("POST", "/heartbeat", b'{"agent_id":"r"}'))
    receipt = polled["deliveries"][0]["receipt"]
    polling = asyncio.create_task(relay.get("/poll/s?wait=60&lease=60"))
    await waiting(relay, 1)
    relay.relay.process.send_signal(signal.SIGTERM)
    await polling  # it drains
    answer = await held.ask(request("POST", "/ack", b'{"agent_id":"r","receipts":["%s"]}' % receipt.encode()))
    assert (answer.status, answer.json["count"]) == (200, 1)
    assert await gone(relay) == 0


async def test_an_idle_connection_over_which_no_agent_acted_ends_first(start_live: Starting, dial: Dial) -> None:
    relay = start_live()
    for agent in ("s", "r"):
        await relay.register(agent, agent_id=agent)
    await send(relay, "s", "r")
    health, unused, agent_at = [await dial(relay.url) for _ in range(3)]
    await health.ask(request("GET", "/healthz"))
    polled = await agent_at.ask(request("GET", "/poll/r?lease=60"))
    receipt = polled.json["deliveries"][0]["receipt"]
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(health.reader.read(), WITHIN) == b""
    answer = await agent_at.ask(request("POST", "/ack", b'{"agent_id":"r","receipts":["%s"]}' % receipt.encode()))
    assert (answer.status, answer.json["count"]) == (200, 1), "the agent is still heard"
    ends = [asyncio.create_task(one.reader.read()) for one in (unused, agent_at)]
    done, _ = await asyncio.wait(ends, timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
    assert ends[0] in done
    assert await gone(relay, WITHIN) == 0


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
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await gone(relay, WITHIN) == 0


async def test_an_idle_relay_ends(start_live: Starting) -> None:
    relay = start_live()
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await gone(relay) == 0


async def test_a_second_signal_ends_it_at_once(start_live: Starting, dial: Dial) -> None:
    """Without it the relay would go on for two seconds, since an agent is connected, and end with 0."""
    relay = start_live()
    await relay.register("r", agent_id="r")
    await (await dial(relay.url)).ask(request("POST", "/heartbeat", b'{"agent_id":"r"}'))
    polling = asyncio.create_task(relay.get("/poll/r?wait=60&lease=60"))
    await waiting(relay, 1)
    relay.relay.process.send_signal(signal.SIGTERM)
    await polling  # it drains
    relay.relay.process.send_signal(signal.SIGTERM)
    assert await gone(relay) != 0
