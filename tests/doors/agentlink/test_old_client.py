"""The unmodified client of Agent Link gets along with the relay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from tests.conftest import Running
from tests.doors.agentlink.conftest import OLD_A, Dial, Joined, ServeLink, Sign, door_of
from tests.doors.agentlink.old_client import OldClient
from tests.server.asks import claim_one, ok, send, status_of
from tests.system.raw import Clock
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def relay(serve_link: ServeLink) -> Running:
    return await serve_link()


async def test_it_registers_and_is_answered_in_the_old_words(relay: Running, dial: Dial) -> None:
    client = await dial(relay, "a")
    answer = await client.register()
    assert answer["type"] == "registered"
    assert answer["instance_id"] == "a"


@pytest.fixture
async def moment(serve_link: ServeLink) -> tuple[Running, Clock]:
    """Start a relay for which no time passes."""
    clock = Clock()
    relay = await serve_link(clock=clock)
    clock.stop()
    return relay, clock


@each("utc", [False, True])
@each("off", [-30, 0, 30])
async def test_its_clock_may_be_off_by_half_a_minute(
    moment: tuple[Running, Clock], dial: Dial, utc: bool, off: int
) -> None:
    relay, clock = moment
    client = await dial(relay, "a")
    assert (await client.register(at=clock() + off, utc=utc))["type"] == "registered"


@each("off", [-31, 31, 3600])
async def test_a_wrong_clock_is_refused(moment: tuple[Running, Clock], dial: Dial, off: int) -> None:
    relay, clock = moment
    client = await dial(relay, "a")
    answer = await client.register(at=clock() + off)
    assert (answer["type"], answer["message"]) == ("error", "Invalid signature")
    assert await client.closed() == 1000


async def test_a_wrong_secret_is_refused(relay: Running, dial: Dial) -> None:
    client = await dial(relay, "a", secret="another")
    assert (await client.register())["message"] == "Invalid signature"
    assert await client.closed() == 1000


async def test_an_unknown_instance_is_refused(relay: Running, dial: Dial) -> None:
    client = await dial(relay, "nobody")
    assert (await client.register())["message"] == "Instance not registered"
    assert await client.closed() == 1000


@each("first", ['{"type": "ping"}', "no JSON", "[]", '{"type": "send"}', '{"no": "type"}'])
async def test_the_first_frame_must_register(relay: Running, dial: Dial, first: str) -> None:
    client = await dial(relay, "a")
    await client.put(first)
    answer = await client.frame()
    assert (answer["type"], answer["message"]) == ("error", "First message must be register")
    assert await client.closed() == 1000


async def test_the_old_form_is_for_legacy_instances_alone(relay: Running, dial: Dial) -> None:
    client = await dial(relay, "c")
    assert "legacy" in (await client.register())["message"]
    assert await client.closed() == 1000


async def test_ping_is_answered(relay: Running, join: Joined) -> None:
    client = await join(relay, "a")
    await client.put({"type": "ping"})
    assert await client.frame() == {"type": "pong"}


async def test_a_message_arrives_and_is_delivered_once_it_was_read(relay: Running, join: Joined) -> None:
    a, b = await join(relay, "a"), await join(relay, "b")
    await a.send("ann", "b/bob", "hello: there ☂")
    got = await b.next("message")
    assert {name: got[name] for name in ("from", "to", "message")} == {
        "from": "a/ann",
        "to": "b/bob",
        "message": "hello: there ☂",
    }
    queued = await a.frame()
    assert (queued["type"], queued["to"]) == ("queued", "b/bob")
    # The pong is sent by whoever reads the socket, so the recipient must go on reading.
    await b.put({"type": "ping"})
    await b.next("pong")
    delivered = await a.frame()
    assert (delivered["type"], delivered["to"]) == ("delivered", "b/bob")


async def test_the_same_text_arrives_as_often_as_it_is_sent(relay: Running, join: Joined) -> None:
    a, b = await join(relay, "a"), await join(relay, "b")
    for _ in range(3):
        await a.send("ann", "b/bob", "again")
    assert [(await b.next("message"))["message"] for _ in range(3)] == ["again"] * 3


async def test_a_message_for_one_who_is_away_waits(relay: Running, join: Joined) -> None:
    a = await join(relay, "a")
    await a.send("ann", "b/bob", "for later")
    assert (await a.frame())["type"] == "queued"
    b = await join(relay, "b")
    assert (await b.next("message"))["message"] == "for later"
    await b.put({"type": "ping"})
    await b.next("pong")
    assert (await a.frame())["type"] == "delivered"


async def test_what_was_not_read_comes_again_at_the_next_connection(relay: Running, dial: Dial, join: Joined) -> None:
    a = await join(relay, "a")
    b = await dial(relay, "b", autoping=False)  # it answers no ping, so nothing proves that it has read
    assert (await b.register())["type"] == "registered"
    await a.send("ann", "b/bob", "read me")
    assert (await b.next("message"))["message"] == "read me"
    await b.socket.close()
    again = await join(relay, "b")
    got = await again.next("message")
    assert (got["message"], got["attempt"]) == ("read me", 1)


async def test_a_bare_recipient_is_a_neighbour_or_an_agent_of_the_relay(relay: Running, join: Joined) -> None:
    await relay.register("Zoe", agent_id="z")
    a = await join(relay, "a")
    await a.send("ann", "Zoe", "from outside")
    got = await claim_one(relay, "z")
    assert (got.message["type"], got.message["from_agent"], got.message["content"]) == (
        "message",
        "a/ann",
        "from outside",
    )
    await a.send("other", "ann", "from next door")
    assert (await a.next("message"))["from"] == "a/other"


async def test_an_agent_of_the_relay_writes_to_it_and_learns_that_it_was_read(relay: Running, join: Joined) -> None:
    await relay.register("Zoe", agent_id="z")
    a = await join(relay, "a")
    await a.send("ann", "z", "here I am")
    await a.next("queued")
    id = await send(relay, "z", "a/ann", "good to know")
    got = await a.next("message")
    assert (got["from"], got["to"], got["message"]) == ("z", "a/ann", "good to know")
    await a.put({"type": "ping"})
    await a.next("pong")

    async def acked() -> bool:
        return bool((await status_of(relay, "z", id))["state"] == "acked")

    await eventually(acked)


async def test_its_agents_are_found_by_discover(relay: Running, join: Joined) -> None:
    a = await join(relay, "a")
    await a.send("ann", "b/bob", "hello")
    await a.next("queued")
    status, found = await relay.get("/discover?status=all")
    assert status == 200
    # Nobody has heard of bob but by the name he was written to under.
    assert {agent["agent_id"]: agent["status"] for agent in found["agents"]} == {"a/ann": "online", "b/bob": "stale"}
    assert all(agent["claimed"] for agent in found["agents"])


async def test_nobody_acts_as_its_agents_by_http(relay: Running, join: Joined) -> None:
    a = await join(relay, "a")
    await a.send("ann", "b/bob", "hello")
    await a.next("queued")
    status, body = await relay.get("/poll/b%2Fbob")
    assert (status, body["code"]) == (403, "not_allowed")
    status, body = await relay.post("/register", {"agent_id": "a/ann", "name": "a/ann"})
    assert (status, body["code"]) == (403, "not_allowed")


async def test_two_connections_of_one_instance_do_not_harm_each_other(relay: Running, join: Joined) -> None:
    first, second = await join(relay, "b"), await join(relay, "b")
    sender = await join(relay, "a")
    await first.send("one", "a/ann", "I am one")
    await second.send("two", "a/ann", "I am two")
    await first.next("queued")
    await second.next("queued")
    await sender.send("ann", "b/one", "to one")
    await sender.send("ann", "b/two", "to two")
    assert (await first.next("message"))["message"] == "to one"
    assert (await second.next("message"))["message"] == "to two"
    await first.put({"type": "ping"})
    await first.next("pong")  # it has read on, so its message is settled
    await first.socket.close()
    await sender.send("ann", "b/two", "still there")
    assert (await second.next("message"))["message"] == "still there"
    # The connection that is left is known as another, which would drop mail for "one": that waits for it.
    await sender.send("ann", "b/one", "for when you are back")
    assert (await sender.next("queued"))["to"] == "b/one"
    await sender.send("ann", "b/two", "and now you")
    assert (await second.next("message"))["message"] == "and now you"
    again = await join(relay, "b")
    assert (await again.next("message"))["message"] == "for when you are back"


async def read_on(*clients: OldClient) -> None:
    """Have clients read all that was sent to them, up to now."""
    for client in clients:
        await client.put({"type": "ping"})
        await client.next("pong")


class Reading:
    """A client that reads on and drops what is for another agent, as the old one does."""

    def __init__(self, client: OldClient, agent: str) -> None:
        self.client = client
        self.agent = agent
        self.got: list[str] = []
        self.dropped: list[str] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(AssertionError):
            while True:
                frame = await self.client.next("message")
                (self.got if frame["to"] == self.agent else self.dropped).append(frame["message"])


async def test_a_copy_goes_to_every_connection_that_may_be_the_agents(relay: Running, join: Joined) -> None:
    sender = await join(relay, "a")
    xxx, yyy = Reading(await join(relay, "b"), "b/xxx"), Reading(await join(relay, "b"), "b/yyy")
    texts = [f"message {i}" for i in range(12)]
    for text in texts:
        await sender.send("ann", "b/yyy", text)
    delivered = [await sender.next("delivered") for _ in texts]
    assert {frame["to"] for frame in delivered} == {"b/yyy"}
    assert (yyy.got, xxx.got, xxx.dropped) == (texts, [], texts)
    await yyy.client.send("yyy", "a/ann", "it is me")  # known from now on, so it alone gets its mail
    await sender.next("message")
    await sender.send("ann", "b/yyy", "for you alone")
    await sender.next("delivered")
    assert yyy.got[-1] == "for you alone"
    assert xxx.dropped == texts


async def test_mail_waits_for_an_agent_that_was_known_and_is_told_delivered_once_it_speaks(
    relay: Running, join: Joined
) -> None:
    sender, first, other = await join(relay, "a"), await join(relay, "b"), await join(relay, "b")
    await first.send("one", "a/ann", "I am one")
    await sender.next("message")
    await first.next("queued")
    await first.socket.close()
    texts = [f"message {i}" for i in range(45)]  # more than are under way at once
    for text in texts:
        await sender.send("ann", "b/one", text)
    told = [await sender.next("queued") for _ in texts]
    again = await join(relay, "b")
    # Both may be "one", and both read it all. Nothing is told delivered: the reader may have dropped it.

    async def read_all(client: OldClient) -> list[str]:
        return [(await client.next("message"))["message"] for _ in texts]

    assert list(await asyncio.gather(read_all(other), read_all(again))) == [texts, texts]
    await read_on(other, again)
    await other.send("two", "a/ann", "I am two")
    await sender.put({"type": "ping"})
    frames = []
    while (frame := await sender.frame())["type"] != "pong":
        frames.append(frame["type"])
    assert "delivered" not in frames
    await again.send("one", "a/ann", "I am back")
    delivered = [(await sender.next("delivered"))["message_id"] for _ in texts]
    assert sorted(delivered) == sorted(frame["message_id"] for frame in told)
    await sender.send("ann", "b/one", "the next")
    assert (await again.next("message"))["message"] == "the next"  # and none of the others comes again


async def test_one_that_ends_unread_is_made_up_for_by_the_next_that_comes(
    relay: Running, join: Joined, dial: Dial
) -> None:
    sender, stays = await join(relay, "a"), Reading(await join(relay, "b"), "b/stays")
    deaf = await dial(relay, "b", autoping=False)
    assert (await deaf.register())["type"] == "registered"
    await sender.send("ann", "b/deaf", "hello")
    await sender.next("queued")
    assert (await deaf.next("message"))["message"] == "hello"
    await deaf.socket.close()  # it never showed that it has read
    await sender.send("ann", "b/stays", "you")
    assert (await sender.next("delivered"))["to"] == "b/stays"
    again = await join(relay, "b")
    assert (await again.next("message"))["message"] == "hello"
    await read_on(again)
    assert (await sender.next("delivered"))["to"] == "b/deaf"
    assert stays.dropped == ["hello"]


async def test_a_delegation_arrives_as_text(relay: Running, join: Joined) -> None:
    await relay.register("Zoe", agent_id="z")
    a = await join(relay, "a")
    await a.send("ann", "z", "here I am")
    await a.next("queued")
    status, task = await relay.post(
        "/delegate", {"from_agent": "z", "to_agent": "a/ann", "task": "count", "context": {"to": 3}}
    )
    assert status == 200
    got = await a.next("message")
    assert got["message"] == f'Task {task["message_id"]}: count\nContext: {{"to":3}}'
    assert (got["kind"], got["task_id"], got["task"]) == ("task_delegation", task["message_id"], "count")


async def test_agents_of_the_configuration_are_there_from_the_start(serve_link: ServeLink, join: Joined) -> None:
    entry = {"instance_id": "a", "secret": "secret of a", "legacy": True, "agents": ["ann"]}
    relay = await serve_link([entry])
    await relay.register("Zoe", agent_id="z")
    sent = await ok(relay.post("/send", {"from_agent": "z", "to_agent": "a/ann", "content": "before you came"}))
    assert sent["recipient"]["status"] == "stale"
    a = await join(relay, "a")
    assert (await a.next("message"))["message"] == "before you came"


async def test_the_address_is_not_there_unless_it_is_configured(relay: Running, serve: object) -> None:
    plain = await serve()  # type: ignore[operator]
    for method, path in (("GET", "/agentlink"), ("POST", "/api/v1/send"), ("POST", "/api/v1/register")):
        status, body = await plain.ask(method, path)
        assert (status, body["code"]) == (404, "unknown_route")
    status, body = await relay.get("/agentlink")
    assert (status, body["code"], body["field"]) == (400, "bad_request", "Upgrade")


async def test_what_it_acks_is_settled_and_what_it_does_not_hold_is_named(
    relay: Running, join: Joined, sign_in: Sign
) -> None:
    c = await sign_in(relay, "c", "carol")
    a = await join(relay, "a")
    sent = await c.write("a/ann", "for ann")
    got = await a.next("message")
    await a.put({"type": "ack", "receipts": [got["receipt"], "no receipt"]})
    error = await a.next("error")
    assert (error["code"], error["receipts"]) == ("lease_lost", ["no receipt"])
    assert (await c.next("delivered"))["message_id"] == sent["message_id"]
    await a.put({"type": "nack", "receipts": [got["receipt"]]})
    assert (await a.next("error"))["receipts"] == [got["receipt"]]


async def test_connections_and_agents_add_up_and_do_not_multiply(
    serve_link: ServeLink, join: Joined, until: Until
) -> None:
    agents, more = 60, 10
    relay = await serve_link([{**OLD_A, "agents": [f"x{n}" for n in range(agents)]}])
    first = await join(relay, "a")
    copies = door_of(relay).copies
    await until(lambda: len(copies) == agents)
    before = len(asyncio.all_tasks())
    lines = [first, *[await join(relay, "a") for _ in range(more)]]
    # Each connection has some tasks, here and at the client, and none for each agent that it may be.
    assert len(asyncio.all_tasks()) - before < 10 * more
    await send(relay, await relay.register("asker"), "a/x7", "for x7")
    for line in lines:
        assert (await line.next("message"))["message"] == "for x7"
        await line.socket.close()
    await until(lambda: not copies)
