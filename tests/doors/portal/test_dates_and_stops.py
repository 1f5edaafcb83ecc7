"""Dates, paces and posts of a portal whose operator has stopped all work, or had stopped it before."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.domain.standstill import Past, Standstill
from clawlink.doors.portal.records import FORWARDED, ForwardedTask
from clawlink.doors.portal.rules.texts import seconds
from clawlink.doors.portal.server import keys, outbox
from clawlink.doors.portal.server.file_outbox import FileOutbox
from clawlink.doors.portal.server.outbox import Outbox
from clawlink.doors.portal.server.poster import Poster
from clawlink.protocol.operating import StopAll
from tests.doors.portal.conftest import PASSWORD, Bridges, Own, Peers, Portals
from tests.doors.portal.test_files import give, pair, status_of
from tests.doors.portal.test_forwarded_tasks import delegate, task_in, well
from tests.doors.portal.test_messages import send
from tests.waiting import eventually, until

HOUR = 3600.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


def had_stopped(own: Own) -> None:
    """Have relay time of a portal be an hour behind the calendar."""
    own.relay.app.relay.core.follow(Standstill(version=1, past=(Past(time.time() - 2 * HOUR, HOUR),)))


async def test_a_contact_ends_at_its_date_though_work_was_stopped(portals: Portals) -> None:
    a, b = await pair(portals)
    for own in (a, b):
        had_stopped(own)
    over = (datetime.now(timezone.utc) - timedelta(minutes=1)).isoformat()
    await a.state(await send(a, b.url, "in time"), "sent")
    contact = (await b.contact(a.url))["id"]
    key = (await b.contact(a.url))["SHARED_KEY"]
    await b.well("POST", f"/api/portal/contacts/{contact}", {"until": over})
    body = {"api_key": key, "from_portal": a.url, "content": "late"}
    for path, more in (("/api/message/receive", {}), ("/api/portal/tasks", {"kind": "task", "task_id": "1"})):
        status, answer = await b.ask("POST", path, body | more, key="")
        assert (status, "takes nothing from you" in answer["detail"]) == (403, True), (path, answer)
    status, answer = await b.ask("POST", "/api/portal/send", {"to": a.url, "content": "late"})
    assert (status, "is ended" in answer["detail"]) == (409, True), answer
    assert "is ended" in (await task_in(b, await delegate(b, "A-bot@portal", "late"), "rejected"))["result"]


async def test_a_deadline_goes_over_as_the_seconds_that_are_left(portals: Portals) -> None:
    a, b = await pair(portals)
    had_stopped(a)
    await well(a, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    ask = {"from_agent": "ann", "to_agent": "B-bot@portal", "task": "soon", "deadline": 600}
    id = (await well(a, "POST", "/delegate", ask))["message_id"]
    core = b.relay.app.relay.core

    async def there() -> Any:
        return (await core.store.page(ForwardedTask, FORWARDED)).records

    (forwarded,) = await eventually(there)
    delivery = await core.store.get(Delivery, forwarded.id)
    assert delivery is not None
    assert forwarded.peer_id == id
    assert delivery.deadline_at is not None
    assert 0 < delivery.deadline_at - core.clock() <= 600


async def test_logins_and_quotas_fill_up_again_in_a_stop(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = await portals()
    core = portal.relay.app.relay.core
    now = [time.time()]
    monkeypatch.setattr(core, "steady", lambda: now[0])
    await portal.relay.app.relay.stops.switch(StopAll(True))
    wrong = {"password": "wrong"}
    for _ in range(keys.LOGINS_AT_ONCE):
        assert (await portal.ask("POST", "/api/admin/login", wrong, key=""))[0] == 401
    assert (await portal.ask("POST", "/api/admin/login", wrong, key=""))[0] == 429
    now[0] += HOUR
    assert (await portal.ask("POST", "/api/admin/login", wrong, key=""))[0] == 401


async def test_a_login_ends_by_the_calendar_in_a_stop(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = await portals()
    core = portal.relay.app.relay.core
    now = [time.time()]
    monkeypatch.setattr(core, "steady", lambda: now[0])
    await portal.relay.app.relay.stops.switch(StopAll(True))
    login = await portal.well("POST", "/api/admin/login", {"password": PASSWORD}, key="")
    assert login["expiry"] == int((now[0] + keys.SESSION_SECONDS) * 1000)
    now[0] += keys.SESSION_SECONDS - 1
    await portal.well("GET", "/api/contacts", key=login["token"])
    now[0] += 2
    assert (await portal.ask("GET", "/api/contacts", key=login["token"]))[0] == 401


async def test_a_system_clock_that_is_set_ends_nothing_and_gives_nothing_back(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logins, ends of contacts, paces of guests and uploads count in relay time."""
    portal = await portals(portal_guest_rate=1)
    own = portal.relay
    key = await portal.befriend("https://b.example")
    contact = (await portal.contact("https://b.example"))["id"]
    until_then = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    await portal.well("POST", f"/api/portal/contacts/{contact}", {"until": until_then})
    login = (await portal.well("POST", "/api/admin/login", {"password": PASSWORD}, key=""))["token"]
    await portal.well("POST", "/api/guest/leave-message", {"content": "hello"}, key="")
    bearer = {"Authorization": "Bearer t"}
    tus = {
        **bearer,
        "Tus-Resumable": "1.0.0",
        "ClawLink-Agent": "a",
        "Upload-Length": "5",
        "Upload-Metadata": "key aw==",
    }
    assert (await own.ask("POST", "/register", json={"agent_id": "a", "name": "Ann"}, headers=bearer))[0] == 200
    async with own.session.post(own.url + "/uploads", headers=tus) as begun:
        upload = begun.headers["Location"]
    body = {"api_key": key, "from_portal": "https://b.example", "content": "in time"}
    real = time.time
    for jump in (10 * 365 * 24 * HOUR, -10 * 365 * 24 * HOUR, 0.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        await own.app.relay.janitor.sweep()
        await portal.well("GET", "/api/contacts", key=login)
        await portal.well("POST", "/api/message/receive", body, key="")
        assert (await portal.ask("POST", "/api/guest/leave-message", {"content": "again"}, key=""))[0] == 429
        async with own.session.head(own.url + upload, headers=tus) as told:
            assert told.status == 200, jump


async def test_times_are_those_of_the_calendar_after_a_stop(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    for own in (a, b):
        had_stopped(own)
    begun = time.time()
    number = await send(a, b.url, "hello")
    sent = await a.state(number, "sent")
    (listed,) = (await b.well("GET", "/api/messages", params={"contact_portal": a.url}))["messages"]
    bridge = await bridges(b, key=b.key)
    await a.state(number, "acknowledged")
    door: Any = b.relay.app.doors["portal"]
    await door.active.repository.notice("x", "a notice")
    await until(lambda: any(frame["type"] == "notice" for frame in bridge.frames))
    told = await a.well("GET", f"/api/portal/messages/{number}")
    await a.well("POST", "/api/chat/owner/send", {"content": "a line"})
    (line,) = (await a.well("GET", "/api/chat/owner/history"))["messages"]
    times = [sent["stored_at"], sent["sent_at"], told["acknowledged_at"], listed["created_at"], line["created_at"]]
    times += [frame.get("created_at") or frame["timestamp"] for frame in bridge.frames if "content" in frame]
    for text in times:
        assert begun - 1 < seconds(text) < begun + 60, times
    assert begun + 71 * HOUR < seconds(sent["expires_at"]) < begun + 73 * HOUR


async def test_nothing_that_waits_is_posted_in_a_stop(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "STOPPED_SECONDS", 0.02)
    a, b = await pair(portals)
    await b.well("POST", "/api/portal/contacts/A-bot", {"paused": True})
    posts, looks = [], {"task": 0, "file": 0}
    request, pause, wait = Poster.request, Outbox._pause, FileOutbox._wait

    async def counted(self: Poster, contact: Any, method: str, path: str, *rest: Any, **more: Any) -> Any:
        posts.append(path)
        return await request(self, contact, method, path, *rest, **more)

    async def seen(self: Outbox, contact: str, agent: Any, delivery: Any, seconds: float) -> None:
        looks["task"] += seconds == outbox.STOPPED_SECONDS
        await pause(self, contact, agent, delivery, seconds)

    async def seen_too(self: FileOutbox, contact: str, seconds: float) -> None:
        looks["file"] += seconds == outbox.STOPPED_SECONDS
        await wait(self, contact, seconds)

    monkeypatch.setattr(Poster, "request", counted)
    monkeypatch.setattr(Outbox, "_pause", seen)
    monkeypatch.setattr(FileOutbox, "_wait", seen_too)
    task, file = await delegate(a, "B-bot@portal", "wait"), await give(a, b.url, "x.bin", b"x")
    await until(lambda: "/api/portal/tasks" in posts and "/api/file/initiate" in posts)
    await a.relay.app.relay.stops.switch(StopAll(True))
    await until(lambda: min(looks.values()) > 0)
    before = list(posts)
    await b.well("POST", "/api/portal/contacts/A-bot", {"paused": False})
    looks.update(task=0, file=0)
    await until(lambda: min(looks.values()) > 2)
    assert posts == before
    await a.relay.app.relay.stops.switch(StopAll(False))
    await task_in(a, task, "delivered")
    await status_of(a, file, "sent")
    await until(lambda: "/api/portal/tasks" in posts[len(before) :])


async def test_upkeep_ends_no_pause_after_a_failure(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 3600.0)
    pauses, pause = [], Outbox._pause

    async def seen(self: Outbox, contact: str, *rest: Any) -> None:
        pauses.append(contact)
        await pause(self, contact, *rest)

    monkeypatch.setattr(Outbox, "_pause", seen)
    a, b = await pair(portals)
    await b.well("POST", "/api/portal/contacts/A-bot", {"paused": True})
    door: Any = a.relay.app.doors["portal"]
    await delegate(a, "B-bot@portal", "wait")
    await until(lambda: pauses == [b.url])
    await door.upkeep(0.0)
    assert not door.active.outbox._hurry[b.url].is_set()
    await b.well("POST", "/api/portal/contacts/A-bot", {"paused": False})
    await a.state(await send(a, b.url, "a new message does"), "sent")
    assert pauses == [b.url]


async def test_a_worker_ends_with_the_relay_though_more_came_meanwhile(portals: Portals, old_portals: Peers) -> None:
    """It began again and again, and found that it was to end."""
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    peer.pause = asyncio.Event()
    await send(portal, peer.url, "one")
    await until(lambda: len(peer.stored) == 1)
    await send(portal, peer.url, "two")
    door: Any = portal.relay.app.doors["portal"]
    await portal.relay.app.relay.drain()
    peer.pause.set()
    await until(lambda: door.active.outbox.working == 0)
    assert [one["content"] for one in peer.stored] == ["one"], "the other waits for the next start"
