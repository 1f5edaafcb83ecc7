"""No delivery holds up those behind it: neither one of very many parts, nor one that nobody can read."""

from __future__ import annotations

from typing import Any

import pytest

from clawlink.domain.dense_json import MAX_PARTS
from clawlink.doors.portal.server import outbox, socket
from clawlink.doors.portal.server.errands import Errands, told_of
from tests.doors.portal.conftest import Bridges, Peers, Portals
from tests.doors.portal.test_errands import delegate, heard, task_in, well
from tests.doors.portal.test_files import pair
from tests.waiting import until

DENSE: list[Any] = [[] for _ in range(MAX_PARTS + 1000)]
B_KEY = "ap2p_the-key-of-another-owner-000000000000000000"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


async def test_very_many_parts_go_over(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", DENSE)
    there = await heard(bridge, "[],[],[]")
    assert there != id
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": DENSE})
    done = await task_in(a, id, "completed")
    assert done["result"] == DENSE
    own = await delegate(b, "agent", DENSE)
    await until(lambda: any(f"Task {own}: [[],[]" in told for told in bridge.texts))
    await well(b, "POST", "/send", {"from_agent": "ann", "to_agent": "agent", "content": {"count": 3}})
    await until(lambda: any('{"count": 3}' in told for told in bridge.texts))


async def test_very_many_parts_hold_up_no_message_to_an_old_portal(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url, agent_name="bob"), portal.url
    dense = await delegate(portal, "bob@portal", DENSE)
    large = await delegate(portal, "bob@portal", DENSE * 2)
    await well(portal, "POST", "/send", {"from_agent": "ann", "to_agent": "bob@portal", "content": DENSE})
    await well(portal, "POST", "/send", {"from_agent": "ann", "to_agent": "bob@portal", "content": "hello"})
    assert "knows no tasks" in (await task_in(portal, dense, "rejected"))["result"]
    assert "at most 131072 bytes" in (await task_in(portal, large, "rejected"))["result"]
    await until(lambda: len(peer.stored) == 3)
    starts = [one["content"][:8] for one in peer.stored]
    assert starts == ["[[],[],[", "Ann: [[]", "Ann: hel"]


async def test_what_cannot_be_read_is_settled(
    portals: Portals, old_portals: Peers, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url, agent_name="bob"), portal.url
    carry = Errands.carry

    async def fail(self: Errands, contact: Any, agent: Any, delivery: Any) -> bool:
        if b"poison" in delivery.body:
            raise TypeError("not to be read")
        return await carry(self, contact, agent, delivery)

    def fail_too(body: Any) -> str | None:
        if "poison" in str(body):
            raise TypeError("not to be read")
        return told_of(body)

    monkeypatch.setattr(Errands, "carry", fail)
    monkeypatch.setattr(socket, "told_of", fail_too)
    monkeypatch.setattr(outbox, "_MISHAP_SECONDS", 0.05)
    task = await delegate(portal, "bob@portal", "poison")
    for text in ("poison", "hello"):
        await well(portal, "POST", "/send", {"from_agent": "ann", "to_agent": "bob@portal", "content": text})
    assert "plain text or as a file" in (await task_in(portal, task, "rejected"))["result"]
    await until(lambda: [one["content"] for one in peer.stored] == ["Ann: hello"])
    bridge = await bridges(portal)
    await until(lambda: any("to a contact was not sent" in told for told in bridge.texts))
    own = await delegate(portal, "agent", "poison")
    await delegate(portal, "agent", "good")
    await until(lambda: any(": good" in told for told in bridge.texts))
    assert any(f"Message {own} cannot be shown here" in told for told in bridge.texts)
