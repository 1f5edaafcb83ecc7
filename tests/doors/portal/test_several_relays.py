"""A portal of two relays over one Valkey server: one is active, and the other takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.cli.main import main
from clawlink.doors.portal.client import bridge
from clawlink.doors.portal.client.bridge import Bridge, Status
from clawlink.doors.portal.client.files import send_file
from clawlink.doors.portal.client.portal import Place, Portal
from clawlink.doors.portal.records import AGENT, Contact, Message, State, mailbox_of
from clawlink.doors.portal.rules.outbox_steps import Outcome
from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.door import PortalServer
from clawlink.doors.portal.server.poster import Poster
from clawlink.doors.portal.settings import Settings
from clawlink.errors import NotActive
from clawlink.store.base import Failed
from clawlink.wake.openclaw import Gateway, NoGateway
from tests.conftest import Serve, Start
from tests.doors.portal.conftest import OWNER, PASSWORD, Bridges, Own, Peers, Portals
from tests.doors.portal.old_databases import OWN, make
from tests.doors.portal.several import LEASE, Front, Nodes, is_active
from tests.doors.portal.test_files import B_KEY, PART, begin, download, give, put, status_of
from tests.doors.portal.test_forwarded_tasks import delegate as delegate_text
from tests.doors.portal.test_forwarded_tasks import heard, task_in
from tests.doors.portal.test_messages import send
from tests.doors.portal.test_processes import Gate, gate
from tests.doors.portal.test_task_files import bring, delegate, read, share
from tests.ports import free_port
from tests.valkey import Server, program
from tests.waiting import eventually, until

__all__ = ["gate"]

pytestmark = pytest.mark.skipif(program() is None, reason="there is no server for --store")

_names = count()


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    made = Front()
    await made.start()
    yield made
    await made.stop()


async def two(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, front: Front, *, lapses: bool = False, **settings: Any
) -> tuple[Own, Own]:
    """Start two relays of a portal in this process; the first one is active.

    Only where its lease is to lapse is it so short that a relay might lose it while the machine stands still.
    """
    monkeypatch.setenv("AGENTP2P_API_KEY", OWNER)
    monkeypatch.setenv("CLAWLINK_PORTAL_PASSWORD", PASSWORD)
    made = [
        Settings(**{"url": front.url, "portal_lease": lease, **settings})
        for lease in (2 * LEASE if lapses else 30.0, 30.0)
    ]
    name = f"portal{os.getpid()}-{next(_names)}"
    found = [Own(await serve(mesh=name, token="t", doors={"portal": one})) for one in made]
    front.nodes = [own.url for own in found]
    return found[0], found[1]


@contextlib.contextmanager
def cut(own: Own) -> Iterator[None]:
    """Keep a relay from the lease."""

    async def away(*_: Any) -> None:
        raise Failed("the store is away")

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(own.relay.app.mesh, "lease", away)
        yield


class Page:
    """The owner's page in a browser."""

    def __init__(self, cookie: str, csrf: str) -> None:
        self._headers = {"Cookie": cookie, "ClawLink-CSRF": csrf}

    @classmethod
    async def opened(cls, own: Own) -> Page:
        """Sign in at the page."""
        async with own.relay.session.post(own.url + "/api/portal/session", json={"password": PASSWORD}) as answer:
            return cls(answer.headers["Set-Cookie"].partition(";")[0], (await answer.json())["csrf"])

    async def statuses(self, own: Own) -> tuple[int, int]:
        """Return what the owner's chat answers to this page, and what the operator's overview does."""
        write = await self.ask(own, "POST", "/api/chat/owner/reply", {"content": "x"})
        return write, await self.ask(own, "GET", "/admin/overview")

    async def ask(self, own: Own, method: str, path: str, body: Any = None) -> int:
        async with own.relay.session.request(method, own.url + path, json=body, headers=self._headers) as answer:
            return int(answer.status)


async def all_settled(own: Own) -> bool:
    """Return True once the owner's agent has no message left."""
    (mailbox,) = (await own.relay.app.relay.core.store.admission((AGENT,))).mailboxes
    return bool(mailbox.count == 0)


def door_of(own: Own) -> PortalServer:
    door: Any = own.relay.app.doors["portal"]
    return door  # type: ignore[no-any-return]


async def befriended(serve: Serve, portals: Portals, portal: Any, url: str) -> Own:
    """Start the portal of a contact, in memory."""
    other = await portals(key=B_KEY)
    key = await portal.befriend(other.url, agent_name="B-bot")
    await other.well("POST", "/api/contacts", {"portal_url": url, "agent_name": "A-bot", "SHARED_KEY": key})
    return other


async def test_one_relay_is_active_and_the_other_refuses_each_route_of_the_portal(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch, bridges: Bridges
) -> None:
    one, other = await two(serve, monkeypatch, front)
    assert [await is_active(own) for own in (one, other)] == [True, False]
    door = door_of(other)
    for endpoint, _ in door.routes():
        path = endpoint.url(**dict.fromkeys(endpoint.pattern.groupindex, "1"))
        headers = {"Authorization": f"Bearer {OWNER}"}
        body = b"x" if endpoint.method in ("POST", "PUT") else None
        async with other.relay.session.request(endpoint.method, other.url + path, headers=headers, data=body) as told:
            answer = await told.json()
            assert (told.status, answer["code"]) == (503, "not_active"), path
            assert told.headers["Retry-After"] == "1"
            assert "the active node" in answer["detail"]
    assert (await other.ask("GET", "/discover", key="t"))[0] == 200, "all that is no portal goes on"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await bridges(other)
    assert refused.value.status == 503


async def test_an_agent_at_either_relay_writes_to_contacts_by_their_present_names(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch, bridges: Bridges
) -> None:
    one, other = await two(serve, monkeypatch, front)
    contact = await befriended(serve, portals, one, front.url)
    bridge = await bridges(contact)

    async def names() -> Any:
        told = (await other.ask("GET", "/discover", key="t", params={"status": "all"}))[1]["agents"]
        return "B-bot@portal" in str(told) and told

    id = await delegate_text(other, "B-bot@portal", "count the sheep")
    await heard(bridge, "count the sheep")
    await eventually(names)
    await one.well("POST", "/api/portal/contacts/B-bot", {"display_name": "Bob"})
    moved = await delegate_text(other, "Bob@portal", "and the goats")
    there = await heard(bridge, "and the goats")
    await contact.well("POST", f"/api/portal/tasks/{there}", {"result": "nine"})
    assert (await task_in(other, moved, "completed"))["result"] == "nine"
    assert (await task_in(one, moved, "completed"))["result"] == "nine"
    (cancelled,) = (await other.ask("POST", f"/tasks/{id}/cancel", {"from_agent": "ann"}, key="t"),)
    assert cancelled[0] == 200, cancelled
    await until(lambda: any("cancelled" in text for text in bridge.texts))
    await one.well("DELETE", "/api/contacts/1")

    async def unknown() -> bool:
        ask = {"from_agent": "ann", "to_agent": "Bob@portal", "task": "x"}
        return bool((await other.ask("POST", "/delegate", ask, key="t"))[0] == 404)

    await eventually(unknown)


async def test_a_relay_that_ends_gives_the_portal_to_the_next_with_logins_and_numbers(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch, bridges: Bridges
) -> None:
    one, other = await two(serve, monkeypatch, front)
    contact = await befriended(serve, portals, one, front.url)
    token = (await one.well("POST", "/api/admin/login", {"password": PASSWORD}, key=""))["token"]
    made = await one.well("POST", "/api/key/create", {"agent_name": "mine"})
    page = await Page.opened(one)
    number = await send(one, contact.url, "first")
    await one.state(number, "sent")
    line = await one.well("POST", "/api/chat/owner/send", {"content": "to my agent"})
    bridge = await bridges(one)
    await until(lambda: len(bridge.texts) == 1)
    await eventually(lambda: all_settled(one))  # a pong does that; without it, the message comes again
    await door_of(one).close()
    assert bridge.closed
    await eventually(lambda: is_active(other))
    assert await page.statuses(one) == (503, 401), "the operator's right of the owner's page ends there"
    assert await page.statuses(other) == (200, 200)
    for key in (token, OWNER, made["api_key"]):
        (known,) = (await other.well("GET", "/api/contacts", key=key))["contacts"]
        assert (known["id"], known["portal_url"]) == (1, contact.url)
    again = await other.well("POST", "/api/chat/owner/send", {"content": "again"})
    second = await send(other, contact.url, "second")
    assert number < line["message_id"] < again["message_id"] < second, "numbers go on"
    await other.state(second, "sent")
    later = await bridges(other)
    await until(lambda: [text[-5:] for text in later.texts] == ["again"])
    assert (await one.ask("GET", "/api/contacts"))[1]["code"] == "not_active"


async def test_a_relay_that_cannot_keep_the_lease_stops_and_begins_anew_later(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch, bridges: Bridges
) -> None:
    one, other = await two(serve, monkeypatch, front, lapses=True)
    contact = await befriended(serve, portals, one, front.url)
    bridge = await bridges(one)
    before = door_of(one).active
    with cut(one):
        await eventually(lambda: is_active(other))
        assert not await is_active(one)
        await until(lambda: bridge.closed)
        await send(other, contact.url, "from the other")
    await door_of(other).close()
    await eventually(lambda: is_active(one))
    assert door_of(one).active is not before
    number = await send(one, contact.url, "from the first")
    assert number == 2, "it has read the numbers again"
    await one.state(number, "sent")


async def test_a_request_that_outlives_the_lease_changes_nothing(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await two(serve, monkeypatch, front, lapses=True)
    await one.befriend("https://b.example", agent_name="B-bot")
    data = b"x" * 1000
    offer = await begin(one, "B-bot", "slow.bin", data)
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield data[:500]
        asked.set()
        await goes_on.wait()
        yield data[500:]

    path, headers = f"/api/portal/files/{offer['file_id']}/0", {"Authorization": f"Bearer {OWNER}"}
    length = {**headers, "Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
    putting = asyncio.create_task(one.relay.session.put(one.url + path, data=slowly(), headers=length))
    await asked.wait()
    with cut(one):
        await eventually(lambda: is_active(other))
    goes_on.set()
    async with await putting as told:
        assert (told.status, (await told.json())["code"]) == (503, "not_active")
    told = await other.well("GET", f"/api/file/status/{offer['file_id']}")
    assert (told["status"], told["received_chunks"]) == ("transferring", [])
    assert (await put(other, offer["file_id"], 0, data))[0] == 200, "it begins again at the next relay"
    await status_of(other, offer["file_id"], "queued")


class Bytes:
    """A file of the tests."""

    def __init__(self, parts: int) -> None:
        self.data = os.urandom(parts * PART + 1)

    def part(self, index: int) -> bytes:
        return self.data[index * PART : (index + 1) * PART]


@pytest.fixture
def nodes(start_relay: Start, session: aiohttp.ClientSession, front: Front, valkey: Server) -> Nodes:
    return Nodes(start_relay, session, front, valkey, f"nodes{os.getpid()}-{next(_names)}")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_a_killed_relay_loses_and_doubles_nothing(
    nodes: Nodes, portals: Portals, gate: Gate, bridges: Bridges, tmp_path: Path
) -> None:
    """The active relay is killed while a message, two files and a task are under way, in both directions."""
    for _ in range(2):
        nodes.begin("--blobs", str(tmp_path / "blobs"))
    own = nodes.own
    contact = await portals(key=B_KEY, url=gate.url)
    gate.target = int(contact.url.rpartition(":")[2])
    key = await own.befriend(gate.url, agent_name="B-bot")
    await contact.well("POST", "/api/contacts", {"portal_url": own.url, "agent_name": "A-bot", "SHARED_KEY": key})
    there, idle = await bridges(contact), nodes.nodes[1]
    done = await delegate_text(idle, "B-bot@portal", "before")
    await contact.well("POST", f"/api/portal/tasks/{await heard(there, 'before')}", {"result": "done"})
    await task_in(idle, done, "completed")
    coming = Bytes(3)
    offer = await begin(contact, own.url, "coming.bin", coming.data)
    assert offer["chunks_total"] == 4
    gate.holds = True
    number = await send(own, gate.url, "held")
    await gate.held.wait()
    attached = await share(idle, "attached.bin", coming.data[::-1])
    task = await delegate(idle, "B-bot@portal", "with a file", attached)
    going = await give(own, gate.url, "going.bin", coming.data)
    nodes.processes[0].stop(signal.SIGKILL)
    gate.holds = False
    for index in range(4):
        await put(contact, offer["file_id"], index, coming.part(index))
    await nodes.active(1)
    await own.state(number, "acknowledged")
    await status_of(own, going, "sent")
    asked = await heard(there, "with a file")
    brought = await bring(contact, asked, "answer.bin", coming.data)
    await contact.well("POST", f"/api/portal/tasks/{asked}", {"result": "see there", "files": [brought]})
    (result,) = (await task_in(own, task, "completed"))["result_attachments"]
    assert await read(idle, result["file_key"]) == (200, coming.data)
    await status_of(contact, offer["file_id"], "sent")
    (came,) = [one for one in (await own.well("GET", "/api/portal/files"))["files"] if one["filename"] == "coming.bin"]
    assert (await download(own, came["file_id"]))[1] == coming.data
    assert len([text for text in there.texts if text.endswith(": held")]) == 1
    history = await own.well("GET", "/api/messages/history", params={"contact_portal": gate.url})
    assert [one["content"] for one in history["messages"]] == ["held"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
async def test_a_relay_that_stood_still_acts_no_more_when_it_goes_on(
    nodes: Nodes, front: Front, old_portals: Peers, bridges: Bridges
) -> None:
    for _ in range(2):
        nodes.begin()
    own, first, process = nodes.own, nodes.nodes[0], nodes.processes[0].process
    peer = await old_portals("0.9")
    peer.from_portal = own.url
    peer.key = await own.befriend(peer.url)
    port = int(peer.url.rpartition(":")[2])
    await peer.stop()
    number = await send(own, peer.url, "once")  # it is tried again and again
    mute = await bridges(first, acks=False)
    line = (await own.well("POST", "/api/chat/owner/send", {"content": "to the agent"}))["message_id"]
    await until(lambda: len(mute.texts) == 1)
    process.send_signal(signal.SIGSTOP)
    await nodes.active(1)
    await peer.start(port=port)
    await own.state(number, "sent")
    second = await bridges(nodes.nodes[1])
    process.send_signal(signal.SIGCONT)
    status, answer = await first.ask("POST", "/api/portal/send", {"to": peer.url, "content": "from the first"})
    assert (status, answer["code"]) == (503, "not_active")
    await until(lambda: mute.closed)
    later = await send(own, peer.url, "from the second")
    assert number < line < later
    await own.state(later, "sent")
    assert [one["content"] for one in peer.stored] == ["once", "from the second"]
    assert len(second.texts) <= 1
    nodes.processes[1].stop(signal.SIGKILL)
    await nodes.active(0)
    last = await send(own, peer.url, "from the first again")
    assert last > later
    await own.state(last, "sent")


async def test_commands_and_the_bridge_go_on_to_the_active_relay(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bridge, "FIRST_PAUSE_SECONDS", 0.02)
    one, other = await two(serve, monkeypatch, front)
    contact = await befriended(serve, portals, one, front.url)
    several = f"http://127.0.0.1:{free_port()},{other.url}/,{one.url}"
    path = tmp_path / "a file"
    path.write_bytes(b"x" * 1000)

    def use() -> tuple[Any, ...]:
        with Portal(several, OWNER) as client:
            told = send_file(client, "B-bot", path)
            sent = client.send("B-bot", "hello")
            return client.contacts(), told, client.until_sent(sent, 10.0)

    known, told, sent = await asyncio.to_thread(use)
    assert [one["portal_url"] for one in known] == [contact.url]
    assert (sent["state"], told["filename"]) == ("sent", "a file")
    with Portal(other.url, OWNER) as client, pytest.raises(NotActive, match="is the active node"):
        await asyncio.to_thread(client.contacts)

    def no_gateway() -> Gateway:
        raise NoGateway("there is none")

    bridging = asyncio.create_task(Bridge(Place(several, OWNER), no_gateway, Status(tmp_path, several)).run())
    await until(lambda: door_of(one).active.sockets == 1)
    bridging.cancel()
    await asyncio.gather(bridging, return_exceptions=True)


async def test_nothing_is_posted_without_the_lease(old_portals: Peers) -> None:
    """The last look at the lease is when the connection is made: a relay may have stood still before that."""
    peer = await old_portals("0.9")
    peer.from_portal, peer.key = "http://127.0.0.1:1", "k" * 40
    contact = Contact(id=peer.url, version=1, number=1, url=peer.url, key=peer.key, created_at=0.0)
    message = Message(
        id="m", version=1, number=1, inbound=False, contact=peer.url, content="hello", message_type="text",
        created_at=0.0, state=State.SENDING,
    )  # fmt: skip
    holds = True
    poster = Poster(peer.from_portal, ca=None, allowed=(), acts=lambda: holds)
    assert (await poster.post(contact, message)).outcome is Outcome.STORED
    holds = False
    posted = await poster.post(contact, message)
    assert posted.outcome is Outcome.NOT_STORED
    assert "another relay is the active node" in posted.detail
    assert len(peer.stored) == 1
    await poster.close()


async def test_upkeep_of_a_relay_that_is_not_active_tells_senders_once_and_gives_no_number_again(
    serve: Serve, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay that looks after the records of the mesh need not be the active one of the portal."""
    one, other = await two(serve, monkeypatch, front, lapses=True, portal_ttl=1.0)
    await one.befriend("https://a.example")
    await one.well("DELETE", "/api/contacts/1")
    with cut(one):
        await eventually(lambda: is_active(other))
    assert one.relay.app.relay.leads
    url = f"http://127.0.0.1:{free_port()}"
    await other.befriend(url, agent_name="B-bot")
    assert (await other.contact(url))["id"] == 2
    await one.ask("POST", "/register", {"agent_id": "ann", "name": "ann"}, key="t")
    said = {"from_agent": "ann", "to_agent": "B-bot@portal", "content": "hello"}
    for own in (one, other):
        assert (await own.ask("POST", "/send", said, key="t"))[0] == 200
    relay = one.relay.app.relay
    texts: list[str] = []

    async def told() -> bool:
        async for delivery in relay.mailbox.pending(mailbox_of(url)):
            if delivery.expires_at <= relay.clock():
                await door_of(one).active.outbox.lapsed(delivery)  # as the janitor asks, at its worst moment
        polled = (await one.ask("GET", "/poll/ann?max=100", key="t"))[1]["messages"]
        texts.extend(message["content"] for message in polled)
        return len(texts) >= 2

    await eventually(told)
    await told()
    assert len(texts) == len({text.split()[1] for text in texts}) == 2, texts
    assert all("not sent within its time to live" in text for text in texts)
    await door_of(one).active.repository.keep_numbers()
    await other.well("DELETE", "/api/contacts/2")
    await door_of(one).active.repository.keep_numbers()
    await door_of(other).close()
    await eventually(lambda: is_active(one))
    await one.befriend("https://c.example")
    assert (await one.contact("https://c.example"))["id"] == 3


async def test_no_relay_tells_of_an_end_while_another_posts(
    serve: Serve, portals: Portals, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The post outlives the first lease and the time to live of its message."""
    monkeypatch.setattr(outbox, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(outbox, "EXTEND_SECONDS", 0.2)
    one, other = await two(serve, monkeypatch, front, portal_ttl=3.0)
    await befriended(serve, portals, one, front.url)
    await one.ask("POST", "/register", {"agent_id": "ann", "name": "ann"}, key="t")
    posting, go = asyncio.Event(), asyncio.Event()
    post = Poster.post

    async def late(*args: Any) -> Any:
        posting.set()
        await go.wait()
        return await post(*args)

    monkeypatch.setattr(Poster, "post", late)
    said = {"from_agent": "ann", "to_agent": "B-bot@portal", "content": "hello"}
    id = (await one.ask("POST", "/send", said, key="t"))[1]["message_id"]
    await posting.wait()
    relay = other.relay.app.relay
    until_at = relay.clock() + 4.0
    await until(lambda: relay.clock() > until_at)
    await relay.janitor.sweep()
    go.set()

    async def acked() -> bool:
        return bool((await one.ask("GET", f"/messages/{id}?agent_id=ann", key="t"))[1]["state"] == "acked")

    await eventually(acked)
    assert (await one.ask("GET", "/poll/ann", key="t"))[1]["messages"] == []


async def test_commands_on_the_machine_change_a_portal_that_does_not_run(
    nodes: Nodes, valkey: Server, tmp_path: Path, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A lost password, and the database of Agent P2P, over the server that the relays share."""
    monkeypatch.setenv("CLAWLINK_STORE", valkey.url)
    monkeypatch.setenv("CLAWLINK_STORE_PREFIX", nodes.prefix)
    words = ["portal", "password", "--store"]
    assert await asyncio.to_thread(main, words) == 1
    assert "no portal has run in the server of CLAWLINK_STORE" in capsys.readouterr().err
    first = nodes.begin()

    async def login(own: Own, password: str) -> int:
        return (await own.ask("POST", "/api/admin/login", {"password": password}, key=""))[0]

    assert await login(first, PASSWORD) == 200
    assert await asyncio.to_thread(main, words) == 1, "it runs"
    assert "a relay is the active node of this portal" in capsys.readouterr().err
    nodes.processes[0].stop()
    assert await asyncio.to_thread(main, [*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["password"]
    database = make(tmp_path / "portal.db", "0.9")
    bring = ["portal", "import", str(database), "--at", OWN, "--store"]
    assert await asyncio.to_thread(main, bring) == 0
    assert "Go on with: clawlink serve" in capsys.readouterr().out
    nodes.begin_again(0)
    await nodes.active(0)
    assert [await login(first, one) for one in (made, PASSWORD)] == [200, 401]
    assert len((await first.well("GET", "/api/contacts"))["contacts"]) > 0
    for name in ("CLAWLINK_STORE", "CLAWLINK_STORE_PREFIX"):
        monkeypatch.delenv(name)
    assert await asyncio.to_thread(main, words) == 1
    assert "CLAWLINK_STORE names no server" in capsys.readouterr().err
    assert await asyncio.to_thread(main, [*words, "--data", str(tmp_path)]) == 2
