"""Requests that clients of ClawLink 1.0.x send beside those of their page work as before, with and without a token.

The clients are those of ``tests/legacy.py``, made of ``requests`` calls; they fail on every status but success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.conftest import Running, Serve
from tests.legacy import Old
from tests.server.asks import ok, refused, with_key
from tests.waiting import soon

pytestmark = pytest.mark.parametrize("store_kind", ["memory"])

TOKEN = "s3cret"


class Pair:
    """Two old agents at one relay, and the calls of their blocking client in threads."""

    def __init__(self, relay: Running, token: str | None) -> None:
        self.relay = relay
        self.token = token
        self.a, self.b = self.old("a"), self.old("b")

    def old(self, agent_id: str) -> Old:
        return Old(self.relay.url, self.token, agent_id)

    async def do(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(call, *args, **kwargs)

    async def poll(self, agent_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.do(self.old(agent_id).poll)
        return found

    async def task(self, message_id: str) -> Any:
        return await self.do(self.a.get, f"/tasks/{message_id}?agent_id=a")


@pytest.fixture(params=[None, TOKEN], ids=["open", "token"])
async def pair(request: pytest.FixtureRequest, serve: Serve) -> Pair:
    pair = Pair(await serve(token=request.param), request.param)
    for old in (pair.a, pair.b):
        await pair.do(old.register, old.agent_id.upper())
    return pair


# -- responses -------------------------------------------------------------------------------------------------------


async def test_an_invented_id_or_none_answers_the_only_open_task_of_the_requester(pair: Pair) -> None:
    for named in ("made-up", None, ""):
        sent = await pair.do(pair.a.delegate, "b", f"task {named}")
        other = await pair.do(pair.old("c").register, "C") and await pair.do(pair.old("c").delegate, "b", "of another")
        await pair.poll("b")
        reply = await pair.do(pair.b.respond, "a", named, "42")
        assert (reply["message_id"], reply["task_status"]) == (sent["message_id"], "completed"), named
        (told,) = await pair.poll("a")
        assert (told["message_id"], told["result"], told["status"]) == (sent["message_id"], "42", "completed"), named
        assert "passed_on" not in told
        assert (await pair.task(sent["message_id"]))["result"] == "42"
        await pair.do(pair.b.respond, "c", other["message_id"], "done with it")


async def test_where_no_task_or_several_may_be_meant_the_response_is_passed_on(pair: Pair) -> None:
    told = (await pair.do(pair.b.respond, "a", "made-up", {"r": 1}, "fine"), await pair.poll("a"))
    reply, (message,) = told
    assert (reply["status"], reply["task_status"], reply["message_id"]) == ("response_sent", None, "made-up")
    expected = {
        "type": "task_response",
        "message_id": "made-up",
        "from_agent": "b",
        "to_agent": "a",
        "result": {"r": 1},
    }
    assert {name: message[name] for name in expected} == expected
    assert (message["status"], message["passed_on"], message["response_id"]) == ("fine", True, reply["response_id"])

    # Of a task that was not fetched nothing can be said, and of two it is not known which is meant.
    ids = [(await pair.do(pair.a.delegate, "b", "one"))["message_id"]]
    assert (await pair.do(pair.b.respond, "a", None, "early"))["task_status"] is None
    ids.append((await pair.do(pair.a.delegate, "b", "two"))["message_id"])
    await pair.poll("b")
    assert (await pair.do(pair.b.respond, "a", None, "either"))["task_status"] is None
    passed = await pair.poll("a")
    assert [(m["result"], m["passed_on"]) for m in passed] == [("early", True), ("either", True)]
    assert not {m["message_id"] for m in passed} & set(ids)
    assert [(await pair.task(id))["status"] for id in ids] == ["delivered", "delivered"]


async def test_an_answer_to_a_broadcast_or_a_message_is_passed_on_beside_an_open_task(pair: Pair) -> None:
    task = (await pair.do(pair.a.delegate, "b", "work"))["message_id"]
    told = (await pair.do(pair.a.broadcast, "who is there?"))["message_id"]
    said = (await pair.do(pair.a.post, "/send", {"from_agent": "a", "to_agent": "b", "content": "hi"}))["message_id"]
    await pair.poll("b")
    for id in (told, said):
        assert (await pair.do(pair.b.respond, "a", id, "me"))["task_status"] is None
        (message,) = await pair.poll("a")
        assert (message["message_id"], message["result"], message["passed_on"]) == (id, "me", True)
    assert (await pair.task(task))["status"] == "delivered"
    status = await pair.do(pair.a.get, f"/messages/{said}?agent_id=a")
    assert status["answered_at"] is not None


async def test_a_key_makes_a_free_response_repeatable(pair: Pair) -> None:
    headers = pair.a.headers

    async def respond(result: str, key: str) -> tuple[int, Any]:
        ask = {"from_agent": "b", "to_agent": "a", "result": result, "idempotency_key": key}
        return await pair.relay.post("/respond", ask, headers=headers)

    passed = [await ok(respond("r", "k1")) for _ in range(2)]
    assert passed[0]["response_id"] == passed[1]["response_id"]
    await refused(respond("other", "k1"), 409, "key_reused")
    task = (await pair.do(pair.a.delegate, "b", "work"))["message_id"]
    await pair.poll("b")
    answered = [await ok(respond("done", "k2")) for _ in range(2)]
    assert [(r["message_id"], r["task_status"]) for r in answered] == [(task, "completed")] * 2
    assert answered[0]["response_id"] == answered[1]["response_id"]
    assert [m["result"] for m in await pair.poll("a")] == ["r", "done"]


async def test_only_agents_without_a_key_and_without_a_receipt_answer_freely(pair: Pair) -> None:
    relay, headers = pair.relay, pair.a.headers
    key = (await ok(relay.post("/register", {"agent_id": "c", "claim": True}, headers=headers)))["agent_key"]
    ask = {"from_agent": "c", "to_agent": "a", "message_id": "made-up", "result": 1}
    mine = {**headers, **with_key(key)}
    await refused(relay.post("/respond", ask, headers=mine), 404, "unknown_task")
    nameless = {name: value for name, value in ask.items() if name != "message_id"}
    assert (await refused(relay.post("/respond", nameless, headers=mine), 400, "bad_request"))["field"] == "message_id"
    for more in ({"receipt": "0-0"}, {"to_agent": None}):
        await refused(relay.post("/respond", {**ask, "from_agent": "b", **more}, headers=headers), 404, "unknown_task")
    await refused(
        relay.post("/respond", {**ask, "from_agent": "b", "to_agent": "x"}, headers=headers), 404, "unknown_agent"
    )
    # A task that is known is never answered by another agent, whatever that one claims.
    task = (await pair.do(pair.a.delegate, "c", "for c alone"))["message_id"]
    await refused(
        relay.post("/respond", {**ask, "from_agent": "b", "message_id": task}, headers=headers), 403, "not_allowed"
    )
    assert await pair.poll("a") == []


async def test_status_in_free_words_ends_the_task_or_is_passed_on_as_a_report(pair: Pair) -> None:
    completed = ("done", "OK", "success", "succeeded", "finished", "finish", "complete", "Completed")
    failed = ("error", "failure", " Fail ", "FAILED")
    for word in (*completed, *failed):
        task = (await pair.do(pair.a.delegate, "b", word))["message_id"]
        await pair.poll("b")
        state = "completed" if word in completed else "failed"
        assert (await pair.do(pair.b.respond, "a", task, "r", word))["task_status"] == state, word
        (told,) = await pair.poll("a")
        assert (told["message_id"], told["status"]) == (task, state), word
    task = (await pair.do(pair.a.delegate, "b", "long"))["message_id"]
    await pair.poll("b")
    for word in ("working", "almost there"):
        assert (await pair.do(pair.b.respond, "a", task, None, word))["task_status"] == "in_progress", word
        (told,) = await pair.poll("a")
        assert (told["message_id"], told["status"]) == (task, word)
    assert [e["note"] for e in (await pair.task(task))["history"]][-2:] == ["working", "almost there"]
    assert (await pair.do(pair.b.respond, "a", task, "r", "done"))["task_status"] == "completed"


async def test_free_words_of_status_are_refused_with_a_key_or_a_receipt(pair: Pair) -> None:
    relay, headers = pair.relay, pair.a.headers
    key = (await ok(relay.post("/register", {"agent_id": "c", "claim": True}, headers=headers)))["agent_key"]
    for agent_id, more, given in (("c", {}, {**headers, **with_key(key)}), ("b", {"receipt": "0-0"}, headers)):
        task = (await pair.do(pair.a.delegate, agent_id, "t"))["message_id"]
        ask = {"from_agent": agent_id, "message_id": task, "result": 1, "status": "done", **more}
        body = await refused(relay.post("/respond", ask, headers=given), 400, "bad_request")
        assert body["field"] == "status"
        assert "in_progress" in body["error"]


# -- after a restart ------------------------------------------------------------------------------------------


async def test_an_agent_that_a_restarted_relay_does_not_know_is_registered_by_the_way(pair: Pair) -> None:
    def calls(old: Old) -> list[tuple[str, Callable[[], Any]]]:
        return [
            ("poll", lambda: old.get(f"/poll/{old.agent_id}")),
            ("delegate", lambda: old.delegate("b", "t")),
            ("broadcast", lambda: old.broadcast("c")),
            ("file put", lambda: old.put_file("k", "c")),
            ("respond", lambda: old.respond("b", "before", "r")),
        ]

    for at, (what, _) in enumerate(calls(pair.a)):
        old = pair.old(f"old-{at}")
        again = calls(old)[at][1]
        assert (await pair.do(again))["registered_by_the_way"] is True, what
        assert "registered_by_the_way" not in await pair.do(again), what
        (agent,) = (await pair.do(old.get, f"/discover?name={old.agent_id}"))["agents"]
        assert (agent["agent_id"], agent["claimed"]) == (old.agent_id, False), what
    assert [m["type"] for m in await pair.poll("b") if m["type"] != "agent_joined"].count("task_delegation") == 2


async def test_who_is_not_registered_by_the_way(pair: Pair) -> None:
    relay, headers = pair.relay, pair.a.headers
    await ok(relay.post("/register", {"agent_id": "held", "name": "Held Name", "claim": True}, headers=headers))
    await ok(relay.post("/register", {"agent_id": "c", "name": "shared"}, headers=headers))
    cases: dict[str, Any] = {
        "a lease": relay.get("/poll/new?lease=60", headers=headers),
        "an agent key": relay.get("/poll/new", headers={**headers, **with_key("k")}),
        "an idempotency key": relay.post(
            "/delegate",
            {"from_agent": "new", "to_agent": "b", "task": "t", "idempotency_key": "k"},
            headers=headers,
        ),
        "a route that is newer": relay.post(
            "/send", {"from_agent": "new", "to_agent": "b", "content": "c"}, headers=headers
        ),
        "the name of a claimed agent": relay.get("/poll/held%20name", headers=headers),
        "the name of another agent": relay.get("/poll/SHARED", headers=headers),
        "no id": relay.get("/poll/two%20words", headers=headers),
        "a recipient": relay.post("/delegate", {"from_agent": "a", "to_agent": "new", "task": "t"}, headers=headers),
    }
    for what, asked in cases.items():
        status, body = await asked
        assert (status, body["code"]) == (404, "unknown_agent"), (what, body)
    await refused(relay.get("/poll/held", headers=headers), 403, "not_allowed")
    found = (await ok(relay.get("/discover?status=all", headers=headers)))["agents"]
    assert {agent["agent_id"] for agent in found} == {"a", "b", "c", "held"}


async def test_an_agent_that_left_is_not_registered_by_the_way_until_it_registers(pair: Pair) -> None:
    relay, headers = pair.relay, pair.a.headers
    await ok(relay.ask("DELETE", "/agents/a", headers=headers))
    await refused(relay.get("/poll/a", headers=headers), 404, "unknown_agent")
    await refused(relay.get("/ws/a", headers={**headers, "Upgrade": "websocket"}), 404, "unknown_agent")
    await pair.do(pair.a.register, "A")
    assert await pair.poll("a") == []


async def test_nobody_is_registered_by_the_way_where_keys_are_required(serve: Serve) -> None:
    relay = await serve(require_agent_keys=True)
    await refused(relay.get("/poll/new"), 404, "unknown_agent")


async def test_a_websocket_of_an_unknown_agent_opens(pair: Pair) -> None:
    relay = pair.relay
    token = f"?token={pair.token}" if pair.token else ""
    async with relay.session.ws_connect(f"{relay.url}/ws/unregistered{token}") as ws:
        await pair.do(pair.a.delegate, "unregistered", "t")
        frame = await soon(ws.receive_json())
        while frame["type"] == "agent_joined":
            frame = await soon(ws.receive_json())
        assert (frame["type"], frame["task"]) == ("task_delegation", "t")
    lease = "&lease=60" if token else "?lease=60"
    with pytest.raises(Exception, match="404"):
        await relay.session.ws_connect(f"{relay.url}/ws/another{token}{lease}")


async def test_a_delegation_over_a_websocket_keeps_its_id_and_further_fields(pair: Pair) -> None:
    relay, token = pair.relay, f"?token={pair.token}" if pair.token else ""
    async with relay.session.ws_connect(f"{relay.url}/ws/a{token}") as ws:
        fields = {"type": "delegate", "to_agent": "b", "task": "t", "message_id": "job-1", "project": {"x": 1}}
        await ws.send_json({**fields, "from_name": "forged", "timestamp": "never", "type ": 1})
        await ws.send_json({"type": "ping", "id": 1})
        assert (await soon(ws.receive_json()))["id"] == 1
        (task,) = await pair.poll("b")
        assert (task["message_id"], task["project"], task["type "]) == ("job-1", {"x": 1}, 1)
        assert (task["from_name"], task["timestamp"] != "never") == ("A", True)
        assert (await pair.do(pair.b.respond, "a", "job-1", "r"))["task_status"] == "completed"
        assert (await soon(ws.receive_json()))["message_id"] == "job-1"
        # Neither an id that is taken, nor one that the relay itself may make.
        for taken in ("job-1", "0123456789abcdef01234567", "a:b", "x" * 129, "", "two words", ".", 7, None):
            await ws.send_json({**fields, "id": 2, "message_id": taken})
            reply = await soon(ws.receive_json())
            assert (reply["type"], reply["reply"]["message_id"] != taken) == ("reply", True), taken
            (task,) = await pair.poll("b")
            assert (task["message_id"], task["project"]) == (reply["reply"]["message_id"], {"x": 1}), taken
        # For an agent with a key, and over HTTP, the relay makes every id.
        posted = await pair.do(pair.a.delegate, "b", "t", message_id="job-2", project=1)
        (task,) = await pair.poll("b")
        assert (task["message_id"], "project" in task) == (posted["message_id"], False)
    key = (await ok(relay.post("/register", {"agent_id": "c", "claim": True}, headers=pair.a.headers)))["agent_key"]
    async with relay.session.ws_connect(f"{relay.url}/ws/c{token}", headers=with_key(key)) as ws:
        await ws.send_json({**fields, "id": 1, "message_id": "job-3"})
        assert (await soon(ws.receive_json()))["reply"]["message_id"] != "job-3"


# -- the rest ----------------------------------------------------------------------------------------------------


async def test_a_second_register_of_a_name_with_another_id_is_taken(pair: Pair) -> None:
    first, second = (Old(pair.relay.url, pair.token) for _ in range(2))
    for old in (first, second):
        await pair.do(old.register, "Worker")
    await pair.do(pair.a.delegate, second.agent_id, "t")
    headers = pair.a.headers
    ask = {"from_agent": "a", "to_agent": "worker", "task": "t"}
    body = await refused(pair.relay.post("/delegate", ask, headers=headers), 409, "ambiguous_name")
    assert sorted(body["current"]) == sorted([first.agent_id, second.agent_id])


async def test_a_hundred_delegations_in_a_loop_are_taken(pair: Pair) -> None:
    def loop() -> None:
        for n in range(100):
            pair.a.delegate("b", str(n))

    await pair.do(loop)
    assert [m["task"] for m in await pair.poll("b")] == [str(n) for n in range(100)]


async def test_values_are_carried_as_they_are(pair: Pair) -> None:
    for context in ([1, {"x": None}], "text", {"a": 1}, []):
        await pair.do(pair.a.delegate, "b", {"do": "this"}, context=context)
        (task,) = await pair.poll("b")
        assert (task["task"], task["context"]) == ({"do": "this"}, context), context
    for given, meant in {"critical": "urgent", "highest": "urgent", "medium": "normal", "low": "low"}.items():
        await pair.do(pair.a.delegate, "b", "t", priority=given)
        assert [m["priority"] for m in await pair.poll("b")] == [meant], given
    for content, tags in (({"learned": 1}, "x"), ("text", ["x", "y"])):
        await pair.do(pair.a.broadcast, content, tags=tags)
        (told,) = await pair.poll("b")
        assert (told["content"], told["tags"]) == (content, tags)
        assert (await pair.do(pair.a.get, "/broadcasts?tag=x&limit=1"))["broadcasts"][0]["content"] == content
    for call in (lambda: pair.a.delegate("b", ""), lambda: pair.a.broadcast("")):
        with pytest.raises(requests.HTTPError, match="400"):
            await pair.do(call)
