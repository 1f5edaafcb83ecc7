"""No delivery holds up those behind it: neither one of very many parts, nor one that nobody can read."""

from __future__ import annotations

from typing import Any

import pytest

from clawlink.domain.dense_json import MAX_PARTS
from clawlink.doors.portal.server import file_outbox, file_store, outbox, socket
from clawlink.doors.portal.server.file_store import FileStore
from clawlink.doors.portal.server.forwarded_tasks import Carried, ForwardedTasks, told_of
from clawlink.doors.portal.transfers import FileState, Transfer
from clawlink.errors import StoreUnavailable
from tests.doors.portal.conftest import Bridges, Peers, Portals
from tests.doors.portal.test_files import give, pair, status_of
from tests.doors.portal.test_forwarded_tasks import delegate, heard, task_in, well
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
    carry = ForwardedTasks.carry

    async def fail(self: ForwardedTasks, contact: Any, agent: Any, delivery: Any) -> Carried:
        if b"poison" in delivery.body:
            raise TypeError("not to be read")
        return await carry(self, contact, agent, delivery)

    def fail_too(body: Any) -> str | None:
        if "poison" in str(body):
            raise TypeError("not to be read")
        return told_of(body)

    monkeypatch.setattr(ForwardedTasks, "carry", fail)
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


async def test_a_file_that_always_fails_ends_with_a_reason_and_holds_up_no_other(
    portals: Portals, old_portals: Peers, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    peer = await old_portals("0.9")
    peer.key, peer.from_portal = await a.befriend(peer.url, agent_name="old"), a.url
    bridge = await bridges(a)
    monkeypatch.setattr(file_store, "_WAITING_PAGE", 1)
    opened, waits, sent = FileStore.opened, FileStore.next_waiting, FileStore.sent
    failing = {"waiting": 1}

    def fail(self: FileStore, transfer: Transfer, start: int = 0) -> Any:
        if "poison" in transfer.filename:
            raise TypeError("not to be read")
        return opened(self, transfer, start)

    async def fail_once(self: FileStore, contact: str, but: set[str]) -> Transfer | None:
        if failing["waiting"]:
            failing["waiting"] -= 1
            raise StoreUnavailable("the store is away", retry_after=1.0)
        return await waits(self, contact, but)

    async def fail_to_end(self: FileStore, id: str, state: FileState, detail: str, text: str | None) -> None:
        if (await self.get(id)).filename == "poison that stays":
            raise TypeError("not to be written")
        await sent(self, id, state, detail, text)

    monkeypatch.setattr(FileStore, "opened", fail)
    monkeypatch.setattr(FileStore, "next_waiting", fail_once)
    monkeypatch.setattr(FileStore, "sent", fail_to_end)
    monkeypatch.setattr(file_outbox, "_MISHAP_SECONDS", 0.01)
    for to in ("B-bot", "old"):
        await a.well("POST", f"/api/portal/contacts/{to}", {"paused": True})
        ids = [await give(a, to, name, b"x") for name in ("poison", "poison that stays", "1", "2", "3", "4")]
        await a.well("POST", f"/api/portal/contacts/{to}", {"paused": False})
        refused = await status_of(a, ids[0], "refused")
        assert "could not read it to send it; send it again" in refused["detail"]
        for id in ids[2:]:
            await status_of(a, id, "sent")
        assert (await status_of(a, ids[1], "queued"))["filename"] == "poison that stays"
    came = [one for one in (await b.well("GET", "/api/portal/files"))["files"] if one["status"] == "completed"]
    assert [one["filename"] for one in reversed(came)] == ["1", "2", "3", "4"]
    await until(lambda: sum("File poison to" in text and "is refused" in text for text in bridge.texts) == 2)
