"""The owner's chat: attachments for the owner and the agents alone, and the agent's answers while they come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.doors.portal.rules.file_parts import MAX_ATTACHMENT_BYTES
from tests.doors.portal.conftest import OWNER, Bridges, Own, Portals
from tests.doors.portal.old_databases import OWN, make
from tests.doors.portal.test_import_page import Page
from tests.waiting import until


async def upload(own: Own, name: str, data: bytes, *, key: str = OWNER, field: str = "file") -> tuple[int, Any]:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field(field, data, filename=name)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with own.relay.session.post(own.url + "/api/chat/owner/upload", data=form, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_attachments_are_for_the_owner_and_the_agents_alone(portals: Portals) -> None:
    portal = await portals()
    contact = await portal.befriend("https://b.example")
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    page = b"<script>alert(1)</script>"
    status, told = await upload(portal, "../../x.HTML", page)
    assert (status, told["status"], told["filename"]) == (200, "ok", "x.HTML")
    assert told["url"].startswith("/static/owner_files/")
    assert told["url"].endswith(".html")
    for key, expected in (("", 401), ("ap2p_" + "x" * 43, 401), (contact, 403), (agent, 200), (OWNER, 200)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with portal.relay.session.get(portal.url + told["url"], headers=headers) as answer:
            assert answer.status == expected, key
            if expected == 200:
                assert await answer.read() == page
                assert answer.headers["Content-Type"] == "application/octet-stream", "no page in the portal's name"
                assert answer.headers["Content-Disposition"] == "attachment"
                assert "sandbox" in answer.headers["Content-Security-Policy"]
        if expected != 200:
            assert (await upload(portal, "x", b"x", key=key))[0] == expected
    assert (await upload(portal, "x", b"x", key=agent))[0] == 403
    for name in ("none", "..%2F..%2Fx", told["url"].rpartition("/")[2][:-1] + "%00"):
        assert (await portal.ask("GET", "/static/owner_files/" + name))[0] == 404, name


async def test_an_attachment_that_is_none_or_too_large_is_refused(portals: Portals) -> None:
    portal = await portals()
    status, answer = await upload(portal, "x", b"x" * 10, field="other")
    assert (status, answer["field"]) == (400, "file")
    assert (await portal.ask("POST", "/api/chat/owner/upload", {"file": "x"}))[0] == 400
    headers = {"Authorization": f"Bearer {OWNER}", "Content-Type": "multipart/form-data"}
    url = portal.url + "/api/chat/owner/upload"
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        async with portal.relay.session.post(url, data=b"nonsense", headers={**headers, "Content-Type": kind}) as got:
            assert got.status == 400, kind
    large = aiohttp.FormData()
    large.add_field("file", iter_of(MAX_ATTACHMENT_BYTES + 1), filename="large")
    async with portal.relay.session.post(url, data=large, headers={"Authorization": f"Bearer {OWNER}"}) as got:
        assert (got.status, (await got.json())["field"]) == (413, "file")


async def iter_of(size: int) -> Any:
    while size > 0:
        yield b"x" * min(size, 65_536)
        size -= 65_536


async def test_a_page_hears_the_agents_answer_and_a_bridge_does_not(portals: Portals, bridges: Bridges) -> None:
    portal = await portals()
    bridge = await bridges(portal)
    page = await portal.relay.session.ws_connect(f"{portal.url}/ws/agent", params={"api_key": OWNER})
    await until(lambda: any(frame["type"] == "sync_response" for frame in bridge.frames))
    line = (await portal.well("POST", "/api/chat/owner/reply", {"content": "done"}))["message_id"]
    while (frame := await page.receive_json())["type"] != "owner_reply":
        pass
    assert (frame["content"], frame["message_id"]) == ("done", line)
    await portal.well("POST", "/api/chat/owner/send", {"content": "thanks"})
    assert "owner_reply" not in [frame["type"] for frame in bridge.frames], "it would wake the agent by its own words"


async def test_a_reader_of_lines_goes_on_over_the_numbers_of_a_great_many_messages(
    portals: Portals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages have the numbers between two lines. Lines of an old portal come behind later ones."""
    portal = await portals()
    last = 300_000
    lines = [{"id": last - 450 + number, "role": "owner", "content": f"of old {number}"} for number in range(400)]
    message = {"id": last, "from_portal": "https://b.example", "to_portal": OWN, "content": "hi"}
    path = make(tmp_path / "portal.db", "0.9", messages=[message], owner_chats=lines)
    said = [await portal.well("POST", "/api/chat/owner/reply", {"content": "before"})]
    await (await Page(portal).enter()).bring(path)
    said += [await portal.well("POST", "/api/chat/owner/reply", {"content": "behind"})]
    assert [one["message_id"] for one in said] == [1, last + 1]
    store, asked = portal.relay.app.relay.core.store, 0
    original = store.get_many

    async def counted(kind: type[Any], ids: Sequence[str]) -> Any:
        nonlocal asked
        asked += len(ids)
        return await original(kind, ids)

    monkeypatch.setattr(store, "get_many", counted)
    after, read = 0, []
    while found := (await portal.well("GET", "/api/chat/owner/history", params={"after": after}))["messages"]:
        read += [one["content"] for one in found]
        after = found[-1]["id"]
    assert read == ["before", *(f"of old {number}" for number in range(400)), "behind"]
    assert after == last + 1
    assert asked < 10_000
