"""Two relays of one mesh serve Agent Link as one relay does: members, nonces, receipts, instances, old clients."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from clawlink.doors.agentlink import Settings
from clawlink.doors.agentlink.server import connection, ownership, service
from clawlink.doors.agentlink.server.nonces import UsedFrames
from clawlink.doors.agentlink.server.records import UsedFrame
from clawlink.errors import RelayUnreachable
from clawlink.protocol.operating import StopAll
from clawlink.relay.core import Core
from clawlink.store.events import Event
from tests import valkey
from tests.conftest import UNPACED, Running, Serve
from tests.doors.agentlink.conftest import Dial, DialNew, Joined, Make, ServeLink, Sign, door_of
from tests.doors.agentlink.old_client import OldClient
from tests.doors.agentlink.signed_client import SignedClient
from tests.waiting import eventually, until

pytestmark = [
    pytest.mark.skipif(valkey.program() is None, reason="it needs a Valkey server"),
    pytest.mark.parametrize("store_kind", ["memory"]),  # the relays bring a store of their own
]
_names = count()


async def pair(serve_link: ServeLink) -> tuple[Running, Running]:
    """Start two relays of one mesh. The first one leads."""
    name = f"link{next(_names)}"
    return await serve_link(mesh=name, limits=UNPACED), await serve_link(mesh=name, limits=UNPACED)


async def end(relay: Running) -> None:
    """End a relay in order, and have it leave the mesh."""
    await relay.app.relay.drain()
    await relay.app.stop()
    assert relay.app.mesh is not None
    await relay.app.mesh.close()


async def queued(client: SignedClient, to: str, text: str, **fields: Any) -> dict[str, Any]:
    """Send a message, and return what the relay says of it."""
    await client.put(client.message(to, text, **fields))
    return await client.next("queued")


async def reads(client: OldClient) -> None:
    """Have an old client answer the pings that prove what it has read."""
    await client.put({"type": "ping"})
    await client.next("pong")


@pytest.mark.both_loops
async def test_members_of_one_relay_reach_those_of_the_other(serve_link: ServeLink, sign_in: Sign) -> None:
    one, two = await pair(serve_link)
    c, d = await sign_in(one, "c", "carol"), await sign_in(two, "d", "dan")
    sent = await queued(c, "d/dan", "hello")
    assert sent["status"] == "online"
    got = await d.next("message")
    assert (got["from"], got["to"], got["message"]) == ("c/carol", "d/dan", "hello")
    assert got["proof"]["signature"], "the other relay knows that the message was signed"
    await d.ack(got["receipt"])
    assert (await c.next("delivered"))["message_id"] == sent["message_id"]

    neighbour = await sign_in(two, "c", "bob")  # of the instance of carol, at the other relay
    await two.register("bob", agent_id="bob")  # and an agent of the relay with the same id
    for text, to in (("by its bare id", "BOB"), ("by its address", "c/bob")):
        assert (await queued(c, to, text))["recipient"] == "c/bob"
        assert (await neighbour.next("message"))["message"] == text

    # The same id, text and recipient, signed again at the other relay, is the same message.
    moved = await sign_in(two, "c", "carol")
    again = [await queued(client, "d/dan", "once", id="7") for client in (c, moved)]
    assert again[0]["message_id"] == again[1]["message_id"]
    assert (await d.next("message"))["message"] == "once"


@pytest.mark.both_loops
async def test_a_signed_frame_counts_once_at_all_relays(
    serve_link: ServeLink, serve: Serve, sign_in: Sign, dial_new: DialNew, tmp_path: Path
) -> None:
    name = f"link{next(_names)}"
    one, two = [await serve_link(mesh=name, limits=UNPACED) for _ in range(2)]
    await sign_in(one, "d", "dan")
    c, moved = await sign_in(one, "c", "carol"), await sign_in(two, "c", "carol")
    frame, unused = c.message("d/dan", "pay me"), c.message("d/dan", "signed before a start")
    await c.put(frame)
    await c.next("queued")
    await moved.put(frame)
    error = await moved.next("error")
    assert (error["code"], error["field"]) == ("not_allowed", "nonce")
    register = c.registering("zoe")
    for relay, answered in ((one, ("registered", None)), (two, ("error", "nonce"))):
        client = await dial_new(relay, "c")
        await client.put(register)
        said = await client.frame()
        assert (said["type"], said.get("field")) == answered

    # A relay that is started later knows the same, and so takes what was signed before its start.
    doors = {"agentlink": Settings(config=str(tmp_path / "relay-config.json"))}
    late = await serve(mesh=name, doors=doors, limits=UNPACED)
    status, answer = await late.post("/api/v1/send", frame)
    assert (status, answer.get("field")) == (403, "nonce")
    assert (await late.post("/api/v1/send", unused))[0] == 200


async def test_used_frames_are_forgotten_when_their_time_is_over_also_in_a_stop(
    serve_link: ServeLink, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await pair(serve_link)
    store = one.app.relay.core.store
    await sign_in(two, "c", "carol")

    async def used() -> int:
        return len(await store.ending(UsedFrame, time.time() + 60, 10))

    assert await used() == 1
    await one.app.relay.stops.switch(StopAll(True))
    monkeypatch.setattr(UsedFrames, "_APART_SECONDS", -100.0)  # so that a frame is over at once
    await sign_in(two, "c", "carol")

    async def one_is_left() -> bool:
        return await used() == 1

    await eventually(one_is_left)


async def test_an_instance_that_registered_itself_is_known_to_all_relays(
    serve: Serve, dial_new: DialNew, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, doors = f"link{next(_names)}", {"agentlink": Settings(self_register=True)}
    one, two = [await serve(mesh=name, doors=doors, token="t", limits=UNPACED) for _ in range(2)]
    token = {"Authorization": "Bearer t"}
    status, lab = await one.post("/api/v1/register", {"instance_id": "lab"}, headers=token)
    assert status == 200, lab
    c = await dial_new(two, "lab", secret=lab["secret"])
    assert (await c.join("ada"))["agent"] == "lab/ada"
    for id in ("lab", "Lab"):
        refused = await two.post("/api/v1/register", {"instance_id": id}, headers=token)
        assert (refused[0], refused[1]["code"]) == (409, "name_taken")
    assert (await two.post("/api/v1/register", {"instance_id": "other"}, headers=token))[0] == 200

    async def is_reserved() -> bool:  # once the relay has heard of it
        ask = {"name": "x", "agent_id": f"other/x{next(_names)}"}
        status, answer = await one.post("/register", ask, headers=token)
        return (status, answer.get("code")) == (403, "not_allowed")

    await eventually(is_reserved)


@pytest.mark.both_loops
async def test_old_connections_of_an_instance_come_to_one_relay(
    serve_link: ServeLink, join: Joined, dial: Dial, sign_in: Sign
) -> None:
    one, two = await pair(serve_link)
    a = await join(one, "a")
    elsewhere = await dial(two, "a")
    refused = await elsewhere.register()
    assert (refused["code"], refused["field"]) == ("wrong_state", "instance_id")
    assert "another relay" in refused["message"]
    assert await elsewhere.closed() == 1000
    b, c = await join(two, "b"), await sign_in(two, "c", "carol")  # other instances may
    assert (await queued(c, "a/ann", "hello"))["recipient"] == "a/ann"
    assert (await a.next("message"))["message"] == "hello"
    await reads(a)
    assert (await c.next("delivered"))["to"] == "a/ann"
    await a.send("ann", "b/bob", "back")
    assert (await b.next("message"))["message"] == "back"
    await a.socket.close()

    async def at_the_other() -> bool:
        client = await dial(two, "a")
        return bool((await client.register())["type"] == "registered")

    await eventually(at_the_other)


async def test_strangers_get_no_mail_for_good_of_an_agent_that_is_at_another_relay(
    serve_link: ServeLink, join: Joined, sign_in: Sign
) -> None:
    one, two = await pair(serve_link)
    stranger, c = await join(one, "a"), await sign_in(two, "c", "carol")
    sent = await queued(c, "a/ann", "to a stranger, as no relay has heard of ann")
    assert (await stranger.next("message"))["to"] == "a/ann"
    await reads(stranger)
    assert (await c.next("delivered"))["message_id"] == sent["message_id"]

    ann = await sign_in(two, "a", "ann")
    sent = await queued(c, "a/ann", "to ann alone")
    got = await ann.next("message")
    assert got["message"] == "to ann alone"
    await ann.ack(got["receipt"])
    assert (await c.next("delivered"))["message_id"] == sent["message_id"]


async def test_a_relay_that_does_not_hear_of_an_agent_settles_none_of_its_mail(
    serve_link: ServeLink, join: Joined, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Core.hear

    def hear(core: Core, event: Event) -> None:
        if not any(id.startswith("agentlink ") for id in event.ids):
            told(core, event)

    one, two = await pair(serve_link)
    stranger, c = await join(one, "a"), await sign_in(two, "c", "carol")
    await queued(c, "a/ann", "before")
    await stranger.next("message")
    await reads(stranger)
    await c.next("delivered")
    monkeypatch.setattr(Core, "hear", hear)
    ann = await sign_in(two, "a", "ann")
    await ann.socket.close()  # and its mail waits for it
    await queued(c, "a/ann", "for ann")
    assert (await stranger.next("message"))["message"] == "for ann", "it may still be that of ann, as far as it knows"
    await reads(stranger)
    ann = await sign_in(two, "a", "ann")
    assert (await ann.next("message"))["message"] == "for ann"


async def test_an_instance_goes_to_another_relay_that_knows_its_agents(
    serve_link: ServeLink, join: Joined, sign_in: Sign
) -> None:
    one, two = await pair(serve_link)
    ann, c = await join(one, "a"), await sign_in(two, "c", "carol")
    await ann.send("ann", "c/carol", "I am ann")
    await ann.next("queued")
    await end(one)
    other = await join(two, "a")  # of another agent of that machine, which comes back first
    sent = await queued(c, "a/ann", "for ann")
    assert (await other.next("message"))["message"] == "for ann"
    await reads(other)
    await other.send("otto", "c/carol", "I am otto")
    await other.next("queued")
    ann = await join(two, "a")
    assert (await ann.next("message"))["message"] == "for ann"
    await ann.send("ann", "c/carol", "I am ann")
    await reads(ann)
    assert (await c.next("delivered"))["message_id"] == sent["message_id"]


async def test_a_relay_that_lost_an_instance_sends_its_old_clients_away(
    serve_link: ServeLink, join: Joined, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_RENEW_SECONDS", 0.01)
    one, two = await pair(serve_link)
    a, c = await join(one, "a"), await sign_in(one, "c", "carol")
    peers = one.app.relay.core.peers
    assert peers is not None
    await peers.let_go(ownership.place("a"))  # as if it had not reached the store for a while
    there = two.app.relay.core.peers
    assert there is not None
    assert await there.hold(ownership.place("a"))
    assert await a.closed() == 1001
    assert (await queued(c, "c/carol", "those of the new form stay"))["type"] == "queued"
    assert door_of(one).routing.count("a") == 0


async def test_what_was_under_way_at_a_relay_that_ends_comes_at_the_other(
    serve_link: ServeLink, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_FAREWELL_SECONDS", 0.05)
    one, two = await pair(serve_link)
    c, d = await sign_in(two, "c", "carol"), await sign_in(one, "d", "dan")
    sent = [await queued(c, "d/dan", f"message {n}") for n in range(3)]
    first = await d.next("message")
    await d.ack(first["receipt"])
    await c.next("delivered")
    await end(one)
    d = await sign_in(two, "d", "dan")
    for expected in sent[1:]:
        got = await d.next("message")
        assert got["message_id"] == expected["message_id"]
        await d.ack(got["receipt"])
        assert (await c.next("delivered"))["message_id"] == expected["message_id"]


async def test_what_was_under_way_at_a_relay_that_is_killed_comes_at_the_other(
    serve_link: ServeLink, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_FAREWELL_SECONDS", 0.05)
    one, two = await pair(serve_link)
    c = await sign_in(two, "c", "carol")
    with monkeypatch.context() as short:  # a slow machine may take as long as this for an ack at the other relay
        short.setattr(service, "LEASE_SECONDS", 1.0)
        d = await sign_in(one, "d", "dan")
        sent = await queued(c, "d/dan", "work")
        assert (await d.next("message"))["attempt"] == 1
        assert one.app.mesh is not None
        await one.app.mesh.close()  # from now on it can give nothing back
    d = await sign_in(two, "d", "dan")
    got = await d.next("message")
    assert got["message_id"] == sent["message_id"]
    assert got["attempt"] >= 2
    await d.ack(got["receipt"])
    assert (await c.next("delivered"))["message_id"] == sent["message_id"]


async def test_a_link_that_knows_several_relays_goes_on_at_the_next(
    serve_link: ServeLink, make: Make, sign_in: Sign
) -> None:
    one, two = await pair(serve_link)
    link = make(dataclasses.replace(one, url=f"{one.url}, {two.url}"), "c", "carol")
    got: list[str] = []
    link.on_message(lambda message: got.append(message.message))
    await link.connect()
    d = await sign_in(two, "d", "dan")
    await queued(d, "c/carol", "before")
    await until(lambda: got == ["before"])
    assert door_of(one).routing.count("c") == 1
    await end(one)
    sent = await asyncio.wait_for(link.send("d/dan", "from the other relay"), 20)
    assert (await d.next("message"))["message"] == "from the other relay"
    assert sent.message_id is not None
    await queued(d, "c/carol", "after")
    await until(lambda: got == ["before", "after"])
    with pytest.raises(RelayUnreachable, match=one.url):
        await make(dataclasses.replace(one, url=f"{one.url},{one.url}"), "c", "carol").connect()


@pytest.mark.virtual_time
async def test_a_handler_has_its_time_and_a_killed_relay_holds_nothing_for_long(
    serve_link: ServeLink, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ACK_SECONDS", 120.0)
    relay = await serve_link()
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    began = asyncio.get_running_loop().time()  # the handler's time begins before its peer has the message
    await queued(c, "d/dan", "slow work")
    first = await d.next("message")
    lease = await relay.app.relay.core.store.next_due_at("d/dan")
    assert lease is not None
    assert lease - relay.app.relay.clock() <= service.LEASE_SECONDS
    again = await d.next("message", seconds=2 * service.ACK_SECONDS)
    assert (again["message"], again["attempt"]) == ("slow work", 2)
    took = asyncio.get_running_loop().time() - began
    assert service.ACK_SECONDS <= took <= service.ACK_SECONDS + service.LEASE_SECONDS
    await d.ack(first["receipt"])
    assert (await d.next("error"))["code"] == "lease_lost"
