"""The routes of AgentRelay: as any program asks them, and as it gets them wrong."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from clawlink.domain.dense_json import MAX_PARTS
from clawlink.doors.agentrelay.settings import Settings
from clawlink.doors.agentrelay.wire import exchange
from tests.conftest import Running, Serve
from tests.tables import each

EVENT = {"event_id": "e1", "content": {"task": "sum"}}


class Pair:
    """A sender and a receiver, both with agent keys, on one relay."""

    def __init__(self, relay: Running) -> None:
        self.relay = relay
        self.ids: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    async def join(self, *names: str) -> Pair:
        for name in names:
            status, body = await self.relay.post("/register", {"name": name, "claim": True})
            assert status == 200
            self.ids[name], self.keys[name] = body["agent"]["agent_id"], body["agent_key"]
        return self

    async def ask(self, verb: str, who: str, **body: Any) -> tuple[int, Any]:
        field = "from_agent" if verb == "send" else "agent_id"
        headers = {"ClawLink-Agent-Key": self.keys[who]}
        return await self.relay.post(f"/agentrelay/{verb}", {field: self.ids[who], **body}, headers=headers)


@pytest.fixture
async def pair(serve: Serve) -> Pair:
    """Return ``a`` and ``b`` on a relay."""
    return await Pair(await serve()).join("a", "b")


async def test_all_verbs_over_http(pair: Pair) -> None:
    a, b = pair.ids["a"], pair.ids["b"]
    status, sent = await pair.ask("send", "a", to_agent="b", **EVENT)
    assert status == 200
    assert {name: sent[name] for name in ("event_id", "ptr", "csv_message", "sender", "receiver")} == {
        "event_id": "e1",
        "ptr": "s/e1.json",
        "csv_message": "REQ,e1,s/e1.json,,",
        "sender": a,
        "receiver": "b",
    }
    _, polled = await pair.relay.get(f"/poll/{b}", headers={"ClawLink-Agent-Key": pair.keys["b"]})
    (line,) = [message["content"] for message in polled["messages"] if message["type"] == "message"]
    status, read = await pair.ask("receive", "b", message=line)
    assert (status, read["content"], read["meta"]["secret"]) == (200, {"task": "sum"}, sent["secret"])
    status, updated = await pair.ask("update", "b", event_id="e1", updates={"result": 6})
    assert (status, updated["ptr"]) == (200, "s/e1.json")
    status, done = await pair.ask("cmp", "b", event_id="e1")
    assert (status, done["cmp_message"], done["sender"]) == (200, f"CMP,e1,,,{sent['secret']}", a)
    status, found = await pair.ask("verify", "a", message=done["cmp_message"])
    assert (status, found["status"], found["verified"]) == (200, "ok", True)
    status, swept = await pair.ask("cleanup", "a")
    assert (status, swept["kept_events"]) == (200, ["e1"])


@pytest.mark.parametrize("endpoint", exchange.ENDPOINTS, ids=lambda e: e.name)
async def test_acting_needs_the_agents_key_and_the_relays_token(serve: Serve, endpoint: Any) -> None:
    relay = await serve(token="t")
    headers = {"Authorization": "Bearer t"}
    _, body = await relay.post("/register", {"name": "a", "claim": True}, headers=headers)
    ask = {"from_agent": body["agent"]["agent_id"], "agent_id": body["agent"]["agent_id"], "to_agent": "b"}
    ask |= {"event_id": "e1", "content": {}, "message": "CMP,e1,,,x", "updates": {}}
    status, refused = await relay.post(endpoint.path, ask)
    assert (status, refused["code"]) == (401, "not_authenticated")
    status, refused = await relay.post(endpoint.path, ask, headers=headers)
    assert (status, refused["code"]) == (403, "not_allowed")
    status, refused = await relay.ask("GET", endpoint.path, headers=headers)
    assert (status, refused["code"]) == (405, "method_not_allowed")


@each(
    ("verb", "body", "status", "field"),
    [
        ("send", {}, 400, "to_agent"),
        ("send", {"to_agent": "b", "event_id": "../x", "content": {}}, 400, "event_id"),
        ("send", {"to_agent": "b", "event_id": "e" * 200, "content": {}}, 400, "event_id"),
        ("send", {"to_agent": "b", "event_id": "e1", "content": []}, 400, "content"),
        ("send", {"to_agent": "b", "event_id": "e1", "content": {}, "type": "CMP"}, 400, "type"),
        ("send", {"to_agent": "b", "event_id": "e1", "content": {"sender_agent": "x"}}, 403, "content.sender_agent"),
        ("send", {"to_agent": "b", "event_id": "e1", "content": {"ttl_hours": 10**9}}, 400, "ttl_hours"),
        ("receive", {"message": "hello"}, 400, "message"),
        ("receive", {"message": "REQ,e9,s/e9.json,,"}, 404, "event_id"),
        ("receive", {"message": "REQ,e9,/etc/passwd,,"}, 400, "ptr"),
        ("update", {"event_id": "e9", "updates": {}}, 404, "event_id"),
        ("update", {"event_id": "e9", "updates": {}, "next_event_id": "a/b"}, 400, "next_event_id"),
        ("cmp", {"event_id": "e9"}, 404, "event_id"),
        ("verify", {"message": "REQ,e9,s/e9.json,,"}, 400, "message"),
        ("verify", {"message": "CMP,e9,,,x"}, 404, "event_id"),
        ("cleanup", {"registry_ttl_hours": -1}, 400, "registry_ttl_hours"),
    ],
)
async def test_what_is_wrong_is_told_with_its_field(
    pair: Pair, verb: str, body: dict[str, Any], status: int, field: str
) -> None:
    got, refused = await pair.ask(verb, "a", **body)
    assert (got, refused["field"]) == (status, field), refused


@each("body", [b"", b"{", b"[]", b"\xff", b'{"from_agent": "\xff"}', b"[" * 100_000])
async def test_what_is_no_json_is_refused(pair: Pair, body: bytes) -> None:
    status, refused = await pair.relay.ask("POST", "/agentrelay/send", data=body)
    assert status == 400
    assert refused["code"] in ("bad_json", "bad_request")


@each(("verb", "field"), [("send", "content"), ("update", "updates")])
async def test_contents_nested_too_deep_are_refused(pair: Pair, verb: str, field: str) -> None:
    deep: Any = []
    for _ in range(65):
        deep = {"x": deep}
    status, refused = await pair.ask(verb, "a", **{"to_agent": "b", "event_id": "e1", field: deep})
    assert (status, refused["field"], refused["limit"]) == (400, field, 64)


async def test_contents_larger_than_a_body_are_refused_with_the_limit(serve: Serve) -> None:
    pair = await Pair(await serve(limits={"max_body_bytes": 2000})).join("a", "b")
    status, refused = await pair.ask("send", "a", to_agent="b", event_id="e1", content={"task": "x" * 3000})
    assert (status, refused["code"], refused["limit"]) == (413, "too_large", 2000)
    assert "share large contents as a file" in refused["error"]

    async def chunks() -> Any:
        for _ in range(30):
            yield b" " * 100

    status, refused = await pair.relay.ask("POST", "/agentrelay/send", data=chunks())
    assert (status, refused["code"], refused["limit"]) == (413, "too_large", 2000)


async def test_a_full_relay_says_limit_size_and_what_is_free(serve: Serve) -> None:
    pair = await Pair(await serve(doors={"agentrelay": Settings(max_events_bytes=100)})).join("a", "b")
    status, refused = await pair.ask("send", "a", to_agent="b", event_id="e1", content={"task": "x" * 200})
    assert (status, refused["code"], refused["limit"], refused["actual"]) == (507, "storage_full", 100, 211)
    assert refused["current"] == {"free": 100}


async def test_of_many_who_read_what_burns_one_does(pair: Pair) -> None:
    await pair.ask("send", "a", to_agent="b", event_id="e1", content={"task": "sum", "burn_on_read": True})
    found = await asyncio.gather(
        *(pair.ask("receive", "b", message="REQ,e1,s/e1.json,,", idempotency_key=f"k{n}") for n in range(8))
    )
    assert sorted(status for status, _ in found) == [200] + [404] * 7


async def test_of_many_who_send_one_id_one_does(pair: Pair) -> None:
    found = await asyncio.gather(
        *(pair.ask("send", "a", to_agent="b", event_id="e1", content={"n": n}) for n in range(8))
    )
    assert sorted(status for status, _ in found) == [200] + [409] * 7
    (kept,) = [n for n, (status, _) in enumerate(found) if status == 200]
    _, read = await pair.ask("receive", "b", message="REQ,e1,s/e1.json,,")
    assert read["content"] == {"n": kept}


async def test_a_page_of_another_site_is_refused(pair: Pair) -> None:
    body = json.dumps({"from_agent": pair.ids["a"], "to_agent": "b", **EVENT})
    headers = {"Origin": "https://evil.example", "ClawLink-Agent-Key": pair.keys["a"]}
    status, _ = await pair.relay.ask("POST", "/agentrelay/send", data=body, headers=headers)
    assert status == 403


async def test_a_message_of_any_form_is_answered_at_once_and_a_long_one_with_the_limit(pair: Pair) -> None:
    started = time.process_time()
    for run in " \t\"',`*-":
        for head in ("a", "A,", "- "):
            status, _ = await pair.ask("receive", "b", message=head + run * 16_000)
            assert status == 400
    assert time.process_time() - started < 5
    status, refused = await pair.ask("verify", "a", message="CMP,e1,,,x" + " " * 100_000)
    assert (status, refused["field"], refused["limit"]) == (400, "message", 16_384)


async def test_contents_of_very_many_parts_come_as_they_were(pair: Pair) -> None:
    rows: list[Any] = [[], {}] * MAX_PARTS
    _, sent = await pair.ask("send", "a", event_id="e1", content={"task": "sum", "rows": rows}, to_agent="b")
    await pair.ask("receive", "b", message=sent["csv_message"])
    _, updated = await pair.ask("update", "b", event_id="e1", updates={"more": rows, "sum": 3})
    _, read = await pair.ask("receive", "a", message=updated["csv_message"])
    found = read["content"]
    assert [found["rows"] == rows, found["more"] == rows, found["task"], found["sum"]] == [True, True, "sum", 3]
