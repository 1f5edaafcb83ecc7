"""What operators ask: is it up, what does it hold, what does it speak."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from clawlink.domain.limits import LIMIT_FIELDS
from clawlink.protocol.paths import ENDPOINTS
from clawlink.version import VERSION
from tests.conftest import Running, Serve
from tests.server.asks import claim_one, metrics, ok, refused, send
from tests.system.raw import Clock, exchange, request

memory = pytest.mark.parametrize("store_kind", ["memory"])


async def test_healthz_needs_no_token_and_everything_else_does(serve: Serve) -> None:
    relay = await serve(token="t")
    assert await ok(relay.get("/healthz")) == {"status": "ok", "relay_id": relay.app.relay.id}
    for path in ("/", "/metrics", "/openapi.json", "/discover", "/healthz/more"):
        status, _ = await relay.get(path)
        assert status == 401, path
    for path in ("/", "/openapi.json"):
        await ok(relay.get(path, headers={"Authorization": "Bearer t"}))


@pytest.mark.parametrize(
    "header", ["Basic dDp0", "Bearer", "Bearer ", "bearer t", "Bearer t ", "Token t", "t", "Bearer \udcff"]
)
async def test_only_the_exact_token_is_taken(serve: Serve, header: str) -> None:
    relay = await serve(token="t")
    status, body = await relay.get("/", headers={"Authorization": header})
    if header == "Bearer t ":  # white space around a header's value is not part of it
        assert status == 200
    else:
        assert (status, body["code"]) == (401, "not_authenticated")


async def test_a_token_of_any_script_works(serve: Serve) -> None:
    relay = await serve(token="schlüssel☃")
    answer = await exchange(relay.url, request("GET", "/", Authorization="Bearer schlüssel☃"))
    assert answer.status == 200


async def test_info_tells_what_the_relay_holds(pair: Running, clock: Clock) -> None:
    info = await ok(pair.get("/"))
    assert (info["service"], info["version"], info["auth_required"]) == ("ClawLink Relay", VERSION, False)
    assert info["draining"] is False
    assert set(info["limits"]) == {f.name for f in LIMIT_FIELDS}
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


@pytest.mark.parametrize(
    "path", ["/nothing", "/files/", "/poll/", "/agents", "//", "/Discover", "/discover/", "/%2e%2e/etc"]
)
async def test_an_unknown_address_is_404_in_json(relay: Running, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = await exchange(relay.url, request(method, path))
        assert (answer.status, answer.json["code"]) in ((404, "unknown_route"), (405, "method_not_allowed"))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/register", "POST"),
        ("PUT", "/files/k", "DELETE, GET"),
        ("PATCH", "/files", "GET, POST"),
        ("POST", "/discover", "GET"),
        ("DELETE", "/", "GET"),
        ("POST", "/poll/a", "GET"),
        ("OPTIONS", "/delegate", "POST"),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_ones(
    relay: Running, method: str, path: str, allowed: str
) -> None:
    answer = await exchange(relay.url, request(method, path))
    assert (answer.status, answer.json["code"], answer.json["current"]) == (405, "method_not_allowed", allowed)
    assert answer.headers["allow"] == allowed


async def test_head_is_answered_as_get_without_a_body(pair: Running) -> None:
    for path in ("/", "/healthz", "/discover", "/metrics", "/files"):
        async with pair.session.head(pair.url + path) as response:
            assert response.status in (200, 405), path


async def test_every_error_has_a_sentence_and_a_code(pair: Running) -> None:
    asks: list[Any] = [
        refused(pair.get("/nothing"), 404, "unknown_route"),
        refused(pair.ask("PUT", "/"), 405, "method_not_allowed"),
        refused(pair.ask("POST", "/send", data=b"{"), 400, "bad_json"),
        refused(pair.post("/send", {}), 400, "bad_request"),
        refused(pair.get("/poll/none"), 404, "unknown_agent"),
        refused(pair.get("/files/none"), 404, "unknown_file"),
    ]
    for ask in asks:
        body = await ask
        assert json.dumps(body)
