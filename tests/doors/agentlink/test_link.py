"""``clawlink.agentlink``: our own client, on asyncio and in plain threads, against a relay that really listens."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from clawlink.agentlink import AgentLink, Message, Sent
from clawlink.errors import BadRequest, ClawLinkError, NotAllowed, NotARelay, RelayUnreachable, UnknownAgent
from tests.client.proxy import Proxy
from tests.conftest import Running, Serve
from tests.doors.agentlink.conftest import SECONDS, SECRETS, Joined, Make, ServeLink, Sign
from tests.doors.agentlink.old_client import sign
from tests.doors.agentlink.signed_client import canonical
from tests.server.asks import task_of

pytestmark = pytest.mark.both_stores


class Box:
    """The messages that a handler got, for a test on any thread or loop."""

    def __init__(self) -> None:
        self._got: queue.Queue[Any] = queue.Queue()

    def __call__(self, message: Message) -> None:
        self._got.put(message)

    put = __call__

    async def next(self) -> Any:
        return await asyncio.to_thread(self._got.get, True, SECONDS)

    @property
    def empty(self) -> bool:
        return self._got.empty()


@pytest.fixture
async def relay(serve_link: ServeLink) -> Running:
    return await serve_link()


async def test_it_sends_and_gets_on_an_event_loop(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box = Box()
    d.on_message(box)
    await c.connect()
    await d.connect()
    assert (c.state, c.address) == ("connected", "c/carol")
    sent = await c.send("d/dan", "hello ☂")
    assert sent.message_id
    got = await box.next()
    assert (got.from_agent, got.to_agent, got.message, got.kind) == ("c/carol", "d/dan", "hello ☂", "message")
    assert got.message_id == sent.message_id
    assert await asyncio.wait_for(sent.receipt(), SECONDS) is True
    assert sent.delivered


async def test_it_sends_and_gets_in_plain_threads(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box = Box()

    def talk() -> Sent:
        d.on_message(box)
        d.connect()
        sent = c.send("d/dan", "hello")  # it connects by itself
        assert sent.receipt().result(SECONDS) is True
        return sent

    sent = await asyncio.to_thread(talk)
    assert (await box.next()).message_id == sent.message_id


async def test_a_decorated_function_stays_one_and_may_take_two(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box: queue.Queue[tuple[str, str]] = queue.Queue()

    @d.on_message
    def reply(from_agent: str, message: str) -> str:
        box.put((from_agent, message))
        d.send(from_agent, message.upper())
        return "from the function itself"

    answers = Box()

    @c.on_message
    async def keep(message: Message) -> None:
        assert asyncio.get_running_loop() is loop
        answers.put(message)

    loop = asyncio.get_running_loop()
    await d.connect()
    await c.connect()
    await c.send("d/dan", "hello")
    assert (await answers.next()).message == "HELLO"
    assert box.get_nowait() == ("c/carol", "hello")
    assert reply("c/carol", "once more") == "from the function itself"
    assert (await answers.next()).message == "ONCE MORE"


async def test_a_handler_is_removed_by_its_id_or_itself(relay: Running, make: Make) -> None:
    d = make(relay, "d", "dan")
    first, second, third = Box(), Box(), Box()
    number = d.add_handler(first)
    d.on_message(second)
    d.on_message(third)
    assert d.remove_handler(number)
    assert d.remove_handler(second)
    assert not d.remove_handler(number)
    await d.connect()
    await d.send("dan", "to myself")
    assert (await third.next()).message == "to myself"
    assert first.empty
    assert second.empty
    with pytest.raises(TypeError):
        d.on_message(lambda: None)


async def test_messages_stay_with_the_relay_until_somebody_wants_them(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    await d.connect()
    sent = await c.send("d/dan", "hello")
    await c.send("carol", "to myself, so that d has had its time")
    assert not sent.delivered
    box = Box()
    d.on_message(box)
    assert (await box.next()).message == "hello"
    assert await asyncio.wait_for(sent.receipt(), SECONDS)


async def test_a_message_whose_handler_fails_comes_again(relay: Running, make: Make) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box = Box()

    @d.on_message
    def fail_once(message: Message) -> None:
        box.put(message)
        if message.attempt == 1:
            raise ValueError("not this time")

    await d.connect()
    sent = await c.send("d/dan", "hello")
    assert (await box.next()).attempt == 1
    assert not sent.delivered
    assert (await box.next()).attempt == 2
    assert await asyncio.wait_for(sent.receipt(), SECONDS)


async def test_what_the_relay_refuses_is_raised(relay: Running, make: Make) -> None:
    c = make(relay, "c", "carol")
    await c.connect()
    with pytest.raises(UnknownAgent):
        await c.send("d/nobody", "hello")
    with pytest.raises(UnknownAgent):
        await asyncio.to_thread(c.send, "d/nobody", "hello")
    too_fast = [c.send("carol", str(n)) for n in range(70)]  # the relay lets 60 pass at once
    for sent in too_fast:
        await asyncio.wait_for(sent, SECONDS)


async def test_a_wrong_secret_an_unknown_relay_and_another_server_are_told(
    relay: Running, serve: Serve, unused_tcp_port: int
) -> None:
    other = await serve()
    for url, error in (
        (relay.url, NotAllowed),
        (f"ws://127.0.0.1:{unused_tcp_port}", RelayUnreachable),
        (other.url, NotARelay),
    ):
        link = AgentLink(url, "wrong", "c", "carol")
        with pytest.raises(error):
            await link.connect()
        assert link.state == "disconnected"
        assert link.why
        with pytest.raises(error):
            await link.send("carol", "hello")
        await link.disconnect()
        assert link.state == "closed"


async def test_it_comes_back_with_what_was_sent_meanwhile(
    serve_link: ServeLink, make: Make, until: Callable[..., Any]
) -> None:
    relay = await serve_link()
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    states: list[str] = []
    box = Box()
    c.on_state(states.append)
    d.on_message(box)
    await c.connect()
    await d.connect()
    await relay.app.stop()
    await until(lambda: "disconnected" in (c.state, d.state) and states[-1] != "connected")
    sent = c.send("d/dan", "sent while the relay was away")
    again = await serve_link(port=urlsplit(relay.url).port)
    assert again.url == relay.url
    # The relay forgot all agents with its memory; d may come back later than c, whose message is refused until then.
    try:
        await asyncio.wait_for(sent, SECONDS)
    except UnknownAgent:
        await until(lambda: d.state == "connected")
        sent = await c.send("d/dan", "sent while the relay was away")
    assert (await box.next()).message == "sent while the relay was away"
    assert await asyncio.wait_for(sent.receipt(), SECONDS)
    assert states[:2] == ["connecting", "connected"]
    assert states[-1] == "connected"


async def test_a_proxy_that_answers_for_the_relay_is_named_and_outlasted(
    relay: Running, make: Make, until: Callable[..., Any]
) -> None:
    proxy = await asyncio.to_thread(Proxy, relay.url)
    try:
        box = Box()
        d = make(relay, "d", "dan")
        d.on_message(box)
        await d.connect()
        proxy.websockets = "refuse"
        c = AgentLink(proxy.url, SECRETS["c"], "c", "carol", reconnect_interval=0.1)
        with pytest.raises(NotARelay, match=r"HTTP 502: .* or a proxy before it; see that the relay runs"):
            await c.connect()
        proxy.websockets = "pass"
        await c.connect()
        proxy.websockets = "refuse"
        await asyncio.to_thread(proxy.cut)
        sent = c.send("d/dan", "through it all")
        tried = proxy.sockets
        await until(lambda: proxy.sockets >= tried + 2)
        assert not sent.receipt().done(), "nobody has taken it"
        assert box.empty
        for limit in (20, 150, 300):  # in the head of the answer, and in the frames after it
            proxy.limit = lambda limit=limit: limit
            proxy.websockets = "pass"
            tried = proxy.sockets
            await until(lambda tried=tried: proxy.sockets >= tried + 2)
        proxy.limit = None
        assert await asyncio.wait_for(sent.receipt(), SECONDS)
        assert (await box.next()).message == "through it all"
        assert box.empty
        await c.disconnect()
    finally:
        await asyncio.to_thread(proxy.close)


async def test_it_stays_away_if_told_to(serve_link: ServeLink, make: Make, until: Callable[..., Any]) -> None:
    relay = await serve_link()
    c = make(relay, "c", "carol", auto_reconnect=False)
    await c.connect()
    await relay.app.stop()
    await until(lambda: c.state == "disconnected")
    with pytest.raises(RelayUnreachable):
        await c.send("carol", "hello")


async def test_several_links_of_one_instance_and_one_agent(relay: Running, make: Make) -> None:
    c, other = make(relay, "c", "carol"), make(relay, "c", "other")
    first, second = make(relay, "d", "dan"), make(relay, "d", "dan")
    box, others = Box(), Box()
    first.on_message(box)
    second.on_message(box)
    other.on_message(others)
    for link in (c, other, first, second):
        await link.connect()
    for n in range(10):
        await c.send("d/dan", str(n))
    assert sorted([(await box.next()).message for _ in range(10)]) == [str(n) for n in range(10)]
    await first.disconnect()
    await c.send("d/dan", "last")
    assert (await box.next()).message == "last"
    await c.send("other", "neighbour")
    assert (await others.next()).message == "neighbour"


async def test_it_talks_to_the_old_client_and_to_agents_of_the_relay(relay: Running, make: Make, join: Joined) -> None:
    await relay.register("Zoe", agent_id="z")
    a, c = await join(relay, "a"), make(relay, "c", "carol")
    box = Box()
    c.on_message(box)
    await c.connect()
    await c.send("a/ann", "hello")
    assert (await a.next("message"))["message"] == "hello"
    await a.send("ann", "c/carol", "hello back")
    assert (await box.next()).message == "hello back"
    _, task = await relay.post("/delegate", {"from_agent": "z", "to_agent": "c/carol", "task": "count"})
    got = await box.next()
    assert (got.kind, got.task_id) == ("task_delegation", task["message_id"])
    assert await c.respond(got.task_id, "half", "in_progress") == "in_progress"
    assert await c.respond(got.task_id, "3") == "completed"
    assert (await task_of(relay, "z", got.task_id))["result"] == "3"
    with pytest.raises(ClawLinkError):
        await c.respond(got.task_id, "4")


async def test_a_shared_secret_proves_the_sender_end_to_end(relay: Running, make: Make, sign_in: Sign) -> None:
    c = make(relay, "c", "carol", end_to_end={"d": "between us"})
    d = make(relay, "d", "dan", end_to_end={"c": "between us"})
    box = Box()
    d.on_message(box)
    await d.connect()
    await c.send("d/dan", "sealed")
    got = await box.next()
    assert (got.message, got.sealed) == ("sealed", True)
    # A holder of c's secret with the relay, or the relay itself, lacks the secret that c shares with d.
    raw = await sign_in(relay, "c", "carol")
    await raw.write("d/dan", "no seal")
    forged = raw.message("d/dan", "wrong seal")
    await raw.put({**forged, "seal": sign("guessed", canonical(forged))})
    other = raw.message("d/dora", "another's seal")
    await raw.put({**raw.message("d/dan", "another's seal"), "seal": sign("between us", canonical(other))})
    await c.send("d/dan", "sealed too")
    assert (await box.next()).message == "sealed too"
    assert box.empty


async def test_a_message_that_was_handled_is_not_handled_again(relay: Running, make: Make, sign_in: Sign) -> None:
    """A relay that hands a sealed message on once more is not heard."""
    d = make(relay, "d", "dan", end_to_end={"c": "between us"})
    box = Box()
    d.on_message(box)
    await d.connect()
    raw = await sign_in(relay, "c", "carol")
    for text in ("one", "two"):
        frame = raw.message("d/dan", text, id="same" if text == "one" else "other")
        for _ in range(2):
            await raw.put({**frame, "seal": sign("between us", canonical(frame))})
            frame = raw.message("d/dan", text, id=frame["id"])
    assert [(await box.next()).message for _ in range(2)] == ["one", "two"]
    assert box.empty


async def test_callbacks_that_fail_do_no_harm(relay: Running, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    c = make(relay, "c", "carol")
    box, delivered = Box(), Box()

    @c.on_state
    def fail(state: str) -> None:
        raise ValueError(state)

    c.on_delivered(delivered.put)

    class Handler:
        async def __call__(self, message: Message) -> None:
            box.put(message)

    c.on_message(Handler())
    sent = await c.send("carol", "hello")
    assert (await box.next()).message == "hello"
    assert await asyncio.wait_for(sent.receipt(), SECONDS)
    assert await delivered.next() is sent
    assert "delivered" in repr(sent)
    assert "a callback failed" in caplog.text


async def test_a_link_is_used_as_a_context_in_threads_too(relay: Running) -> None:
    def talk() -> str:
        with AgentLink(relay.url, SECRETS["c"], "c", "carol") as link:
            link.on_message(lambda message: None)
            assert link.send("carol", "hello", timeout=SECONDS).receipt().result(SECONDS)
        return link.state

    assert await asyncio.to_thread(talk) == "closed"


def write_config(path: Path, **fields: Any) -> Path:
    config = {"relay_url": "ws://127.0.0.1:1/agentlink", "secret": "s", "instance_id": "c", "agent_id": "carol"}
    path.write_text(json.dumps({**config, "auto_reconnect": True, **fields}), encoding="utf-8")
    return path


def test_every_way_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path / "link.json")
    assert AgentLink("ws://h/agentlink", "s", "c", "carol").address == "c/carol"
    assert AgentLink.from_config(path).address == "c/carol"
    assert AgentLink(config_path=path).address == "c/carol"
    assert AgentLink(config_path=path, agent_id="x").address == "c/x"
    monkeypatch.setenv("CLAWLINK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        AgentLink(agent_id="x")
    (tmp_path / "home").mkdir()
    write_config(tmp_path / "home" / "agent-link-config.json")
    assert AgentLink(agent_id="x").address == "c/x"
    write_config(tmp_path / "agent-link-config.json", instance_id="here")
    assert AgentLink(agent_id="x").address == "here/x"
    assert AgentLink.from_config().address == "here/carol"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"agent_id": None}, "agent_id"), ({"instance_id": "a/b"}, "instance_id"), ({"secret": 7}, "secret")],
)
def test_a_configuration_that_makes_no_sense_is_told(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        AgentLink(config_path=write_config(tmp_path / "link.json", **fields))
    assert refused.value.field == field


async def test_it_leaves_no_thread_behind(relay: Running, make: Make, until: Callable[..., Any]) -> None:
    c = make(relay, "c", "carol")
    await c.connect()
    name = "agentlink c/carol"
    assert name in [thread.name for thread in threading.enumerate()]
    await c.disconnect()
    await until(lambda: name not in [thread.name for thread in threading.enumerate()])
