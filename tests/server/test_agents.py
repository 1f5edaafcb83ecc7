"""Agents register, are found, and leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.store.base import Put
from tests.conftest import UNPACED, Running, Serve
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    load_of,
    nothing_due,
    ok,
    refused,
    respond,
    send,
    with_key,
)
from tests.system.raw import Clock
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])


async def ids(relay: Running, **query: str) -> list[str]:
    """Return the ids that discover lists."""
    reply = await ok(relay.get("/discover", params=query))
    assert reply["count"] == len(reply["agents"])
    return [agent["agent_id"] for agent in reply["agents"]]


async def listed(relay: Running, expected: list[str], **query: str) -> None:
    """Wait until discover lists exactly these."""

    async def same() -> bool:
        return await ids(relay, **query) == expected

    await eventually(same)


# -- register ----------------------------------------------------------------------------------------------------------


async def test_an_id_is_made_for_those_who_have_none(relay: Running) -> None:
    one, two = await relay.register("one"), await relay.register("two")
    assert one != two
    assert len(one) == len(two) == 16


async def test_a_name_is_the_id_where_none_is_given(relay: Running) -> None:
    reply = await ok(relay.post("/register", {"agent_id": "me"}))
    assert (reply["agent"]["name"], reply["resumed"], reply["agent_key"]) == ("me", False, None)


async def test_capabilities_come_once_each_whatever_their_case(relay: Running) -> None:
    reply = await ok(relay.post("/register", {"capabilities": ["Python", " search ", "python", "  "]}))
    assert reply["agent"]["capabilities"] == ["Python", "search"]


async def test_resuming_keeps_what_is_not_given_anew(relay: Running) -> None:
    first = await ok(
        relay.post(
            "/register", {"agent_id": "a", "name": "Ann", "capabilities": ["x"], "description": "d", "machine": "m"}
        )
    )
    again = await ok(relay.post("/register", {"agent_id": "a"}))
    assert again["resumed"] is True
    fields = ("agent_id", "name", "capabilities", "description", "machine", "registered_at")
    assert {k: again["agent"][k] for k in fields} == {k: first["agent"][k] for k in fields}
    changed = await ok(relay.post("/register", {"agent_id": "a", "name": "Anna", "capabilities": []}))
    assert (changed["agent"]["name"], changed["agent"]["capabilities"]) == ("Anna", [])


async def test_a_claimed_agent_resumes_its_mailbox_with_its_key(pair: Running) -> None:
    key = with_key((await ok(pair.post("/register", {"agent_id": "b", "claim": True})))["agent_key"])
    id = await send(pair, "a", "b")
    reply = await ok(pair.post("/register", {"agent_id": "b", "claim": True}, headers=key))
    assert (reply["resumed"], reply["agent_key"]) == (True, None)
    assert (await claim_one(pair, "b", headers=key)).message["message_id"] == id


async def test_of_many_who_register_one_id_at_once_one_agent_comes_out(relay: Running) -> None:
    replies = await asyncio.gather(*(ok(relay.post("/register", {"agent_id": "x", "name": "X"})) for _ in range(10)))
    assert {reply["agent"]["agent_id"] for reply in replies} == {"x"}
    assert sum(not reply["resumed"] for reply in replies) == 1


async def test_of_many_who_claim_one_id_at_once_only_one_holds_a_key(relay: Running) -> None:
    replies = await asyncio.gather(*(relay.post("/register", {"agent_id": "x", "claim": True}) for _ in range(10)))
    assert sorted(status for status, _ in replies) == [200] + [403] * 9


async def test_of_many_who_claim_one_name_at_once_only_one_has_it(relay: Running) -> None:
    replies = await asyncio.gather(*(relay.post("/register", {"name": "Solo", "claim": True}) for _ in range(10)))
    assert sorted(status for status, _ in replies) == [200] + [409] * 9
    assert {body["code"] for status, body in replies if status == 409} == {"name_taken"}


@each(
    ("field", "value"),
    [
        ("agent_id", ""),
        ("agent_id", "x" * 129),
        ("agent_id", "with space"),
        ("agent_id", "line\nbreak"),
        ("agent_id", "."),
        ("agent_id", ".."),
        ("name", ""),
        ("name", "x" * 129),
        ("name", "bell\x07"),
        ("name", "line\u2028separator"),
        ("capabilities", ["x"] * 65),
        ("capabilities", [""]),
        ("capabilities", ["x" * 129]),
        ("capabilities", "python"),
        ("capabilities", [1]),
        ("machine", "x" * 129),
        ("description", "x" * 4097),
        ("claim", "yes"),
        ("idempotency_key", ""),
        ("idempotency_key", "x" * 129),
    ],
)
async def test_a_field_out_of_range_is_400_and_named(relay: Running, field: str, value: Any) -> None:
    body = await refused(relay.post("/register", {field: value}), 400, "bad_request")
    assert body["field"].startswith(field)
    assert await ids(relay, status="all") == []


async def test_ids_and_names_may_be_of_any_script_and_have_slashes(relay: Running) -> None:
    agent_id = "instance/ägent-名前?x=1&y#z%2F"
    await relay.register("名前 ☃", agent_id=agent_id)
    await relay.register("other", agent_id="o")
    await send(relay, "o", agent_id)
    assert (await claim_one(relay, agent_id)).message["to_agent"] == agent_id
    assert (await ok(relay.get("/dead-letters/instance/%C3%A4gent-%E5%90%8D%E5%89%8D%3Fx%3D1%26y%23z%252F")))[
        "count"
    ] == 0


async def test_a_claim_with_a_key_that_can_be_guessed_is_refused(relay: Running) -> None:
    ask = {"name": "x", "claim": True, "idempotency_key": "short"}
    body = await refused(relay.post("/register", ask), 400, "bad_request")
    assert (body["field"], body["limit"]) == ("idempotency_key", 16)


async def test_a_claim_repeated_under_its_key_gets_the_same_agent_key(relay: Running) -> None:
    ask = {"name": "x", "claim": True, "idempotency_key": "0123456789abcdef"}
    first, again = await ok(relay.post("/register", ask)), await ok(relay.post("/register", ask))
    assert first["agent_key"] == again["agent_key"] is not None
    assert first["agent"]["agent_id"] == again["agent"]["agent_id"]
    other = await ok(relay.post("/register", {**ask, "name": "y", "idempotency_key": "fedcba9876543210"}))
    assert other["agent_key"] != first["agent_key"]


# -- names -------------------------------------------------------------------------------------------------------------


async def test_a_live_name_is_not_claimed_by_another_whatever_its_case(pair: Running) -> None:
    body = await refused(pair.post("/register", {"name": " ann ", "claim": True}), 409, "name_taken")
    assert body["field"] == "name"
    assert body["current"]["agent_id"] == "a"


async def test_a_name_that_is_anothers_id_is_taken(pair: Running) -> None:
    await refused(pair.post("/register", {"name": "a"}), 409, "name_taken")


async def test_an_id_that_is_anothers_name_is_taken(pair: Running) -> None:
    body = await refused(pair.post("/register", {"agent_id": "ANN"}), 409, "name_taken")
    assert body["field"] == "agent_id"


async def test_the_name_of_an_unclaimed_agent_may_be_claimed_once_it_is_stale(relay: Running, clock: Clock) -> None:
    await relay.register("Ann", agent_id="old")
    clock.skip(119)
    await refused(relay.post("/register", {"name": "Ann", "claim": True}), 409, "name_taken")
    clock.skip(2)
    new = await relay.register("Ann", claim=True)
    assert new != "old"


async def test_agents_without_a_key_share_a_name_that_is_ambiguous_while_both_are_online(
    relay: Running, clock: Clock
) -> None:
    for agent_id in ("one", "two"):
        await relay.register("Ann", agent_id=agent_id)
    await relay.register("Bob", agent_id="b")
    ask = {"from_agent": "b", "to_agent": "ann", "content": 1}

    async def ambiguous() -> bool:
        status, body = await relay.post("/send", ask)
        return (status, body.get("code"), sorted(body.get("current", ()))) == (409, "ambiguous_name", ["one", "two"])

    await eventually(ambiguous)
    # No other agent may claim the name now, not even after the agent that took it last has left.
    await refused(relay.post("/register", {"name": "Ann", "claim": True}), 409, "name_taken")
    await ok(relay.ask("DELETE", "/agents/two"))

    async def only_one() -> bool:
        status, body = await relay.post("/send", ask)
        return status == 200 and body["recipient"]["agent_id"] == "one"

    await eventually(only_one)
    await refused(relay.post("/register", {"name": "Ann", "claim": True}), 409, "name_taken")
    await ok(relay.post("/register", {"agent_id": "one", "claim": True}))
    await refused(relay.post("/register", {"name": "Ann"}), 409, "name_taken")


async def test_a_claimed_name_is_that_agents_even_if_an_old_namesake_comes_back(relay: Running, clock: Clock) -> None:
    await relay.register("Ann", agent_id="old")
    clock.skip(121)
    await relay.register("Ann", agent_id="new", claim=True)
    await relay.register("Bob", agent_id="b")
    await ok(relay.post("/heartbeat", {"agent_id": "old"}))
    ask = {"from_agent": "b", "to_agent": "Ann", "content": 1}

    async def claimed() -> bool:
        status, body = await relay.post("/send", ask)
        return status == 200 and body["recipient"]["agent_id"] == "new"

    await eventually(claimed)


async def test_the_name_of_a_claimed_agent_stays_its_own(relay: Running, clock: Clock) -> None:
    await relay.register("Ann", agent_id="old", claim=True)
    clock.skip(3600)
    await refused(relay.post("/register", {"name": "Ann"}), 409, "name_taken")


@memory
async def test_nothing_that_looks_like_a_claimed_agent_is_registered(relay: Running) -> None:
    """Not its name, and not its id: mail for it would go to a stranger, or a reader would take one for the other."""
    await relay.register("Robert", agent_id="bob", claim=True)
    await relay.register("Mia", agent_id="mia1")
    for name, agent_id, field in [
        ("\uff32obert", "x1", "name"),
        ("R\u043ebert", "x2", "name"),
        ("ROBERT", "x3", "name"),
        ("BOB", "x4", "name"),
        ("B\u043eb", "x5", "name"),
        ("R0bert", "x6", "name"),
        ("ROBER\u0422", "x7", "name"),
        ("Robert  ", "x8", "name"),
        ("else", "BOB", "agent_id"),
        ("else", "\uff42\uff4f\uff42", "agent_id"),
        ("else", "b\u043eb", "agent_id"),
        ("else", "robert", "agent_id"),
        ("else", "r\u043ebert", "agent_id"),
    ]:
        for claimed in (False, True):
            status, body = await relay.post("/register", {"agent_id": agent_id, "name": name, "claim": claimed})
            case = ascii((name, agent_id, claimed))
            assert (status, body.get("code"), body.get("field")) == (409, "name_taken", field), case
            assert body["current"]["agent_id"] == "bob", case
    await relay.register("Ann Lee", claim=True)
    for name in ("Ann  Lee", "Ann\u00a0\u2003Lee", "Ann Iee", "\u0391nn Lee"):
        body = await refused(relay.post("/register", {"name": name}), 409, "name_taken")
        assert body["field"] == "name", ascii(name)
    await refused(relay.post("/register", {"agent_id": "MIA1", "claim": True}), 409, "name_taken")
    await refused(relay.post("/register", {"agent_id": "x6", "name": "MIA1", "claim": True}), 409, "name_taken")


async def test_what_cannot_be_seen_is_refused_in_new_names_and_ids(relay: Running) -> None:
    for field, text in [
        ("name", "Mi\u200ba"),
        ("name", "Mi\u00ada"),
        ("name", "\u202eaiM"),
        ("agent_id", "mi\u200ba"),
        ("agent_id", "mi\u00a0a"),
        ("agent_id", "mi\u3000a"),
    ]:
        body = await refused(relay.post("/register", {"agent_id": "m", field: text}), 400, "bad_request")
        assert body["field"] == field, ascii(text)
    await relay.register("\U0001f469\u200d\U0001f467", agent_id="family")


@memory
async def test_mail_goes_to_the_id_before_a_stranger_of_that_name(relay: Running, clock: Clock) -> None:
    """Agents without a key may have any name, as in 1.0.x; the exact id wins, then the id in any case, then names."""
    await relay.register("BOB", agent_id="stranger")
    clock.skip(121)  # the name of an unclaimed agent is no longer held against the id
    await relay.register("Robert", agent_id="bob")
    await relay.register("Robert", agent_id="Bob")
    for named, agent_id in [("bob", "bob"), ("Bob", "Bob")]:
        reply = await ok(relay.post("/send", {"from_agent": "stranger", "to_agent": named, "content": 1}))
        assert reply["recipient"]["agent_id"] == agent_id, named
    await ok(relay.ask("DELETE", "/agents/Bob"))
    for named in ("Bob", "BOB", "\uff22\uff4f\uff42"):
        reply = await ok(relay.post("/send", {"from_agent": "stranger", "to_agent": named, "content": 1}))
        assert reply["recipient"]["agent_id"] == "bob", ascii(named)


@memory
async def test_an_agent_keeps_the_name_that_it_has(relay: Running) -> None:
    """An agent keeps its name if another claims a name that looks like it, or if such names are refused later."""
    await relay.register("R\u043ebert", agent_id="first")
    await relay.register("Robert", agent_id="second", claim=True)
    await relay.register("R\u043ebert", agent_id="first")
    old = await relay.app.relay.core.store.get(Agent, "first")
    assert old is not None
    await relay.app.relay.core.store.commit("first", Put(replace(old, version=old.version + 1, name="Mi\u200ba")))
    await ok(relay.post("/register", {"agent_id": "first", "name": "Mi\u200ba"}))


async def test_a_name_given_up_or_left_behind_is_free(pair: Running) -> None:
    await ok(pair.post("/register", {"agent_id": "a", "name": "Anna"}))
    await pair.register("Ann")
    await ok(pair.ask("DELETE", "/agents/b"))
    await pair.register("Bob")


async def test_names_address_agents_whatever_their_case(pair: Running) -> None:
    async def sent() -> bool:
        status, body = await pair.post("/send", {"from_agent": "a", "to_agent": "bOB", "content": 1})
        assert status in (200, 404)
        return status == 200 and body["recipient"]["agent_id"] == "b" and body["recipient"]["name"] == "Bob"

    await eventually(sent)


@memory
async def test_of_two_of_a_name_the_one_that_is_online_is_meant(relay: Running, clock: Clock) -> None:
    await relay.register("Ann", agent_id="old")
    clock.skip(121)
    await relay.register("Ann", agent_id="new")
    await relay.register("Bob", agent_id="b")
    reply = await ok(relay.post("/send", {"from_agent": "b", "to_agent": "ann", "content": 1}))
    assert reply["recipient"]["agent_id"] == "new"


@memory
async def test_two_stale_agents_of_a_name_are_ambiguous_and_listed(relay: Running, clock: Clock) -> None:
    await relay.register("Ann", agent_id="one")
    clock.skip(121)
    await relay.register("Ann", agent_id="two")
    clock.skip(121)
    await relay.register("Bob", agent_id="b")
    ask = {"from_agent": "b", "to_agent": "Ann", "task": "x"}
    body = await refused(relay.post("/delegate", ask), 409, "ambiguous_name")
    assert sorted(body["current"]) == ["one", "two"]
    assert (await ok(relay.post("/delegate", {**ask, "to_agent": "one"})))["recipient"]["agent_id"] == "one"


async def test_a_stale_recipient_is_accepted_and_shown_as_stale(pair: Running, clock: Clock) -> None:
    clock.skip(121)
    for path, more in (("/send", {"content": 1}), ("/delegate", {"task": "t"})):
        reply = await ok(pair.post(path, {"from_agent": "a", "to_agent": "b", **more}))
        assert (reply["recipient"]["agent_id"], reply["recipient"]["status"]) == ("b", "stale")
        assert clock() - 125 < reply["recipient"]["last_heartbeat"] < clock() - 120


@each("to", ["nobody", "A" * 128, "a/b", "☃"])
async def test_an_unknown_recipient_is_404_never_a_silent_queue(pair: Running, to: str) -> None:
    for path, more in (("/send", {"content": 1}), ("/delegate", {"task": "t"})):
        body = await refused(pair.post(path, {"from_agent": "a", "to_agent": to, **more}), 404, "unknown_agent")
        assert body["field"] == "to_agent"


@each(
    ("method", "path", "body"),
    [
        ("POST", "/delegate", {"from_agent": "ghost", "to_agent": "b", "task": "t", "idempotency_key": "k"}),
        ("POST", "/respond", {"from_agent": "ghost", "message_id": "m", "receipt": "r"}),
        ("POST", "/send", {"from_agent": "ghost", "to_agent": "b", "content": 1}),
        ("POST", "/broadcast", {"from_agent": "ghost", "content": "c", "idempotency_key": "k"}),
        ("GET", "/poll/ghost?lease=60", None),
        ("POST", "/ack", {"agent_id": "ghost", "receipts": ["r"]}),
        ("POST", "/nack", {"agent_id": "ghost", "receipts": ["r"]}),
        ("POST", "/extend", {"agent_id": "ghost", "receipts": ["r"], "lease": 5}),
        ("GET", "/dead-letters/ghost", None),
        ("POST", "/redrive", {"agent_id": "ghost"}),
        ("GET", "/messages/m?agent_id=ghost", None),
        ("POST", "/files", {"file_key": "k", "content": "c", "agent_id": "ghost", "idempotency_key": "k"}),
        ("DELETE", "/files/k?agent_id=ghost", None),
        ("DELETE", "/agents/ghost", None),
    ],
)
async def test_acting_as_an_agent_that_is_not_registered_is_404(
    pair: Running, method: str, path: str, body: dict[str, Any] | None
) -> None:
    await refused(pair.ask(method, path, json=body), 404, "unknown_agent")


# -- presence and discover ---------------------------------------------------------------------------------------------


async def test_discover_filters_by_capability_name_and_status(relay: Running, clock: Clock) -> None:
    await relay.register("Old", agent_id="old", capabilities=["Python"])
    clock.skip(121)
    await relay.register("Ann", agent_id="a", capabilities=["python", "search"])
    await relay.register("Bob", agent_id="b", capabilities=["search"])
    await listed(relay, ["a", "b"])
    await listed(relay, ["a", "b"], status="online")
    await listed(relay, ["old"], status="stale")
    await listed(relay, ["old", "a", "b"], status="all")
    await listed(relay, ["a"], capability="PYTHON")
    await listed(relay, ["old", "a"], capability="python", status="all")
    await listed(relay, ["a", "b"], capability=" search ")
    await listed(relay, ["b"], name="bob")
    await listed(relay, [], name="bob", capability="python")
    await listed(relay, ["a"], name="ANN", capability="search")
    await listed(relay, [], name="nobody")
    await listed(relay, [], capability="cooking")


@memory
async def test_discover_comes_in_pages_to_its_end_or_whole(serve: Serve, clock: Clock) -> None:
    relay = await serve(clock=clock)
    for n in range(7):
        await relay.register(f"A{n}", agent_id=f"a{n}", capabilities=["go"] if n % 2 else ["go", "sql"])
    clock.skip(121)
    for n in range(7, 10):
        await relay.register(f"A{n}", agent_id=f"a{n}", capabilities=["sql"])
    everyone = [f"a{n}" for n in range(10)]
    cases: tuple[tuple[str, list[str]], ...] = (
        ("status=all", everyone),
        ("status=online", everyone[7:]),
        ("status=stale", everyone[:7]),
        ("status=all&capability=sql", ["a0", "a2", "a4", "a6", "a7", "a8", "a9"]),
        ("status=stale&capability=SQL&name=a4", ["a4"]),
        ("status=all&name=nobody", []),
    )
    for asked, expected in cases:
        whole = await ok(relay.get(f"/discover?{asked}"))
        assert "next" not in whole, asked
        for limit in (1, 3, 10, 1000):
            found: list[str] = []
            after = ""
            for _ in range(12):
                page = await ok(relay.get(f"/discover?{asked}&limit={limit}{after}"))
                assert page["count"] == len(page["agents"]) <= limit, (asked, limit)
                found += [agent["agent_id"] for agent in page["agents"]]
                if page["next"] is None:
                    break
                after = f"&after={page['next']}"
            assert sorted(found) == sorted(expected), (asked, limit)
            assert sorted(a["agent_id"] for a in whole["agents"]) == sorted(expected), asked
    for wrong in ("0", "1001", "x"):
        await refused(relay.get(f"/discover?limit={wrong}"), 400, "bad_request")


@memory
async def test_a_long_list_of_agents_holds_others_for_no_long_piece(serve: Serve) -> None:
    relay = await serve(limits=UNPACED)
    many = 3000
    for n in range(many):
        agent = Agent(
            id=f"a{n}",
            version=1,
            name=f"A{n}",
            capabilities=("go",),
            machine="here",
            description="d" * 200,
            registered_at=0.0,
            last_heartbeat=relay.app.relay.clock(),
        )
        await relay.app.relay.core.store.commit(agent.partition_key, Put(agent))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    before = turns
    whole = await ok(relay.get("/discover?status=all"))
    counting.cancel()
    assert [agent["agent_id"] for agent in whole["agents"]] == [f"a{n}" for n in range(many)]
    assert turns - before >= many // 256  # at least as often as agents are encoded, and pieces written


async def test_discover_shows_each_agents_presence_and_claim(relay: Running, clock: Clock) -> None:
    await relay.register("Old", agent_id="old", claim=True)
    clock.skip(121)
    await relay.register("New", agent_id="new")
    agents = (await ok(relay.get("/discover?status=all")))["agents"]
    assert [(a["agent_id"], a["status"], a["claimed"]) for a in agents] == [
        ("old", "stale", True),
        ("new", "online", False),
    ]


async def test_a_quote_in_a_description_cannot_change_what_discover_says(relay: Running, clock: Clock) -> None:
    await relay.register(
        "x", agent_id="x", description='","status":"online","status":"online"', capabilities=['"status":"online"']
    )
    clock.skip(121)
    (agent,) = (await ok(relay.get("/discover?status=stale")))["agents"]
    assert agent["status"] == "stale"
    assert agent["description"] == '","status":"online","status":"online"'
    assert agent["capabilities"] == ['"status":"online"']


@each("status", ["gone", "", "ONLINE"])
async def test_an_unknown_status_is_400(relay: Running, status: str) -> None:
    body = await refused(relay.get(f"/discover?status={status}"), 400, "bad_request")
    assert body["field"] == "status"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/heartbeat", {"agent_id": "a"}),
        ("GET", "/poll/a", None),
        ("POST", "/send", {"from_agent": "a", "to_agent": "b", "content": 1}),
        ("POST", "/broadcast", {"from_agent": "a", "content": "c"}),
        ("POST", "/ack", {"agent_id": "a", "receipts": ["r"]}),
        ("GET", "/dead-letters/a", None),
        ("POST", "/register", {"agent_id": "a"}),
    ],
)
async def test_any_request_as_an_agent_is_a_sign_of_life(
    pair: Running, clock: Clock, method: str, path: str, body: dict[str, Any] | None
) -> None:
    clock.skip(121)
    await listed(pair, [], name="Ann")
    await ok(pair.ask(method, path, json=body))
    await listed(pair, ["a"], name="Ann")


async def test_being_written_to_is_no_sign_of_life(pair: Running, clock: Clock) -> None:
    clock.skip(121)
    await send(pair, "a", "b")
    await listed(pair, ["b"], status="stale")


async def test_a_waiting_poll_keeps_its_agent_online(serve: Serve) -> None:
    relay = await serve(limits={"stale_after": 1.5})
    await relay.register("Ann", agent_id="a")
    assert (await ok(relay.get("/poll/a?wait=2.5")))["count"] == 0
    assert (await ok(relay.get("/discover")))["count"] == 1


@memory
async def test_load_counts_the_mailbox_and_the_open_tasks(pair: Running) -> None:
    assert await load_of(pair, "b") == (0, 0)
    await send(pair, "a", "b")
    task = await delegate(pair, "a", "b")
    assert await load_of(pair, "b") == (2, 1)
    for got in await claim(pair, "b", 2):
        assert await load_of(pair, "b") == (2, 1) or got.message["type"] == "task_delegation"
        await ack(pair, "b", got.receipt)
    assert await load_of(pair, "b") == (0, 1)
    await respond(pair, "b", task, status="in_progress")
    assert await load_of(pair, "b") == (0, 1)
    await respond(pair, "b", task)
    assert await load_of(pair, "b") == (0, 0)
    assert (await load_of(pair, "a"))[0] == 2  # two responses


async def test_a_silent_agent_without_mail_is_forgotten_after_a_day_and_its_name_is_free(
    pair: Running, clock: Clock
) -> None:
    await send(pair, "a", "b")
    for got in await claim(pair, "a", 0):
        await ack(pair, "a", got.receipt)
    await pair.get("/poll/a")
    clock.skip(24 * 3600 - 10)
    await pair.post("/heartbeat", {"agent_id": "a"})
    clock.skip(11)
    await listed(pair, ["a", "b"], status="all")  # b has mail, a was seen
    clock.skip(24 * 3600)
    await listed(pair, [], status="all")
    await pair.register("Ann", agent_id="new")


# -- joined and left ---------------------------------------------------------------------------------------------------


async def test_those_who_ask_for_it_are_told_who_joins_and_who_leaves(pair: Running) -> None:
    key = (await ok(pair.post("/register", {"agent_id": "a", "claim": True, "notices": True})))["agent_key"]
    headers = with_key(key)
    await pair.register("Cid", agent_id="c")
    joined = await claim_one(pair, "a", news=True, headers=headers)
    assert (joined.message["type"], joined.message["agent"]["agent_id"]) == ("agent_joined", "c")
    assert joined.message["agent"]["status"] == "online"
    await ack(pair, "a", joined.receipt, headers=headers)
    await ok(pair.ask("DELETE", "/agents/c"))
    left = await claim_one(pair, "a", news=True, headers=headers)
    assert (left.message["type"], left.message["agent"]["agent_id"]) == ("agent_left", "c")
    await ack(pair, "a", left.receipt, headers=headers)
    await ok(pair.post("/files", {"file_key": "k", "content": "c", "agent_id": "b"}))
    told = await claim_one(pair, "a", headers=headers)
    assert (told.message["type"], told.message["file_key"]) == ("file_updated", "k")


async def test_others_are_told_of_no_agents_and_a_claimed_one_of_no_files_either(pair: Running) -> None:
    """Notices that an agent asked for stay on at a resume, and can be turned off."""
    key = (await ok(pair.post("/register", {"agent_id": "c", "claim": True})))["agent_key"]
    asked = (await ok(pair.post("/register", {"agent_id": "d", "claim": True, "notices": True})))["agent_key"]
    await ok(pair.post("/register", {"agent_id": "d", "claim": True, "notices": False}, headers=with_key(asked)))
    await ok(pair.post("/register", {"agent_id": "d", "name": "D"}, headers=with_key(asked)))
    await pair.register("Eve", agent_id="e")
    await ok(pair.ask("DELETE", "/agents/e"))
    await ok(pair.post("/files", {"file_key": "k", "content": "c", "agent_id": "b"}))
    assert [g.message["type"] for g in await claim(pair, "a", 1, news=True)] == ["file_updated"]
    for agent_id, agent_key in (("c", key), ("d", asked)):
        await ok(pair.post("/send", {"from_agent": "a", "to_agent": agent_id, "content": "last"}))
        got = await claim(pair, agent_id, 1, news=True, headers=with_key(agent_key))
        assert [g.message["type"] for g in got] == ["message"], agent_id


async def test_a_resumed_agent_is_not_announced_again(pair: Running) -> None:
    await ok(pair.post("/register", {"agent_id": "a", "notices": True}))
    await pair.register("Bob", agent_id="b")
    for _ in range(3):
        assert (await ok(pair.get("/poll/a?lease=60")))["count"] == 0


@memory
async def test_joined_and_left_unread_arrive_as_one(pair: Running) -> None:
    await ok(pair.post("/register", {"agent_id": "a", "notices": True}))
    for _ in range(3):
        await ok(pair.ask("DELETE", "/agents/b"))
        await pair.register("Bob", agent_id="b")
    news = await ok(pair.get("/poll/a?lease=60"))
    assert [m["type"] for m in news["messages"]] == ["agent_joined"]


async def test_leaving_removes_the_agent_and_its_mail_and_leaves_its_tasks(pair: Running) -> None:
    """Its messages end with it; its tasks wait for the next agent of its name, and for no other."""
    message = await send(pair, "a", "b")
    task = await delegate(pair, "a", "b")
    await claim(pair, "b", 1, max=1)
    reply = await ok(pair.ask("DELETE", "/agents/b"))
    assert (reply["status"], reply["agent_id"], reply["dropped"], reply["waiting"]) == ("left", "b", 1, 1)
    await refused(pair.get("/poll/b"), 404, "unknown_agent")
    await refused(pair.ask("DELETE", "/agents/b"), 404, "unknown_agent")
    assert (await ok(pair.get(f"/messages/{message}?agent_id=a")))["state"] == "expired"
    told = await ok(pair.get(f"/messages/{task}?agent_id=a"))
    assert (told["state"], told["task_status"]) == ("stored", "queued")
    await listed(pair, ["a"], status="all")
    error = await refused(pair.post("/register", {"agent_id": "b", "name": "Mallory"}), 409, "name_taken")
    assert error["field"] == "agent_id"
    await pair.register("Mallory", agent_id="m")
    await nothing_due(pair, "m")
    status, _ = await pair.post("/respond", {"from_agent": "m", "message_id": task, "result": "x"})
    assert status == 403
    await pair.register("Bob", agent_id="b2")
    assert (await claim_one(pair, "b2")).message["message_id"] == task
    await respond(pair, "b2", task)


async def test_an_agent_that_works_elsewhere_is_claimed_by_the_operator_alone(serve: Serve, clock: Clock) -> None:
    clock.stop()
    relay = await serve(clock=clock, token="t", admin_token="o", trust_proxies=("127.0.0.1",))

    def register(address: str, token: str = "t", agent_id: str = "ann", **fields: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
        return relay.post("/register", {"agent_id": agent_id, **fields}, headers=headers)

    here, there = "198.51.100.7", "198.51.100.8"
    for id in ("ann", "bob", "cy"):
        assert (await register(here, agent_id=id))[0] == 200
    kept = {"Authorization": "Bearer t", "X-Forwarded-For": there, "ClawLink-Agent-Key": "k" * 40}
    asks: list[Callable[[], Any]] = [
        lambda: register(there, claim=True),
        lambda: register("?", claim=True),
        lambda: relay.post("/register", {"agent_id": "ann", "claim": True}, headers=kept),
    ]
    for ask in asks:
        assert (await register(there))[0] == 200  # as in 1.0.x; it does not make the address its own
        status, body = await ask()
        assert (status, body["code"], body["field"]) == (409, "name_taken", "agent_id"), body
        assert body["current"]["agent_id"] == "ann"
    assert (await register(there, token="o", claim=True))[1]["agent_key"]
    assert (await register(here, agent_id="bob", claim=True))[1]["agent_key"]
    clock.skip(120)
    assert (await register(there, agent_id="cy", claim=True))[1]["agent_key"]  # stale
