"""The door withstands what the relay's own routes and websockets withstand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clawlink.doors.agentlink import Settings
from tests.conftest import Running, Serve
from tests.doors.agentlink.conftest import NEW_C
from tests.server.test_garbage import ask, body, circles_of
from tests.server.test_masks import require_masks
from tests.system.attacks import Targets
from tests.system.conftest import Starting, start_live
from tests.system.raw import address
from tests.system.test_attacks import COUNT, SEED, attack, attacked, torture
from tests.system.test_storms import LARGE, require_no_growth

__all__ = ["attacked", "start_live"]

REFUSED = {
    "an unsigned frame": ask("POST", "/api/v1/send", body(**{"from": "c/x", "to": "c/y", "content": "x"})),
    "a frame of nobody": ask("POST", "/api/v1/send", body(**{"from": "no/x", "to": "c/y", "content": "x"})),
    "no frame": ask("POST", "/api/v1/send", b"[]"),
    "no instance": ask("POST", "/api/v1/register", body(instance_id="")),
}
TARGETS = Targets(
    ("/agentlink",),
    lambda random: (
        ("POST", "/api/v1/register", ("instance_id", "public_key", "name")),
        ("POST", "/api/v1/send", ("from", "to", "message", "signature", "id")),
    ),
)


@pytest.fixture
def store_kind() -> str:
    return "memory"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "relay-config.json"
    path.write_text(json.dumps({"registered_instances": [NEW_C]}), encoding="utf-8")
    return str(path)


@pytest.fixture
def open_doors(config: str) -> dict[str, Settings]:
    return {"agentlink": Settings(config)}


async def test_a_refused_request_leaves_no_circle(serve: Serve, open_doors: dict[str, Settings]) -> None:
    relay = await serve(doors=open_doors)
    left = await circles_of(address(relay.url), REFUSED)
    assert not left, left


async def test_an_unmasked_frame_ends_the_connection_with_1002(serve: Serve, open_doors: dict[str, Settings]) -> None:
    await require_masks(await serve(doors=open_doors), "/agentlink")


async def test_attacks_disturb_nobody(attacked: Running) -> None:
    await attack(attacked, SEED, COUNT // 4, TARGETS)


@pytest.mark.torture
@pytest.mark.both_loops
async def test_attacks_of_other_seeds_disturb_nobody(attacked: Running) -> None:
    await torture(attacked, TARGETS)


@pytest.mark.storm
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
async def test_the_third_storm_ends_hardly_above_the_first(start_live: Starting, config: str) -> None:
    relay = start_live("--agentlink-config", config)
    await require_no_growth(
        relay, {"/api/v1/send": {"from": "c/x", "to": "c/y", "content": LARGE, "signature": "wrong"}}
    )
