"""A message of an agent of the relay for a contact: its sender sees which facts are true, and when."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.server.task_files import TaskFiles
from clawlink.relay.mailbox.messages import Messages
from clawlink.store.base import Failed
from tests.doors.portal.conftest import Bridges, Own, Peers, Portals
from tests.doors.portal.test_files import pair
from tests.doors.portal.test_forwarded_tasks import B_KEY, well
from tests.doors.portal.test_messages import send
from tests.doors.portal.test_reports import messages_of
from tests.doors.portal.test_task_files import files_of, share
from tests.waiting import eventually, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


async def say(own: Own, to: str, content: str, **more: Any) -> str:
    """Send a message as an agent of the relay, and return its id."""
    await well(own, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    told = await well(own, "POST", "/send", {"from_agent": "ann", "to_agent": to, "content": content, **more})
    return str(told["message_id"])


async def facts(own: Own, id: str, *names: str) -> Any:
    """Wait until a message has these facts, and return all that is told of it."""

    async def ask() -> Any:
        told = await well(own, "GET", f"/messages/{id}?agent_id=ann")
        return told if all(told[name] is not None for name in names) else None

    return await eventually(ask)


async def test_it_is_acked_once_the_other_portal_has_it_and_answered_once_it_is(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    posting, go = asyncio.Event(), asyncio.Event()
    post = Poster.post

    async def wait(self: Poster, contact: Any, message: Any) -> Any:
        posting.set()
        await go.wait()
        return await post(self, contact, message)

    monkeypatch.setattr(Poster, "post", wait)
    id = await say(a, "B-bot@portal", "hello")
    await posting.wait()
    told = await facts(a, id, "delivered_at")
    assert (told["state"], told["acked_at"]) == ("delivered", None), "this portal works on it"
    go.set()
    told = await facts(a, id, "acked_at")
    assert (told["state"], told["answered_at"]) == ("acked", None)
    (sent,) = (await a.well("GET", "/api/messages/history", params={"contact_portal": b.url}))["messages"]
    assert (sent["content"], sent["state"]) == ("Ann: hello", "sent")
    await until(lambda: any(text.endswith("Ann: hello") for text in bridge.texts))
    there = (await b.well("GET", "/api/messages/history", params={"contact_portal": a.url}))["messages"][0]["id"]
    await send(b, "A-bot", "hello Ann", in_reply_to=there)
    assert (await facts(a, id, "answered_at"))["state"] == "acked"


async def test_an_answer_that_met_a_mishap_is_noted_once_it_comes_again(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    mark = Messages.mark_answered
    mishaps = ["the server went away"]

    async def fail_once(self: Messages, *args: Any, **named: Any) -> None:
        if mishaps:
            raise Failed(mishaps.pop())
        await mark(self, *args, **named)

    id = await say(a, "B-bot@portal", "hello")
    await facts(a, id, "acked_at")
    await until(lambda: any(text.endswith("Ann: hello") for text in bridge.texts))
    there = (await b.well("GET", "/api/messages/history", params={"contact_portal": a.url}))["messages"][0]["id"]
    monkeypatch.setattr(Messages, "mark_answered", fail_once)
    await send(b, "A-bot", "hello Ann", in_reply_to=there)
    assert (await facts(a, id, "answered_at"))["state"] == "acked"
    assert not mishaps


async def test_a_mishap_between_the_message_and_its_files_loses_neither(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    send_files = TaskFiles.send
    mishaps = ["the disk went away"]

    async def fail_once(self: TaskFiles, *args: Any) -> Any:
        if mishaps:
            raise Failed(mishaps.pop())
        return await send_files(self, *args)

    monkeypatch.setattr(TaskFiles, "send", fail_once)
    file = await share(a, "sheep.csv", b"123")
    id = await say(a, "B-bot@portal", "see there", attachments=[file])
    await facts(a, id, "acked_at")
    there = await eventually(partial(files_of, b))
    assert list(there) == ["sheep.csv"]


async def test_what_the_contact_does_not_get_is_never_acked(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url, agent_name="bob"), portal.url
    too_long = await say(portal, "bob@portal", "x" * 131_072)
    assert (await facts(portal, too_long, "expired_at"))["acked_at"] is None
    peer.answer = lambda: web.json_response({"detail": "no"}, status=400)
    refused = await say(portal, "bob@portal", "refused")
    assert (await facts(portal, refused, "expired_at"))["acked_at"] is None
    peer.answer = None
    done = await say(portal, "bob@portal", "taken")
    await facts(portal, done, "acked_at")
    assert [one["content"] for one in peer.stored] == ["Ann: taken"]
    told = [one["content"] for one in await messages_of(portal, "ann")]
    assert any(f"Message {too_long} to " in text and "131072 bytes" in text for text in told), told
    assert any(
        f"({refused}) to " in text and f'is refused: the portal {peer.url} answers 400: "no"' in text for text in told
    )
    assert len(told) == 2
