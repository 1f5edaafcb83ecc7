"""Values that nobody sends in earnest, from contacts and from the owner's programs: refused, or left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.doors.portal.conftest import Portals
from tests.doors.portal.test_forwarded_tasks import well
from tests.doors.portal.test_messages import send

FAR = ("0001-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")


class Liar:
    """A portal that says it is one of ClawLink, takes each message, and tells any times of it."""

    def __init__(self) -> None:
        self.url = ""
        self.time: Any = None

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/api/portal/about":
            return web.json_response({"portal": "clawlink"})
        key = (await request.json())["idempotency_key"]
        if request.path == "/api/message/receive":
            return web.json_response({"status": "received", "idempotency_key": key})
        return web.json_response(dict.fromkeys(("stored_at", "acknowledged_at", "answered_at"), self.time))


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    liar = Liar()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", liar.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    liar.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield liar
    await runner.cleanup()


async def test_times_that_no_clock_shows_are_no_facts(portals: Portals, liar: Liar) -> None:
    portal = await portals()
    await portal.befriend(liar.url, agent_name="bob")
    times: list[Any] = [*FAR, "soon", 5, [], {}]
    for time in times:
        liar.time = time
        number = await send(portal, "bob", f"hello {time}")
        told = await portal.state(number, "sent")
        assert "a time in its answer cannot be read" in told["detail"], time
    for time in FAR:
        status, answer = await portal.ask("POST", "/api/portal/contacts/bob", {"until": time})
        assert (status, answer["field"]) == (400, "until"), time
    assert (await portal.contact(liar.url))["until"] is None


async def test_a_blank_name_is_no_name(portals: Portals) -> None:
    portal = await portals()
    await portal.befriend("https://b.example", agent_name="  ", user_name=" Bob ")
    contact = await portal.contact("https://b.example")
    assert (contact["agent_name"], contact["user_name"]) == (None, "Bob")
    await well(portal, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    body = {"from_agent": "ann", "to_agent": " @portal", "content": "x"}
    status, answer = await portal.relay.ask("POST", "/send", json=body, headers={"Authorization": "Bearer t"})
    assert (status, answer["code"]) == (404, "unknown_agent")
