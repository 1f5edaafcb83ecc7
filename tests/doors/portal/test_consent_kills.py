"""Consent between portals in processes of their own: each answer on its way is lost in turn, by a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Running, Start
from tests.doors.portal.conftest import Bridges, Own
from tests.doors.portal.test_processes import Gate, Portal
from tests.waiting import until


@pytest.fixture
async def gates() -> AsyncIterator[tuple[Gate, Gate]]:
    """Return a gate before each of two portals."""
    made = Gate(), Gate()
    for gate in made:
        await gate.start()
    yield made
    for gate in made:
        await gate.stop()


async def test_a_kill_at_any_point_of_consent_loses_and_doubles_nothing(
    start_relay: Start, session: aiohttp.ClientSession, gates: tuple[Gate, Gate], bridges: Bridges, tmp_path: Path
) -> None:
    to_a, to_b = gates
    a = Portal(start_relay, session, tmp_path / "a", url=to_a.url)
    b = Portal(start_relay, session, tmp_path / "b", url=to_b.url)
    to_a.target, to_b.target = a.port, b.port
    a.begin()
    b.begin()
    at_a, at_b = (Own(Running(gate.url, None, session)) for gate in gates)  # type: ignore[arg-type]

    async def lose(gate: Gate, victim: Portal, request: Coroutine[Any, Any, Any]) -> Any:
        """Kill a portal while the answer to a request is held back; return what the request learns of it."""
        gate.holds = True
        asking = asyncio.create_task(request)
        await gate.held.wait()
        victim.kill()
        gate.cut()
        answer: Any = (await asyncio.gather(asking, return_exceptions=True))[0]
        gate.holds = False
        gate.held.clear()
        victim.begin()
        return answer

    add = ("POST", "/api/contacts", {"portal_url": to_b.url, "agent_name": "bob"})
    assert isinstance(await lose(to_a, a, at_a.ask(*add)), aiohttp.ClientError)
    await at_a.well(*add)
    contact = await at_a.contact(to_b.url)
    assert contact["id"] == 1
    text = f"I am Ann.\nMy portal: {to_a.url}\nKey: {contact['SHARED_KEY']}"
    leave = ("POST", "/api/guest/leave-message", {"content": text})
    assert isinstance(await lose(to_b, b, at_b.ask(*leave, key="")), aiohttp.ClientError)
    assert (await at_b.well(*leave, key=""))["message_id"] == 1, "a repeat of an offer is the same guest message"
    bridge = await bridges(b.own)
    await until(lambda: any("I am Ann." in told for told in bridge.texts))
    early = (await a.own.well("POST", "/api/portal/send", {"to": "bob", "content": "early"}))["id"]
    approve = ("POST", "/api/portal/guests/1", {"decision": "approve", "agent_name": "ann"})
    assert isinstance(await lose(to_b, b, at_b.ask(*approve)), aiohttp.ClientError)
    assert (await at_b.well(*approve))["contact"]["id"] == 1
    hello = (await a.own.well("POST", "/api/portal/send", {"to": "bob", "content": "hello"}))["id"]
    for number in (early, hello):  # the second one ends the pause of the first
        await a.own.state(number, "sent", "acknowledged")
    guests = (await b.own.well("GET", "/api/guest/messages"))["messages"]
    assert [(guest["id"], guest["status"]) for guest in guests] == [(1, "approved")]
    renew = ("POST", "/api/portal/contacts/bob/key")
    told = await lose(to_b, b, a.own.ask(*renew))
    assert (told[0], told[1]["state"]) == (200, "pending"), told
    assert (await a.own.well(*renew))["state"] == "renewed"
    renewed = await lose(to_b, a, a.own.ask(*renew))
    assert isinstance(renewed, aiohttp.ClientError)
    assert (await a.own.well(*renew))["state"] == "renewed"
    keys = {(await own.contact(url))["SHARED_KEY"] for own, url in ((a.own, to_b.url), (b.own, to_a.url))}
    assert len(keys - {contact["SHARED_KEY"]}) == 1, "both have the same new key"
    again = await bridges(b.own)
    for own, to, content in ((a.own, "bob", "with the new key"), (b.own, "ann", "welcome")):
        number = (await own.well("POST", "/api/portal/send", {"to": to, "content": content}))["id"]
        await own.state(number, "sent", "acknowledged")
    await until(lambda: any("with the new key" in told for told in again.texts))
    assert not any("I am Ann." in told for told in again.texts), "the guest was told of once"
    for own, url in ((a.own, to_b.url), (b.own, to_a.url)):
        assert (await own.well("GET", "/api/contacts"))["total"] == 1
        told = await own.well("GET", "/api/messages", params={"contact_portal": url})
        assert [one["content"] for one in told["messages"]] == ["early", "hello", "with the new key", "welcome"]
