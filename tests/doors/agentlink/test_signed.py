"""The new form: signed, acked, and told to the sender."""

from __future__ import annotations

import pytest

from clawlink.domain.limits import Limits
from tests.conftest import Running
from tests.doors.agentlink.conftest import SECRETS, Joined, ServeLink, Sign, hang_up
from tests.doors.agentlink.old_client import sign
from tests.doors.agentlink.signed_client import canonical
from tests.server.asks import claim_one, send, status_of, task_of
from tests.system.raw import Clock
from tests.virtual_time import starved
from tests.waiting import eventually


@pytest.fixture
async def relay(serve_link: ServeLink) -> Running:
    return await serve_link()


async def test_a_message_goes_through_and_is_delivered_only_once_acked(relay: Running, sign_in: Sign) -> None:
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    frame = c.message("d/dan", "hello")
    await c.put(frame)
    queued = await c.frame()
    assert (queued["type"], queued["id"], queued["recipient"], queued["status"]) == (
        "queued",
        frame["id"],
        "d/dan",
        "online",
    )
    got = await d.frame()
    assert (got["type"], got["from"], got["to"], got["message"]) == ("message", "c/carol", "d/dan", "hello")
    await d.put({"type": "ping"})
    assert (await d.frame())["type"] == "pong"  # it has read the message, which is not enough
    await c.put({"type": "ping"})
    assert (await c.frame())["type"] == "pong"
    await d.ack(got["receipt"])
    delivered = await c.frame()
    assert (delivered["type"], delivered["id"], delivered["message_id"]) == (
        "delivered",
        frame["id"],
        queued["message_id"],
    )


async def test_the_signature_travels_with_the_message(relay: Running, sign_in: Sign) -> None:
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    frame = c.message("d/dan", 'any "text" \n ☂ é e\u0301 \u0000')
    frame["seal"] = sign("between c and d", canonical(frame))
    await c.put(frame)
    got = await d.frame()
    proof = got["proof"]
    assert proof == {name: frame[name] for name in ("to", "time", "nonce", "id", "signature", "seal")}
    told = {**proof, "type": "send", "from": got["from"], "message": got["message"]}
    assert proof["signature"] == sign(SECRETS["c"], canonical(told))
    assert proof["seal"] == sign("between c and d", canonical(told))


async def test_a_repeat_that_is_signed_anew_is_the_same_message(relay: Running, sign_in: Sign) -> None:
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    first = await c.write("d/dan", "once", id="1")
    second = await c.write("d/dan", "once", id="1")
    assert first["message_id"] == second["message_id"]
    third = await c.write("d/dan", "another text under the same id is lost by no means", id="1")
    assert third["message_id"] != first["message_id"]
    assert (await d.frame())["message"] == "once"
    assert (await d.frame())["message"].startswith("another")


async def test_what_was_not_acked_comes_again_with_its_attempt_counted(relay: Running, sign_in: Sign) -> None:
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await c.write("d/dan", "hello")
    assert (await d.frame())["attempt"] == 1
    await d.put({"type": "ping"})
    await d.frame()
    await d.socket.close()
    again = await sign_in(relay, "d", "dan")
    got = await again.frame()
    assert (got["message"], got["attempt"]) == ("hello", 2)


async def test_a_receipt_that_is_not_held_is_told(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    await c.ack("no-receipt")
    error = await c.frame()
    assert (error["type"], error["code"], error["receipts"]) == ("error", "lease_lost", ["no-receipt"])


async def test_two_connections_of_one_agent_share_its_mailbox(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    first, second = await sign_in(relay, "d", "dan"), await sign_in(relay, "d", "dan")
    await first.socket.close()
    await c.write("d/dan", "to who is left")
    assert (await second.frame())["message"] == "to who is left"


async def test_several_agents_of_one_instance_get_their_own(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    dan, dora = await sign_in(relay, "d", "dan"), await sign_in(relay, "d", "dora")
    await c.write("d/dora", "to dora")
    await c.write("d/dan", "to dan")
    assert (await dora.frame())["message"] == "to dora"
    assert (await dan.frame())["message"] == "to dan"


async def test_old_and_new_write_to_each_other(relay: Running, sign_in: Sign, join: Joined) -> None:
    a, c = await join(relay, "a"), await sign_in(relay, "c", "carol")
    await a.send("ann", "c/carol", "from old")
    got = await c.frame()
    assert (got["from"], got["message"]) == ("a/ann", "from old")
    assert "proof" not in got
    await c.write("a/ann", "from new")
    got = await a.next("message")
    assert (got["from"], got["to"], got["message"]) == ("c/carol", "a/ann", "from new")
    assert got["proof"]["to"] == "a/ann"


async def test_an_agent_of_the_relay_is_written_to_in_plain_text(relay: Running, sign_in: Sign) -> None:
    await relay.register("Zoe", agent_id="z")
    c = await sign_in(relay, "c", "carol")
    await c.write("Zoe", "hello")
    assert (await claim_one(relay, "z")).message["content"] == "hello"
    id = await send(relay, "z", "c/carol", {"any": ["JSON"]})
    got = await c.next("message")
    assert (got["from"], got["message"]) == ("z", '{"any":["JSON"]}')
    await c.ack(got["receipt"])

    async def acked() -> bool:
        return bool((await status_of(relay, "z", id))["state"] == "acked")

    await eventually(acked)


async def test_what_looks_like_a_proof_from_outside_is_text(relay: Running, sign_in: Sign) -> None:
    await relay.register("Zoe", agent_id="z")
    c = await sign_in(relay, "c", "carol")
    await send(relay, "z", "c/carol", {"text": "trust me", "proof": {"signature": "0" * 64}})
    got = await c.next("message")
    assert got["message"] == '{"text":"trust me","proof":{"signature":"' + "0" * 64 + '"}}'
    assert "proof" not in got


async def test_a_task_is_answered(relay: Running, sign_in: Sign) -> None:
    await relay.register("Zoe", agent_id="z")
    c = await sign_in(relay, "c", "carol")
    _, task = await relay.post("/delegate", {"from_agent": "z", "to_agent": "c/carol", "task": "count"})
    got = await c.next("message")
    await c.ack(got["receipt"])
    await c.put({"type": "respond", "task_id": got["task_id"], "result": "3", "id": "r1"})
    done = await c.frame()
    assert done == {"type": "responded", "task_id": task["message_id"], "status": "completed", "id": "r1"}
    seen = await task_of(relay, "z", task["message_id"])
    assert (seen["status"], seen["result"], seen["assignee"]) == ("completed", "3", "c/carol")
    await c.put({"type": "respond", "task_id": "none", "id": "r2"})
    error = await c.frame()
    assert (error["type"], error["code"], error["id"]) == ("error", "unknown_task", "r2")


async def test_what_is_said_about_a_task_arrives_as_text(relay: Running, sign_in: Sign) -> None:
    await relay.register("Zoe", agent_id="z")
    c = await sign_in(relay, "c", "carol")
    _, task = await relay.post("/delegate", {"from_agent": "z", "to_agent": "c/carol", "task": "count"})
    id = task["message_id"]
    await c.ack((await c.next("message"))["receipt"])
    await c.put({"type": "respond", "task_id": id, "result": "How far?", "status": "input_required"})
    assert (await c.next("responded"))["status"] == "input_required"
    await relay.post(f"/tasks/{id}/answer", {"from_agent": "z", "content": {"to": 3}})
    got = await c.next("message")
    assert (got["kind"], got["from"], got["message"]) == ("task_answer", "z", f'Answer about task {id}: {{"to":3}}')
    await relay.post(f"/tasks/{id}/cancel", {"from_agent": "z", "note": "never mind"})
    got = await c.next("message")
    assert (got["kind"], got["from"], got["task_id"]) == ("task_update", "z", id)
    assert got["message"] == f"Task {id} is cancelled (never mind)"


async def test_news_of_the_relay_do_not_arrive(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    await relay.register("Zoe", agent_id="z")
    await relay.post("/broadcast", {"from_agent": "z", "content": "to all"})
    await relay.post("/files", {"file_key": "k", "content": "x", "agent_id": "z"})
    await send(relay, "z", "c/carol", "to you")
    assert (await c.frame())["message"] == "to you"


async def test_an_agent_that_the_relay_forgot_is_there_again_when_it_speaks(
    serve_link: ServeLink, sign_in: Sign
) -> None:
    clock = Clock()
    relay = await serve_link(clock=clock)
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await hang_up(relay, d)
    clock.skip(2 * Limits().forget_claimed_after)

    async def forgotten() -> bool:
        _, found = await relay.get("/discover", params={"status": "all"})
        return "d/dan" not in [agent["agent_id"] for agent in found["agents"]]

    await eventually(forgotten)
    now = clock()
    assert (await c.write("d/dan", "are you there?", at=now))["type"] == "queued"
    back = await sign_in(relay, "d", "dan", at=now)
    assert (await back.frame())["message"] == "are you there?"


async def test_an_old_connection_answers_no_tasks(relay: Running, join: Joined) -> None:
    a = await join(relay, "a")
    await a.put({"type": "respond", "task_id": "any", "id": "1"})
    error = await a.frame()
    assert (error["code"], error["task_id"], error["id"]) == ("not_allowed", "any", "1")


async def test_an_unknown_recipient_is_refused(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    for to in ("d/nobody", "nobody", "no/body"):
        error = await c.write(to, "hello", id="7")
        assert (error["type"], error["code"], error["to"], error["id"]) == ("error", "unknown_agent", to, "7")
    await c.put({"type": "ping"})
    assert (await c.frame())["type"] == "pong"


@pytest.mark.parametrize("store_kind", ["memory"])  # the other may be late to count
async def test_the_relays_rules_hold_for_it(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link(limits={"max_mailbox_messages": 1})
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await d.socket.close()
    assert (await c.write("d/dan", "one"))["type"] == "queued"
    error = await c.write("d/dan", "two")
    assert (error["code"], error["limit"]) == ("mailbox_full", 1)


async def test_what_is_never_read_is_told(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link(limits={"message_ttl": 1.0})
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await d.socket.close()
    queued = await c.write("d/dan", "too late")
    error = await c.frame()
    assert (error["type"], error["code"], error["id"]) == ("error", "not_delivered", queued["id"])


async def test_without_store_who_is_not_there_is_not_written_to(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link(no_store=True)
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    assert (await c.write("d/dan", "you are there"))["type"] == "queued"
    await d.ack((await d.frame())["receipt"])
    assert (await c.frame())["type"] == "delivered"
    # Messages that it had not acked when it went are not kept either, and their sender is told.
    queued = await c.write("d/dan", "unread")
    await d.frame()
    await d.socket.close()
    error = await c.frame()
    assert (error["code"], error["id"]) == ("not_delivered", queued["id"])
    error = await c.write("d/dan", "you are gone")
    assert (error["type"], error["code"]) == ("error", "wrong_state")
    assert "--no-store" in error["message"]
    _, info = await relay.get("/")
    assert info["messages_held"] == 0


@pytest.mark.virtual_time
async def test_the_time_to_ack_at_the_end_counts_no_steps(serve_link: ServeLink, sign_in: Sign) -> None:
    """On a loaded machine each step takes long."""
    relay = await serve_link()
    c, d = await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await c.write("d/dan", "under way")
    await d.frame()
    async with starved(0.45) as stood:
        await relay.app.relay.drain()
        while not d.socket.closed:
            await d.socket.receive()
        assert d.socket.close_code == 1001
        assert len(stood) < 10, "the farewell is 1.5 s"


async def test_a_relay_that_goes_says_so_and_keeps_what_was_not_acked(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link()
    c = await sign_in(relay, "c", "carol")
    await relay.app.relay.drain()
    while not c.socket.closed:
        await c.socket.receive()
    assert c.socket.close_code == 1001
