"""Nobody but the holder of its key reads a claimed agent's mailbox, uses its name, or acts as it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import ENDPOINTS, REGISTER
from tests.conftest import Running, Serve
from tests.server.asks import (
    ack,
    claim,
    claim_one,
    delegate,
    load_of,
    nothing_due,
    ok,
    refused,
    send,
    status_of,
    task_of,
    with_key,
)


class Stage(NamedTuple):
    """A relay with two claimed agents: alice, who is wronged, and mallory; and bob, whom nobody has claimed."""

    relay: Running
    alice: dict[str, str]
    mallory: dict[str, str]
    task: str
    asked: str
    receipt: str
    message: str
    upload: str


class Ask(NamedTuple):
    """A request: its path, its body if it has one, as JSON or as bytes, and its headers besides the agent's key."""

    path: str
    body: Any = None
    headers: Mapping[str, str] = MappingProxyType({})

    async def send(self, relay: Running, method: str, headers: dict[str, str]) -> tuple[int, Any]:
        body = {"data" if isinstance(self.body, bytes) else "json": self.body}
        return await relay.ask(method, self.path, headers={**self.headers, **headers}, **body)


TUS = {"Tus-Resumable": "1.0.0"}
BEGINNING = {**TUS, "ClawLink-Agent": "alice", "Upload-Length": "6", "Upload-Metadata": "key aGVycw=="}
PART = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}


@pytest.fixture
async def stage(serve: Serve) -> Stage:
    relay = await serve()
    keys = {}
    for name in ("alice", "mallory"):
        reply = await ok(relay.post("/register", {"agent_id": name, "name": name, "claim": True, "notices": True}))
        keys[name] = with_key(reply["agent_key"])
    await relay.register("bob", agent_id="bob")
    await claim(relay, "alice", 0, headers=keys["alice"])
    hers = {"file_key": "hers", "content": "x", "agent_id": "alice"}
    await ok(relay.post("/files", hers, headers=keys["alice"]))
    for name, headers in (("mallory", keys["mallory"]), ("bob", None)):
        notice = await claim_one(relay, name, headers=headers)
        await ack(relay, name, notice.receipt, headers=headers)
    task = await delegate(relay, "bob", "alice")
    got = await claim_one(relay, "alice", headers=keys["alice"])
    asked = await delegate(relay, "alice", "bob", headers=keys["alice"])
    his = await claim_one(relay, "bob")
    await ack(relay, "bob", his.receipt)
    await ok(relay.post("/respond", {"from_agent": "bob", "message_id": asked, "status": "input_required"}))
    question = await claim_one(relay, "alice", headers=keys["alice"])
    await ack(relay, "alice", question.receipt, headers=keys["alice"])
    message = await send(relay, "alice", "bob", "a secret", headers=keys["alice"])
    await send(relay, "bob", "alice", "for alice only")
    async with relay.session.post(relay.url + "/uploads", headers={**BEGINNING, **keys["alice"]}) as begun:
        upload = begun.headers["Location"]
    return Stage(relay, keys["alice"], keys["mallory"], task, asked, got.receipt, message, upload)


def asks(stage: Stage) -> dict[str, Ask]:
    """Return a request as alice for every endpoint that acts as an agent."""
    receipts = {"agent_id": "alice", "receipts": [stage.receipt]}
    as_alice = {"ClawLink-Agent": "alice"}
    others = {
        "put_blob": Ask("/blobs/hers", b"forged", as_alice),
        "delete_blob": Ask("/blobs/hers", None, as_alice),
        "lock_file": Ask("/locks", {"agent_id": "alice", "file_key": "hers", "seconds": 60}),
        "unlock_file": Ask("/locks/hers", None, as_alice),
        "create_upload": Ask("/uploads", None, BEGINNING),
        "upload_offset": Ask(stage.upload, None, TUS),
        "upload_part": Ask(stage.upload, b"forged", PART),
        "end_upload": Ask(stage.upload, None, TUS),
        "upload_otherwise": Ask(stage.upload, b"forged", {**PART, "X-HTTP-Method-Override": "PATCH"}),
    }
    in_json: dict[str, tuple[str, Any]] = {
        "heartbeat": ("/heartbeat", {"agent_id": "alice"}),
        "tickets": ("/tickets", {"agent_id": "alice"}),
        "sleep": ("/sleep", {"agent_id": "alice"}),
        "leave": ("/agents/alice", None),
        "delegate": ("/delegate", {"from_agent": "alice", "to_agent": "bob", "task": "pay mallory"}),
        "respond": ("/respond", {"from_agent": "alice", "message_id": stage.task, "result": "forged"}),
        "tasks": ("/tasks?agent_id=alice", None),
        "task": (f"/tasks/{stage.asked}?agent_id=alice", None),
        "cancel": (f"/tasks/{stage.asked}/cancel", {"from_agent": "alice"}),
        "answer": (f"/tasks/{stage.asked}/answer", {"from_agent": "alice", "content": "forged"}),
        "send": ("/send", {"from_agent": "alice", "to_agent": "bob", "content": "forged"}),
        "broadcast": ("/broadcast", {"from_agent": "alice", "content": "forged"}),
        "poll": ("/poll/alice?lease=60", None),
        "poll_and_ack": ("/poll/alice", {"ack": receipts["receipts"], "lease": 60}),
        "socket": ("/ws/alice?lease=60", None),
        "events": ("/events/alice?lease=60", None),
        "ack": ("/ack", receipts),
        "nack": ("/nack", receipts),
        "extend": ("/extend", {**receipts, "lease": 3600}),
        "dead_letters": ("/dead-letters/alice", None),
        "redrive": ("/redrive", {"agent_id": "alice"}),
        "message": (f"/messages/{stage.message}?agent_id=alice", None),
        "unread": ("/agents/alice/unread", None),
        "woken": (f"/messages/{stage.task}/woken", {"agent_id": "alice", "adapter": "x", "result": "started"}),
        "find_ids": (f"/ids/{stage.message[:6]}?agent_id=alice", None),
        "put_file": ("/files", {"file_key": "hers", "content": "forged", "agent_id": "alice"}),
        "delete_file": ("/files/hers?agent_id=alice", None),
    }
    return others | {name: Ask(*ask) for name, ask in in_json.items()}


ACTING = [e for e in ENDPOINTS if e.acts]


@pytest.mark.parametrize("endpoint", ACTING, ids=lambda e: e.name)
async def test_acting_as_a_claimed_agent_without_its_key_is_403(stage: Stage, endpoint: Endpoint) -> None:
    relay = stage.relay
    for headers in ({}, with_key("x" * 43), stage.mallory, with_key("\udcff\udcfe")):
        if endpoint.socket:
            headers = {**headers, "Upgrade": "websocket", "Connection": "Upgrade"}
        asked = asks(stage)[endpoint.name].send(relay, endpoint.method, headers)
        if endpoint.method == "HEAD":
            assert (await asked) == (403, None), headers
        else:
            await refused(asked, 403, "not_allowed")

    (still_held,) = (await ack(relay, "alice", stage.receipt, headers=stage.alice))["results"]
    assert still_held["status"] == "acked"
    (hers,) = await claim(relay, "alice", headers=stage.alice)
    assert (hers.message["content"], hers.attempt) == ("for alice only", 1)
    his = await claim_one(relay, "bob")
    assert his.message["content"] == "a secret"
    hers_still = await ok(relay.get("/files/hers"))
    assert (hers_still["version"], hers_still["lock"]) == (1, None)
    async with relay.session.head(relay.url + stage.upload, headers={**TUS, **stage.alice}) as upload:
        assert (upload.status, upload.headers["Upload-Offset"]) == (200, "0")
    assert (await task_of(relay, "alice", stage.asked, headers=stage.alice))["status"] == "input_required"
    await nothing_due(relay, "mallory", headers=stage.mallory)


@pytest.mark.parametrize("endpoint", [e for e in ACTING if not e.stays], ids=lambda e: e.name)
async def test_with_its_key_the_agent_may_do_each_of_it(stage: Stage, endpoint: Endpoint) -> None:
    status, body = await asks(stage)[endpoint.name].send(stage.relay, endpoint.method, stage.alice)
    assert status in (200, 201, 204), body


async def test_registering_a_claimed_id_without_its_key_is_403(stage: Stage) -> None:
    for headers in ({}, stage.mallory, with_key("x" * 43)):
        for claims in (False, True):
            ask = {"agent_id": "alice", "name": "alice", "description": "mine now", "claim": claims}
            await refused(stage.relay.ask(REGISTER.method, "/register", json=ask, headers=headers), 403, "not_allowed")
    (alice,) = (await ok(stage.relay.get("/discover?name=alice")))["agents"]
    assert alice["description"] == ""


@pytest.mark.parametrize("name", ["alice", "ALICE", " Alice "])
async def test_taking_a_claimed_agents_name_is_refused(stage: Stage, name: str) -> None:
    await refused(stage.relay.post("/register", {"name": name}), 409, "name_taken")
    rename = {"agent_id": "mallory", "name": name}
    await refused(stage.relay.post("/register", rename, headers=stage.mallory), 409, "name_taken")
    await refused(stage.relay.post("/register", {"agent_id": name.strip().upper()}), 409, "name_taken")


async def test_another_agents_receipts_settle_nothing(stage: Stage) -> None:
    body = {"agent_id": "mallory", "receipts": [stage.receipt]}
    for path, more in (("/ack", {}), ("/nack", {}), ("/extend", {"lease": 3600})):
        reply = await ok(stage.relay.post(path, {**body, **more}, headers=stage.mallory))
        assert (reply["count"], reply["results"][0]["status"]) == (0, "lease_lost")
    (still_held,) = (await ack(stage.relay, "alice", stage.receipt, headers=stage.alice))["results"]
    assert still_held["status"] == "acked"


async def test_nobody_but_the_assignee_answers_a_task(stage: Stage) -> None:
    ask = {"from_agent": "mallory", "message_id": stage.task, "result": "forged"}
    await refused(stage.relay.post("/respond", ask, headers=stage.mallory), 403, "not_allowed")
    await refused(stage.relay.post("/respond", {**ask, "from_agent": "bob"}), 403, "not_allowed")
    await ok(stage.relay.post("/respond", {**ask, "from_agent": "alice", "result": "hers"}, headers=stage.alice))
    responses = [g.message for g in await claim(stage.relay, "bob", 2) if g.message["type"] == "task_response"]
    assert [r["result"] for r in responses] == ["hers"]


@pytest.mark.parametrize("name", ["upload_offset", "upload_part", "end_upload", "upload_otherwise"])
async def test_nobody_goes_on_with_another_agents_upload_in_a_name_of_their_own(stage: Stage, name: str) -> None:
    method = next(e.method for e in ENDPOINTS if e.name == name)
    for headers in ({**stage.mallory, "ClawLink-Agent": "mallory"}, {"ClawLink-Agent": "bob"}):
        status, _ = await asks(stage)[name].send(stage.relay, method, headers)
        assert status == 403
    async with stage.relay.session.head(stage.relay.url + stage.upload, headers={**TUS, **stage.alice}) as upload:
        assert (upload.status, upload.headers["Upload-Offset"]) == (200, "0")


async def test_nobody_but_sender_and_recipient_asks_about_a_message(stage: Stage) -> None:
    path = f"/messages/{stage.message}?agent_id=mallory"
    await refused(stage.relay.get(path, headers=stage.mallory), 403, "not_allowed")
    assert (await status_of(stage.relay, "alice", stage.message, headers=stage.alice))["to_agent"] == "bob"
    assert (await status_of(stage.relay, "bob", stage.message))["from_agent"] == "alice"


async def test_nobody_but_its_parties_sees_a_task_and_nobody_but_its_requester_moves_it(stage: Stage) -> None:
    relay = stage.relay
    await refused(relay.get(f"/tasks/{stage.asked}?agent_id=mallory", headers=stage.mallory), 403, "not_allowed")
    await refused(
        relay.get(f"/tasks/{stage.asked}", headers={**stage.mallory, "ClawLink-Agent": "alice"}), 403, "not_allowed"
    )
    for name in ("mallory", "bob"):
        for path, body in (("cancel", {}), ("answer", {"content": "forged"})):
            ask = {"from_agent": name, **body}
            headers = stage.mallory if name == "mallory" else {}
            await refused(relay.post(f"/tasks/{stage.asked}/{path}", ask, headers=headers), 403, "not_allowed")
    for query in ("requester=alice", "assignee=alice", "agent_id=alice", "requester=alice&assignee=bob"):
        await refused(relay.get(f"/tasks?{query}", headers=stage.mallory), 403, "not_allowed")
    for query in ("", "&requester=alice", "&assignee=alice", "&status=input_required"):
        seen = await ok(relay.get(f"/tasks?agent_id=mallory{query}", headers=stage.mallory))
        assert seen["tasks"] == []
    assert (await task_of(relay, "alice", stage.asked, headers=stage.alice))["status"] == "input_required"


async def test_work_of_others_is_nobodys_parent_but_its_parties(stage: Stage) -> None:
    """A chain names who took part: whoever could hang on to any task would learn that."""
    for path, more in (
        ("/delegate", {"to_agent": "bob", "task": "t"}),
        ("/send", {"to_agent": "bob", "content": 1}),
        ("/broadcast", {"content": "c"}),
    ):
        ask = {"from_agent": "mallory", "parent_task": stage.asked, **more}
        body = await refused(stage.relay.post(path, ask, headers=stage.mallory), 403, "not_allowed")
        assert body["field"] == "parent_task"
    ask = {"from_agent": "mallory", "to_agent": "bob", "content": 1, "in_reply_to": stage.message}
    await ok(stage.relay.post("/send", ask, headers=stage.mallory))
    (got,) = [g for g in await claim(stage.relay, "bob", 2) if g.message["from_agent"] == "mallory"]
    assert got.message["chain"]["agents"] == ["mallory"]
    assert (await status_of(stage.relay, "alice", stage.message, headers=stage.alice))["answered_at"] is None


async def test_a_claimed_agents_capabilities_are_its_own_to_change(stage: Stage) -> None:
    ask = {"agent_id": "alice", "capabilities": ["python"], "subscriptions": []}
    await refused(stage.relay.post("/register", ask, headers=stage.mallory), 403, "not_allowed")
    reply = await ok(stage.relay.post("/delegate", {"from_agent": "bob", "capability": "python", "task": "t"}))
    assert reply["pool"]["online"] == 0


async def test_another_agents_dead_letters_cannot_be_redriven(serve: Serve) -> None:
    relay = await serve(limits={"max_attempts": 1})
    for name in ("alice", "mallory"):
        await relay.register(name, agent_id=name)
    id = await send(relay, "mallory", "alice")
    got = await claim_one(relay, "alice")
    await ok(relay.post("/nack", {"agent_id": "alice", "receipts": [got.receipt]}))
    await nothing_due(relay, "alice")
    assert (await ok(relay.post("/redrive", {"agent_id": "mallory", "message_ids": [id]})))["count"] == 0
    assert (await ok(relay.get("/dead-letters/alice")))["count"] == 1


async def test_a_response_goes_to_the_requester_and_to_nobody_else(stage: Stage) -> None:
    ask = {"from_agent": "alice", "message_id": stage.task, "result": "r", "to_agent": "mallory"}
    await refused(stage.relay.post("/respond", ask, headers=stage.alice), 403, "not_allowed")
    await nothing_due(stage.relay, "mallory", headers=stage.mallory)


async def test_the_agent_key_is_shown_once_and_only_to_its_maker(stage: Stage) -> None:
    again = await ok(
        stage.relay.post("/register", {"agent_id": "alice", "name": "alice", "claim": True}, headers=stage.alice)
    )
    assert again["agent_key"] is None
    async with stage.relay.session.get(stage.relay.url + "/discover?status=all") as response:
        shown = await response.text()
    for headers in (stage.alice, stage.mallory):
        assert headers["ClawLink-Agent-Key"] not in shown
    assert len(stage.alice["ClawLink-Agent-Key"]) >= 22  # 128 bits in base64


async def test_an_unclaimed_agent_can_be_claimed_once(stage: Stage) -> None:
    first = await ok(stage.relay.post("/register", {"agent_id": "bob", "claim": True}))
    assert first["agent_key"]
    await refused(stage.relay.post("/register", {"agent_id": "bob", "claim": True}), 403, "not_allowed")
    await refused(stage.relay.get("/poll/bob"), 403, "not_allowed")
    assert (await load_of(stage.relay, "bob"))[0] > 0


async def test_a_relay_that_requires_keys_refuses_agents_without(serve: Serve) -> None:
    relay = await serve(require_agent_keys=True)
    await refused(relay.post("/register", {"name": "old"}), 403, "not_allowed")
    reply = await ok(relay.post("/register", {"name": "new", "claim": True}))
    assert reply["agent_key"]
    assert (await ok(relay.get("/")))["agent_keys_required"] is True
