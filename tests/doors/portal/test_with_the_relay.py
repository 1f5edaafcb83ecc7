"""The door withstands what the relay's own routes withstand."""

from __future__ import annotations

import pytest
from msgspec.structs import fields

from clawlink.doors.portal.settings import Settings
from clawlink.doors.portal.wire.calls import CALLS
from tests.conftest import Running
from tests.doors.portal.conftest import OWNER, PASSWORD
from tests.system.attacks import OWN, Targets
from tests.system.test_attacks import COUNT, SEED, attack, attacked, torture

__all__ = ["attacked"]

_PORTALS = ("http://127.0.0.1:1", "https://peer.example/", "http://169.254.169.254", "https://[::1", "x" * 3000, "//")
TARGETS = Targets(
    ("/ws/victim", f"/ws/agent?api_key={OWNER}", "/ws/agent?api_key=wrong"),
    lambda random: [
        (
            call.method,
            call.url(**dict.fromkeys(call.pattern.groupindex, random.choice(("1", "-1", "0", "9" * 400, "%ff", "x"))))
            + random.choice((f"?api_key={OWNER}", "?api_key=wrong", "", "?limit=-1&since=x")),
            () if call.body is None else tuple(field.encode_name for field in fields(call.body)),
        )
        for call in CALLS
    ],
    plausible={
        **OWN.plausible,
        "api_key": (OWNER, "wrong", ""),
        "portal_url": _PORTALS,
        "from_portal": _PORTALS,
        "to_portal": _PORTALS,
        "password": (PASSWORD + "x",),
        "status": ("approved", "denied", "read"),
        "decision": ("approve", "deny", "read"),
        "content": ("hi", "https://peer.example ap2p_" + "k" * 43, "同意 1", "x" * 9000),
    },
)


@pytest.fixture
def open_doors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Settings]:
    monkeypatch.setenv("AGENTP2P_API_KEY", OWNER)
    monkeypatch.setenv("CLAWLINK_PORTAL_PASSWORD", PASSWORD)
    return {"portal": Settings(url="http://127.0.0.1:1")}


async def test_attacks_disturb_nobody(attacked: Running) -> None:
    await attack(attacked, SEED, COUNT // 4, TARGETS)


@pytest.mark.torture
@pytest.mark.both_loops
async def test_attacks_of_other_seeds_disturb_nobody(attacked: Running) -> None:
    await torture(attacked, TARGETS)
