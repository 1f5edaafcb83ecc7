"""Tasks across portals: between two of ours with progress, answer and cancel; to an old portal as a text."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clawlink.cli.main import main
from clawlink.domain.agent import Agent
from clawlink.doors.portal.records import FORWARDED, ForwardedTask, mailbox_of
from clawlink.doors.portal.server import outbox
from clawlink.store.base import Failed, Put
from tests.doors.portal.conftest import Bridges, Own, Peers, Portals
from tests.doors.portal.test_files import pair
from tests.ports import free_port
from tests.waiting import eventually, until

B_KEY = "ap2p_the-key-of-another-owner-000000000000000000"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


async def well(own: Own, method: str, path: str, body: Any = None) -> Any:
    """Ask the relay itself, with its token."""
    status, answer = await own.relay.ask(method, path, json=body, headers={"Authorization": "Bearer t"})
    assert status == 200, (path, answer)
    return answer


async def delegate(own: Own, to: str, task: Any) -> str:
    await well(own, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    told = await well(own, "POST", "/delegate", {"from_agent": "ann", "to_agent": to, "task": task})
    return str(told["message_id"])


async def task_in(own: Own, id: str, *states: str) -> Any:
    """Wait until a task is in one of these states at the relay of its requester."""

    async def ask() -> Any:
        told = await well(own, "GET", f"/tasks/{id}?agent_id=ann")
        return told if told["status"] in states else None

    return await eventually(ask)


async def heard(bridge: Any, text: str) -> str:
    """Wait until the owner's agent hears of a task with this text, and return the task's id there."""
    await until(lambda: any(text in told for told in bridge.texts))
    (told,) = [told for told in bridge.texts if text in told]
    return str(told.partition("Task ")[2].partition(":")[0])


async def test_a_task_goes_over_with_progress_a_question_and_its_answer(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count the sheep")
    there = await heard(bridge, "count the sheep")
    assert "clawlink portal answer" in bridge.texts[-1]
    path = f"/api/portal/tasks/{there}"
    await b.well("POST", path, {"status": "in_progress", "progress": 40, "note": "forty so far"})
    told = await task_in(a, id, "in_progress")
    assert (told["progress"], told["note"]) == (40, "forty so far")
    await b.well("POST", path, {"status": "input_required", "result": "the black ones, too?"})
    await task_in(a, id, "input_required")
    await well(a, "POST", f"/tasks/{id}/answer", {"from_agent": "ann", "content": "all of them"})
    await until(lambda: any("all of them" in text for text in bridge.texts))
    for _ in range(2):
        await b.well("POST", path, {"result": "a hundred", "idempotency_key": "k"})
    done = await task_in(a, id, "completed")
    assert done["result"] == "a hundred"
    status, answer = await b.ask("POST", path, {"result": "two hundred"})
    assert status == 409, answer
    assert (await b.ask("POST", "/api/portal/tasks/none", {"result": "x"}))[0] == 404


async def test_the_sender_hears_of_the_answer_as_of_that_to_a_local_task(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    await well(b, "POST", "/register", {"agent_id": "here", "name": "Here"})
    id = await delegate(a, "B-bot@portal", "count the sheep")
    there = await heard(bridge, "count the sheep")
    waiting = asyncio.create_task(well(a, "GET", f"/tasks/{id}?agent_id=ann&wait=60"))
    polling = asyncio.create_task(well(a, "GET", "/poll/ann?wait=60"))
    await b.well("POST", f"/api/portal/tasks/{there}", {"result": "a hundred"})
    told, polled = await waiting, await polling
    assert (told["status"], told["result"]) == ("completed", "a hundred")
    (message,) = polled["messages"]
    assert (message["type"], message["message_id"], message["result"]) == ("task_response", id, "a hundred")


async def test_the_owners_agent_gives_a_task_and_hears_of_all_that_becomes_of_it(
    portals: Portals, bridges: Bridges
) -> None:
    a, b = await pair(portals)
    ours, theirs = await bridges(a), await bridges(b, key=B_KEY)
    agent = (await a.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    ask = {"to": "B-bot", "task": "count the sheep", "idempotency_key": "k"}
    id = (await a.well("POST", "/api/portal/delegate", ask, key=agent))["task_id"]
    assert (await a.well("POST", "/api/portal/delegate", ask))["task_id"] == id
    there = await heard(theirs, "count the sheep")
    path = f"/api/portal/tasks/{there}"
    await b.well("POST", path, {"status": "in_progress", "progress": 40, "note": "forty so far"})
    await until(lambda: any(f"Your task {id} is in_progress, 40 % (forty so far)" in text for text in ours.texts))
    await b.well("POST", path, {"status": "input_required", "result": "the black ones, too?"})
    await until(lambda: any("the black ones, too?" in text for text in ours.texts))
    assert f"clawlink portal answer {id}" in ours.texts[-1]
    (listed,) = (await a.well("GET", "/api/portal/tasks"))["tasks"]
    assert (listed["question"], listed["final"], listed["name"]) == ("the black ones, too?", False, "B-bot")
    await a.well("POST", f"/api/portal/tasks/{id}", {"result": "all of them"}, key=agent)
    await until(lambda: any("all of them" in text for text in theirs.texts))
    await b.well("POST", path, {"result": "a hundred"})
    await until(lambda: any(f"Your task {id} is completed: a hundred" in text for text in ours.texts))
    for own, type, task_id, url in ((a, "sent", id, b.url), (b, "received", there, a.url)):
        (listed,) = (await own.well("GET", "/api/portal/tasks", params={"task": task_id[:4]}))["tasks"]
        found = (listed["task_id"], listed["type"], listed["portal_url"], listed["status"], listed["result"])
        assert found == (task_id, type, url, "completed", "a hundred")
    dense: list[Any] = [[] for _ in range(20_000)]
    cancelled = (await a.well("POST", "/api/portal/delegate", {"to": b.url, "task": dense}))["task_id"]
    there = (await eventually(lambda: tasks_of(b, 2)))[0]["task_id"]
    await a.well("POST", f"/api/portal/tasks/{cancelled}/cancel", {"note": "never mind"})
    await until(lambda: any(f"Task {there} is cancelled: never mind" in text for text in theirs.texts))
    newest, oldest = (await a.well("GET", "/api/portal/tasks"))["tasks"]
    assert (newest["task"], newest["status"], oldest["task_id"]) == (dense, "cancelled", id)
    assert (await a.well("GET", "/api/portal/tasks", params={"contact": "B-bot", "limit": "1"}))["tasks"] == [newest]
    for ask, status in (({"to": "nobody", "task": "x"}, 404), ({"to": "B-bot", "task": ""}, 422)):
        assert (await a.ask("POST", "/api/portal/delegate", ask))[0] == status, ask
    assert (await a.ask("POST", "/api/portal/tasks/none/cancel", {}))[0] == 404
    assert (await b.ask("POST", f"/api/portal/tasks/{there}/cancel", {}))[0] == 403, "it is the task of the contact"


async def tasks_of(own: Own, count: int) -> Any:
    """Return the tasks that crossed a portal, once they are this many."""
    found = (await own.well("GET", "/api/portal/tasks"))["tasks"]
    return found if len(found) == count else None


async def test_a_task_of_which_one_of_two_commits_is_lost_comes_once(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    core = b.relay.app.relay.core
    commit = core.commit
    lost: list[str] = []

    async def losing(key: str, *changes: Any, **more: Any) -> None:
        if not lost and any(isinstance(change.record, ForwardedTask) for change in changes if isinstance(change, Put)):
            lost.append(key)
            raise Failed("the disk went away")
        await commit(key, *changes, **more)

    monkeypatch.setattr(core, "commit", losing)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count the sheep")
    (there,) = await eventually(lambda: tasks_of(b, 1))
    assert lost
    assert await heard(bridge, "count the sheep") == there["task_id"]
    await b.well("POST", f"/api/portal/tasks/{there['task_id']}", {"result": "a hundred"})
    assert (await task_in(a, id, "completed"))["result"] == "a hundred"


async def test_a_cancelled_task_ends_on_both_sides(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", {"do": "wait"})
    there = await heard(bridge, '{"do": "wait"}')
    await well(a, "POST", f"/tasks/{id}/cancel", {"from_agent": "ann", "note": "never mind"})
    await until(lambda: any(f"Task {there} is cancelled" in text for text in bridge.texts))
    assert (await b.ask("POST", f"/api/portal/tasks/{there}", {"result": "late"}))[0] == 409


async def test_a_large_task_ends_no_old_bridge(portals: Portals, bridges: Bridges) -> None:
    """JSON within JSON takes four bytes for a quotation mark."""
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", {"sheep": '"' * 300_000})
    await until(lambda: any(text.endswith("whole text: clawlink portal tasks]") for text in bridge.texts))
    assert not bridge.closed
    (task,) = (await b.well("GET", "/api/portal/tasks"))["tasks"]
    assert f"Task {task['task_id']}: " in bridge.texts[-1]
    assert task["task"] == {"sheep": '"' * 300_000}
    await task_in(a, id, "delivered")


async def test_a_cancellation_with_a_long_note_arrives(portals: Portals, bridges: Bridges) -> None:
    """A note has 1,000 characters at a relay, and 500 between portals."""
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count the sheep")
    there = await heard(bridge, "count the sheep")
    await well(a, "POST", f"/tasks/{id}/cancel", {"from_agent": "ann", "note": "x" * 1000})
    await until(lambda: any(f"Task {there} is cancelled: {'x' * 500}" in text for text in bridge.texts))


async def test_a_deadline_is_in_the_range_of_a_relay(portals: Portals) -> None:
    a, b = await pair(portals)
    news = {"api_key": (await a.contact(b.url))["SHARED_KEY"], "from_portal": a.url, "kind": "task", "content": "x"}
    for own, path, body in (
        (a, "/api/portal/delegate", {"to": b.url, "task": "x"}),
        (b, "/api/portal/tasks", news | {"task_id": "1"}),
    ):
        for deadline in (1e300, 2_592_001, 0):
            status, answer = await own.ask("POST", path, {**body, "deadline": deadline})
            assert (status, answer["detail"][0]["loc"][1]) == (422, "deadline"), (path, answer)
        assert (await own.ask("POST", path, {**body, "deadline": 2_592_000}))[0] == 200, path


async def test_what_no_portal_takes_is_answered_and_no_message_is_lost(portals: Portals, old_portals: Peers) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url, agent_name="bob"), portal.url
    id = await delegate(portal, "bob@portal", "count the sheep")
    told = await task_in(portal, id, "rejected")
    assert "knows no tasks; the text goes there as message 1" in told["result"]
    await until(lambda: [one["content"] for one in peer.stored] == ["count the sheep"])
    await well(portal, "POST", "/send", {"from_agent": "ann", "to_agent": "bob@portal", "content": "hello"})
    await until(lambda: [one["content"] for one in peer.stored] == ["count the sheep", "Ann: hello"])
    waits = await delegate(portal, "bob@portal", "too late")
    await task_in(portal, waits, "rejected")
    await portal.well("POST", "/api/portal/contacts/bob", {"blocked": True})
    blocked = await delegate(portal, "bob@portal", "nothing")
    assert "is blocked" in (await task_in(portal, blocked, "rejected"))["result"]
    body = {"from_agent": "ann", "to_agent": "nobody@portal", "task": "x"}
    status, answer = await portal.relay.ask("POST", "/delegate", json=body, headers={"Authorization": "Bearer t"})
    assert (status, answer["code"]) == (404, "unknown_agent")


async def test_a_contact_moves_no_task_but_its_own(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count the sheep")
    there = await heard(bridge, "count the sheep")
    thief = await b.befriend("https://c.example")
    wrong = {"api_key": thief, "from_portal": "https://c.example", "task_id": id}
    for fields, status in (
        ({"kind": "cancel"}, 404),
        ({"kind": "answer", "content": "x", "key": "k"}, 404),
        ({"kind": "response", "task_id": there, "content": "x"}, 403),
        ({"kind": "response", "task_id": "none", "content": "x"}, 404),
        ({"kind": "task", "content": ""}, 400),
        ({"kind": "task", "content": "x", "deadline": -1}, 422),
        ({"kind": "other"}, 404),
    ):
        got, answer = await b.ask("POST", "/api/portal/tasks", {**wrong, **fields}, key="")
        assert got == status, (fields, answer)
    assert (await task_in(a, id, "delivered", "queued"))["status"]
    contact = (await b.contact(a.url))["id"]
    await b.well("DELETE", f"/api/portal/contacts/{contact}")
    store = b.relay.app.relay.core.store
    assert (await store.usage(ForwardedTask, FORWARDED)).count == 0
    assert await store.get(Agent, mailbox_of(a.url)) is None, "no agent stands for a contact that was forgotten"
    await b.contact("https://c.example")


async def test_nothing_counts_as_there_while_the_other_portal_is_away(
    portals: Portals, clawlink_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = await pair(portals)
    relay = ("--relay", a.url, "--token", "t")

    async def told(*words: str) -> str:
        assert await asyncio.to_thread(main, [*words, *relay]) in (0, 6), capsys.readouterr()
        return str(capsys.readouterr().out)

    async def there(*words: str) -> str | None:
        found = (line.partition("there:") for line in (await told(*words)).splitlines())
        return next((text.strip() for before, name, text in found if name and not before.strip()), None)

    await told("register", "Cli")
    await told("send", "--to", "B-bot@portal", "hello")
    number = int((await eventually(lambda: listed_of(a)))[0]["id"])
    await a.state(number, "sent", "acknowledged")
    message = (await a.well("GET", f"/api/portal/messages/{number}"))["message_id"]

    async def arrived() -> str | None:
        line = await there("message", "status", message)
        return line if line is not None and "tries until" not in line else None

    assert 'the portal of "B-bot@portal" has it;' in await eventually(arrived)
    await a.befriend(f"http://127.0.0.1:{free_port()}", agent_name="C-bot")
    for words in (("send", "--to", "C-bot@portal", "on"), ("delegate", "--to", "C-bot@portal", "count")):
        id = json.loads(await told(*words, "--json"))["message_id"]
        line = str(await there("message", "status", id))
        assert 'the portal here has it, and tries until the portal of "C-bot@portal" has it, too' in line, words
    assert await there("task", "show", id) == line
    (row,) = [row for row in (await told("discover", "--all")).splitlines() if row.startswith("C-bot@portal")]
    assert "through the portal" in row
    assert "online" not in row


async def listed_of(own: Own) -> Any:
    url = (await own.well("GET", "/api/contacts"))["contacts"][0]["portal_url"]
    return (await own.well("GET", f"/api/messages/history?contact_portal={url}"))["messages"]


async def test_a_contact_is_shown_by_its_name_and_not_as_online(
    portals: Portals, clawlink_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = await pair(portals)
    ((id, url),) = ((one["id"], one["portal_url"]) for one in (await a.well("GET", "/api/contacts"))["contacts"])

    async def owner(task: str) -> Any:
        return (await well(a, "GET", f"/tasks/{task}?agent_id=ann"))["owner"]

    async def told(*words: str) -> str:
        words = (*words, "--relay", a.url, "--token", "t")
        assert await asyncio.to_thread(main, list(words)) in (0, 6), capsys.readouterr()
        return str(capsys.readouterr().out)

    await well(a, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    await told("register", "Cli")
    stand_in = mailbox_of(url)
    shown = f'"B-bot@portal" ({stand_in}), through the portal'
    assert f"Delegated to {shown}.\n" in await told("delegate", "--to", "B-bot@portal", "count the sheep")
    (listed,) = [one for one in (await well(a, "GET", "/discover?status=all"))["agents"] if one["agent_id"] == stand_in]
    assert (listed["name"], listed["through"]) == ("B-bot@portal", "portal")
    assert [one["through"] for one in (await well(a, "GET", "/discover?status=all"))["agents"] if "through" in one] == [
        "portal"
    ]
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "relay_agents", "arguments": {"include_offline": True}},
    }
    headers = {"Authorization": "Bearer t", "ClawLink-Agent": "ann"}
    _, answer = await a.relay.ask("POST", "/mcp", json=call, headers=headers)
    agents = json.loads(answer["result"]["content"][0]["text"])["agents"]
    assert [one["through"] for one in agents if "through" in one] == ["portal"], agents
    assert "B-bot@portal" in await told("tasks", "--role", "requester")

    async def first() -> str | None:
        return next((task["task_id"] for task in (await a.well("GET", "/api/portal/tasks"))["tasks"]), None)

    crossed = await eventually(first)
    for words in (("message", "status", crossed), ("task", "show", crossed)):

        async def holder(words: tuple[str, ...] = words) -> str | None:
            lines = (await told(*words)).splitlines()
            return next((line.strip() for line in lines if line.strip().startswith("there:")), None)

        told_there = f"no portal tells its name; with the owner key: clawlink portal tasks {crossed}"
        line = await eventually(holder)
        assert 'the agent of the owner of "B-bot@portal" has it, and' in line, words
        assert line.endswith(told_there), words
    await told("task", "cancel", crossed)
    assert "has it" not in await told("task", "show", crossed)
    task = await delegate(a, "B-bot@portal", "count the goats")
    assert ((await owner(task))["name"], (await owner(task))["through"]) == ("B-bot@portal", "portal")
    await a.well("POST", f"/api/portal/contacts/{id}", {"display_name": "Bob"})
    assert (await owner(task))["name"] == "Bob@portal"
    (listed,) = [one for one in (await well(a, "GET", "/discover?status=all"))["agents"] if one["agent_id"] == stand_in]
    assert listed["name"] == "Bob@portal"
    other = await delegate(a, "ann", "for an agent of this relay")
    assert "through" not in await owner(other)
    await a.well("DELETE", f"/api/contacts/{id}")
    assert a.relay.app.relay.agents.stand_ins.of(stand_in) is None
