"""A relay process that serves Agent Link: TLS from end to end, and going with grace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink.agentlink import AgentLink
from clawlink.errors import RelayUnreachable
from tests.conftest import Start
from tests.doors.agentlink.conftest import ALL, SECRETS
from tests.doors.agentlink.test_link import Box

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "relay-config.json"
    path.write_text(json.dumps({"registered_instances": ALL}), encoding="utf-8")
    return "--agentlink-config", str(path)


async def test_wss_with_a_certificate_of_ones_own(start_relay: Start, flags: tuple[str, str]) -> None:
    cert = str(DATA / "tls-cert.pem")
    relay = start_relay(*flags, "--tls-cert", cert, "--tls-key", str(DATA / "tls-key.pem"))
    url = relay.url.replace("https://", "wss://") + "/agentlink"
    box = Box()
    async with AgentLink(url, SECRETS["c"], "c", "carol", ca=cert) as link:
        link.on_message(box)
        await link.send("carol", "in private")
        assert (await box.next()).message == "in private"
    stranger = AgentLink(url, SECRETS["c"], "c", "carol")
    with pytest.raises(RelayUnreachable, match="certificate"):
        await stranger.connect()
    await stranger.disconnect()


async def test_it_goes_within_its_time_though_links_are_connected(
    start_relay: Start, flags: tuple[str, str], until: Callable[..., Any]
) -> None:
    relay = start_relay(*flags)
    async with AgentLink(relay.url, SECRETS["c"], "c", "carol", auto_reconnect=False) as link:
        relay.process.terminate()
        assert await asyncio.to_thread(relay.process.wait, 30) == 0
        await until(lambda: link.state == "disconnected")
        assert "1001" in (link.why or "")
        with pytest.raises(RelayUnreachable):
            await link.send("carol", "hello")
