"""The operator removes agents, and nobody else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from clawlink.errors import NotAllowed, NotAuthenticated
from tests.conftest import RelayProcess, Start
from tests.ports import free_port
from tests.processes import run
from tests.waiting import PATIENCE


def asked(relay: RelayProcess, agent: str, **headers: str) -> int:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    ask = urllib.request.Request(relay.url + "/kick", json.dumps({"agent": agent}).encode(), told)
    try:
        with urllib.request.urlopen(ask, timeout=PATIENCE) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_on_loopback_without_token_whoever_is_here_is_the_operator(start_relay: Start) -> None:
    relay = start_relay()
    with Client(relay.url) as alice:
        alice.register("alice")
        refused = (
            {"Host": "192.168.1.5"},
            {"X_Forwarded_For": "10.0.0.1"},
            {"Forwarded": "for=10.0.0.1"},
            {"Via": "1.1 proxy"},
            {"Origin": relay.url, "Content_Type": "application/json"},
            {"Sec_Fetch_Site": "same-origin"},
        )
        for headers in refused:
            assert asked(relay, "alice", **headers) == 403, headers
        assert alice.heartbeat().status == "ok"
        assert asked(relay, "Alice") == 200
        assert alice.heartbeat().status == "unknown_agent"
        assert asked(relay, "alice") == 404
        with Client(relay.url) as other:  # the name is free at once
            other.register("alice")


@pytest.mark.parametrize("flags", [("--allow-host", "relay.example"), ("--trust-proxy", "127.0.0.1"), ("--token", "t")])
def test_what_lets_others_in_asks_for_the_admin_token(start_relay: Start, flags: tuple[str, str]) -> None:
    relay = start_relay(*flags, "--admin-token", "boss")
    token = "t" if "--token" in flags else None
    with Client(relay.url, token=token) as alice, Client(relay.url, token="boss") as boss:
        alice.register("alice")
        with pytest.raises(NotAllowed, match="only the relay's operator"):
            alice.kick("alice")
        assert boss.kick("alice").status == "kicked"
    if token is not None:
        with Client(relay.url) as nobody, pytest.raises(NotAuthenticated):
            nobody.kick("alice")


@pytest.mark.parametrize(("with_data", "chosen"), [(False, False), (True, True)])
def test_the_command_finds_the_admin_token_of_its_own_relay_alone(
    start_relay: Start, tmp_path: Path, *, with_data: bool, chosen: bool
) -> None:
    """``chosen``: the system chooses the port. The note of a relay that was killed there before does no harm."""
    port = "0" if chosen else str(free_port())
    data = tmp_path / "data"
    relay = start_relay("--token", "t", "--port", port, *(("--data", str(data)) if with_data else ()))
    port = relay.url.rpartition(":")[2]
    home = tmp_path / "relay-home"
    noted = home / "relays" / port
    assert ((data if with_data else noted) / "admin-token").is_file()
    if with_data:  # the home folder has the place of the secrets, and none of them
        assert [path.name for path in noted.iterdir()] == ["data-folder"]
        assert os.name == "nt" or (noted / "data-folder").stat().st_mode & 0o777 == 0o600
    else:
        dead = tmp_path / "dead"
        dead.mkdir()
        for name in ("admin-token", "secret"):
            (dead / name).write_text("of-the-dead-relay")
        (noted / "data-folder").write_bytes(os.fsencode(dead))

    def kick(url: str, home: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clawlink", "--relay", url, "--token", "t", "kick", "alice"]
        environ = {**os.environ, "CLAWLINK_HOME": str(home)}
        done: subprocess.CompletedProcess[str] = run(command, env=environ, text=True, timeout=PATIENCE)
        return done

    with Client(relay.url, token="t") as alice:
        alice.register("alice")
        stranger = kick(relay.url, tmp_path)
        assert (stranger.returncode, "only the relay's operator" in stranger.stderr) == (4, True), stranger
        done = kick(relay.url, home)
        assert "the name is free" in done.stdout, done
        assert alice.heartbeat().status == "unknown_agent"
