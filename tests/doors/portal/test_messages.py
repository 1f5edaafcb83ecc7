"""Messages: between two portals of ours, to and from each release of Agent P2P, and through all that goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from clawlink.domain import networks
from clawlink.doors.portal.records import CONTACTS, Contact, Message, State
from clawlink.doors.portal.rules.outbox_steps import Outcome
from clawlink.doors.portal.server import outbox, portal_request
from clawlink.doors.portal.server.poster import Poster
from tests.doors.portal.conftest import OWNER, Bridges, Own, Peers, Portals
from tests.doors.portal.old_peer import RELEASES, OldPortal, OldSender
from tests.operations import make_authority
from tests.ports import free_port
from tests.waiting import eventually, until

A_KEY, B_KEY = OWNER, "ap2p_the-key-of-another-owner-000000000000000000"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


MESSAGE = Message(
    id="m",
    version=1,
    number=1,
    inbound=False,
    contact="",
    content="x",
    message_type="text",
    created_at=0.0,
    state=State.QUEUED,
)


def contact_at(url: str) -> Contact:
    return Contact(id=url, version=1, number=1, url=url, key="k", created_at=0.0)


async def pair(portals: Portals, **settings: Any) -> tuple[Own, Own]:
    """Return two portals whose owners agreed."""
    a, b = await portals(key=A_KEY, **settings), await portals(key=B_KEY, **settings)
    key = await a.befriend(b.url, agent_name="B-bot", user_name="Bob")
    await b.well("POST", "/api/contacts", {"portal_url": a.url, "agent_name": "A-bot", "SHARED_KEY": key})
    return a, b


async def befriended(portal: Own, peer: OldPortal) -> None:
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url


async def send(portal: Own, to: Any, content: str, **fields: Any) -> int:
    number: int = (await portal.well("POST", "/api/portal/send", {"to": to, "content": content, **fields}))["id"]
    return number


async def test_between_two_of_ours_each_fact_is_told_and_none_before_its_time(
    portals: Portals, bridges: Bridges
) -> None:
    a, b = await pair(portals)
    number = await send(a, "Bob的B-bot", "hello")
    sent = await a.state(number, "sent")
    assert (sent["acknowledged_at"], sent["answered_at"]) == (None, None)
    assert (await b.contact(a.url))["unread_count"] == 1
    mute = await bridges(b, key=B_KEY, acks=False)
    await until(lambda: len(mute.texts) == 1)
    assert (await a.state(number, "sent"))["acknowledged_at"] is None, "a read is no acknowledgement"
    await mute.close()
    bridge = await bridges(b, key=B_KEY)
    await until(lambda: bridge.texts == ["[Agent P2P] 新消息来自 A-bot(Agent): hello"])
    (frame,) = [frame for frame in bridge.frames if frame["type"] == "new_message"]
    assert await a.state(number, "acknowledged")
    assert (await b.contact(a.url))["unread_count"] == 0
    await send(b, a.url, "and you", in_reply_to=frame["id"])
    answered = await a.state(number, "answered")
    assert answered["acknowledged_at"] <= answered["answered_at"]
    for portal, other, states in ((a, b, ["received", "sent"]), (b, a, ["sent", "acknowledged"])):
        told = await portal.well("GET", "/api/messages/history", params={"contact_portal": other.url + "/"})
        assert told["total"] == 2
        assert [one["content"] for one in told["messages"]] == ["and you", "hello"]
        assert [one["state"].replace("answered", "sent") for one in told["messages"]] == states
    listed = (await b.well("GET", "/api/messages", params={"contact_portal": a.url}))["messages"]
    assert [one["content"] for one in listed] == ["hello", "and you"]
    one = await b.well("GET", "/api/messages/history", params={"contact_portal": a.url, "limit": 1, "offset": 1})
    assert [message["content"] for message in one["messages"]] == ["hello"]


async def test_a_repeat_with_its_key_is_the_same_message(portals: Portals) -> None:
    a, b = await pair(portals)
    numbers = {await send(a, b.url, "once", idempotency_key="k") for _ in range(3)}
    assert len(numbers) == 1
    await a.state(numbers.pop(), "sent")
    status, answer = await a.ask("POST", "/api/portal/send", {"to": b.url, "content": "x", "idempotency_key": "k"})
    assert (status, answer["code"]) == (409, "key_reused")
    key = (await a.contact(b.url))["SHARED_KEY"]
    body = {"api_key": key, "from_portal": a.url, "content": "twice", "idempotency_key": "r"}
    answers = [await b.ask("POST", "/api/message/receive", body, key="") for _ in range(2)]
    assert answers[0] == answers[1]
    for field in ("idempotency_key", "in_reply_to"):
        status, answer = await b.ask("POST", "/api/message/receive", {**body, field: "k" * 129}, key="")
        assert (status, answer["field"]) == (400, field), answer
    contact = await b.contact(a.url)
    assert contact["unread_count"] == 2
    path = f"/api/portal/contacts/{contact['id']}"
    del contact["SHARED_KEY"]
    assert (await b.well("GET", path))["contact"] == contact
    assert (await b.well("POST", path, {}))["contact"] == contact


async def test_each_old_release_receives_and_sends(portals: Portals, old_portals: Peers, bridges: Bridges) -> None:
    portal = await portals()
    bridge = await bridges(portal)
    for release in RELEASES:
        peer = await old_portals(release)
        await befriended(portal, peer)
        for text in (f"first to {release}", f"second 给 {release}"):
            told = await portal.state(await send(portal, peer.url, text), "sent")
            assert "is not ClawLink" in told["detail"], release
        assert [one["content"] for one in peer.stored] == [f"first to {release}", f"second 给 {release}"], release
        sender = OldSender(release, peer.url, peer.key)
        for text in (f"hello from {release}", ""):
            status, answer = await sender.send(portal.relay.session, portal.url, text)
            assert (status, answer["status"]) == (200, "received"), release
            assert isinstance(answer["message_id"], int), release
        shown = peer.url.removeprefix("http://")
        said = [f"[Agent P2P] 新消息来自 {shown}: {text}" for text in (f"hello from {release}", "")]
        await until(lambda said=said: bridge.texts[-2:] == said)  # type: ignore[misc]
        wrong = OldSender(release, peer.url, "ap2p_" + "w" * 43)
        assert (await wrong.send(portal.relay.session, portal.url, "x"))[0] == 401, release
        body = {"api_key": OWNER, "to_portal": peer.url, "content": "posted by the script itself"}
        assert (await portal.well("POST", "/api/message/sent", body, key=""))["status"] == "recorded", release
        told = await portal.well("GET", "/api/messages/history", params={"contact_portal": peer.url})
        assert [one["type"] for one in told["messages"]] == ["sent", "received", "received", "sent", "sent"], release
        assert told["messages"][0]["state"] == "reported", release


async def test_a_message_waits_for_consent_and_for_a_portal_that_is_away(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = "not yet", portal.url
    key = await portal.befriend(peer.url)
    number = await send(portal, peer.url, "may I")

    async def told() -> bool:
        return "may not have approved" in (await portal.state(number, "queued", "sending"))["detail"]

    await eventually(told)
    peer.key = key
    await portal.state(number, "sent")
    port = int(peer.url.rpartition(":")[2])
    await peer.stop()
    numbers = [await send(portal, peer.url, text) for text in ("one", "two", "three")]

    async def tried() -> bool:
        return bool((await portal.state(numbers[0], "queued", "sending"))["detail"])

    await eventually(tried)
    again = await old_portals("0.9", port=port)
    again.key, again.from_portal = key, portal.url
    for number in numbers:
        await portal.state(number, "sent")
    assert [one["content"] for one in again.stored] == ["one", "two", "three"], "in their order, each once"


async def test_a_lost_answer_is_repeated_once_to_an_old_portal_and_then_nobody_knows(
    portals: Portals, old_portals: Peers, bridges: Bridges
) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    await befriended(portal, peer)
    bridge = await bridges(portal)
    peer.lose = 1
    await portal.state(await send(portal, peer.url, "doubtful"), "sent")
    assert "/api/portal/about" in peer.asked, "it asks for the kind of that portal before it posts again"
    assert len(peer.stored) == 2
    peer.lose = 2
    number = await send(portal, peer.url, "hopeless")
    told = await portal.state(number, "unknown")
    assert "once, twice or not at all" in told["detail"]
    assert [one["content"] for one in peer.stored] == ["doubtful"] * 2 + ["hopeless"] * 2
    await until(lambda: any(f"Message {number} to " in text for text in bridge.texts))
    await portal.state(await send(portal, peer.url, "after it"), "sent")


async def test_answers_that_are_no_success_are_none(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    await befriended(portal, peer)
    elsewhere = await old_portals("0.9")
    for answer, state, words in (
        (lambda: web.json_response({"detail": 'no" \x1b[31m'}, status=413), "refused", "answers 413: \"no' "),
        (lambda: web.json_response({"detail": [1]}, status=422), "refused", "answers 422"),
        (
            lambda: web.Response(status=301, headers={"Location": elsewhere.url + "/api/message/receive"}),
            "queued",
            "301",
        ),
        (lambda: web.json_response({"detail": "full"}, status=429), "queued", "429"),
        (lambda: web.Response(text="parked", status=200), "unknown", "twice"),
        (lambda: web.json_response({"status": "received?"}, status=200), "unknown", "twice"),
        (lambda: web.Response(body=b"[" * 100_000, status=200), "unknown", "twice"),
        (lambda: web.Response(status=502), "unknown", "twice"),
        (lambda: web.Response(status=413, text="<html>"), "refused", "a proxy before it takes no body of this size"),
        (lambda: web.Response(status=503, text="<html>"), "queued", "its owner has to see that it runs"),
    ):
        peer.answer = answer
        number = await send(portal, peer.url, words)

        async def told(number: int = number, state: str = state, words: str = words) -> bool:
            found = await portal.state(number, "queued", "sending", "refused", "unknown")
            return bool(found["state"] == state and words in found["detail"] and "\x1b" not in found["detail"])

        await eventually(told)
        peer.answer = None
        if state == "queued":
            await portal.state(number, "sent")
    assert elsewhere.stored == [], "a redirect takes no key elsewhere"
    assert [one["content"] for one in peer.stored] == ["301", "429", "its owner has to see that it runs"]


class Breaking:
    """A proxy before a portal. It passes requests on, and spoils the answers to messages as ``ways`` says, in turn."""

    def __init__(self) -> None:
        self.target: tuple[str, int] = ("", 0)
        self.ways: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(size[1])) if size else b""
            way = self.ways.pop(0) if self.ways and b"/api/message/receive" in head else "pass"
            back, to = await asyncio.open_connection(*self.target)
            to.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
            answer = await back.read(-1)
            to.close()
            cut = {"in the head": 20, "in the body": len(answer) - 5}.get(way, len(answer))
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>" if way == "502" else answer[:cut])
            await writer.drain()
        writer.close()


async def test_a_proxy_that_breaks_answers_between_two_of_ours_doubles_and_invents_nothing(portals: Portals) -> None:
    proxy = Breaking()
    shown = await proxy.start()
    try:
        a, b = await portals(), await portals(key=B_KEY, url=shown)
        proxy.target = ("127.0.0.1", int(b.relay.url.rpartition(":")[2]))
        key = await a.befriend(shown)
        await b.well("POST", "/api/contacts", {"portal_url": a.url, "SHARED_KEY": key})
        for ways in (["in the head"], ["in the body"], ["502"], ["502", "in the head", "in the body"]):
            proxy.ways = list(ways)
            number = await send(a, shown, "-".join(ways))
            assert (await a.state(number, "sent", "unknown", "refused"))["state"] == "sent", ways
            assert proxy.ways == [], "an answer was taken that never came whole"
        asked = {"contact_portal": a.url}
        history = (await b.well("GET", "/api/messages/history", params=asked))["messages"]
        assert sorted(one["content"] for one in history) == sorted(
            ["in the head", "in the body", "502", "502-in the head-in the body"]
        )
    finally:
        await proxy.close()


async def test_no_private_address_is_reached(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    port = peer.url.rpartition(":")[2]
    for url in (
        "http://10.0.0.1:1",
        "https://169.254.169.254",
        "http://[::ffff:10.0.0.1]:1",
        "http://0.0.0.0:" + port,
        "https://2130706433:" + port,
        "http://1.1.1.1:9",
        "http://a..b:9",
    ):
        await portal.befriend(url)
        number = await send(portal, url, "x")

        async def told(number: int = number) -> bool:
            return bool((await portal.state(number, "queued", "sending"))["detail"])

        await eventually(told)
        assert (await portal.state(number, "queued"))["sent_at"] is None, url
    assert peer.asked == []


async def test_a_name_that_resolves_to_a_private_address_is_not_reached(old_portals: Peers) -> None:
    peer = await old_portals("0.9")
    contact = contact_at(f"http://localhost:{peer.url.rpartition(':')[2]}")
    for own, allowed, outcome in (
        ("https://me.example", "", Outcome.NOT_STORED),
        ("https://me.example", "127.0.0.0/8,::1/128", Outcome.STORED),
        ("http://127.0.0.1:9", "", Outcome.STORED),
    ):
        peer.key, peer.from_portal = "k", own
        poster = Poster(own, ca=None, allowed=networks.networks(allowed))
        posted = await poster.post(contact, MESSAGE)
        await poster.close()
        assert posted.outcome is outcome, (own, allowed, posted.detail)
        if outcome is Outcome.NOT_STORED:
            assert "private address" in posted.detail
    assert len(peer.stored) == 2


async def test_a_message_that_is_too_large_or_to_nobody_is_refused(portals: Portals) -> None:
    a, b = await pair(portals, limits={"max_body_bytes": 800_000})  # any text that is short enough fits, as JSON
    for body, status, word in (
        ({"to": b.url, "content": "x" * (128 * 1024 + 1)}, 413, "at most 131072 bytes, and this one has 131073; "),
        ({"to": b.url, "content": "x" * 900_000}, 413, "at most 131072 bytes, and this one has more; send it in"),
        ({"to": b.url, "content": " "}, 400, "content is empty"),
        ({"to": "nobody", "content": "x"}, 404, "clawlink portal contacts"),
        ({"to": 99, "content": "x"}, 404, "contact 99"),
        ({"to": "9" * 5000, "content": "x"}, 404, "clawlink portal contacts"),
        ({"to": b.url, "content": "x", "in_reply_to": 99}, 404, "message 99"),
        ({"to": b.url, "content": "x", "message_type": ""}, 400, "message_type"),
    ):
        got, answer = await a.ask("POST", "/api/portal/send", body)
        assert (got, word in answer["detail"]) == (status, True), (body.get("to"), answer)
    key = (await a.contact(b.url))["SHARED_KEY"]
    for size in (128 * 1024 + 1, 900_000):
        large = {"api_key": key, "from_portal": a.url, "content": "x" * size}
        status, answer = await b.ask("POST", "/api/message/receive", large, key="")
        assert (status, "at most 131072 bytes" in answer["detail"]) == (413, True), answer
    assert (await a.ask("GET", "/api/portal/messages/99"))[0] == 404
    for way in ("send", "reply"):
        for size in (128 * 1024 + 1, 900_000):
            status, answer = await a.ask("POST", f"/api/chat/owner/{way}", {"content": "x" * size})
            assert (status, "at most 131072 bytes" in answer["detail"]) == (413, True), (way, answer)
        status, answer = await a.ask("POST", f"/api/chat/owner/{way}", {"content": " "})
        assert (status, answer) == (400, {"error": "content is empty"}), way


async def test_a_task_or_a_guest_message_that_is_too_large_is_told_its_limit_and_the_next_step(
    portals: Portals,
) -> None:
    a, b = await pair(portals, limits={"max_body_bytes": 100_000})
    text = "x" * 100_000
    news = {"api_key": (await a.contact(b.url))["SHARED_KEY"], "from_portal": a.url, "kind": "task", "task_id": "1"}
    for own, path, body, field, said in (
        (a, "/api/portal/delegate", {"to": 1, "task": text}, "task", "delegate CONTACT TEXT --attach FILE"),
        (a, "/api/portal/tasks/1", {"result": text}, "result", "clawlink portal answer TASK TEXT --attach FILE"),
        (b, "/api/portal/tasks", news | {"content": text}, "content", "attach what is long as a file, or ask the own"),
    ):
        status, answer = await own.ask("POST", path, body)
        assert (status, answer["code"], answer["field"]) == (413, "too_large", field), answer
        assert ("at most 100000 bytes as JSON" in answer["detail"], said in answer["detail"]) == (True, True), answer
    for size in (9_000, 100_000):
        status, answer = await b.ask("POST", "/api/guest/leave-message", {"content": "x" * size}, key="")
        assert (status, "a guest message has at most 8192 bytes" in answer["detail"]) == (413, True), answer


async def test_a_body_that_a_lower_limit_refuses_is_told_that_limit(portals: Portals) -> None:
    portal = await portals(limits={"max_body_bytes": 1000})
    status, answer = await portal.ask("POST", "/api/portal/send", {"to": 1, "content": "x" * 1000})
    assert (status, "1000 bytes" in answer["detail"], "131072" in answer["detail"]) == (413, True, False), answer


async def test_only_the_socket_that_got_a_message_acks_it(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    await a.state(await send(a, b.url, "hello"), "sent")
    mute = await bridges(b, key=B_KEY, acks=False)
    await until(lambda: len(mute.texts) == 1)
    (frame,) = [frame for frame in mute.frames if frame["type"] == "new_message"]
    socket = await b.relay.session.ws_connect(f"{b.url}/ws/agent", params={"api_key": B_KEY})
    await socket.send_json({"type": "ack", "message_ids": [frame["id"], 99]})
    await socket.send_json({"type": "nonsense"})
    await socket.send_json({"type": "ping"})
    confirmed = await socket.receive_json()
    assert confirmed == {"type": "ack_confirm", "message_ids": [frame["id"], 99]}
    assert await socket.receive_json() == {"type": "pong"}
    assert (await b.contact(a.url))["unread_count"] == 1
    await mute.close()
    again = await socket.receive_json()
    assert (again["type"], again.get("content")) == ("new_message", "hello"), "it is due again for another"
    await socket.send_str("{")
    assert (await socket.receive()).data == 1008


async def test_a_contact_that_is_away_holds_up_no_other_and_may_be_removed(
    portals: Portals, old_portals: Peers
) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    await befriended(portal, peer)
    gone = await portal.befriend("http://127.0.0.1:9")
    assert gone
    number = await send(portal, "http://127.0.0.1:9", "x")
    await portal.state(await send(portal, peer.url, "not held up"), "sent")
    await portal.well("DELETE", f"/api/contacts/{(await portal.contact('http://127.0.0.1:9'))['id']}")
    assert "removed" in (await portal.state(number, "refused"))["detail"]


async def test_what_waits_for_another_try_ends_as_its_contact_is_removed(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PAUSE_SECONDS", "MOST_PAUSE_SECONDS"):
        monkeypatch.setattr(outbox, name, 3600.0)
    portal, away = await portals(), "http://127.0.0.1:9"
    await portal.befriend(away)
    number = await send(portal, away, "x")

    async def failed() -> bool:
        return "no connection" in (await portal.state(number, "queued"))["detail"]

    await eventually(failed)
    await portal.well("DELETE", f"/api/contacts/{(await portal.contact(away))['id']}")
    assert "removed" in (await portal.state(number, "refused"))["detail"]


async def test_a_blocked_contact_is_kept_out_and_a_forgotten_one_leaves_nothing(portals: Portals) -> None:
    a, b = await pair(portals)
    await a.state(await send(a, b.url, "before"), "sent")
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": True})
    number = await send(a, b.url, "kept out")

    async def told() -> str:
        return str((await a.state(number, "queued", "sending"))["detail"])

    assert (
        await eventually(told) == f'the portal {b.url} answers 403: "the owner of this portal takes nothing from you"'
    )
    assert (await b.ask("POST", "/api/portal/send", {"to": a.url, "content": "x"}))[0] == 409
    key = (await a.contact(b.url))["SHARED_KEY"]
    text = {"content": f"let me in: {a.url} {key}"}
    guest = (await b.well("POST", "/api/guest/leave-message", text, key=""))["message_id"]
    status, answer = await b.ask("POST", f"/api/portal/guests/{guest}", {"decision": "approve"})
    assert (status, answer["code"]) == (409, "wrong_state")
    await b.well("POST", f"/api/portal/contacts/{(await b.contact(a.url))['id']}", {"blocked": False})
    await a.state(number, "sent")
    assert (await b.well("GET", "/api/messages/history", params={"contact_portal": a.url}))["total"] == 2
    done = await b.well("DELETE", "/api/portal/contacts/" + quote(a.url, safe=""))
    assert done == {"forgotten": a.url, "messages": 2, "guests": 1, "files": 0}
    assert (await b.well("GET", "/api/messages/history", params={"contact_portal": a.url}))["total"] == 0
    assert (await b.well("GET", "/api/guest/messages"))["messages"] == []
    assert (await b.well("GET", "/api/contacts"))["contacts"] == []
    assert (await b.ask("GET", "/", key="t"))[1]["messages_held"] == 0, "nothing of it waits for the agent"
    later = await send(a, b.url, "nobody")

    async def refused() -> bool:
        return "may not have approved" in (await a.state(later, "queued", "sending"))["detail"]

    await eventually(refused)
    await a.well("DELETE", "/api/portal/contacts/" + quote(b.url, safe=""))
    assert (await a.ask("GET", f"/api/portal/messages/{later}"))[0] == 404


async def test_a_portal_that_stops_learns_the_outcome_of_a_post_under_way(portals: Portals, old_portals: Peers) -> None:
    portal, peer, away = await portals(), await old_portals("0.9"), "http://127.0.0.1:9"
    await befriended(portal, peer)
    await portal.befriend(away)
    peer.pause = asyncio.Event()
    under_way, waiting = await send(portal, peer.url, "under way"), await send(portal, away, "waits")
    await until(lambda: len(peer.stored) == 1)
    ids = [(await portal.state(number, "sending", "queued"))["message_id"] for number in (under_way, waiting)]
    stopping = asyncio.create_task(portal.relay.app.stop())
    asyncio.get_running_loop().call_later(0.1, peer.pause.set)
    await stopping
    store = portal.relay.app.relay.core.store
    states = [found.state for id in ids if (found := await store.get(Message, id)) is not None]
    assert states == [State.SENT, State.QUEUED]
    assert len(peer.stored) == 1


async def test_over_tls_a_certificate_has_to_be_trusted(old_portals: Peers, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority.cert, authority.key)
    peer = await old_portals("0.9", ssl=tls)
    peer.key, peer.from_portal = "k", "http://127.0.0.1:9"
    for ca, outcome in ((None, Outcome.NOT_STORED), (authority.ca, Outcome.STORED)):
        poster = Poster(peer.from_portal, ca=ca, allowed=())
        posted = await poster.post(contact_at(peer.url), MESSAGE)
        await poster.close()
        assert posted.outcome is outcome
        if ca is None:
            said = posted.detail
            assert said.startswith("its certificate is not trusted ("), said
            assert "clawlink portal pin CONTACT SHA256" in said, "the way for a portal that signs its own"
            assert "SSL" not in said, "it is for people"
    assert len(peer.stored) == 1
    port = free_port()
    poster = Poster(peer.from_portal, ca=None, allowed=())
    posted = await poster.post(contact_at(f"http://127.0.0.1:{port}"), MESSAGE)
    await poster.close()
    assert posted.detail.startswith(f"no connection to 127.0.0.1:{port}: "), posted.detail
    assert "ssl" not in posted.detail, "it is for people"


async def test_a_message_that_cannot_be_sent_in_its_time_expires_and_the_agent_is_told(
    portals: Portals, bridges: Bridges
) -> None:
    portal = await portals(portal_ttl=0.3)
    await portal.befriend("http://127.0.0.1:9")
    bridge = await bridges(portal)
    numbers = [await send(portal, "http://127.0.0.1:9", text) for text in ("one", "two")]
    for number in numbers:
        assert "within its time to live" in (await portal.state(number, "expired"))["detail"]

    async def told() -> bool:
        return all(any(f"Message {number} to " in text for text in bridge.texts) for number in numbers)

    await eventually(told)
    await until(lambda: portal.relay.app.doors["portal"].active.outbox.working == 0)  # type: ignore[attr-defined]


async def test_a_list_of_large_messages_stays_within_one_reply_and_loses_none(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_request, "MAX_REPLY_BYTES", 10_000)
    portal = await portals()
    where = "https://b.example"
    for number in range(60):
        body = {"api_key": portal.key, "to_portal": where, "content": f"{number} " + "x" * 1_000}
        await portal.well("POST", "/api/message/sent", body)
        await portal.well("POST", "/api/chat/owner/reply", {"content": body["content"]})

    def numbers(answer: Any) -> list[int]:
        assert len(json.dumps(answer)) < 11_000
        return [int(one["content"].split()[0]) for one in answer["messages"]]

    path = f"/api/messages?contact_portal={where}"
    newest = numbers(await portal.well("GET", path))
    assert newest == list(range(60 - len(newest), 60)), "the oldest first, as on the wire"
    said = numbers(await portal.well("GET", "/api/chat/owner/history?limit=100"))
    assert said == list(range(60 - len(said), 60))
    since, read = "2000", list[int]()
    while found := (answer := await portal.well("GET", f"{path}&since={quote(since)}"))["messages"]:
        read += numbers(answer)
        since = found[-1]["created_at"]
    assert read == list(range(60)), "a reader that goes on has all"
    offset: int | None = 3
    read = []
    while offset is not None:
        path = f"/api/messages/history?contact_portal={where}&limit=55&offset={offset}"
        answer = await portal.well("GET", path)
        assert (answer["total"], answer["limit"], answer["offset"]) == (60, 55, offset)
        read += numbers(answer)
        offset = answer["next_offset"]
    assert read == list(range(56, -1, -1))
    few = await portal.well("GET", f"/api/messages/history?contact_portal={where}&limit=2&offset=1")
    assert (numbers(few), few["next_offset"]) == ([58, 57], 3)
    assert (await portal.well("GET", f"/api/messages/history?contact_portal={where}&limit=0"))["next_offset"] is None


async def test_the_history_goes_on_by_its_cursor_at_any_depth(portals: Portals) -> None:
    portal = await portals()
    where = "https://b.example"
    for number in range(130):
        body = {"api_key": portal.key, "to_portal": where, "content": str(number)}
        await portal.well("POST", "/api/message/sent", body)
    read: list[int] = []
    path, cursor = f"/api/messages/history?contact_portal={where}&limit=60", ""
    for given in (60, 60, 10, 0):
        answer = await portal.well("GET", path + cursor)
        assert len(answer["messages"]) == given
        read += [int(one["content"]) for one in answer["messages"]]
        cursor = f"&cursor={answer['next_cursor']}"
    assert read == list(range(129, -1, -1))
    for wrong in ("x", "1", "1.x", "1.9999", "-1.0"):
        assert (await portal.ask("GET", f"{path}&cursor={wrong}"))[1]["field"] == "cursor", wrong


async def test_the_list_of_contacts_follows_each_change_and_reads_no_more_than_that(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = await portals()
    store = portal.relay.app.relay.core.store
    for number in range(120):
        await portal.befriend(f"https://c{number}.example", agent_name=f"bot{number}")
    read: list[int] = []
    get_many, page = store.get_many, store.page

    async def counting(kind: Any, ids: Any) -> Any:
        if kind is Contact:
            read.append(len(ids))
        return await get_many(kind, ids)

    async def refused(kind: Any, key: str, *args: Any, **options: Any) -> Any:
        assert key != CONTACTS, "the list is not read again"
        return await page(kind, key, *args, **options)

    monkeypatch.setattr(store, "get_many", counting)
    monkeypatch.setattr(store, "page", refused)
    first = await portal.contact("https://c0.example")
    key = first["SHARED_KEY"]
    body = {"api_key": key, "from_portal": "https://c0.example", "content": "hi"}
    assert (await portal.ask("POST", "/api/message/receive", body, key=""))[0] == 200
    assert (await portal.contact("https://c0.example"))["unread_count"] == 1
    await portal.well("PUT", f"/api/contacts/{first['id']}", {"portal_url": "", "agent_name": "renamed"})
    await portal.well("POST", f"/api/portal/contacts/{first['id']}", {"blocked": True})
    found = await portal.contact("https://c0.example")
    assert (found["agent_name"], found["blocked"]) == ("renamed", True)
    await portal.well("DELETE", "/api/contacts/2")
    await portal.befriend("https://new.example")
    answer = await portal.well("GET", "/api/contacts?limit=2&offset=1")
    assert (answer["total"], [one["agent_name"] for one in answer["contacts"]]) == (120, ["bot119", "bot118"])
    everything = await portal.well("GET", "/api/contacts")
    assert [one["id"] for one in everything["contacts"]] == sorted(one["id"] for one in everything["contacts"])[::-1]
    assert sum(read) <= 8, "each change is read once"
