"""The websocket client against a real relay: messages, frames and their answers, and every way in which it ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, web

from clawlink import errors
from clawlink.client.aio import AsyncClient
from clawlink.client.calls import Claimed
from clawlink.client.retry import Backoff
from clawlink.client.stream import NoWebsocket, Stream
from clawlink.domain.message import PlainMessage
from clawlink.protocol import replies
from tests.client.conftest import Scripted, http
from tests.client.proxy import Proxy
from tests.client.restartable import Restartable
from tests.conftest import Serve
from tests.tables import each
from tests.waiting import PATIENCE, cancelled_after


@pytest.fixture
async def ann(restartable: Restartable) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(restartable.url) as client:
        await client.register(f"Ann {uuid.uuid4().hex}", subscriptions=[])
        yield client


@pytest.fixture
async def bob(restartable: Restartable) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(restartable.url) as client:
        await client.register(f"Bob {uuid.uuid4().hex}", subscriptions=[])
        yield client


@pytest.fixture
async def stuck() -> AsyncIterator[str]:
    """The address of a relay that makes a websocket, and then reads nothing."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        request.transport.pause_reading()
        await over.wait()
        return socket

    over = asyncio.Event()
    app = web.Application()
    app.router.add_get("/ws/a", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    over.set()
    await runner.cleanup()


@pytest.fixture
async def pinging() -> AsyncIterator[str]:
    """The address of a relay that makes a websocket, pings its peer, and then waits for it."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.ping()
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/ws/a", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def proxy(restartable: Restartable) -> Iterator[Proxy]:
    made = Proxy(restartable.url)
    yield made
    made.close()


def of(client: AsyncClient) -> str:
    assert client.agent_id is not None
    return client.agent_id


async def said(stream: Stream, count: int = 1) -> list[Claimed]:
    """Return the next plain messages."""
    found: list[Claimed] = []
    while len(found) < count:
        claimed = await asyncio.wait_for(stream.__anext__(), 30)
        if isinstance(claimed.message, PlainMessage):
            found.append(claimed)
    return found


@each("name", ["heartbeat", "delegate", "respond", "send", "broadcast", "ack", "nack", "extend"])
def test_a_method_of_the_stream_is_that_of_the_client(name: str) -> None:
    one, other = inspect.signature(getattr(AsyncClient, name)), inspect.signature(getattr(Stream, name))
    assert list(other.parameters)[1:] == list(one.parameters)[1:]


async def test_a_stream_that_was_not_opened_says_how(ann: AsyncClient) -> None:
    stream = ann.stream()
    for use in (stream.__anext__, stream.heartbeat, stream.ping, lambda: stream.ack([])):
        with pytest.raises(RuntimeError, match=r"open it first: async with client\.stream\(\)"):
            await asyncio.wait_for(use(), 30)
    await stream.close()


async def test_messages_come_and_are_acked(ann: AsyncClient, bob: AsyncClient) -> None:
    async with bob.stream() as stream:
        sent = await ann.send(of(bob), {"k": [1]}, thread="t")
        (claimed,) = await said(stream)
        assert (claimed.message_id, claimed.attempt) == (sent.message_id, 1)
        assert claimed.raw["content"] == {"k": [1]}
        assert "delivery" not in claimed.raw
        done = await stream.ack([claimed.receipt])
        assert (done.count, done.results[0].message_id) == (1, sent.message_id)
        assert (await ann.message(sent.message_id, wait=5)).state == "acked"


async def test_what_comes_by_stream_is_what_comes_by_poll(ann: AsyncClient, bob: AsyncClient) -> None:
    sent = await ann.delegate(of(bob), "count", context={"to": 3}, deadline=100)
    async with bob.stream() as stream:
        async for one in stream:
            if one.message_id == sent.message_id:
                await stream.nack([one.receipt])
                break
    (again,) = [one for one in await bob.poll(wait=5) if one.message_id == sent.message_id]
    assert (one.message, one.raw) == (again.message, again.raw)


async def test_every_frame_is_answered_as_its_request_is(ann: AsyncClient, bob: AsyncClient) -> None:
    async with ann.stream() as mine, bob.stream() as his:
        assert (await mine.heartbeat()).status == "ok"
        assert (await mine.ping()).status == "pong"
        assert (await his.subscribe(["build.*"])).subscriptions == ["build.*"]
        assert isinstance(await mine.broadcast("green", topic="build.main"), replies.BroadcastSent)
        task = await mine.delegate(of(bob), "count")
        assert isinstance(task, replies.Delegated)
        kinds: dict[str, Claimed] = {}
        while len(kinds) < 2:
            claimed = await asyncio.wait_for(his.__anext__(), 30)
            kinds[claimed.raw["type"]] = claimed
        assert set(kinds) == {"knowledge_broadcast", "task_delegation"}
        receipt = kinds["task_delegation"].receipt
        assert (await his.extend([receipt], lease=600)).count == 1
        answered = await his.respond(task.message_id, {"n": 3}, receipt=receipt)
        assert answered.task_status == "completed"
        with pytest.raises(errors.WrongState):
            await his.respond(task.message_id, {"n": 4})


async def test_errors_are_the_classes_that_the_relay_raises(ann: AsyncClient, bob: AsyncClient) -> None:
    async with ann.stream() as stream:
        with pytest.raises(errors.UnknownAgent) as unknown:
            await stream.send("nobody", 1)
        assert unknown.value.field == "to_agent"
        with pytest.raises(errors.BadRequest) as wrong:
            await stream.subscribe(["*.*"])
        assert wrong.value.field == "subscriptions[0]"
        await stream.send(of(bob), 1, key="same")
        with pytest.raises(errors.KeyReused):
            await stream.send(of(bob), 2, key="same")
        assert (await stream.ping()).status == "pong"


async def test_a_frame_that_the_relay_cannot_read_is_refused_like_any_other(ann: AsyncClient, bob: AsyncClient) -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    async with ann.stream() as stream:
        asked = (stream.send(of(bob), content) for content in (1, deep, 2))
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in done] == [replies.Sent, errors.BadRequest, replies.Sent]


async def test_many_frames_are_under_way_at_once_and_in_order(ann: AsyncClient, bob: AsyncClient) -> None:
    async with ann.stream() as mine, bob.stream(credit=5) as his:
        await asyncio.gather(*(mine.send(of(bob), n) for n in range(200)))
        come = []
        for _ in range(40):
            some = await said(his, 5)
            come += [one.raw["content"] for one in some]
            await his.ack([one.receipt for one in some])
    assert come == list(range(200))


async def test_acks_of_one_turn_go_together_and_each_gets_its_own_answer(ann: AsyncClient, bob: AsyncClient) -> None:
    async with bob.stream(credit=100) as stream:
        for n in range(3):
            await ann.send(of(bob), n)
        claimed = await said(stream, 3)
        frames: list[bytes] = []
        send = stream._socket.send_frame

        async def counting(data: bytes, *args: object, **options: object) -> None:
            frames.append(data)
            await send(data, *args, **options)  # type: ignore[arg-type]

        stream._socket.send_frame = counting  # type: ignore[method-assign, assignment]
        one, two, none = await asyncio.gather(
            stream.ack([claimed[0].receipt]),
            stream.ack([claimed[1].receipt, claimed[2].receipt]),
            stream.ack(["nonsense"]),
        )
        assert [len(done.results) for done in (one, two, none)] == [1, 2, 1]
        assert [done.count for done in (one, two, none)] == [1, 2, 0]
        assert len(frames) == 1
        many = await asyncio.gather(*(stream.ack(["nonsense"] * 400) for _ in range(4)))
        assert [len(done.results) for done in many] == [400] * 4
        assert len(frames) == 3  # a frame takes a thousand


async def test_what_was_not_acked_comes_again_on_the_next_stream(ann: AsyncClient, bob: AsyncClient) -> None:
    await ann.send(of(bob), "hello")
    async with bob.stream() as stream:
        (first,) = await said(stream)
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    with pytest.raises(errors.RelayUnreachable):
        await stream.ping()
    async with bob.stream() as stream:
        (again,) = await said(stream)
    assert again.message_id == first.message_id
    assert again.receipt != first.receipt


async def test_the_token_goes_with_the_handshake(guarded: str) -> None:
    async with AsyncClient(guarded, token="schlüssel-☃") as client:
        await client.register(f"Tok {uuid.uuid4().hex}")
        async with client.stream() as stream:
            assert (await stream.ping()).status == "pong"
        async with AsyncClient(guarded, token="wrong", agent_id=of(client)) as other:
            with pytest.raises(errors.NotAuthenticated):
                await other.stream().open()
        async with AsyncClient(guarded, token="schlüssel-☃", agent_id=of(client)) as keyless:
            with pytest.raises(errors.NotAllowed):
                await keyless.stream().open()


async def test_a_handshake_that_is_refused_says_why(ann: AsyncClient, restartable: Restartable) -> None:
    async with AsyncClient(restartable.url, agent_id="nobody") as nobody:
        with pytest.raises(errors.UnknownAgent):
            await nobody.stream().open()
    with pytest.raises(errors.BadRequest) as wrong:
        await ann.stream(credit=0).open()
    assert wrong.value.field == "credit"
    async with AsyncClient(restartable.url) as stranger:
        with pytest.raises(errors.BadRequest, match="register first"):
            await stranger.stream().open()
    restartable.stop()
    with pytest.raises(errors.RelayUnreachable):
        await ann.stream().open()


@pytest.mark.parametrize(
    "reply",
    [
        http("200 OK", "<html>hello</html>"),
        http("403 Forbidden", "<html>no websockets here</html>"),
        http("404 Not Found", '{"error":"no such address","code":"unknown_route"}'),
        http("400 Bad Request", '{"error":"this is a websocket","code":"bad_request","field":"Upgrade"}'),
        http("301 Moved", "", "Location: https://elsewhere.example/"),
        http("307 Temporary Redirect", "", "Location: http://127.0.0.1:9/"),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: nothing\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_what_answers_but_makes_no_websocket_is_said_to_make_none(scripted: Scripted, reply: bytes) -> None:
    scripted.script = [reply]
    async with AsyncClient(scripted.url, agent_id="a") as client:
        with pytest.raises(NoWebsocket):
            await client.stream().open()


async def test_what_is_no_relay_behind_the_websocket_is_said_to_be_none(serve: Serve) -> None:
    import aiohttp.web

    async def nonsense(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        await socket.receive()
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/ws/a", nonsense)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with AsyncClient(url, agent_id="a") as client, client.stream() as stream:
            with pytest.raises(errors.NotARelay):
                await stream.__anext__()
    finally:
        await runner.cleanup()


async def test_a_connection_that_is_cut_fails_all_that_waits(ann: AsyncClient, proxy: Proxy) -> None:
    options = {"agent_id": ann.agent_id, "agent_key": ann.agent_key}
    async with AsyncClient(proxy.url, **options) as client, client.stream() as stream:  # type: ignore[arg-type]
        await stream.ping()
        waiting = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(errors.RelayUnreachable):
            await asyncio.wait_for(waiting, 30)
        for late in (stream.ping(), stream.ack(["r"]), stream.heartbeat()):
            with pytest.raises(errors.RelayUnreachable):
                await late
        with pytest.raises(errors.RelayUnreachable):
            await stream.__anext__()


async def test_a_connection_that_ends_at_the_answer_to_a_ping_fails_all_that_waits(
    pinging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is after the machine has slept: the ping is read, and the connection has ended since."""

    async def ended(*_: object) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr("aiohttp.ClientWebSocketResponse.pong", ended)
    async with AsyncClient(pinging, agent_id="a") as client, client.stream() as stream:
        with pytest.raises(errors.RelayUnreachable, match=r"ended: the relay is gone, or has closed it$"):
            await asyncio.wait_for(stream.__anext__(), 30)


async def test_silence_is_not_waited_for_for_ever(ann: AsyncClient, proxy: Proxy) -> None:
    proxy.websockets = "mute"
    options = {"agent_id": ann.agent_id, "agent_key": ann.agent_key, "timeout": 0.3}
    async with AsyncClient(proxy.url, **options) as client, client.stream() as stream:  # type: ignore[arg-type]
        with pytest.raises(errors.RelayUnreachable, match=r"0\.3 s"):
            await stream.ping()
    proxy.websockets = "hang"
    async with AsyncClient(proxy.url, **options) as client:  # type: ignore[arg-type]
        with pytest.raises(errors.RelayUnreachable):
            await client.stream().open()


async def test_what_is_asked_of_a_relay_that_does_not_read_takes_no_longer_than_it_may(stuck: str) -> None:
    async with AsyncClient(stuck, agent_id="a", timeout=0.5) as client:
        async with client.stream() as stream:
            asked = [asyncio.ensure_future(stream.send("b", "x" * 100_000)) for _ in range(200)]
            acked = [asyncio.ensure_future(stream.ack(["r"] * 600)) for _ in range(40)]
            await asyncio.wait([*asked, *acked], timeout=PATIENCE)
            for one in (*asked, *acked):
                assert one.done()
                with pytest.raises(errors.RelayUnreachable, match=r"0\.5 s"):
                    one.result()
            closing = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closing < 10


async def test_a_relay_that_does_not_read_is_given_up_for_good(stuck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from clawlink.client import stream as module

    monkeypatch.setattr(module, "_PING_SECONDS", 0.2)
    async with AsyncClient(stuck, agent_id="a") as client, client.stream() as stream:
        asked = [asyncio.ensure_future(stream.send("b", "x" * 100_000)) for _ in range(200)]
        acked = asyncio.ensure_future(stream.ack(["r"]))
        await asyncio.wait([*asked, acked], timeout=PATIENCE)
        for one in (*asked, acked):
            with pytest.raises(errors.RelayUnreachable, match="ended"):
                one.result()
        with pytest.raises(errors.RelayUnreachable):
            await stream.__anext__()
        await asyncio.wait_for(stream.close(), 30)
        assert stream._transport is not None
        assert stream._transport.get_write_buffer_size() == 0  # nothing goes on being sent


async def test_one_that_is_cancelled_cuts_no_frame_of_others(ann: AsyncClient, bob: AsyncClient) -> None:
    async with ann.stream() as mine, bob.stream() as his:
        asked = [asyncio.ensure_future(mine.send(of(bob), [n, "x" * 300_000])) for n in range(20)]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in done] == [asyncio.CancelledError, replies.Sent] * 10
        come: set[int] = set()
        while not come >= set(range(1, 20, 2)):
            (one_more,) = await said(his)
            come.add(one_more.raw["content"][0])
            await his.ack([one_more.receipt])


async def test_an_ack_whose_sending_is_cancelled_is_told_so(
    ann: AsyncClient, proxy: Proxy, until: Callable[..., Any]
) -> None:
    proxy.websockets = "mute"
    options = {"agent_id": ann.agent_id, "agent_key": ann.agent_key}
    async with AsyncClient(proxy.url, **options) as client, client.stream() as stream:  # type: ignore[arg-type]
        acked = [asyncio.ensure_future(stream.ack(["r"] * 600)) for _ in range(3)]
        await until(lambda: len(stream._asked) >= 1)
        for work in stream._work:
            work.cancel()
        for one in acked:
            with pytest.raises(errors.RelayUnreachable):
                await asyncio.wait_for(one, 30)


async def test_a_relay_that_shuts_down_says_so(ann: AsyncClient, restartable: Restartable) -> None:
    async with ann.stream() as stream:
        await stream.ping()
        stopping = asyncio.create_task(asyncio.to_thread(restartable.stop))
        with pytest.raises((errors.Draining, errors.RelayUnreachable)):
            await asyncio.wait_for(stream.__anext__(), 30)
        await stopping


async def test_an_agent_that_leaves_ends_its_stream(bob: AsyncClient) -> None:
    async with bob.stream() as stream:
        await stream.ping()
        await bob.leave()
        with pytest.raises(errors.UnknownAgent):
            await asyncio.wait_for(stream.__anext__(), 30)


async def test_a_frame_that_is_too_large_ends_the_stream_and_says_so(serve: Serve) -> None:
    relay = await serve(limits={"max_body_bytes": 2000})
    async with AsyncClient(relay.url, backoff=Backoff(tries=1)) as client:
        await client.register("Ann")
        async with client.stream() as stream:
            with pytest.raises(errors.TooLarge):
                await stream.send("Ann", "x" * 3000)


async def test_an_answer_that_nobody_waits_for_any_more_does_no_harm(ann: AsyncClient) -> None:
    async with ann.stream() as stream:
        given_up = asyncio.create_task(stream.ping())
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await stream.ping()).status == "pong"


async def test_a_close_that_is_cancelled_leaves_nothing_open(ann: AsyncClient) -> None:
    for turns in count(1):
        stream = ann.stream()
        await stream.open()
        over = await cancelled_after(turns, stream.close())
        del stream
        gc.collect()  # a session that is still open warns of itself
        if over:
            break
