"""Broadcasts: the agents that hear of them at once, and the copies for agents that come late."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import ack, claim, claim_one, nothing_due, ok, refused, status_of
from tests.system.raw import Clock
from tests.tables import each
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

memory = pytest.mark.parametrize("store_kind", ["memory"])


async def tell(relay: Running, content: str, sender: str = "a", **fields: Any) -> str:
    """Broadcast, and return the message's id."""
    reply = await ok(relay.post("/broadcast", {"from_agent": sender, "content": content, **fields}))
    return str(reply["message_id"])


async def known(relay: Running, **query: Any) -> list[str]:
    """Return the contents that the relay lists, page by page."""
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await ok(relay.get("/broadcasts", params={**query, **after}))
        assert page["count"] == len(page["broadcasts"])
        found += [told["content"] for told in page["broadcasts"]]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


async def lists(relay: Running, expected: list[str], **query: Any) -> None:
    """Wait until the relay lists just these, in this order: an index may lag."""

    async def same() -> bool:
        return await known(relay, **query) == expected

    await eventually(same)


# -- who hears of it ---------------------------------------------------------------------------------------------------


@each(
    ("subscriptions", "heard"),
    [
        (None, ["research", "Research", "build.ok", "build.nightly.ok", "building", "general"]),
        (["*"], ["research", "Research", "build.ok", "build.nightly.ok", "building", "general"]),
        ([], []),
        (["research"], ["research", "Research"]),
        (["RESEARCH", "research"], ["research", "Research"]),
        (["build.*"], ["build.ok", "build.nightly.ok"]),
        (["Build.*", "general"], ["build.ok", "build.nightly.ok", "general"]),
        (["build"], []),
        (["*", "research"], ["research", "Research", "build.ok", "build.nightly.ok", "building", "general"]),
    ],
)
async def test_a_broadcast_reaches_each_subscriber_once(
    relay: Running, subscriptions: list[str] | None, heard: list[str]
) -> None:
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b", subscriptions=subscriptions)
    for topic in ("research", "Research", "build.ok", "build.nightly.ok", "building", "general"):
        await tell(relay, topic, topic=topic)
    got = await claim(relay, "b", len(heard))
    assert sorted(g.message["topic"] for g in got) == sorted(heard)
    if got:
        await ack(relay, "b", *(g.receipt for g in got))
    await nothing_due(relay, "b")
    await nothing_due(relay, "a")


@memory
async def test_the_reply_counts_the_subscribers(relay: Running) -> None:
    await relay.register("Ann", agent_id="a")
    for n, patterns in enumerate((["x"], ["x.*"], ["*"], ["y"], [])):
        await relay.register(f"n{n}", subscriptions=patterns)
    ask = {"from_agent": "a", "content": "c"}
    assert (await ok(relay.post("/broadcast", {**ask, "topic": "x"})))["recipients"] == 2
    assert (await ok(relay.post("/broadcast", {**ask, "topic": "x.y"})))["recipients"] == 2
    assert (await ok(relay.post("/broadcast", {**ask, "topic": "z"})))["recipients"] == 1


async def test_subscriptions_are_kept_when_an_agent_registers_anew_and_changed_when_it_says_so(pair: Running) -> None:
    await pair.register("Bob", agent_id="b", subscriptions=["one"])
    await pair.register("Bob", agent_id="b")
    await tell(pair, "2", topic="two")
    await tell(pair, "1", topic="one")
    got = await claim_one(pair, "b")
    assert got.message["content"] == "1"
    await ack(pair, "b", got.receipt)
    await pair.register("Bob", agent_id="b", subscriptions=["two"])
    await tell(pair, "again 1", topic="one")
    await tell(pair, "again 2", topic="two")
    assert (await claim_one(pair, "b")).message["content"] == "again 2"


async def test_a_broadcast_with_a_ttl_is_forgotten_after_it_read_or_not(pair: Running, clock: Clock) -> None:
    short = await tell(pair, "short", ttl=60)
    await tell(pair, "long", ttl=3600)
    clock.skip(59)
    await lists(pair, ["long", "short"])
    clock.skip(2)
    await lists(pair, ["long"])
    got = await claim_one(pair, "b")
    assert got.message["content"] == "long"
    assert (await status_of(pair, "b", short))["state"] == "expired"


@each(
    ("path", "fields", "field"),
    [
        ("/broadcast", {"ttl": 0}, "ttl"),
        ("/broadcast", {"ttl": "day"}, "ttl"),
        ("/broadcast", {"ttl": 1e12}, "ttl"),
        ("/register", {"subscriptions": "research"}, "subscriptions"),
        ("/register", {"subscriptions": [""]}, "subscriptions[0]"),
        ("/register", {"subscriptions": ["x\ny"]}, "subscriptions[0]"),
        ("/register", {"subscriptions": ["x" * 129]}, "subscriptions[0]"),
        ("/register", {"subscriptions": ["x"] * 65}, "subscriptions"),
    ],
)
async def test_what_is_out_of_range_is_400_and_named(
    pair: Running, path: str, fields: dict[str, Any], field: str
) -> None:
    body = await refused(pair.post(path, {"from_agent": "a", "content": "c", **fields}), 400, "bad_request")
    assert body["field"] == field


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def library(pair: Running, clock: Clock) -> Running:
    """A relay that was told five things, ten seconds apart."""
    for content, sender, topic, tags in (
        ("1", "a", "build.linux", ["ok"]),
        ("2", "b", "Build.mac", ["OK", "slow"]),
        ("3", "a", "research", ["slow"]),
        ("4", "b", "research", []),
        ("5", "a", "builder", ["ok", "ok"]),
    ):
        await tell(pair, content, sender, topic=topic, tags=tags)
        clock.skip(10)
    return pair


@each(
    ("query", "expected"),
    [
        ({}, "54321"),
        ({"topic": "research"}, "43"),
        ({"topic": "RESEARCH"}, "43"),
        ({"topic": "build.*"}, "21"),
        ({"topic": "*"}, "54321"),
        ({"topic": "build"}, ""),
        ({"tag": "ok"}, "521"),
        ({"tag": "Slow"}, "32"),
        ({"author": "b"}, "42"),
        ({"author": "nobody"}, ""),
        ({"topic": "build.*", "tag": "slow"}, "2"),
        ({"topic": "research", "author": "a"}, "3"),
        ({"tag": "ok", "author": "a"}, "51"),
        ({"topic": "research", "tag": "ok"}, ""),
        ({"since": "2000-01-01"}, "54321"),
        ({"since": "9999999999"}, ""),
    ],
)
@each("limit", [1, 2, 100])
async def test_those_who_come_late_find_what_they_look_for_the_newest_first(
    library: Running, query: dict[str, Any], expected: str, limit: int
) -> None:
    await lists(library, list(expected), **query, limit=limit)


async def test_since_is_a_time_in_seconds_or_as_text_with_its_zone(library: Running, clock: Clock) -> None:
    await lists(library, ["5", "4", "3"], since=await third(library))
    await lists(library, ["5", "4"], since=str(clock() - 25))
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(clock() - 25))
    for since in (stamp, stamp + "Z", stamp + "+00:00", stamp.replace("T", " ")):
        await lists(library, ["5", "4"], since=since)
    ahead = time.strftime("%Y-%m-%dT%H:%M:%S+02:00", time.gmtime(clock() - 25 + 7200))
    await lists(library, ["5", "4"], since=ahead)
    for since in ("yesterday", "", "2026-13-01", "x" * 65):
        body = await refused(library.get("/broadcasts", params={"since": since}), 400, "bad_request")
        assert body["field"] == "since"


async def test_a_broadcast_is_among_those_since_its_own_time(
    pair: Running, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Clock.__call__

    def ticking(self: Clock) -> float:
        self.skipped += 0.002  # between any two looks at it
        return real(self)

    monkeypatch.setattr(Clock, "__call__", ticking)
    await tell(pair, "1")
    await lists(pair, ["1"])
    (told,) = (await ok(pair.get("/broadcasts")))["broadcasts"]
    assert await known(pair, since=told["timestamp"]) == ["1"]


async def third(library: Running) -> str:
    """Return the time at which the third was told, once the list has it."""

    async def all_five() -> Any:
        told = (await ok(library.get("/broadcasts")))["broadcasts"]
        return told[2]["timestamp"] if len(told) == 5 else None

    return str(await eventually(all_five))


async def test_what_is_listed_is_the_message_as_it_was_told(pair: Running) -> None:
    id = await tell(pair, "ä☃ \u202e", topic="t", tags=["x", "y"])
    got = (await claim_one(pair, "b")).message
    await lists(pair, ["ä☃ \u202e"])
    (listed,) = (await ok(pair.get("/broadcasts")))["broadcasts"]
    assert listed == got
    assert listed["message_id"] == id


async def test_one_that_comes_late_reads_what_it_was_not_sent(library: Running) -> None:
    await library.register("Late", agent_id="late")
    await nothing_due(library, "late")
    await lists(library, ["4", "3"], topic="research")


async def test_a_repeat_under_its_key_is_kept_once(pair: Running) -> None:
    for _ in range(3):
        await tell(pair, "once", idempotency_key="k")
    await lists(pair, ["once"])


async def test_what_is_kept_outlives_its_author_and_its_readers(pair: Running, clock: Clock) -> None:
    await tell(pair, "lasting", "b")
    await ack(pair, "a", (await claim_one(pair, "a")).receipt)
    await ok(pair.ask("DELETE", "/agents/b"))
    clock.skip(2 * 3600)
    await lists(pair, ["lasting"], author="b")


@memory
async def test_a_list_goes_on_while_more_is_told(unpaced_pair: Running) -> None:
    relay = unpaced_pair
    for n in range(20):
        await tell(relay, str(n))
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await ok(relay.get("/broadcasts", params={"limit": 3, **after}))
        seen += [told["content"] for told in page["broadcasts"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
        await tell(relay, "later")
    assert seen == [str(n) for n in range(19, -1, -1)]


@memory
async def test_the_bounds_hold_under_a_flood(serve: Serve) -> None:
    limits = {"max_knowledge": 50, "max_knowledge_bytes": 30_000, "rate_agent": 0, "rate_pair": 0}
    relay = await serve(limits=limits)
    await relay.register("a", agent_id="a")
    await asyncio.gather(*(tell(relay, f"{n:03}" + "x" * (n % 7) * 300) for n in range(300)))

    async def within() -> Any:
        kept = await known(relay)
        return kept if len(kept) <= 50 and sum(map(len, kept)) < 30_000 else None

    kept = await eventually(within)
    assert len(kept) >= 10


@memory
async def test_a_place_to_go_on_that_nobody_gave_is_no_failure(pair: Running) -> None:
    await tell(pair, "c")
    for after in ("x", "-1", "\u0661", "1.5"):
        await ok(pair.get("/broadcasts", params={"after": after}))


async def test_a_token_is_asked_for_here_too(serve: Serve) -> None:
    relay = await serve(token="t")
    await refused(relay.get("/broadcasts"), 401, "not_authenticated")
    assert (await ok(relay.get("/broadcasts", headers={"Authorization": "Bearer t"})))["count"] == 0


async def test_a_broadcast_once_read_is_not_told_again_by_a_repeat(pair: Running) -> None:
    await tell(pair, "once", idempotency_key="k")
    await ack(pair, "b", (await claim_one(pair, "b")).receipt)
    await tell(pair, "once", idempotency_key="k")
    await nothing_due(pair, "b")
