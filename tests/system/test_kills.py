"""A relay with ``--data`` is killed again and again while agents work: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import RelayProcess, Start
from tests.effort import size
from tests.system.mesh import Mesh

FLAGS = ("--rate-agent", "0", "--rate-pair", "0", "--rate-register", "0", "--log-level", "error")


@pytest.mark.storm
async def test_no_message_is_lost_or_doubled_over_kills(start_relay: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    relays: list[RelayProcess] = [start_relay("--data", str(folder), *FLAGS)]
    port = str(urlsplit(relays[0].url).port)
    mesh = Mesh(relays[0].url, seed=20261129)

    async def restart() -> None:
        relays[-1].process.kill()
        relays[-1].process.wait()
        relays.append(await asyncio.to_thread(start_relay, "--data", str(folder), "--port", port, *FLAGS))

    try:
        await mesh.register()
        await mesh.run(restart, kills=size(12, 50, 500))
        await mesh.account()
    finally:
        await mesh.close()
