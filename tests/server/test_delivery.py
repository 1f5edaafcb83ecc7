"""Claim, ack, nack, extend, redrive: what a consumer and a sender see of the delivery rules."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import (
    Got,
    ack,
    claim,
    claim_one,
    delegate,
    metrics,
    nothing_due,
    ok,
    poll,
    refused,
    send,
    status_of,
)
from tests.system.raw import Clock
from tests.tables import each
from tests.waiting import eventually, until

pytestmark = [pytest.mark.both_stores, pytest.mark.durable]

memory = pytest.mark.parametrize("store_kind", ["memory"])


async def settle(relay: Running, path: str, got: list[Got] | list[str], **fields: Any) -> list[dict[str, Any]]:
    """Ack, nack or extend b's receipts and return the results."""
    receipts = [g.receipt if isinstance(g, Got) else g for g in got]
    reply = await ok(relay.post(path, {"agent_id": "b", "receipts": receipts, **fields}))
    assert [r["receipt"] for r in reply["results"]] == receipts
    assert reply["count"] == sum(r["status"] in ("acked", "nacked", "extended") for r in reply["results"])
    results: list[dict[str, Any]] = reply["results"]
    return results


def statuses(results: list[dict[str, Any]]) -> list[str]:
    return [result["status"] for result in results]


# -- claim -------------------------------------------------------------------------------------------------------------


async def test_a_claim_leases_for_as_long_as_it_says(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b")
    got = await claim_one(pair, "b", lease=120)
    assert got.attempt == 1
    ends = datetime.fromisoformat(got.lease_expires_at).timestamp()
    assert 115 < ends - clock() <= 120
    clock.skip(119)
    await nothing_due(pair, "b")
    clock.skip(1)
    again = await claim_one(pair, "b")
    assert (again.message, again.attempt) == (got.message, 2)
    assert again.message["message_id"] == id


async def test_deliveries_stand_beside_the_messages_in_the_same_order(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    await ok(pair.post("/respond", {"from_agent": "b", "message_id": task, "result": 1}))
    await send(pair, "b", "a", 2)
    got = await claim(pair, "a", 2)
    reply = [g.message["type"] for g in got]
    assert reply == ["task_response", "message"]
    for g in got:
        own = g.message["response_id"] if g.message["type"] == "task_response" else g.message["message_id"]
        (result,) = (await ack(pair, "a", g.receipt))["results"]
        assert result["message_id"] == own


@pytest.mark.shared
async def test_urgent_goes_before_high_before_normal_before_low_and_arrival_decides_the_rest(pair: Running) -> None:
    for n in range(2):
        for priority in ("low", "normal", "high", "urgent"):
            await delegate(pair, "a", "b", f"{priority} {n}", priority=priority)
            await send(pair, "a", "b", f"{priority} {n} too", priority=priority)
    got = await claim(pair, "b", 16)
    by_receipt = [str(g.message.get("task", g.message.get("content"))) for g in got]
    expected = [f"{p} {n}{s}" for p in ("urgent", "high", "normal", "low") for n in range(2) for s in ("", " too")]
    assert sorted(by_receipt) == sorted(expected)
    if len({g.lease_expires_at for g in got}) == 1:  # all of one claim
        assert by_receipt == expected


@memory
@pytest.mark.shared
async def test_a_redelivered_message_keeps_its_place(pair: Running, clock: Clock) -> None:
    for n in range(3):
        await send(pair, "a", "b", n)
    await claim(pair, "b", 3)
    clock.skip(60)
    await send(pair, "a", "b", 3)
    assert [g.message["content"] for g in await claim(pair, "b", 4)] == [0, 1, 2, 3]


async def test_max_bounds_a_claim(pair: Running) -> None:
    for n in range(5):
        await send(pair, "a", "b", n)
    taken: list[Any] = []
    while len(taken) < 5:
        reply = await poll(pair, "b", lease=60, max=2)
        assert reply["count"] <= 2
        taken += [m["content"] for m in reply["messages"]]
    assert sorted(taken) == [0, 1, 2, 3, 4]


@memory
async def test_a_claim_takes_fifty_unless_told_and_an_old_poll_a_thousand(unpaced_pair: Running) -> None:
    for n in range(120):
        await send(unpaced_pair, "a", "b", n)
    assert (await poll(unpaced_pair, "b", lease=60))["count"] == 50
    assert (await poll(unpaced_pair, "b"))["count"] == 70


@memory
async def test_a_reply_carries_no_more_than_four_megabytes_and_at_least_one_message(pair: Running) -> None:
    for _ in range(6):
        await send(pair, "a", "b", "x" * 1_000_000)
    sizes = [(await poll(pair, "b", lease=60))["count"] for _ in range(3)]
    assert sizes == [4, 2, 0]


@each(
    ("query", "field"),
    [
        ("lease=4.9", "lease"),
        ("lease=3601", "lease"),
        ("lease=nan", "lease"),
        ("lease=soon", "lease"),
        ("wait=-1", "wait"),
        ("wait=61", "wait"),
        ("wait=inf", "wait"),
        ("max=0", "max"),
        ("max=1001", "max"),
        ("max=1.5", "max"),
    ],
)
async def test_a_poll_out_of_range_is_400_and_takes_nothing(pair: Running, query: str, field: str) -> None:
    await send(pair, "a", "b")
    body = await refused(pair.get(f"/poll/b?{query}"), 400, "bad_request")
    assert body["field"] == field
    assert (await claim_one(pair, "b")).attempt == 1


# -- wait --------------------------------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_a_waiting_poll_wakes_within_milliseconds(pair: Running) -> None:
    took = []
    for n in range(10):
        polling = asyncio.create_task(claim_one(pair, "b", wait=20, max=1))
        await eventually(lambda: _waits(pair))
        sent = time.perf_counter()
        await send(pair, "a", "b", n)
        got = await polling
        took.append(time.perf_counter() - sent)
        await ack(pair, "b", got.receipt)
    assert sorted(took)[5] < 10  # it was asked to wait for 20 s


@pytest.mark.both_loops
async def test_a_poll_that_waits_in_vain_answers_empty_on_time(pair: Running) -> None:
    started = time.perf_counter()
    reply = await poll(pair, "a", wait=0.2, lease=60, max=1)
    reply = await poll(pair, "b", wait=0.2, lease=60)
    assert reply == {"messages": [], "count": 0, "deliveries": []}
    assert time.perf_counter() - started >= 0.2


@pytest.mark.virtual_time
async def test_one_message_wakes_many_and_goes_to_one(pair: Running) -> None:
    polls = [asyncio.create_task(poll(pair, "b", wait=20, lease=60)) for _ in range(5)]
    await until(lambda: pair.app.relay.waiting == 5)
    id = await send(pair, "a", "b")
    replies = await asyncio.gather(*polls)
    assert [m["message_id"] for reply in replies for m in reply["messages"]] == [id]


@pytest.mark.both_loops
async def test_a_nack_wakes_a_waiting_poll(pair: Running) -> None:
    await send(pair, "a", "b")
    first = await claim_one(pair, "b")
    polling = asyncio.create_task(claim_one(pair, "b", wait=20))
    await eventually(lambda: _waits(pair))
    await settle(pair, "/nack", [first])
    assert (await asyncio.wait_for(polling, 15)).attempt == 2


@pytest.mark.both_loops
async def test_a_delayed_nack_wakes_a_waiting_poll_when_its_time_has_come(pair: Running) -> None:
    await send(pair, "a", "b")
    first = await claim_one(pair, "b")
    started = time.perf_counter()
    await settle(pair, "/nack", [first], delay=0.3)
    second = await asyncio.wait_for(claim_one(pair, "b", wait=60), 25)
    assert second.attempt == 2
    assert time.perf_counter() - started > 0.29


@pytest.mark.both_loops
async def test_a_poll_ends_when_its_agent_leaves_or_is_claimed(pair: Running) -> None:
    key = "a-key-that-nobody-guesses"
    for query in ("wait=30", "wait=30&lease=60"):
        for how, status, code in (("leave", 404, "unknown_agent"), ("claim", 403, "not_allowed")):
            case = f"{query}, {how}"
            name = f"c-{how}-{len(query)}"
            await pair.register(name, agent_id=name)
            polling = asyncio.create_task(pair.get(f"/poll/{name}?{query}"))
            await eventually(lambda: _waits(pair))
            if how == "leave":
                await ok(pair.ask("DELETE", f"/agents/{name}"))
            else:
                await pair.register(name, agent_id=name, claim=True, idempotency_key=key)
            got, body = await asyncio.wait_for(polling, 30)
            assert (got, body["code"]) == (status, code), case
            assert pair.app.relay.waiting == 0, case


async def _waits(relay: Running) -> bool:
    return relay.app.relay.waiting > 0


# -- the old poll ------------------------------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_an_old_poll_settles_what_it_has_written(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b")

    async def read() -> list[Any]:
        messages: list[Any] = (await poll(pair, "b"))["messages"]
        return messages

    assert [m["message_id"] for m in await eventually(read)] == [id]

    async def acked() -> bool:
        return bool((await status_of(pair, "a", id))["state"] == "acked")

    await eventually(acked)
    clock.skip(3600 - 1)
    await nothing_due(pair, "b")


@pytest.mark.both_loops
async def test_an_old_poll_may_wait_too(pair: Running) -> None:
    polling = asyncio.create_task(pair.get("/poll/b?wait=20&max=1"))
    await eventually(lambda: _waits(pair))
    id = await send(pair, "a", "b")
    _, reply = await polling
    assert [m["message_id"] for m in reply["messages"]] == [id]


# -- ack, nack, extend -------------------------------------------------------------------------------------------------


@pytest.mark.shared
async def test_an_ack_settles_for_good_and_may_be_repeated(pair: Running, clock: Clock) -> None:
    await send(pair, "a", "b")
    got = await claim_one(pair, "b")
    for _ in range(3):
        assert statuses(await settle(pair, "/ack", [got])) == ["acked"]
    clock.skip(61)
    await nothing_due(pair, "b")
    assert (await metrics(pair))["acked_total"] == 1
    for path, more in (("/nack", {}), ("/extend", {"lease": 60})):
        (result,) = await settle(pair, path, [got], **more)
        assert result["status"] == "lease_lost"
        assert result["error"]


@pytest.mark.shared
async def test_each_receipt_has_its_own_result_in_the_order_asked(pair: Running) -> None:
    for n in range(2):
        await send(pair, "a", "b", n)
    one, two = await claim(pair, "b", 2)
    asked = ["no-receipt", two.receipt, "", one.receipt, two.receipt, "0" * 16 + "-" + one.message["message_id"]]
    results = await settle(pair, "/ack", asked)
    assert statuses(results) == ["lease_lost", "acked", "lease_lost", "acked", "acked", "lease_lost"]
    assert [r["message_id"] for r in results if r["status"] == "acked"] == [
        two.message["message_id"],
        one.message["message_id"],
        two.message["message_id"],
    ]
    assert [bool(r["error"]) for r in results] == [True, False, True, False, False, True]


async def test_a_nack_makes_it_due_again_at_once_and_counts_as_an_attempt(pair: Running) -> None:
    await send(pair, "a", "b")
    first = await claim_one(pair, "b")
    assert statuses(await settle(pair, "/nack", [first])) == ["nacked"]
    second = await claim_one(pair, "b")
    assert second.attempt == 2
    assert statuses(await settle(pair, "/ack", [first])) == ["lease_lost"]
    assert statuses(await settle(pair, "/nack", [first])) == ["lease_lost"]
    assert statuses(await settle(pair, "/ack", [second])) == ["acked"]


async def test_a_nack_with_delay_makes_it_due_later(pair: Running, clock: Clock) -> None:
    await send(pair, "a", "b")
    await settle(pair, "/nack", [await claim_one(pair, "b")], delay=300)
    clock.skip(299)
    await nothing_due(pair, "b")
    clock.skip(2)
    assert (await claim_one(pair, "b")).attempt == 2


async def test_extend_lengthens_a_lease_and_never_shortens_it(pair: Running, clock: Clock) -> None:
    await send(pair, "a", "b")
    got = await claim_one(pair, "b", lease=60)
    clock.skip(50)
    (result,) = await settle(pair, "/extend", [got], lease=60)
    assert result["status"] == "extended"
    assert 105 < datetime.fromisoformat(result["lease_expires_at"]).timestamp() - clock() + 50 < 115
    await settle(pair, "/extend", [got], lease=5)
    clock.skip(59)
    await nothing_due(pair, "b")
    assert statuses(await settle(pair, "/ack", [got])) == ["acked"]


@pytest.mark.shared
async def test_a_lapsed_lease_cannot_be_used_once_another_holds_the_message(pair: Running, clock: Clock) -> None:
    await send(pair, "a", "b")
    first = await claim_one(pair, "b", lease=5)
    clock.skip(5)
    second = await claim_one(pair, "b", lease=60)
    for path, more in (("/ack", {}), ("/nack", {}), ("/extend", {"lease": 60})):
        assert statuses(await settle(pair, path, [first], **more)) == ["lease_lost"]
    assert statuses(await settle(pair, "/ack", [second])) == ["acked"]


@each(
    ("path", "fields", "field"),
    [
        ("/ack", {"receipts": []}, "receipts"),
        ("/ack", {"receipts": ["r"] * 1001}, "receipts"),
        ("/ack", {"receipts": "r"}, "receipts"),
        ("/ack", {"receipts": [1]}, "receipts[0]"),
        ("/ack", {"receipts": ["x" * 513]}, "receipts[0]"),
        ("/ack", {}, "receipts"),
        ("/nack", {"receipts": ["r"], "delay": -1}, "delay"),
        ("/nack", {"receipts": ["r"], "delay": 86401}, "delay"),
        ("/extend", {"receipts": ["r"], "lease": 4}, "lease"),
        ("/extend", {"receipts": ["r"], "lease": 3601}, "lease"),
        ("/extend", {"receipts": ["r"]}, "lease"),
    ],
)
async def test_settling_out_of_range_is_400_and_named(
    pair: Running, path: str, fields: dict[str, Any], field: str
) -> None:
    body = await refused(pair.post(path, {"agent_id": "b", **fields}), 400, "bad_request")
    assert body["field"] == field


# -- dead letters ------------------------------------------------------------------------------------------------------


async def bury(relay: Running, clock: Clock, *contents: str, attempts: int = 5) -> list[str]:
    """Send messages to b and let their leases lapse until they are dead; return their ids."""
    ids = [await send(relay, "a", "b", content) for content in contents]
    for attempt in range(1, attempts + 1):
        got = await claim(relay, "b", len(contents))
        assert {g.attempt for g in got} == {attempt}
        clock.skip(60)
    await nothing_due(relay, "b")
    return ids


@pytest.mark.shared
async def test_after_five_attempts_a_message_is_a_dead_letter(pair: Running, clock: Clock) -> None:
    (id,) = await bury(pair, clock, "poison")

    async def listed() -> Any:
        return (await ok(pair.get("/dead-letters/b")))["dead_letters"]

    (letter,) = await eventually(listed)
    assert {k: letter[k] for k in ("message_id", "from_agent", "attempts")} == {
        "message_id": id,
        "from_agent": "a",
        "attempts": 5,
    }
    assert (letter["message"]["type"], letter["message"]["content"]) == ("message", "poison")
    assert letter["stored_at"] < letter["dead_at"] < letter["kept_until"]
    told = await status_of(pair, "a", id)
    assert (told["state"], told["attempts"], told["acked_at"]) == ("dead", 5, None)
    assert told["dead_at"] is not None


async def test_max_attempts_is_a_limit_of_the_relay(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"max_attempts": 1})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    (id,) = await bury(relay, clock, "x", attempts=1)
    assert (await status_of(relay, "a", id))["state"] == "dead"


async def test_a_redriven_message_has_all_its_attempts_again(pair: Running, clock: Clock) -> None:
    one, two = await bury(pair, clock, "one", "two")
    reply = await ok(pair.post("/redrive", {"agent_id": "b", "message_ids": [two, two, "unknown"]}))
    assert (reply["message_ids"], reply["count"]) == ([two], 1)
    got = await claim_one(pair, "b")
    assert (got.message["message_id"], got.attempt) == (two, 1)

    async def the_other() -> bool:
        return bool((await ok(pair.post("/redrive", {"agent_id": "b"})))["message_ids"] == [one])

    await eventually(the_other)
    assert (await claim_one(pair, "b")).message["message_id"] == one
    assert (await ok(pair.post("/redrive", {"agent_id": "b", "message_ids": [one]})))["count"] == 0


async def test_a_dead_task_can_be_answered_after_it_was_redriven(pair: Running, clock: Clock) -> None:
    task = await delegate(pair, "a", "b")
    for _ in range(5):
        await claim(pair, "b", 1)
        clock.skip(60)
    await nothing_due(pair, "b")
    assert (await status_of(pair, "a", task))["state"] == "dead"
    assert (await ok(pair.post("/redrive", {"agent_id": "b", "message_ids": [task]})))["count"] == 1
    await claim_one(pair, "b")
    await ok(pair.post("/respond", {"from_agent": "b", "message_id": task, "result": "late"}))


async def test_a_broadcasts_copy_can_die_and_be_redriven(pair: Running, clock: Clock) -> None:
    reply = await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c"}))
    for _ in range(5):
        await claim(pair, "b", 1)
        clock.skip(60)
    await nothing_due(pair, "b")
    assert (await ok(pair.post("/redrive", {"agent_id": "b", "message_ids": [reply["message_id"]]})))["count"] == 1
    assert (await claim_one(pair, "b")).message["message_id"] == reply["message_id"]


@memory
async def test_dead_letters_are_listed_in_pages(pair: Running, clock: Clock) -> None:
    ids = await bury(pair, clock, *map(str, range(7)))
    seen: list[str] = []
    after: str | None = None
    while True:
        query = {"limit": "3", **({} if after is None else {"after": after})}
        reply = await ok(pair.get("/dead-letters/b", params=query))
        assert reply["count"] == len(reply["dead_letters"]) <= 3
        seen += [letter["message_id"] for letter in reply["dead_letters"]]
        after = reply["next"]
        if after is None:
            break
    assert seen == ids


@memory
async def test_dead_letters_take_their_place_in_the_mailbox(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"max_attempts": 1, "max_mailbox_messages": 2})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    await bury(relay, clock, "x", "y", attempts=1)
    await refused(relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": 1}), 429, "mailbox_full")


# -- time to live ------------------------------------------------------------------------------------------------------


async def test_an_unread_message_expires_after_its_time_to_live(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b")
    clock.skip(24 * 3600 - 5)
    await pair.post("/heartbeat", {"agent_id": "a"})
    await pair.post("/heartbeat", {"agent_id": "b"})
    assert (await status_of(pair, "a", id))["state"] == "stored"
    clock.skip(6)
    await nothing_due(pair, "b")

    async def expired() -> bool:
        return bool((await status_of(pair, "a", id))["state"] == "expired")

    await eventually(expired)
    told = await status_of(pair, "a", id)
    assert told["expired_at"] is not None
    assert (told["delivered_at"], told["acked_at"], told["attempts"]) == (None, None, 0)


async def test_a_leased_message_lives_as_long_as_its_lease(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock, limits={"message_ttl": 100})
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    await send(relay, "a", "b")
    clock.skip(90)
    got = await claim_one(relay, "b", lease=600)
    clock.skip(500)
    await relay.app.relay.janitor.sweep()
    (result,) = await settle(relay, "/ack", [got])
    assert result["status"] == "acked"


async def test_a_settled_message_is_forgotten_after_the_retention(pair: Running, clock: Clock) -> None:
    id = await send(pair, "a", "b")
    await ack(pair, "b", (await claim_one(pair, "b")).receipt)
    assert (await status_of(pair, "a", id))["state"] == "acked"
    clock.skip(3601)

    async def forgotten() -> bool:
        status, body = await pair.get(f"/messages/{id}?agent_id=a")
        return status == 404 and body["code"] == "unknown_message"

    await eventually(forgotten)
