"""SIGTERM drains: waiting polls are answered, new work is refused, and the process is gone within five seconds."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from tests.conftest import Serve
from tests.server.asks import metrics, ok, send
from tests.system.conftest import Dial, Live, Starting
from tests.system.raw import address, read_answer, request
from tests.virtual_time import pass_time
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


HEALTH = request("GET", "/healthz")


async def test_a_connection_of_no_agent_ends_with_a_reply_that_says_so(serve: Serve, dial: Dial) -> None:
    relay = await serve()
    held, agent = await dial(relay.url), await dial(relay.url)
    await held.ask(HEALTH)
    await agent.ask(request("POST", "/register", b'{"name":"a"}'))  # the relay does not end before this one leaves
    await relay.app.relay.drain()
    grace = asyncio.create_task(relay.app.grace())
    for _ in range(3):
        answer = await held.ask(HEALTH)
        assert (answer.status, answer.json["code"]) == (503, "draining")
        assert answer.headers["connection"] == "close"
        assert await held.reader.read() == b""
        held = await dial(relay.url)
    held.close()
    agent.close()
    await grace


@pytest.mark.virtual_time
async def test_clients_that_ask_on_get_each_reply(serve: Serve, dial: Dial) -> None:
    relay = await serve()
    await relay.register("a", agent_id="a")
    held, agent = await dial(relay.url), await dial(relay.url)
    await held.ask(HEALTH)
    await agent.ask(request("POST", "/heartbeat", b'{"agent_id":"a"}'))
    began = asyncio.get_running_loop().time()
    await relay.app.relay.drain()
    grace = asyncio.create_task(relay.app.grace())
    for _ in range(5):
        await pass_time(0.2)
        assert (await held.ask(HEALTH)).headers["connection"] == "close"
        held = await dial(relay.url)
    while (await agent.ask(request("GET", "/poll/a"))).headers.get("connection") != "close":
        await pass_time(0.05)
    assert asyncio.get_running_loop().time() - began >= 2, "the agent's connection stays until then"
    assert await agent.reader.read() == b""
    await grace


@pytest.mark.virtual_time
async def test_a_request_whose_first_bytes_have_come_is_answered(serve: Serve, dial: Dial) -> None:
    relay = await serve()
    held = await dial(relay.url)
    await held.ask(HEALTH)
    await held.send(HEALTH[:10])
    await relay.app.relay.drain()
    grace = asyncio.create_task(relay.app.grace())
    await pass_time(1)
    assert (await held.ask(HEALTH[10:])).status == 503
    await grace


async def test_a_connection_that_has_just_come_is_answered_as_the_relay_stops_to_listen(serve: Serve) -> None:
    relay = await serve()
    await relay.app.relay.drain()
    with socket.create_connection(address(relay.url)) as late:
        late.sendall(HEALTH)
        await relay.app.grace()
        late.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=late)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
    assert (answer.status, answer.headers["connection"]) == (503, "close")


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("asked", "stays"),
    [
        (request("GET", "/files?agent_id=a"), True),
        (request("GET", "/blobs", ClawLink_Agent="a"), True),
        (request("GET", "/discover", Authorization="Bearer t"), True),
        (request("POST", "/register", b'{"name":"b"}'), True),
        (request("GET", "/blobs"), False),
        (request("GET", "/discover"), False),
        (request("GET", "/admin/overview"), False),
        (request("GET", "/nowhere"), False),
    ],
)
async def test_a_connection_stays_that_an_agent_may_use(serve: Serve, dial: Dial, asked: bytes, stays: bool) -> None:
    relay = await serve()
    await relay.register("a", agent_id="a")
    held = await dial(relay.url)
    await held.ask(asked)
    await relay.app.relay.drain()
    grace = asyncio.create_task(relay.app.grace())
    await pass_time(1)
    if stays:
        assert (await held.ask(request("GET", "/poll/a"))).status == 200
    else:
        assert await held.reader.read() == b""
    await grace


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
