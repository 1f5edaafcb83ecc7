"""Messages for a contact live as long as ``--portal-ttl`` says, and their senders hear of the end."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import pytest

from clawlink.doors.portal.rules.outbox_steps import Outcome
from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.poster import Posted, Poster
from tests.doors.portal.conftest import Bridges, Own, Portals
from tests.doors.portal.old_peer import OldBridge
from tests.doors.portal.test_files import pair
from tests.doors.portal.test_forwarded_tasks import B_KEY, delegate, heard, task_in, well
from tests.doors.portal.test_messages import send
from tests.doors.portal.test_reports import messages_of
from tests.waiting import eventually, until

LIMITS = {"message_ttl": 3600.0, "max_attempts": 2}
TTL = 7200.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "_MISHAP_SECONDS", 0.05)


def later(own: Own, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the clock of a portal."""
    core = own.relay.app.relay.core
    clock = core.clock
    monkeypatch.setattr(core, "clock", lambda: clock() + seconds)


async def leave_all_kinds(a: Own, b: Own, ours: OldBridge, theirs: OldBridge) -> tuple[dict[str, str], list[str], int]:
    """Have all kinds of deliveries wait at ``b`` for a contact that is paused there.

    Return the ids of tasks at ``a`` by their texts, those of an agent at ``b``, and a number of its owner.
    """
    ids = {text: await delegate(a, "B-bot@portal", text) for text in ("done", "half", "asked")}
    theres = {text: await heard(theirs, f": {text}\n") for text in ids}
    await well(b, "POST", "/register", {"agent_id": "bob", "name": "Bob"})
    ask = {"from_agent": "bob", "to_agent": "A-bot@portal", "task": "a question", "deadline": 7000}
    own = (await well(b, "POST", "/delegate", ask))["message_id"]
    there = await heard(ours, "a question")
    await a.well("POST", f"/api/portal/tasks/{there}", {"status": "input_required", "result": "which?"})

    async def asked() -> bool:
        return bool((await well(b, "GET", f"/tasks/{own}?agent_id=bob"))["status"] == "input_required")

    await eventually(asked)
    await b.well("POST", "/api/portal/contacts/A-bot", {"paused": True})
    sent = {"from_agent": "bob", "to_agent": "A-bot@portal", "content": "hello"}
    messages = [(await well(b, "POST", "/send", sent))["message_id"]]
    for text, report in (
        ("done", {"result": "a hundred"}),
        ("half", {"status": "in_progress", "progress": 50, "note": "half of it"}),
        ("asked", {"status": "input_required", "result": "which sheep?"}),
    ):
        await b.well("POST", f"/api/portal/tasks/{theres[text]}", report)
    await well(b, "POST", f"/tasks/{own}/answer", {"from_agent": "bob", "content": "that one"})
    messages.append((await well(b, "POST", "/send", sent | {"content": "hello again"}))["message_id"])
    return ids, messages, await send(b, "A-bot", "of the owner")


async def test_all_kinds_wait_longer_than_messages_within_the_relay(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals, limits=LIMITS, portal_ttl=TTL)
    ours, theirs = await bridges(a), await bridges(b, key=B_KEY)
    ids, messages, number = await leave_all_kinds(a, b, ours, theirs)
    later(b, 3700, monkeypatch)
    for _ in range(2):
        await b.relay.app.relay.janitor.sweep()
    for id in messages:
        assert (await well(b, "GET", f"/messages/{id}?agent_id=bob"))["expired_at"] is None
    await b.well("POST", "/api/portal/contacts/A-bot", {"paused": False})
    assert (await task_in(a, ids["done"], "completed"))["result"] == "a hundred"
    # An open task has the time to live of one within the relay from its last report, and that is over at its end.
    half, asked = [await task_in(a, ids[text], "failed") for text in ("half", "asked")]
    assert half["result"] == "the task ended there as expired: no agent finished it in time"
    assert (50, "half of it") in [(event["progress"], event["note"]) for event in half["history"]]
    assert "which sheep?" in [event["content"] for event in asked["history"]]
    await until(lambda: any("that one" in text for text in ours.texts))
    await b.state(number, "sent", "acknowledged")
    for text in ("Bob: hello", "Bob: hello again", "of the owner"):
        await until(partial(_once, ours, f"{text}$"))


async def test_the_sender_of_each_kind_hears_that_its_time_was_over(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    for swept in (True, False):
        a, b = await pair(portals, limits=LIMITS, portal_ttl=TTL)
        ours, theirs = await bridges(a), await bridges(b, key=B_KEY)
        _, messages, number = await leave_all_kinds(a, b, ours, theirs)
        relay = b.relay.app.relay
        if not swept:  # what reads the mailbox finds them before the janitor does
            monkeypatch.setattr(relay.janitor, "sweep", partial(asyncio.sleep, 0))
        later(b, 7300, monkeypatch)
        if not swept:
            await b.well("POST", "/api/portal/contacts/A-bot", {"paused": False})
        over = "to (A-bot@portal|127.0.0.1:[0-9]+) was not sent: it was not sent within its time to live$"
        for subject in (
            *(f"Message {id}" for id in messages),
            *(
                rf"Your report on task [0-9a-f]+ \({status}\)"
                for status in ("completed", "in_progress", "input_required")
            ),
            "Your answer about task [0-9a-f]+",
            rf"Message {number}",
        ):
            end = (
                "to .* is expired: it was not sent within its time to live$" if subject.endswith(f" {number}") else over
            )
            await until(partial(_once, theirs, f"{subject} {end}"))
        told = [one["content"] for one in await messages_of(b, "bob") if one["type"] == "message"]
        for subject in (*(f"Message {id}" for id in messages), "Your answer about task"):
            assert [text.startswith(subject) for text in told].count(True) == 1, told
        for id in messages:
            state = await well(b, "GET", f"/messages/{id}?agent_id=bob")
            assert (state["state"], state["acked_at"]) == ("expired", None)
        assert (await b.state(number, "expired"))["sent_at"] is None


def _once(bridge: OldBridge, pattern: str) -> bool:
    return sum(re.search(pattern, text) is not None for text in bridge.texts) == 1


async def test_nothing_is_said_to_have_ended_while_it_is_being_posted(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals, portal_ttl=30.0)
    theirs = await bridges(b, key=B_KEY)
    await a.well("POST", "/api/portal/delegate", {"to": "B-bot", "task": "count the sheep"})
    there = await heard(theirs, "count the sheep")
    await well(b, "POST", "/register", {"agent_id": "bob", "name": "Bob"})
    posting, go = asyncio.Semaphore(0), asyncio.Semaphore(0)

    def late(post: Any) -> Any:
        async def wait(*args: Any) -> Any:
            posting.release()
            await go.acquire()
            return await post(*args)

        return wait

    async def lapse() -> None:
        await posting.acquire()
        later(b, 95.0, monkeypatch)
        await b.relay.app.relay.janitor.sweep()
        go.release()

    for name in ("post", "tell"):
        monkeypatch.setattr(Poster, name, late(getattr(Poster, name)))
    id = (await well(b, "POST", "/send", {"from_agent": "bob", "to_agent": "A-bot@portal", "content": "hello"}))[
        "message_id"
    ]
    await lapse()

    async def acked() -> bool:
        return bool((await well(b, "GET", f"/messages/{id}?agent_id=bob"))["state"] == "acked")

    await eventually(acked)
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": "a hundred"})
    await lapse()

    async def ended() -> bool:
        return bool((await a.well("GET", "/api/portal/tasks"))["tasks"][0]["final"])

    await eventually(ended)
    assert [text for text in theirs.texts if "time to live" in text] == []
    assert await messages_of(b, "bob") == []


async def test_an_answer_waits_for_the_owners_agent_as_long_as_messages_do(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals, limits=LIMITS)
    theirs = await bridges(b, key=B_KEY)
    await a.well("POST", "/api/portal/delegate", {"to": "B-bot", "task": "count the sheep"})
    there = await heard(theirs, "count the sheep")
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": "a hundred"})

    async def ended() -> bool:
        return bool((await a.well("GET", "/api/portal/tasks"))["tasks"][0]["final"])

    await eventually(ended)
    later(a, 2 * LIMITS["message_ttl"], monkeypatch)
    await a.relay.app.relay.janitor.sweep()
    ours = await bridges(a)
    await until(partial(_once, ours, "is completed: a hundred"))


async def test_a_task_whose_time_is_over_here_is_cancelled_there(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals, portal_ttl=TTL)
    theirs = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count the sheep")
    there = await heard(theirs, "count the sheep")
    later(a, TTL + 100, monkeypatch)
    await task_in(a, id, "expired")
    await until(partial(_once, theirs, f"Task {there} is cancelled: no agent finished it in time"))


async def test_several_who_tell_the_same_at_once_tell_it_once(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = await portals()
    store = portal.relay.app.relay.core.store
    get = store.get

    async def late(kind: Any, id: str) -> Any:
        found = await get(kind, id)
        await asyncio.sleep(0)
        return found

    monkeypatch.setattr(store, "get", late)
    bridge = await bridges(portal)
    door: Any = portal.relay.app.doors["portal"]
    await well(portal, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    told = [door.active.repository.tell_sender("cause", "it did not arrive", "ann") for _ in range(5)]
    assert await asyncio.gather(*told) == [None] * 5
    await until(partial(_once, bridge, "it did not arrive$"))
    assert [one["content"] for one in await messages_of(portal, "ann")] == ["it did not arrive"]


async def test_a_message_whose_answers_were_lost_ends_in_doubt_once_its_time_is_over(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals, portal_ttl=30.0)
    ours = await bridges(a)
    await a.state(await send(a, "B-bot", "known"), "sent")
    post = Poster.post

    async def lose(*args: Any) -> Posted:
        return (await post(*args))._replace(outcome=Outcome.LOST, detail="the connection was cut")

    monkeypatch.setattr(Poster, "post", lose)
    number = await send(a, "B-bot", "hello")
    assert (await a.state(number, "sending"))["detail"] == "the connection was cut"
    later(a, 95.0, monkeypatch)
    told = await a.state(number, "unknown")
    assert "may have it; its time to live is over" in told["detail"]
    await until(partial(_once, ours, f"Message {number} to .* is unknown: an answer was lost"))
    there = (await b.well("GET", "/api/messages/history", params={"contact_portal": a.url}))["messages"]
    assert [one["content"] for one in there] == ["hello", "known"]
