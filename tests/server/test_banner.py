"""The lines that a relay prints as it starts."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from clawlink import lan
from clawlink.config import ServerConfig
from clawlink.lan import reachable_at
from clawlink.server.banner import banner


def joining(lines: list[str]) -> list[str]:
    """Return the command in the second line."""
    return shlex.split(lines[1].partition(":  ")[2])


def test_on_loopback_with_the_default_port_the_join_command_needs_no_address() -> None:
    lines = banner(ServerConfig(), 9077)
    assert lines[0].endswith("is listening on http://127.0.0.1:9077")
    assert joining(lines) == ["clawlink", "register", "--name", "YOUR-NAME"]
    assert "on this machine" in lines[1]
    assert len(lines) == 2


def test_another_port_is_named() -> None:
    assert joining(banner(ServerConfig(), 1234))[:3] == ["clawlink", "--relay", "http://127.0.0.1:1234"]


def test_for_other_machines_address_and_token_are_filled_in() -> None:
    lines = banner(ServerConfig(host="192.168.1.5", token="t$ '\""), 9077)
    told = ["clawlink", "--relay", "http://192.168.1.5:9077", "--token", "t$ '\"", "register", "--name", "YOUR-NAME"]
    assert joining(lines) == told
    assert "from another machine" in lines[1]


def test_the_readme_shows_the_lines_of_a_relay_for_other_machines() -> None:
    config = ServerConfig(host="192.168.1.5", token="2Yp...", kept=Path("/home/you/.clawlink/relays/9077"))
    shown = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    lines = [line.replace(os.sep, "/") for line in banner(config, 9077)]
    assert f"```\n{chr(10).join(lines)}\n```\n" in shown


def test_a_relay_says_where_its_token_is_and_the_flag_for_another_or_none() -> None:
    place = Path("/data/token")
    for config, told in (
        (ServerConfig(host="192.168.1.5", token="t", kept=place.parent), "; --new-token makes another."),
        (ServerConfig(token="t", kept=place.parent), "; --no-auth asks for none."),
        (ServerConfig(token="t", kept=place.parent, public=True), "."),
    ):
        assert f"The token is kept in {place}{told}" in banner(config, 9077)


def test_listening_everywhere_names_an_address_that_others_can_use() -> None:
    for host in ("0.0.0.0", "::"):
        url = joining(banner(ServerConfig(host=host, token="t"), 9077))[2]
        try:
            there = reachable_at(host)
        except OSError:  # this machine has no such address
            there = socket.gethostname()
        assert url == f"http://{f'[{there}]' if ':' in there else there}:9077"
        assert "0.0.0.0" not in url


def test_an_address_of_ip_version_6_is_put_in_brackets() -> None:
    assert joining(banner(ServerConfig(host="fe80::1", token="t"), 80))[2] == "http://[fe80::1]:80"


def test_tls_is_named() -> None:
    told = joining(banner(ServerConfig(tls_cert="c", tls_key="k"), 9077))
    assert told[2:5] == ["https://127.0.0.1:9077", "--ca", "FILE"]


def test_an_open_relay_warns() -> None:
    lines = banner(ServerConfig(host="192.168.1.5", no_auth=True), 9077)
    assert lines[2].startswith("Warning: No token is asked for")
    for closed in (ServerConfig(), ServerConfig(no_auth=True), ServerConfig(host="192.168.1.5", token="t")):
        assert "No token" not in "".join(banner(closed, 9077)), closed


def test_plain_http_and_missing_agent_keys_are_told_beyond_loopback_alone() -> None:
    here, beyond = ServerConfig(token="t"), ServerConfig(host="192.168.1.5", token="t")
    cases = [
        (here, False, False),
        (beyond, True, True),
        (replace(beyond, tls_cert="c", tls_key="k"), False, True),
        (replace(beyond, trust_proxies=("10.0.0.1",)), False, True),
        (replace(beyond, require_agent_keys=True), True, False),
    ]
    for config, plain, keys in cases:
        lines = banner(config, 9077)
        assert any(line.startswith("Warning: Plain HTTP") for line in lines) is plain, config
        assert any("--require-agent-keys" in line for line in lines) is keys, config


def test_without_a_way_out_every_address_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["10.1.2.3", "192.168.7.8", "127.0.0.1", "fe80::1", "fd00::2"]
    adapters = [SimpleNamespace(ips=[SimpleNamespace(ip=(ip, 0, 0) if ":" in ip else ip)]) for ip in own]
    infos = [(None, None, None, "", (ip, 0)) for ip in own]
    monkeypatch.setattr(lan, "way_out", lambda family: None)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: infos)
    for ifaddr in (SimpleNamespace(get_adapters=lambda: adapters), None):  # None: it is not installed
        monkeypatch.setitem(sys.modules, "ifaddr", ifaddr)
        lines = banner(ServerConfig(host="0.0.0.0", token="t", tls_cert="c"), 9077)
        assert joining(lines)[2] == "https://10.1.2.3:9077", ifaddr
        assert lines[2].endswith("other addresses: https://192.168.7.8:9077"), ifaddr
        assert "http://" not in "".join(lines), ifaddr
        assert joining(banner(ServerConfig(host="::", token="t"), 9077))[2] == "http://[fd00::2]:9077", ifaddr
