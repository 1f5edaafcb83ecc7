"""An unmodified ClawLink 1.0.x client works against this relay.

Each request here is sent byte for byte as ``requests`` 2.x sends it for such a client. It has exactly the fields of
part 1 of the protocol; every reply is checked for the fields and types that such a client reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.conftest import UNPACED, Running, Serve
from tests.system.raw import Answer, Clock, exchange
from tests.tables import each
from tests.waiting import soon

pytestmark = pytest.mark.parametrize("store_kind", ["memory"])

TOKEN = "s3cret"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?\+00:00")


def _is_time(value: Any) -> bool:
    """Tell whether it is ISO-8601 in UTC with an offset."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    return datetime.fromisoformat(value).utcoffset() == timedelta(0)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _strings(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


Shape = dict[str, Callable[[Any], bool]]

AGENT: Shape = {
    "agent_id": _is(str),
    "name": _is(str),
    "capabilities": _strings,
    "machine": _is(str),
    "description": _is(str),
    "registered_at": _is_time,
    "last_heartbeat": _is(float),
    "status": _one_of("online"),
}
FILE: Shape = {
    "file_key": _is(str),
    "file_type": _is(str),
    "last_editor": _is(str),
    "version": _is_count,
    "updated_at": _is_time,
}
REPLIES: dict[str, Shape] = {
    "info": {
        "service": _one_of("ClawLink Relay"),
        "version": _is(str),
        "auth_required": _is(bool),
        "agents_online": _is_count,
        "total_broadcasts": _is_count,
        "shared_files": _is_count,
        "note": _is(str),
        "endpoints": lambda value: (
            type(value) is dict and value["register"] == "POST /register" and value["poll"] == "GET /poll/{agent_id}"
        ),
        "server_time": _is_time,
    },
    "register": {"status": _one_of("registered"), "agent": _is(dict), "server_time": _is_time},
    "discover": {"agents": _is(list), "count": _is_count, "server_time": _is_time},
    "heartbeat": {"status": _one_of("ok", "unknown_agent")},
    "delegate": {"status": _one_of("delegated"), "delivery": _one_of("websocket", "queued"), "message_id": _is(str)},
    "respond": {"status": _one_of("response_sent"), "delivery": _one_of("websocket", "queued")},
    "broadcast": {"status": _one_of("broadcast_sent"), "message_id": _is(str), "recipients": _is_count},
    "poll": {"messages": _is(list), "count": _is_count},
    "save": {"status": _one_of("saved"), "version": _is_count},
    "files": {"files": _is(list), "count": _is_count},
    "file": {**FILE, "content": _is(str)},
}
MESSAGES: dict[str, Shape] = {
    "task_delegation": {
        "message_id": _is(str),
        "from_agent": _is(str),
        "to_agent": _is(str),
        "task": _is(str),
        "context": _is(dict),
        "priority": _one_of("low", "normal", "high", "urgent"),
        "timestamp": _is_time,
    },
    "task_response": {
        "message_id": _is(str),
        "response_id": _is(str),
        "from_agent": _is(str),
        "to_agent": _is(str),
        "result": _is(str),
        "status": _is(str),
        "timestamp": _is_time,
    },
    "knowledge_broadcast": {
        "message_id": _is(str),
        "from_agent": _is(str),
        "content": _is(str),
        "topic": _is(str),
        "tags": _strings,
        "timestamp": _is_time,
    },
    "file_updated": {"file_key": _is(str), "version": _is_count, "last_editor": _is(str), "timestamp": _is_time},
    "agent_joined": {"agent": _is(dict), "timestamp": _is_time},
}


def check(value: dict[str, Any], shape: Shape) -> None:
    """Check that every field of the shape is there with its type; fields that old clients ignore may be there too."""
    missing = object()
    wrong = {name: value.get(name) for name, fits in shape.items() if not fits(value.get(name, missing))}
    assert not wrong, wrong


def check_message(message: dict[str, Any]) -> None:
    """Check a message as it arrives from poll: a queued copy, so it tells since when."""
    check(message, {**MESSAGES[message["type"]], "queued_at": _is_time})
    if message["type"] == "agent_joined":
        check(message["agent"], AGENT)


class OldClient:
    """Sends what clawlink 1.0.2 sends, on a connection of its own each time, as ``requests.get`` and ``.post`` do."""

    def __init__(self, relay: Running, token: str | None) -> None:
        self._url = relay.url
        self.token = token

    async def _send(self, method: str, path: str, body: bytes | None, content_type: str | None) -> Answer:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._url.removeprefix('http://')}",
            "User-Agent: python-requests/2.31.0",
            "Accept-Encoding: gzip, deflate",
            "Accept: */*",
            "Connection: keep-alive",
        ]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        return await exchange(self._url, "\r\n".join([*lines, "", ""]).encode() + (body or b""))

    async def get(self, path: str) -> Answer:
        return await self._send("GET", path, None, None)

    async def post(self, path: str, fields: Any, content_type: str | None = "application/json") -> Answer:
        return await self._send("POST", path, json.dumps(fields).encode(), content_type)

    async def done(self, name: str, answer: Answer) -> Any:
        """Return the JSON of a 200 reply, its fields and types checked."""
        assert answer.status == 200, answer
        assert answer.headers["content-type"].startswith("application/json")
        check(answer.json, REPLIES[name])
        return answer.json

    async def register(self, agent_id: str, name: str) -> Any:
        fields = {"agent_id": agent_id, "name": name, "capabilities": ["python", "search"], "description": "works"}
        reply = await self.done("register", await self.post("/register", fields))
        check(reply["agent"], AGENT)
        return reply["agent"]

    async def poll(self, agent_id: str) -> list[dict[str, Any]]:
        reply = await self.done("poll", await self.get(f"/poll/{agent_id}"))
        assert reply["count"] == len(reply["messages"])
        for message in reply["messages"]:
            check_message(message)
        messages: list[dict[str, Any]] = reply["messages"]
        return messages


@pytest.fixture(params=[None, TOKEN], ids=["open", "token"])
async def relay(request: pytest.FixtureRequest, serve: Serve) -> Running:
    return await serve(token=request.param, limits=UNPACED)


@pytest.fixture
async def old(relay: Running, request: pytest.FixtureRequest) -> OldClient:
    return OldClient(relay, request.node.callspec.params["relay"])


async def test_info_has_every_field_and_says_whether_a_token_is_asked_for(old: OldClient) -> None:
    info = await old.done("info", await old.get("/"))
    assert info["auth_required"] is (old.token is not None)


async def test_register_tells_the_agent_as_it_is_now(old: OldClient) -> None:
    agent = await old.register("a1", "Ann")
    assert {k: agent[k] for k in ("agent_id", "name", "capabilities", "description", "machine")} == {
        "agent_id": "a1",
        "name": "Ann",
        "capabilities": ["python", "search"],
        "description": "works",
        "machine": "127.0.0.1",
    }


async def test_register_needs_no_field_at_all(old: OldClient) -> None:
    reply = await old.done("register", await old.post("/register", {}))
    check(reply["agent"], AGENT)
    assert reply["agent"]["agent_id"]
    assert reply["agent"]["capabilities"] == []


async def test_register_keeps_the_machine_it_is_told(old: OldClient) -> None:
    reply = await old.done("register", await old.post("/register", {"name": "Ann", "machine": "laptop"}))
    assert reply["agent"]["machine"] == "laptop"


async def test_register_again_keeps_the_mailbox(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    await old.poll("b1")
    await old.post("/delegate", {"from_agent": "a1", "to_agent": "b1", "task": "x"})
    await old.register("b1", "Bob")
    assert [m["task"] for m in await old.poll("b1")] == ["x"]


async def test_optional_fields_may_be_null(old: OldClient) -> None:
    fields = {"agent_id": None, "name": "Ann", "capabilities": None, "machine": None, "description": None}
    reply = await old.done("register", await old.post("/register", fields))
    check(reply["agent"], AGENT)


async def test_discover_lists_agents_seen_within_two_minutes(serve: Serve) -> None:
    clock = Clock()
    old = OldClient(await serve(clock=clock), None)
    await old.register("a1", "Ann")
    clock.skip(119)
    await old.register("b1", "Bob")
    reply = await old.done("discover", await old.get("/discover"))
    assert [a["agent_id"] for a in reply["agents"]] == ["a1", "b1"]
    clock.skip(2)
    reply = await old.done("discover", await old.get("/discover"))
    assert [a["agent_id"] for a in reply["agents"]] == ["b1"]
    assert reply["count"] == 1
    check(reply["agents"][0], AGENT)


async def test_heartbeat_is_ok_or_unknown_agent_both_with_200(old: OldClient) -> None:
    await old.register("a1", "Ann")
    assert (await old.done("heartbeat", await old.post("/heartbeat", {"agent_id": "a1"})))["status"] == "ok"
    reply = await old.done("heartbeat", await old.post("/heartbeat", {"agent_id": "nobody"}))
    assert reply["status"] == "unknown_agent"


async def test_heartbeat_and_poll_keep_an_agent_in_discover(serve: Serve) -> None:
    clock = Clock()
    old = OldClient(await serve(clock=clock), None)
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    clock.skip(100)
    await old.post("/heartbeat", {"agent_id": "a1"})
    await old.poll("b1")
    clock.skip(100)
    reply = await old.done("discover", await old.get("/discover"))
    assert {a["agent_id"] for a in reply["agents"]} == {"a1", "b1"}


async def test_a_task_goes_there_and_its_answer_comes_back(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    await old.poll("a1")
    ask = {"from_agent": "a1", "to_agent": "b1", "task": "count", "context": {"to": 3}, "priority": "high"}
    sent = await old.done("delegate", await old.post("/delegate", ask))
    (task,) = await old.poll("b1")
    assert {k: task[k] for k in ("type", *ask)} == {"type": "task_delegation", **ask}
    assert task["message_id"] == sent["message_id"]

    answer = {"from_agent": "b1", "to_agent": "a1", "message_id": task["message_id"], "result": "1 2 3"}
    await old.done("respond", await old.post("/respond", {**answer, "status": "completed"}))
    (response,) = await old.poll("a1")
    assert {k: response[k] for k in ("type", *answer)} == {"type": "task_response", **answer}
    assert response["status"] == "completed"
    assert response["response_id"] != response["message_id"]


async def test_delegate_and_respond_have_their_old_defaults(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    await old.poll("a1")
    await old.done("delegate", await old.post("/delegate", {"from_agent": "a1", "to_agent": "b1", "task": "x"}))
    (task,) = await old.poll("b1")
    assert (task["context"], task["priority"]) == ({}, "normal")
    ask = {"from_agent": "b1", "to_agent": "a1", "message_id": task["message_id"], "result": "y"}
    await old.done("respond", await old.post("/respond", ask))
    (response,) = await old.poll("a1")
    assert response["status"] == "completed"


async def test_a_broadcast_reaches_all_others(old: OldClient) -> None:
    for agent_id in ("a1", "b1", "c1"):
        await old.register(agent_id, agent_id)
    for agent_id in ("a1", "b1", "c1"):
        await old.poll(agent_id)
    ask = {"from_agent": "a1", "content": "water is wet", "topic": "nature", "tags": ["water", "news"]}
    reply = await old.done("broadcast", await old.post("/broadcast", ask))
    assert reply["recipients"] == 2
    for agent_id in ("b1", "c1"):
        (told,) = await old.poll(agent_id)
        assert {k: told[k] for k in ("type", *ask)} == {"type": "knowledge_broadcast", **ask}
        assert told["message_id"] == reply["message_id"]
    assert await old.poll("a1") == []


async def test_a_broadcast_has_its_old_defaults(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    await old.post("/broadcast", {"from_agent": "a1", "content": "hi"})
    (told,) = await old.poll("b1")
    assert (told["topic"], told["tags"]) == ("general", [])


async def test_poll_empties_the_queue(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    for n in range(120):
        await old.post("/delegate", {"from_agent": "a1", "to_agent": "b1", "task": str(n)})
    assert [m["task"] for m in await old.poll("b1")] == [str(n) for n in range(120)]
    assert await old.poll("b1") == []


async def test_others_are_told_who_joined_on_their_websockets_alone(old: OldClient, relay: Running) -> None:
    await old.register("a1", "Ann")
    headers = {} if old.token is None else {"Authorization": f"Bearer {old.token}"}
    async with relay.session.ws_connect(f"{relay.url}/ws/a1", headers=headers) as ws:
        await old.register("b1", "Bob")
        joined = await soon(ws.receive_json())
        check(joined, MESSAGES["agent_joined"])
        check(joined["agent"], AGENT)
        assert (joined["type"], joined["agent"]["agent_id"], joined["agent"]["name"]) == ("agent_joined", "b1", "Bob")
        assert "delivery" not in joined
    await old.register("c1", "Cid")
    assert [await old.poll(agent_id) for agent_id in ("a1", "b1", "c1")] == [[], [], []]


async def test_delivery_tells_whether_the_recipient_is_on_a_websocket_with_credit(
    old: OldClient, relay: Running
) -> None:
    for agent_id in ("a1", "b1"):
        await old.register(agent_id, agent_id)
    ask = {"from_agent": "a1", "to_agent": "b1", "task": "t"}

    async def route(path: str = "/delegate", **more: Any) -> Any:
        return (await old.post(path, {**ask, **more})).json["delivery"]

    assert await route() == "queued"
    await old.poll("b1")
    headers = {} if old.token is None else {"Authorization": f"Bearer {old.token}"}
    async with relay.session.ws_connect(f"{relay.url}/ws/b1?lease=60&credit=2", headers=headers) as ws:
        assert await route() == "websocket"
        task = await soon(ws.receive_json())
        assert await route("/send", content="c") == "websocket"
        await soon(ws.receive_json())
        assert await route() == "queued"  # its credit is used up
        await ws.send_json({"type": "ack", "id": 1, "receipts": [task["delivery"]["receipt"]]})
        while "reply" not in await soon(ws.receive_json()):
            pass
        asked = (await old.post("/delegate", {"from_agent": "b1", "to_agent": "a1", "task": "t"})).json
        await old.poll("a1")
    async with relay.session.ws_connect(f"{relay.url}/ws/b1", headers=headers):
        answer = {"from_agent": "a1", "message_id": asked["message_id"], "result": "r"}
        assert (await old.post("/respond", answer)).json["delivery"] == "websocket"


async def test_files_are_written_listed_and_read(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.register("b1", "Bob")
    ask = {"file_key": "notes.md", "content": "one", "agent_id": "a1", "file_type": "markdown"}
    assert (await old.done("save", await old.post("/files", ask)))["version"] == 1
    assert (await old.done("save", await old.post("/files", {**ask, "content": "two"})))["version"] == 2
    listed = await old.done("files", await old.get("/files"))
    assert listed["count"] == 1
    check(listed["files"][0], FILE)
    assert "content" not in listed["files"][0]
    read = await old.done("file", await old.get("/files/notes.md"))
    assert {k: read[k] for k in ("file_key", "content", "file_type", "last_editor", "version")} == {
        "file_key": "notes.md",
        "content": "two",
        "file_type": "markdown",
        "last_editor": "a1",
        "version": 2,
    }
    (told,) = await old.poll("b1")
    assert {k: told[k] for k in ("type", "file_key", "version", "last_editor")} == {
        "type": "file_updated",
        "file_key": "notes.md",
        "version": 2,
        "last_editor": "a1",
    }


async def test_a_file_is_text_by_default(old: OldClient) -> None:
    await old.register("a1", "Ann")
    await old.done("save", await old.post("/files", {"file_key": "k", "content": "x", "agent_id": "a1"}))
    assert (await old.done("file", await old.get("/files/k")))["file_type"] == "text"


async def test_a_missing_file_is_404_in_the_old_words(old: OldClient) -> None:
    answer = await old.get("/files/none")
    assert answer.status == 404
    assert answer.json["error"] == "file not found"


@each(
    ("path", "fields", "missing"),
    [
        ("/heartbeat", {}, "agent_id"),
        ("/delegate", {"to_agent": "b1", "task": "x"}, "from_agent"),
        ("/delegate", {"from_agent": "a1", "task": "x"}, "to_agent"),
        ("/delegate", {"from_agent": "a1", "to_agent": "b1"}, "task"),
        ("/respond", {"to_agent": "a1", "message_id": "m", "result": "r"}, "from_agent"),
        ("/respond", {"from_agent": "a1", "result": "r"}, "message_id"),
        ("/broadcast", {"content": "x"}, "from_agent"),
        ("/broadcast", {"from_agent": "a1"}, "content"),
        ("/files", {"content": "x", "agent_id": "a1"}, "file_key"),
        ("/files", {"file_key": "k", "agent_id": "a1"}, "content"),
        ("/files", {"file_key": "k", "content": "x"}, "agent_id"),
    ],
)
async def test_a_missing_field_is_400_and_named(
    old: OldClient, path: str, fields: dict[str, str], missing: str
) -> None:
    answer = await old.post(path, fields)
    assert answer.status == 400
    assert missing in answer.json["error"]
    assert answer.json["field"] == missing


@each("content_type", [None, "text/plain", "text/plain; charset=utf-8", "application/octet-stream"])
async def test_the_content_type_of_a_request_is_not_checked(old: OldClient, content_type: str | None) -> None:
    reply = await old.done("register", await old.post("/register", {"name": "Ann"}, content_type))
    assert reply["agent"]["name"] == "Ann"


@each(
    ("method", "path", "fields"),
    [
        ("GET", "/", None),
        ("GET", "/discover", None),
        ("GET", "/poll/a1", None),
        ("GET", "/files", None),
        ("GET", "/files/k", None),
        ("GET", "/no/such/route", None),
        ("POST", "/register", {"name": "Ann"}),
        ("POST", "/heartbeat", {"agent_id": "a1"}),
        ("POST", "/delegate", {"from_agent": "a1", "to_agent": "b1", "task": "x"}),
        ("POST", "/respond", {"from_agent": "a1", "to_agent": "b1", "message_id": "m", "result": "r"}),
        ("POST", "/broadcast", {"from_agent": "a1", "content": "x"}),
        ("POST", "/files", {"file_key": "k", "content": "x", "agent_id": "a1"}),
    ],
)
@each("token", [None, "wrong", TOKEN + "x", ""])
async def test_without_the_right_token_everything_is_401(
    serve: Serve, token: str | None, method: str, path: str, fields: dict[str, str] | None
) -> None:
    old = OldClient(await serve(token=TOKEN), token)  # one relay answers wrong tokens later and later
    answer = await (old.get(path) if method == "GET" else old.post(path, fields))
    assert answer.status == 401
    assert isinstance(answer.json["error"], str)
    assert TOKEN not in answer.body.decode()
