"""A relay that comes back is the same relay: token, id and agents' keys last, and an agent knows it again elsewhere."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import stat
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.proof import is_same_relay
from clawlink.client.sync import Client
from clawlink.errors import BadRequest, NotAllowed, NotARelay, NotAuthenticated, RelayUnreachable
from clawlink.protocol.proof import is_proven, key_id, place, prove, relay_id, relay_key
from tests.conftest import RelayProcess, Start
from tests.ports import free_port
from tests.waiting import PATIENCE


def asked(url: str, body: object | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=PATIENCE) as reply:
        return json.loads(reply.read())


@pytest.fixture
def false_relay() -> Iterator[Any]:
    """Make a false relay that passes on all that it is asked to the true one: ``false_relay(url) -> (url, seen)``."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(true: str) -> tuple[str, list[str]]:
        seen: list[str] = []

        class PassOn(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen.append(f"{self.headers}{body!r}")
                ask = urllib.request.Request(true + self.path, body, {"Host": self.headers["Host"]})
                with urllib.request.urlopen(ask, timeout=PATIENCE) as reply:
                    told = reply.read()
                self.send_response(200)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            def log_message(self, *_: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PassOn)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_token_id_and_keys_last_over_a_restart(start_relay: Start) -> None:
    port = str(free_port())

    def serve() -> RelayProcess:
        return start_relay("--host", "0.0.0.0", "--port", port, "--no-mdns")

    relay = serve()
    token = relay.banner.split("--token ")[1].split()[0]
    here = f"http://127.0.0.1:{port}"
    name = asked(here + "/healthz")["relay_id"]
    with Client(here, token=token) as client:
        client.register("alice")
        key, known_by, me = client.agent_key, client.relay_key, client.agent_id
        assert key is not None
        assert known_by is not None
        relay.stop()
        relay = serve()
        assert f"--token {token} " in relay.banner
        assert asked(here + "/healthz")["relay_id"] == name
        client.register("alice")  # the relay has forgotten the agent, and takes its key
        assert (client.agent_id, client.agent_key, client.relay_key) == (me, key, known_by)
        assert client.heartbeat().status == "ok"
        with Client(here, token=token, agent_id=me, agent_key="x" * 43) as thief, pytest.raises(NotAllowed):
            thief.heartbeat()
    assert is_same_relay(f"http://localhost:{port}", agent_key=key, relay_key=known_by)
    relay.stop()
    relay = start_relay("--host", "0.0.0.0", "--port", port, "--no-mdns", "--new-token")
    assert token not in relay.banner
    assert asked(here + "/healthz")["relay_id"] == name
    assert is_same_relay(here, agent_key=key, relay_key=known_by)


def test_a_relay_that_is_started_as_an_error_advises_asks_for_its_token(
    start_relay: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWLINK_HOME", str(tmp_path))
    serve = ("--port", str(free_port()), "--data", str(tmp_path / "data"))
    relay = start_relay(*serve, "--token", "secret words")
    with Client(relay.url, token="secret words", timeout=PATIENCE) as client:
        client.register("alice")
        relay.process.kill()
        relay.process.wait(PATIENCE)
        with pytest.raises(RelayUnreachable) as down:
            client.discover()
        assert down.value.message.endswith(f"there: clawlink serve {shlex.join(serve)}")
        again = start_relay(*serve)
        assert "--token 'secret words'" in again.banner
        assert [agent.name for agent in client.discover().agents] == ["alice"]
    with Client(relay.url) as stranger, pytest.raises(NotAuthenticated):
        stranger.discover()


def test_another_relay_proves_nothing_nor_does_it_by_asking_the_true_one(start_relay: Start, false_relay: Any) -> None:
    true, other = start_relay(), start_relay()
    with Client(true.url, timeout=30) as client:
        client.register("alice")
        key, known_by = client.agent_key, client.relay_key
    assert key is not None
    assert known_by is not None
    assert is_same_relay(true.url, agent_key=key, relay_key=known_by)
    assert not is_same_relay(other.url, agent_key=key, relay_key=known_by)
    false, seen = false_relay(true.url)
    assert not is_same_relay(false, agent_key=key, relay_key=known_by)
    assert len(seen) == 1
    assert key not in seen[0]
    assert known_by not in seen[0]
    with Client(true.url) as stranger:  # it may take the id, but gets the key that goes with its own
        stranger.register("bob")
        assert stranger.relay_key not in (None, known_by)


def test_what_is_no_relay_is_told_apart(start_relay: Start) -> None:
    for url, error in (
        (f"http://127.0.0.1:{free_port()}", RelayUnreachable),
        (start_relay().url.replace("http:", "https:"), NotARelay),
    ):
        with pytest.raises(error):
            is_same_relay(url, agent_key="k" * 43, relay_key="r" * 64)


def test_a_proof_is_for_one_nonce_one_place_and_one_key() -> None:
    secret = b"s" * 32
    mine = relay_key(secret, key_id("my agent key"))
    told = ("nonce", "10.0.0.1:9077", "relay.example")
    proof = prove(mine, *told)
    assert is_proven(proof, mine, *told)
    for other in (("nonc", "e10.0.0.1:9077", told[2]), ("nonce", "10.0.0.2:9077", told[2]), (*told[:2], "")):
        assert not is_proven(proof, mine, *other), other
    assert not is_proven(proof, relay_key(secret, key_id("another")), *told)
    assert not is_proven(proof, relay_key(b"t" * 32, key_id("my agent key")), *told)
    assert not is_proven("☃", mine, *told)
    assert relay_id(secret) != relay_id(b"t" * 32)
    same = {"10.0.0.1:80": ("10.0.0.1", "::ffff:10.0.0.1"), "[fe80::1]:80": ("fe80::1%eth0", "FE80:0::1")}
    for written, hosts in same.items():
        assert {place(host, 80) for host in hosts} == {written}


def test_a_key_that_can_be_guessed_is_not_taken(start_relay: Start) -> None:
    relay = start_relay()
    for key in ("short", "x" * 257):
        with Client(relay.url, agent_key=key) as client, pytest.raises(BadRequest, match="32 to 256 characters"):
            client.register("alice")


def test_behind_a_proxy_the_proof_is_for_the_name_that_the_operator_gave(start_relay: Start) -> None:
    relay = start_relay("--allow-host", "relay.example")
    with Client(relay.url) as client:
        client.register("alice")
        assert client.agent_key is not None
        ask = {"key_id": key_id(client.agent_key), "nonce": "n" * 32}
    for host, known in (("relay.example", "relay.example"), ("RELAY.example:9077", "relay.example"), ("localhost", "")):
        request = urllib.request.Request(relay.url + "/challenge", json.dumps(ask).encode(), {"Host": host})
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            assert json.loads(reply.read())["name"] == known, host


def test_with_a_folder_the_token_is_kept_there_and_lasts_over_a_kill(start_relay: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    blocked = tmp_path / "no home"
    blocked.touch()
    tokens = []
    for _ in range(2):
        home = {"CLAWLINK_HOME": str(blocked)}
        relay = start_relay("--host", "0.0.0.0", "--no-mdns", "--data", str(folder), env=home)
        token = (folder / "token").read_text().strip()
        assert len(token) >= 32
        assert f"--token {token}" in relay.banner
        assert relay.process.stdout is not None
        assert f"The token is kept in {folder / 'token'}" in relay.process.stdout.readline()
        if os.name == "posix":
            assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
        here = "http://127.0.0.1:" + relay.url.rpartition(":")[2]
        with Client(here, token=token) as client:
            client.info()
        with Client(here, token=f"{token}x") as client, pytest.raises(NotAuthenticated):
            client.info()
        tokens.append(token)
        relay.process.kill()
        relay.process.wait()
    assert tokens[0] == tokens[1]


def test_secrets_lie_where_the_banner_says(start_relay: Start, tmp_path: Path) -> None:
    port = str(free_port())
    relay = start_relay("--host", "0.0.0.0", "--port", port, "--no-mdns")
    assert relay.process.stdout is not None
    said = relay.process.stdout.readline()
    kept = tmp_path / "relay-home" / "relays" / port / "token"
    assert f"The token is kept in {kept}" in said
    assert kept.read_text().strip() in relay.banner
