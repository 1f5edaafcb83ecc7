"""The door withstands what the relay's own routes withstand."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import fields

from clawlink.doors.mcp.wire.tools import TOOLS
from tests.conftest import Running
from tests.system.attacks import OWN, Targets
from tests.system.test_attacks import COUNT, SEED, attack, attacked, torture

__all__ = ["attacked"]

_HOSTILE: tuple[Any, ...] = (
    "victim",
    "",
    "../../etc/passwd",
    "x" * 3000,
    2**70,
    None,
    [[]] * 300,
    {"a": {"b": []}},
    "\u202e\x1b[2J",
)
_CALLS = tuple(
    {"name": tool.name, "arguments": {field.encode_name: _HOSTILE[at % len(_HOSTILE)]}}
    for tool in TOOLS
    for at, field in enumerate(fields(tool.arguments))
)
TARGETS = Targets(
    ("/ws/victim",),
    lambda random: [
        ("POST", "/mcp", ("jsonrpc", "id", "method", "params")),
        ("POST", "/mcp", ("jsonrpc", "method", "params")),
        ("GET", "/mcp", ()),
        ("DELETE", "/mcp", ()),
    ],
    plausible={
        **OWN.plausible,
        "jsonrpc": ("2.0",),
        "method": ("initialize", "tools/call", "tools/call", "tools/list", "resources/read", "prompts/get", "x" * 300),
        "params": (
            *_CALLS,
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
            {"protocolVersion": "9999-99-99"},
            {"uri": "file:///etc/passwd"},
            {"name": "no such"},
        ),
    },
)


@pytest.fixture
def open_doors() -> dict[str, Any]:
    return {}


async def test_attacks_disturb_nobody(attacked: Running) -> None:
    await attack(attacked, SEED, COUNT // 4, TARGETS)


@pytest.mark.torture
@pytest.mark.both_loops
async def test_attacks_of_other_seeds_disturb_nobody(attacked: Running) -> None:
    await torture(attacked, TARGETS)
