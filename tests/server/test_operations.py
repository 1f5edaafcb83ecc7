"""Questions of operators: is the relay up, how much does it hold, which protocol does it speak."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clawlink.domain.limits import LIMIT_FIELDS
from clawlink.doors.registry import doors, limit_fields
from clawlink.protocol.paths import ENDPOINTS
from clawlink.version import VERSION
from tests.conftest import Running, Serve
from tests.server.asks import claim_one, metrics, ok, refused, send
from tests.system.raw import Clock, connect, exchange, read_answer, request
from tests.tables import each

_PAGE = Path(__file__).parent.parent.parent / "references" / "protocol.md"
memory = pytest.mark.parametrize("store_kind", ["memory"])


async def test_healthz_needs_no_token_and_everything_else_does(serve: Serve) -> None:
    relay = await serve(token="t")
    for path in ("/healthz", "/readyz"):
        assert await ok(relay.get(path)) == {"status": "ok", "relay_id": relay.app.relay.id, "stopped": False}
    for path in ("/", "/metrics", "/openapi.json", "/discover", "/healthz/more"):
        status, _ = await relay.get(path)
        assert status == 401, path
    for path in ("/", "/openapi.json"):
        await ok(relay.get(path, headers={"Authorization": "Bearer t"}))


@pytest.mark.parametrize(
    "header", ["Basic dDp0", "Bearer", "Bearer ", "Bearert", "Bearer t x", "Bearer T", "Token t", "t", "Bearer \udcff"]
)
async def test_only_the_exact_token_is_taken(serve: Serve, header: str) -> None:
    relay = await serve(token="t")
    status, body = await relay.get("/", headers={"Authorization": header})
    assert (status, body["code"]) == (401, "not_authenticated")


async def test_the_scheme_is_taken_in_any_case_and_blanks_around_a_value_are_no_part_of_it(serve: Serve) -> None:
    """RFC 9110, 5.5 and 11.1. Versions of aiohttp differ in whether they take the blank away."""
    relay = await serve(token="t")
    for header in ("bearer t", "BEARER t", "Bearer  t", "Bearer t ", "Bearer t\t", "  Bearer t"):
        assert (await exchange(relay.url, request("GET", "/", Authorization=header))).status == 200, header
    page = " ".join(_PAGE.read_text(encoding="utf-8").split())
    assert "So `Bearer <token>` with a blank at its end is the same token." in page


async def test_a_token_of_any_script_works(serve: Serve) -> None:
    relay = await serve(token="schlüssel☃")
    answer = await exchange(relay.url, request("GET", "/", Authorization="Bearer schlüssel☃"))
    assert answer.status == 200


async def test_info_tells_what_the_relay_holds(pair: Running, clock: Clock) -> None:
    info = await ok(pair.get("/"))
    assert (info["service"], info["version"], info["auth_required"]) == ("ClawLink Relay", VERSION, False)
    assert info["draining"] is False
    of_open_doors = limit_fields(door for door in doors() if door.name in info["doors"])
    assert set(info["limits"]) == {f.name for f in (*LIMIT_FIELDS, *of_open_doors)}
    assert info["endpoints"] == {e.name: f"{e.method} {e.path}" for e in ENDPOINTS}


@memory
async def test_info_counts_agents_messages_broadcasts_and_files(pair: Running, clock: Clock) -> None:
    before = await ok(pair.get("/"))
    await send(pair, "a", "b", "x" * 100)
    await ok(pair.post("/broadcast", {"from_agent": "a", "content": "c"}))
    await ok(pair.post("/files", {"file_key": "k", "content": "c", "agent_id": "a"}))
    info = await ok(pair.get("/"))
    assert (info["agents_online"], info["agents_stale"]) == (2, 0)
    assert (info["total_broadcasts"], info["shared_files"]) == (1, 1)
    assert info["messages_held"] == before["messages_held"] + 3
    assert info["bytes_held"] > before["bytes_held"] + 100
    clock.skip(121)
    info = await ok(pair.get("/"))
    assert (info["agents_online"], info["agents_stale"]) == (0, 2)


async def test_metrics_are_well_formed_prometheus_text(pair: Running) -> None:
    await send(pair, "a", "b")
    async with pair.session.get(pair.url + "/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.content_type == "text/plain"
        text = await response.text()
    assert text.endswith("\n")
    helped, typed, seen = set(), {}, set()
    for line in text.splitlines():
        if found := re.fullmatch(r"# HELP (clawlink_[a-z_]+) (\S.*)", line):
            helped.add(found[1])
        elif found := re.fullmatch(r"# TYPE (clawlink_[a-z_]+) (counter|gauge)", line):
            typed[found[1]] = found[2]
        else:
            found = re.fullmatch(r'(clawlink_[a-z_]+)(\{version="[^"]+"\})? (-?[0-9.e+-]+)', line)
            assert found, line
            float(found[3])
            assert found[1] not in seen
            seen.add(found[1])
            assert (typed[found[1]] == "counter") == found[1].endswith("_total")
    assert helped == set(typed) == seen


@memory
async def test_metrics_count_what_happens(pair: Running) -> None:
    await send(pair, "a", "b")
    got = await claim_one(pair, "b")
    await ok(pair.post("/nack", {"agent_id": "b", "receipts": [got.receipt]}))
    got = await claim_one(pair, "b")
    await ok(pair.post("/ack", {"agent_id": "b", "receipts": [got.receipt]}))
    await pair.get("/no/such/route")
    counted = await metrics(pair)
    expected = {"delivered_total": 2, "nacked_total": 1, "acked_total": 1, "refused_total": 1, "waiting_polls": 0}
    assert {name: counted[name] for name in expected} == expected


async def test_openapi_is_served_as_json(relay: Running) -> None:
    answer = await exchange(relay.url, request("GET", "/openapi.json"))
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json["openapi"].startswith("3.1")


@each("path", ["/nothing", "/files/", "/poll/", "/agents", "//", "/Discover", "/discover/", "/%2e%2e/etc"])
async def test_an_unknown_address_is_404_in_json(relay: Running, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = await exchange(relay.url, request(method, path))
        assert (answer.status, answer.json["code"]) in ((404, "unknown_route"), (405, "method_not_allowed"))


async def test_a_dot_in_an_address_stands_for_itself(relay: Running) -> None:
    answer = await exchange(relay.url, request("GET", "/openapi-json"))
    assert (answer.status, answer.json["code"]) == (404, "unknown_route")


@each(
    ("method", "path", "allowed"),
    [
        ("GET", "/register", "POST"),
        ("PUT", "/files/k", "DELETE, GET, HEAD"),
        ("PATCH", "/files", "GET, HEAD, POST"),
        ("POST", "/discover", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("DELETE", "/poll/a", "GET, POST"),
        ("HEAD", "/poll/a", "GET, POST"),
        ("HEAD", "/events/a", "GET"),
        ("HEAD", "/ws/a", "GET"),
        ("HEAD", "/ack", "POST"),
        ("OPTIONS", "/delegate", "POST"),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_ones(
    relay: Running, method: str, path: str, allowed: str
) -> None:
    answer = await exchange(relay.url, request(method, path))
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert (answer.json["code"], answer.json["current"]) == ("method_not_allowed", allowed)


async def test_head_is_answered_as_get_without_a_body(pair: Running) -> None:
    await ok(pair.post("/files", {"file_key": "k", "content": "c", "agent_id": "a"}))
    given = ("/", "/healthz", "/discover", "/metrics", "/openapi.json", "/files", "/files/k", "/blobs", "/blobs/k")
    for path in (*given, "/broadcasts", "/tasks?agent_id=a", "/dead-letters/a"):
        connection = await connect(pair.url)
        await connection.send(request("HEAD", path) + request("GET", path))  # a body would be taken for the next reply
        head = await read_answer(connection.reader, body=False)
        get = await connection.answer()
        connection.close()
        assert (head.status, get.status) == (200, 200), path
        assert head.headers["content-type"] == get.headers["content-type"], path
    assert (await exchange(pair.url, request("HEAD", "/files/none"))).status == 404


async def test_head_of_a_file_for_one_reader_does_not_burn_it(pair: Running) -> None:
    for path in ("/files/k", "/blobs/k"):
        put = request("PUT", "/blobs/k", b"secret", ClawLink_Agent="a", ClawLink_Burn_After_Read="1")
        await exchange(pair.url, put)
        for _ in range(2):
            assert (await exchange(pair.url, request("HEAD", path))).status == 200, path
        assert (await exchange(pair.url, request("GET", path, ClawLink_Agent="b"))).status == 200, path
        assert (await exchange(pair.url, request("DELETE", "/blobs/k?read=true", ClawLink_Agent="b"))).status == 200


async def test_no_reply_tells_what_the_relay_is_made_of(pair: Running) -> None:
    """Neither a route nor a refusal, neither a websocket nor a stream nor what is no HTTP at all."""
    put = request("PUT", "/blobs/k", bytes(300_000), ClawLink_Agent="a")
    assert (await exchange(pair.url, put)).headers["server"] == "ClawLink"
    upgrade: dict[str, Any] = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    asked = {
        "a route": request("GET", "/"),
        "a refusal": request("GET", "/nothing"),
        "HEAD": request("HEAD", "/healthz"),
        "closing": request("GET", "/", Connection="close"),
        "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
        "a blob": request("GET", "/blobs/k"),
        "not modified": request("GET", "/blobs/k", If_None_Match='"1"'),
        "a websocket": request("GET", "/ws/a", Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", **upgrade),
        "events": request("GET", "/events/a"),
        "no HTTP": b"nonsense\r\n\r\n",
        "a header too long": b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    }
    for name, sent in asked.items():
        connection = await connect(pair.url)
        await connection.send(sent)
        head = (await connection.reader.readuntil(b"\r\n\r\n")).decode()
        connection.close()
        assert re.findall(r"(?mi)^server: (.*?)\r$", head) == ["ClawLink"], (name, head)
        assert "aiohttp" not in head.lower(), name


async def test_every_error_has_a_sentence_and_a_code(pair: Running) -> None:
    asks: list[Any] = [
        refused(pair.get("/nothing"), 404, "unknown_route"),
        refused(pair.ask("PUT", "/"), 405, "method_not_allowed"),
        refused(pair.ask("POST", "/send", data=b"{"), 400, "bad_json"),
        refused(pair.post("/send", {}), 400, "bad_request"),
        refused(pair.get("/dead-letters/none"), 404, "unknown_agent"),
        refused(pair.get("/files/none"), 404, "unknown_file"),
    ]
    for ask in asks:
        body = await ask
        assert json.dumps(body)
