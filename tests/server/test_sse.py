"""The mailbox as server-sent events: what was read is told by coming back, and what was not is due again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any, NamedTuple

import aiohttp
import pytest

from clawlink.store.memory import MemoryStore
from tests.conftest import UNPACED, Running, Serve
from tests.server.asks import (
    NEWS,
    Headers,
    ack,
    claim,
    claim_one,
    delegate,
    metrics,
    nothing_due,
    ok,
    pool_task,
    refused,
    send,
    status_of,
    with_key,
)
from tests.server.sockets import path_of
from tests.store.faulty import FaultyStore
from tests.system.raw import Clock, connect, request
from tests.tables import each
from tests.virtual_time import pass_time
from tests.waiting import eventually, soon

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Event(NamedTuple):
    """An event."""

    id: str
    type: str
    data: Any


class Stream:
    """A response that is read as a browser reads it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments = 0
        self.retry: str | None = None

    async def next(self) -> Event | None:
        """Return the next event; None at the end of the response."""
        fields: dict[str, str] = {}
        while line := await soon(self.response.content.readline()):
            text = line.decode()
            assert text.endswith("\n")
            name, _, value = text[:-1].partition(": ")
            if text == "\n" and "data" in fields:
                return Event(fields["id"], fields["event"], json.loads(fields["data"]))
            if name == "retry":
                self.retry = value
            elif text.startswith(":"):
                self.comments += 1
            elif text != "\n":
                assert name in ("id", "event", "data")
                assert name not in fields
                fields[name] = value
        assert not fields
        return None

    async def event(self) -> Event:
        """Return the next event, past who joined and left."""
        while True:
            found = await self.next()
            assert found is not None, "the response has ended"
            if found.type not in NEWS:
                return found

    async def rest(self) -> list[Event]:
        """Read to the end."""
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return [e for e in found if e.type not in NEWS]


@contextlib.asynccontextmanager
async def stream(
    relay: Running, agent_id: str, *, last: str | None = None, headers: Headers | None = None, **query: Any
) -> AsyncIterator[Stream]:
    """Connect, saying what was the last event that was read."""
    told = {**(headers or {}), **({"Last-Event-ID": last} if last is not None else {})}
    address, endless = relay.url + path_of(agent_id, kind="events", **query), aiohttp.ClientTimeout()
    async with relay.session.get(address, headers=told, timeout=endless) as response:
        assert response.status == 200, await response.text()
        yield Stream(response)


@pytest.fixture(autouse=True)
def given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have those who do not come back given up soon."""
    monkeypatch.setattr("clawlink.server.sse.BACK_SECONDS", 0.2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have those who do not come back waited for."""
    monkeypatch.setattr("clawlink.server.sse.BACK_SECONDS", 60.0)


@pytest.fixture
async def pair(pair: Running, until: Until) -> AsyncIterator[Running]:
    """The two agents; in the end nobody who has gone may still be waiting."""
    yield pair
    await pair.app.events.stop()
    await until(lambda: pair.app.events.idle)
    await until(lambda: pair.app.relay.waiting == 0)


# -- what comes --------------------------------------------------------------------------------------------------------


async def test_messages_come_as_events_with_their_type_and_their_receipt(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    async with stream(pair, "b") as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        assert events.response.headers["Cache-Control"] == "no-store"
        first = await events.event()
        assert events.retry == "1000"
        assert (first.type, first.data["message_id"]) == ("task_delegation", task)
        assert first.data["type"] == first.type
        assert first.data["delivery"]["receipt"] == first.id
        assert first.data["delivery"]["attempt"] == 1
        id = await send(pair, "a", "b", 2)
        second = await events.event()
        assert (second.type, second.data["message_id"], second.data["content"]) == ("message", id, 2)
        await ok(pair.post("/broadcast", {"from_agent": "a", "content": "news"}))
        third = await events.event()
        assert (third.type, third.data["content"]) == ("knowledge_broadcast", "news")
        await ack(pair, "b", first.id, second.id, third.id)
    await nothing_due(pair, "b")


@memory
async def test_no_text_can_end_its_line(pair: Running) -> None:
    contents = ["a\nb", "a\r\nid: x\r\n\r\ndata: y", "\u2028\u2029\x85\x0b\x0c", "ü☃𝄞", "\x00", ": comment", "\n\n\n"]
    async with stream(pair, "b") as events:
        for content in contents:
            await send(pair, "a", "b", content)
            assert (await events.event()).data["content"] == content


async def test_lease_and_credit_have_the_defaults_and_bounds_of_a_websocket(pair: Running) -> None:
    for n in range(40):
        await send(pair, "a", "b", n)
    async with stream(pair, "b") as events:
        assert len(await events.rest()) == 32
    for query in ("lease=4", "lease=3601", "credit=0", "credit=1001", "credit=x"):
        assert (await refused(pair.get(f"/events/b?{query}"), 400, "bad_request"))["field"] == query.split("=")[0]


# -- coming back -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_to_come_back_settles_what_was_read_and_gives_back_the_rest(pair: Running, clock: Clock) -> None:
    ids = [await send(pair, "a", "b", n) for n in range(4)]
    sent: list[Event] = []
    async with stream(pair, "b", lease=3600) as events:
        while len(sent) < 4:
            sent.append(await events.event())
    read, rest = sent[:2], sent[2:]
    async with stream(pair, "b", last=read[-1].id, lease=3600) as events:
        again = [await events.event() for _ in rest]
        assert {e.data["message_id"] for e in again} == {e.data["message_id"] for e in rest}
        assert {e.data["delivery"]["attempt"] for e in again} == {1}
        for e in read:
            assert (await status_of(pair, "a", e.data["message_id"]))["state"] == "acked"
        await ack(pair, "b", *[e.id for e in again])
    clock.skip(3601)
    await nothing_due(pair, "b")
    assert {e.data["message_id"] for e in sent} == set(ids)


@pytest.mark.usefixtures("patient")
async def test_one_can_read_everything_by_coming_back(pair: Running) -> None:
    for n in range(30):
        await send(pair, "a", "b", n)
    seen: list[int] = []
    last: str | None = None
    while len(seen) < 30:
        async with stream(pair, "b", last=last, credit=5) as events:
            for event in await events.rest():
                seen.append(event.data["content"])
                last = event.id
    async with stream(pair, "b", last=last):
        pass
    assert sorted(seen) == list(range(30))
    await nothing_due(pair, "b")


@pytest.mark.usefixtures("patient")
async def test_who_comes_back_before_the_old_response_has_ended_ends_it(pair: Running) -> None:
    for n in range(2):
        await send(pair, "a", "b", n)
    async with stream(pair, "b", lease=3600) as old:
        sent = [await old.event() for _ in range(2)]
        async with stream(pair, "b", last=sent[0].id, lease=3600) as new:
            assert (await new.event()).data["message_id"] == sent[1].data["message_id"]
            assert await old.rest() == []
            await send(pair, "a", "b", 2)
            assert (await new.event()).data["content"] == 2


async def test_an_unknown_event_settles_nothing(pair: Running) -> None:
    id = await send(pair, "a", "b")
    for last in ("", "x", "1", "-", f"x-{id}", "ü☃", "x" * 4000):
        async with stream(pair, "b", last=last, lease=30) as events:
            assert (await events.event()).data["message_id"] == id
            assert (await status_of(pair, "a", id))["state"] == "delivered"
    assert (await claim_one(pair, "b")).attempt == 1


@pytest.mark.usefixtures("patient")
async def test_another_agents_event_settles_nothing(pair: Running) -> None:
    id = await send(pair, "a", "b")
    async with stream(pair, "b", lease=30) as events:
        event = await events.event()
    async with stream(pair, "a", last=event.id, lease=30):
        assert (await status_of(pair, "a", id))["state"] == "delivered"
    async with stream(pair, "b", last=event.id, lease=30):
        assert (await status_of(pair, "a", id))["state"] == "acked"


@pytest.mark.both_loops
async def test_who_does_not_come_back_in_time_gives_back_what_it_was_sent(pair: Running) -> None:
    id = await send(pair, "a", "b")
    async with stream(pair, "b", lease=3600) as events:
        last = (await events.event()).id
    assert (await claim_one(pair, "b")).attempt == 1
    async with stream(pair, "b", last=last, lease=3600):
        assert (await status_of(pair, "a", id))["state"] == "delivered"


@pytest.mark.usefixtures("patient")
async def test_a_message_that_was_sent_is_held_until_it_is_time_to_be_back(pair: Running) -> None:
    await send(pair, "a", "b")
    async with stream(pair, "b", lease=3600) as events:
        await events.event()
    await nothing_due(pair, "b")
    await pair.app.events.stop()
    assert (await claim_one(pair, "b")).attempt == 1


@each("id", ["böb", "ボブ", "b/c?d%e#f", "𝄞", "b:c", 'b"c', "b-c"])
@pytest.mark.usefixtures("patient")
@memory
async def test_receipts_of_agents_of_any_script_come_back_as_they_went(relay: Running, id: str) -> None:
    """The id of a copy of a broadcast has the agent's id in it."""
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id=id)
    await ok(relay.post("/broadcast", {"from_agent": "a", "content": "news"}))
    async with stream(relay, id, lease=3600) as events:
        event = await events.event()
        assert id in event.id
    before = (await metrics(relay))["acked_total"]
    async with stream(relay, id, last=event.id, lease=3600):

        async def acked() -> bool:
            return bool((await metrics(relay))["acked_total"] == before + 1)

        await eventually(acked)


# -- the end of a response ---------------------------------------------------------------------------------------------


@each("credit", [1, 3])
async def test_a_response_ends_when_its_credit_is_used_up(pair: Running, credit: int) -> None:
    for n in range(5):
        await send(pair, "a", "b", n)
    async with stream(pair, "b", credit=credit) as events:
        assert len(await events.rest()) == credit


@pytest.mark.both_loops
async def test_a_response_ends_in_time_for_the_client_to_settle(pair: Running) -> None:
    async with stream(pair, "b", lease=5) as events:
        await send(pair, "a", "b")
        assert len(await events.rest()) == 1


@pytest.mark.virtual_time
@memory
async def test_a_response_whose_messages_are_acked_goes_on(pair: Running) -> None:
    """Past a part of the lease, and past its credit."""
    async with stream(pair, "b", lease=5, credit=3) as events:
        for n in range(8):
            await send(pair, "a", "b", n)
            event = await events.event()
            assert event.data["content"] == n
            await ack(pair, "b", event.id)
        await pass_time(60)
        await send(pair, "a", "b", 8)
        assert (await events.event()).data["content"] == 8


@memory
@pytest.mark.both_loops
async def test_comments_keep_a_response_alive(pair: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.server.sse._COMMENT_SECONDS", 0.02)
    async with stream(pair, "b") as events:
        reading = asyncio.create_task(events.event())

        async def commented() -> bool:
            return events.comments > 5

        await eventually(commented)
        await send(pair, "a", "b")
        assert (await reading).data["content"] == "hello"


async def test_one_that_hangs_up_at_any_moment_leaves_all_to_the_next(pair: Running) -> None:
    for n in range(20):
        await send(pair, "a", "b", n)
    for n in range(20):
        connection = await connect(pair.url)
        await connection.send(request("GET", path_of("b", kind="events", lease=3600)))
        for _ in range(n):
            await asyncio.sleep(0)
        if n % 2:
            connection.reset()
        connection.close()
        with contextlib.suppress(ConnectionError):
            await connection.writer.wait_closed()
    got = await claim(pair, "b", 20, max=50)
    assert {g.attempt for g in got} == {1}


@memory
async def test_one_that_does_not_read_is_cut_off(serve: Serve, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.server.sse._STUCK_SECONDS", 0.3)
    relay = await serve(limits={**UNPACED, "max_mailbox_bytes": 64 << 20})
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    for n in range(12):
        await send(relay, "a", "b", f"{n:02}" + "x" * 900_000)
    connection = await connect(relay.url, receive_buffer=4096)
    await connection.send(request("GET", path_of("b", kind="events", lease=3600)))
    await until(lambda: relay.app.events.leaving > 0)
    assert len(await claim(relay, "b", 12, max=20)) == 12
    connection.reset()


@pytest.mark.both_loops
async def test_a_shutdown_ends_every_response(pair: Running) -> None:
    async with stream(pair, "b", lease=30) as events, stream(pair, "a", lease=30) as other:
        await send(pair, "a", "b")
        event = await events.event()
        await pair.app.relay.drain()
        assert await events.rest() == []
        await other.rest()
        await ack(pair, "b", event.id)
    await refused(pair.get("/events/b"), 503, "draining")


# -- who may -----------------------------------------------------------------------------------------------------------


async def test_nobody_else_is_let_in(relay: Running) -> None:
    key = (await ok(relay.post("/register", {"name": "Bob", "agent_id": "b", "claim": True})))["agent_key"]
    await refused(relay.get("/events/nobody"), 404, "unknown_agent")
    await refused(relay.get("/events/b"), 403, "not_allowed")
    await refused(relay.get("/events/b", headers=with_key("wrong")), 403, "not_allowed")
    async with stream(relay, "b", headers=with_key(key)) as events:
        assert events.response.status == 200


@pytest.mark.both_loops
async def test_the_response_of_an_agent_that_leaves_ends(pair: Running) -> None:
    async with stream(pair, "b") as events:
        await ok(pair.ask("DELETE", "/agents/b"))
        assert await events.rest() == []


async def test_the_response_of_an_agent_that_someone_claims_ends_and_shows_nothing_more(pair: Running) -> None:
    async with stream(pair, "b") as events:
        key = (await ok(pair.post("/register", {"name": "Bob", "agent_id": "b", "claim": True})))["agent_key"]
        id = await send(pair, "a", "b")
        assert await events.rest() == []
    assert (await claim_one(pair, "b", headers=with_key(key))).message["message_id"] == id


async def test_work_by_capability_comes_too(relay: Running) -> None:
    await relay.register("Req", agent_id="req")
    await relay.register("W", agent_id="w", capabilities=["python"])
    async with stream(relay, "w", lease=30) as events:
        id = await pool_task(relay, "req")
        event = await events.event()
        assert event.data["message_id"] == id
        await ok(relay.post("/respond", {"from_agent": "w", "message_id": id, "result": 1}))
    await nothing_due(relay, "w")


# -- a store that fails ------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", ["failures", "lost", "conflicts"])
@memory
async def test_a_response_goes_on_when_the_store_works_again(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("clawlink.server.sse._RETRY_MILLISECONDS", 20)
    store = FaultyStore(MemoryStore(), Random(1))
    relay = await serve(store=store, clock=clock, limits={"max_attempts": 1000})
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    async with stream(relay, "b", lease=60) as events:
        first = await send(relay, "a", "b", 0)
        assert (await events.event()).data["message_id"] == first
        setattr(store, fault, 0.6)
        body = {"from_agent": "a", "to_agent": "b", "content": 1, "idempotency_key": "k" * 16}

        async def sent() -> bool:
            return (await relay.post("/send", body))[0] == 200

        await eventually(sent)
        await pass_time(2)
        setattr(store, fault, 0.0)
        clock.skip(61)  # a lease that was lost lapses
        await ok(relay.post("/heartbeat", {"agent_id": "b"}))
        event = await events.event()
        while event.data["content"] != 1:
            event = await events.event()
    await relay.app.events.stop()


@pytest.mark.usefixtures("patient")
@memory
async def test_coming_back_while_the_store_fails_is_worth_another_try(serve: Serve) -> None:
    store = FaultyStore(MemoryStore(), Random(1))
    relay = await serve(store=store)
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    id = await send(relay, "a", "b")
    async with stream(relay, "b", lease=3600) as events:
        last = (await events.event()).id
    for fault in ("failures", "conflicts"):
        setattr(store, fault, 1.0)
        await refused(relay.get("/events/b", headers={"Last-Event-ID": last}), 503, "store_unavailable")
        setattr(store, fault, 0.0)
    async with stream(relay, "b", last=last, lease=3600):
        assert (await status_of(relay, "a", id))["state"] == "acked"
