"""A portal behind nginx, as ``clawlink portal setup`` configures it. Run by ``make test-proxy``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import requests

from clawlink.doors.portal.cli import setup
from tests.binaries import find
from tests.conftest import Start
from tests.operations import Authority, replaced
from tests.ports import free_port
from tests.proxy.conftest import TOKEN, authority, nginx, running
from tests.waiting import PATIENCE

__all__ = ["authority"]


@pytest.mark.skipif(not os.environ.get("CLAWLINK_TEST_PROXY"), reason="make test-proxy runs this")
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_portal_that_the_command_set_up_takes_large_bodies(
    start_relay: Start, authority: Authority, tmp_path: Path, slash: str
) -> None:
    assert find("nginx") is not None, "there is no nginx; see: python -m tests.binaries nginx"
    port, key = free_port(), "ap2p_" + "k" * 40
    env = {"CLAWLINK_TOKEN": TOKEN, "AGENTP2P_API_KEY": key, "CLAWLINK_PORTAL_PASSWORD": "the password"}
    own = f"https://127.0.0.1:{port}"
    data = ("--data", str(tmp_path / "data"))
    relay = start_relay("--host", "127.0.0.1", "--portal", own, "--trust-proxy", "127.0.0.1", *data, env=env)
    command = nginx(tmp_path, free_port(), "127.0.0.1:9077", authority)
    made = setup.files("me.example.org", "nginx", setup.first_keys(), port=9077)[0].text
    places = {
        "127.0.0.1:9077": relay.url.removeprefix("http://"),
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "/etc/letsencrypt/live/me.example.org/fullchain.pem": authority.cert,
        "/etc/letsencrypt/live/me.example.org/privkey.pem": authority.key,
        "/var/log/nginx/clawlink_portal.log": str(tmp_path / "access.log"),
    }
    (tmp_path / "clawlink.conf").write_text(replaced(made, places))
    large = os.urandom(5_000_000)
    with running(command, port, tmp_path):

        def ask(method: str, path: str, **options: Any) -> requests.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return requests.request(
                method, own + path, headers=headers, verify=authority.ca, timeout=PATIENCE, **options
            )

        api = f"{slash}/api"
        assert ask("POST", f"{api}/contacts", json={"portal_url": "https://b.example"}).status_code == 200
        kept = ask("POST", f"{api}/chat/owner/upload", files={"file": ("a", large)}).json()
        assert ask("GET", kept["url"]).content == large
        begun = ask(
            "POST", f"{api}/portal/files", json={"to": "https://b.example", "filename": "a", "size": len(large)}
        ).json()
        part = ask("PUT", f"{api}/portal/files/{begun['file_id']}/0", data=large)
        assert part.status_code == 200, part.text
        # Only a session of the page may bring a database: the refusal is the portal's own.
        brought = ask("PUT", f"{api}/portal/import", data=large)
        assert (brought.status_code, "detail" in brought.json()) == (403, True)
