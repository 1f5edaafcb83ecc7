"""Three relays over one Valkey behind nginx, as references/nodes.md configures them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from tests.binaries import find
from tests.conftest import RelayProcess, Start
from tests.operations import NAME, Authority, replaced
from tests.proxy.conftest import TOKEN, free_port, nginx, running
from tests.test_nodes_doc import block
from tests.valkey import Server
from tests.websockets import PATIENCE


@pytest.mark.skipif(not os.environ.get("CLAWLINK_TEST_PROXY"), reason="make test-proxy runs this")
def test_clients_go_on_while_two_of_three_relays_are_killed(
    start_relay: Start, authority: Authority, tmp_path: Path, valkey: Server
) -> None:
    assert find("nginx") is not None, "there is no nginx; see: python -m tests.binaries nginx"
    env = {"CLAWLINK_TOKEN": TOKEN, "CLAWLINK_STORE": valkey.url, "CLAWLINK_STORE_PREFIX": "nodes"}
    relays: list[RelayProcess] = [
        start_relay("--host", "127.0.0.1", "--allow-host", NAME, "--trust-proxy", "127.0.0.1", env=env)
        for _ in range(3)
    ]
    port = free_port()
    command = nginx(tmp_path, port, "127.0.0.1:9077", authority)
    site = (tmp_path / "clawlink.conf").read_text()
    servers = {f"10.0.0.{n}:9077": relay.url.removeprefix("http://") for n, relay in enumerate(relays, 1)}
    (old,) = re.findall(r"^upstream clawlink \{.*?^\}\n", site, re.DOTALL | re.MULTILINE)
    (tmp_path / "clawlink.conf").write_text(site.replace(old, replaced(block("nginx"), servers)))
    with (
        running(command, port, tmp_path),
        Client(f"https://127.0.0.1:{port}", token=TOKEN, ca=authority.ca) as ann,
        Client(f"https://127.0.0.1:{port}", token=TOKEN, ca=authority.ca) as bob,
    ):
        ann.register("ann")
        bob.register("bob")
        for n in range(3):
            task = ann.delegate("bob", f"task {n}")
            (claimed,) = bob.poll(wait=PATIENCE)
            bob.ack([claimed.receipt])
            bob.respond(task.message_id, n)
            assert ann.wait_for(task.message_id, timeout=PATIENCE).result == n
            if n < 2:
                relays[n].process.kill()
                relays[n].process.wait()
