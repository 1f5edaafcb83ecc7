"""Three relays over one Valkey behind nginx, as references/nodes.md configures them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from clawlink.doors.portal.client.portal import Portal
from clawlink.errors import NotActive
from tests.binaries import find
from tests.conftest import RelayProcess, Start
from tests.operations import NAME, Authority, replaced
from tests.proxy.conftest import TOKEN, free_port, nginx, running
from tests.test_nodes_doc import block
from tests.valkey import Server
from tests.waiting import wait_until
from tests.websockets import PATIENCE

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
    with running(command, port, tmp_path), Portal(f"https://127.0.0.1:{port}", key, ca=authority.ca) as own:
        assert own.ask("POST", "/api/contacts", {"portal_url": "https://b.example"}) == {"status": "created"}
        for relay in relays[:2]:
            (contact,) = own.contacts()
            assert contact["portal_url"] == "https://b.example"
            own.ask("POST", "/api/chat/owner/send", {"content": "hello"})
            relay.process.kill()
            relay.process.wait()
            wait_until(lambda: _is_there(own))
        lines = own.ask("GET", "/api/chat/owner/history")["messages"]
        assert [line["content"] for line in lines] == ["hello"] * 2


def _is_there(own: Portal) -> bool:
    try:
        own.contacts()
    except NotActive:
        return False
    return True


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
            (claimed,) = bob.poll(wait=PATIENCE)
            bob.ack([claimed.receipt])
            bob.respond(task.message_id, n)
            assert ann.wait_for(task.message_id, timeout=PATIENCE).result == n
            if n < 2:
                relays[n].process.kill()
                relays[n].process.wait()
