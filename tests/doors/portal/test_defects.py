"""The defects of Agent P2P that no other test here names: each is tried on ours."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from typing import Any

from clawlink.doors.portal.records import AGENT, GUESTS, WAITING, Guest
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.wire.calls import CALLS, IMPORT_CALLS
from clawlink.doors.portal.wire.file_calls import FILE_CALLS
from clawlink.doors.portal.wire.old_calls import OLD_CALLS
from clawlink.store.base import Put
from tests.doors.portal.conftest import OWNER, Portals

GUEST_MESSAGES = 10_000
URL = "https://b.example"


async def test_nothing_that_a_stranger_posts_stops_the_writes_of_others(portals: Portals) -> None:
    """A POST of ``/key/exchange``, or a PUT without a key, left the database of Agent P2P locked."""
    portal = await portals()
    key = await portal.befriend(URL)
    assert (await portal.ask("POST", "/api/key/exchange", {"x": 1}, key=""))[0] in (401, 404)
    await portal.well("PUT", "/api/contacts/1", {"portal_url": URL})
    assert (await portal.contact(URL))["SHARED_KEY"] == key, "a key that is left out stays"
    body = {"api_key": key, "from_portal": URL, "content": "still taken"}
    assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 200


async def test_an_empty_or_short_key_never_becomes_a_key(portals: Portals) -> None:
    portal = await portals()
    await portal.befriend(URL)
    for empty in ("", " ", "ap2p_", "short"):
        for method, path in (("PUT", "/api/contacts/1"), ("POST", "/api/contacts")):
            status, answer = await portal.ask(method, path, {"portal_url": URL, "SHARED_KEY": empty})
            kept = (await portal.contact(URL))["SHARED_KEY"]
            assert (status, len(kept) > 20) in ((400, True), (200, True)), (empty, answer)
        body = {"api_key": empty, "from_portal": URL, "content": "x"}
        assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 401, empty
        assert (await portal.ask("GET", "/api/contacts", key=empty))[0] == 401, empty


async def test_no_contact_learns_a_key_or_an_address_of_another_one(portals: Portals) -> None:
    """In Agent P2P the key of a contact opened the owner's routes, and the owner key with them."""
    portal = await portals()
    key, other = await portal.befriend(URL), await portal.befriend("https://c.example")
    await portal.well("POST", "/api/chat/owner/send", {"content": "a secret of the owner"})
    told: list[Any] = []
    for method, path in (
        ("GET", "/api/portal/info"),
        ("GET", "/api/contacts"),
        ("GET", "/api/key/list"),
        ("GET", "/api/guest/messages"),
        ("GET", "/api/chat/owner/history"),
        ("GET", f"/api/messages/history?contact_portal={URL}"),
        ("GET", f"/api/messages?contact_portal={URL}"),
        ("POST", "/api/key/create"),
        ("GET", "/api/portal/files"),
    ):
        status, answer = await portal.ask(method, path, {} if method == "POST" else None, key=key)
        assert status == 403, path
        told.append(answer)
    for secret in (OWNER, other, "c.example", "a secret of the owner"):
        assert secret not in str(told), secret
    assert (await portal.well("GET", "/api/key/list"))["total"] == 0, "nobody but the owner makes keys"


async def test_ten_thousand_guest_messages_are_listed_and_decided(portals: Portals) -> None:
    """They come by no request, since a portal takes two hundred: an import, or a higher limit, may bring them."""
    portal = await portals()
    core = portal.relay.app.relay.core
    for start in range(0, GUEST_MESSAGES, 500):
        made = [
            Guest(id=str(n), version=1, number=n, content=f"I am {n}: https://c{n}.example ap2p_{n:043}", created_at=n)
            for n in range(start + 1, start + 501)
        ]
        await core.commit(AGENT, *map(Put, made))
    await portal.relay.app.doors["portal"].active.repository.start()  # type: ignore[attr-defined]
    listed = (await portal.well("GET", "/api/guest/messages"))["messages"]
    assert [one["id"] for one in listed] == list(range(GUEST_MESSAGES, GUEST_MESSAGES - 500, -1))
    status, answer = await portal.ask("POST", "/api/guest/leave-message", {"content": "one more"}, key="")
    assert (status, answer["code"]) in ((503, "relay_full"), (429, "relay_full"), (507, "relay_full")), answer
    for number in (1, 5_000, GUEST_MESSAGES):
        done = await portal.well("POST", f"/api/portal/guests/{number}", {"decision": "approve"})
        assert done["contact"]["portal_url"] == f"https://c{number}.example"
    assert (await core.store.usage(Guest, WAITING)).count == GUEST_MESSAGES - 3
    assert (await core.store.usage(Guest, GUESTS)).count == GUEST_MESSAGES
    done = await portal.well("DELETE", "/api/portal/contacts/1")
    assert done["guests"] == 1


async def test_a_portal_asks_no_address_that_redirects_or_is_not_its_contacts(portals: Portals) -> None:
    """The address of a contact leads nowhere else: no redirect, no user, no query, no other scheme."""
    portal = await portals()
    for url in (
        "ftp://b.example",
        "https://user:password@b.example",
        "https://b.example/?x=1",
        "https://b.example/#x",
        "javascript:alert(1)",
        "https://b.example\r\nHost: c.example",
        "https://" + "b" * 600,
        "//b.example",
        "",
    ):
        status, answer = await portal.ask("POST", "/api/contacts", {"portal_url": url})
        assert (status, answer["field"]) == (400, "portal_url"), url
    poster = Poster("https://me.example", ca=None, allowed=())
    for host in ("127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]", "[fd00::1]", "0.0.0.0"):
        fault = poster.faults["https"](host.strip("[]"))
        assert fault is not None, host
    await poster.close()


async def test_a_packed_body_is_never_unpacked(portals: Portals) -> None:
    portal = await portals()
    bomb = gzip.compress(b'{"content":"' + b"x" * 20_000_000 + b'"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", "Authorization": f"Bearer {OWNER}"}
    takes_body = [call for call in (*CALLS, *FILE_CALLS, *OLD_CALLS, *IMPORT_CALLS) if call.body is not None]
    for call in takes_body:
        url = portal.url + re.sub(r"{\w+}", "1", call.path)
        async with portal.relay.session.request(call.method, url, data=bomb, headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (415, "unsupported_media_type"), call.name
    key = await portal.befriend("https://b.example")
    begin = {"api_key": key, "filename": "x", "size": 3, "md5": "0" * 32, "chunks_total": 1}
    id = (await portal.ask("POST", "/api/file/initiate", begin, key=""))[1]["file_id"]

    async def pieces() -> AsyncIterator[bytes]:
        yield gzip.compress(b"abc")

    for method, path in (("PUT", f"/api/portal/files/{id}/0"), ("POST", f"/api/file/chunk/{id}/0")):
        packed = {**headers, "Authorization": f"Bearer {key}"}
        async with portal.relay.session.request(method, portal.url + path, data=pieces(), headers=packed) as answer:
            assert answer.status == 415, path
