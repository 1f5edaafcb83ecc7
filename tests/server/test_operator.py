"""Acts of a person go under the agent ``operator``, marked as a person's, through the agents' own use cases."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clawlink.domain.agent import OPERATOR
from clawlink.domain.dense_json import MAX_PARTS
from clawlink.domain.message import Message
from clawlink.protocol.paths import ENDPOINTS
from tests.conftest import Running, Serve
from tests.server.asks import ack, claim_one, delegate, ok, refused, respond, send, task_of, with_key
from tests.waiting import eventually

pytestmark = pytest.mark.both_stores

BOSS = {"Authorization": "Bearer boss"}


async def staffed(serve: Serve, **options: Any) -> Running:
    relay = await serve(admin_token="boss", **options)
    for name in ("a", "b"):
        await relay.register(name, agent_id=name, capabilities=["go"])
    return relay


async def act(relay: Running, path: str, **body: Any) -> Any:
    return await ok(relay.post("/admin/" + path, body, headers=BOSS))


async def inbox(relay: Running) -> list[Any]:
    messages: list[Any] = (await ok(relay.get("/admin/inbox", headers=BOSS)))["messages"]
    return messages


async def test_a_person_delegates_and_reads_the_answer(serve: Serve) -> None:
    relay = await staffed(serve)
    asked = {"to_agent": "b", "task": "sum", "idempotency_key": "k"}
    done, again = [await act(relay, "delegate", **asked) for _ in range(2)]
    assert done["message_id"] == again["message_id"]
    got = await claim_one(relay, "b")
    assert (got.message["from_agent"], got.message["from_name"], got.message["from_person"]) == (
        OPERATOR,
        OPERATOR,
        True,
    )
    await respond(relay, "b", done["message_id"], "42", note="by hand")
    (answer,) = await inbox(relay)
    assert (answer["type"], answer["from_agent"], answer["message"]["result"]) == ("task_response", "b", "42")
    assert answer["task_words"] == "sum"
    assert "from_person" not in answer["message"]
    view = await ok(relay.get(f"/admin/tasks/{done['message_id']}", headers=BOSS))
    assert (view["task"]["requester"], view["task"]["result"]) == (OPERATOR, "42")
    away = await act(relay, "inbox", message_ids=[answer["message_id"], "none"])
    assert away["message_ids"] == [answer["message_id"]]

    async def empty() -> bool:
        return not await inbox(relay)

    await eventually(empty)  # a store whose reads lag shows it for a moment
    pooled = await act(relay, "delegate", capability="go", task="any")
    assert (await claim_one(relay, "a")).message["message_id"] == pooled["message_id"]


async def test_a_person_sends_and_broadcasts_and_is_answered(serve: Serve) -> None:
    relay = await staffed(serve)
    sent = await act(relay, "send", to_agent="b", content="hello", idempotency_key="k")
    told = await act(relay, "broadcast", content="news", topic="t", idempotency_key="k")
    assert told["recipients"] == 2
    for type in ("message", "knowledge_broadcast"):
        got = await claim_one(relay, "b", max=1)
        assert (got.message["type"], got.message["from_person"]) == (type, True)
        await ack(relay, "b", got.receipt)
    await send(relay, "b", OPERATOR, "hi", in_reply_to=sent["message_id"])
    (hi,) = await inbox(relay)
    assert (await relay.app.relay.overviews.make()).needs_you.inbox == 1
    assert (hi["message"]["content"], hi["task_words"]) == ("hi", None)
    shown = (await ok(relay.get("/discover?name=operator")))["agents"]
    assert [(one["agent_id"], one["person"], one["claimed"]) for one in shown] == [(OPERATOR, True, True)]
    assert all("person" not in one for one in (await ok(relay.get("/discover?capability=go")))["agents"])


async def test_a_person_answers_and_cancels_in_place_of_the_requester(serve: Serve) -> None:
    relay = await staffed(serve)
    task = await delegate(relay, "a", "b")
    await claim_one(relay, "b")
    for question in ("which?", "which?"):  # the same again, after an answer, is another question
        await respond(relay, "b", task, question, status="input_required")
        answered = await act(relay, f"tasks/{task}/answer", content="that one")
        assert answered["task_status"] == "in_progress"
        got = await claim_one(relay, "b")
        assert (got.message["type"], got.message["content"]) == ("task_answer", "that one")
        assert (got.message["from_agent"], got.message["from_person"]) == (OPERATOR, True)
        await ack(relay, "b", got.receipt)
    again = await act(relay, f"tasks/{task}/answer", content="that one")
    assert again["message_id"] == answered["message_id"]
    await refused(relay.post(f"/admin/tasks/{task}/answer", {"content": "no"}, headers=BOSS), 409, "wrong_state")
    assert [e["by"] for e in (await task_of(relay, "a", task))["history"]].count(OPERATOR) == 2
    await act(relay, f"tasks/{task}/cancel", note="enough")
    assert (await task_of(relay, "a", task))["status"] == "cancelled"
    for agent in ("a", "b"):  # both are told, and by whom
        while True:
            got = await claim_one(relay, agent, max=1)
            await ack(relay, agent, got.receipt)
            if got.message["type"] == "task_update":
                break
        assert (got.message["by"], got.message["by_person"], got.message["note"]) == (OPERATOR, True, "enough")


async def test_a_task_for_the_person_waits_for_its_answer(serve: Serve) -> None:
    relay = await staffed(serve)
    await refused(relay.post("/delegate", {"from_agent": "a", "to_agent": OPERATOR, "task": "t"}), 404, "unknown_agent")
    await act(relay, "send", to_agent="a", content="ask me")
    task = await delegate(relay, "a", OPERATOR, "shall we?")
    (asked,) = await inbox(relay)
    assert (asked["task"], asked["message"]["task"]) == (True, "shall we?")
    assert (await act(relay, "inbox", message_ids=[task]))["message_ids"] == []
    done = await act(relay, f"tasks/{task}/respond", result="yes", status="completed")
    assert done["task_status"] == "completed"

    async def settled() -> bool:
        return await inbox(relay) == []

    await eventually(settled)  # a store whose commits fail settles it a moment later
    view = await task_of(relay, "a", task)
    assert (view["status"], view["result"]) == ("completed", "yes")
    other = await delegate(relay, "a", "b")
    await refused(relay.post(f"/admin/tasks/{other}/respond", {}, headers=BOSS), 403, "not_allowed")


async def test_dead_letters_of_all_come_back_and_locks_end(serve: Serve) -> None:
    relay = await staffed(serve, limits={"max_attempts": 1})
    dead = [await send(relay, "a", to, "x") for to in ("b", "b", "a")]
    for agent in ("a", "b"):
        for held in (await ok(relay.get(f"/poll/{agent}?lease=60&max=9")))["deliveries"]:
            await ok(relay.post("/nack", {"agent_id": agent, "receipts": [held["receipt"]]}))
        await ok(relay.get(f"/poll/{agent}?lease=60"))
    some = await act(relay, "redrive-all", limit=2)
    assert (some["count"], some["left"]) == (2, 1)
    rest = await act(relay, "redrive-all")
    assert sorted(some["message_ids"] + rest["message_ids"]) == sorted(dead)
    await ok(relay.post("/files", {"file_key": "k", "content": "c", "agent_id": "a"}))
    await ok(relay.post("/locks", {"file_key": "k", "agent_id": "a", "seconds": 60}))
    await act(relay, "unlock", file_key="k")
    await refused(relay.post("/admin/unlock", {"file_key": "k"}, headers=BOSS), 404, "unknown_file")
    await ok(relay.post("/locks", {"file_key": "k", "agent_id": "b", "seconds": 60}))


async def test_the_inbox_shows_contents_of_very_many_parts(serve: Serve) -> None:
    relay = await staffed(serve)
    content: list[Any] = [[], {}] * MAX_PARTS
    await act(relay, "send", to_agent="a", content="x")
    await send(relay, "a", OPERATOR, content)
    (message,) = await inbox(relay)
    assert (message["message"]["content"] == content) is True


async def test_an_agent_is_renamed(serve: Serve) -> None:
    relay = await staffed(serve)
    await relay.register("Dora", agent_id="d")
    done = await act(relay, "rename", agent="Dora", name="Theodora")
    assert done == {"status": "renamed", "agent_id": "d", "name": "Theodora", "before": "Dora"}
    assert (await act(relay, "rename", agent="d", name="Theodora"))["before"] == "Theodora", "a repeat is harmless"
    listed = (await ok(relay.get("/discover?status=all")))["agents"]
    assert [one["name"] for one in listed if one["agent_id"] == "d"] == ["Theodora"]
    await ok(relay.post("/register", {"name": "Dora", "agent_id": "e", "claim": True}))
    for name, status, code in (
        ("dora", 409, "name_taken"),
        (OPERATOR, 403, "not_allowed"),
        ("\u2800", 400, "bad_request"),
        ("a\nb", 400, "bad_request"),
    ):
        await refused(relay.post("/admin/rename", {"agent": "d", "name": name}, headers=BOSS), status, code)
    await refused(relay.post("/admin/rename", {"agent": "no", "name": "x"}, headers=BOSS), 404, "unknown_agent")
    await act(relay, "send", to_agent="d", content="x")
    await refused(relay.post("/admin/rename", {"agent": OPERATOR, "name": "x"}, headers=BOSS), 403, "not_allowed")
    acts = (await ok(relay.get("/admin/audit", headers=BOSS)))["entries"]
    assert ("rename_agent", "d") in [(one["act"], one["target"]) for one in acts]


async def test_nobody_else_is_the_operator(serve: Serve) -> None:
    relay = await staffed(serve)
    for fields in (
        {"agent_id": OPERATOR},
        {"name": "Operator"},
        {"agent_id": "OPERATOR", "name": "x", "claim": True},
        {"name": "0perator", "claim": True},
        {"name": "оperator"},  # a Cyrillic letter
    ):
        await refused(relay.post("/register", fields), 403, "not_allowed")
        await refused(relay.post("/register", fields, headers=BOSS), 403, "not_allowed")
    body = {"to_agent": "a", "content": "x"}
    await ok(relay.post("/admin/send", body))  # on loopback without a token, as `clawlink kick`
    await refused(relay.post("/admin/send", body, headers=with_key("k" * 43)), 403, "not_allowed")
    for headers in ({}, with_key("k" * 43), BOSS):
        await refused(relay.get(f"/poll/{OPERATOR}", headers=headers), 403, "not_allowed")
        body = {"from_agent": OPERATOR, "to_agent": "a", "content": "x"}
        await refused(relay.post("/send", body, headers=headers), 403, "not_allowed")
    status, body = await relay.post("/register", {"agent_id": OPERATOR, "claim": True, "idempotency_key": "k" * 32})
    assert (status, body["code"]) == (403, "not_allowed")
    assert sum("person" in one for one in (await ok(relay.get("/discover?status=all")))["agents"]) == 1


async def test_an_agent_of_that_id_from_before_is_not_taken_over(serve: Serve) -> None:
    relay = await staffed(serve)
    agents = relay.app.relay.agents
    reserved, agents._reserved = agents._reserved, []
    await relay.register("old", agent_id=OPERATOR)
    agents._reserved = reserved
    refusal = await refused(
        relay.post("/admin/send", {"to_agent": "a", "content": "x"}, headers=BOSS), 409, "name_taken"
    )
    assert "clawlink agent kick operator" in refusal["error"]
    await ok(relay.post("/kick", {"agent": OPERATOR}, headers=BOSS))
    await act(relay, "send", to_agent="a", content="x")


async def test_every_act_stands_in_the_audit_without_its_texts(serve: Serve) -> None:
    relay = await staffed(serve)
    task = (await act(relay, "delegate", to_agent="b", task="a secret"))["message_id"]
    await act(relay, "send", to_agent="b", content="a secret")
    await act(relay, "broadcast", content="a secret")
    await act(relay, f"tasks/{task}/cancel", note="a secret")
    await act(relay, "redrive-all")
    await act(relay, "inbox", message_ids=["m"])
    entries = (await ok(relay.get("/admin/audit", headers=BOSS)))["entries"]
    assert [e["act"] for e in reversed(entries)] == [
        "delegate_as_operator",
        "send_as_operator",
        "broadcast_as_operator",
        "cancel_as_operator",
        "redrive_all",
        "put_away",
    ]
    assert {(e["by"], e["address"]) for e in entries} == {("token", "127.0.0.1")}
    assert "secret" not in str(entries)
    writes = [e for e in ENDPOINTS if e.admin and e.method != "GET" and e.use]
    assert [e.name for e in writes if not e.audited] == []


async def test_texts_are_withheld_from_the_inbox_where_the_page_has_none(serve: Serve) -> None:
    relay = await staffed(serve, page="metadata")
    await act(relay, "send", to_agent="a", content="x")
    await send(relay, "a", OPERATOR, "a secret")
    shown = await ok(relay.get("/admin/inbox", headers=BOSS))
    assert "secret" not in str(shown)
    assert (shown["contents"], shown["messages"][0]["from_agent"], shown["messages"][0]["message"]) == (
        False,
        "a",
        None,
    )


async def test_the_operator_is_refused_as_agents_are(serve: Serve) -> None:
    relay = await staffed(serve)
    for path, body, status, code in (
        ("delegate", {"task": "t"}, 400, "bad_request"),
        ("delegate", {"task": "", "to_agent": "a"}, 400, "bad_request"),
        ("delegate", {"task": "t", "to_agent": "a", "capability": "c"}, 400, "bad_request"),
        ("broadcast", {"content": ""}, 400, "bad_request"),
        ("send", {"to_agent": "nobody", "content": "x"}, 404, "unknown_agent"),
        ("tasks/none/answer", {"content": "x"}, 404, "unknown_task"),
        ("tasks/none/cancel", {}, 404, "unknown_task"),
    ):
        await refused(relay.post("/admin/" + path, body, headers=BOSS), status, code)
    await act(relay, "stop", stopped=True)
    await refused(relay.post("/admin/delegate", {"to_agent": "a", "task": "t"}, headers=BOSS), 503, "stopped")


def test_each_message_with_a_sender_can_say_that_it_is_a_person() -> None:
    kinds = [kind for kind in Message.__args__ if "from_agent" in kind.__struct_fields__]
    assert len(kinds) == 5
    for kind in kinds:
        assert "from_person" in kind.__struct_fields__, kind
        assert next(f for f in msgspec.structs.fields(kind) if f.name == "from_person").default is msgspec.UNSET


@pytest.mark.shared
async def test_the_operator_is_one_on_all_relays_of_a_mesh(serve: Serve) -> None:
    one, two = [await serve(admin_token="boss", mesh="operators") for _ in range(2)]
    await one.register("a", agent_id="a")
    await act(one, "send", to_agent="a", content="x")
    await act(two, "send", to_agent="a", content="y")
    assert len((await ok(two.get("/discover?name=operator")))["agents"]) == 1
