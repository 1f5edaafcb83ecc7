"""Bad input gets a JSON error below 500, in time, and the relay goes on."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clawlink.domain.limits import MAX_JSON_DEPTH
from clawlink.protocol.paths import ENDPOINTS
from tests.conftest import Running, Serve
from tests.server.asks import claim, nothing_due, ok, send
from tests.system.conftest import Dial
from tests.system.raw import Answer, Connection, exchange, request
from tests.tables import each
from tests.virtual_time import pass_time

HOST = b"Host: 127.0.0.1\r\n"
WITH_BODY = [e.path for e in ENDPOINTS if e.body is not None]
bodies = each("path", WITH_BODY)


@pytest.fixture
async def relay(serve: Serve) -> AsyncIterator[Running]:
    """A relay with two agents, which must be well when the test ends."""
    relay = await serve()
    await relay.register("a", agent_id="a")
    await relay.register("b", agent_id="b")
    await claim(relay, "a", 0)
    yield relay
    await send(relay, "a", "b", "still there?")
    contents = [got.message["content"] for got in await claim(relay, "b", 1, wait=1)]
    assert contents == ["still there?"]


def is_refusal(answer: Answer) -> None:
    """Check that it is a JSON error below 500."""
    assert 400 <= answer.status < 500, answer
    assert answer.headers["content-type"].startswith("application/json")
    assert isinstance(answer.json["error"], str)
    assert isinstance(answer.json["code"], str)


async def post(relay: Running, path: str, body: bytes, **headers: str) -> Answer:
    return await exchange(relay.url, request("POST", path, body, **headers))


def nested(depth: int, inner: bytes = b"1") -> bytes:
    return b"[" * depth + inner + b"]" * depth


# -- bodies that are no JSON -------------------------------------------------------------------------------------------


NO_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b'{"a":}',
    b'{"a":1,}',
    b"{'a':1}",
    b'{"a":1}{"b":2}',
    b'{"a":1} trailing',
    b"null null",
    b'"unclosed',
    b'{"a":"\x01"}',
    b'{"a":"\\x"}',
    b'{"a":"\\u12"}',
    b"NaN",
    b"Infinity",
    b"-",
    b"01",
    b"1.e5",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b'{"name":"\xff"}',
    b'{"name":"\xc3"}',
    b'{"name":"\xed\xa0\x80"}',
    b"\x00",
    b"<xml/>",
    b"agent_id=a&name=b",
    b"\x80\x04K\x01.",
]


NEEDS_NO_FIELD = (
    *("/poll/{agent_id}", "/admin/links", "/admin/sessions", "/admin/logout", "/admin/redrive-all"),
    *("/admin/tasks/{task_id}/cancel", "/admin/tasks/{task_id}/respond"),
)


@bodies
async def test_what_is_no_json_is_refused(relay: Running, path: str) -> None:
    for body in NO_JSON:
        answer = await post(relay, path, body)
        ignored = path in NEEDS_NO_FIELD and body.startswith(b'{"name":"')  # a field that it does not look at
        if not ignored:
            is_refusal(answer)
        assert answer.status == 400 or ignored, body


@bodies
async def test_json_that_is_no_object_is_refused(relay: Running, path: str) -> None:
    for body in (b"[]", b"1", b"null", b"true", b'"text"', b"1.5", b"[{}]"):
        answer = await post(relay, path, body)
        is_refusal(answer)
        assert answer.json["code"] == "bad_request", body


# -- lone surrogates, NUL, odd text ------------------------------------------------------------------------------------


@each("text", ['"\\ud800"', '"\\udfff x"', '"\\ud800\\ud800"', '"a\\udc00b"'])
@each(
    "template",
    [
        '{"from_agent":"a","to_agent":"b","content":%s}',
        '{"from_agent":"a","to_agent":"b","content":{"k":[%s]}}',
        '{"from_agent":"a","to_agent":"b","content":{%s:1}}',
        '{"from_agent":"a","to_agent":%s,"content":1}',
        '{"from_agent":%s,"to_agent":"b","content":1}',
        '{"from_agent":"a","to_agent":"b","content":1,"unknown":%s}',
        '{"from_agent":"a","to_agent":"b","content":1,"thread":%s}',
        '{"from_agent":"a","to_agent":"b","content":1,"idempotency_key":%s}',
    ],
)
async def test_a_lone_surrogate_is_refused_or_ignored(relay: Running, template: str, text: str) -> None:
    """Accepted text must be UTF-8, for other agents have to read it."""
    answer = await post(relay, "/send", (template % text).encode())
    if answer.status == 200:
        (got,) = await claim(relay, "b", 1)
        json.dumps(got.message, ensure_ascii=False).encode()
        await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))
    else:
        is_refusal(answer)
        assert answer.json["code"] != "bad_json" or "half of a surrogate pair" in answer.json["error"], answer


@each("text", ["\x00", "a\x00b", "\x7f\x80\x9f", "\u2028\u2029", "\ufeff", "\U0010ffff", "\ufffe"])
async def test_odd_but_valid_text_arrives_as_it_was_sent(relay: Running, text: str) -> None:
    await send(relay, "a", "b", {text: [text]}, thread=text[:128])
    (got,) = await claim(relay, "b", 1)
    assert got.message["content"] == {text: [text]}
    assert got.message["thread"] == text[:128]
    await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))


@each("field", ["agent_id", "name"])
@each("text", ["\x00", "a\x00b", "\r\nX: y", "\x1b[31m", "\u2028", "\x85", "\n", "a\n"])
async def test_ids_and_names_have_no_control_characters(relay: Running, field: str, text: str) -> None:
    answer = await post(relay, "/register", json.dumps({field: text}).encode())
    is_refusal(answer)
    assert answer.json["field"] == field


# -- depth and size ----------------------------------------------------------------------------------------------------


async def test_nesting_is_taken_to_its_bound_and_no_further(relay: Running) -> None:
    send = b'{"from_agent":"a","to_agent":"b","content":%s}'
    assert (await post(relay, "/send", send % nested(MAX_JSON_DEPTH - 1))).status == 200
    for depth in (MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1, 1000):
        answer = await post(relay, "/send", send % nested(depth))
        is_refusal(answer)
        assert answer.json["limit"] == MAX_JSON_DEPTH
    (got,) = await claim(relay, "b", 1)
    await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))


DEEP = {
    "array": nested(100_000),
    "open": b"[" * 100_000,
    "close": b"]" * 100_000,
    "objects": b'{"a":' * 100_000,
    "unknown": b'{"unknown":' + nested(100_000) + b"}",
    "closed objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "mixed": b"[{" * 50_000,
    "flat": b"[]{}" * 100_000,
    "slashes": b'"' + b"\\" * 100_001,
    "no end": b"[" * 65 + b'"' + b"a" * 30,
}


@bodies
async def test_a_hundred_thousand_brackets_are_refused_at_once(relay: Running, path: str) -> None:
    for name, body in DEEP.items():
        try:
            answer = await asyncio.wait_for(post(relay, path, body), 15)
        except asyncio.TimeoutError:
            raise AssertionError(name) from None
        is_refusal(answer)


async def test_brackets_in_strings_are_no_nesting(relay: Running) -> None:
    await send(relay, "a", "b", {"text": '[{"' * 1000, "q": '\\"[' * 1000})
    (got,) = await claim(relay, "b", 1)
    assert got.message["content"] == {"text": '[{"' * 1000, "q": '\\"[' * 1000}
    await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))


@each("number", ["1e400", "-1e400", "9" * 400, "9" * 5000, "0." + "1" * 5000, "1e-400", "1" + "0" * 308, "-0", "1E+2"])
async def test_huge_numbers_are_refused_or_arrive_as_json(relay: Running, number: str) -> None:
    answer = await post(relay, "/send", b'{"from_agent":"a","to_agent":"b","content":[%s]}' % number.encode())
    if answer.status == 200:
        (got,) = await claim(relay, "b", 1)
        assert got.message["content"] == [json.loads(number)]
        await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))
    else:
        is_refusal(answer)


@each("query", ["wait=" + "9" * 4000, "wait=1e999", "max=" + "9" * 4000, "lease=-1e999", "wait=NaN"])
async def test_huge_numbers_in_a_query_are_refused(relay: Running, query: str) -> None:
    is_refusal(await exchange(relay.url, request("GET", f"/poll/a?{query}")))


TEN_MEGABYTES = b'{"name":"' + b"x" * 10_000_000 + b'"}'


@bodies
async def test_ten_megabytes_are_refused_from_their_stated_length(relay: Running, dial: Dial, path: str) -> None:
    """The refusal comes before the body does."""
    connection = await dial(relay.url)
    await connection.send(request("POST", path, Content_Length=str(len(TEN_MEGABYTES))) + TEN_MEGABYTES[:1000])
    answer = await connection.answer(5)
    is_refusal(answer)
    assert (answer.status, answer.json["code"], answer.json["limit"]) == (413, "too_large", 2**20)
    assert answer.json["actual"] == len(TEN_MEGABYTES)


async def test_ten_megabytes_sent_at_once_are_refused(relay: Running) -> None:
    status, body = await relay.ask("POST", "/send", data=io.BytesIO(TEN_MEGABYTES))
    assert (status, body["code"]) == (413, "too_large")


async def test_ten_megabytes_without_a_stated_length_are_refused(relay: Running) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(TEN_MEGABYTES), 100_000):
            yield TEN_MEGABYTES[at : at + 100_000]

    status, body = await relay.ask("POST", "/send", data=chunks())
    assert (status, body["code"], body["limit"]) == (413, "too_large", 2**20)


async def test_nothing_is_unpacked(relay: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for JSON nor for bytes as they are, whatever it was packed with."""

    def unpack(*args: object, **options: object) -> None:
        raise AssertionError("a body was unpacked")

    monkeypatch.setattr("aiohttp.http_parser.ZLibDecompressor", unpack)
    small = b'{"from_agent":"a","to_agent":"b","content":"packed"}'
    for path in ("/send", "/blobs/k"):
        for encoding, body in (
            ("gzip", gzip.compress(small)),
            ("gzip", gzip.compress(TEN_MEGABYTES)),
            ("GZip", b"no gzip"),
            ("deflate", zlib.compress(small)),
            ("br", b"\x0b"),
            ("zstd", b"\x28\xb5\x2f\xfd"),
            ("identity, gzip", gzip.compress(small)),
            ("x-unknown", small),
        ):
            method = "PUT" if path == "/blobs/k" else "POST"
            headers = {"Content_Encoding": encoding, "ClawLink_Agent": "a"}
            answer = await exchange(relay.url, request(method, path, body, **headers))
            is_refusal(answer)
            assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type"), (path, encoding)
            assert answer.json["field"] == "Content-Encoding", (path, encoding)
            assert "send the bytes as they are" in answer.json["error"], (path, encoding)
    assert (await post(relay, "/send", small, Content_Encoding="identity")).status == 200
    (got,) = await claim(relay, "b", 1)
    await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))


# -- wrong types and unknown fields ------------------------------------------------------------------------------------

VALID: dict[str, dict[str, Any]] = {
    "/register": {"name": "n", "capabilities": ["c"], "subscriptions": ["*"]},
    "/challenge": {"key_id": "0" * 64, "nonce": "n" * 16},
    "/kick": {"agent": "nobody"},
    "/admin/redrive": {"agent": "nobody"},
    "/admin/stop": {"stopped": False},
    "/admin/delegate": {"to_agent": "b", "task": "t", "context": {}, "priority": "low", "deadline": 60},
    "/admin/send": {"to_agent": "b", "content": 1, "in_reply_to": "m", "priority": "low", "idempotency_key": "k"},
    "/admin/broadcast": {"content": "c", "topic": "t", "tags": ["x"], "idempotency_key": "k"},
    "/admin/tasks/{task_id}/answer": {"content": 1},
    "/admin/tasks/{task_id}/cancel": {"note": "n"},
    "/admin/tasks/{task_id}/respond": {"result": 1, "status": "failed", "note": "n", "idempotency_key": "k"},
    "/admin/redrive-all": {"limit": 5, "reason": "lapsed"},
    "/admin/unlock": {"file_key": "k"},
    "/admin/rename": {"agent": "nobody", "name": "n"},
    "/admin/inbox": {"message_ids": ["m"]},
    "/admin/links": {"read_only": True, "seconds": 60},
    "/admin/sessions": {"code": "c", "admin_token": "t"},
    "/admin/logout": {"all": False},
    "/tickets": {"agent_id": "a"},
    "/heartbeat": {"agent_id": "a"},
    "/sleep": {"agent_id": "a", "forget_after": 3600},
    "/delegate": {"from_agent": "a", "to_agent": "b", "task": "t", "context": {}, "priority": "low", "deadline": 60},
    "/respond": {
        "from_agent": "a",
        "message_id": "m",
        "status": "failed",
        "to_agent": "b",
        "progress": 5,
        "note": "n",
        "receipt": "r",
    },
    "/tasks/{task_id}/cancel": {"from_agent": "a", "note": "n"},
    "/tasks/{task_id}/answer": {"from_agent": "a", "content": 1, "idempotency_key": "k"},
    "/send": {"from_agent": "a", "to_agent": "b", "content": 1, "thread": "t", "in_reply_to": "m"},
    "/broadcast": {"from_agent": "a", "content": "c", "topic": "t", "tags": ["x"], "ttl": 60},
    "/poll/{agent_id}": {"ack": ["r"], "nack": ["r"], "delay": 1, "wait": 1, "max": 1, "lease": 60},
    "/ack": {"agent_id": "a", "receipts": ["r"]},
    "/nack": {"agent_id": "a", "receipts": ["r"], "delay": 1},
    "/extend": {"agent_id": "a", "receipts": ["r"], "lease": 60},
    "/redrive": {"agent_id": "a", "message_ids": ["m"]},
    "/files": {"file_key": "k", "content": "c", "agent_id": "a", "file_type": "t", "encoding": "utf-8"},
    "/locks": {"file_key": "k", "agent_id": "a", "seconds": 60, "note": "n"},
    "/messages/{message_id}/woken": {"agent_id": "a", "adapter": "x", "result": "started", "note": "n"},
}
ANYTHING = {
    ("/respond", "result"),
    ("/send", "content"),
    ("/tasks/{task_id}/answer", "content"),
    ("/delegate", "task"),
    ("/delegate", "context"),
    ("/broadcast", "content"),
    ("/admin/delegate", "task"),
    ("/admin/delegate", "context"),
    ("/admin/send", "content"),
    ("/admin/broadcast", "content"),
    ("/admin/tasks/{task_id}/answer", "content"),
    ("/admin/tasks/{task_id}/respond", "result"),
}


def test_every_body_has_an_example() -> None:
    assert set(VALID) == set(WITH_BODY)


def _may_be_right(value: Any, valid: Any) -> bool:
    """Tell whether a value is of the kind that a field takes; what is in a list is looked at apart."""
    if isinstance(valid, list) and isinstance(value, list):
        return value == []
    return isinstance(value, type(valid)) or (type(valid) is int and value in (1, -1.5))


@bodies
async def test_every_field_of_a_wrong_type_is_400_and_named(relay: Running, path: str) -> None:
    wrong: list[Any] = [True, 1, -1.5, "\x00", [], [[]], {}, {"a": 1}, [None]]
    for field, valid in VALID[path].items():
        for value in wrong:
            if (path, field) in ANYTHING or _may_be_right(value, valid):
                continue
            status, body = await relay.post(path, {**VALID[path], field: value})
            assert (status, body["code"]) == (400, "bad_request"), (field, value, body)
            assert body["field"].startswith(field)
    agents = (await ok(relay.get("/discover?status=all")))["agents"]
    assert [one["agent_id"] for one in agents if "person" not in one] == ["a", "b"]


@bodies
async def test_unknown_fields_are_ignored(relay: Running, path: str) -> None:
    more = {"from_the_future": {"deep": [1]}, "type": "x", "__class__": "y", "": None, "\x00": 1, "é" * 1000: 2}
    status, body = await relay.post(path, {**VALID[path], **more})
    code = body.get("code")
    wrong_code = path == "/admin/sessions" and (status, code) == (401, "not_authenticated")
    assert wrong_code or (status, code) in (
        (200, None),
        (404, "unknown_task"),
        (404, "unknown_message"),
        (404, "unknown_agent"),
        (404, "unknown_file"),
    )
    if path.removeprefix("/admin") in ("/delegate", "/send", "/broadcast", "/files"):
        got = await claim(relay, "b", 1)
        await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got[0].receipt]}))


async def test_of_a_field_given_twice_one_counts(relay: Running) -> None:
    body = b'{"from_agent":"a","to_agent":"nobody","to_agent":"b","content":1}'
    assert (await post(relay, "/send", body)).status in (200, 404)
    for _ in range(2):
        reply = await ok(relay.get("/poll/b"))
    assert reply["count"] == 0


# -- addresses and headers ---------------------------------------------------------------------------------------------


@each(
    ("method", "path"),
    [
        ("GET", "/files/%zz"),
        ("GET", "/files/%"),
        ("GET", "/files/%ff"),
        ("GET", "/files/%00"),
        ("GET", "/files/%ED%A0%80"),
        ("GET", "/poll/%ff"),
        ("GET", "/poll/%2e%2e"),
        ("GET", "/poll/a%00"),
        ("GET", "/dead-letters/%C3"),
        ("GET", "/tasks/%ff?agent_id=a"),
        ("GET", "/tasks/%00?agent_id=a"),
        ("GET", "/tasks/x?agent_id=%ff"),
        ("GET", "/tasks/x?agent_id=a&since=-1"),
        ("GET", "/tasks/x?agent_id=a&since=1.5"),
        ("GET", "/tasks/x?agent_id=a&wait=1e999"),
        ("GET", "/tasks?agent_id=a&status=%ff"),
        ("GET", "/tasks?agent_id=a&limit=" + "9" * 400),
        ("GET", "/tasks/x/cancel"),
        ("POST", "/tasks/%ff/cancel"),
        ("POST", "/tasks/x/answer/more"),
        ("GET", "/broadcasts?since=yesterday"),
        ("GET", "/broadcasts?since=%00"),
        ("GET", "/broadcasts?topic="),
        ("GET", "/broadcasts?topic=%0a"),
        ("GET", "/broadcasts?limit=0"),
        ("GET", "/messages/x?agent_id=a&until=seen"),
        ("GET", "/messages/x?agent_id=a&wait=61"),
        ("GET", "/messages/%ff?agent_id=a"),
        ("GET", "/messages/x?agent_id=%ff"),
        ("GET", "/messages/x?agent_id=%ED%A0%80"),
        ("DELETE", "/agents/%ff"),
        ("DELETE", "/files/%ff?agent_id=%ff"),
        ("GET", "/blobs/%ff"),
        ("GET", "/blobs/%ED%A0%80"),
        ("GET", "/blobs/%00"),
        ("GET", "/blobs/x?version=%ff"),
        ("GET", "/blobs/x?versions&wait=1e999"),
        ("GET", "/blobs/../../etc/passwd"),
        ("GET", "/blobs/"),
        ("PUT", "/blobs/"),
        ("PUT", "/blobs"),
        ("DELETE", "/blobs/%ff?agent_id=a"),
        ("DELETE", "/blobs/x?agent_id=a&read=maybe"),
        ("DELETE", "/locks/%ff?agent_id=a"),
        ("DELETE", "/locks/"),
        ("GET", "/locks/x"),
        ("GET", "/uploads/x"),
        ("GET", "/uploads"),
        ("PATCH", "/uploads"),
        ("PATCH", "/uploads/%ff"),
        ("POST", "/uploads/x/y"),
        ("DELETE", "/uploads/%00"),
        ("OPTIONS", "/blobs/x"),
        ("GET", "/poll/" + "x" * 7000),
        ("GET", "/files/" + "%41" * 2000),
        ("GET", "/../../etc/passwd"),
        ("GET", "/files/../../etc/passwd"),
        ("GET", "/poll/a?lease=%ff"),
        ("GET", "/poll/a?wait=1&wait=x&wait=2&lease=\x7f"),
        ("GET", "/discover?status=%00"),
        ("GET", "http://evil.example/nothing"),
        ("OPTIONS", "*"),
        ("CONNECT", "evil.example:443"),
    ],
)
async def test_an_odd_address_is_refused(relay: Running, method: str, path: str) -> None:
    is_refusal(await exchange(relay.url, request(method, path)))


@each("query", ["name=%ff", "name=%ED%A0%80", "capability=%00", "name=" + "x" * 128, "&&&=&=x", "%ff=1"])
async def test_an_odd_question_finds_nobody_or_is_refused(relay: Running, query: str) -> None:
    answer = await exchange(relay.url, request("GET", f"/discover?status=all&{query}"))
    if answer.status == 200:
        assert answer.json["count"] in (0, 2)
    else:
        is_refusal(answer)


@each("name", ["Authorization", "ClawLink-Agent-Key", "ClawLink-Agent", "Idempotency-Key", "X-Other"])
@each("value", ["\udcff\udcfe", "é☃", "x" * 8000, ""])
async def test_odd_headers_break_nothing(relay: Running, name: str, value: str) -> None:
    headers: dict[str, Any] = {name: value}
    answer = await exchange(relay.url, request("POST", "/heartbeat", b'{"agent_id":"a"}', **headers))
    assert answer.status == 200 or 400 <= answer.status < 500
    is_refusal(await exchange(relay.url, request("DELETE", "/files/none", **headers)))


GARBAGE = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b"/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method of no standard": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a version to come": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n",
    "a line too long": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a header too long": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: 1\r\n" % n for n in range(300)) + b"\r\n",
    "a header with a space": b"GET / HTTP/1.1\r\n" + HOST + b"Bad Header: x\r\n\r\n",
    "a header with NUL": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "a length that is none": b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
    "a length below nothing": b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "smuggling": b"POST /send HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk that is none": b"POST /send HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "no gzip": b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "no deflate": b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
    "an unknown packing": b"POST /send HTTP/1.1\r\n" + HOST + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
    "wonders expected": b"POST /send HTTP/1.1\r\n" + HOST + b"Expect: wonders\r\nContent-Length: 2\r\n\r\n{}",
    "raw bytes in the address": b"GET /files/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "an address that is none": b"GET http://[bad/ HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_what_is_no_http_is_answered_in_json_and_not_logged(
    relay: Running, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    is_refusal(await exchange(relay.url, garbage))
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR" or r.exc_info] == []


@pytest.mark.virtual_time
async def test_a_body_that_turns_bad_halfway_is_refused(relay: Running, dial: Dial) -> None:
    """aiohttp tells nobody that the rest of a body cannot be read, so the answer comes when it is given up."""
    connection = await dial(relay.url)
    await connection.send(b"POST /send HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    await ok(relay.get("/healthz"))
    await connection.send(b"nonsense\r\n")
    is_refusal(await connection.answer(60))


async def test_a_client_that_goes_in_the_middle_of_its_body_is_no_error(
    relay: Running, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    for hang_up in (Connection.close, Connection.reset):
        connection = await dial(relay.url)
        await connection.send(request("POST", "/send", Content_Length="100") + b"{")
        await ok(relay.get("/healthz"))
        hang_up(connection)
        await ok(relay.get("/healthz"))
    assert [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


# -- slow ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_body_that_does_not_come_is_given_up(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    answer = await connection.ask(request("POST", "/send", Content_Length="100") + b'{"from_agent"', 60)
    is_refusal(answer)
    assert (answer.status, answer.json["code"]) == (408, "body_timeout")


@pytest.mark.virtual_time
async def test_a_body_that_drips_is_given_up(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    await connection.send(request("POST", "/send", Content_Length="1000"))
    answering = asyncio.create_task(connection.answer(60))
    while not answering.done():
        await connection.send(b" ")
        await pass_time(1)
    assert (await answering).status == 408


@pytest.mark.virtual_time
async def test_a_slow_but_steady_body_is_taken(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    body = b'{"agent_id":"a"}'
    await connection.send(request("POST", "/heartbeat", Content_Length=str(len(body))))
    for at in range(len(body)):
        await connection.send(body[at : at + 1])
        await pass_time(1)
    assert (await connection.answer()).json == {"status": "ok"}


async def test_many_half_requests_do_not_keep_others_waiting(relay: Running, dial: Dial) -> None:
    for n in range(200):
        connection = await dial(relay.url)
        await connection.send([b"GET /disc", request("POST", "/send", Content_Length="100") + b"{"][n % 2])
    await asyncio.wait_for(send(relay, "a", "b"), 15)
    (got,) = await claim(relay, "b", 1)
    await ok(relay.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))


async def test_requests_sent_ahead_are_answered_in_order(relay: Running, dial: Dial) -> None:
    connection = await dial(relay.url)
    sends = [b'{"from_agent":"a","to_agent":"b","content":%d}' % n for n in range(20)]
    await connection.send(b"".join(request("POST", "/send", body) for body in sends) + request("GET", "/healthz"))
    for _ in range(20):
        assert (await connection.answer()).status == 200
    assert (await connection.answer()).json["status"] == "ok"
    got = await claim(relay, "b", 20)
    assert [g.message["content"] for g in got] == list(range(20))
    await ok(relay.post("/ack", {"agent_id": "b", "receipts": [g.receipt for g in got]}))
    await nothing_due(relay, "b")
