"""Tickets: one stream each, soon, for one agent; and never the token in an address."""

from __future__ import annotations

from typing import Any

import pytest

from clawlink.errors import NotAuthenticated, RelayFull
from clawlink.server import tickets
from clawlink.server.tickets import MAX_AGENT_TICKETS, SECONDS, Tickets
from tests.conftest import Running, Serve
from tests.server.asks import ok, refused, send, with_key
from tests.server.test_sse import Stream

TOKEN = {"Authorization": "Bearer t"}


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_ticket_is_used_once_in_time_for_its_agent_and_route() -> None:
    time = Time()
    held = Tickets(time)
    name = held.make("a", "key", "events", "7.x")
    time.now += SECONDS - 0.001
    assert held.use(name, "a", "events")[:4] == ("a", "key", "events", "7.x")
    cases: list[tuple[str, str, str, float]] = [
        ("used", "a", "events", 0),
        ("new", "b", "events", 0),
        ("new", "a", "socket", 0),
        ("new", "a", "events", SECONDS),
        ("unknown", "a", "events", 0),
    ]
    for which, agent, route, later in cases:
        if which == "new":
            name = held.make("a", None, "events", None)
        time.now += later
        with pytest.raises(NotAuthenticated, match="POST /tickets"):
            held.use("x" if which == "unknown" else name, agent, route)
        with pytest.raises(NotAuthenticated):
            held.use(name, "a", "events")  # whoever tries it has used it up


def test_tickets_are_bounded_and_lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    held = Tickets(time)
    for _ in range(MAX_AGENT_TICKETS):
        held.make("a", None, "events", None)
    with pytest.raises(RelayFull) as full:
        held.make("a", None, "events", None)
    assert (full.value.limit, full.value.retry_after) == (MAX_AGENT_TICKETS, SECONDS)
    held.make("b", None, "events", None)
    monkeypatch.setattr(tickets, "MAX_TICKETS", MAX_AGENT_TICKETS + 1)
    with pytest.raises(RelayFull):
        held.make("c", None, "events", None)
    time.now += SECONDS
    held.make("a", None, "events", None)


async def ticket_for(relay: Running, agent_id: str, key: str, **fields: Any) -> Any:
    body = {"agent_id": agent_id, **fields}
    return await ok(relay.post("/tickets", body, headers={**TOKEN, **with_key(key)}))


async def claimed(relay: Running, agent_id: str) -> str:
    body = await ok(relay.post("/register", {"agent_id": agent_id, "claim": True}, headers=TOKEN))
    key: str = body["agent_key"]
    return key


async def test_a_ticket_stands_for_token_and_key(serve: Serve) -> None:
    relay = await serve(token="t")
    key = await claimed(relay, "a")
    await claimed(relay, "b")
    await refused(relay.post("/tickets", {"agent_id": "a"}, headers=with_key(key)), 401, "not_authenticated")
    await refused(relay.post("/tickets", {"agent_id": "a"}, headers=TOKEN), 403, "not_allowed")
    made = await ticket_for(relay, "a", key)
    assert made["seconds"] == SECONDS
    assert made["url"] == f"/events/a?ticket={made['ticket']}"
    assert made["ticket"] != "t"
    assert key not in made["url"]
    # The headers of a page's EventSource: none of the page's own, and all that mark a browser.
    looks = {"User-Agent": "Mozilla/5.0", "Accept": "text/event-stream", "Referer": "http://192.168.1.5:9077/"}
    async with relay.session.get(relay.url + made["url"], headers=looks) as response:
        assert response.status == 200
        stream = Stream(response)
        await ok(
            relay.post("/send", {"from_agent": "a", "to_agent": "a", "content": 1}, headers={**TOKEN, **with_key(key)})
        )
        while (event := await stream.next()) is not None and event.type != "message":
            pass
        assert event is not None
        assert event.data["content"] == 1
        await refused(relay.get(made["url"], headers=looks), 401, "not_authenticated")
    again = await ticket_for(relay, "a", key, last_event_id=event.id)
    async with relay.session.get(relay.url + again["url"], headers=looks) as response:
        assert response.status == 200
        status = await ok(
            relay.get(f"/messages/{event.data['message_id']}?agent_id=a", headers={**TOKEN, **with_key(key)})
        )
        assert status["state"] == "acked"
    other = await ticket_for(relay, "a", key)
    await refused(relay.get(other["url"].replace("/events/a", "/events/b")), 401, "not_authenticated")
    await refused(
        relay.get(f"/poll/a?ticket={(await ticket_for(relay, 'a', key))['ticket']}"), 401, "not_authenticated"
    )


async def test_without_a_token_a_ticket_is_needed_no_more_than_before(serve: Serve) -> None:
    relay = await serve()
    await relay.register("a", agent_id="a")
    await send(relay, "a", "a")
    async with relay.session.get(relay.url + "/events/a?credit=1") as response:
        assert response.status == 200
    await refused(relay.get("/events/a?ticket=made-up"), 401, "not_authenticated")
