"""Routes of Agent P2P that its users still call: what they do now, and what those that are gone say."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from clawlink.doors.portal.server import photos
from clawlink.doors.portal.wire.old_calls import GONE, OLD_CALLS
from tests.doors.portal.conftest import OWNER, PASSWORD, Own, Peers, Portals
from tests.server.test_page_files import BROWSER

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
GIF = b"GIF89a" + b"\0" * 40


async def upload(own: Own, data: Any, *, field: str = "photo", name: str = "x", **headers: str) -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field(field, data, filename=name)
    async with own.relay.session.post(own.url + "/api/photos/upload", data=form, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_message_by_the_number_of_a_contact_reaches_its_portal(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    body = {"contact_id": (await portal.contact(peer.url))["id"], "content": "hello"}
    told = await portal.well("POST", "/api/message/send", body)
    assert (told["status"], told["message_id"]) == ("queued", 1), "it is called delivered by nobody who does not know"
    await portal.state(1, "sent")
    assert [one["content"] for one in peer.stored] == ["hello"]
    status, answer = await portal.ask("POST", "/api/message/send", {**body, "contact_id": 99})
    assert (status, answer["field"]) == (404, "contact_id")
    status, answer = await portal.ask("POST", "/api/message/send", {**body, "content": ""})
    assert (status, answer["field"]) == (400, "content")
    status, answer = await portal.ask("POST", "/api/message/send", body, key="")
    assert (status, "clawlink portal send" in answer["detail"]) == (401, True), answer


async def test_the_place_of_openclaw_is_kept_for_the_owner_alone(portals: Portals) -> None:
    portal = await portals()
    place = {"url": "http://127.0.0.1:18789", "token": "secret"}
    assert await portal.well("POST", "/api/config/openclaw", place) == {"status": "saved"}
    told = await portal.well("GET", "/api/portal/info")
    assert (told["openclaw_url"], told["openclaw_token"]) == (place["url"], place["token"])
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    for key, status in ((agent, 403), ("", 401), (await portal.befriend("https://b.example"), 403)):
        for method, path in (("GET", "/api/portal/info"), ("POST", "/api/config/openclaw")):
            assert (await portal.ask(method, path, place if method == "POST" else None, key=key))[0] == status, path
    status, answer = await portal.ask("POST", "/api/config/openclaw", {**place, "token": "x" * 2001})
    assert (status, answer["field"]) == (400, "token")
    await portal.relay.app.doors["portal"].start()  # as a restart over the same records
    assert (await portal.well("GET", "/api/portal/info"))["openclaw_token"] == "secret"
    await portal.well("POST", "/api/config/openclaw", {"url": "", "token": ""})
    assert (await portal.well("GET", "/api/portal/info"))["openclaw_url"] is None


async def test_the_plugin_of_openclaw_answers_with_a_key(portals: Portals) -> None:
    portal = await portals()
    path, body = "/api/internal/agent-reply", {"content": "done", "user_id": "owner"}
    status, answer = await portal.ask("POST", path, body, key="")
    assert (status, "clawlink portal reply" in answer["detail"]) == (401, True), answer
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    await portal.well("POST", path, body, key=agent)
    (line,) = (await portal.well("GET", "/api/chat/owner/history"))["messages"]
    assert (line["role"], line["content"]) == ("agent", "done")


async def test_a_bookmark_of_the_old_page_leads_to_the_owners(portals: Portals) -> None:
    portal = await portals()
    async with portal.relay.session.get(portal.url + "/static/admin.html", headers=BROWSER) as answer:
        assert (answer.status, str(answer.url)) == (200, portal.url + "/?owner")
        assert "page/app.js" in await answer.text()
    async with portal.relay.session.get(portal.url + "/static/favicon.png", headers=BROWSER) as answer:
        assert (answer.status, answer.content_type) == (200, "image/svg+xml")


async def test_an_address_that_the_portal_has_not_is_refused_in_the_form_of_the_wire(portals: Portals) -> None:
    """The relay asked for its own token there, also owners who had shown their key."""
    portal = await portals()
    for key in ("", portal.key, "t"):
        for path in ("/api/none", "//api/none", "/api/none/", "/api/portal/none/1"):
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
                status, answer = await portal.ask(method, path, {}, key=key)
                assert (status, answer["code"], "detail" in answer) == (404, "unknown_route", True), answer
        for method, path in (("GET", "/api/message/receive"), ("PATCH", "//api/contacts"), ("PUT", "/api/contacts/")):
            status, answer = await portal.ask(method, path, {}, key=key)
            assert (status, answer["code"]) == (405, "method_not_allowed"), answer
            assert "only " in answer["detail"]
    assert (await portal.ask("GET", "/api"))[0] == 401, "all else is the relay's"


async def test_a_slash_at_the_end_leads_to_the_address_without_it(portals: Portals) -> None:
    portal = await portals()
    await portal.befriend("https://b.example")
    for path in ("/api/contacts/", "//api/contacts/", "/api/contacts//"):
        status, _ = await portal.ask("GET", path + "?limit=1", allow_redirects=False)
        assert status == 307
        assert (await portal.well("GET", path + "?limit=1"))["total"] == 1
        headers = {"Host": "me.example"}
        async with portal.relay.session.get(portal.url + path, headers=headers, allow_redirects=False) as answer:
            assert answer.headers.get("Location", "/api/contacts") == "/api/contacts", "no other host"
    said = await portal.well("POST", "/api/chat/owner/reply/", {"content": "done"})
    assert said["success"]


async def test_a_route_that_is_gone_says_what_to_do_instead(portals: Portals) -> None:
    portal = await portals()
    steps = {
        "file_confirm": "clawlink portal get-file",
        "file_noted": "clawlink portal send-file",
        "notifications": "clawlink portal bridge",
        "key_exchange": "clawlink portal ask",
    }
    assert steps.keys() == GONE.keys()
    for call in OLD_CALLS:
        for slash in ("", "/") if call.name in GONE else ():
            for key, expected in ((OWNER, GONE[call.name]), ("", 401), ("ap2p_" + "x" * 43, 401)):
                body: Any = {} if call.method == "POST" else None
                status, answer = await portal.ask(call.method, slash + call.path, body, key=key)
                assert (status, steps[call.name] in answer["detail"]) == (expected, True), (call.path, answer)
    await portal.befriend("https://b.example")  # the exchange of a key locked the original's database for good


async def test_photos_are_added_by_the_owner_and_seen_by_all(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = await portals()
    get = portal.relay.session.get
    session = (await portal.well("POST", "/api/admin/login", {"password": PASSWORD}, key=""))["token"]
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    urls = []
    for name, data, headers in (
        ("me.PNG", PNG, {"X-API-Key": OWNER}),
        ("../../me", GIF, {"Authorization": f"Bearer {session}"}),
    ):
        status, told = await upload(portal, data, name=name, **headers)
        assert (status, told["status"]) == (200, "ok"), told
        urls.append(told["url"])
    listed = await portal.well("GET", "/api/photos/list", key="")
    assert [one["url"] for one in listed["photos"]] == urls[::-1]
    for url, data, kind in zip(urls, (PNG, GIF), ("image/png", "image/gif"), strict=True):
        async with get(portal.url + url) as answer:
            assert (answer.status, await answer.read(), answer.headers["Content-Type"]) == (200, data, kind)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "sandbox" in answer.headers["Content-Security-Policy"]
    monkeypatch.setattr(photos, "MAX_PHOTO_BYTES", 100)
    shared = await portal.befriend("https://b.example")
    for key, expected in (("", 401), ("wrong", 401), (shared, 403), (agent, 403)):
        assert (await upload(portal, PNG, **({"X-API-Key": key} if key else {})))[0] == expected, key
    for data, field, expected in (
        (b"<script>alert(1)</script>", "photo", 415),
        (b"", "photo", 415),
        (PNG, "other", 400),
        (PNG + b"x" * 100, "photo", 413),
    ):
        status, told = await upload(portal, data, field=field, name="x.png", **{"X-API-Key": OWNER})
        assert (status, told["field"]) == (expected, "photo"), told
    name = urls[0].rpartition("/")[2]
    for path in ("none.png", "none.html", "..%2Fchat%2Fx.png", name + "%00.png"):
        assert (await portal.ask("GET", "/static/photos/" + path, key=""))[0] == 404, path
    monkeypatch.setattr(photos, "MAX_PHOTOS", 2)
    assert (await upload(portal, PNG, **{"X-API-Key": OWNER}))[0] == 429
    await portal.well("DELETE", f"/api/photos/{name}")
    assert (await portal.ask("DELETE", f"/api/photos/{name}"))[0] == 404
    async with get(portal.url + urls[0]) as answer:
        assert answer.status == 404
    assert [one["url"] for one in (await portal.well("GET", "/api/photos/list", key=""))["photos"]] == urls[1:]
