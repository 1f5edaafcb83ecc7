"""Consent: nobody becomes a contact without the owner, by each of the ways in which an owner or its agent says so."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.doors.portal.conftest import Bridges, Own, Portals
from tests.doors.portal.old_peer import OldBridge
from tests.waiting import eventually, until

URL = "https://b.example"
KEY = "ap2p_" + "k" * 43
TEXT = f"你好，我的Portal是{URL}，密钥：{KEY}。"


async def leave(portal: Own, text: str = TEXT) -> int:
    told = await portal.well("POST", "/api/guest/leave-message", {"content": text}, key="")
    assert told["status"] == "ok"
    number: int = told["message_id"]
    return number


async def contacts(portal: Own) -> list[tuple[str, str]]:
    found = (await portal.well("GET", "/api/contacts"))["contacts"]
    return [(one["portal_url"], one["SHARED_KEY"]) for one in found]


async def status_of(portal: Own, number: int) -> str:
    (found,) = [one for one in (await portal.well("GET", "/api/guest/messages"))["messages"] if one["id"] == number]
    status: str = found["status"]
    return status


async def test_each_way_to_approve_takes_the_offered_key(portals: Portals) -> None:
    contact = {"portal_url": URL, "agent_name": "Bot", "user_name": "Bob", "SHARED_KEY": KEY}

    async def old_agent_contacts_first(portal: Own, number: int) -> None:
        await portal.well("POST", "/api/contacts", contact)
        await portal.well("POST", f"/api/guest/messages/{number}/status", {"status": "approved"})

    async def old_agent_status_first(portal: Own, number: int) -> None:
        await portal.well("POST", f"/api/guest/messages/{number}/status", {"status": "approved"})
        await portal.well("POST", "/api/contacts", contact)

    async def old_agent_contacts_alone(portal: Own, number: int) -> None:
        await portal.well("POST", "/api/contacts", contact)

    async def old_agent_status_alone(portal: Own, number: int) -> None:
        await portal.well("POST", f"/api/guest/messages/{number}/status", {"status": "approved"})

    async def old_agent_in_one_step(portal: Own, number: int) -> None:
        done = await portal.well("POST", f"/api/guest/messages/{number}/approve", {"portal_url": URL + "/"})
        assert (done["status"], done["api_key"]) == ("approved", KEY)

    async def owners_words(portal: Own, number: int) -> None:
        await portal.well("POST", "/api/chat/owner/send", {"content": f"同意 {number}"})
        said = (await portal.well("GET", "/api/chat/owner/history"))["messages"]
        assert [line["role"] for line in said] == ["owner", "agent"]
        assert "approved" in said[1]["content"]

    async def our_route(portal: Own, number: int) -> None:
        done = await portal.well("POST", f"/api/portal/guests/{number}", {"decision": "approve"})
        assert KEY not in str(done["contact"])

    for way in (
        old_agent_contacts_first,
        old_agent_status_first,
        old_agent_contacts_alone,
        old_agent_status_alone,
        old_agent_in_one_step,
        owners_words,
        our_route,
    ):
        portal = await portals()
        number = await leave(portal)
        assert await contacts(portal) == [], way
        for _ in range(2):  # a repeat changes nothing
            await way(portal, number) if way is not owners_words or await contacts(portal) == [] else None
        assert [(url.rstrip("/"), key) for url, key in await contacts(portal)] == [(URL, KEY)], way
        assert await status_of(portal, number) == "approved", way
        body = {"api_key": KEY, "from_portal": URL, "content": "hi"}
        assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 200, way


async def test_the_agent_hears_of_no_guest_that_is_decided_already(portals: Portals, bridges: Bridges) -> None:
    """It would ask its owner for a decision once more."""
    portal = await portals()
    first, second, third, read, last = [await leave(portal, f"{n}: {TEXT}".replace("b.", f"b{n}.")) for n in range(5)]
    await portal.well("POST", f"/api/portal/guests/{first}", {"decision": "approve"})
    await portal.well("POST", "/api/chat/owner/send", {"content": f"拒绝 {second}"})
    await portal.well("POST", "/api/contacts", {"portal_url": "https://b2.example", "SHARED_KEY": KEY + "2"})
    await portal.well("POST", f"/api/guest/messages/{read}/status", {"status": "read"})
    bridge = await bridges(portal)
    await until(lambda: _numbers(bridge) == [read, last])
    assert await status_of(portal, third) == "approved"
    await portal.well("POST", f"/api/portal/guests/{last}", {"decision": "deny"})
    await leave(portal, "one more")
    await until(lambda: len(_numbers(bridge)) == 3)


def _numbers(bridge: OldBridge) -> list[int]:
    return [frame["message_id"] for frame in bridge.frames if frame["type"] == "new_guest_message"]


async def test_deny_and_read_make_no_contact(portals: Portals) -> None:
    portal = await portals()
    for words, status, route in (("拒绝", "rejected", "deny"), ("已读", "pending", "read")):
        number = await leave(portal)
        await portal.well("POST", "/api/chat/owner/send", {"content": f"{words} {number}"})
        assert await status_of(portal, number) == status
        number = await leave(portal)
        await portal.well("POST", f"/api/portal/guests/{number}", {"decision": route})
        assert await status_of(portal, number) == status
    assert await contacts(portal) == []
    for path in ("/api/guest/messages/99/status", "/api/guest/messages/x/status"):
        assert (await portal.ask("POST", path, {"status": "approved"}))[0] == 404, path
    assert (await portal.ask("POST", f"/api/guest/messages/{number}/status", {"status": "maybe"}))[0] == 400
    assert (await portal.ask("POST", "/api/guest/messages/99/approve", {"portal_url": URL}))[0] == 404
    assert (await portal.ask("POST", f"/api/guest/messages/{number}/approve", {}))[0] == 400


async def test_a_guest_whose_contact_has_access_is_not_denied(portals: Portals) -> None:
    portal = await portals()
    elsewhere = {"decision": "approve", "portal_url": "https://c.example", "key": "ap2p_" + "c" * 43}
    for text, approve in ((TEXT, {"decision": "approve"}), ("I am Cat, ask me for my key", elsewhere)):
        number = await leave(portal, text)
        contact = (await portal.well("POST", f"/api/portal/guests/{number}", approve))["contact"]["id"]
        for path, body in (
            (f"/api/portal/guests/{number}", {"decision": "deny"}),
            (f"/api/guest/messages/{number}/status", {"status": "rejected"}),
        ):
            status, answer = await portal.ask("POST", path, body)
            assert (status, answer.get("code")) == (409, "wrong_state"), (text, path)
            for step in ("block", "remove"):
                assert f"clawlink portal {step} {contact}" in answer["detail"], (text, path)
        await portal.well("POST", "/api/chat/owner/send", {"content": f"拒绝 {number}"})
        said = (await portal.well("GET", "/api/chat/owner/history"))["messages"][-1]["content"]
        assert f"clawlink portal block {contact}" in said, text
        assert await status_of(portal, number) == "approved", text
        await portal.well("POST", f"/api/portal/contacts/{contact}", {"blocked": True})
        await portal.well("POST", f"/api/portal/guests/{number}", {"decision": "deny"})
        assert await status_of(portal, number) == "rejected", text
    stranger = await leave(portal, f"I am https://c.example, {KEY[:-1]}x")
    await portal.well("POST", f"/api/portal/contacts/{contact}", {"blocked": False})
    for decision in ("approved", "rejected"):
        await portal.well("POST", f"/api/guest/messages/{stranger}/status", {"status": decision})
    assert await status_of(portal, stranger) == "rejected", "the key of this guest opens nothing"


async def test_an_unclear_offer_asks_the_owner(portals: Portals) -> None:
    portal = await portals()
    number = await leave(portal, f"I am {URL} or https://c.example, {KEY}")
    status, answer = await portal.ask("POST", f"/api/portal/guests/{number}", {"decision": "approve"})
    assert (status, f"clawlink portal approve {number} --url URL" in answer["detail"]) == (400, True)
    assert await status_of(portal, number) == "pending"
    ask = {"decision": "approve", "portal_url": URL}
    await portal.well("POST", f"/api/portal/guests/{number}", ask)
    assert await contacts(portal) == [(URL, KEY)]


async def test_a_stranger_cannot_take_the_place_of_a_contact(portals: Portals) -> None:
    portal = await portals()
    old = await portal.befriend(URL)
    number = await leave(portal)
    status, answer = await portal.ask("POST", f"/api/portal/guests/{number}", {"decision": "approve"})
    assert (status, answer["code"], "--replace" in answer["detail"]) == (409, "wrong_state", True)
    await portal.well("POST", "/api/chat/owner/send", {"content": f"同意 {number}"})
    await portal.well("POST", f"/api/guest/messages/{number}/status", {"status": "approved"})
    assert await contacts(portal) == [(URL, old)], "the key of a contact changes by the owner's own word alone"
    await portal.well("POST", f"/api/portal/guests/{number}", {"decision": "approve", "replace": True})
    assert await contacts(portal) == [(URL, KEY)]
    number = await leave(portal, f"https://c.example {KEY}")
    status, _ = await portal.ask("POST", f"/api/portal/guests/{number}", {"decision": "approve"})
    assert status == 409, "each contact has a key of its own"


async def test_an_old_guest_message_never_brings_its_key_over_a_newer_one(portals: Portals) -> None:
    async def by_a_newer_message(portal: Own, number: int) -> None:
        newer = await leave(portal, TEXT.replace(KEY, KEY + "2"))
        await portal.well("POST", f"/api/portal/guests/{newer}", {"decision": "approve", "replace": True})

    async def by_the_owner(portal: Own, number: int) -> None:
        await portal.well("POST", "/api/contacts", {"portal_url": URL, "SHARED_KEY": KEY + "2"})

    async def by_a_change(portal: Own, number: int) -> None:
        body = {"portal_url": URL, "SHARED_KEY": KEY + "2"}
        await portal.well("PUT", f"/api/contacts/{(await portal.contact(URL))['id']}", body)

    for approved_before in (True, False):
        for way in (by_a_newer_message, by_the_owner, by_a_change):
            portal = await portals()
            number = await leave(portal)
            if approved_before:
                await portal.well("POST", f"/api/portal/guests/{number}", {"decision": "approve"})
            elif way is by_a_change:
                await portal.befriend(URL)
            await way(portal, number)
            for ask in ({"replace": True}, {"replace": True, "portal_url": URL}, {"replace": False}):
                path, body = f"/api/portal/guests/{number}", {"decision": "approve", **ask}
                status, answer = await portal.ask("POST", path, body)
                assert (status, answer.get("code"), answer.get("field")) == (409, "wrong_state", "key"), (way, ask)
                contact = (await portal.contact(URL))["id"]
                assert f"guest message {number} is older than the key that contact {contact} has" in answer["detail"]
                assert f"clawlink portal approve {number} --shared-key KEY --replace" in answer["detail"]
            assert await contacts(portal) == [(URL, KEY + "2")], (way, approved_before)
            named = {"decision": "approve", "replace": True, "key": KEY}
            await portal.well("POST", f"/api/portal/guests/{number}", named)
            assert await contacts(portal) == [(URL, KEY)], "the owner's own word goes before"


async def test_of_two_messages_that_wait_the_newer_key_wins_whichever_is_approved_first(portals: Portals) -> None:
    portal = await portals()
    older, newer = await leave(portal), await leave(portal, TEXT.replace(KEY, KEY + "2"))
    await portal.well("POST", f"/api/portal/guests/{older}", {"decision": "approve"})
    await portal.well("POST", f"/api/portal/guests/{newer}", {"decision": "approve", "replace": True})
    assert await contacts(portal) == [(URL, KEY + "2")]
    assert (await portal.ask("POST", f"/api/portal/guests/{older}", {"decision": "approve", "replace": True}))[0] == 409
    assert await contacts(portal) == [(URL, KEY + "2")]


async def test_contacts_are_listed_changed_and_removed_as_on_the_wire(portals: Portals) -> None:
    portal = await portals()
    key = await portal.befriend(URL, agent_name="Bot", user_name="Bob")
    shown = await portal.contact(URL)
    number = shown.pop("id")
    assert shown.pop("created_at").endswith("+08:00")
    assert shown == {
        "portal_url": URL,
        "name": "Bob的Bot",
        "display_name": None,
        "agent_name": "Bot",
        "user_name": "Bob",
        "SHARED_KEY": key,
        "is_verified": 1,
        "unread_count": 0,
        "blocked": False,
        "paused": False,
        "until": None,
        "pin": None,
        "renewing": False,
    }
    assert key.startswith("ap2p_")
    assert len(key) == 48
    body: dict[str, Any] = {"portal_url": "ignored", "display_name": "B"}
    assert (await portal.well("PUT", f"/api/contacts/{number}", body)) == {"status": "updated"}
    changed = await portal.contact(URL)
    assert (changed["display_name"], changed["agent_name"], changed["SHARED_KEY"]) == ("B", None, key)
    assert changed["name"] == "B"
    for names, name in (({"user_name": "Bob"}, "Bob"), ({"agent_name": "Bot"}, "Bot"), ({}, None)):
        await portal.well("PUT", f"/api/contacts/{number}", {"portal_url": "ignored", **names})
        assert (await portal.contact(URL))["name"] == name
        if name is not None:  # each name that is shown may be typed
            assert (await portal.well("GET", f"/api/portal/contacts/{name}"))["contact"]["id"] == number
    for wrong in ({"SHARED_KEY": ""}, {"SHARED_KEY": "ap2p_$(openssl rand -hex 16)"}, {"agent_name": "x" * 300}):
        assert (await portal.ask("POST", "/api/contacts", {"portal_url": URL, **wrong}))[0] == 400, wrong
    for url in (portal.url, "not an address"):
        assert (await portal.ask("POST", "/api/contacts", {"portal_url": url}))[0] == 400, url
    assert (await portal.well("DELETE", f"/api/contacts/{number}")) == {"status": "deleted"}
    for method, path in (("PUT", f"/api/contacts/{number}"), ("DELETE", f"/api/contacts/{number}")):
        given = body if method == "PUT" else None
        assert (await portal.ask(method, path, given))[0] == 404, method
    body = {"api_key": key, "from_portal": URL, "content": "hi"}
    assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 401


async def test_no_way_gives_a_contact_a_name_that_means_another_one(portals: Portals) -> None:
    """Mail to 3 is for contact 3, and never for a stranger that calls itself 3."""
    names = {"agent_name": "３", "user_name": " HTTPS://Bank.example "}

    async def added(portal: Own, number: int) -> None:
        await portal.well("POST", "/api/contacts", {"portal_url": URL, "SHARED_KEY": KEY, **names})

    async def approved(portal: Own, number: int) -> None:
        await portal.well("POST", f"/api/portal/guests/{number}", {"decision": "approve", **names})

    async def approved_in_one_step(portal: Own, number: int) -> None:
        await portal.well("POST", f"/api/guest/messages/{number}/approve", {"portal_url": URL, **names})

    async def changed(portal: Own, number: int) -> None:
        await portal.befriend(URL, agent_name="bob")
        id = (await portal.contact(URL))["id"]
        await portal.well("PUT", f"/api/contacts/{id}", {"portal_url": URL, "display_name": "7 ", **names})
        assert (await portal.contact(URL))["display_name"] == "name-7"

    for way in (added, approved, approved_in_one_step, changed):
        portal = await portals()
        await way(portal, await leave(portal))
        shown = await portal.contact(URL)
        assert (shown["agent_name"], shown["user_name"]) == ("name-3", "https-bank.example"), way
        for to in (shown["id"], "１", "Name-3", "https-bank.example", URL + "/"):
            sent = await portal.well("POST", "/api/portal/send", {"to": to, "content": "hi"})
            assert sent["to"] == URL, (way, to)
        assert (await portal.ask("POST", "/api/portal/send", {"to": "3", "content": "hi"}))[0] == 404, way
        for name in ("3", " 3", "３", "x://y"):
            status, answer = await portal.ask("POST", f"/api/portal/contacts/{shown['id']}", {"display_name": name})
            assert (status, answer["field"]) == (400, "display_name"), (way, name)


async def test_a_repeat_of_an_offer_is_the_same_guest_message_while_it_counts(portals: Portals) -> None:
    portal = await portals()

    async def leave(text: str) -> int:
        number: int = (await portal.well("POST", "/api/guest/leave-message", {"content": text}, key=""))["message_id"]
        return number

    offer = "I am Bob, https://b.example, ap2p_" + "k" * 43
    assert await asyncio.gather(*(leave(offer) for _ in range(5))) == [1] * 5
    assert [await leave("hello"), await leave("hello"), await leave(offer + " ")] == [2, 3, 4]
    await portal.well("POST", "/api/portal/guests/1", {"decision": "deny"})
    assert await leave(offer) == 5
    await portal.well("POST", "/api/portal/guests/5", {"decision": "approve"})
    assert await leave(offer) == 5
    await portal.well("DELETE", f"/api/contacts/{(await portal.contact('https://b.example'))['id']}")
    assert await leave(offer) == 6, "the owner has to hear of it again"


async def test_guests_are_limited_and_none_is_lost(portals: Portals) -> None:
    portal = await portals(portal_guests=5, portal_guest_rate=8)
    for empty in ("", " \n"):
        status, answer = await portal.ask("POST", "/api/guest/leave-message", {"content": empty}, key="")
        assert (status, answer["field"]) == (400, "content")
    status, answer = await portal.ask("POST", "/api/guest/leave-message", {"content": "x" * 8193}, key="")
    assert (status, "(--portal-guest-bytes)" in answer["detail"]) == (413, True)
    answers = [await portal.ask("POST", "/api/guest/leave-message", {"content": str(n)}, key="") for n in range(12)]
    assert [status for status, _ in answers] == [200] * 5 + [429] * 7
    assert "wait for the owner" in answers[-1][1]["detail"]
    assert "(--portal-guests)" in answers[-1][1]["detail"]
    found = (await portal.well("GET", "/api/guest/messages"))["messages"]
    assert [one["content"] for one in found] == ["4", "3", "2", "1", "0"]
    for one in found:
        await portal.well("POST", f"/api/portal/guests/{one['id']}", {"decision": "deny"})
    answers = [await portal.ask("POST", "/api/guest/leave-message", {"content": str(n)}, key="") for n in range(5)]
    assert [status for status, _ in answers] == [200] * 3 + [429] * 2
    assert "within an hour" in answers[-1][1]["detail"]
    assert "(--portal-guest-rate)" in answers[-1][1]["detail"]


async def test_a_guest_is_told_once_also_to_a_bridge_that_comes_later(portals: Portals, bridges: Bridges) -> None:
    portal = await portals()
    number = await leave(portal)
    bridge = await bridges(portal)

    async def heard() -> bool:
        return bridge.texts == [f"[Agent P2P] 新留言: {TEXT}"]

    await eventually(heard)
    (notice,) = [frame for frame in bridge.frames if frame["type"] == "guest_message"]
    assert notice["content"].endswith(
        f"- 同意添加: 同意 {number}\n- 拒绝添加: 拒绝 {number}\n- 仅标记已读: 已读 {number}"
    )

    async def settled() -> bool:
        info = (await portal.ask("GET", "/", key="t"))[1]
        return bool(info["messages_held"] == 0)

    await eventually(settled)
    await bridge.close()
    later = await bridges(portal)
    await portal.well("POST", "/api/chat/owner/send", {"content": "hello"})

    async def spoken() -> bool:
        return later.texts == ["[主人消息] hello"]

    await eventually(spoken)
