"""Each route with each key: what the table says is what the server does."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

import aiohttp
import pytest

from clawlink.doors.portal.rules.access import PAGE_ONLY, RIGHTS, Role
from clawlink.doors.portal.wire import calls
from clawlink.doors.portal.wire.file_calls import FILE_CALLS
from clawlink.doors.portal.wire.old_calls import OLD_CALLS, PHOTO_CALLS
from clawlink.errors import ClawLinkError
from clawlink.protocol.endpoint import Endpoint
from tests.doors.portal.conftest import OWNER, PASSWORD, Bridges, Own, Portals
from tests.system.raw import connect, request
from tests.virtual_time import pass_time
from tests.waiting import eventually, until

CONTACT_URL, OTHER_URL = "https://b.example", "https://c.example"
_BODIES: dict[str, Any] = {
    "guest_leave": {"content": "hi"},
    "guest_status": {"status": "read"},
    "guest_approve": {"portal_url": OTHER_URL},
    "guest_decide": {"decision": "read"},
    "contact_add": {"portal_url": "https://d.example"},
    "contact_change": {"portal_url": OTHER_URL},
    "contact_terms": {"blocked": True},
    "task_news": {"api_key": "", "from_portal": CONTACT_URL, "kind": "cancel", "task_id": "none"},
    "task_answer": {"result": "x"},
    "task_cancel": {},
    "task_delegate": {"to": 999, "task": "x"},
    "key_renew": {"api_key": "", "from_portal": CONTACT_URL, "new_key": "short"},
    "key_confirm": {"api_key": "", "from_portal": CONTACT_URL},
    "message_receive": {"api_key": "", "from_portal": CONTACT_URL, "content": "hi"},
    "message_status": {"api_key": "", "from_portal": CONTACT_URL, "idempotency_key": "none"},
    "message_sent": {"api_key": "", "to_portal": CONTACT_URL, "content": "hi"},
    "chat_send": {"content": "hi"},
    "chat_reply": {"content": "hi"},
    "login": {"password": "wrong"},
    "page_login": {"password": "wrong"},
    "password": {"old_password": "wrong", "new_password": "other one"},
    "key_create": {},
    "send": {"to": 999, "content": "hi"},
    "file_initiate": {"api_key": "", "filename": "x", "size": 1, "md5": "0" * 32, "chunks_total": 1},
    "file_chunk": {"api_key": "", "file_id": "", "chunk_index": 0, "chunk_md5": "0" * 32, "data": "eA=="},
    "old_send": {"contact_id": 999, "content": "hi"},
    "plugin_reply": {"content": "hi"},
    "openclaw": {"url": "http://127.0.0.1:18789", "token": "x"},
    "file_noted": {"api_key": "", "to_portal": CONTACT_URL, "filename": "x", "file_id": "none", "file_size": 1},
    "file_confirm": {"api_key": "", "file_id": "none", "accept": True},
    "import_start": {},
    "file_send": {"to": 999, "filename": "x", "size": 1, "md5": "0" * 32, "sha256": "0" * 64},
}
_QUERIES = {
    "message_history": {"contact_portal": CONTACT_URL},
    "message_list": {"contact_portal": CONTACT_URL},
    "key_revoke": {"api_key": "no key"},
}


_ALL_CALLS = (
    *calls.CALLS,
    *FILE_CALLS,
    calls.CHAT_UPLOAD,
    calls.CHAT_FILE,
    *OLD_CALLS,
    *PHOTO_CALLS,
    *calls.IMPORT_CALLS,
)


async def keys_of(portal: Own) -> dict[str, tuple[Role, str]]:
    """Return a key for each kind of caller. A session of the page is the owner, too."""
    contact = await portal.befriend(CONTACT_URL)
    other = await portal.befriend(OTHER_URL)
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    session = (await portal.well("POST", "/api/admin/login", {"password": PASSWORD}, key=""))["token"]
    return {
        "none": (Role.NONE, ""),
        "a guess": (Role.NONE, "ap2p_" + "x" * 43),
        "the relay's token": (Role.NONE, "t"),
        "contact": (Role.CONTACT, contact),
        "other contact": (Role.CONTACT, other),
        "agent": (Role.AGENT, agent),
        "owner": (Role.OWNER, OWNER),
        "session": (Role.OWNER, session),
    }


async def test_every_route_takes_the_keys_that_the_table_says(portals: Portals) -> None:
    portal = await portals()
    all_keys = await keys_of(portal)
    file = {**_BODIES["file_initiate"], "api_key": all_keys["contact"][1]}
    incoming = (await portal.ask("POST", "/api/file/initiate", file, key=""))[1]["file_id"]
    outgoing = (await portal.well("POST", "/api/portal/files", {**_BODIES["file_send"], "to": CONTACT_URL}))["file_id"]
    for who, (role, key) in all_keys.items():
        for call in _ALL_CALLS:
            if call.name == "logout_all" and role is Role.OWNER:
                continue  # it would end the session of this table
            id = outgoing if role in (Role.AGENT, Role.OWNER) and call.name == "file_part" else incoming
            path = path_of(call, "999" if call.name == "file_remove" else id)
            body = _BODIES.get(call.name)
            in_body = "api_key" in (body or {})
            for way in ("header", "body") if in_body else ("header",):
                given = {**(body or {}), "api_key": key} if way == "body" else body
                query = _QUERIES.get(call.name, {})
                status, answer = await portal.ask(
                    call.method, path, given, key=key if way == "header" else "", params=query, allow_redirects=False
                )
                case = (who, call.name, way, status, answer)
                if call.name in ("login", "page_login"):
                    assert status in (401, 429), case
                    continue
                if role in RIGHTS[call.name] and call.name not in PAGE_ONLY:
                    mismatch = who == "other contact" and status == 403
                    assert status not in (401, 403) or mismatch, case
                else:
                    assert status in (401, 403), case
                    assert isinstance(answer["detail"], str), case
    assert (await portal.contact(OTHER_URL))["SHARED_KEY"], "no wrong key has changed a contact"
    status, _ = await portal.ask("GET", "/api/contacts", key="", params={"api_key": OWNER})
    assert status == 401, "addresses are logged, so no key counts there but that of the socket"


async def test_a_session_of_the_page_is_the_owners_and_no_foreign_page_uses_it(portals: Portals) -> None:
    portal = await portals()
    session, url = portal.relay.session, portal.url
    async with session.post(url + "/api/portal/session", json={"password": PASSWORD}) as answer:
        csrf = (await answer.json())["csrf"]
        cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}

    async def ask(call: Endpoint, headers: dict[str, str]) -> int:
        path, query = path_of(call, "none"), _QUERIES.get(call.name, {})
        body = _BODIES.get(call.name)
        asked = {"json": body, "params": query, "headers": cookie | headers, "allow_redirects": False}
        async with session.request(call.method, url + path, **asked) as told:
            return int(told.status)

    for call in _ALL_CALLS:
        if call.name in ("login", "page_login", "logout_all", "file_chunk"):
            continue
        roles = RIGHTS[call.name]
        status = await ask(call, {"ClawLink-CSRF": csrf})
        assert (status in (401, 403)) == (Role.OWNER not in roles), (call.name, status)
        if Role.OWNER in roles and Role.NONE not in roles and call.method != "GET":
            for headers in ({}, {"ClawLink-CSRF": "x"}, {"ClawLink-CSRF": csrf, "Origin": "https://evil.example"}):
                status = await ask(call, headers)
                assert status in (401, 403), (call.name, headers, status)


def path_of(call: Endpoint, file_id: str) -> str:
    """Return the path of a route, with ids of nothing but for that of a file."""
    path = call.path.replace("{message_id}", "999").replace("{contact_id}", "999").replace("{file_id}", file_id)
    path = path.replace("{place}", "photos")
    return path.replace("{chunk_index}", "0").replace("{task_id}", "none").replace("{name}", "none")


async def test_a_contact_cannot_write_as_another_one(portals: Portals) -> None:
    portal = await portals()
    key, _ = await portal.befriend(CONTACT_URL), await portal.befriend(OTHER_URL)
    body = {"api_key": key, "from_portal": OTHER_URL, "content": "as c"}
    status, answer = await portal.ask("POST", "/api/message/receive", body, key="")
    assert (status, answer["detail"].startswith("Portal URL mismatch")) == (403, True)
    for text in (CONTACT_URL, CONTACT_URL + "/", "HTTPS://B.example:443"):
        body = {"api_key": key, "from_portal": text, "content": text}
        assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 200, text


async def test_the_socket_is_for_the_owner_and_agent_keys(portals: Portals, bridges: Bridges) -> None:
    portal = await portals()
    for who, (role, key) in (await keys_of(portal)).items():
        if role in RIGHTS["socket"]:
            await bridges(portal, key=key)
            continue
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await portal.relay.session.ws_connect(f"{portal.url}/ws/agent", params={"api_key": key})
        assert refused.value.status == 403, who


async def test_an_agent_key_sees_no_keys(portals: Portals, bridges: Bridges) -> None:
    portal = await portals()
    shared = await portal.befriend(CONTACT_URL)
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    bridge = await bridges(portal, key=agent)
    offered = "ap2p_" + "o" * 43
    await portal.well("POST", "/api/guest/leave-message", {"content": f"https://d.example {offered}"}, key="")

    async def heard() -> bool:
        return any(frame["type"] == "guest_message" for frame in bridge.frames)

    await eventually(heard)
    assert offered not in str(bridge.frames)
    assert shared not in str(await portal.well("GET", "/api/contacts", key=agent))
    assert (await portal.well("GET", "/api/key/list"))["total"] == 1
    await portal.well("POST", "/api/key/revoke", params={"api_key": agent})
    assert (await portal.ask("GET", "/api/contacts", key=agent))[0] == 401


async def test_a_key_that_ends_closes_its_sockets(portals: Portals, bridges: Bridges) -> None:
    portal = await portals()
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    login = {"password": PASSWORD}

    async def ended(key: str, path: str, body: Any = None, **query: Any) -> None:
        bridge, stays = await bridges(portal, key=key), await bridges(portal)
        await portal.well("POST", path, body, **query)
        await until(lambda: bridge.closed)
        await portal.well("POST", "/api/chat/owner/send", {"content": f"after {path}"})
        await until(lambda: f"[主人消息] after {path}" in stays.texts)
        assert not bridge.texts
        await stays.close()

    await ended(agent, "/api/key/revoke", params={"api_key": agent})
    session = (await portal.well("POST", "/api/admin/login", login, key=""))["token"]
    await ended(session, "/api/portal/logout-all")
    session = (await portal.well("POST", "/api/admin/login", login, key=""))["token"]
    change = {"old_password": PASSWORD, "new_password": "another"}
    await ended(session, "/api/auth/change-password", change)


async def test_the_relays_own_routes_ask_for_its_token_and_know_the_portals_ids(portals: Portals) -> None:
    portal = await portals()
    assert (await portal.ask("GET", "/discover", key=OWNER))[0] == 401
    assert (await portal.ask("GET", "/discover", key="t"))[0] == 200
    for name in ("agent", "AGENT", "operator", "portal/x", "bob@portal"):
        status, body = await portal.ask("POST", "/register", {"agent_id": name, "name": name, "claim": True}, key="t")
        assert (status, body["code"]) in ((403, "not_allowed"), (409, "name_taken")), name
    told = (await portal.ask("GET", "/", key="t"))[1]["doors"]["portal"]
    counted = {"contacts": 0, "guests_waiting": 0, "messages_queued": 0, "agent_sockets": 0}
    assert told == {"url": portal.url, "active": True, **counted}


async def test_logins_are_throttled_and_a_new_password_ends_all_sessions(portals: Portals) -> None:
    portal = await portals()
    session = (await portal.well("POST", "/api/admin/login", {"password": PASSWORD}, key=""))["token"]
    assert len(session) == 64
    change = {"old_password": "wrong", "new_password": "another"}
    assert (await portal.ask("POST", "/api/auth/change-password", change, key=session))[0] == 400
    assert (await portal.ask("POST", "/api/auth/change-password", {**change, "new_password": "short"}))[0] == 400
    await portal.well("POST", "/api/auth/change-password", {**change, "old_password": PASSWORD}, key=session)
    assert (await portal.ask("GET", "/api/contacts", key=session))[0] == 401
    statuses = [(await portal.ask("POST", "/api/admin/login", {"password": "guess"}, key=""))[0] for _ in range(12)]
    assert set(statuses) == {401, 429}
    status, answer = await portal.ask("POST", "/api/admin/login", {"password": "another"}, key="")
    assert (status, "try again" in answer["detail"]) == (429, True), "no guess goes on meanwhile"


async def test_a_wrong_password_takes_the_work_of_a_right_one(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = await portals()
    costs: list[int] = []
    compared: list[int] = []
    scrypt, compare = hashlib.scrypt, hmac.compare_digest

    def hashes(data: bytes, *, salt: bytes, n: int, r: int, p: int, dklen: int) -> bytes:
        costs.append(n)
        return scrypt(data, salt=salt, n=n, r=r, p=p, dklen=dklen)

    def compares(left: Any, right: Any) -> bool:
        compared.append(len(costs))
        return compare(left, right)

    monkeypatch.setattr(hashlib, "scrypt", hashes)
    monkeypatch.setattr(hmac, "compare_digest", compares)
    for guess, status in ((PASSWORD, 200), ("t", 401), (PASSWORD + "x", 401), ("x" * 3000, 401), ("", 401)):
        costs.clear()
        compared.clear()
        assert (await portal.ask("POST", "/api/admin/login", {"password": guess}, key=""))[0] == status, guess[:20]
        assert (costs, compared) == ([2**14], [1]), "one hash, and one comparison in constant time"


async def test_bodies_that_are_wrong_are_answered_in_the_wires_form(portals: Portals) -> None:
    portal = await portals()
    session = portal.relay.session
    for data, kind in (
        (b'{"content": 3}', "application/json"),
        (b"{", "application/json"),
        (b"{}", "application/json"),
        (b"[]", "application/json"),
        (b'{"content": "hi"}', "text/plain"),
        (b"[" * 10_000, "application/json"),
        (b"\xff", "application/json"),
        (b'{"content": "\\ud800"}', "application/json"),
    ):
        async with session.post(
            portal.url + "/api/guest/leave-message", data=data, headers={"Content-Type": kind}
        ) as answer:
            assert answer.status == 422, data[:20]
            (fault,) = (await answer.json())["detail"]
            assert fault["loc"][0] == "body", data[:20]
    assert (await portal.well("GET", "/api/guest/messages"))["messages"] == []


async def test_a_key_that_everybody_knows_and_a_short_password_end_the_start(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClawLinkError, match="the same for everybody"):
        await portals(key="ap2p_$(openssl rand -hex 16)")
    monkeypatch.setattr("tests.doors.portal.conftest.PASSWORD", "short")
    with pytest.raises(ClawLinkError, match="6 to 1024 characters"):
        await portals()


@pytest.mark.virtual_time
async def test_a_drain_takes_answers_of_the_owners_agent(portals: Portals) -> None:
    own = await portals()
    agent, page = await connect(own.url), await connect(own.url)
    asked = request("GET", "/api/contacts", Authorization=f"Bearer {OWNER}")
    assert (await agent.ask(asked)).status == 200
    await page.ask(request("GET", "/healthz"))
    await own.relay.app.relay.drain()
    grace = asyncio.create_task(own.relay.app.grace())
    await pass_time(1)
    assert await page.reader.read() == b""
    answer = await agent.ask(asked)
    assert (answer.status, answer.headers.get("connection")) == (200, None)
    await grace
    for connection in (agent, page):
        connection.close()
