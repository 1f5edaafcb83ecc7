"""The door withstands what the relay's own routes withstand, and its records are counted as the relay's own."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from clawlink.bench import upkeep_scenarios
from clawlink.doors.agentrelay import DOOR
from clawlink.doors.agentrelay.bench import scenarios
from clawlink.doors.agentrelay.server.events import Events
from clawlink.doors.agentrelay.settings import Settings
from clawlink.doors.agentrelay.wire.exchange import ENDPOINTS, SendEvent
from clawlink.doors.registry import settings_of
from clawlink.server import options
from tests.conftest import Running, Serve
from tests.relay.limits.test_memory import LIMIT, LONG, OTHERS, require_refusal
from tests.relay.scene import Scene
from tests.server.asks import ok, refused
from tests.server.test_garbage import ask, body, circles_of
from tests.store.test_footprint import require_near
from tests.system.attacks import OWN, Targets
from tests.system.raw import address, exchange, request
from tests.system.test_attacks import COUNT, SEED, attack, attacked, torture

__all__ = ["attacked"]

_EVENTS = ("E1", "E2", "event_001", "e" * 300, "../E1", "E1,E2", "E\n1")
_LINES = (
    "REQ,E1,s/E1.json,,",
    "AgentRelay: REQ,E1,agentrelay/storage/E1.json,,",
    "CMP,E1,,0123456789abcdef,",
    "REQ," + "E" * 3000,
    "," * 5000,
    '["REQ", "E1", "s/E1.json"]',
    '"' * 3000 + "REQ,E1,s/E1.json",
    "REQ,E1,s/../../etc/passwd,,",
    "- " * 3000,
)
TARGETS = Targets(
    ("/ws/victim",),
    lambda random: [(e.method, e.path, tuple(field.encode_name for field in fields(e.body))) for e in ENDPOINTS],
    plausible={
        **OWN.plausible,
        "event_id": _EVENTS,
        "next_event_id": _EVENTS,
        "message": _LINES,
        "content": ({}, {"a": 1}, {"a": {"b": [1] * 300}}),
        "updates": ({}, {"a": None}, {"a" * 300: "x" * 3000}),
    },
)


@pytest.fixture
def open_doors() -> dict[str, Settings]:
    return {"agentrelay": Settings()}


def event(id: str, content: Any) -> dict[str, Any]:
    return {"from_agent": "a", "to_agent": "nobody", "event_id": id, "content": content}


@pytest.fixture
async def relay(serve: Serve) -> Running:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    return relay


async def limited(serve: Serve, *flags: str) -> Running:
    """Start a relay with these flags, and the agent a."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    told = options.read(parser.parse_args(flags), {})
    relay = await serve(doors=told.doors)
    assert settings_of(DOOR, told) != Settings()
    limits = (await ok(relay.get("/")))["limits"]
    assert {name: limits[name] for name in ("max_events", "max_events_bytes")} == vars(settings_of(DOOR, told))
    await relay.register("Ann", agent_id="a")
    return relay


async def test_max_events(serve: Serve) -> None:
    relay = await limited(serve, "--max-events", "1")
    await ok(relay.post("/agentrelay/send", event("e1", {})))
    error = await refused(relay.post("/agentrelay/send", event("e2", {})), 429, "relay_full")
    assert (error["limit"], error["actual"]) == (1, 2)


async def test_max_events_bytes(serve: Serve) -> None:
    relay = await limited(serve, "--max-events-bytes", "10")
    await ok(relay.post("/agentrelay/send", event("e1", {"a": 1})))
    assert (await ok(relay.get("/")))["doors"]["agentrelay"] == {"events": 1, "event_bytes": 7}
    error = await refused(relay.post("/agentrelay/send", event("e2", {"a": 1})), 507, "storage_full")
    assert (error["limit"], error["actual"], error["current"]["free"]) == (9, 14, 2)


async def test_a_refused_request_leaves_no_circle(relay: Running) -> None:
    asks = {"no event": ask("POST", "/agentrelay/receive", body(agent_id="a", message="REQ,no,s/no.json,,"))}
    left = await circles_of(address(relay.url), asks)
    assert not left, left


async def test_nothing_is_unpacked_and_no_reply_tells_what_the_relay_is_made_of(relay: Running) -> None:
    packed = gzip.compress(b'{"from_agent":"a"}')
    answer = await exchange(relay.url, request("POST", "/agentrelay/send", packed, Content_Encoding="gzip"))
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    for sent in (b"{}", b'{"from_agent":"a","to_agent":"b","event_id":"e","content":{}}'):
        answer = await exchange(relay.url, request("POST", "/agentrelay/send", sent))
        assert answer.headers["server"] == "ClawLink"


async def test_events_are_refused_at_the_limit_of_memory_and_answers_go_on() -> None:
    scene = Scene(max_memory=LIMIT, **OTHERS)
    kept = Events(scene.relay, Settings())

    async def send(scene: Scene, n: int) -> None:
        content = {"text": LONG}
        ask = SendEvent(from_agent="req", to_agent="nobody", event_id=f"E{n}", type="REQ", content=content)
        await kept.send(await scene.agent("req"), ask)

    await require_refusal(scene, send)


async def test_attacks_disturb_nobody(attacked: Running) -> None:
    await attack(attacked, SEED, COUNT // 4, TARGETS)


@pytest.mark.torture
@pytest.mark.both_loops
async def test_attacks_of_other_seeds_disturb_nobody(attacked: Running) -> None:
    await torture(attacked, TARGETS)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_memory_that_is_told_is_near_the_memory_that_is_taken() -> None:
    assert require_near("tests.doors.agentrelay.footprints") == 1


def test_events_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "PROCESSES", 2)
    monkeypatch.setattr(scenarios, "EVENTS", 6)
    sent, received = DOOR.measure("events", str(tmp_path), say=lambda what: None)
    assert sent.value > 0
    assert received.value > 0
    assert len(list((tmp_path / "agentrelay" / "storage").glob("*.json"))) == 6


async def test_the_upkeep_of_events_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_scenarios, "SHARE", 0.002)
    monkeypatch.setattr(upkeep_scenarios, "_STEPS", {})
    rows = await upkeep_scenarios.upkeep(say=lambda what: None, of_doors=DOOR.upkeep_steps())
    assert "upkeep, longest piece: 100,000 events end at once" in [row.what for row in rows]
