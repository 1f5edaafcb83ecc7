"""The terms of a contact: pause, end, quotas, the certificate of its portal, and new keys."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from clawlink.doors.portal.records import AGENT, Contact
from clawlink.doors.portal.rules.outbox_steps import Outcome
from clawlink.doors.portal.server import outbox, poster
from clawlink.doors.portal.server.poster import Poster
from clawlink.store.base import Put
from tests.doors.portal.conftest import OWNER, Own, Peers, Portals
from tests.doors.portal.test_files import give, pair, status_of
from tests.doors.portal.test_messages import MESSAGE, contact_at, send
from tests.operations import make_authority
from tests.ports import free_port
from tests.waiting import eventually

B_KEY = "ap2p_the-key-of-another-owner-000000000000000000"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


async def terms(own: Own, named: Any, **fields: Any) -> Any:
    return (await own.well("POST", f"/api/portal/contacts/{named}", fields))["contact"]


async def keys_of(own: Own, url: str) -> Contact:
    """Return the record of a contact, with all its keys."""
    found = await own.relay.app.relay.core.store.get(Contact, url)
    assert found is not None
    return found


async def test_a_paused_contact_waits_on_both_sides_and_goes_on(portals: Portals) -> None:
    a, b = await pair(portals)
    assert (await terms(b, "A-bot", paused=True))["paused"]
    out, back = await send(a, b.url, "waits there"), await send(b, a.url, "waits here")
    file = await give(b, a.url, "waits.bin", b"x")

    async def told() -> bool:
        return "for now; try again later" in (await a.state(out, "queued", "sending"))["detail"]

    await eventually(told)
    assert (await b.state(back, "queued"))["sent_at"] is None
    assert (await b.well("GET", f"/api/file/status/{file}"))["status"] == "queued"
    assert not (await terms(b, "A-bot", paused=False))["paused"]
    await a.state(out, "sent")
    await b.state(back, "sent")
    await status_of(b, file, "sent")


async def test_a_contact_ends_at_its_date(portals: Portals) -> None:
    a, b = await pair(portals)
    past = (datetime.now(timezone.utc) - timedelta(days=1)).isoformat()
    assert (await terms(b, "A-bot", until="2099-01-31"))["until"] == "2099-01-30T16:00:00.000000+00:00", "of Beijing"
    await a.state(await send(a, b.url, "in time"), "sent")
    await terms(b, "A-bot", until=past)
    number = await send(a, b.url, "too late")

    async def told() -> bool:
        return "takes nothing from you" in (await a.state(number, "queued", "sending"))["detail"]

    await eventually(told)
    status, answer = await b.ask("POST", "/api/portal/send", {"to": a.url, "content": "x"})
    assert (status, "is ended" in answer["detail"]) == (409, True)
    assert (await terms(b, "A-bot", until=""))["until"] is None
    await a.state(number, "sent")
    for wrong in ({"until": "soon"}, {"pin": "x"}, {"until": "9" * 40}):
        status, answer = await b.ask("POST", "/api/portal/contacts/A-bot", wrong)
        assert (status, answer["field"]) == (400, next(iter(wrong))), wrong
    assert (await b.ask("POST", "/api/portal/contacts/A-bot", {"paused": "yes"}))[0] == 422


async def test_messages_and_bytes_of_a_contact_have_a_quota(portals: Portals) -> None:
    portal = await portals(portal_contact_messages=3, portal_contact_bytes=20)
    for url, text, fit in (("https://b.example", "x", 3), ("https://c.example", "x" * 15, 2)):
        key = await portal.befriend(url)
        body = {"api_key": key, "from_portal": url, "content": text}
        statuses = [(await portal.ask("POST", "/api/message/receive", body, key=""))[0] for _ in range(4)]
        assert statuses == [200] * fit + [429] * (4 - fit), url
    status, answer = await portal.ask("POST", "/api/message/receive", body, key="")
    assert (status, "20 bytes within an hour" in answer["detail"]) == (429, True)


async def test_two_of_ours_renew_a_key_by_themselves(portals: Portals) -> None:
    a, b = await pair(portals)
    before = await keys_of(a, b.url)
    done = await a.well("POST", "/api/portal/contacts/B-bot/key")
    assert done["state"] == "renewed"
    mine, theirs = await keys_of(a, b.url), await keys_of(b, a.url)
    assert mine.key == theirs.key != before.key
    assert (mine.keys, theirs.old_key) == ((mine.key,), before.key), (
        "the old key counts there until the new one is used"
    )
    await a.state(await send(a, b.url, "by the new key"), "sent")
    assert (await keys_of(b, a.url)).keys == (mine.key,)
    await b.state(await send(b, a.url, "and back"), "sent")
    old = {"api_key": before.key, "from_portal": a.url, "content": "by the old key"}
    assert (await b.ask("POST", "/api/message/receive", old, key=""))[0] == 401


async def test_a_guest_message_from_before_a_renewal_brings_no_key_back(portals: Portals) -> None:
    a, b = await pair(portals)
    before = (await keys_of(a, b.url)).key
    for own, other in ((a, b), (b, a)):
        text = {"content": f"I am {other.url}, and my key is {before}"}
        await own.well("POST", "/api/guest/leave-message", text, key="")
    assert (await a.well("POST", "/api/portal/contacts/B-bot/key"))["state"] == "renewed"
    for own, other in ((a, b), (b, a)):
        after = (await keys_of(own, other.url)).key
        status, answer = await own.ask("POST", "/api/portal/guests/1", {"decision": "approve", "replace": True})
        assert (status, "is older than the key" in answer["detail"]) == (409, True)
        assert (await keys_of(own, other.url)).key == after != before


KEYS = {name: f"ap2p_{name * 43}" for name in ("k", "o", "n", "s", "x")}
"""The key of a contact, the one before it, the offered one, the one that its portal takes, and another one."""

X, ALL, ADD = KEYS["x"], "kons", ("POST", "/api/contacts")
TRANSITIONS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    # The method, the path, the body, and then: key, old_key, next_key, send_key
    "the owner names another key": (*ADD, {"SHARED_KEY": X}, "x---"),
    "the owner puts another key": ("PUT", "/api/contacts/1", {"SHARED_KEY": X}, "x---"),
    "the owner approves another key": (
        "POST",
        "/api/portal/guests/1",
        {"decision": "approve", "replace": True},
        "x---",
    ),
    "the owner approves, and names another key": (
        "POST",
        "/api/portal/guests/1",
        {"decision": "approve", "replace": True, "key": X},
        "x---",
    ),
    "the owner names the offered key": (*ADD, {"SHARED_KEY": KEYS["n"]}, "n---"),
    "the owner names the key before": (*ADD, {"SHARED_KEY": KEYS["o"]}, "o---"),
    "the owner names the present key": (*ADD, {"SHARED_KEY": KEYS["k"]}, "kon-"),
    "the owner names no key": (*ADD, {"agent_name": "bob"}, ALL),
    "the owner puts no key": ("PUT", "/api/contacts/1", {"agent_name": "bob"}, ALL),
    "the owner approves no other key": ("POST", "/api/guest/messages/1/approve", {"portal_url": ""}, ALL),
    "the owner renews": ("POST", "/api/portal/contacts/1/key", {}, ALL),
    "the owner blocks": ("POST", "/api/portal/contacts/1", {"blocked": True}, ALL),
    "the contact shows the offered key": ("POST", "/api/message/receive", {"api_key": KEYS["n"]}, "n---"),
    "the contact shows the present key": ("POST", "/api/message/receive", {"api_key": KEYS["k"]}, "k-ns"),
    "the contact shows the key before": ("POST", "/api/message/receive", {"api_key": KEYS["o"]}, ALL),
}


async def keep(own: Own, contact: Contact) -> None:
    """Store the next version of a contact."""
    await own.relay.app.relay.core.commit(AGENT, Put(replace(contact, version=contact.version + 1)))


@pytest.mark.parametrize("way", TRANSITIONS)
async def test_each_change_of_a_key_ends_all_other_keys_of_the_contact(portals: Portals, way: str) -> None:
    fields = ("key", "old_key", "next_key", "send_key")
    assert {*fields, "key_at"} == {name for name in Contact.__struct_fields__ if "key" in name}
    portal = await portals()
    url = f"http://127.0.0.1:{free_port()}"  # nobody answers there
    await portal.befriend(url)
    before = await keys_of(portal, url)
    await keep(portal, replace(before, **{name: KEYS[one] for name, one in zip(fields, ALL, strict=True)}, key_at=1.0))
    told = {"content": f"my portal {url} my key {X}"}
    await portal.well("POST", "/api/guest/leave-message", told, key="")
    method, path, body, then = TRANSITIONS[way]
    named = {"portal_url": url} if path in ("/api/contacts", "/api/contacts/1") or "portal_url" in body else {}
    shown = {"from_portal": url, "content": "x"} if "api_key" in body else {}
    await portal.ask(method, path, {**body, **named, **shown}, key="" if shown else None)
    after = await keys_of(portal, url)
    assert [getattr(after, name) for name in fields] == [KEYS.get(one) for one in then], way
    assert (after.key_at == 1.0) == (then[0] == "k"), "another key has a time of its own"
    for key in KEYS.values():
        body = {"api_key": key, "from_portal": url, "content": "x"}
        counts = key in after.keys and not after.blocked
        status, _ = await portal.ask("POST", "/api/message/status", {**body, "idempotency_key": "none"}, key="")
        assert (status not in (401, 403)) == counts, key
        if counts:
            await keep(portal, replace(after, version=(await keys_of(portal, url)).version))


def meanwhile(patches: pytest.MonkeyPatch, path: str, act: Callable[[], Awaitable[Any]]) -> None:
    """Have something happen between the answer of a portal to a request and its arrival."""
    request = Poster.request

    async def acting(self: Poster, contact: Contact, method: str, asked: str, *args: Any, **options: Any) -> Any:
        answer = await request(self, contact, method, asked, *args, **options)
        if asked == path:
            await act()
        return answer

    patches.setattr(Poster, "request", acting)


async def test_a_key_that_the_owner_takes_ends_an_offer_under_way(portals: Portals) -> None:
    a, b = await pair(portals)

    async def replaced() -> None:
        await a.well("POST", "/api/contacts", {"portal_url": b.url, "SHARED_KEY": X})

    with pytest.MonkeyPatch.context() as patches:
        meanwhile(patches, "/api/portal/key", replaced)
        status, answer = await a.ask("POST", "/api/portal/contacts/B-bot/key")
    assert (status, answer["code"]) == (409, "wrong_state")
    assert "this renewal has ended" in answer["detail"]
    assert f"clawlink portal ask {b.url}" in answer["detail"]
    assert (await keys_of(a, b.url)).keys == (X,)
    offered = (await keys_of(b, a.url)).key
    late = {"api_key": offered, "from_portal": b.url, "content": "by the offered key"}
    assert (await a.ask("POST", "/api/message/receive", late, key=""))[0] == 401
    number = await send(a, b.url, "by a key that the other portal does not have")

    async def told() -> bool:
        return f"clawlink portal ask {b.url}" in (await a.state(number, "queued", "sending"))["detail"]

    await eventually(told)
    text = {"content": f"I am {a.url}, and my key is {X}"}  # as that command leaves it
    guest = (await b.well("POST", "/api/guest/leave-message", text, key=""))["message_id"]
    await b.well("POST", f"/api/portal/guests/{guest}", {"decision": "approve", "replace": True})
    await a.state(number, "sent")
    await b.state(await send(b, a.url, "and back"), "sent")


async def test_what_waits_for_a_contact_goes_at_once_with_another_key(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try after a failure is an hour away."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 7200.0)

    async def added(a: Own, url: str, key: str) -> None:
        await a.well("POST", "/api/contacts", {"portal_url": url, "SHARED_KEY": key})

    async def changed(a: Own, url: str, key: str) -> None:
        await a.well("PUT", "/api/contacts/1", {"portal_url": url, "SHARED_KEY": key})

    async def approved(a: Own, url: str, key: str) -> None:
        text = {"content": f"I am {url}, and my key is {key}"}
        guest = (await a.well("POST", "/api/guest/leave-message", text, key=""))["message_id"]
        await a.well("POST", f"/api/portal/guests/{guest}", {"decision": "approve", "replace": True})

    for way in (added, changed, approved):
        a, b = await portals(key=OWNER), await portals(key=B_KEY)
        await a.befriend(b.url)
        key = await b.befriend(a.url)
        number, file = await send(a, b.url, "hi"), await give(a, b.url, "f.bin", b"x")

        async def refused(a: Own = a, number: int = number, file: str = file) -> bool:
            told = [await a.well("GET", f"/api/portal/messages/{number}"), *(await files_of(a))]
            return all("401" in one["detail"] for one in told)

        await eventually(refused)
        await way(a, b.url, key)
        await a.state(number, "sent")
        await status_of(a, file, "sent")


async def test_what_waits_for_a_contact_goes_at_once_when_the_contact_writes(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner has just approved, or its portal is back. The next try after a failure is an hour away."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 7200.0)
    a, b = await portals(key=OWNER), await portals(key=B_KEY)
    key = await a.befriend(b.url)
    number, file = await send(a, b.url, "may I?"), await give(a, b.url, "f.bin", b"x")

    async def refused() -> bool:
        told = [await a.well("GET", f"/api/portal/messages/{number}"), *(await files_of(a))]
        return all("401" in one["detail"] for one in told)

    await eventually(refused)
    await b.well("POST", "/api/contacts", {"portal_url": a.url, "SHARED_KEY": key})
    await b.state(await send(b, a.url, "you may"), "sent")
    await a.state(number, "sent")
    await status_of(a, file, "sent")


async def files_of(own: Own) -> Any:
    return (await own.well("GET", "/api/portal/files"))["files"]


async def test_a_message_by_an_ended_offer_ends_no_later_one(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    assert (await portal.well("POST", "/api/portal/contacts/1/key"))["state"] == "asked"
    ended = (await keys_of(portal, peer.url)).next_key
    assert ended is not None
    peer.key = ended  # its owner approves

    async def replaced() -> None:
        await portal.well("POST", "/api/contacts", {"portal_url": peer.url, "SHARED_KEY": X})
        await portal.well("POST", "/api/portal/contacts/1/key")

    with pytest.MonkeyPatch.context() as patches:
        meanwhile(patches, "/api/message/receive", replaced)
        await portal.state(await send(portal, peer.url, "on its way"), "sent")
    after = await keys_of(portal, peer.url)
    assert (after.key, ended in after.keys, after.next_key is None) == (X, False, False)


async def test_a_key_that_the_other_owner_takes_ends_a_renewal_under_way(portals: Portals) -> None:
    a, b = await pair(portals)

    async def replaced() -> None:
        await b.well("POST", "/api/contacts", {"portal_url": a.url, "SHARED_KEY": X})

    with pytest.MonkeyPatch.context() as patches:
        meanwhile(patches, "/api/portal/key/confirm", replaced)
        told = await a.well("POST", "/api/portal/contacts/B-bot/key")
    assert told["state"] == "pending"
    assert "has ended meanwhile" in told["detail"]
    assert f"clawlink portal ask {b.url}" in told["detail"]
    assert (await keys_of(b, a.url)).keys == (X,)
    again = await a.well("POST", "/api/portal/contacts/B-bot/key")
    assert (again["state"], "Invalid API Key" in again["detail"]) == ("pending", True)
    assert (await keys_of(b, a.url)).keys == (X,)


async def test_a_renewal_keeps_the_key_that_the_contact_has_shown(portals: Portals) -> None:
    a, b = await pair(portals)
    shown = (await keys_of(a, b.url)).key
    await keep(b, replace(await keys_of(b, a.url), key=X, old_key=shown, next_key=KEYS["n"]))
    assert (await a.well("POST", "/api/portal/contacts/B-bot/key"))["state"] == "renewed"
    offered = (await keys_of(a, b.url)).key
    assert (await keys_of(b, a.url)).keys == (offered, shown), "the contact knows no other key"


async def test_two_renewals_that_cross_make_one_key(portals: Portals) -> None:
    a, b = await pair(portals)
    confirmed: list[None] = []
    both = asyncio.Event()

    async def meet() -> None:
        confirmed.append(None)
        if len(confirmed) == 2:
            both.set()
        await both.wait()

    with pytest.MonkeyPatch.context() as patches:
        meanwhile(patches, "/api/portal/key/confirm", meet)
        answers = await asyncio.gather(
            *(own.ask("POST", f"/api/portal/contacts/{name}/key") for own, name in ((a, "B-bot"), (b, "A-bot")))
        )
    assert [answer.get("state") for _, answer in answers].count("renewed") == 1, answers
    assert (await keys_of(a, b.url)).key == (await keys_of(b, a.url)).key
    await a.state(await send(a, b.url, "by the one key"), "sent")
    await b.state(await send(b, a.url, "and back"), "sent")
    assert (await keys_of(a, b.url)).keys == (await keys_of(b, a.url)).keys


async def test_a_renewal_whose_answer_is_lost_leaves_both_able_to_write(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    request = Poster.request

    async def losing(self: Poster, contact: Contact, method: str, path: str, *args: Any, **options: Any) -> Any:
        answer = await request(self, contact, method, path, *args, **options)
        if path == "/api/portal/key":
            raise ConnectionResetError("the answer is lost")
        return answer

    monkeypatch.setattr(Poster, "request", losing)
    assert (await a.well("POST", "/api/portal/contacts/B-bot/key"))["state"] == "pending"
    monkeypatch.setattr(Poster, "request", request)
    mine, theirs = await keys_of(a, b.url), await keys_of(b, a.url)
    assert theirs.key == mine.next_key
    await a.state(await send(a, b.url, "by the old key"), "sent")
    await b.state(await send(b, a.url, "by the new key"), "sent")
    assert (await keys_of(a, b.url)).keys == (theirs.key,), "its use ends the old key"
    await a.state(await send(a, b.url, "by the new key"), "sent")
    assert (await keys_of(b, a.url)).keys == (theirs.key,)


async def test_a_thief_of_a_key_cannot_renew_it(portals: Portals) -> None:
    a, b = await pair(portals)
    key = (await keys_of(a, b.url)).key
    stolen = {"api_key": key, "from_portal": a.url, "new_key": "ap2p_" + "t" * 43}
    status, answer = await b.ask("POST", "/api/portal/key", stolen, key="")
    assert (status, "does not confirm" in answer["detail"]) == (403, True), "the portal at the address offers none"
    other = await b.befriend("https://c.example")
    status, answer = await b.ask("POST", "/api/portal/key", {**stolen, "new_key": "short"}, key="")
    assert (status, answer["field"]) == (400, "new_key")
    assert (await b.ask("POST", "/api/portal/key", {**stolen, "new_key": other}, key=""))[0] == 403
    assert (await keys_of(b, a.url)).keys == (key,)


async def test_an_old_portal_gets_the_new_key_by_a_guest_message(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    assert (await portal.well("POST", "/api/portal/contacts/1/key"))["state"] == "asked"
    await portal.state(await send(portal, peer.url, "before its owner answers"), "sent")
    offered = (await keys_of(portal, peer.url)).next_key
    assert offered is not None
    (text,) = peer.guests
    assert offered in text
    assert portal.url in text
    peer.key = offered  # its owner approves
    await portal.state(await send(portal, peer.url, "after it"), "sent")
    assert (await keys_of(portal, peer.url)).keys == (offered,)
    assert [one["content"] for one in peer.stored] == ["before its owner answers", "after it"]
    assert (await portal.well("POST", "/api/portal/contacts/1/key"))["state"] == "asked"
    peer.key = str((await keys_of(portal, peer.url)).next_key)  # its owner approves again
    await status_of(portal, await give(portal, peer.url, "after it.bin", b"x" * 20), "sent")
    assert peer.files.contents("after it.bin") == b"x" * 20
    assert (await keys_of(portal, peer.url)).keys == (peer.key,)
    await peer.stop()
    assert (await portal.well("POST", "/api/portal/contacts/1/key"))["state"] == "pending"
    body = {"api_key": (await keys_of(portal, peer.url)).next_key, "from_portal": peer.url, "content": "by the offered"}
    assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 200
    assert (await keys_of(portal, peer.url)).keys == (body["api_key"],)


async def test_a_pinned_certificate_stands_for_an_authority_and_no_other_one_does(
    old_portals: Peers, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority.cert, authority.key)
    peer = await old_portals("0.8", ssl=tls)
    peer.key, peer.from_portal = "k", "http://127.0.0.1:9"
    text = await asyncio.to_thread(Path(authority.cert).read_text)
    end = "-----END CERTIFICATE-----\n"
    pem = ssl.PEM_cert_to_DER_cert(text.partition(end)[0] + end)
    right = hashlib.sha256(pem).hexdigest()
    sender = Poster(peer.from_portal, ca=authority.ca, allowed=())
    for pin, outcome in ((right, Outcome.STORED), ("0" * 64, Outcome.NOT_STORED), (None, Outcome.STORED)):
        posted = await sender.post(replace(contact_at(peer.url), pin=pin), MESSAGE)
        assert posted.outcome is outcome, (pin, posted.detail)
        assert (pin != "0" * 64) or right in posted.detail, "the owner can compare it, and pin it"
    await sender.close()
    unknown = Poster(peer.from_portal, ca=None, allowed=())
    posted = await unknown.post(replace(contact_at(peer.url), pin=right), MESSAGE)
    await unknown.close()
    assert posted.outcome is Outcome.STORED, "peers of 0.8 sign their own certificates"
    assert len(peer.stored) == 3


async def test_a_peer_that_is_slow_huge_or_lies_loses_no_message(
    portals: Portals, old_portals: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer that is none of a portal leaves a message in doubt or waiting, and the next one takes it on."""
    portal = await portals()
    for name, answer in (
        ("huge", lambda: web.Response(body=b"x" * 10_000_000)),
        ("rubbish", lambda: web.Response(text="<html>ok</html>")),
        ("a lie", lambda: web.json_response({"status": "received?"})),
        ("a list", lambda: web.json_response([])),
        ("deep", lambda: web.Response(text="[" * 100_000, content_type="application/json")),
        ("bytes", lambda: web.Response(body=b"\xff\xfe", content_type="application/json")),
    ):
        peer = await old_portals("0.9")
        peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
        peer.answer = answer
        number = await send(portal, peer.url, "x")

        async def doubted(number: int = number) -> bool:
            return "not as a portal" in (await portal.state(number, "sending", "unknown"))["detail"]

        await eventually(doubted)
        peer.answer = None
        told = await portal.state(number, "sent", "unknown")
        assert len(peer.stored) <= 1, (name, told)
    monkeypatch.setattr(poster, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    slow = await old_portals("0.9")
    slow.key, slow.from_portal = await portal.befriend(slow.url), portal.url
    slow.pause = asyncio.Event()
    number = await send(portal, slow.url, "x")

    async def lost() -> bool:
        return "the answer was lost" in (await portal.state(number, "sending", "unknown"))["detail"]

    await eventually(lost)
    slow.pause.set()
    await portal.state(number, "sent", "unknown")
    assert len(slow.stored) <= 2, "an old portal gets a message twice at most"
    monkeypatch.undo()
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    location = {"Location": portal.url + "/api/contacts"}
    peer = await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    peer.answer = lambda: web.Response(status=307, headers=location)
    number = await send(portal, peer.url, "x")

    async def waits() -> bool:
        return "answers 307" in (await portal.state(number, "sending", "queued"))["detail"]

    await eventually(waits)
    assert portal.key == OWNER
