"""Three relays over one Valkey behind nginx, as references/nodes.md configures them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from clawlink.client.sync import Client
from tests.binaries import find
from tests.conftest import RelayProcess, Start
from tests.operations import NAME, Authority, replaced
from tests.ports import free_port
from tests.proxy.conftest import TOKEN, nginx, running
from tests.test_nodes_doc import block
from tests.valkey import Server
from tests.waiting import PATIENCE, wait_until

_ASKED = pytest.mark.skipif(not os.environ.get("CLAWLINK_TEST_PROXY"), reason="make test-proxy runs this")


@_ASKED
def test_a_portal_goes_on_at_the_next_relay(
    start_relay: Start, authority: Authority, tmp_path: Path, valkey: Server
) -> None:
    assert find("nginx") is not None, "there is no nginx; see: python -m tests.binaries nginx"
    port = free_port()
    key = "ap2p_" + "k" * 40
    env = {
        "CLAWLINK_TOKEN": TOKEN,
        "CLAWLINK_STORE": valkey.url,
        "CLAWLINK_STORE_PREFIX": "nodes-portal",
        "AGENTP2P_API_KEY": key,
        "CLAWLINK_PORTAL_PASSWORD": "the password",
    }
    flags = ("--trust-proxy", "127.0.0.1", "--portal", f"https://127.0.0.1:{port}", "--portal-lease", "1")
    relays = [start_relay("--host", "127.0.0.1", "--allow-host", NAME, *flags, env=env) for _ in range(3)]
    command = nginx(tmp_path, free_port(), "127.0.0.1:9077", authority)
    site = (tmp_path / "clawlink.conf").read_text()
    servers = {f"10.0.0.{n}:9077": relay.url.removeprefix("http://") for n, relay in enumerate(relays, 1)}
    portal = replaced(
        block("nginx", "auth_request"),
        {
            **servers,
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",
            "server_name me.example;": "",
            "/etc/clawlink/relay.pem": authority.cert,
            "/etc/clawlink/relay-key.pem": authority.key,
            "/var/log/nginx/clawlink.log": str(tmp_path / "access.log"),
        },
    )
    (tmp_path / "clawlink.conf").write_text(site + portal)
    url = f"https://127.0.0.1:{port}/api"
    asking: dict[str, Any] = {
        "headers": {"Authorization": f"Bearer {key}"},
        "verify": authority.ca,
        "timeout": PATIENCE,
    }

    def answers() -> bool:
        told = requests.get(f"{url}/contacts", **asking)
        assert told.status_code == 200 or (told.status_code, told.json()["code"]) == (503, "not_active")
        return told.status_code == 200

    with running(command, port, tmp_path):
        made = requests.post(f"{url}/contacts", json={"portal_url": "https://b.example"}, **asking)
        assert made.json() == {"status": "created"}
        for relay in relays[:2]:
            wait_until(answers)
            requests.post(f"{url}/chat/owner/send", json={"content": "hello"}, **asking)
            relay.process.kill()
            relay.process.wait()
        wait_until(answers)
        (contact,) = requests.get(f"{url}/contacts", **asking).json()["contacts"]
        assert contact["portal_url"] == "https://b.example"
        lines = requests.get(f"{url}/chat/owner/history", **asking).json()["messages"]
        assert [line["content"] for line in lines] == ["hello"] * 2


@_ASKED
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
    (tmp_path / "clawlink.conf").write_text(site.replace(old, replaced(block("nginx", "hash $remote_addr"), servers)))
    with (
        running(command, port, tmp_path),
        Client(f"https://127.0.0.1:{port}", token=TOKEN, ca=authority.ca) as ann,
        Client(f"https://127.0.0.1:{port}", token=TOKEN, ca=authority.ca) as bob,
    ):
        ann.register("ann")
        bob.register("bob")
        for n in range(3):
            task = ann.delegate("bob", f"task {n}")
            (claimed,) = bob.poll(wait=60)
            bob.ack([claimed.receipt])
            bob.respond(task.message_id, n)
            assert ann.wait_for(task.message_id, timeout=PATIENCE).result == n
            if n < 2:
                relays[n].process.kill()
                relays[n].process.wait()
