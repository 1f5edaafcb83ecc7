"""Each refusal names the field as the client sent it, the limit, and the next step."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import ok
from tests.system.raw import exchange, request

ANN, BOB = "a0a0a0a0a0a0a0a0", "b0b0b0b0b0b0b0b0"
MINE = {"ClawLink-Agent": ANN}
TUS = {**MINE, "Tus-Resumable": "1.0.0", "Upload-Length": "3"}


@pytest.fixture
async def relay(serve: Serve) -> Running:
    relay = await serve()
    await relay.register("Ann", agent_id=ANN)
    await relay.register("Bob", agent_id=BOB)
    return relay


def about(**said: str) -> dict[str, str]:
    pairs = (f"{name} {b64encode(value.encode()).decode()}" for name, value in said.items())
    return {"Upload-Metadata": ",".join(pairs)}


async def refused(
    relay: Running, method: str, path: str, body: Any = b"", headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await exchange(relay.url, request(method, path, data, **(headers or {})))
    assert 400 <= answer.status < 500, (path, answer)
    told: dict[str, Any] = answer.json
    return told


async def test_a_body_that_is_no_json_is_told_why(relay: Running) -> None:
    for body, said in [
        (b"", "the body is empty; send an object as JSON"),
        (b" \n", "the body is empty; send an object as JSON"),
        (b'{"name": "An', "the body ends before its JSON does; send all of it"),
        (b'{"name": "\\ud800"}', "half of a surrogate pair"),
        (b'{"name": "\\ud800 and more", "x": 1}', "half of a surrogate pair"),
        (b'{"name": "\\uDC00"}', "half of a surrogate pair"),
        (b'["\\uDBFF"]', "half of a surrogate pair"),
        (b'{"name": "\\ud83d\\ude00", "x": ', "the body ends before its JSON does"),
        (b'{"name": nan}', "not JSON in UTF-8"),
    ]:
        told = await refused(relay, "POST", "/register", body)
        assert told["code"] == "bad_json", body
        assert said in told["error"], (body, told)


async def test_a_word_that_is_not_taken_is_told_with_those_that_are(relay: Running) -> None:
    for method, path, body, field, said in [
        ("GET", "/discover?status=gone", b"", "status", "status must be online, stale or all, not 'gone'"),
        ("GET", f"/messages/m?agent_id={ANN}&until=read", b"", "until", "delivered, acked or answered, not 'read'"),
        ("POST", "/tickets", {"agent_id": ANN, "route": "poll"}, "route", "route must be events, not 'poll'"),
        (
            "POST",
            "/files",
            {"file_key": "k", "content": "", "agent_id": ANN, "encoding": "latin-1"},
            "encoding",
            "encoding must be utf-8 or base64, not 'latin-1'",
        ),
        (
            "POST",
            "/send",
            {"from_agent": ANN, "to_agent": "Bob", "content": 1, "priority": "asap"},
            "priority",
            "priority must be low, normal, high or urgent, not 'asap'",
        ),
    ]:
        told = await refused(relay, method, path, body)
        assert told["field"] == field, (path, told)
        assert said in told["error"], (path, told)


async def test_a_parameter_of_an_address_is_told_as_it_was_sent(relay: Running) -> None:
    for path, field, said in [
        ("/discover?limit=ten", "limit", "limit must be a whole number, not 'ten'"),
        ("/discover?limit=", "limit", "limit must be a whole number, not ''"),
        (f"/poll/{ANN}?wait=soon", "wait", "wait must be a number, not 'soon'"),
        ("/broadcasts?since=nan", "since", "since takes a time as 2026-05-13T06:51:00+00:00, or seconds"),
        ("/broadcasts?since=-inf", "since", "since takes a time as 2026-05-13T06:51:00+00:00, or seconds"),
        ("/blobs/k?version=two", "version", "version must be a whole number, not 'two'"),
    ]:
        told = await refused(relay, "GET", path)
        assert told["field"] == field, (path, told)
        assert said in told["error"], (path, told)
    told = await refused(relay, "DELETE", f"/files/k?agent_id={ANN}&force=maybe")
    assert told["error"] == "force must be true or false, not 'maybe'"
    told = await refused(relay, "POST", "/challenge", {"key_id": "x", "nonce": "n" * 16})
    assert told["error"] == "key_id must be a SHA-256: 64 hexadecimal digits, a to f small"


async def test_what_headers_said_is_told_with_the_header(relay: Running) -> None:
    beyond = "9" * 19
    await ok(relay.post("/files", {"file_key": "old", "content": "four", "agent_id": ANN}))
    for method, path, headers, field, said, limit in [
        ("PUT", "/blobs/k", {**MINE, "If-Match": '"3"'}, "If-Match", "there is no file 'k', and If-Match asks", None),
        ("PUT", "/blobs/k", {**MINE, "If-Match": "*"}, "If-Match", "write with If-None-Match: *", None),
        ("PUT", "/blobs/old", {**MINE, "If-Match": '"3"'}, "If-Match", 'write with If-Match: "1"', None),
        ("PUT", "/blobs/old", {**MINE, "If-None-Match": "*"}, "If-None-Match", "If-None-Match asks for none", None),
        ("DELETE", "/blobs/old", {**MINE, "If-Match": '"3"'}, "If-Match", "at version 1, and If-Match asks", None),
        ("PUT", "/blobs/k", {}, "agent_id", "name the asking agent: the header", None),
        (
            "PUT",
            "/blobs/k",
            {**MINE, "ClawLink-Readers": "Nobody"},
            "ClawLink-Readers",
            "no agent with the id or",
            None,
        ),
        ("PUT", "/blobs/k", {**MINE, "ClawLink-TTL": beyond}, "ClawLink-TTL", "31536000 seconds at most", 31536000),
        ("GET", "/blobs/old", {"Range": f"bytes={beyond}-"}, "Range", f"Range: bytes={beyond}- has none of", 4),
        ("GET", "/blobs/old", {"Range": "bytes=-0"}, "Range", "Range: bytes=-0 has none of the file, which has 4", 4),
        ("GET", "/blobs/old", {"Range": "bytes=4-9"}, "Range", "ask for bytes 0 to 3", 4),
        ("POST", "/uploads", {**TUS, **about(key="k"), "Upload-Length": beyond}, "Upload-Length", "67108864", 67108864),
        ("POST", "/uploads", {**TUS, **about(key="k", ttl="x")}, "ttl", "ttl in Upload-Metadata takes", 1),
        ("POST", "/uploads", {**TUS, "ClawLink-Agent": "", **about(key="k")}, "agent_id", "in Upload-Metadata", None),
    ]:
        case = (method, path, headers)
        told = await refused(relay, method, path, b"", headers)
        assert told["field"] == field, (case, told)
        assert said in told["error"], (case, told)
        assert told.get("limit") == limit, (case, told)


async def test_a_sentence_shows_names_and_no_ids(relay: Running) -> None:
    await ok(relay.post("/locks", {"agent_id": ANN, "file_key": "plan", "seconds": 60, "note": "mine"}))
    await relay.register("Cleo", claim=True)
    task = (await ok(relay.post("/delegate", {"from_agent": ANN, "to_agent": "Bob", "task": "x"})))["message_id"]
    for path, body, said in [
        ("/files", {"file_key": "plan", "content": "", "agent_id": BOB}, "is locked by 'Ann' for 60 s more (mine)"),
        ("/locks", {"file_key": "plan", "seconds": 5, "agent_id": BOB}, "ask its holder, or force it"),
        ("/register", {"name": "C1eo"}, "'C1eo' looks like the name of the claimed agent 'Cleo'; choose another name"),
        ("/respond", {"from_agent": BOB, "message_id": task, "to_agent": BOB}, "was asked by 'Ann', and only that"),
    ]:
        told = await refused(relay, "POST", path, body)
        assert said in told["error"], (path, told)
        assert ANN not in told["error"], (path, told)


async def test_a_task_is_told_by_the_part_of_the_request_that_names_it(relay: Running) -> None:
    for path, body, field, said in [
        ("/tasks/none/answer", {"from_agent": ANN, "content": 1}, "task_id", "list your tasks"),
        ("/tasks/none/cancel", {"from_agent": ANN}, "task_id", "list your tasks"),
        ("/respond", {"from_agent": ANN, "message_id": "none"}, "message_id", "use send"),
    ]:
        told = await refused(relay, "POST", path, body)
        assert told["field"] == field, path
        assert said in told["error"], path
