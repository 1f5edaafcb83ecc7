"""Attacks of a stranger, and of a neighbour with a secret of his own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import unicodedata
from typing import Any

import pytest

from clawlink.domain.limits import Limits
from clawlink.doors.agentlink.server.checks import Proof
from clawlink.protocol.requests import Register
from clawlink.server import ws_connection
from clawlink.store.base import Failed
from tests.conftest import UNPACED, Running
from tests.doors.agentlink.conftest import (
    NEW_C,
    OLD_A,
    OLD_B,
    SECRETS,
    Dial,
    DialNew,
    Joined,
    ServeLink,
    Sign,
    door_of,
    hang_up,
)
from tests.doors.agentlink.old_client import sign
from tests.doors.agentlink.signed_client import SignedClient, sealed, stamp
from tests.system.raw import Clock
from tests.tables import each
from tests.virtual_time import pass_time
from tests.waiting import eventually


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the door notice soon who does not read."""
    monkeypatch.setattr("clawlink.server.app._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(ws_connection, "SILENT_SECONDS", 1.5)  # those who read are alive in this time
    monkeypatch.setattr(ws_connection, "PING_SECONDS", 0.05)
    monkeypatch.setattr(ws_connection, "_ABORT_SECONDS", 0.2)


@pytest.fixture
async def relay(serve_link: ServeLink) -> Running:
    return await serve_link()


async def refusal(client: SignedClient, frame: Any) -> dict[str, Any]:
    """Send what must be refused, check that the connection stays, and return the error."""
    await client.put(frame)
    error = await client.frame()
    assert error["type"] == "error", error
    await client.put({"type": "ping"})
    assert (await client.frame())["type"] == "pong"
    return error


async def test_a_replay_is_refused(relay: Running, sign_in: Sign) -> None:
    c, _ = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    frame = c.message("d/dan", "pay me")
    await c.put(frame)
    assert (await c.frame())["type"] == "queued"
    assert (await refusal(c, frame))["field"] == "nonce"
    other = await sign_in(relay, "c", "carol")
    assert (await refusal(other, frame))["field"] == "nonce"
    status, body = await relay.post("/api/v1/send", frame)
    assert (status, body["field"]) == (403, "nonce")


async def test_a_register_is_not_replayed_either(relay: Running, sign_in: Sign, dial_new: DialNew) -> None:
    c = await sign_in(relay, "c", "carol")
    frame = c.registering("carol")
    for expected in ("registered", "error"):
        client = await dial_new(relay, "c")
        await client.put(frame)
        assert (await client.frame())["type"] == expected
    assert await client.closed() == 1000


async def test_an_old_replay_is_refused_by_its_time(serve_link: ServeLink, sign_in: Sign) -> None:
    clock = Clock()
    relay = await serve_link(clock=clock)
    c = await sign_in(relay, "c", "carol")
    frame = c.message("c/carol", "pay me")
    await c.put(frame)
    assert (await c.next("queued"))["to"] == "c/carol"
    await c.ack((await c.next("message"))["receipt"])
    await c.next("delivered")
    clock.skip(31)
    assert (await refusal(c, frame))["field"] == "time"


@pytest.mark.parametrize("off", [-60, -31, 31, 86400])
async def test_a_wrong_clock_is_told_by_how_much(
    serve_link: ServeLink, sign_in: Sign, dial_new: DialNew, off: int
) -> None:
    clock = Clock()
    relay = await serve_link(clock=clock)
    c = await sign_in(relay, "c", "carol")
    clock.stop()
    error = await refusal(c, c.message("c/carol", "hello", at=clock() + off))
    assert (error["field"], error["limit"]) == ("time", 30)
    assert error["actual"] == pytest.approx(off, abs=0.1)
    client = await dial_new(relay, "c")
    assert (await client.join("carol", at=clock() + off))["field"] == "time"
    assert await client.closed() == 1000


@each("wrong", ["now", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "9999-12-31T23:59:59-23:59"])
async def test_a_time_that_is_none_is_refused(relay: Running, sign_in: Sign, wrong: str) -> None:
    c = await sign_in(relay, "c", "carol")
    assert (await refusal(c, c.message("c/carol", "hello", time=wrong)))["field"] == "time"


@each("field", ["from", "to", "message", "time", "nonce", "id", "signature"])
async def test_every_field_is_covered_by_the_signature(relay: Running, sign_in: Sign, field: str) -> None:
    c, _ = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    others = {"from": "c/other", "to": "d/other", "message": "pay him", "time": stamp(time.time() - 3)}
    frame = c.message("d/dan", "pay me")
    frame[field] = others.get(field, "f" * 64)
    assert (await refusal(c, frame))["message"] == "Invalid signature"


@each("field", ["from", "to", "message", "time", "nonce", "id", "signature"])
async def test_a_missing_field_is_named_or_makes_the_signature_wrong(relay: Running, sign_in: Sign, field: str) -> None:
    c, _ = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    frame = c.message("d/dan", "pay me")
    del frame[field]
    error = await refusal(c, frame)
    assert error["field"] == field
    assert field in error["message"]


async def test_the_new_fields_cannot_be_taken_away(relay: Running, sign_in: Sign) -> None:
    c, _ = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    frame = c.message("d/dan", "pay me")
    short = {name: value for name, value in frame.items() if name not in ("time", "nonce", "id")}
    assert "legacy" in (await refusal(c, short))["message"]


async def test_another_instances_from_is_refused(relay: Running, sign_in: Sign, join: Joined) -> None:
    c, _ = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    forged = {k: v for k, v in c.message("c/carol", "it is dan").items() if k != "signature"} | {"from": "d/dan"}
    assert (await refusal(c, sealed(forged, SECRETS["c"])))["field"] == "from"
    assert (await refusal(c, sealed(forged, SECRETS["d"])))["field"] == "from"  # even if properly signed by d
    a = await join(relay, "a")
    await a.put({**a.signed("ann", "c/carol", "it is bob"), "from": "b/bob"})
    assert (await a.frame())["field"] == "from"
    status, body = await relay.post("/api/v1/send", sealed(forged, SECRETS["c"]))
    assert (status, body["error"]) == (403, "Invalid signature")


@each("sender", ["c", "/carol", "c/", "c/car ol", "c/ca/rol", "", "c/car\u200bol"])
async def test_a_from_that_is_no_address_is_refused(relay: Running, sign_in: Sign, sender: str) -> None:
    c = await sign_in(relay, "c", "carol")
    frame = {k: v for k, v in c.message("c/carol", "hello").items() if k != "signature"} | {"from": sender}
    assert (await refusal(c, sealed(frame, SECRETS["c"])))["field"] == "from"


async def test_splitting_at_colons_gains_nothing(relay: Running, join: Joined) -> None:
    """``send:a/ann:b/bob:x:y`` can be read as three messages, and stands for one."""
    a, b = await join(relay, "a"), await join(relay, "b")
    frame = a.signed("ann", "b/bob", "x:y")
    for sender, to, message in (("a/ann", "b/bob:x", "y"), ("a/ann:b/bob", "x", "y"), ("a/ann:b/bob:x", "y", "")):
        joined = f"send:{sender}:{to}:{message}"
        assert joined.rstrip(":") == "send:a/ann:b/bob:x:y"
        await a.put({**frame, "from": sender, "to": to, "message": message, "signature": sign(SECRETS["a"], joined)})
        assert (await a.frame())["field"] in ("from", "to")
    await a.put(frame)
    assert (await a.frame())["type"] == "queued"
    assert (await b.next("message"))["message"] == "x:y"


async def test_a_register_does_not_pass_for_a_message(relay: Running, dial: Dial) -> None:
    """An instance whose id is made to look like another's with a piece of time."""
    client = await dial(relay, "a:2026")
    assert (await client.register())["message"] == "Instance not registered"


async def test_ids_that_look_alike_are_one_or_refused(relay: Running, sign_in: Sign, dial_new: DialNew) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "zoé"), unicodedata.normalize("NFD", "zoé")
    await sign_in(relay, "d", composed)
    client = await dial_new(relay, "d")
    error = await client.join(decomposed)
    assert (error["type"], error["field"]) == ("error", "agent_id")
    assert "NFC" in error["message"]
    c = await sign_in(relay, "c", "carol")
    assert (await refusal(c, c.message(f"d/{decomposed}", "hello")))["field"] == "to"
    assert (await c.write(f"d/{composed}", "hello"))["type"] == "queued"


async def test_a_text_is_signed_as_it_is(relay: Running, sign_in: Sign) -> None:
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    composed, decomposed = unicodedata.normalize("NFC", "zoé"), unicodedata.normalize("NFD", "zoé")
    frame = c.message("d/dan", composed)
    assert (await refusal(c, {**frame, "message": decomposed}))["message"] == "Invalid signature"
    for text in (composed, decomposed):
        await c.put(c.message("d/dan", text))
        assert (await d.next("message"))["message"] == text


@each(
    "frame",
    [
        "no JSON",
        '"text"',
        "[]",
        "{}",
        '{"type": "unknown"}',
        '{"type": 7}',
        '{"type": "send"}',
        '{"type": "send", "from": 1, "to": [], "message": {}, "signature": null}',
        '{"type": "ack"}',
        '{"type": "ack", "receipts": []}',
        '{"type": "respond"}',
        '{"type": "register", "instance_id": "c", "signature": "x"}',
        '{"type": "send", "message": "\\ud800"}',
        "[" * 100_000,
        '{"x":' * 50_000,
        "[" * 65 + '"' + "a" * 30,
    ],
)
async def test_a_frame_that_makes_no_sense_is_answered(relay: Running, sign_in: Sign, frame: str) -> None:
    c = await sign_in(relay, "c", "carol")
    assert await refusal(c, frame)


async def test_a_binary_frame_is_answered(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    await c.socket.send_bytes(json.dumps({"type": "ping"}).encode())
    assert (await c.frame())["type"] == "error"
    await c.put({"type": "ping"})
    assert (await c.frame())["type"] == "pong"


async def test_an_oversized_frame_ends_its_connection_alone(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link(limits={"max_body_bytes": 10_000})
    c, other = await sign_in(relay, "c", "carol"), await sign_in(relay, "c", "carol")
    await relay.register("Zoe", agent_id="z")
    assert (await c.write("z", "x" * 9_000))["type"] == "queued"
    await c.put(c.message("z", "x" * 10_000))
    assert await c.closed() == 1009
    await other.put({"type": "ping"})
    await other.next("pong")


async def test_an_instance_has_only_so_many_connections(
    relay: Running, sign_in: Sign, dial_new: DialNew, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.doors.agentlink.server import door

    monkeypatch.setattr(door, "MAX_CONNECTIONS", 2)
    _, second = await sign_in(relay, "c", "carol"), await sign_in(relay, "c", "carol")
    client = await dial_new(relay, "c")
    assert (await client.join("carol"))["code"] == "relay_full"
    await second.put({"type": "ping"})
    assert (await second.frame())["type"] == "pong"


async def test_a_shared_secret_is_warned_of(serve_link: ServeLink, caplog: pytest.LogCaptureFixture) -> None:
    await serve_link([OLD_A, OLD_B, NEW_C])
    assert not caplog.records
    shared = [{"instance_id": name, "legacy": True} for name in ("a", "b")]
    await serve_link(shared, secret="of all")
    assert "share one secret" in caplog.records[-1].message


async def squat(relay: Running, address: str, *, name: str | None = None) -> None:
    """Have a stranger's agent under an address, as one that came before its instance registered itself."""
    agents = relay.app.relay.agents
    await agents.register(Register(agent_id=address, name=name or address), machine="x", agent_key=None, by_door=True)


@each("address", ["c/carol", "C/Eve", " c/eve", "d/", "\u0441/eve", "\u03f2/eve", "c\uff0feve", "d\u2044eve"])
async def test_the_addresses_of_instances_are_had_by_nobody_else(relay: Running, address: str) -> None:
    for field, ask in (("agent_id", {"agent_id": address.strip()}), ("name", {"name": address, "agent_id": "thief"})):
        status, body = await relay.post("/register", ask)
        assert (status, body["code"], body["field"]) == (403, "not_allowed", field), body
    status, body = await relay.post("/register", {"agent_id": "thief"})
    assert status == 200
    status, body = await relay.post("/register", {"agent_id": "thief", "name": address})
    assert (status, body["field"]) == (403, "name")
    for free in ("e/carol", "c-carol", "c"):
        status, body = await relay.post("/register", {"agent_id": free})
        assert status == 200, body


async def test_who_had_an_address_before_its_instance_came_keeps_it(relay: Running) -> None:
    await squat(relay, "c/early")
    for _ in range(2):
        status, body = await relay.post("/register", {"agent_id": "c/early"})
        assert (status, body["resumed"]) == (200, True), body


async def test_a_stolen_name_does_not_get_anothers_mail(relay: Running, sign_in: Sign) -> None:
    await squat(relay, "thief", name="d/dan")
    c = await sign_in(relay, "c", "carol")
    assert (await c.write("d/dan", "secret"))["code"] == "unknown_agent"


async def test_a_neighbours_bare_id_is_had_by_nobody_else(serve_link: ServeLink, sign_in: Sign) -> None:
    """Neither before the neighbour has connected nor when there was no room for it."""
    entry = {**NEW_C, "agents": ["carol", "bob", "Ann", "x", "late"]}
    relay = await serve_link([entry], limits={"max_agents": 4})
    await relay.app.relay.deregistration.forget("c/x")  # so there is room for a stranger again
    for name in ("bob", "BOB", "ann", "Late", "other"):
        await relay.register(name, agent_id="thief")  # one agent, which takes one name after the other
        c = await sign_in(relay, "c", "carol")
        for to in (name.lower(), name.upper()):
            answer = await c.write(to, f"secret for {name}")
            told = answer.get("recipient") or answer.get("code")
            expected = {"bob": "c/bob", "ann": "c/Ann", "late": "unknown_agent", "other": "thief"}
            assert told == expected[name.lower()], (name, to, answer)
        await c.socket.close()
    _, body = await relay.get("/poll/thief")
    assert {message.get("content") for message in body["messages"]} == {"secret for other"}


async def test_a_stolen_address_does_not_get_anothers_mail(relay: Running, sign_in: Sign) -> None:
    await squat(relay, "d/dan", name="thief")
    c = await sign_in(relay, "c", "carol")
    assert (await c.write("d/dan", "secret"))["code"] == "unknown_agent"
    await sign_in(relay, "d", "dan")
    assert (await c.write("d/dan", "hello"))["type"] == "queued"


@pytest.mark.parametrize("speaks", [True, False])
async def test_an_address_that_the_relay_forgot_is_not_to_be_had(
    serve_link: ServeLink, sign_in: Sign, speaks: bool
) -> None:
    clock = Clock()
    relay = await serve_link(clock=clock)
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await hang_up(relay, d)
    clock.skip(2 * Limits().forget_claimed_after)

    async def forgotten() -> bool:
        _, found = await relay.get("/discover?status=all")
        left = not relay.app.relay.deregistration._under_way  # until then nobody has the address
        return left and "d/dan" not in {agent["agent_id"] for agent in found["agents"]}

    await eventually(forgotten)
    await squat(relay, "d/dan", name="thief")
    now = clock()
    if speaks:
        d = await sign_in(relay, "d", "dan", at=now)
    assert (await c.write("d/dan", "secret", at=now))["type"] == "queued"
    status, stolen = await relay.get("/poll/d%2Fdan")
    assert (status, stolen["code"]) == (403, "not_allowed")
    if not speaks:
        d = await sign_in(relay, "d", "dan", at=now)
    assert (await d.next("message"))["message"] == "secret"


async def test_what_was_written_under_an_address_before_its_instance_came_is_text(
    relay: Running, sign_in: Sign
) -> None:
    """It passes for nothing that was signed, not even with a signature that is right, and stops nobody else's mail."""
    d = await sign_in(relay, "d", "dan")
    await d.socket.close()
    await squat(relay, "c/carol")
    overheard = SignedClient(None, "c", SECRETS["c"])
    overheard.agent_id = "carol"
    frame = overheard.message("d/dan", "pay me")
    proof = {name: frame[name] for name in ("to", "time", "nonce", "id", "signature")}
    forged: list[Any] = [
        {"a": 1},
        ["text", "proof"],
        None,
        {"text": 1, "proof": proof, "mark": "x"},
        {"text": "x", "proof": "none", "mark": "x"},
        {"text": "x", "proof": {}, "mark": 7},
        {"text": "pay me", "proof": proof},
        {"text": "pay me", "proof": proof, "mark": "0" * 64},
    ]
    for content in forged:
        status, body = await relay.post("/send", {"from_agent": "c/carol", "to_agent": "d/dan", "content": content})
        assert status == 200, body
    c = await sign_in(relay, "c", "carol")
    true = c.message("d/dan", "it is I")
    await c.put(true)
    assert (await c.frame())["type"] == "queued"
    d = await sign_in(relay, "d", "dan")
    for content in forged:
        got = await d.next("message")
        assert (got["from"], json.loads(got["message"])) == ("c/carol", content)
        assert "proof" not in got
    got = await d.next("message")
    assert (got["message"], got["proof"]["signature"]) == ("it is I", true["signature"])


async def test_what_the_relay_carried_is_of_use_for_nothing_else(relay: Running, sign_in: Sign) -> None:
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    assert (await c.write("d/dan", "pay me"))["type"] == "queued"
    got = await d.next("message")
    carried = {"text": "pay me", "proof": got["proof"]}
    envelopes = door_of(relay).envelopes
    packed = envelopes.pack("pay me", Proof(**got["proof"]), sender="c/carol", to="d/dan")
    assert envelopes.open(packed, sender="c/carol", to="d/dan") == ("pay me", got["proof"])
    for forged, sender, to in (
        (carried, "c/carol", "d/dan"),
        (packed, "c/carol", "d/dora"),
        (packed, "c/other", "d/dan"),
        ({**packed, "text": "pay him"}, "c/carol", "d/dan"),
        ({**packed, "proof": {**got["proof"], "seal": "s"}}, "c/carol", "d/dan"),
    ):
        assert envelopes.open(forged, sender=sender, to=to) is None


async def test_strangers_make_only_so_many_agents_of_an_old_client(
    relay: Running, join: Joined, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.doors.agentlink.server import members

    monkeypatch.setattr(members, "MAX_WRITTEN_TO", 2)
    a, b = await join(relay, "a"), await join(relay, "b")
    for name in ("one", "two"):
        await a.send("ann", f"b/{name}", "hello")
        await a.next("queued")
    await a.send("ann", "b/three", "hello")
    assert (await a.next("error"))["code"] == "relay_full"
    await b.send("mine", "a/ann", "my own agents are another matter")
    await b.next("queued")
    await a.send("ann", "b/mine", "hello")
    assert (await b.next("message"))["to"] in ("b/one", "b/two", "b/mine")


async def test_a_peer_that_is_silent_is_noticed(impatient: None, relay: Running, dial: Dial, sign_in: Sign) -> None:
    alive = await sign_in(relay, "c", "carol")
    reading = asyncio.create_task(alive.next("pong"))  # whoever reads answers pings
    dead = await dial(relay, "a", autoping=False)
    assert (await dead.register())["type"] == "registered"
    assert await dead.closed() == 1008
    await alive.put({"type": "ping"})
    assert (await reading)["type"] == "pong"


async def test_one_that_connects_and_says_nothing_is_sent_away(
    relay: Running, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.doors.agentlink.server import connection

    monkeypatch.setattr(connection, "REGISTER_SECONDS", 0.05)
    client = await dial(relay, "a")
    assert (await client.frame())["message"] == "First message must be register"
    assert await client.closed() == 1000


async def test_a_peer_that_does_not_read_stops_only_itself(
    serve_link: ServeLink, sign_in: Sign, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = await serve_link(limits={**UNPACED, "max_mailbox_bytes": 64 * 1024 * 1024})
    stuck, writer = await sign_in(relay, "d", "dan"), await sign_in(relay, "c", "carol")
    transport = stuck.socket._response.connection.transport
    transport.pause_reading()
    text = "x" * 1_000_000  # thirty of them are more than the buffers of two sockets take
    for _ in range(30):
        assert (await writer.write("d/dan", text))["type"] == "queued"

    async def cut_off() -> bool:
        return bool((await relay.get("/"))[1]["doors"]["agentlink"]["connections"] == 1)

    await eventually(cut_off)
    # Its next connection gets all that it had not read, however long that takes.
    monkeypatch.setattr(ws_connection, "SILENT_SECONDS", 60.0)
    again = await sign_in(relay, "d", "dan")
    for _ in range(30):
        got = await again.next("message")
        assert got["message"] == text
        await again.ack(got["receipt"])
    transport.abort()


@pytest.mark.virtual_time
async def test_a_peer_that_speaks_and_does_not_read_is_cut_off(serve_link: ServeLink, sign_in: Sign) -> None:
    """Small answers still go past the message in which the relay is stuck; they do not show that anything is read."""
    relay = await serve_link(limits={**UNPACED, "max_mailbox_bytes": 64 * 1024 * 1024})
    stuck, writer = await sign_in(relay, "d", "dan"), await sign_in(relay, "c", "carol")
    stuck.socket._response.connection.transport.pause_reading()

    async def speak() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await stuck.put({"type": "ping"})
                await pass_time(1)

    speaking = asyncio.create_task(speak())
    for _ in range(30):
        assert (await writer.write("d/dan", "x" * 1_000_000))["type"] == "queued"
    await asyncio.wait_for(speaking, 60)


async def test_a_store_that_fails_is_told_and_the_connection_stays(
    relay: Running, sign_in: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = await sign_in(relay, "c", "carol")
    sending = door_of(relay).sending

    async def fail(*_: Any) -> None:
        raise Failed("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(sending, "send", fail)
        error = await c.write("c/carol", "hello", id="7")
        assert (error["type"], error["code"], error["id"]) == ("error", "store_unavailable", "7")
    assert (await c.write("c/carol", "hello", id="7"))["type"] == "queued"
